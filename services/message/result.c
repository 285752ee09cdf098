/*
 * Written by hand, because a result is the same few fields each time and protobuf-c would walk its descriptors for each,
 * twice. The numbers of the fields are those of message_service.proto and transaction.proto; a unit test compares the
 * bytes with protobuf-c's. A status is shorter than 128 bytes at every level, so that each of its lengths is one byte.
 */
#include "message/result.h"

enum {
    RESPONSE_RESULTS = 1,
    RESPONSE_CREDIT = 2,
    TAGGED_TAG = 1,
    TAGGED_RESULT = 2,
    RESULT_STATUS = 1,
    RESULT_ERROR = 2,
    STATUS_ID = 1,
    STATUS_STATE = 2,
    STATUS_ORIGIN = 3,
    STATUS_PREPARE_TIME = 4,
    STATUS_DECISION_TIME = 5,
    TIME_SECONDS = 1,
    TIME_NANOS = 2,
    SHORT_MAX = 127,
};
#define KEY_VARINT(field) ((uint8_t)((field) << 3))
#define KEY_BYTES(field)  ((uint8_t)((field) << 3 | 2))

static uint8_t *put_varint(uint8_t *p, uint64_t v) {
    for (; v > 0x7f; v >>= 7)
        *p++ = (uint8_t)(v | 0x80);
    *p++ = (uint8_t)v;
    return p;
}

/* proto3: what is zero is not written. */
static uint8_t *put_number(uint8_t *p, int field, uint64_t v) {
    if (!v)
        return p;
    *p++ = KEY_VARINT(field);
    return put_varint(p, v);
}

/* The length of what was written behind it. */
static void close_short(uint8_t *length, const uint8_t *end) {
    ASSERT(end - length - 1 <= SHORT_MAX);
    *length = (uint8_t)(end - length - 1);
}

static uint8_t *put_time(uint8_t *p, int field, int64_t us) {
    if (!us)
        return p;
    *p++ = KEY_BYTES(field);
    uint8_t *length = p++;
    p = put_number(p, TIME_SECONDS, (uint64_t)(us / 1000000));
    p = put_number(p, TIME_NANOS, (uint64_t)(us % 1000000 * 1000));
    close_short(length, p);
    return p;
}

static uint8_t *put_status(uint8_t *p, const struct lane_op *op) {
    char id[UUID_TEXT];
    uuid_format(&op->id, id);
    *p++ = KEY_BYTES(STATUS_ID);
    *p++ = UUID_TEXT - 1;
    memcpy(p, id, UUID_TEXT - 1);
    p += UUID_TEXT - 1;
    p = put_number(p, STATUS_STATE, (uint64_t)op->state);
    p = put_number(p, STATUS_ORIGIN, (uint64_t)op->decided_by);
    p = put_time(p, STATUS_PREPARE_TIME, op->prepare_us);
    return put_time(p, STATUS_DECISION_TIME, op->decision_us);
}

int result_put_status(struct buf *out, uint64_t tag, const struct lane_op *op) {
    uint8_t b[256], *p = b, *row, *result, *status;
    *p++ = KEY_BYTES(RESPONSE_RESULTS);
    row = p++;
    p = put_number(p, TAGGED_TAG, tag);
    *p++ = KEY_BYTES(TAGGED_RESULT);
    result = p++;
    *p++ = KEY_BYTES(RESULT_STATUS);
    status = p++;
    p = put_status(p, op);
    close_short(status, p);
    close_short(result, p);
    close_short(row, p);
    buf_put(out, b, (size_t)(p - b));
    return buf_error(out);
}

static size_t varint_size(uint64_t v) {
    size_t n = 1;
    for (; v > 0x7f; v >>= 7)
        n++;
    return n;
}

int result_put_error(struct buf *out, uint64_t tag, const struct rpc_error *err, struct arena *a) {
    struct Google__Rpc__Status *st;
    uint8_t b[64], *p = b;
    int r = rpc_error_status(err, a, &st);
    if (r < 0)
        return r;
    size_t n = google__rpc__status__get_packed_size(st), result = 1 + varint_size(n) + n;
    size_t row = (tag ? 1 + varint_size(tag) : 0) + 1 + varint_size(result) + result;
    *p++ = KEY_BYTES(RESPONSE_RESULTS);
    p = put_varint(p, row);
    p = put_number(p, TAGGED_TAG, tag);
    *p++ = KEY_BYTES(TAGGED_RESULT);
    p = put_varint(p, result);
    *p++ = KEY_BYTES(RESULT_ERROR);
    p = put_varint(p, n);
    r = buf_reserve(out, (size_t)(p - b) + n + 1);
    if (r < 0)
        return r;
    buf_put(out, b, (size_t)(p - b));
    google__rpc__status__pack(st, out->p + out->n);
    out->n += n;
    out->p[out->n] = '\0';
    return 0;
}

int result_put_credit(struct buf *out, uint32_t credit) {
    uint8_t b[16];
    buf_put(out, b, (size_t)(put_number(b, RESPONSE_CREDIT, credit) - b));
    return buf_error(out);
}
