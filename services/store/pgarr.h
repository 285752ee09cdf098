/* One-dimensional arrays in PostgreSQL's binary form, built element by element and read in place. */
#pragma once

#include "base/bytes.h"
#include "base/uuid.h"

enum {
    OID_BOOL = 16,
    OID_BYTEA = 17,
    OID_CHAR = 18,
    OID_INT8 = 20,
    OID_INT2 = 21,
    OID_INT4 = 23,
    OID_TEXT = 25,
    OID_TIMESTAMPTZ = 1184,
    OID_UUID = 2950
};

/* `b` is the caller's buffer (its bound applies); errors stay in it. Begin resets it. */
void pgarr_begin(struct buf *b, uint32_t elem_oid);
void pgarr_null(struct buf *b);
void pgarr_int16(struct buf *b, int16_t v);
void pgarr_int32(struct buf *b, int32_t v);
void pgarr_int64(struct buf *b, int64_t v);
void pgarr_uuid(struct buf *b, const struct uuid *v);
void pgarr_bytes(struct buf *b, struct bytes v); /* bytea or text; p NULL = NULL */
void pgarr_time(struct buf *b, int64_t us_since_1970);
int pgarr_end(struct buf *b) MUSTCHECK; /* the buffer's error, if any */

/* Reading: -EINVAL unless a one-dimensional (or empty) array whose elements are not NULL. */
struct pgarr_view {
    const uint8_t *p, *end;
    uint32_t n;
};
int pgarr_read(struct bytes array, uint32_t elem_oid, struct pgarr_view *ret) MUSTCHECK;
/* The next element; call at most n times. */
struct bytes pgarr_next(struct pgarr_view *v);
int32_t pgarr_next_int32(struct pgarr_view *v);
