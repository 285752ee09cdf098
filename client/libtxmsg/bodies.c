#include "bodies.h"

#include "txmsg/types.h"

enum { MESSAGES_MAX = 4096 };

/* The one of that place, or a new one without bytes. NULL: out of memory. */
static struct body *find_or_add(struct bodies *b, uint32_t n) {
    for (size_t i = 0; i < b->n; i++)
        if (b->list[i].n == n)
            return &b->list[i];
    if (b->n == b->cap) {
        size_t cap = b->cap ? b->cap * 2 : 4;
        struct body *more = mem_realloc(b->list, cap * sizeof(*more));
        if (!more)
            return NULL;
        b->list = more;
        b->cap = cap;
    }
    b->list[b->n] = (struct body){.n = n};
    return &b->list[b->n++];
}

int bodies_set(struct bodies *b, size_t n, const void *body, size_t size, size_t max) {
    struct body *at;
    uint8_t *copy;

    if (n >= MESSAGES_MAX || (!body && size > 0) || size > max || b->size + size > max)
        return TXMSG_ERROR_INVALID;
    copy = mem_alloc(size);
    at = copy ? find_or_add(b, (uint32_t)n) : NULL;
    if (!at) {
        mem_free(copy);
        return TXMSG_ERROR_MEMORY;
    }
    if (size > 0)
        memcpy(copy, body, size);
    mem_free((void *)(uintptr_t)at->bytes.p);
    b->size += size - at->bytes.n;
    at->bytes = bytes_of(copy, size);
    return TXMSG_OK;
}

void bodies_clear(struct bodies *b) {
    for (size_t i = 0; i < b->n; i++)
        mem_free((void *)(uintptr_t)b->list[i].bytes.p);
    mem_free(b->list);
    *b = (struct bodies){0};
}
