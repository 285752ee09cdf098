/* The bounds of what a caller may send. Filled from the configuration once, read by every thread. */
#pragma once

#include "base/err.h"

enum {
    LIMIT_MESSAGES_HARD = 128, /* a position packs n into 7 bits; the configured limit never exceeds it */
    LIMIT_BATCH_OPERATIONS = 1000,
    LIMIT_NAME = 128,         /* topic, producer, subscription */
    LIMIT_BUSINESS_KEY = 255, /* bytes */
    LIMIT_KEY = 255,
    LIMIT_HEADER_NAME = 128,
    LIMIT_CONTENT_TYPE = 255,
    LIMIT_REASON = 1024,
    LIMIT_TRACE = 1024, /* traceparent and tracestate together */
};

struct limits {
    int64_t body_bytes;         /* one body; default 1 MiB */
    int64_t messages;           /* of one transaction; default 64 */
    int64_t transaction_bytes;  /* all bodies, headers and keys of one transaction; default 4 MiB */
    int64_t headers;            /* of one message; default 64 */
    int64_t header_bytes;       /* names and values of one message; default 16 KiB */
    int64_t id_past_ms;         /* how far an id's time may lie behind the database clock; default 24 h */
    int64_t id_future_ms;       /* ... ahead; default 5 min */
    int64_t check_after_max_ms; /* default 24 h */
    int64_t deliver_ahead_ms;   /* how far deliver_at may lie ahead of the id's time: the retention; default 7 d */
};
void limits_default(struct limits *l);
