/*
 * Payloads of prepared, undecided transactions of one worker, so that a Confirm finds its messages in memory. Bounded by bytes; the
 * oldest go first. Filled only after the commit: a cache filled earlier could send a body that lost. @thread of the loop
 */
#pragma once

#include "base/list.h"
#include "core/tx.h"

struct cache {
    struct hmap map;
    struct list order; /* oldest first */
    size_t bytes, max;
};
int cache_init(struct cache *c, size_t max_bytes) MUSTCHECK;
void cache_deinit(struct cache *c);
void cache_clear(struct cache *c);
/* Takes a reference of its own; forgets silently when there is no memory. */
void cache_put(struct cache *c, struct tx_content *content);
/* The cached content with its reference, or NULL; it leaves the cache. */
struct tx_content *cache_take(struct cache *c, const struct uuid *tx) MUSTCHECK;
