/*
 * The inside of a client.
 *
 *   caller -> op_new() (packed there) -> client_begin(), client_submit(): within the bounds -> op_route(): to a stream that is open, to `waiting`, or a call of its
 *   own -> a frame, a write -> a result -> done, or `delayed` until it is repeated, until its deadline -> a waiting caller, or `finished` and a callback
 *
 * One lock guards all of it but what says otherwise. The engine's thread alone waits on core's queue, opens streams, repeats and gives up. Any thread
 * starts a write or a call, right when its operation came, if the stream has none under way: so an operation needs no second thread to leave, and
 * what comes while a write is under way goes together in the next.
 */
#pragma once

#include "base/clock.h"
#include "base/list.h"
#include "encode.h"
#include "event.h"
#include "options.h"
#include "result.h"
#include "stream.h"
#include "txmsg/client.h"

#include <grpc/grpc.h>
#include <pthread.h>

/* --- operations --- */

enum op_place {
    OP_WAITING, /* for a stream */
    OP_DELAYED, /* for its repeat */
    OP_READY,   /* for the next frame of its stream */
    OP_SENT,    /* for its result from the stream */
    OP_CALLING, /* for the end of its own call */
    OP_FINISHED,
};
struct op {
    struct list link;    /* of its place, but for those that are sent or calling */
    struct route *route; /* of those that are sent */
    enum op_place place;
    enum op_kind kind;
    bool alone; /* by a call of its own */
    bool maybe; /* an attempt may have been stored */
    int tries;
    uint64_t tag, hash;           /* tag: names it while it is in flight, never again */
    uint64_t deadline_ns, due_ns; /* due: when it began, later when it is to be repeated */
    uint8_t *operation, *request; /* as it stands in a frame; as the request of a call: its end, `n` bytes */
    size_t n, fields;
    size_t block;          /* its size, by number */
    struct waiter *waiter; /* NULL: asynchronous */
    txmsg_done_fn done;
    void *arg;
    txmsg_result result;
    uint8_t bytes[];
};
struct waiter {
    pthread_cond_t changed;
    size_t open; /* of its operations, how many are in flight */
};
/* Begins now. TXMSG_ERROR_INVALID: too large. TXMSG_ERROR_MEMORY. @thread any, without the lock */
int op_new(struct client *c, const struct call *call, struct op **ret);
void op_free(struct client *c, struct op *op); /* NULL allowed */

/* --- streams: route.c --- */

struct route {
    struct stream stream;
    bool granted; /* credit, since it was opened */
    uint64_t credit;
    struct list ready;
    size_t sent;       /* how many */
    uint64_t heard_ns; /* something came, or it began to owe answers */
};
int route_init(struct route *r, struct client *c, const char *address, int number);
void route_deinit(struct route *r);
static inline bool route_takes(const struct route *r) {
    return r->granted && stream_is_open(&r->stream);
}
static inline void route_take(struct route *r, struct op *op) {
    op->place = OP_READY;
    list_add_tail(&r->ready, &op->link);
}
/* Owes answers and says nothing: ends it. */
void route_watch(struct route *r, uint64_t now);

/* --- calls of their own: single.c --- */

void single_start(struct client *c, struct op *op, uint64_t now);
void single_cancel_all(struct client *c);

/* --- the client --- */

enum { SPARE_SIZES = 2 };
struct client {
    txmsg_options *o;
    grpc_completion_queue *queue;
    pthread_t thread;
    bool started, closing, unary;
    bool opening; /* a stream of checks is to be opened later */
    pthread_mutex_t lock;
    pthread_cond_t changed; /* room, or nothing in flight */
    int64_t batches;        /* of core, out */

    grpc_channel *lame;
    grpc_call *waker; /* an empty batch on it wakes the engine */
    struct event woken;
    bool waking;

    struct route *routes;
    size_t routes_n;
    struct list singles;
    struct checks *checks; /* NULL = nobody answers any */
    struct buf scratch;    /* of the engine */

    struct op **slots; /* by number; max_in_flight, and up to a power of two that are never used */
    uint64_t slot_mask;
    uint32_t *free_slots;
    size_t free_n;
    uint64_t generation;
    struct list waiting, delayed, finished;
    struct
        spare { /* memory of operations, by size, for those that begin in callbacks. Of the engine, without the lock */
        struct list list;
        int n;
    } spare[SPARE_SIZES];
    int64_t live, bytes, unheard; /* unheard: callers that wait for `changed` */
    uint64_t earliest_ns;         /* no deadline is before it */
    uint64_t tick_ns, turn_ns;
    char last_error[256]; /* why no stream could be opened */

    int fd; /* readable while `finished` has something; < 0 without dispatch */
};
int client_make(const txmsg_options *o, struct client **ret);
/* Everything in flight ends, and nothing begins any more. */
void client_close(struct client *c);
/* After that, with nobody inside: the engine ends; callbacks that were to be dispatched come from here. */
void client_destroy(struct client *c);
/* TXMSG_OK: it is in flight, and the client's until it is finished. TXMSG_ERROR_BUSY, TXMSG_ERROR_CLOSED. @thread any */
int client_begin(struct client *c, struct op *op);
/*
 * As many of them, from the first, as find room, each until its deadline; *error is why the next does not, TXMSG_OK where there is none. @thread any but
 * the engine's
 */
size_t client_submit(struct client *c, struct op *const *ops, size_t n, int *error);
/* Until its operations are finished; they are the caller's then. */
void client_wait(struct client *c, struct waiter *w);
int client_flush(struct client *c, int64_t timeout_ms);
int client_dispatch(struct client *c, int max);
bool client_on_engine(void); /* the calling thread is that of an engine */
static inline bool client_is_engine(const struct client *c) {
    return pthread_equal(c->thread, pthread_self());
}
/* In callbacks that of the turn: many come together. */
static inline uint64_t client_now_ns(const struct client *c) {
    return client_is_engine(c) ? c->turn_ns : clock_mono_ns();
}

/* For streams and calls, under the lock. */
static inline struct op *op_of_tag(struct client *c, uint64_t tag) {
    struct op *op = c->slots[tag & c->slot_mask];

    return op && op->tag == tag ? op : NULL;
}
/* An attempt has ended; op->result says how. */
void op_attempted(struct client *c, struct op *op, enum outcome o, uint64_t now);
/* To a stream, to wait for one, or on a call of its own. */
void op_route(struct client *c, struct op *op, uint64_t now);
/* It is in flight no more: there is room. */
void client_left(struct client *c, const struct op *op);
void op_expire(struct client *c, struct op *op);
void client_tick(struct client *c, uint64_t now);
/* All of these look for a stream again. */
void client_reroute(struct client *c, struct list *ops, uint64_t now);
