/*
 * RabbitMQ: the loop's side of the sink. A thread of its own (rabbit_thread.c) talks to the broker.
 *
 * Deliveries go over in bursts: `pending` until the flush, then the shared queue; they come back by a mailbox. At most
 * RABBIT_UNCONFIRMED_MAX are out. A watch keeps the promise that each ends within the timeout whatever the thread is
 * doing: what still stands in the queue is failed here; a thread that hangs in a send has its socket shut down.
 *
 * Closing waits for the thread, which holds deliveries, but not while it is connecting: then it holds none and may
 * hang in a name lookup for long, so it is left alone and frees the shared part itself.
 */
#include "base/clock.h"
#include "base/mem.h"
#include "forward/rabbit_thread.h"

#include <signal.h>
#include <sys/socket.h>

enum { WATCH_MS = 250, CLOSE_GRACE_MS = 200 };

struct rabbit_sink {
    struct sink sink;
    struct rabbit_shared *shared;
    struct mailbox *back;
    struct timer *flush, *watch;
    struct list pending;
    uint32_t out; /* taken and not ended */
    bool refused; /* the owner waits for `ready` */
    pthread_t thread;
};

static void hand_over(void *arg) {
    struct rabbit_sink *s = arg;

    timer_stop(s->flush);
    if (list_empty(&s->pending))
        return;
    pthread_mutex_lock(&s->shared->lock);
    list_splice_tail(&s->shared->queue, &s->pending);
    pthread_mutex_unlock(&s->shared->lock);
    rabbit_wake(s->shared);
}

static void rabbit_flush(struct sink *sink) {
    hand_over(CONTAINER_OF(sink, struct rabbit_sink, sink));
}

static int rabbit_deliver(struct sink *sink, struct delivery *d) {
    struct rabbit_sink *s = CONTAINER_OF(sink, struct rabbit_sink, sink);

    if (s->out == RABBIT_UNCONFIRMED_MAX) {
        s->refused = true;
        return SINK_BUSY;
    }
    s->out++;
    rabbit_set_deadline(d, clock_mono_ns() / NS_PER_MS + (uint64_t)s->shared->target.timeout_ms);
    if (list_empty(&s->pending))
        timer_arm(s->flush, 0); /* if nobody flushes */
    list_add_tail(&s->pending, &d->link);
    if (!timer_armed(s->watch))
        timer_arm(s->watch, WATCH_MS);
    return SINK_TAKEN;
}

static void end(struct rabbit_sink *s, struct delivery *d) {
    s->out--;
    sink_done(&s->sink, d, d->verdict, d->unknown, -1, d->error);
}

static void on_back(void *arg, struct list *items) {
    struct rabbit_sink *s = arg;
    struct list *e;

    while ((e = list_pop(items)))
        end(s, LIST_ENTRY(e, struct delivery, link));
    if (s->refused && s->out < RABBIT_UNCONFIRMED_MAX) {
        s->refused = false;
        s->sink.owner.ready(s->sink.owner.arg);
    }
}

static void fail_here(struct rabbit_sink *s, struct list *l, const char *error) {
    struct list *e;

    while ((e = list_pop(l))) {
        struct delivery *d = LIST_ENTRY(e, struct delivery, link);
        sink_says(d, ATTEMPT_UNREACHABLE, 0);
        d->verdict = SINK_RETRY;
        d->unknown = false;
        snprintf(d->error, sizeof(d->error), "%s", error);
        end(s, d);
    }
}

/* --- the watch --- */

static void kill_socket(struct rabbit_shared *sh) {
    if (sh->kill_fd >= 0)
        shutdown(sh->kill_fd, SHUT_RDWR);
}

static void on_watch(void *arg) {
    struct rabbit_sink *s = arg;
    struct rabbit_shared *sh = s->shared;
    uint64_t now_ns = clock_mono_ns(), timeout_ns = (uint64_t)sh->target.timeout_ms * NS_PER_MS;
    struct list late = LIST_INIT(late);
    char error[80];

    pthread_mutex_lock(&sh->lock);
    while (!list_empty(&sh->queue)) {
        struct delivery *d = LIST_ENTRY(sh->queue.next, struct delivery, link);
        if (rabbit_deadline(d) > now_ns / NS_PER_MS)
            break;
        list_del(&d->link);
        list_add_tail(&late, &d->link);
    }
    if (sh->sending_since_ns && now_ns > sh->sending_since_ns + timeout_ns)
        kill_socket(sh);
    bool blocked = sh->blocked;
    pthread_mutex_unlock(&sh->lock);
    snprintf(error, sizeof(error), "could not be sent within %lld ms", (long long)sh->target.timeout_ms);
    if (blocked)
        snprintf(error, sizeof(error), "%s", RABBIT_BLOCKED);
    fail_here(s, &late, error);
    if (s->out)
        timer_arm(s->watch, WATCH_MS);
}

/* --- life --- */

/* True: the thread has ended; false: it is connecting and was orphaned. */
static bool stop_thread(struct rabbit_shared *sh, struct list *left) {
    struct timespec until;
    bool exited;

    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += CLOSE_GRACE_MS * (long)NS_PER_MS;
    until.tv_sec += until.tv_nsec / (long)NS_PER_S;
    until.tv_nsec %= (long)NS_PER_S;
    pthread_mutex_lock(&sh->lock);
    sh->closing = true;
    rabbit_wake(sh);
    while (!sh->exited && pthread_cond_timedwait(&sh->changed, &sh->lock, &until) == 0)
        ;
    if (!sh->exited)
        kill_socket(sh);
    while (!sh->exited && !sh->opening)
        pthread_cond_wait(&sh->changed, &sh->lock);
    exited = sh->exited;
    sh->orphaned = !exited;
    list_splice_tail(left, &sh->queue);
    pthread_mutex_unlock(&sh->lock);
    return exited;
}

static void rabbit_close(struct sink *sink) {
    struct rabbit_sink *s = CONTAINER_OF(sink, struct rabbit_sink, sink);
    struct list left = LIST_INIT(left);

    s->refused = false;
    timer_free(s->watch);
    if (stop_thread(s->shared, &left)) {
        pthread_join(s->thread, NULL);
        rabbit_shared_free(s->shared);
    } else {
        pthread_detach(s->thread);
    }
    timer_free(s->flush);
    mailbox_close(s->back);
    mailbox_free(s->back);
    list_splice_tail(&left, &s->pending);
    fail_here(s, &left, "the sink was closed");
    ASSERT(s->out == 0);
    mem_free(s);
}

static const struct sink_ops rabbit_ops = {.deliver = rabbit_deliver, .flush = rabbit_flush, .close = rabbit_close};

/* Signals are for the main thread. */
static int start_thread(struct rabbit_sink *s) {
    sigset_t all, before;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int r = pthread_create(&s->thread, NULL, rabbit_thread, s->shared);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (r == 0)
        pthread_setname_np(s->thread, "sink-rabbitmq");
    return -r;
}

static int build(struct rabbit_sink *s, const struct sink_env *env, struct errmsg *e) {
    int r = timer_new(env->loop, hand_over, s, &s->flush);

    if (r == 0)
        r = timer_new(env->loop, on_watch, s, &s->watch);
    if (r == 0)
        r = mailbox_new(env->loop, 2 * RABBIT_UNCONFIRMED_MAX, on_back, s, &s->back);
    if (r < 0)
        return err_set(e, r, "%s", err_text(r));
    r = rabbit_shared_new(env->sub, env->guard, &s->shared, e);
    if (r < 0)
        return r;
    s->shared->back = s->back;
    r = start_thread(s);
    return r < 0 ? err_set(e, r, "no thread: %s", err_text(r)) : 0;
}

int sink_rabbitmq_new(const struct sink_env *env, const struct sink_owner *o, struct sink **ret, struct errmsg *e) {
    struct rabbit_sink *s = mem_zalloc(sizeof(*s));

    if (!s)
        return err_set(e, -ENOMEM, "out of memory");
    s->sink = (struct sink){.ops = &rabbit_ops, .owner = *o};
    list_init(&s->pending);
    int r = build(s, env, e);
    if (r < 0) {
        rabbit_shared_free(s->shared);
        if (s->back) {
            mailbox_close(s->back);
            mailbox_free(s->back);
        }
        timer_free(s->flush);
        timer_free(s->watch);
        mem_free(s);
        return r;
    }
    *ret = &s->sink;
    return 0;
}
