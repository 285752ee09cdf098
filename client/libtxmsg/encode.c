#include "encode.h"

#include "base/uuid.h"

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

static uint8_t *write_varint(uint8_t *p, uint64_t v) {
    for (; v >= 0x80; v >>= 7)
        *p++ = (uint8_t)(v | 0x80);
    *p++ = (uint8_t)v;
    return p;
}

/* --- from back to front: each writes what ends at `end`, and answers its begin --- */

static uint8_t *put_varint(uint8_t *end, uint64_t v) {
    if (v < 0x80) {
        *--end = (uint8_t)v;
        return end;
    }
    end -= varint_size(v);
    write_varint(end, v);
    return end;
}

/* All field numbers are below 16: a key is one byte. */
static uint8_t *put_key(uint8_t *end, unsigned field, unsigned type) {
    *--end = (uint8_t)(field << 3 | type);
    return end;
}

/* Key and length of the `n` bytes at `end`. */
static uint8_t *put_head(uint8_t *end, unsigned field, size_t n) {
    return put_key(put_varint(end, n), field, BYTES);
}

static uint8_t *put_number(uint8_t *end, unsigned field, uint64_t v) {
    return put_key(put_varint(end, v), field, VARINT);
}

/* Of what has no presence of its own: nothing is what is not there. */
static uint8_t *put_some(uint8_t *end, unsigned field, struct bytes b) {
    if (b.n == 0)
        return end;
    end -= b.n;
    memcpy(end, b.p, b.n);
    return put_head(end, field, b.n);
}

/* A Timestamp or a Duration: seconds and nanoseconds alike. */
static uint8_t *put_span(uint8_t *end, unsigned field, int64_t us) {
    uint64_t seconds = (uint64_t)us / 1000000, nanos = (uint64_t)us % 1000000 * 1000;
    uint8_t *p = nanos ? put_number(end, 2, nanos) : end;

    if (seconds)
        p = put_number(p, 1, seconds);
    return put_head(p, field, (size_t)(end - p));
}

static uint8_t *put_header(uint8_t *end, const struct message_header *h) {
    uint8_t *p = put_some(end, 2, bytes_str(h->value));

    p = put_some(p, 1, bytes_str(h->name));
    return put_head(p, 5, (size_t)(end - p));
}

static uint8_t *put_message(uint8_t *end, const txmsg_message *m) {
    uint8_t *p = m->body_later ? put_number(end, 8, 1) : end;

    if (m->expire_at_us)
        p = put_span(p, 7, m->expire_at_us);
    if (m->deliver_at_us)
        p = put_span(p, 6, m->deliver_at_us);
    for (size_t i = m->headers_n; i-- > 0;)
        p = put_header(p, &m->headers[i]);
    p = put_some(p, 4, m->content_type);
    p = put_some(p, 3, m->body);
    p = put_some(p, 2, m->key);
    p = put_some(p, 1, m->topic);
    return put_head(p, 3, (size_t)(end - p));
}

static uint8_t *put_body(uint8_t *end, const struct body *b) {
    uint8_t *p = put_some(end, 2, b->bytes);

    if (b->n)
        p = put_number(p, 1, b->n);
    return put_head(p, 3, (size_t)(end - p));
}

/* --- a request --- */

static bool has_messages(enum op_kind kind) {
    return kind == OP_PREPARE || kind == OP_PUBLISH;
}

static size_t messages_of(const struct call *call) {
    return has_messages(call->kind) ? call->n : 0;
}

/* What a kind of field may take beside the bytes in it: key, length, and of a span its two numbers. */
enum { FIELD = 1 + 10, SPAN = FIELD + 2 * FIELD };

static size_t message_bound(const txmsg_message *m) {
    size_t n = 6 * FIELD + 2 * SPAN + m->topic.n + m->key.n + m->body.n + m->content_type.n;

    for (size_t i = 0; i < m->headers_n; i++)
        n += 3 * FIELD + strlen(m->headers[i].name) + strlen(m->headers[i].value);
    return n;
}

static size_t options_bound(enum op_kind kind, const txmsg_call_options *o, size_t *fields) {
    size_t n = bytes_str(o->business_key).n + bytes_str(o->reason).n;

    if (kind != OP_CONFIRM)
        return n;
    *fields += o->bodies.n * 3;
    return n + o->bodies.size + o->bodies.n * 3 * FIELD;
}

size_t encode_bound(const struct call *call, struct bytes producer, size_t *fields) {
    size_t n = 4 * FIELD + SPAN + UUID_TEXT + producer.n;

    *fields = 8;
    for (size_t i = 0, messages = messages_of(call); i < messages; i++) {
        n += message_bound(call->messages[i]);
        *fields += 12 + 3 * call->messages[i]->headers_n;
    }
    return call->options ? n + options_bound(call->kind, call->options, fields) : n;
}

/* What comes behind the producer. */
static uint8_t *put_options(uint8_t *end, enum op_kind kind, const txmsg_call_options *o) {
    if (kind == OP_CANCEL)
        return put_some(end, 3, bytes_str(o->reason));
    if (kind == OP_PREPARE && o->check_after_ms)
        end = put_span(end, 5, o->check_after_ms * 1000);
    if (has_messages(kind))
        return put_some(end, 4, bytes_str(o->business_key));
    for (size_t i = kind == OP_CONFIRM ? o->bodies.n : 0; i-- > 0;)
        end = put_body(end, &o->bodies.list[i]);
    return end;
}

uint8_t *encode_request(const struct call *call, struct bytes producer, uint8_t *end) {
    uint8_t *p = end;

    if (call->kind == OP_GET) {
        if (call->options && call->options->include_bodies)
            p = put_number(p, 2, 1);
    } else {
        if (call->options)
            p = put_options(p, call->kind, call->options);
        for (size_t i = messages_of(call); i-- > 0;)
            p = put_message(p, call->messages[i]);
        p = put_some(p, 2, producer);
    }
    return put_some(p, 1, bytes_of(call->id->text, UUID_TEXT - 1));
}

/* --- the frame --- */

uint8_t *encode_operation(enum op_kind kind, size_t n, uint8_t *request) {
    uint8_t *p = put_head(request, (unsigned)kind, n);

    return put_head(p, 2, n + (size_t)(request - p));
}

uint8_t *encode_tag(uint64_t tag, size_t n, uint8_t *p) {
    *p++ = 1 << 3 | BYTES;
    p = write_varint(p, 1 + varint_size(tag) + n);
    *p++ = 1 << 3 | VARINT;
    return write_varint(p, tag);
}
