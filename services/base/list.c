/*
 * The hash map behind list.h: chained, the nodes belong to the caller, the map owns only its slots. Callers' hashes may
 * be weak in their low bits (a product is), so the high half is folded in before masking.
 */
#include "base/list.h"

#include "base/mem.h"

#include <string.h>

static inline size_t slot_of(uint64_t hash, size_t mask) {
    return (size_t)(hash ^ hash >> 32) & mask;
}

int hmap_init(struct hmap *m, size_t expected) {
    size_t size = 8;
    while (size < expected && size < (SIZE_MAX >> 4))
        size *= 2;
    *m = (struct hmap){.slots = mem_calloc(size, sizeof(struct hnode *))};
    if (!m->slots)
        return -ENOMEM;
    m->mask = size - 1;
    return 0;
}

void hmap_deinit(struct hmap *m) {
    mem_free(m->slots);
    *m = (struct hmap){0};
}

static void grow(struct hmap *m) {
    size_t size = (m->mask + 1) * 2;
    struct hnode **slots = mem_calloc(size, sizeof(struct hnode *));
    if (!slots)
        return;
    for (size_t i = 0; i <= m->mask; i++) {
        for (struct hnode *n = m->slots[i], *next; n; n = next) {
            next = n->next;
            size_t at = slot_of(n->hash, size - 1);
            n->next = slots[at];
            slots[at] = n;
        }
    }
    mem_free(m->slots);
    m->slots = slots;
    m->mask = size - 1;
    m->low = 0;
}

void hmap_add(struct hmap *m, struct hnode *n, uint64_t hash) {
    ASSERT(m->slots);
    if (m->count > m->mask)
        grow(m);
    size_t at = slot_of(hash, m->mask);
    n->hash = hash;
    n->next = m->slots[at];
    m->slots[at] = n;
    m->low = MIN(m->low, at);
    m->count++;
}

void hmap_del(struct hmap *m, struct hnode *n) {
    struct hnode **p = &m->slots[slot_of(n->hash, m->mask)];
    while (*p != n) {
        ASSERT(*p);
        p = &(*p)->next;
    }
    *p = n->next;
    n->next = NULL;
    m->count--;
}

static struct hnode *match(struct hnode *n, uint64_t hash) {
    while (n && n->hash != hash)
        n = n->next;
    return n;
}

struct hnode *hmap_first(const struct hmap *m, uint64_t hash) {
    return m->slots ? match(m->slots[slot_of(hash, m->mask)], hash) : NULL;
}

struct hnode *hmap_next(const struct hnode *n, uint64_t hash) {
    return match(n->next, hash);
}

struct hnode *hmap_any(struct hmap *m) {
    if (m->count == 0)
        return NULL;
    while (!m->slots[m->low]) {
        ASSERT(m->low < m->mask);
        m->low++;
    }
    return m->slots[m->low];
}

/* Multiply and fold, the step of the wyhash family. */
static inline uint64_t mix(uint64_t a, uint64_t b) {
    unsigned __int128 r = (unsigned __int128)a * b;
    return (uint64_t)r ^ (uint64_t)(r >> 64);
}

uint64_t hash_bytes(const void *data, size_t n, uint64_t seed) {
    const uint64_t k0 = 0xa0761d6478bd642full, k1 = 0xe7037ed1a0b428dbull;
    const uint8_t *p = data;
    uint64_t h = seed ^ k0, a, b;
    size_t left = n;
    for (; left > 16; left -= 16, p += 16) {
        memcpy(&a, p, 8);
        memcpy(&b, p + 8, 8);
        h = mix(a ^ k1, b ^ h);
    }
    a = b = 0;
    if (left > 8) {
        memcpy(&a, p, 8);
        memcpy(&b, p + 8, left - 8);
    } else if (left) {
        memcpy(&a, p, left);
    }
    return mix(k1 ^ n, mix(a ^ k1, b ^ h));
}
