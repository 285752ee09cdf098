/*
 * Reading results: each of every operation comes by here, so what they nearly always are is read in place. A field is told by its key, the number of
 * the field and its type in one.
 */
#pragma once

#include "rpc/wire.h"

#define SCAN_VARINT(id) ((id) << 3 | WIRE_VARINT)
#define SCAN_BYTES(id)  ((id) << 3 | WIRE_BYTES)

struct scan {
    int64_t key; /* 0: the end; < 0: not protobuf */
    uint64_t value;
    struct bytes bytes;
};

/* As wire_next(). Of copies, so that a reader that never comes here stays in registers. */
static inline struct scan scan_slowly(struct wire_reader *r) {
    struct wire_reader rest = *r;
    struct wire_field f = {0};
    int e = wire_next(&rest, &f);

    *r = rest;
    return (struct scan){e == 1 ? (int64_t)f.id << 3 | (int64_t)f.type : e, f.value, f.bytes};
}

/* The next field if it has this key, and a length or number below 128; else nothing has happened. */
static inline bool scan_bytes(struct wire_reader *r, uint8_t key, struct bytes *ret) {
    const uint8_t *p = r->p;

    if (r->end - p < 2 || p[0] != key || p[1] >= 0x80 || r->end - p < p[1] + 2)
        return false;
    *ret = bytes_of(p + 2, p[1]);
    r->p = ret->p + ret->n;
    return true;
}

static inline bool scan_small(struct wire_reader *r, uint8_t key, uint64_t *ret) {
    const uint8_t *p = r->p;

    if (r->end - p < 2 || p[0] != key || p[1] >= 0x80)
        return false;
    *ret = p[1];
    r->p = p + 2;
    return true;
}

/* As wire_next(), faster where the key and a length are below 128, and a number below 2^35. */
static inline struct scan scan_next(struct wire_reader *r) {
    const uint8_t *p = r->p;
    uint64_t value = 0;

    if (r->end - p < 2 || p[0] < 8 || p[0] >= 0x80)
        return p == r->end ? (struct scan){0} : scan_slowly(r);
    int64_t key = *p++;
    if ((key & 7) == WIRE_BYTES && *p < 0x80 && r->end - p > *p) {
        struct bytes bytes = bytes_of(p + 1, *p);
        r->p = bytes.p + bytes.n;
        return (struct scan){.key = key, .bytes = bytes};
    }
    for (unsigned shift = 0; (key & 7) == WIRE_VARINT && p < r->end && shift < 35; shift += 7) {
        value |= (uint64_t)(*p & 0x7f) << shift;
        if (*p++ < 0x80) {
            r->p = p;
            return (struct scan){.key = key, .value = value};
        }
    }
    return scan_slowly(r);
}
