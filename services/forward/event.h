/*
 * A message as a CloudEvent (version 1.0): the attributes that every protocol carries in its own headers.
 * Nothing in it differs between two attempts of one message, but the attempt's number. @thread any
 */
#pragma once

#include "forward/sink.h"

enum { EVENT_SOURCE_MAX = sizeof("/txmsg/producers/") + LIMIT_NAME + 1 };

struct event {
    char id[MESSAGE_ID_TEXT];
    char source[EVENT_SOURCE_MAX];
    char time[32];  /* RFC 3339: the id's own time, because a confirm time is not at hand at every attempt */
    int64_t time_s; /* the same since 1970 */
    struct bytes type, subject, partitionkey; /* views into the content; n = 0: absent */
    struct bytes traceparent, tracestate;
};
void event_of(const struct delivery *d, struct event *ret);

/* Each attribute that is there, by its name without prefix ("id"); specversion included, trace context not. */
void event_each(const struct event *ev, void (*fn)(void *arg, const char *name, struct bytes value), void *arg);

/*
 * The whole event in JSON, CloudEvents' structured mode: the body as it is when its content type is JSON and it parses, as a string when
 * it is text in UTF-8, else in base64. Fails in the buffer.
 */
enum { EVENT_BODY_MAX = 32 << 20 };
void event_put_structured(struct buf *out, const struct event *ev, const struct msg *m);

/* A header value of the HTTP binding: everything but printable ASCII, and space, '"' and '%', percent-encoded. */
void event_put_percent(struct buf *out, struct bytes value);
