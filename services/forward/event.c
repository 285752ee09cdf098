/* Names and values of CloudEvents 1.0 with its partitioning extension (github.com/cloudevents/spec). */
#include "forward/event.h"

#include "base/clock.h"
#include "base/crypto.h"
#include "base/json.h"

#include <strings.h>

void event_of(const struct delivery *d, struct event *ret) {
    const struct tx_content *c = d->content;
    const struct msg *m = &c->messages[d->n];
    int64_t ms = uuid_v7_ms(&c->id);

    *ret = (struct event){.type = m->topic, .subject = c->business_key, .partitionkey = m->key, .time_s = ms / 1000};
    delivery_message_id(d, '.', ret->id);
    snprintf(ret->source, sizeof(ret->source), "/txmsg/producers/%.*s", (int)MIN(c->producer.n, (size_t)LIMIT_NAME),
             c->producer.n ? (const char *)c->producer.p : "");
    clock_format(ms * 1000, ret->time);
    ret->traceparent = c->trace;
    const uint8_t *nl = c->trace.n ? memchr(c->trace.p, '\n', c->trace.n) : NULL;
    if (nl) {
        ret->traceparent.n = (size_t)(nl - c->trace.p);
        ret->tracestate = (struct bytes){nl + 1, c->trace.n - ret->traceparent.n - 1};
    }
}

void event_each(const struct event *ev, void (*fn)(void *arg, const char *name, struct bytes value), void *arg) {
    fn(arg, "specversion", BYTES_LIT("1.0"));
    fn(arg, "id", bytes_str(ev->id));
    fn(arg, "source", bytes_str(ev->source));
    fn(arg, "type", ev->type);
    fn(arg, "time", bytes_str(ev->time));
    if (ev->subject.n)
        fn(arg, "subject", ev->subject);
    if (ev->partitionkey.n)
        fn(arg, "partitionkey", ev->partitionkey);
}

void event_put_percent(struct buf *out, struct bytes value) {
    for (size_t i = 0; i < value.n; i++) {
        uint8_t c = value.p[i];
        if (c > 0x20 && c < 0x7f && c != '"' && c != '%')
            buf_put_char(out, (char)c);
        else
            buf_printf(out, "%%%02X", c);
    }
}

/* --- structured mode --- */

/* A key may be any bytes, a JSON string may not. */
static void put_text(struct buf *out, struct bytes value) {
    if (text_valid(value)) {
        json_put_string(out, value);
        return;
    }
    buf_put_char(out, '"');
    event_put_percent(out, value);
    buf_put_char(out, '"');
}

static void put_member(void *arg, const char *name, struct bytes value) {
    struct buf *out = arg;

    buf_printf(out, "\"%s\":", name);
    put_text(out, value);
    buf_put_char(out, ',');
}

/* "application/json", "application/vnd.x+json; charset=utf-8" */
static bool type_is_json(struct bytes type) {
    const uint8_t *end = type.n ? memchr(type.p, ';', type.n) : NULL;
    size_t n = end ? (size_t)(end - type.p) : type.n;

    while (n && type.p[n - 1] == ' ')
        n--;
    return n >= 5 && strncasecmp((const char *)type.p + n - 4, "json", 4) == 0 &&
           (type.p[n - 5] == '/' || type.p[n - 5] == '+');
}

static bool type_is_text(struct bytes type) {
    return type.n > 5 && strncasecmp((const char *)type.p, "text/", 5) == 0;
}

static void put_data(struct buf *out, const struct msg *m) {
    bool says_json = type_is_json(m->content_type);
    CLEANUP_JSON json_t *j = says_json ? json_parse(m->body, NULL) : NULL;

    if (says_json && !j && errno == ENOMEM) { /* not the other form: the bytes of a message never change */
        out->error = -ENOMEM;
    } else if (j) {
        buf_put_str(out, "\"data\":");
        buf_put_bytes(out, m->body);
    } else if (type_is_text(m->content_type) && text_valid(m->body)) {
        buf_put_str(out, "\"data\":");
        json_put_string(out, m->body);
    } else {
        buf_put_str(out, "\"data_base64\":\"");
        base64_put(out, m->body);
        buf_put_char(out, '"');
    }
}

void event_put_structured(struct buf *out, const struct event *ev, const struct msg *m) {
    struct bytes type = m->content_type.n ? m->content_type : BYTES_LIT("application/octet-stream");

    buf_put_char(out, '{');
    event_each(ev, put_member, out);
    if (ev->traceparent.n)
        put_member(out, "traceparent", ev->traceparent);
    if (ev->tracestate.n)
        put_member(out, "tracestate", ev->tracestate);
    put_member(out, "datacontenttype", type);
    put_data(out, m);
    buf_put_char(out, '}');
}
