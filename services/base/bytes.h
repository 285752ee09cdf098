/* Views, growable buffers with a maximum given at birth, and text checks. */
#pragma once

#include "base/mem.h"

#include <string.h>

/* A view of bytes owned by somebody else. p may be NULL only when n is 0. */
struct bytes {
    const uint8_t *p;
    size_t n;
};
#define BYTES_NULL   ((struct bytes){NULL, 0})
#define BYTES_LIT(s) ((struct bytes){(const uint8_t *)(s), sizeof(s) - 1})

static inline struct bytes bytes_of(const void *p, size_t n) {
    return (struct bytes){p, n};
}
static inline struct bytes bytes_str(const char *s) {
    return (struct bytes){(const uint8_t *)s, s ? strlen(s) : 0};
}
static inline bool bytes_eq(struct bytes a, struct bytes b) {
    return a.n == b.n && (a.n == 0 || memcmp(a.p, b.p, a.n) == 0);
}
static inline bool bytes_eq_str(struct bytes a, const char *s) {
    return bytes_eq(a, bytes_str(s));
}
/* memcmp order, the shorter first on a tie. */
int bytes_cmp(struct bytes a, struct bytes b);

/*
 * A growable buffer that refuses to grow past `max`. Appending to a buffer that failed does nothing, so a writer may
 * append many times and check buf_error() once. The content is always followed by a NUL that is not counted.
 */
struct buf {
    uint8_t *p;
    size_t n, cap, max;
    int error; /* 0, -ENOMEM or -E2BIG */
};
void buf_init(struct buf *b, size_t max);
void buf_deinit(struct buf *b); /* frees; may be called twice */
void buf_reset(struct buf *b);  /* empties and clears the error, keeps the memory */
int buf_reserve(struct buf *b, size_t more) MUSTCHECK;
void buf_put(struct buf *b, const void *p, size_t n);
void buf_put_bytes(struct buf *b, struct bytes v);
void buf_put_str(struct buf *b, const char *s);
void buf_put_char(struct buf *b, char c);
void buf_printf(struct buf *b, const char *fmt, ...) PRINTF_LIKE(2, 3);
void buf_put_be16(struct buf *b, uint16_t v);
void buf_put_be32(struct buf *b, uint32_t v);
void buf_put_be64(struct buf *b, uint64_t v);
static inline int buf_error(const struct buf *b) {
    return b->error;
}
static inline struct bytes buf_bytes(const struct buf *b) {
    return (struct bytes){b->p, b->n};
}
/* The content as a NUL-terminated string, never NULL ("" when empty). Valid until the next change. */
const char *buf_str(const struct buf *b);
#define CLEANUP_BUF __attribute__((cleanup(buf_deinit)))

/* True if v is well-formed UTF-8 (no surrogates, no overlong forms) and holds no NUL. */
bool text_valid(struct bytes v);
/* True if `s` is 1..128 of [a-z0-9._-] and begins with a letter or digit: topics, producers, subscriptions. */
bool text_is_name(struct bytes v);

/* "10s", "1.5s", "250ms", "10m", "2h", "7d", or seconds "10" -> milliseconds. -EINVAL (parts of a ms too), -ERANGE. */
int text_duration_ms(const char *s, int64_t *ret_ms) MUSTCHECK;
/* "64MiB", "4KiB", "100", "1GiB" -> bytes. -EINVAL, -ERANGE. */
int text_size(const char *s, int64_t *ret_bytes) MUSTCHECK;
