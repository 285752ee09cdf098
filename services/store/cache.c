/* See cache.h. One small node per payload; hash by the random half of the id. */
#include "store/cache.h"

struct cached {
    struct hnode node;
    struct list link;
    struct tx_content *content;
};

int cache_init(struct cache *c, size_t max_bytes) {
    *c = (struct cache){.max = max_bytes};
    list_init(&c->order);
    return hmap_init(&c->map, 1024);
}

static void drop(struct cache *c, struct cached *e) {
    hmap_del(&c->map, &e->node);
    list_del(&e->link);
    c->bytes -= e->content->bytes;
    tx_content_unref(e->content);
    mem_free(e);
}

void cache_clear(struct cache *c) {
    while (!list_empty(&c->order))
        drop(c, LIST_ENTRY(c->order.next, struct cached, link));
}

void cache_deinit(struct cache *c) {
    cache_clear(c);
    hmap_deinit(&c->map);
}

static struct cached *find(const struct cache *c, const struct uuid *tx) {
    uint64_t h = uuid_hash(tx);
    for (struct hnode *n = hmap_first(&c->map, h); n; n = hmap_next(n, h)) {
        struct cached *e = CONTAINER_OF(n, struct cached, node);
        if (uuid_eq(&e->content->id, tx))
            return e;
    }
    return NULL;
}

void cache_put(struct cache *c, struct tx_content *content) {
    /* What waits for bodies is not what will be sent: it is read back with them. */
    if (content->later_n || content->bytes > c->max || find(c, &content->id))
        return;
    while (c->bytes + content->bytes > c->max)
        drop(c, LIST_ENTRY(c->order.next, struct cached, link));
    struct cached *e = mem_alloc(sizeof(*e));
    if (!e)
        return;
    e->content = tx_content_ref(content);
    c->bytes += content->bytes;
    hmap_add(&c->map, &e->node, uuid_hash(&content->id));
    list_add_tail(&c->order, &e->link);
}

struct tx_content *cache_take(struct cache *c, const struct uuid *tx) {
    struct cached *e = find(c, tx);
    if (!e)
        return NULL;
    struct tx_content *content = tx_content_ref(e->content);
    drop(c, e);
    return content;
}
