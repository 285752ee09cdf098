/*
 * Error values and the words of this house.
 *
 * A function that can fail returns int: 0 = done, negative = system failure (a negated errno value) that callers
 * forward unchanged, positive = an outcome documented at the function that the caller must handle and never forward.
 * What a person needs to know beside the number goes into a `struct errmsg` that the caller owns.
 */
#pragma once

#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MUSTCHECK         __attribute__((warn_unused_result))
#define PRINTF_LIKE(f, a) __attribute__((format(printf, f, a)))
#define UNUSED(x)         ((void)(x))
#define ARRAY_LEN(a)      (sizeof(a) / sizeof((a)[0]))
#define MIN(a, b)         ((a) < (b) ? (a) : (b))
#define MAX(a, b)         ((a) > (b) ? (a) : (b))

/* The struct of `type` whose member `member` stands at `ptr`. */
#define CONTAINER_OF(ptr, type, member) ((type *)((char *)(ptr)-offsetof(type, member)))

/* Assertions stay on in production: a broken invariant must end the process before it can answer OK. */
#define ASSERT(cond)  ((cond) ? (void)0 : err_assert_failed(#cond, __FILE__, __LINE__, __func__))
#define UNREACHABLE() err_assert_failed("unreachable", __FILE__, __LINE__, __func__)

_Noreturn void err_assert_failed(const char *cond, const char *file, int line, const char *func);

/* A one-line explanation for people; empty text = none. Truncates silently. */
struct errmsg {
    char text[480];
};
#define ERRMSG_NULL ((struct errmsg){.text = ""})

/* Formats into *e (NULL allowed) and returns `code`, so that `return err_set(e, -EINVAL, ...)` reads as one step. */
int err_set(struct errmsg *e, int code, const char *fmt, ...) PRINTF_LIKE(3, 4);
/* Puts "<prefix>: " before the text already there. */
void err_prefix(struct errmsg *e, const char *fmt, ...) PRINTF_LIKE(2, 3);
/* "ENOMEM"-like text for a negative error, never NULL. @thread any */
const char *err_text(int code);
