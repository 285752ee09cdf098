/* What a response of a check endpoint means. Pure. */
#pragma once

#include "core/tx.h"
#include "webclient/webclient.h"

#include "txmsg/v1/check_service.pb-c.h"

enum answer_verdict {
    ANSWER_UNREACHABLE, /* not an answer: never counts, never decides */
    ANSWER_UNKNOWN,
    ANSWER_COMMITTED,
    ANSWER_ROLLED_BACK,
};
enum { ANSWER_VERDICTS = 4 };

struct answer {
    enum answer_verdict verdict;
    int64_t again_at_us;      /* UNKNOWN: when to ask again, microseconds since 1970; 0 = not said */
    int64_t again_after_ms;   /* UNKNOWN: in how long; -1 = not said. At most one of the two is */
    struct tx_bodies *bodies; /* COMMITTED: as given, NULL = none; whoever takes the answer frees them */
    char why[160];            /* UNREACHABLE: for people, else "" */
};
void answer_end(struct answer *a); /* frees the bodies, if they are still here */
/* It is no answer after all; ends it. */
void answer_refuse(struct answer *a, const char *fmt, ...) PRINTF_LIKE(2, 3);

/*
 * An answer is HTTP 200 with a JSON object whose transactionId is `tx` and whose decision is one of the three words. Whether
 * the bodies are those that were asked for is left to who knows it.
 */
void answer_read(const struct web_response *resp, const struct uuid *tx, struct answer *ret);
/* The same for the message of a gRPC check or of pull mode; NULL = no answer. */
void answer_message(const Txmsg__V1__CheckResponse *m, const struct uuid *tx, struct answer *ret);
/* "committed", "rolled_back", "unknown", "unreachable" */
const char *answer_name(enum answer_verdict v);
