/* Reading results: each of every operation comes by here, so what they nearly always are is read in place. */
#pragma once

#include "rpc/wire.h"

/* wire_next(), faster where field, length and number are below 128. */
static inline int scan_next(struct wire_reader *r, struct wire_field *f) {
    const uint8_t *p = r->p;
    size_t left = (size_t)(r->end - p);

    if (left < 2 || p[0] < 8 || ((p[0] | p[1]) & 0x80))
        return left ? wire_next(r, f) : 0;
    f->id = p[0] >> 3;
    f->type = (enum wire_type)(p[0] & 7);
    if (f->type == WIRE_VARINT) {
        f->value = p[1];
        r->p = p + 2;
        return 1;
    }
    if (f->type != WIRE_BYTES || p[1] > left - 2)
        return wire_next(r, f);
    f->bytes = bytes_of(p + 2, p[1]);
    r->p = p + 2 + p[1];
    return 1;
}
