/* Intrusive doubly linked list and intrusive hash map. The list owns nothing. */
#pragma once

#include "base/err.h"

struct list {
    struct list *prev, *next;
};
#define LIST_INIT(l) ((struct list){&(l), &(l)})
static inline void list_init(struct list *l) {
    l->prev = l->next = l;
}
static inline bool list_empty(const struct list *l) {
    return l->next == l;
}
static inline void list_add_tail(struct list *l, struct list *e) {
    e->prev = l->prev;
    e->next = l;
    l->prev->next = e;
    l->prev = e;
}
static inline void list_add_head(struct list *l, struct list *e) {
    list_add_tail(l->next, e);
}
/* Leaves the element standing alone, so that removing it again is harmless. */
static inline void list_del(struct list *e) {
    e->prev->next = e->next;
    e->next->prev = e->prev;
    list_init(e);
}
static inline struct list *list_pop(struct list *l) {
    struct list *e = l->next;
    if (e == l)
        return NULL;
    list_del(e);
    return e;
}
/* Moves all of `from` to the tail of `to`; `from` is empty afterwards. */
static inline void list_splice_tail(struct list *to, struct list *from) {
    if (list_empty(from))
        return;
    from->next->prev = to->prev;
    to->prev->next = from->next;
    from->prev->next = to;
    to->prev = from->prev;
    list_init(from);
}
/* Moves all of `from` before the first element of `to`, keeping the order. */
static inline void list_splice_head(struct list *to, struct list *from) {
    list_splice_tail(to->next, from);
}
#define LIST_FOR(pos, l) for (struct list *pos = (l)->next; pos != (l); pos = pos->next)
#define LIST_FOR_SAFE(pos, l)                                                                                          \
    for (struct list *pos = (l)->next, *pos##_next = pos->next; pos != (l); pos = pos##_next, pos##_next = pos->next)
#define LIST_ENTRY(ptr, type, member) CONTAINER_OF(ptr, type, member)

/*
 * Hash map of intrusive nodes with caller-computed 64-bit hashes (chained, grows by doubling). Callers compare keys:
 *     for (struct hnode *h = hmap_first(&m, hash); h; h = hmap_next(h, hash)) if (same(h)) ...
 */
struct hnode {
    struct hnode *next;
    uint64_t hash;
};
struct hmap {
    struct hnode **slots;
    size_t mask, count, low; /* no node stands in a slot below `low` */
};
int hmap_init(struct hmap *m, size_t expected) MUSTCHECK; /* -ENOMEM */
void hmap_deinit(struct hmap *m);                         /* the nodes are the caller's */
/* Never fails: when it cannot grow it only gets slower. */
void hmap_add(struct hmap *m, struct hnode *n, uint64_t hash);
void hmap_del(struct hmap *m, struct hnode *n); /* n must be in m */
struct hnode *hmap_first(const struct hmap *m, uint64_t hash);
struct hnode *hmap_next(const struct hnode *n, uint64_t hash);
/* Any node, or NULL when empty: for emptying a map, which takes one walk in all. */
struct hnode *hmap_any(struct hmap *m);
uint64_t hash_bytes(const void *p, size_t n, uint64_t seed);
