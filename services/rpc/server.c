/*
 * Life of a server: methods, port, rpc threads, graceful stop.
 *
 * A thread is a loop over one completion queue. Every event is a tag. Finished calls that other threads handed in are replied
 * to a few at a time, when the queue has run empty or a call has arrived: a group commit brings hundreds, and the requests that
 * the first replies provoke should be read while the last are written. An empty batch on the thread's own `waker` call is what wakes it: the call belongs to a
 * lame client channel, never does anything, and lives as long as the thread, so that waking needs no live call of
 * anybody.
 *
 * Armed slots: every method has `slots` calls requested from core on every thread. Core queues what it has no slot for,
 * without bound and with its payload, so a slot that was taken is armed again before the call is looked at; refusing
 * work is the handlers' business.
 *
 * Stop, in this order, since core aborts on work for a queue that was shut down:
 *     draining   new calls are refused; streams end when what is under way on them was answered
 *     stopping   no slot is armed again
 *     core shut  connections get GOAWAY; after the grace time they are cut
 *     down       core says that every connection has ended
 *     idle       every thread says that all its calls were replied to and their batches are back
 *     closed     no waker any more; queues shut down, threads drain them and are joined
 */
#include "rpc/server.h"

#include "base/clock.h"
#include "base/log.h"
#include "grpc/health/v1/health.pb-c.h"
#include "proto_descriptor_set.h"
#include "rpc/budget.h"
#include "rpc/gate.h"
#include "rpc/health.h"
#include "rpc/library.h"
#include "rpc/reflection.h"
#include "rpc/stream.h"

#include <signal.h>

enum {
    SLOTS_DEFAULT = 16,
    STREAMS_DEFAULT = 2048,
    CONNECTIONS_DEFAULT = 10000,
    CALLS_DEFAULT = 16384,
    DEADLINE_DEFAULT_MS = 30000,
    REPLY_DEFAULT_MS = 30000,
    HANDSHAKE_DEFAULT_MS = 20000,
    KEEPALIVE_DEFAULT_MS = 60000,
    METHODS_MAX = 256,
    SWEEP_MS = 2000,
    REMIND_MS = 5000,
    DRAIN_QUIET_MS = 250,
    DRAIN_ROUNDS = 20,
    REPLIES_IN_A_ROW = 16,
    SLOTS_RARE = 2,
};
#define RECEIVE_DEFAULT (8ll << 20)
#define MEMORY_DEFAULT  (256ll << 20)

__thread struct rpc_thread *thread_current;

/* --- metrics --- */

void method_count(struct method *m, int code) {
    struct metric *series = atomic_load_explicit(&m->requests[code], memory_order_acquire);

    if (!series) {
        struct metric_family *f = metric_family(METRIC_COUNTER, "txmsg_requests_total", "method,code",
                                                "Calls answered, by method and gRPC code.", METHODS_MAX * CODES);

        series = metric_get(f, m->name, rpc_code_name(code));
        atomic_store_explicit(&m->requests[code], series, memory_order_release);
    }
    metric_add(series, 1);
}

void method_observe(struct method *m, uint64_t since_ns, uint64_t now_ns) {
    struct metric *series = atomic_load_explicit(&m->seconds, memory_order_acquire);

    if (!series) {
        struct metric_family *f = metric_family(METRIC_HISTOGRAM, "txmsg_request_seconds", "method",
                                                "Time from the arrival of a unary call to its reply.", METHODS_MAX);

        series = metric_get(f, m->name);
        atomic_store_explicit(&m->seconds, series, memory_order_release);
    }
    metric_observe(series, (double)(now_ns - since_ns) / 1e9);
}

/* --- slots --- */

static int arm_one(struct rpc_thread *t, struct method *m) {
    struct rpc_server *s = t->server;
    struct rpc_call *c = call_new(t, m);
    grpc_call_error err;

    if (!c)
        return -ENOMEM;
    if (m->registered) {
        err = grpc_server_request_registered_call(s->core, m->registered, &c->core, &c->deadline, &c->metadata,
                                                  &c->payload, t->queue, t->queue, &c->arrived);
    } else {
        grpc_call_details_init(&c->details);
        err = grpc_server_request_call(s->core, &c->core, &c->details, &c->metadata, t->queue, t->queue, &c->arrived);
    }
    ASSERT(err == GRPC_CALL_OK);
    return 0;
}

void server_arm(struct rpc_thread *t, struct method *m) {
    if (atomic_load_explicit(&t->server->stopping, memory_order_relaxed))
        return;
    if (arm_one(t, m)) {
        t->missing[m - t->server->methods]++;
        t->missing_n++;
    }
}

void server_arm_missing(struct rpc_thread *t) {
    struct rpc_server *s = t->server;

    if (atomic_load_explicit(&s->stopping, memory_order_relaxed))
        return;
    for (int i = 0; i < s->methods_n; i++)
        for (; t->missing[i] > 0; t->missing[i]--, t->missing_n--)
            if (arm_one(t, &s->methods[i]))
                return;
}

static void arm_all(struct rpc_thread *t) {
    struct rpc_server *s = t->server;

    t->armed = true;
    for (int i = 0; i < s->methods_n; i++)
        for (int n = 0; n < (s->methods[i].def.rare ? MIN(s->options.slots, SLOTS_RARE) : s->options.slots); n++)
            server_arm(t, &s->methods[i]);
}

/* --- the thread --- */

void thread_wake(struct rpc_thread *t) {
    if (atomic_exchange(&t->waking, true))
        return; /* one is under way and will see what we did before */
    pthread_mutex_lock(&t->waker_lock);
    if (t->waker)
        batch_start(t->waker, NULL, 0, &t->woken);
    else
        atomic_store(&t->waking, false);
    pthread_mutex_unlock(&t->waker_lock);
}

static void on_woken(struct tag *tag, bool ok) {
    struct rpc_thread *t = CONTAINER_OF(tag, struct rpc_thread, woken);
    unsigned news;

    UNUSED(ok);
    atomic_store(&t->waking, false); /* before looking: who comes later wakes again */
    if (!t->armed && atomic_load(&t->server->started))
        arm_all(t);
    budget_sweep(t);
    news = atomic_load(&t->server->news);
    if (news != t->seen) {
        t->seen = news;
        streams_news(t);
    }
}

static void report_idle(struct rpc_thread *t) {
    struct rpc_server *s = t->server;

    if (t->live > 0 || t->idle)
        return;
    pthread_mutex_lock(&s->lock);
    t->idle = true;
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->lock);
}

/* A thread with streams looks at them now and then, also when nothing happens. */
static gpr_timespec latest(const struct rpc_thread *t) {
    if (!t->streams_n)
        return gpr_inf_future(GPR_CLOCK_MONOTONIC);
    return gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC), gpr_time_from_millis(SWEEP_MS, GPR_TIMESPAN));
}

/* The next event, after everything that can be done without it. */
static grpc_event next_event(struct rpc_thread *t) {
    const struct rpc_server_options *o = &t->server->options;
    grpc_event ev;

    for (;;) {
        ev = grpc_completion_queue_next(t->queue, gpr_inf_past(GPR_CLOCK_MONOTONIC), NULL);
        if (ev.type != GRPC_QUEUE_TIMEOUT)
            return ev;
        if (calls_finish(t, REPLIES_IN_A_ROW))
            continue;
        if (o->flush)
            o->flush(o->flush_user);
        return grpc_completion_queue_next(t->queue, latest(t), NULL);
    }
}

static void *thread_main(void *arg) {
    struct rpc_thread *t = arg;
    char name[16];

    snprintf(name, sizeof(name), "rpc-%d", t->index);
    pthread_setname_np(pthread_self(), name);
    thread_current = t;
    for (;;) {
        grpc_event ev = next_event(t);
        struct tag *tag = ev.tag;

        if (ev.type == GRPC_QUEUE_SHUTDOWN)
            return NULL;
        if (ev.type == GRPC_OP_COMPLETE)
            tag->run(tag, ev.success != 0);
        while (atomic_load(&t->signalled))
            streams_signalled(t);
        if (t->streams_n)
            streams_sweep(t, clock_mono_ns());
        if (atomic_load_explicit(&t->server->down, memory_order_relaxed))
            report_idle(t);
    }
}

static void on_shut_down(struct tag *tag, bool ok) {
    struct rpc_server *s = CONTAINER_OF(tag, struct rpc_server, shut_down);

    UNUSED(ok);
    pthread_mutex_lock(&s->lock);
    atomic_store(&s->down, true);
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->lock);
}

static int thread_start(struct rpc_thread *t, struct errmsg *e) {
    grpc_slice path = grpc_slice_from_static_string("/wake");
    sigset_t all, before;
    int err;

    t->queue = grpc_completion_queue_create_for_next(NULL);
    pthread_mutex_lock(&t->waker_lock);
    t->waker = grpc_channel_create_call(t->server->lame, NULL, GRPC_PROPAGATE_DEFAULTS, t->queue, path, NULL,
                                        gpr_inf_future(GPR_CLOCK_MONOTONIC), NULL);
    pthread_mutex_unlock(&t->waker_lock);
    /* Signals are for the thread that waits for them. */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    err = pthread_create(&t->id, NULL, thread_main, t);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (err)
        return err_set(e, -err, "cannot start an rpc thread: %s", err_text(-err));
    t->started = true;
    return 0;
}

/* --- making --- */

static int add_method(struct rpc_server *s, const struct rpc_method *def, const char *name) {
    struct method *m = &s->methods[s->methods_n];
    const char *slash = strrchr(def->path, '/');

    m->def = *def;
    m->def.path = mem_strdup(def->path);
    m->name = name;
    if (!m->def.path)
        return -ENOMEM;
    if (!m->name && slash)
        m->name = m->def.path + (slash - def->path) + 1;
    s->methods_n++;
    return 0;
}

static int by_name(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* "/pkg.Service/Method" -> "pkg.Service", once each. -EINVAL: the path is not of that form. */
static int add_service(struct rpc_server *s, const char *path) {
    const char *slash = path[0] == '/' ? strchr(path + 1, '/') : NULL;
    char *name;

    if (!slash)
        return -EINVAL;
    name = mem_strndup(path + 1, (size_t)(slash - path) - 1);
    if (!name)
        return -ENOMEM;
    for (int i = 0; i < s->services_n; i++)
        if (strcmp(s->services[i], name) == 0) {
            mem_free(name);
            return 0;
        }
    s->services[s->services_n++] = name;
    return 0;
}

/* Streams have metrics but no slots: they arrive by the generic one. */
static int add_stream(struct rpc_server *s, const struct rpc_stream_method *def) {
    struct stream_method *m = &s->streams[s->streams_n];
    const char *slash = strrchr(def->path, '/');

    m->def = *def;
    m->def.path = mem_strdup(def->path);
    if (!m->def.path)
        return -ENOMEM;
    m->counts.name = def->name ? def->name : slash ? m->def.path + (slash - def->path) + 1 : m->def.path;
    s->streams_n++;
    return add_service(s, def->path);
}

static int add_methods(struct rpc_server *s, const struct rpc_method *methods, size_t n) {
    const struct rpc_method own[] = {
        {.path = "/grpc.health.v1.Health/Check",
         .handle = health_check,
         .user = s,
         .request = &grpc__health__v1__health_check_request__descriptor,
         .response = &grpc__health__v1__health_check_response__descriptor},
        {.path = "/grpc.health.v1.Health/List",
         .handle = health_list,
         .user = s,
         .rare = true,
         .request = &grpc__health__v1__health_list_request__descriptor,
         .response = &grpc__health__v1__health_list_response__descriptor},
    };
    const struct rpc_stream_method *const own_streams[] = {&health_watch, &reflection_v1, &reflection_v1alpha};
    const struct rpc_method generic = {.path = "/other"};
    const struct rpc_server_options *o = &s->options;
    int err = 0;

    s->methods = mem_calloc(n + ARRAY_LEN(own) + 1, sizeof(*s->methods));
    s->streams = mem_calloc(o->streams_n + ARRAY_LEN(own_streams), sizeof(*s->streams));
    s->services = mem_calloc(n + ARRAY_LEN(own) + o->streams_n + ARRAY_LEN(own_streams), sizeof(*s->services));
    if (!s->methods || !s->services || !s->streams)
        return -ENOMEM;
    for (size_t i = 0; !err && i < n; i++)
        err = add_method(s, &methods[i], NULL) ?: add_service(s, methods[i].path);
    err = err ?: add_method(s, &own[0], "HealthCheck") ?: add_method(s, &own[1], "HealthList");
    err = err ?: add_method(s, &generic, "other"); /* armed as well, so it belongs to methods_n */
    err = err ?: add_service(s, own[0].path);
    for (size_t i = 0; !err && i < ARRAY_LEN(own_streams); i++)
        err = add_stream(s, own_streams[i]);
    for (size_t i = 0; !err && i < o->streams_n; i++)
        err = add_stream(s, &o->streams[i]);
    if (err)
        return err;
    for (int i = (int)n; i < s->methods_n - 1; i++)
        s->methods[i].vital = true; /* our own, without the generic slot */
    qsort(s->services, (size_t)s->services_n, sizeof(*s->services), by_name);
    return 0;
}

static int make(struct rpc_server *s, const struct rpc_server_options *o, const struct rpc_method *methods, size_t n,
                struct errmsg *e) {
    struct rpc_server_options *mine = &s->options;
    int err;

    *mine = *o;
    mine->listen = mem_strdup(o->listen);
    mine->threads = o->threads > 0 ? o->threads : 1;
    mine->slots = o->slots > 0 ? o->slots : SLOTS_DEFAULT;
    mine->receive_bytes = o->receive_bytes > 0 ? MIN(o->receive_bytes, INT32_MAX) : RECEIVE_DEFAULT;
    mine->max_concurrent_streams =
        o->max_concurrent_streams > 0 ? MIN(o->max_concurrent_streams, INT32_MAX) : STREAMS_DEFAULT;
    mine->arena_bytes = o->arena_bytes > 0 ? o->arena_bytes : 4 * mine->receive_bytes;
    mine->deadline_max_ms = o->deadline_max_ms > 0 ? o->deadline_max_ms : DEADLINE_DEFAULT_MS;
    mine->max_connections = o->max_connections > 0 ? o->max_connections : CONNECTIONS_DEFAULT;
    mine->max_calls = o->max_calls > 0 ? o->max_calls : CALLS_DEFAULT;
    mine->memory_bytes = o->memory_bytes > 0 ? o->memory_bytes : MEMORY_DEFAULT;
    mine->reply_ms = o->reply_ms > 0 ? o->reply_ms : REPLY_DEFAULT_MS;
    mine->handshake_ms = o->handshake_ms > 0 ? o->handshake_ms : HANDSHAKE_DEFAULT_MS;
    mine->keepalive_ms = o->keepalive_ms > 0 ? o->keepalive_ms : KEEPALIVE_DEFAULT_MS;
    if (!mine->listen)
        return err_set(e, -ENOMEM, "out of memory");
    err = n > METHODS_MAX ? -EINVAL : add_methods(s, methods, n);
    if (err)
        return err_set(e, err, "cannot use the table of methods: %s", err_text(err));
    err = reflection_new(bytes_of(proto_descriptor_set, proto_descriptor_set_size), &s->reflection);
    if (err)
        return err_set(e, err, "cannot read the embedded descriptors: %s", err_text(err));
    s->threads = mem_calloc((size_t)mine->threads, sizeof(*s->threads));
    if (!s->threads)
        return err_set(e, -ENOMEM, "out of memory");
    for (int i = 0; i < mine->threads; i++) {
        struct rpc_thread *t = &s->threads[i];

        t->server = s;
        t->index = i;
        t->woken.run = on_woken;
        list_init(&t->streams);
        budget_init(t);
        buf_init(&t->scratch, (size_t)mine->receive_bytes);
        pthread_mutex_init(&t->waker_lock, NULL);
        t->missing = mem_calloc((size_t)s->methods_n, sizeof(*t->missing));
        if (!t->missing)
            return err_set(e, -ENOMEM, "out of memory");
    }
    return 0;
}

int rpc_server_new(const struct rpc_server_options *o, const struct rpc_method *methods, size_t methods_n,
                   struct rpc_server **ret, struct errmsg *e) {
    struct rpc_server *s = mem_zalloc(sizeof(*s));
    pthread_condattr_t attr;
    int err;

    if (!s)
        return err_set(e, -ENOMEM, "out of memory");
    library_init();
    s->shut_down.run = on_shut_down;
    pthread_mutex_init(&s->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&s->changed, &attr);
    pthread_condattr_destroy(&attr);
    err = make(s, o, methods, methods_n, e);
    if (err) {
        rpc_server_free(s);
        return err;
    }
    *ret = s;
    return 0;
}

/* --- starting --- */

static int register_methods(struct rpc_server *s, struct errmsg *e) {
    for (int i = 0; i < s->methods_n; i++) {
        struct method *m = &s->methods[i];

        if (!m->def.handle)
            continue; /* the generic slot */
        m->registered =
            grpc_server_register_method(s->core, m->def.path, NULL, GRPC_SRM_PAYLOAD_READ_INITIAL_BYTE_BUFFER, 0);
        if (!m->registered)
            return err_set(e, -EEXIST, "method %s is there twice", m->def.path);
    }
    return 0;
}

static void wake_all(struct rpc_server *s) {
    for (int i = 0; i < s->options.threads; i++)
        thread_wake(&s->threads[i]);
}

/* The threads come first: then whatever fails later, they are there to see core's server end. */
int rpc_server_start(struct rpc_server *s, struct errmsg *e) {
    int err;

    ASSERT(!s->lame);
    s->lame = grpc_lame_client_channel_create("wake", GRPC_STATUS_INTERNAL, "never called");
    for (int i = 0; i < s->options.threads; i++) {
        err = thread_start(&s->threads[i], e);
        if (err)
            return err;
    }
    s->core = server_core(&s->options);
    for (int i = 0; i < s->options.threads; i++)
        grpc_server_register_completion_queue(s->core, s->threads[i].queue, NULL);
    err = register_methods(s, e) ?: server_open_port(s, e);
    if (err)
        return err;
    grpc_server_start(s->core);
    atomic_store(&s->started, true);
    wake_all(s); /* each arms its slots */
    return 0;
}

int rpc_server_port(const struct rpc_server *s) {
    return s->port;
}

void rpc_server_sweep(struct rpc_server *s) {
    wake_all(s); /* each looks while it is at it */
}

void rpc_server_health(struct rpc_server *s, bool serving) {
    atomic_store(&s->serving, serving);
    atomic_fetch_add(&s->news, 1);
    wake_all(s);
}

/* --- ending --- */

static bool is_down(const struct rpc_server *s) {
    return atomic_load(&s->down);
}

static bool is_idle(const struct rpc_server *s) {
    for (int i = 0; i < s->options.threads; i++)
        if (s->threads[i].started && !s->threads[i].idle)
            return false;
    return true;
}

/* False if `state` did not come true within so many milliseconds. */
static bool wait_for(struct rpc_server *s, bool (*state)(const struct rpc_server *s), int64_t ms) {
    uint64_t until = clock_mono_ns() + (uint64_t)MAX(ms, 0) * NS_PER_MS;
    struct timespec ts = {.tv_sec = (time_t)(until / NS_PER_S), .tv_nsec = (long)(until % NS_PER_S)};
    int err = 0;
    bool is;

    pthread_mutex_lock(&s->lock);
    while (!(is = state(s)) && err != ETIMEDOUT)
        err = pthread_cond_timedwait(&s->changed, &s->lock, &ts);
    pthread_mutex_unlock(&s->lock);
    return is;
}

static void end_connections(struct rpc_server *s, int64_t grace_ms) {
    if (!s->core) {
        atomic_store(&s->down, true);
        return;
    }
    grpc_server_shutdown_and_notify(s->core, s->threads[0].queue, &s->shut_down);
    if (wait_for(s, is_down, grace_ms))
        return;
    LOG_INFO("rpc", "calls or connections are left after the grace time of %lld ms: cancelled", (long long)grace_ms);
    grpc_server_cancel_all_calls(s->core);
    while (!wait_for(s, is_down, REMIND_MS))
        LOG_WARN("rpc", "still waiting for connections to end");
}

static void end_thread(struct rpc_thread *t) {
    if (!t->queue)
        return;
    pthread_mutex_lock(&t->waker_lock);
    grpc_call_unref(TAKE(t->waker));
    pthread_mutex_unlock(&t->waker_lock);
    grpc_completion_queue_shutdown(t->queue);
    if (t->started)
        pthread_join(t->id, NULL);
    else
        while (grpc_completion_queue_next(t->queue, gpr_inf_future(GPR_CLOCK_MONOTONIC), NULL).type !=
               GRPC_QUEUE_SHUTDOWN)
            ;
    t->started = false;
    ASSERT(t->live == 0 && t->streams_n == 0 && !atomic_load(&t->finished));
}

/*
 * Calls that core has read but no slot has taken would end as CANCELLED once it shuts down, and their callers could not tell what
 * happened. So they are taken and refused first, until none came for a while. Watchers hear the last health in the same time.
 */
static void drain_arrivals(struct rpc_server *s) {
    const struct timespec pause = {.tv_nsec = DRAIN_QUIET_MS * (long)NS_PER_MS};
    atomic_store(&s->draining, true);
    atomic_fetch_add(&s->news, 1);
    wake_all(s); /* streams end when what is under way on them was answered */
    for (int i = 0; i < DRAIN_ROUNDS; i++) {
        unsigned before = atomic_load(&s->refused);
        nanosleep(&pause, NULL);
        if (atomic_load(&s->refused) == before)
            return;
    }
}

void rpc_server_stop(struct rpc_server *s, int64_t grace_ms) {
    if (atomic_load(&s->stopping) || !s->lame)
        return;
    if (atomic_load(&s->started))
        drain_arrivals(s);
    if (atomic_exchange(&s->stopping, true))
        return;
    ASSERT(!thread_current);
    end_connections(s, grace_ms);
    wake_all(s); /* now each reports when it is idle */
    while (!wait_for(s, is_idle, REMIND_MS))
        LOG_WARN("rpc", "still waiting for calls that nobody has replied to");
    for (int i = 0; i < s->options.threads; i++)
        end_thread(&s->threads[i]);
    if (s->core)
        grpc_server_destroy(TAKE(s->core));
    gate_close(TAKE(s->gate));
    for (int i = 0; i < s->options.threads; i++)
        if (s->threads[i].queue)
            grpc_completion_queue_destroy(TAKE(s->threads[i].queue));
    grpc_channel_destroy(TAKE(s->lame));
}

static void thread_deinit(struct rpc_thread *t) {
    struct rpc_call *c;

    while ((c = t->free)) {
        t->free = c->next;
        call_free(c);
    }
    buf_deinit(&t->scratch);
    mem_free(t->missing);
    pthread_mutex_destroy(&t->waker_lock);
}

void rpc_server_free(struct rpc_server *s) {
    if (!s)
        return;
    rpc_server_stop(s, 0);
    for (int i = 0; s->threads && i < s->options.threads; i++)
        thread_deinit(&s->threads[i]);
    mem_free(s->threads);
    reflection_free(s->reflection);
    for (int i = 0; i < s->methods_n; i++)
        mem_free((void *)(uintptr_t)s->methods[i].def.path);
    mem_free(s->methods);
    for (int i = 0; i < s->streams_n; i++)
        mem_free((void *)(uintptr_t)s->streams[i].def.path);
    mem_free(s->streams);
    for (int i = 0; i < s->services_n; i++)
        mem_free(s->services[i]);
    mem_free(s->services);
    mem_free((void *)(uintptr_t)s->options.listen);
    pthread_mutex_destroy(&s->lock);
    pthread_cond_destroy(&s->changed);
    mem_free(s);
    library_deinit();
}
