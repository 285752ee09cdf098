/* A bump allocator for things that die together: one per call, per batch. Not thread-safe; one owner. */
#pragma once

#include "base/bytes.h"

struct arena_chunk;
struct arena {
    struct arena_chunk *head;
    size_t used, max; /* bytes handed out; the bound given at birth */
    bool full;        /* the bound has refused something since the last reset; without it a NULL was want of memory */
};
void arena_init(struct arena *a, size_t max);
void arena_deinit(struct arena *a); /* frees all; may be called twice */
void arena_reset(struct arena *a);  /* keeps the first chunk */
/* 16-byte aligned; NULL when the bound or memory is reached. */
void *arena_alloc(struct arena *a, size_t n) MUSTCHECK;
void *arena_zalloc(struct arena *a, size_t n) MUSTCHECK;
char *arena_strndup(struct arena *a, const void *p, size_t n) MUSTCHECK;
char *arena_printf(struct arena *a, const char *fmt, ...) PRINTF_LIKE(2, 3) MUSTCHECK;
