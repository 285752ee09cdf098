#include "encode.h"

enum { VARINT = 0, BYTES = 2 };

const char *op_path(enum op_kind kind) {
    static const char *const paths[] = {
        [OP_PREPARE] = "/txmsg.v1.MessageService/Prepare",    [OP_CONFIRM] = "/txmsg.v1.MessageService/Confirm",
        [OP_CANCEL] = "/txmsg.v1.MessageService/Cancel",      [OP_PUBLISH] = "/txmsg.v1.MessageService/Publish",
        [OP_GET] = "/txmsg.v1.MessageService/GetTransaction",
    };
    return paths[kind];
}

static size_t varint_size(uint64_t v) {
    return ((size_t)(63 - __builtin_clzll(v | 1)) * 9 + 73) / 64;
}

static uint8_t *put_varint(uint8_t *p, uint64_t v) {
    for (; v >= 0x80; v >>= 7)
        *p++ = (uint8_t)(v | 0x80);
    *p++ = (uint8_t)v;
    return p;
}

/* All field numbers are below 16: a key is one byte. */
static uint8_t *put_key(uint8_t *p, unsigned field, unsigned type) {
    *p++ = (uint8_t)(field << 3 | type);
    return p;
}

static uint8_t *put_head(uint8_t *p, unsigned field, size_t n) {
    return put_varint(put_key(p, field, BYTES), n);
}

static size_t field_size(size_t n) {
    return 1 + varint_size(n) + n;
}

/* Of what has no presence of its own: nothing is what is not there. */
static size_t some_size(struct bytes b) {
    return b.n ? field_size(b.n) : 0;
}

static uint8_t *put_some(uint8_t *p, unsigned field, struct bytes b) {
    if (b.n == 0)
        return p;
    p = put_head(p, field, b.n);
    memcpy(p, b.p, b.n);
    return p + b.n;
}

/* Seconds and nanoseconds: Timestamp and Duration alike. */
struct span {
    uint64_t seconds, nanos;
};

static struct span span_of_us(int64_t us) {
    return (struct span){(uint64_t)us / 1000000, (uint64_t)us % 1000000 * 1000};
}

static size_t span_size(struct span s) {
    return (s.seconds ? 1 + varint_size(s.seconds) : 0) + (s.nanos ? 1 + varint_size(s.nanos) : 0);
}

static uint8_t *put_span(uint8_t *p, unsigned field, struct span s) {
    p = put_head(p, field, span_size(s));
    if (s.seconds)
        p = put_varint(put_key(p, 1, VARINT), s.seconds);
    if (s.nanos)
        p = put_varint(put_key(p, 2, VARINT), s.nanos);
    return p;
}

/* --- a message --- */

static size_t header_size(const struct message_header *h) {
    return some_size(bytes_str(h->name)) + some_size(bytes_str(h->value));
}

static size_t message_size(const txmsg_message *m) {
    size_t n = some_size(m->topic) + some_size(m->key) + some_size(m->body) + some_size(m->content_type);

    for (size_t i = 0; i < m->headers_n; i++)
        n += field_size(header_size(&m->headers[i]));
    if (m->deliver_at_us)
        n += field_size(span_size(span_of_us(m->deliver_at_us)));
    if (m->expire_at_us)
        n += field_size(span_size(span_of_us(m->expire_at_us)));
    return n + (m->body_later ? 2 : 0);
}

static uint8_t *put_message(uint8_t *p, const txmsg_message *m, size_t n) {
    p = put_head(p, 3, n);
    p = put_some(p, 1, m->topic);
    p = put_some(p, 2, m->key);
    p = put_some(p, 3, m->body);
    p = put_some(p, 4, m->content_type);
    for (size_t i = 0; i < m->headers_n; i++) {
        const struct message_header *h = &m->headers[i];
        p = put_head(p, 5, header_size(h));
        p = put_some(p, 1, bytes_str(h->name));
        p = put_some(p, 2, bytes_str(h->value));
    }
    if (m->deliver_at_us)
        p = put_span(p, 6, span_of_us(m->deliver_at_us));
    if (m->expire_at_us)
        p = put_span(p, 7, span_of_us(m->expire_at_us));
    return m->body_later ? put_varint(put_key(p, 8, VARINT), 1) : p;
}

static size_t body_size(const struct body *b) {
    return (b->n ? 1 + varint_size(b->n) : 0) + some_size(b->bytes);
}

static uint8_t *put_body(uint8_t *p, const struct body *b) {
    p = put_head(p, 3, body_size(b));
    if (b->n)
        p = put_varint(put_key(p, 1, VARINT), b->n);
    return put_some(p, 2, b->bytes);
}

/* --- a request --- */

size_t encode_size(const struct op_content *c, size_t *fields) {
    size_t n = some_size(c->id) + some_size(c->producer) + some_size(c->business_key) + some_size(c->reason) +
               (c->include_bodies ? 2 : 0);

    *fields = 8;
    for (size_t i = 0; i < c->n; i++) {
        n += field_size(message_size(c->messages[i]));
        *fields += 12 + 3 * c->messages[i]->headers_n;
    }
    for (size_t i = 0; c->bodies && i < c->bodies->n; i++) {
        n += field_size(body_size(&c->bodies->list[i]));
        *fields += 3;
    }
    if (c->check_after_ms)
        n += field_size(span_size(span_of_us(c->check_after_ms * 1000)));
    return n;
}

uint8_t *encode_request(const struct op_content *c, uint8_t *p) {
    p = put_some(p, 1, c->id);
    if (c->kind == OP_GET)
        return c->include_bodies ? put_varint(put_key(p, 2, VARINT), 1) : p;
    p = put_some(p, 2, c->producer);
    if (c->kind == OP_CANCEL)
        return put_some(p, 3, c->reason);
    for (size_t i = 0; c->bodies && i < c->bodies->n; i++)
        p = put_body(p, &c->bodies->list[i]);
    for (size_t i = 0; i < c->n; i++)
        p = put_message(p, c->messages[i], message_size(c->messages[i]));
    p = put_some(p, 4, c->business_key);
    if (c->check_after_ms)
        p = put_span(p, 5, span_of_us(c->check_after_ms * 1000));
    return p;
}

/* --- the frame --- */

uint8_t *encode_tagged(enum op_kind kind, uint64_t tag, size_t n, uint8_t *p) {
    size_t operation = field_size(n);

    p = put_head(p, 1, 1 + varint_size(tag) + field_size(operation));
    p = put_varint(put_key(p, 1, VARINT), tag);
    p = put_head(p, 2, operation);
    return put_head(p, (unsigned)kind, n);
}
