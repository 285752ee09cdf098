/* The engine: its thread, what is in flight, and how it begins and ends. engine.h has the way of an operation. */
#include "engine.h"

#include "checks.h"
#include "rpc/crossing.h"
#include "rpc/library.h"

#include <grpc/support/time.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <unistd.h>

enum { TICK_MS = 25, RECEIVE_MAX = 64 << 20 };

static _Thread_local struct client *engine_of;

bool client_on_engine(void) {
    return engine_of != NULL;
}

void client_start(struct client *c, grpc_call *call, const grpc_op *ops, size_t n, struct event *ev) {
    c->batches++;
    crossing_begin(ev);
    ASSERT(grpc_call_start_batch(call, ops, n, ev, NULL) == GRPC_CALL_OK);
}

static void on_woken(struct client *c, struct event *ev, bool ok) {
    c->waking = false;
}

/* For what only the engine does. @locks lock */
static void wake(struct client *c) {
    if (c->waking)
        return;
    c->waking = true;
    client_start(c, c->waker, NULL, 0, &c->woken);
}

/* --- in flight. @locks lock --- */

static bool has_room(const struct client *c, const struct op *op) {
    return c->live < c->o->max_in_flight && c->free_n > 0 &&
           (c->live == 0 || c->bytes + (int64_t)op->n <= c->o->max_bytes);
}

static void enter(struct client *c, struct op *op, uint64_t now) {
    uint32_t slot = c->free_slots[--c->free_n];

    op->tag = ++c->generation * (c->slot_mask + 1) + slot;
    c->slots[slot] = op;
    c->live++;
    c->bytes += (int64_t)op->n;
    c->earliest_ns = MIN(c->earliest_ns, op->deadline_ns);
    if (op->waiter)
        op->waiter->open++;
    op_route(c, op, now);
}

void client_left(struct client *c, const struct op *op) {
    c->live--;
    c->bytes -= (int64_t)op->n;
    if (c->unheard > 0)
        pthread_cond_broadcast(&c->changed);
}

static struct timespec timespec_of(uint64_t ns) {
    return (struct timespec){.tv_sec = (time_t)(ns / NS_PER_S), .tv_nsec = (long)(ns % NS_PER_S)};
}

/* False: that time has come. */
static bool wait_changed(struct client *c, uint64_t until_ns) {
    struct timespec until = timespec_of(until_ns);

    c->unheard++;
    int e = pthread_cond_timedwait(&c->changed, &c->lock, &until);
    c->unheard--;
    return e == 0;
}

/* Starts a write on each stream that can take one; gives the lock away meanwhile. */
static void write_all(struct client *c, uint64_t now) {
    for (size_t i = 0; i < c->routes_n; i++)
        stream_write(&c->routes[i].stream, now);
}

static int wait_for_room(struct client *c, const struct op *op, bool wait) {
    while (!c->closing && !has_room(c, op))
        if (!wait || !wait_changed(c, op->deadline_ns))
            return TXMSG_ERROR_BUSY;
    return c->closing ? TXMSG_ERROR_CLOSED : TXMSG_OK;
}

/* The engine needs no waking: at the end of its turn it looks after all that is in flight. @locks lock */
static void let_in(struct client *c, struct op *op, uint64_t now) {
    bool idle = c->live == 0;

    enter(c, op, now);
    if ((idle || op->place == OP_WAITING) && !client_is_engine(c))
        wake(c);
}

int client_begin(struct client *c, struct op *op) {
    uint64_t now = op->due_ns;
    int e;

    pthread_mutex_lock(&c->lock);
    e = wait_for_room(c, op, false);
    if (!e)
        let_in(c, op, now);
    if (!e && !client_is_engine(c))
        write_all(c, now);
    pthread_mutex_unlock(&c->lock);
    return e;
}

size_t client_submit(struct client *c, struct op *const *ops, size_t n, int *error) {
    uint64_t now = ops[0]->due_ns;
    size_t i = 0;

    *error = TXMSG_OK;
    pthread_mutex_lock(&c->lock);
    for (; i < n; i++) {
        if (i > 0 && !has_room(c, ops[i]))
            write_all(c, now); /* it may wait for those before it */
        *error = wait_for_room(c, ops[i], true);
        if (*error)
            break;
        let_in(c, ops[i], now);
    }
    write_all(c, now);
    pthread_mutex_unlock(&c->lock);
    return i;
}

void client_wait(struct client *c, struct waiter *w) {
    pthread_mutex_lock(&c->lock);
    while (w->open > 0)
        pthread_cond_wait(&w->changed, &c->lock);
    pthread_mutex_unlock(&c->lock);
}

int client_flush(struct client *c, int64_t timeout_ms) {
    uint64_t until = clock_mono_ns() + (uint64_t)timeout_ms * NS_PER_MS;

    pthread_mutex_lock(&c->lock);
    while (c->live > 0 && !c->closing && wait_changed(c, until))
        ;
    int status = c->live == 0 ? TXMSG_OK : c->closing ? TXMSG_ERROR_CLOSED : TXMSG_UNAVAILABLE;
    pthread_mutex_unlock(&c->lock);
    return status;
}

/* --- callbacks --- */

/* Runs those of `ops`, without the lock. */
static void run_callbacks(struct client *c, struct list *ops) {
    for (struct list *e; (e = list_pop(ops)) != NULL;) {
        struct op *op = LIST_ENTRY(e, struct op, link);

        op->done(op->arg, &op->result);
        op_free(c, op);
    }
}

/* Up to `max` of the finished; they are in flight no more. @locks lock */
static int take_finished(struct client *c, struct list *ops, int max) {
    int n = 0;

    LIST_FOR (e, &c->finished) {
        if (n == max)
            break;
        client_left(c, LIST_ENTRY(e, struct op, link));
        n++;
    }
    if (n < max) {
        list_splice_tail(ops, &c->finished);
        return n;
    }
    for (int i = 0; i < n; i++)
        list_add_tail(ops, list_pop(&c->finished));
    return n;
}

static void signal_finished(const struct client *c) {
    uint64_t one = 1;

    if (!list_empty(&c->finished))
        ASSERT(write(c->fd, &one, sizeof(one)) == sizeof(one) || errno == EAGAIN);
}

/* The descriptor is read first: what finishes afterwards makes it readable again. */
int client_dispatch(struct client *c, int max) {
    struct list ops = LIST_INIT(ops);
    uint64_t count;
    int n;

    pthread_mutex_lock(&c->lock);
    ASSERT(read(c->fd, &count, sizeof(count)) == sizeof(count) || errno == EAGAIN);
    n = take_finished(c, &ops, max > 0 ? max : INT32_MAX);
    signal_finished(c);
    pthread_mutex_unlock(&c->lock);
    run_callbacks(c, &ops);
    return n;
}

/* @locks lock */
static void deliver(struct client *c) {
    struct list ops = LIST_INIT(ops);

    if (list_empty(&c->finished))
        return;
    if (c->o->dispatch) {
        signal_finished(c);
        return;
    }
    take_finished(c, &ops, INT32_MAX);
    pthread_mutex_unlock(&c->lock);
    run_callbacks(c, &ops);
    pthread_mutex_lock(&c->lock);
}

/* --- the thread --- */

static gpr_timespec core_time(uint64_t ns) {
    return ns == UINT64_MAX ? gpr_inf_future(GPR_CLOCK_MONOTONIC)
                            : gpr_time_from_nanos((int64_t)ns, GPR_CLOCK_MONOTONIC);
}

/* Everything ends, over several turns: streams and calls are over when core has given their batches back. @locks lock */
static void close_down(struct client *c) {
    for (size_t i = 0; i <= c->slot_mask; i++)
        if (c->slots[i])
            op_expire(c, c->slots[i]);
    for (size_t i = 0; i < c->routes_n; i++)
        stream_cancel(&c->routes[i].stream);
    single_cancel_all(c);
    checks_cancel(c->checks);
}

static void turn(struct client *c, const grpc_event *ev) {
    struct event *event = ev->tag;
    uint64_t now;

    if (ev->type == GRPC_OP_COMPLETE) {
        crossing_end(event);
        c->batches--;
        event->fn(c, event, ev->success);
    }
    now = c->turn_ns = clock_mono_ns();
    if (c->closing) {
        close_down(c);
    } else if (now >= c->tick_ns) {
        c->tick_ns = now + TICK_MS * NS_PER_MS;
        client_tick(c, now);
    }
    deliver(c);
    for (size_t i = 0; c->live > 0 && !c->closing && !c->unary && i < c->routes_n; i++)
        stream_open(&c->routes[i].stream, now);
    c->opening = c->checks && !c->closing && checks_turn(c->checks, now);
    write_all(c, now);
}

static void *engine_main(void *arg) {
    struct client *c = arg;

    pthread_setname_np(pthread_self(), "txmsg-client");
    engine_of = c;
    pthread_mutex_lock(&c->lock);
    while (!c->closing || c->batches > 0) {
        uint64_t until = c->live > 0 || c->closing || c->opening ? clock_mono_ns() + TICK_MS * NS_PER_MS : UINT64_MAX;

        pthread_mutex_unlock(&c->lock);
        grpc_event ev = grpc_completion_queue_next(c->queue, core_time(until), NULL);
        pthread_mutex_lock(&c->lock);
        turn(c, &ev);
    }
    pthread_mutex_unlock(&c->lock);
    return NULL;
}

/* Opens what is to be open from the start. */
static void client_wake(struct client *c) {
    pthread_mutex_lock(&c->lock);
    wake(c);
    pthread_mutex_unlock(&c->lock);
}

static int start_thread(struct client *c) {
    sigset_t all, before;
    int e;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    pthread_mutex_lock(&c->lock);
    e = pthread_create(&c->thread, NULL, engine_main, c);
    c->started = e == 0;
    pthread_mutex_unlock(&c->lock);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return e ? TXMSG_ERROR_SYSTEM : TXMSG_OK;
}

/* --- life --- */

static int make_routes(struct client *c) {
    size_t channels = (size_t)c->o->channels;
    int e = TXMSG_OK;

    c->routes = mem_calloc(c->o->addresses_n * channels, sizeof(*c->routes));
    if (!c->routes)
        return TXMSG_ERROR_MEMORY;
    for (size_t i = 0; !e && i < c->o->addresses_n * channels; i++) {
        c->routes_n++;
        e = route_init(&c->routes[i], c, c->o->addresses[i / channels], (int)i);
    }
    return e;
}

static int make_slots(struct client *c) {
    size_t n = (size_t)c->o->max_in_flight, size = 1;

    while (size < n)
        size *= 2;
    c->slot_mask = size - 1;
    c->slots = mem_calloc(size, sizeof(*c->slots));
    c->free_slots = mem_calloc(n, sizeof(*c->free_slots));
    if (!c->slots || !c->free_slots)
        return TXMSG_ERROR_MEMORY;
    for (size_t i = n; i-- > 0;)
        c->free_slots[c->free_n++] = (uint32_t)i;
    return TXMSG_OK;
}

static void make_core(struct client *c) {
    grpc_slice path = grpc_slice_from_static_string("/wake");

    library_init();
    c->queue = grpc_completion_queue_create_for_next(NULL);
    c->lame = grpc_lame_client_channel_create("wake", GRPC_STATUS_INTERNAL, "never called");
    c->waker = grpc_channel_create_call(c->lame, NULL, GRPC_PROPAGATE_DEFAULTS, c->queue, path, NULL,
                                        gpr_inf_future(GPR_CLOCK_MONOTONIC), NULL);
    c->woken.fn = on_woken;
}

static void make_locks(struct client *c) {
    pthread_condattr_t attr;

    pthread_mutex_init(&c->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&c->changed, &attr);
    pthread_condattr_destroy(&attr);
}

int client_make(const txmsg_options *o, struct client **ret) {
    struct client *c = mem_zalloc(sizeof(*c));
    int e;

    if (!c)
        return TXMSG_ERROR_MEMORY;
    c->fd = -1;
    c->earliest_ns = UINT64_MAX;
    list_init(&c->singles);
    list_init(&c->waiting);
    list_init(&c->delayed);
    list_init(&c->finished);
    for (size_t i = 0; i < SPARE_SIZES; i++)
        list_init(&c->spare[i].list);
    buf_init(&c->scratch, RECEIVE_MAX);
    make_locks(c);
    make_core(c);
    c->o = options_copy(o);
    e = c->o ? make_slots(c) : TXMSG_ERROR_MEMORY;
    if (!e)
        e = make_routes(c);
    if (!e && o->dispatch && (c->fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)) < 0)
        e = TXMSG_ERROR_SYSTEM;
    c->unary = o->unary;
    if (!e)
        e = checks_make(c, &c->checks);
    if (!e)
        e = start_thread(c);
    if (!e && c->checks)
        client_wake(c);
    if (e) {
        int why = errno; /* part of TXMSG_ERROR_ADDRESS */
        client_destroy(c);
        errno = why;
    } else {
        *ret = c;
    }
    return e;
}

static void destroy_core(struct client *c) {
    for (size_t i = 0; i < c->routes_n; i++)
        route_deinit(&c->routes[i]);
    grpc_call_unref(c->waker);
    grpc_channel_destroy(c->lame);
    grpc_completion_queue_shutdown(c->queue);
    while (grpc_completion_queue_next(c->queue, gpr_inf_future(GPR_CLOCK_MONOTONIC), NULL).type != GRPC_QUEUE_SHUTDOWN)
        ;
    grpc_completion_queue_destroy(c->queue);
    library_deinit();
}

void client_close(struct client *c) {
    pthread_mutex_lock(&c->lock);
    c->closing = true;
    wake(c);
    pthread_cond_broadcast(&c->changed);
    pthread_mutex_unlock(&c->lock);
}

void client_destroy(struct client *c) {
    if (c->started)
        pthread_join(c->thread, NULL);
    checks_destroy(c->checks);
    run_callbacks(c, &c->finished);
    destroy_core(c);
    if (c->fd >= 0)
        close(c->fd);
    pthread_cond_destroy(&c->changed);
    pthread_mutex_destroy(&c->lock);
    for (size_t i = 0; i < SPARE_SIZES; i++)
        for (struct list *e; (e = list_pop(&c->spare[i].list)) != NULL;)
            mem_free(LIST_ENTRY(e, struct op, link));
    buf_deinit(&c->scratch);
    mem_free(c->routes);
    mem_free(c->slots);
    mem_free(c->free_slots);
    txmsg_options_free(c->o);
    mem_free(c);
}
