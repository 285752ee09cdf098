/* Parcels come in blocks that are kept until the forwarder ends. */
#include "forward/parcel.h"

#include "base/mem.h"

enum { BLOCK = 64 };

struct block {
    struct list link;
    struct parcel parcels[BLOCK];
};

void parcel_pool_init(struct parcel_pool *pool) {
    list_init(&pool->free);
    list_init(&pool->blocks);
}

void parcel_pool_deinit(struct parcel_pool *pool) {
    struct list *e;

    while ((e = list_pop(&pool->blocks)))
        mem_free(LIST_ENTRY(e, struct block, link));
    list_init(&pool->free);
}

struct parcel *parcel_get(struct parcel_pool *pool) {
    if (list_empty(&pool->free)) {
        struct block *b = mem_alloc(sizeof(*b));
        if (!b)
            return NULL;
        list_add_tail(&pool->blocks, &b->link);
        for (int i = 0; i < BLOCK; i++)
            list_add_tail(&pool->free, &b->parcels[i].d.link);
    }
    struct list *e = pool->free.next;
    list_del(e);
    struct parcel *p = CONTAINER_OF(LIST_ENTRY(e, struct delivery, link), struct parcel, d);
    memset(p, 0, offsetof(struct parcel, d.error)); /* the long text at its end stays as it is */
    p->d.error[0] = 0;
    memset((char *)p + offsetof(struct parcel, outlet), 0, sizeof(*p) - offsetof(struct parcel, outlet));
    list_init(&p->d.link);
    return p;
}

void parcel_put(struct parcel_pool *pool, struct parcel *p) {
    tx_content_unref(TAKE(p->d.content));
    attempt_end_reset(&p->d.end);
    list_add_head(&pool->free, &p->d.link);
}
