/*
 * The window of one cursor: messages that were started in the order of the lane and end in any order. Pure logic: no
 * I/O, no clock, no lane.
 *
 * W is the position before which everything is settled: the position of the oldest message that is not, or where the
 * cursor reads next. A message is settled when it was delivered (DONE) or when its row, to retry or to tell of it, is in the batch
 * that carries W past it; so a SPILL stops W until whoever collects has added that row, and only then pops it.
 */
#pragma once

#include "store/lane.h"

enum { WINDOW_HARD_MAX = 4096 };
enum window_state { WINDOW_FLIGHT = 1, WINDOW_DONE, WINDOW_SPILL };

struct window_slot {
    struct lane_pos pos;
    enum window_state state;
    void *item; /* the owner's */
};

struct window {
    struct window_slot *slots; /* slot of id i at i & mask */
    uint64_t head, tail;       /* ids: head is the oldest, tail the next one */
    uint32_t mask, max, in_flight;
};

/* max is cut to 1..WINDOW_HARD_MAX; memory grows with use. */
void window_init(struct window *w, uint32_t max);
void window_deinit(struct window *w); /* items are the owner's; may be called twice */
static inline uint32_t window_count(const struct window *w) {
    return (uint32_t)(w->tail - w->head);
}
/* Settled but not popped. */
static inline uint32_t window_settled(const struct window *w) {
    return window_count(w) - w->in_flight;
}
/* Makes sure that one more fits: 0, 1 = full, -ENOMEM. */
int window_room(struct window *w) MUSTCHECK;
/* After window_room() returned 0. Positions must ascend. Returns the slot's id. */
uint64_t window_push(struct window *w, struct lane_pos pos, void *item);
/* A message in flight ended: DONE or SPILL. */
void window_settle(struct window *w, uint64_t id, enum window_state state);
/* The slot of an id between head and tail. */
struct window_slot *window_slot(struct window *w, uint64_t id);
/* The oldest one, NULL when empty. */
struct window_slot *window_head(struct window *w);
/* How many DONE ones stand at the head. */
uint32_t window_leading_done(struct window *w);
void window_pop(struct window *w); /* the head, which must be settled */
/* W, when the cursor reads on at `read`. */
struct lane_pos window_mark(struct window *w, struct lane_pos read);
