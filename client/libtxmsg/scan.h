/*
 * Reading results: each of every operation comes by here, so what stands where the service puts it is read in place. Nothing has happened where it
 * does not, and wire_next() goes on.
 */
#pragma once

#include "rpc/wire.h"

#define SCAN_VARINT(id) ((id) << 3 | WIRE_VARINT)
#define SCAN_BYTES(id)  ((id) << 3 | WIRE_BYTES)

/* The next field, if it has this key and fewer than 128 bytes. */
static inline bool scan_bytes(struct wire_reader *r, uint8_t key, struct bytes *ret) {
    const uint8_t *p = r->p;

    if (r->end - p < 2 || p[0] != key || p[1] >= 0x80 || r->end - p < p[1] + 2)
        return false;
    *ret = bytes_of(p + 2, p[1]);
    r->p = ret->p + ret->n;
    return true;
}

/* The same of a number below 2^35. */
static inline bool scan_number(struct wire_reader *r, uint8_t key, uint64_t *ret) {
    const uint8_t *p = r->p;
    uint64_t value = 0;

    if (p == r->end || *p++ != key)
        return false;
    for (unsigned shift = 0; p < r->end && shift < 35; shift += 7) {
        value |= (uint64_t)(*p & 0x7f) << shift;
        if (*p++ < 0x80) {
            *ret = value;
            r->p = p;
            return true;
        }
    }
    return false;
}

/* What is left, field by field: its key, 0 at the end, < 0 if it is not protobuf. */
static inline int64_t scan_rest(struct wire_reader *r, struct wire_field *f) {
    int e = r->p == r->end ? 0 : wire_next(r, f);

    return e == 1 ? (int64_t)f->id << 3 | (int64_t)f->type : e;
}
