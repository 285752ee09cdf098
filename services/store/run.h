/*
 * The identity and heartbeat of a worker, and what it does for the dead: a worker registers a run, raises its beat every second,
 * watches the beats of others on its own CLOCK_BOOTTIME, and takes over lanes of runs that stood still for `dead_after_ms`, and sealed lanes
 * whose run has ended (STORAGE.md 4). @thread of the loop
 */
#pragma once

#include "store/lane.h"

struct run_owner {
    /* Registered: lanes may be opened under this run id. Once. */
    void (*registered)(void *arg, const struct uuid *run);
    /* false: no heartbeat got through for 3.5 s (0.7 x dead_after): stop dispatching; true: it does again. */
    void (*alive)(void *arg, bool alive);
    /* A lane is ours now: sealed (by its owner or by us), its first free seq is next_seq. At most `max_adopted` at once. */
    void (*adopted)(void *arg, int32_t lane, int32_t next_seq);
    void *arg;
};
struct run;
int run_new(struct loop *l, struct store *s, int max_adopted, const struct run_owner *owner, struct run **ret)
    MUSTCHECK;
/* The configuration epoch that this worker has applied; written with the next beat. */
void run_applied_epoch(struct run *r, int64_t epoch);
/* Workers whose beat rose lately, this one included; at least 1. */
int run_live(const struct run *r);
/*
 * Everything of an adopted (or own, sealed) lane is settled up to its last entry under `epoch`: mark it drained unless cfg.epoch moved on or
 * somebody else owns it. fn(arg, 0 = drained, 1 = not now, 2 = it is not ours any more, negative).
 */
int run_drain(struct run *r, int32_t lane, int64_t epoch, void (*fn)(void *arg, int code), void *arg) MUSTCHECK;
/* Lanes of the dead wait, and there is no place for them: see `max_adopted`. */
bool run_crowded(const struct run *r);
/* The owner dropped an adopted lane (fenced, failed, or to make room): it may be offered again, a little later. */
void run_dropped(struct run *r, int32_t lane);
/* Removes the worker row (its sealed lanes are then free to be adopted at once) and calls fn. */
void run_retire(struct run *r, void (*fn)(void *arg), void *arg);
void run_free(struct run *r);
