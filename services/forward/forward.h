/*
 * The forwarder of one worker: walks the confirmed entries of its lanes (its own and adopted ones) with one cursor per
 * subscription, hands messages to sinks, and claims failed deliveries that became due. @thread of the worker's loop
 */
#pragma once

#include "core/policy.h"
#include "loop/loop.h"
#include "store/lane.h"
#include "store/read.h"

struct webclient;
struct guard;
struct rpc_caller;
struct forward;
struct forward_options {
    int64_t tail_bytes;    /* payloads kept for delivery from memory, per worker; default 64 MiB */
    int64_t read_bytes;    /* payloads being read back from the log at a time; default 8 MiB */
    int window;            /* messages in flight of one cursor at most; default 1024, hard limit 4096 */
    int64_t retry_poll_ms; /* how often due retries are looked for; default 200 */
    int spill_limit; /* rows in delivery_due of one subscription by this worker until its cursor parks; default 10000 */
    struct rpc_caller *caller; /* of gRPC sinks; outlives the forwarder. NULL = such sinks cannot be made */
    const struct guard *guard; /* of RabbitMQ sinks; likewise. NULL = public addresses only */
};
int forward_new(struct loop *l, struct store *s, struct reader *r, struct webclient *w, const struct forward_options *o,
                struct forward **ret) MUSTCHECK;
/* A new configuration snapshot; keeps its own reference. Sinks of changed subscriptions are made anew. */
void forward_topology(struct forward *f, struct topology *t);
/*
 * The worker's own lane opened; rider and cursors are registered with it. `adopted`: a dead worker's lane, begins with
 * its stored cursors. The lane must exist until forward_drop_lane() of that number, or forward_free().
 */
int forward_lane(struct forward *f, struct lane *lane, int32_t number, bool adopted) MUSTCHECK;
/* From lane_owner.committed. */
void forward_committed(struct forward *f, int32_t lane, int32_t seq, int64_t at_us, const struct lane_confirmed *conf,
                       uint32_t n);
/* Fenced, drained or closed: everything about it is dropped. Before lane_free(). */
void forward_drop_lane(struct forward *f, int32_t lane);
void forward_allow(struct forward *f, bool allowed);  /* false: start nothing */
void forward_sharers(struct forward *f, int workers); /* live workers of all replicas: they share the rates */
/* Outcome events are published slower than they are made: no first attempt is started that would make one. */
void forward_telling_late(struct forward *f, bool late);
/* For an adopted lane: true when every cursor has passed its last entry, durably. */
bool forward_lane_settled(const struct forward *f, int32_t lane);
/* For an adopted lane: all that is left waits for subscriptions that deliver nothing now (parked or paused). */
bool forward_lane_parked(const struct forward *f, int32_t lane);
/* Stops starting deliveries; fn once when none is in flight. */
void forward_drain(struct forward *f, void (*fn)(void *arg), void *arg);
void forward_free(struct forward *f);
