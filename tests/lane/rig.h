/*
 * One lane on a loop's own thread behind the wire proxy, and what a scene needs to drive it from the main thread, one step after
 * the other: operations are submitted, conditions waited for, and what is stored is asked over a connection past the proxy.
 */
#pragma once

#include "store/lane_private.h"
#include "wire.h"

#include <stdatomic.h>

enum { WAIT_S = 60, CALLS = 8 };

struct call {
    struct lane_op op;
    struct uuid id;
    _Atomic bool done;
    enum op_outcome outcome;
    enum tx_state state;
};

struct rig {
    struct store store;
    struct loop *loop;
    struct lane *lane;
    struct wire *wire;
    PGconn *control;
    struct call calls[CALLS]; /* of the scene */
    int calls_n;
    /* what the lane said; written on its thread */
    _Atomic int number, opened, fenced, committed, confirmed, rides, rides_lost, rides_stale;
    _Atomic bool ride, riding, closed;
    void (*collect)(struct rig *r,
                    struct lane_batch *b); /* more rows for the next ride; main thread sets it before `ride` */
    struct lane_rider rider;
};

int rig_start(struct rig *r, const char *dsn);
void rig_stop(struct rig *r);

/* Runs fn on the lane's thread and returns when it has run. */
void rig_on_loop(struct rig *r, void (*fn)(struct rig *r));
/* A new lane, or an adopted one (behind a seal written by hand); the old one is freed. */
void rig_lane(struct rig *r, bool adopted);
/* The lane can commit, and the last surprise is over: the next batch goes in the optimistic form. */
void rig_settle(struct rig *r);
int32_t rig_next_seq(struct rig *r);

/* Adds an operation to the scene. `like`: the same id and content as that call of this scene, or -1. */
struct call *rig_call(struct rig *r, enum op_kind kind, int like, uint64_t deadline_ms);
void rig_submit(struct rig *r, int from); /* the calls from there on, as one batch */
bool rig_wait_done(struct rig *r);
void rig_clear(struct rig *r);

bool rig_wait(struct rig *r, bool (*fn)(struct rig *r)); /* polls until true; false = not within WAIT_S */
/* The first column of the first row as a number; -1 if there is none. */
long rig_sql(struct rig *r, const char *format, ...) __attribute__((format(printf, 2, 3)));
bool rig_wait_sql(struct rig *r, long wanted, const char *sql);
