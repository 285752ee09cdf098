/*
 * A thread with a libuv loop, and the bounded mailbox by which other threads reach it.
 *
 * Objects belong to one loop and are touched on its thread only. The only crossing is loop_post() and struct mailbox.
 */
#pragma once

#include "base/err.h"
#include "base/list.h"

#include <uv.h>

struct loop; /* one uv_loop_t, and its thread once started */

int loop_new(const char *name, struct loop **ret) MUSTCHECK; /* name: thread name, at most 15 characters */
/*
 * NULL allowed; after loop_join, or never started. Every handle must be closed by now: a timer or mailbox that is left
 * ends the process. Posts of a loop that never ran are run here.
 */
void loop_free(struct loop *l);
uv_loop_t *loop_uv(struct loop *l);
/* Runs until loop_stop() was called and every handle is closed. Start: on a thread of its own; run: on the caller's.
 * Once only: -EALREADY while it runs. -EAGAIN: no thread to be had. */
int loop_start(struct loop *l) MUSTCHECK;
int loop_run(struct loop *l) MUSTCHECK;
void loop_join(struct loop *l); /* after loop_start; harmless without. Not from the loop's thread */
/*
 * No more posts get in, those that did are still run; the loop ends when the owners have closed their handles. May be
 * called twice. @thread of the loop: from elsewhere post a function that calls it
 */
void loop_stop(struct loop *l);
bool loop_is_mine(const struct loop *l); /* true on the loop's thread (or before and after it runs) */
/* CLOCK_MONOTONIC in nanoseconds, cached at the loop's wake-up and cut to milliseconds. @thread of the loop */
uint64_t loop_now_ns(struct loop *l);

/* Runs fn(arg) on the loop's thread, in the order of posting, unbounded: for control, not for traffic. @thread any
 * -ENOMEM; -ECANCELED after loop_stop(): fn will not run and arg stays the caller's. */
int loop_post(struct loop *l, void (*fn)(void *arg), void *arg) MUSTCHECK;

/*
 * Mailbox: many senders, one receiving loop, a bound. Items are intrusive list nodes whose ownership moves with them.
 * Wakes coalesce: one callback may find many items.
 */
struct mailbox;
/* `receive` runs on the loop's thread with all items that arrived, in the order of sending, and must take every one.
 * The bound counts items not yet received. -EINVAL: max_items is 0. @thread of the loop */
int mailbox_new(struct loop *l, size_t max_items, void (*receive)(void *arg, struct list *items), void *arg,
                struct mailbox **ret) MUSTCHECK;
/* 0, or 1 = full or closed: the item stays the sender's. Not after mailbox_free(). @thread any */
int mailbox_send(struct mailbox *m, struct list *item) MUSTCHECK;
/*
 * For many, without waking the loop: takes from the head of the list what fits, the rest stays in it (all, if closed).
 * Whoever puts must call mailbox_wake() soon. @thread any
 */
void mailbox_put_all(struct mailbox *m, struct list *items);
void mailbox_wake(struct mailbox *m);           /* if anything is in it. Not after mailbox_free(). @thread any */
size_t mailbox_length(const struct mailbox *m); /* @thread any; a hint */
/*
 * No more items get in; those inside are still delivered to `receive` before this returns. May be called twice, and
 * from `receive`. @thread of the loop
 */
void mailbox_close(struct mailbox *m);
/* After close; frees once the loop has dropped the handle. NULL allowed. @thread of the loop */
void mailbox_free(struct mailbox *m);

/* One-shot timer that may be re-armed at will; closing is asynchronous inside but the caller may forget it at once. */
struct timer;
int timer_new(struct loop *l, void (*fn)(void *arg), void *arg, struct timer **ret) MUSTCHECK;
/* Replaces an earlier arming. Counts from now. 0 = next turn of the loop (from a timer's fn: the next millisecond). */
void timer_arm(struct timer *t, uint64_t after_ms);
void timer_stop(struct timer *t);
bool timer_armed(const struct timer *t);
void timer_free(struct timer *t); /* NULL allowed; fn never runs afterwards. @thread of the loop */

/* SIGTERM / SIGINT / SIGHUP -> fn(arg, signum) on the loop's thread. Signals in quick succession may come as one. */
struct signals;
int signals_new(struct loop *l, void (*fn)(void *arg, int signum), void *arg, struct signals **ret) MUSTCHECK;
void signals_free(struct signals *s); /* NULL allowed; fn never runs afterwards. @thread of the loop */
