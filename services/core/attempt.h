/* What came of one attempt to deliver a message, as it is recorded for people. Pure; @thread any */
#pragma once

#include "base/bytes.h"

/* The names are stored and sent: never change them. */
enum attempt_class {
    ATTEMPT_UNSAID, /* not said: the verdict decides */
    ATTEMPT_OK,
    ATTEMPT_TIMEOUT,     /* no answer in time */
    ATTEMPT_UNREACHABLE, /* name, connect, TLS: nothing was sent */
    ATTEMPT_BROKEN,      /* the connection ended, or the answer could not be read */
    ATTEMPT_STATUS_3XX,
    ATTEMPT_STATUS_4XX,
    ATTEMPT_STATUS_5XX,
    ATTEMPT_NOT_ACKNOWLEDGED, /* 2xx without the acknowledgement that was declared */
    ATTEMPT_NACKED,           /* the consumer or broker asked for another attempt */
    ATTEMPT_PERMANENT,        /* refused for good */
    ATTEMPT_UNROUTABLE,       /* the broker had no queue for it */
    ATTEMPT_EXPIRED,
    ATTEMPT_OTHER,
    ATTEMPT_CLASSES
};
const char *attempt_class_name(enum attempt_class c);   /* "ok", "status_5xx"; "" when unsaid */
enum attempt_class attempt_class_of(const char *name);  /* ATTEMPT_UNSAID: there is no such class */
enum attempt_class attempt_class_of_status(int status); /* of HTTP */

enum { ATTEMPT_RESPONSE_MAX = 512 };
struct attempt_end {
    enum attempt_class class;
    int32_t status;     /* of the answer; 0 = none */
    int32_t latency_ms; /* 0 = not measured, or less */
    char *response;     /* how the answer began; NULL = none */
};
/* Keeps the beginning of an answer as one line of valid text, in place of the one before. Without memory: none. */
void attempt_keep_response(struct attempt_end *e, struct bytes answer);
void attempt_end_reset(struct attempt_end *e); /* frees the response */
