/*
 * Allocation with a fault countdown, and cleanup at birth.
 *
 * All heap memory of the daemon comes from here, so that a test can fail the n-th allocation of a path.
 * Every pointer that an error path must free is declared with a cleanup attribute and taken with TAKE() on success.
 */
#pragma once

#include "base/err.h"

void *mem_alloc(size_t n) MUSTCHECK;                   /* NULL when out of memory; n = 0 gives a unique pointer */
void *mem_zalloc(size_t n) MUSTCHECK;                  /* zeroed */
void *mem_realloc(void *p, size_t n) MUSTCHECK;        /* p stays valid on failure */
void *mem_calloc(size_t count, size_t size) MUSTCHECK; /* zeroed, overflow checked */
char *mem_strdup(const char *s) MUSTCHECK;
char *mem_strndup(const char *s, size_t n) MUSTCHECK;
void mem_free(void *p); /* NULL allowed */

/* Start-up only (configuration, wiring): ends the process with a message when memory is out. */
void *mem_must(void *p);

/* Tests: the n-th allocation from now (1 = next) fails, once; 0 = never. Per thread. */
void mem_fail_at(uint64_t n);
/* Allocations of this thread since it started. */
uint64_t mem_count(void);

static inline void mem_cleanup(void *pp) {
    mem_free(*(void **)pp);
}
#define CLEANUP_FREE __attribute__((cleanup(mem_cleanup)))
#define CLEANUP(fn)  __attribute__((cleanup(fn)))
/* Moves a pointer out of a cleanup variable. */
#define TAKE(p)                                                                                                        \
    ({                                                                                                                 \
        __typeof__(p) take_ = p;                                                                                       \
        (p) = NULL;                                                                                                    \
        take_;                                                                                                         \
    })
/* Defines `name##_cleanup(T *)` for CLEANUP(), T being a pointer type; `fn` must accept NULL. */
#define DEFINE_CLEANUP(T, name, fn)                                                                                    \
    static inline void name##_cleanup(T *pp) {                                                                         \
        fn(*pp);                                                                                                       \
    }                                                                                                                  \
    struct name##_cleanup_semicolon_
