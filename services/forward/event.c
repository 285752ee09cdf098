/* Names and values of CloudEvents 1.0 with its partitioning extension (github.com/cloudevents/spec). */
#include "forward/event.h"

#include "base/clock.h"

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
