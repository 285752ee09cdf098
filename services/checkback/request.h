/* The HTTP request that asks a producer about a transaction: JSON body and Standard Webhooks headers. Pure. */
#pragma once

#include "core/tx.h"

struct question {
    const struct uuid *tx;
    const char *producer;
    const char *business_key;         /* NULL = none */
    int64_t prepared_us;              /* microseconds since 1970 */
    int32_t check_count;              /* which check this is, from 1 */
    const struct tx_content *content; /* the messages */
    bool include_body;
};
/*
 * Appends
 * {"transactionId","producer","businessKey","preparedTime","checkCount","messages":[{"topic","key","headers","body"}]}.
 * businessKey and key are "" where there is none. A key or body that is not UTF-8 text comes as "keyBase64" or
 * "bodyBase64" instead. The buffer's error.
 */
int request_body(struct buf *out, const struct question *q) MUSTCHECK;

struct request_headers {
    char lines[4][160];
    const char *list[5]; /* for struct web_request; NULL-ended */
};
/* Content-Type, webhook-id (the transaction), webhook-timestamp, and a signature unless `secret` is "". -EINVAL: not a
 * secret. */
int request_headers(struct request_headers *h, const char *secret, const struct uuid *tx, int64_t now_s,
                    struct bytes body) MUSTCHECK;
