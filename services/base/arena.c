/*
 * Chunks chained from the newest to the oldest; an allocation bumps the newest. A request that would waste most of a
 * chunk gets one of its own behind the newest. The arena is a plain value of its owner.
 */
#include "base/arena.h"

#include "base/mem_fault.h"

#define CHUNK_MIN 4096u
#define CHUNK_MAX 65536u

struct arena_chunk {
    struct arena_chunk *older;
    size_t n, cap;
    bool first; /* kept by a reset */
    _Alignas(16) uint8_t data[];
};

void arena_init(struct arena *a, size_t max) {
    *a = (struct arena){.max = max};
}

void arena_deinit(struct arena *a) {
    for (struct arena_chunk *c = a->head, *older; c; c = older) {
        older = c->older;
        mem_free(c);
    }
    a->head = NULL;
    a->used = 0;
    a->full = false;
}

void arena_reset(struct arena *a) {
    struct arena_chunk *first = NULL;
    for (struct arena_chunk *c = a->head, *older; c; c = older) {
        older = c->older;
        if (c->first)
            first = c;
        else
            mem_free(c);
    }
    if (first) {
        first->n = 0;
        first->older = NULL;
    }
    a->head = first;
    a->used = 0;
    a->full = false;
}

/* `n` is rounded and within the bound. */
static void *alloc_slow(struct arena *a, size_t n) {
    struct arena_chunk *head = a->head;
    size_t size = head ? MIN(MAX((head->cap + sizeof(*head)) * 2, CHUNK_MIN), CHUNK_MAX) : CHUNK_MIN;
    size_t cap = size - sizeof(*head);
    bool alone = head && n > cap / 2;
    if (alone || n > cap)
        cap = n;
    struct arena_chunk *c = mem_alloc(sizeof(*c) + cap);
    if (!c)
        return NULL;
    c->cap = cap;
    c->n = n;
    c->first = !head;
    if (alone) {
        c->older = head->older;
        head->older = c;
    } else {
        c->older = head;
        a->head = c;
    }
    a->used += n;
    return c->data;
}

void *arena_alloc(struct arena *a, size_t n) {
    struct arena_chunk *c = a->head;
    if (n > SIZE_MAX / 2 || mem_fault_due()) /* also what a chunk has room for: it need not have */
        return NULL;
    n = n ? (n + 15) & ~(size_t)15 : 16;
    if (n > a->max - a->used) {
        a->full = true;
        return NULL;
    }
    if (!c || n > c->cap - c->n)
        return alloc_slow(a, n);
    void *p = c->data + c->n;
    c->n += n;
    a->used += n;
    return p;
}

void *arena_zalloc(struct arena *a, size_t n) {
    void *p = arena_alloc(a, n);
    if (p)
        memset(p, 0, n);
    return p;
}

char *arena_strndup(struct arena *a, const void *p, size_t n) {
    char *s = n < SIZE_MAX ? arena_alloc(a, n + 1) : NULL;
    if (!s)
        return NULL;
    if (n)
        memcpy(s, p, n);
    s[n] = '\0';
    return s;
}

char *arena_printf(struct arena *a, const char *fmt, ...) {
    va_list ap, again;
    va_start(ap, fmt);
    va_copy(again, ap);
    int n = vsnprintf(NULL, 0, fmt, ap);
    char *s = n < 0 ? NULL : arena_alloc(a, (size_t)n + 1);
    if (s)
        vsnprintf(s, (size_t)n + 1, fmt, again);
    va_end(again);
    va_end(ap);
    return s;
}
