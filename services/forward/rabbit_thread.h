/*
 * The thread of one RabbitMQ sink, and what it shares with the loop. A delivery is in the queue (under lock), with the
 * thread (published, waiting for its confirm), or in the mailbox on its way back.
 */
#pragma once

#include "forward/rabbit_conn.h"

#include <pthread.h>

enum { RABBIT_UNCONFIRMED_MAX = 1024 };
#define RABBIT_BLOCKED "the broker takes no messages: short of memory or disk"
#define RABBIT_LATE    "no confirm: the broker is, or was, short of memory or disk"

struct rabbit_work;
struct rabbit_shared {
    struct rabbit_target target; /* immutable */
    struct rabbit_work *work;    /* the thread's own */
    struct mailbox *back;        /* to the loop; not touched once `closing` was seen with `orphaned` */
    int wake_fd;                 /* eventfd: something changed under lock */

    pthread_mutex_t lock;
    pthread_cond_t changed; /* opening or exited */
    struct list queue;      /* deliveries not yet taken by the thread */
    bool closing;           /* the loop's wish */
    bool opening;           /* the thread is connecting and holds no delivery */
    bool orphaned;          /* the loop did not wait: the thread frees all this */
    bool exited;
    int kill_fd;               /* a duplicate of the socket, for shutdown(); -1 = none */
    uint64_t sending_since_ns; /* 0 = not inside a send */
    bool blocked;              /* by the broker: why nothing is sent */
};

int rabbit_shared_new(const struct sub_conf *sub, const struct guard *guard, struct rabbit_shared **ret,
                      struct errmsg *e) MUSTCHECK;
void rabbit_shared_free(struct rabbit_shared *s); /* NULL allowed */
/* @thread any */
void rabbit_wake(struct rabbit_shared *s);
/* When a delivery must have ended: monotonic milliseconds, in its sink_data. */
static inline void rabbit_set_deadline(struct delivery *d, uint64_t ms) {
    d->sink_data = (void *)(uintptr_t)ms;
}
static inline uint64_t rabbit_deadline(const struct delivery *d) {
    return (uint64_t)(uintptr_t)d->sink_data;
}
/* The thread's function. */
void *rabbit_thread(void *shared);
