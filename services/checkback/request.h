/* What asks a producer about a transaction: over HTTP JSON and Standard Webhooks headers, else a message. Pure. */
#pragma once

#include "base/arena.h"
#include "core/tx.h"

#include "txmsg/v1/check_service.pb-c.h"

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
 * A message whose body is to come has "bodyLater":true. businessKey and key are "" where there is none. A key or body that is not UTF-8 text comes as "keyBase64" or
 * "bodyBase64" instead. The buffer's error.
 */
int request_body(struct buf *out, const struct question *q) MUSTCHECK;

/* The message; it points into the question, its content among that. NULL = out of memory. */
Txmsg__V1__CheckRequest *request_message(struct arena *a, const struct question *q) MUSTCHECK;

struct request_headers {
    char lines[4][160];
    const char *list[5]; /* for struct web_request; NULL-ended */
};
/* Content-Type, webhook-id (the transaction), webhook-timestamp, and a signature unless `secret` is "". -EINVAL: not a
 * secret. */
int request_headers(struct request_headers *h, const char *secret, const struct uuid *tx, int64_t now_s,
                    struct bytes body) MUSTCHECK;
