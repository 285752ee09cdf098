/*
 * Calls are started on the thread of whoever asks, which core allows, and end on ours. A call owns everything that its
 * one batch points to, and dies with it; it holds its channel. Channels without calls stay for the next one until there
 * are too many; then the one that was not used for longest goes. If all are in use the call is refused. The first call
 * to a name waits here until it was looked up (channels.c); the thread looks each tick whether its time is over.
 *
 * The lock guards channels and the list of calls; no callback runs under it. `live` counts calls whose batch is out, so
 * that the queue is shut down only when nothing will be started on it.
 *
 * The thread is in core only while a call is under way. Core has one set of sockets for the whole process, and whoever
 * waits in it works for all: an idle client that waits there takes requests from the rpc threads and hands them over.
 */
#include "rpc/caller.h"

#include "base/clock.h"
#include "rpc/channels.h"
#include "rpc/crossing.h"
#include "rpc/exchange.h"
#include "rpc/library.h"
#include "rpc/payload.h"
#include "rpc/wire.h"

#include <grpc/support/alloc.h>
#include <grpc/support/time.h>
#include <pthread.h>
#include <signal.h>

enum { TICK_MS = 100 };

struct rpc_caller {
    struct rpc_caller_options o;
    grpc_completion_queue *queue;
    pthread_t thread;
    bool started;
    struct buf scratch; /* of the thread */

    pthread_mutex_t lock;
    pthread_cond_t changed; /* live, or closing */
    struct channels channels;
    struct list calls;
    int live, waiting; /* on core; for a name */
    uint64_t looked_ns;
    bool stopped, closing;
};

/* A call under way. */
struct calling {
    struct list link;
    struct rpc_caller *caller;
    struct channel *channel;
    struct line *line; /* NULL = it waits for one */
    grpc_slice path;
    uint64_t deadline_ns;
    bool cancelled;
    const ProtobufCMessageDescriptor *descriptor;
    void (*done)(void *arg, const struct rpc_outcome *o);
    void *arg;
    const void *group;
    struct exchange exchange;
    grpc_metadata metadata[RPC_CALL_METADATA];
};

/* --- calls --- */

static void calling_free(struct calling *x) {
    for (size_t i = 0; i < x->exchange.metadata_n; i++) {
        grpc_slice_unref(x->metadata[i].key);
        grpc_slice_unref(x->metadata[i].value);
    }
    exchange_deinit(&x->exchange);
    grpc_slice_unref(x->path);
    mem_free(x);
}

/* Reads the response; what cannot be read is an error of the other side. */
static const ProtobufCMessage *response_of(struct calling *x, struct arena *a) {
    ProtobufCAllocator allocator = payload_allocator(a);
    struct wire_fault fault;
    struct bytes in;

    if (!x->exchange.response || payload_view(x->exchange.response, &x->caller->scratch, &in) < 0 ||
        wire_check(x->descriptor, in, WIRE_FROM_SERVER, &fault))
        return NULL;
    return protobuf_c_message_unpack(x->descriptor, &allocator, in.n, in.p);
}

/*
 * Core tells it by its words only. They are its own if it does not know the peer, which it does as soon as a server has answered
 * anything; other words of other versions read as "perhaps sent".
 */
static bool unsent(const struct calling *x, const char *message) {
    static const char *const words[] = {"failed to connect to all addresses", "DNS resolution failed"};
    char *peer = grpc_call_get_peer(x->exchange.call), *target = grpc_channel_get_target(x->line->core);
    bool answered = strcmp(peer, target) != 0, found = false;

    gpr_free(peer);
    gpr_free(target);
    for (size_t i = 0; i < ARRAY_LEN(words); i++)
        found |= strncmp(message, words[i], strlen(words[i])) == 0;
    return found && !answered && x->exchange.code == GRPC_STATUS_UNAVAILABLE;
}

static void tell(struct calling *x) {
    struct rpc_outcome o = {.code = (int)x->exchange.code, .message = ""};
    struct arena a;

    arena_init(&a, (size_t)x->caller->o.receive_bytes * 16);
    if (x->line->code != RPC_OK) {
        o = (struct rpc_outcome){.code = x->line->code, .message = x->line->why, .unsent = true};
    } else if (x->exchange.code == GRPC_STATUS_OK) {
        o.response = response_of(x, &a);
        if (!o.response) {
            o.code = RPC_INTERNAL;
            o.message = "the response is not the expected message";
        }
    } else {
        o.message = payload_text(&a, x->exchange.details);
        o.message = o.message ? o.message : "";
        o.unsent = unsent(x, o.message);
    }
    x->done(x->arg, &o);
    arena_deinit(&a);
}

/* --- on core. @locks lock --- */

/* Takes the reference of the line. */
static void start(struct rpc_caller *c, struct calling *x, struct line *l) {
    uint64_t now_ns = clock_mono_ns();
    int64_t left_ms = x->deadline_ns > now_ns ? (int64_t)((x->deadline_ns - now_ns) / NS_PER_MS) : 0;
    gpr_timespec deadline =
        gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC), gpr_time_from_millis(MAX(left_ms, 1), GPR_TIMESPAN));

    x->line = l;
    x->exchange.call =
        grpc_channel_create_call(l->core, NULL, GRPC_PROPAGATE_DEFAULTS, c->queue, x->path, NULL, deadline, NULL);
    if (c->live++ == 0)
        pthread_cond_broadcast(&c->changed);
    crossing_begin(x);
    exchange_start(&x->exchange, x);
    if (x->cancelled)
        grpc_call_cancel(x->exchange.call, NULL);
}

/* Out of memory: it goes on waiting. */
static void refuse(struct rpc_caller *c, struct calling *x, int code, const char *why) {
    struct line *l = line_broken(code, why);

    if (!l)
        return;
    c->waiting--;
    start(c, x, l);
}

static void refuse_overdue(struct rpc_caller *c) {
    uint64_t now_ns = clock_mono_ns();

    if (c->waiting == 0 || now_ns - c->looked_ns < TICK_MS * NS_PER_MS)
        return;
    c->looked_ns = now_ns;
    LIST_FOR (e, &c->calls) {
        struct calling *x = LIST_ENTRY(e, struct calling, link);
        if (!x->line && (x->cancelled || x->deadline_ns <= now_ns))
            refuse(c, x, x->cancelled ? RPC_CANCELLED : RPC_UNAVAILABLE, "its name was not found in time");
    }
}

/* Those that wait for this channel and now need not. */
static void start_waiting(struct rpc_caller *c, struct channel *ch) {
    LIST_FOR (e, &c->calls) {
        struct calling *x = LIST_ENTRY(e, struct calling, link);
        struct line *l = !x->line && x->channel == ch ? channel_line(&c->channels, ch) : NULL;
        if (!l)
            continue;
        c->waiting--;
        start(c, x, l);
    }
}

static void on_found(void *arg, const char *name, int r, struct lookup *l, struct errmsg *e) {
    struct rpc_caller *c = arg;

    pthread_mutex_lock(&c->lock);
    struct channel *ch = channels_found(&c->channels, name, r, l, e);
    if (ch)
        start_waiting(c, ch);
    pthread_mutex_unlock(&c->lock);
}

/* --- the thread --- */

static void sleep_a_tick(struct rpc_caller *c) {
    struct timespec until;

    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += TICK_MS * (long)NS_PER_MS;
    until.tv_sec += until.tv_nsec / (long)NS_PER_S;
    until.tv_nsec %= (long)NS_PER_S;
    pthread_cond_timedwait(&c->changed, &c->lock, &until);
}

/* False: nothing will be under way any more. */
static bool wait_for_calls(struct rpc_caller *c) {
    pthread_mutex_lock(&c->lock);
    refuse_overdue(c);
    while (c->live == 0 && !c->closing) {
        if (c->waiting > 0)
            sleep_a_tick(c);
        else
            pthread_cond_wait(&c->changed, &c->lock);
        refuse_overdue(c);
    }
    bool any = c->live > 0;
    pthread_mutex_unlock(&c->lock);
    return any;
}

static void ended(struct rpc_caller *c, struct calling *x) {
    crossing_end(x);
    tell(x);
    pthread_mutex_lock(&c->lock);
    list_del(&x->link);
    x->channel->calls--;
    x->channel->doubted |=
        x->exchange.code == GRPC_STATUS_UNAVAILABLE || x->exchange.code == GRPC_STATUS_DEADLINE_EXCEEDED;
    line_unref(x->line);
    pthread_mutex_unlock(&c->lock);
    calling_free(x);
    pthread_mutex_lock(&c->lock); /* last: when it is 0 nothing of a call is left */
    if (--c->live == 0)
        pthread_cond_broadcast(&c->changed);
    pthread_mutex_unlock(&c->lock);
}

static void *caller_main(void *arg) {
    struct rpc_caller *c = arg;

    pthread_setname_np(pthread_self(), c->o.thread);
    while (wait_for_calls(c)) {
        gpr_timespec until = gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC), gpr_time_from_millis(TICK_MS, GPR_TIMESPAN));
        grpc_event ev = grpc_completion_queue_next(c->queue, until, NULL);
        if (ev.type == GRPC_OP_COMPLETE)
            ended(c, ev.tag);
    }
    return NULL;
}

/* Enters the lists, and core if its name is known. @locks lock */
static int enter(struct rpc_caller *c, const char *target, struct calling *x) {
    struct line *l;
    int e;

    if (c->stopped || c->live + c->waiting >= c->o.in_flight)
        return 1;
    e = channels_get(&c->channels, target, &x->channel);
    if (e)
        return e;
    x->channel->calls++;
    list_add_tail(&c->calls, &x->link);
    l = channel_line(&c->channels, x->channel);
    if (l) {
        start(c, x, l);
    } else if (c->waiting++ == 0) {
        pthread_cond_broadcast(&c->changed);
    }
    return 0;
}

static void take_metadata(struct calling *x, const struct rpc_call_request *r) {
    size_t n = 0;

    for (size_t i = 0; i < RPC_CALL_METADATA && r->metadata[i].name; i++) {
        struct bytes v = r->metadata[i].value;
        grpc_metadata m = {.key = grpc_slice_from_copied_string(r->metadata[i].name),
                           .value = grpc_slice_from_copied_buffer((const char *)v.p, v.n)};
        if (grpc_header_key_is_legal(m.key) && grpc_header_nonbin_value_is_legal(m.value)) {
            x->metadata[n++] = m;
            continue;
        }
        grpc_slice_unref(m.key);
        grpc_slice_unref(m.value);
    }
    x->exchange.metadata = x->metadata;
    x->exchange.metadata_n = n;
}

int rpc_caller_call(struct rpc_caller *c, const struct rpc_call_request *r) {
    struct calling *x = r->target[0] ? mem_zalloc(sizeof(*x)) : NULL;
    int e;

    if (!x)
        return r->target[0] ? -ENOMEM : -EINVAL;
    x->caller = c;
    x->descriptor = r->response;
    x->done = r->done;
    x->arg = r->arg;
    x->group = r->group;
    exchange_init(&x->exchange);
    take_metadata(x, r);
    x->exchange.request = payload_pack(r->request);
    x->path = grpc_slice_from_copied_string(r->path);
    x->deadline_ns = clock_mono_ns() + (uint64_t)MAX(r->timeout_ms, 1) * NS_PER_MS;
    pthread_mutex_lock(&c->lock); /* until it is started, so that stopping finds it whole */
    e = enter(c, r->target, x);
    pthread_mutex_unlock(&c->lock);
    if (e)
        calling_free(x);
    return e;
}

void rpc_caller_cancel(struct rpc_caller *c, const void *group) {
    pthread_mutex_lock(&c->lock);
    LIST_FOR (e, &c->calls) {
        struct calling *x = LIST_ENTRY(e, struct calling, link);
        if (x->group != group)
            continue;
        if (x->line)
            grpc_call_cancel(x->exchange.call, NULL);
        else
            x->cancelled = true; /* the next tick ends it */
    }
    pthread_mutex_unlock(&c->lock);
}

/* --- life --- */

int rpc_caller_new(const struct rpc_caller_options *o, struct rpc_caller **ret, struct errmsg *e) {
    struct rpc_caller *c = mem_zalloc(sizeof(*c));
    pthread_condattr_t attr;
    sigset_t all, before;
    int err;

    if (!c)
        return err_set(e, -ENOMEM, "out of memory");
    library_init();
    c->o = *o;
    c->o.thread = o->thread ? o->thread : "rpc-caller";
    c->o.in_flight = o->in_flight > 0 ? o->in_flight : 1024;
    c->o.receive_bytes = o->receive_bytes > 0 ? o->receive_bytes : 1 << 20;
    c->channels = (struct channels){
        .max = o->targets > 0 ? o->targets : 256, .receive_bytes = c->o.receive_bytes, .guard = o->guard};
    buf_init(&c->scratch, (size_t)c->o.receive_bytes);
    list_init(&c->calls);
    pthread_mutex_init(&c->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&c->changed, &attr);
    pthread_condattr_destroy(&attr);
    c->queue = grpc_completion_queue_create_for_next(NULL);
    err = -channels_init(&c->channels, on_found, c);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    err = err ? err : pthread_create(&c->thread, NULL, caller_main, c);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    c->started = !err;
    if (err) {
        rpc_caller_free(c);
        return err_set(e, -err, "cannot start the thread of the gRPC client: %s", err_text(-err));
    }
    *ret = c;
    return 0;
}

void rpc_caller_stop(struct rpc_caller *c) {
    pthread_mutex_lock(&c->lock);
    c->stopped = true;
    LIST_FOR (e, &c->calls) {
        struct calling *x = LIST_ENTRY(e, struct calling, link);
        x->cancelled = true;
        if (x->line)
            grpc_call_cancel(x->exchange.call, NULL);
        else
            refuse(c, x, RPC_CANCELLED, "the client was stopped");
    }
    while (c->live + c->waiting > 0)
        pthread_cond_wait(&c->changed, &c->lock);
    pthread_mutex_unlock(&c->lock);
}

void rpc_caller_free(struct rpc_caller *c) {
    if (!c)
        return;
    rpc_caller_stop(c);
    pthread_mutex_lock(&c->lock);
    c->closing = true;
    pthread_cond_broadcast(&c->changed);
    pthread_mutex_unlock(&c->lock);
    if (c->started)
        pthread_join(c->thread, NULL);
    grpc_completion_queue_shutdown(c->queue);
    while (grpc_completion_queue_next(c->queue, gpr_inf_future(GPR_CLOCK_MONOTONIC), NULL).type != GRPC_QUEUE_SHUTDOWN)
        ;
    channels_deinit(&c->channels);
    grpc_completion_queue_destroy(c->queue);
    buf_deinit(&c->scratch);
    pthread_cond_destroy(&c->changed);
    pthread_mutex_destroy(&c->lock);
    mem_free(c);
    library_deinit();
}
