/*
 * A parcel: one delivery and where it came from. Parcels are pooled for the whole worker, so that a delivery costs no
 * allocation; their number is bounded by the windows and claims that hold them. @thread of the loop
 */
#pragma once

#include "forward/sink.h"

struct outlet;

struct parcel {
    struct delivery d; /* first. d.link stands in the pool, in an outlet's queue or in the sink */
    struct outlet *outlet;
    struct uuid tx;
    /* Takes the parcel back with d's verdict, after the outlet has counted it. */
    void (*done)(struct parcel *p);
    /* Takes it back untried: shutting down, or it waited too long. NULL: it stays in the queue. */
    void (*untried)(struct parcel *p);
    void *origin;         /* cursor or claim */
    uint64_t slot;        /* of the cursor's window */
    uint64_t start_by_ns; /* not started later than this (CLOCK_MONOTONIC); 0 = any time */
    int64_t due_in_ms;    /* of a failed one that is kept until it is recorded */
    int64_t due_us;       /* likewise, of one that was not due yet: deliver_at */
    bool dead;            /* likewise: no further attempt */
    bool expired;         /* likewise: discarded */
    bool told;            /* likewise, of one that was delivered: its producer is to be told */
    bool queued;          /* in its outlet's queue */
    bool probe, from_log;
};

static inline const struct msg *parcel_msg(const struct parcel *p) {
    return &p->d.content->messages[p->d.n];
}
/* When a failed one is looked at again: not later than it expires, so that it is discarded then. */
static inline int64_t parcel_due_ms(const struct parcel *p, int64_t due_in_ms, int64_t now_us) {
    int64_t expire_at_us = parcel_msg(p)->expire_at_us;

    return expire_at_us ? MIN(due_in_ms, MAX((expire_at_us - now_us) / 1000 + 1, 1)) : due_in_ms;
}
static inline bool msg_expired(const struct msg *m, int64_t now_us) {
    return m->expire_at_us && m->expire_at_us <= now_us;
}

struct parcel_pool {
    struct list free, blocks;
};
void parcel_pool_init(struct parcel_pool *pool);
void parcel_pool_deinit(struct parcel_pool *pool); /* every parcel is back */
/* Blank but for list links; NULL when out of memory. */
struct parcel *parcel_get(struct parcel_pool *pool) MUSTCHECK;
void parcel_put(struct parcel_pool *pool, struct parcel *p); /* drops its reference to the content */
