/* What the parts of one worker's forwarder share. Private to the room; owned by forward.c. @thread of the loop */
#pragma once

#include "base/metric.h"
#include "forward/forward.h"
#include "forward/parcel.h"

enum {
    UNRECORDED_MAX = 1000, /* settled messages of one cursor whose record is not durable yet: no more are started */
    REWRITE_ENTRIES = 900, /* a cursor is written again after so many entries of its lane; readers look back 1,000 */
    RETRY_LEASE_EXTRA_MS = 10000, /* a claim's lease: twice the sink's timeout and this */
};

struct forward_env {
    struct loop *loop;
    struct store *store;
    struct reader *reader;
    struct webclient *web;
    struct forward_options o;
    struct parcel_pool pool;
    bool allowed, draining;
    const struct topology *topology;           /* the newest, which the forwarder holds; NULL until the first one */
    bool telling_late;                         /* deliveries whose producer is to be told of them wait */
    uint32_t in_flight;                        /* at all sinks together */
    int sharers;                               /* workers that share a subscription's rate, this one included */
    void (*wake)(void *arg, struct outlet *o); /* it has something to do: served at the next turn of the loop */
    void *wake_arg;
    struct metric_family *attempts, *seconds;
    struct metric *duplicates, *from_memory, *from_log, *stale, *replayed;
};
static inline bool forward_may_start(const struct forward_env *env) {
    return env->allowed && !env->draining;
}
/* Does the producer of this content want to hear of its deliveries? */
static inline bool forward_tells(const struct forward_env *env, const struct tx_content *c) {
    return env->topology && topology_tells_delivered(env->topology, c->producer);
}
/* CLOCK_MONOTONIC of this turn, and the database's clock. */
static inline uint64_t forward_now_ns(const struct forward_env *env) {
    return loop_now_ns(env->loop);
}
