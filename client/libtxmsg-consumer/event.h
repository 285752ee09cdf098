/* What the files of libtxmsg-consumer share. */
#pragma once

#include "base/bytes.h"
#include "base/uuid.h"

#include "txmsg/consumer.h"

/* Attributes by their place; `attributes` has their names. */
enum attribute {
    A_SPECVERSION,
    A_ID,
    A_SOURCE,
    A_TYPE,
    A_TIME,
    A_SUBJECT,
    A_KEY,
    A_CONTENT_TYPE,
    A_TRACEPARENT,
    A_TRACESTATE,
    ATTRIBUTES,
};
extern const char *const attributes[ATTRIBUTES];

struct txmsg_event {
    struct buf value[ATTRIBUTES];
    bool has[ATTRIBUTES];
    struct buf body;
    char transaction_id[UUID_TEXT];
    unsigned n;
    int attempt;
};

enum { EVENT_MAX = 64 << 20 }; /* an attribute or a body is never longer */

/* The attribute of this name, ATTRIBUTES if it is none of ours. */
enum attribute attribute_of(struct bytes name);
/* The buffer of an attribute that is said for the first time. TXMSG_BAD_EVENT: for the second. */
int event_claim(struct txmsg_event *ev, enum attribute a, struct buf **ret, struct txmsg_why *why) MUSTCHECK;
/* Puts text into *why (NULL allowed), returns `code`. */
int why_set(struct txmsg_why *why, int code, const char *fmt, ...) PRINTF_LIKE(3, 4);
/* The status of a negative errno value. */
int status_of(int code);

/* CloudEvents' JSON form, into the attributes and the body. */
int event_read_structured(struct txmsg_event *ev, struct bytes text, struct txmsg_why *why) MUSTCHECK;

/* The one header of this name (any case). 1: it is there; 0: it is not; TXMSG_BAD_EVENT: twice. */
int header_one(const struct txmsg_header *headers, size_t n, const char *name, struct bytes *ret) MUSTCHECK;
