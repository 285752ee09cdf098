/*
 * The growable buffer. It keeps one byte beyond its content for the NUL, so buf_str() never has to allocate, and it
 * remembers its first error, so a writer checks once at the end. One owner, no thread-safety.
 */
#include "base/bytes.h"

#include "base/mem_fault.h"

int bytes_cmp(struct bytes a, struct bytes b) {
    size_t n = MIN(a.n, b.n);
    int r = n ? memcmp(a.p, b.p, n) : 0;
    return r ? r : (a.n > b.n) - (a.n < b.n);
}

void buf_init(struct buf *b, size_t max) {
    /* The half keeps n + more + 1 and doubling free of overflow. */
    *b = (struct buf){.max = MIN(max, SIZE_MAX / 4)};
}

void buf_deinit(struct buf *b) {
    mem_free(b->p);
    *b = (struct buf){.max = b->max};
}

void buf_reset(struct buf *b) {
    b->n = 0;
    b->error = 0;
    if (b->p)
        b->p[0] = '\0';
}

static int grow(struct buf *b, size_t more) {
    if (more > b->max || b->n > b->max - more)
        return b->error = -E2BIG;
    if (mem_fault_due()) /* also with room: a buffer that was used before has some */
        return b->error = -ENOMEM;
    size_t need = b->n + more + 1;
    if (need <= b->cap)
        return 0;
    size_t cap = MAX(b->cap, 32);
    while (cap < need)
        cap *= 2;
    cap = MIN(cap, b->max + 1);
    uint8_t *p = mem_realloc(b->p, cap);
    if (!p)
        return b->error = -ENOMEM;
    p[b->n] = '\0';
    b->p = p;
    b->cap = cap;
    return 0;
}

int buf_reserve(struct buf *b, size_t more) {
    return b->error ? b->error : grow(b, more);
}

void buf_put(struct buf *b, const void *p, size_t n) {
    if (n == 0 || buf_reserve(b, n) < 0)
        return;
    memcpy(b->p + b->n, p, n);
    b->n += n;
    b->p[b->n] = '\0';
}

void buf_put_bytes(struct buf *b, struct bytes v) {
    buf_put(b, v.p, v.n);
}

void buf_put_str(struct buf *b, const char *s) {
    buf_put(b, s, strlen(s));
}

void buf_put_char(struct buf *b, char c) {
    buf_put(b, &c, 1);
}

void buf_printf(struct buf *b, const char *fmt, ...) {
    if (b->error)
        return;
    va_list ap, again;
    va_start(ap, fmt);
    va_copy(again, ap);
    size_t room = b->cap - b->n;
    int n = vsnprintf(room ? (char *)b->p + b->n : NULL, room, fmt, ap);
    if (n < 0)
        b->error = -EINVAL;
    else if ((size_t)n < room && (size_t)n <= b->max - b->n)
        b->n += (size_t)n;
    else if (grow(b, (size_t)n) == 0) {
        vsnprintf((char *)b->p + b->n, (size_t)n + 1, fmt, again);
        b->n += (size_t)n;
    } else if (room)
        b->p[b->n] = '\0'; /* what the first try left behind does not count */
    va_end(again);
    va_end(ap);
}

void buf_put_be16(struct buf *b, uint16_t v) {
    v = __builtin_bswap16(v);
    buf_put(b, &v, sizeof(v));
}

void buf_put_be32(struct buf *b, uint32_t v) {
    v = __builtin_bswap32(v);
    buf_put(b, &v, sizeof(v));
}

void buf_put_be64(struct buf *b, uint64_t v) {
    v = __builtin_bswap64(v);
    buf_put(b, &v, sizeof(v));
}

const char *buf_str(const struct buf *b) {
    return b->p ? (const char *)b->p : "";
}

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "buf_put_be* swap unconditionally");
