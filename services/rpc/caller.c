/*
 * Calls are started on the thread of whoever asks, which core allows, and end on ours. A call owns everything that its
 * one batch points to, and dies with it; it holds its channel. Channels without calls stay for the next one until there
 * are too many; then the one that was not used for longest goes. If all are in use the call is refused.
 *
 * The lock guards channels and the list of calls; no callback runs under it. `live` counts calls whose batch is out, so
 * that the queue is shut down only when nothing will be started on it.
 *
 * The thread is in core only while a call is under way. Core has one set of sockets for the whole process, and whoever
 * waits in it works for all: an idle client that waits there takes requests from the rpc threads and hands them over.
 */
#include "rpc/caller.h"

#include "rpc/credentials.h"
#include "rpc/crossing.h"
#include "rpc/exchange.h"
#include "rpc/library.h"
#include "rpc/payload.h"
#include "rpc/wire.h"

#include <grpc/support/alloc.h>
#include <grpc/support/time.h>
#include <pthread.h>
#include <signal.h>

/*
 * A connection whose other end vanished without a word ends when what was sent is not acknowledged for so long: with these core
 * sets TCP_USER_TIMEOUT. Its own pings are as rare as servers allow by default, for they end connections of those who ping more.
 */
enum { BACKOFF_MIN_MS = 100, BACKOFF_MAX_MS = 5000, CONNECT_MS = 5000, PING_MS = 310000, PING_TIMEOUT_MS = 20000 };

struct channel {
    struct list link; /* of caller->channels, the last used first */
    grpc_channel *core;
    int calls;
    char target[];
};

struct rpc_caller {
    struct rpc_caller_options o;
    grpc_completion_queue *queue;
    pthread_t thread;
    bool started;
    struct buf scratch; /* of the thread */

    pthread_mutex_t lock;
    pthread_cond_t changed; /* live, or closing */
    struct list channels, calls;
    int channels_n, live;
    bool stopped, closing;
};

/* A call under way. */
struct calling {
    struct list link;
    struct rpc_caller *caller;
    struct channel *channel;
    const ProtobufCMessageDescriptor *descriptor;
    void (*done)(void *arg, const struct rpc_outcome *o);
    void *arg;
    const void *group;
    struct exchange exchange;
    grpc_metadata metadata[RPC_CALL_METADATA];
};

/* --- channels. @locks lock --- */

static grpc_arg int_arg(const char *key, int64_t value) {
    return (grpc_arg){.type = GRPC_ARG_INTEGER, .key = (char *)(uintptr_t)key, .value.integer = (int)value};
}

static struct channel *channel_open(struct rpc_caller *c, const char *target) {
    size_t n = strlen(target) + 1;
    struct channel *ch = mem_zalloc(sizeof(*ch) + n);
    grpc_arg args[] = {
        int_arg(GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH, c->o.receive_bytes),
        int_arg(GRPC_ARG_ENABLE_HTTP_PROXY, 0),
        int_arg(GRPC_ARG_ENABLE_RETRIES, 0), /* the check is asked again by its own rules */
        int_arg(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, BACKOFF_MIN_MS),
        int_arg(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, CONNECT_MS),
        int_arg(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, BACKOFF_MAX_MS),
        int_arg(GRPC_ARG_KEEPALIVE_TIME_MS, PING_MS),
        int_arg(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, PING_TIMEOUT_MS),
        int_arg(GRPC_ARG_ENABLE_CHANNELZ, 0),
    };
    grpc_channel_credentials *creds;

    if (!ch)
        return NULL;
    memcpy(ch->target, target, n);
    creds = credentials_client();
    ch->core = grpc_channel_create(target, creds, &(grpc_channel_args){.num_args = ARRAY_LEN(args), .args = args});
    grpc_channel_credentials_release(creds);
    list_add_head(&c->channels, &ch->link);
    c->channels_n++;
    return ch;
}

static void channel_close(struct rpc_caller *c, struct channel *ch) {
    list_del(&ch->link);
    c->channels_n--;
    grpc_channel_destroy(ch->core);
    mem_free(ch);
}

/* False: all are in use. */
static bool make_room(struct rpc_caller *c) {
    if (c->channels_n < c->o.targets)
        return true;
    for (struct list *e = c->channels.prev; e != &c->channels; e = e->prev) {
        struct channel *ch = LIST_ENTRY(e, struct channel, link);
        if (ch->calls == 0) {
            channel_close(c, ch);
            return true;
        }
    }
    return false;
}

/* 0, 1 = too many, -ENOMEM. */
static int channel_of(struct rpc_caller *c, const char *target, struct channel **ret) {
    LIST_FOR (e, &c->channels) {
        struct channel *ch = LIST_ENTRY(e, struct channel, link);
        if (strcmp(ch->target, target) != 0)
            continue;
        list_del(&ch->link);
        list_add_head(&c->channels, &ch->link);
        *ret = ch;
        return 0;
    }
    if (!make_room(c))
        return 1;
    *ret = channel_open(c, target);
    return *ret ? 0 : -ENOMEM;
}

/* --- calls --- */

static void calling_free(struct calling *x) {
    for (size_t i = 0; i < x->exchange.metadata_n; i++) {
        grpc_slice_unref(x->metadata[i].key);
        grpc_slice_unref(x->metadata[i].value);
    }
    exchange_deinit(&x->exchange);
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
    char *peer = grpc_call_get_peer(x->exchange.call);
    bool answered = strcmp(peer, x->channel->target) != 0, found = false;

    gpr_free(peer);
    for (size_t i = 0; i < ARRAY_LEN(words); i++)
        found |= strncmp(message, words[i], strlen(words[i])) == 0;
    return found && !answered && x->exchange.code == GRPC_STATUS_UNAVAILABLE;
}

static void tell(struct calling *x) {
    struct rpc_outcome o = {.code = (int)x->exchange.code, .message = ""};
    struct arena a;

    arena_init(&a, (size_t)x->caller->o.receive_bytes * 16);
    if (x->exchange.code == GRPC_STATUS_OK) {
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

/* False: nothing will be under way any more. */
static bool wait_for_calls(struct rpc_caller *c) {
    pthread_mutex_lock(&c->lock);
    while (c->live == 0 && !c->closing)
        pthread_cond_wait(&c->changed, &c->lock);
    bool any = c->live > 0;
    pthread_mutex_unlock(&c->lock);
    return any;
}

static void *caller_main(void *arg) {
    struct rpc_caller *c = arg;

    pthread_setname_np(pthread_self(), c->o.thread);
    while (wait_for_calls(c)) {
        grpc_event ev = grpc_completion_queue_next(c->queue, gpr_inf_future(GPR_CLOCK_MONOTONIC), NULL);
        struct calling *x = ev.tag;

        crossing_end(x);
        tell(x);
        pthread_mutex_lock(&c->lock);
        list_del(&x->link);
        x->channel->calls--;
        pthread_mutex_unlock(&c->lock);
        calling_free(x);
        pthread_mutex_lock(&c->lock); /* last: when it is 0 nothing of a call is left */
        if (--c->live == 0)
            pthread_cond_broadcast(&c->changed);
        pthread_mutex_unlock(&c->lock);
    }
    return NULL;
}

/* Enters the lists, with its call on core. @locks lock */
static int enter(struct rpc_caller *c, const struct rpc_call_request *r, struct calling *x) {
    gpr_timespec deadline =
        gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC), gpr_time_from_millis(MAX(r->timeout_ms, 1), GPR_TIMESPAN));
    grpc_slice path;
    int e;

    if (c->stopped || c->live >= c->o.in_flight)
        return 1;
    e = channel_of(c, r->target, &x->channel);
    if (e)
        return e;
    path = grpc_slice_from_copied_string(r->path);
    x->exchange.call =
        grpc_channel_create_call(x->channel->core, NULL, GRPC_PROPAGATE_DEFAULTS, c->queue, path, NULL, deadline, NULL);
    grpc_slice_unref(path);
    x->channel->calls++;
    if (c->live++ == 0)
        pthread_cond_broadcast(&c->changed);
    list_add_tail(&c->calls, &x->link);
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
    pthread_mutex_lock(&c->lock);
    e = enter(c, r, x);
    if (e == 0) { /* under the lock, so that stopping finds it whole */
        crossing_begin(x);
        exchange_start(&x->exchange, x);
    }
    pthread_mutex_unlock(&c->lock);
    if (e)
        calling_free(x);
    return e;
}

void rpc_caller_cancel(struct rpc_caller *c, const void *group) {
    pthread_mutex_lock(&c->lock);
    LIST_FOR (e, &c->calls) {
        struct calling *x = LIST_ENTRY(e, struct calling, link);
        if (x->group == group)
            grpc_call_cancel(x->exchange.call, NULL);
    }
    pthread_mutex_unlock(&c->lock);
}

/* --- life --- */

int rpc_caller_new(const struct rpc_caller_options *o, struct rpc_caller **ret, struct errmsg *e) {
    struct rpc_caller *c = mem_zalloc(sizeof(*c));
    sigset_t all, before;
    int err;

    if (!c)
        return err_set(e, -ENOMEM, "out of memory");
    library_init();
    c->o = *o;
    c->o.thread = o->thread ? o->thread : "rpc-caller";
    c->o.in_flight = o->in_flight > 0 ? o->in_flight : 1024;
    c->o.targets = o->targets > 0 ? o->targets : 256;
    c->o.receive_bytes = o->receive_bytes > 0 ? o->receive_bytes : 1 << 20;
    buf_init(&c->scratch, (size_t)c->o.receive_bytes);
    list_init(&c->channels);
    list_init(&c->calls);
    pthread_mutex_init(&c->lock, NULL);
    pthread_cond_init(&c->changed, NULL);
    c->queue = grpc_completion_queue_create_for_next(NULL);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    err = pthread_create(&c->thread, NULL, caller_main, c);
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
    LIST_FOR (e, &c->calls)
        grpc_call_cancel(LIST_ENTRY(e, struct calling, link)->exchange.call, NULL);
    while (c->live > 0)
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
    while (!list_empty(&c->channels))
        channel_close(c, LIST_ENTRY(c->channels.next, struct channel, link));
    grpc_completion_queue_destroy(c->queue);
    buf_deinit(&c->scratch);
    pthread_cond_destroy(&c->changed);
    pthread_mutex_destroy(&c->lock);
    mem_free(c);
    library_deinit();
}
