/*
 * An outlet: one subscription in this worker, with its sink. Everything that leaves for the subscription passes here,
 * from cursors of any lane and from claims, so here are the bound on deliveries in flight, the breaker and the counts.
 * @thread of the loop
 */
#pragma once

#include "core/rate.h"
#include "forward/breaker.h"
#include "forward/env.h"

struct outlet {
    struct list link;    /* the forwarder's */
    struct list dirty;   /* in the forwarder's list of outlets to serve; alone when not */
    struct list cursors; /* struct sub_cursor, the next to serve first */
    struct forward_env *env;
    const struct sub_conf *conf;    /* of the newest snapshot, which the forwarder holds */
    struct topology *sink_snapshot; /* the one that the sink reads */
    struct sink *sink;              /* NULL: it could not be made, tried again by the timer */
    struct list queue;              /* parcels that go before the cursors: claims, and what an old sink gave back */
    uint32_t queued, in_flight;
    uint32_t claims, replays; /* rows claimed and not finished: see retry.c */
    bool busy;                /* the sink refused one; it will call */
    bool replacing;           /* its sink is being closed for a new one */
    bool sent;                /* something was handed over since the last flush */
    struct breaker breaker;
    struct rate rate;
    int64_t rows;        /* rows to retry that this worker wrote, less those that it finished; not those never tried */
    int64_t rows_due_ms; /* no row known to us is due later than this (monotonic) */
    struct timer *timer; /* the next probe, or the next try to make a sink */
    struct metric *ok, *retry, *reject, *seconds;
    struct lag *lag; /* NULL = not reported */
};

/* A sink that cannot be made is no error: the outlet logs it and tries again. -ENOMEM */
int outlet_new(struct forward_env *env, struct topology *t, const struct sub_conf *conf, struct outlet **ret) MUSTCHECK;
/* A new snapshot; makes the sink anew if its part changed. */
void outlet_update(struct outlet *o, struct topology *t, const struct sub_conf *conf);
/* The sink is closed: parcels come back by `done` and `untried` before this returns. NULL allowed */
void outlet_free(struct outlet *o);

int64_t outlet_lease_ms(const struct outlet *o);
/* A free slot, an open way and no refusal under way? */
bool outlet_may_start(struct outlet *o);
/* The same for messages that were never tried: not while too many rows wait. */
bool outlet_may_start_new(struct outlet *o);
/* Nothing new goes out for some time: its breaker is open, it is paused, or too many rows wait. */
bool outlet_parked(const struct outlet *o);
/* SINK_TAKEN, or SINK_BUSY: the parcel stays the caller's. Only after outlet_may_start(). */
int outlet_send(struct outlet *o, struct parcel *p) MUSTCHECK;
void outlet_enqueue(struct outlet *o, struct parcel *p); /* sent as soon as it may, before anything of the cursors */
void outlet_serve_queue(struct outlet *o);
void outlet_flush(struct outlet *o);
/* Gives every queued parcel that can be back untried. */
void outlet_release(struct outlet *o);
/* Its origin is gone: a queued parcel is freed, one at the sink when it comes back. */
void outlet_orphan(struct outlet *o, struct parcel *p);
/* A row to retry was written (+1) or finished (-1); due_in_ms: when it comes due. */
void outlet_rows(struct outlet *o, int by, int64_t due_in_ms);
/* A claim found nothing due: rows that we lost count of are with others. */
void outlet_nothing_due(struct outlet *o);
