/* PostgreSQL's binary formats: parameters, results and one-dimensional arrays. All numbers are big-endian. */
#include "store/pg.h"
#include "store/pgarr.h"

#include <endian.h>

/* timestamptz counts microseconds from 2000-01-01. */
#define PG_EPOCH_US 946684800000000ll

/* --- parameters --- */

void pg_params_init(struct pg_params *p) {
    p->n = 0;
    p->scratch_n = 0;
}

static void param_add(struct pg_params *p, const void *v, size_t n) {
    ASSERT(p->n < PG_PARAMS_MAX);
    p->values[p->n] = v;
    p->lengths[p->n] = (int)n;
    p->formats[p->n] = 1;
    p->n++;
}

static void param_copy(struct pg_params *p, const void *v, size_t n) {
    ASSERT(p->scratch_n + n <= sizeof(p->scratch));
    uint8_t *at = p->scratch + p->scratch_n;
    memcpy(at, v, n);
    p->scratch_n += n;
    param_add(p, at, n);
}

void pg_param_null(struct pg_params *p) {
    param_add(p, NULL, 0);
}
void pg_param_bool(struct pg_params *p, bool v) {
    param_copy(p, v ? "\1" : "\0", 1);
}
void pg_param_int16(struct pg_params *p, int16_t v) {
    uint16_t be = htobe16((uint16_t)v);
    param_copy(p, &be, sizeof(be));
}
void pg_param_int32(struct pg_params *p, int32_t v) {
    uint32_t be = htobe32((uint32_t)v);
    param_copy(p, &be, sizeof(be));
}
void pg_param_int64(struct pg_params *p, int64_t v) {
    uint64_t be = htobe64((uint64_t)v);
    param_copy(p, &be, sizeof(be));
}
void pg_param_uuid(struct pg_params *p, const struct uuid *v) {
    param_add(p, v->b, sizeof(v->b));
}
void pg_param_text(struct pg_params *p, const char *v) {
    param_add(p, v, v ? strlen(v) : 0);
}
void pg_param_bytes(struct pg_params *p, struct bytes v) {
    param_add(p, v.p, v.n);
}
void pg_param_time(struct pg_params *p, int64_t us) {
    pg_param_int64(p, us - PG_EPOCH_US);
}
void pg_param_array(struct pg_params *p, const struct buf *array) {
    param_add(p, array->p, array->n);
}

/* --- results --- */

bool pg_get_null(const PGresult *r, int row, int col) {
    return PQgetisnull(r, row, col);
}
bool pg_get_bool(const PGresult *r, int row, int col) {
    return PQgetlength(r, row, col) == 1 && *PQgetvalue(r, row, col);
}
int16_t pg_get_int16(const PGresult *r, int row, int col) {
    uint16_t v = 0;
    if (PQgetlength(r, row, col) == sizeof(v))
        memcpy(&v, PQgetvalue(r, row, col), sizeof(v));
    return (int16_t)be16toh(v);
}
int32_t pg_get_int32(const PGresult *r, int row, int col) {
    uint32_t v = 0;
    if (PQgetlength(r, row, col) == sizeof(v))
        memcpy(&v, PQgetvalue(r, row, col), sizeof(v));
    return (int32_t)be32toh(v);
}
int64_t pg_get_int64(const PGresult *r, int row, int col) {
    uint64_t v = 0;
    if (PQgetlength(r, row, col) == sizeof(v))
        memcpy(&v, PQgetvalue(r, row, col), sizeof(v));
    return (int64_t)be64toh(v);
}
void pg_get_uuid(const PGresult *r, int row, int col, struct uuid *ret) {
    *ret = (struct uuid){{0}};
    if (PQgetlength(r, row, col) == sizeof(ret->b))
        memcpy(ret->b, PQgetvalue(r, row, col), sizeof(ret->b));
}
struct bytes pg_get_bytes(const PGresult *r, int row, int col) {
    if (PQgetisnull(r, row, col))
        return BYTES_NULL;
    return bytes_of(PQgetvalue(r, row, col), (size_t)PQgetlength(r, row, col));
}
int64_t pg_get_time_us(const PGresult *r, int row, int col) {
    return PQgetisnull(r, row, col) ? 0 : pg_get_int64(r, row, col) + PG_EPOCH_US;
}

/* --- arrays: dimensions, has-null flag, element type, length, lower bound, then length-prefixed elements --- */

enum { ARRAY_HEADER = 20, AT_DIMS = 0, AT_NULLS = 4, AT_LENGTH = 12 };

/* In one piece: a small batch begins more arrays than it puts elements into. */
void pgarr_begin(struct buf *b, uint32_t elem_oid) {
    const uint32_t header[ARRAY_HEADER / sizeof(uint32_t)] = {htobe32(1), 0, htobe32(elem_oid), 0, htobe32(1)};
    buf_reset(b);
    buf_put(b, header, sizeof(header));
}

static void count_up(struct buf *b) {
    if (b->error || b->n < ARRAY_HEADER)
        return;
    uint32_t n;
    memcpy(&n, b->p + AT_LENGTH, sizeof(n));
    n = htobe32(be32toh(n) + 1);
    memcpy(b->p + AT_LENGTH, &n, sizeof(n));
}

void pgarr_null(struct buf *b) {
    buf_put_be32(b, 0xffffffffu);
    if (!b->error)
        b->p[AT_NULLS + 3] = 1;
    count_up(b);
}
void pgarr_int16(struct buf *b, int16_t v) {
    buf_put_be32(b, 2);
    buf_put_be16(b, (uint16_t)v);
    count_up(b);
}
void pgarr_int32(struct buf *b, int32_t v) {
    buf_put_be32(b, 4);
    buf_put_be32(b, (uint32_t)v);
    count_up(b);
}
void pgarr_int64(struct buf *b, int64_t v) {
    buf_put_be32(b, 8);
    buf_put_be64(b, (uint64_t)v);
    count_up(b);
}
void pgarr_uuid(struct buf *b, const struct uuid *v) {
    buf_put_be32(b, 16);
    buf_put(b, v->b, 16);
    count_up(b);
}
void pgarr_bytes(struct buf *b, struct bytes v) {
    if (!v.p) {
        pgarr_null(b);
        return;
    }
    buf_put_be32(b, (uint32_t)v.n);
    buf_put(b, v.p, v.n);
    count_up(b);
}
void pgarr_time(struct buf *b, int64_t us) {
    pgarr_int64(b, us - PG_EPOCH_US);
}

int pgarr_end(struct buf *b) {
    if (b->error)
        return b->error;
    uint32_t n;
    memcpy(&n, b->p + AT_LENGTH, sizeof(n));
    if (n == 0) { /* an empty array has no dimension */
        memset(b->p + AT_DIMS, 0, 4);
        b->n = 12;
    }
    return 0;
}

static uint32_t get32(const uint8_t *p) {
    uint32_t v;
    memcpy(&v, p, sizeof(v));
    return be32toh(v);
}

int pgarr_read(struct bytes a, uint32_t elem_oid, struct pgarr_view *ret) {
    *ret = (struct pgarr_view){0};
    if (a.n == 0)
        return 0;
    if (a.n < 12 || get32(a.p + 8) != elem_oid)
        return -EINVAL;
    if (get32(a.p) == 0)
        return 0;
    if (get32(a.p) != 1 || get32(a.p + AT_NULLS) != 0 || a.n < ARRAY_HEADER)
        return -EINVAL;
    const uint8_t *p = a.p + ARRAY_HEADER, *end = a.p + a.n;
    uint32_t n = get32(a.p + AT_LENGTH);
    const uint8_t *q = p;
    for (uint32_t i = 0; i < n; i++) {
        if (end - q < 4 || get32(q) > (size_t)(end - q - 4))
            return -EINVAL;
        q += 4 + get32(q);
    }
    *ret = (struct pgarr_view){p, end, n};
    return 0;
}

struct bytes pgarr_next(struct pgarr_view *v) {
    struct bytes e = bytes_of(v->p + 4, get32(v->p));
    v->p = e.p + e.n;
    return e;
}
int32_t pgarr_next_int32(struct pgarr_view *v) {
    struct bytes e = pgarr_next(v);
    return e.n == 4 ? (int32_t)get32(e.p) : 0;
}
