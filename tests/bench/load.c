/*
 * One thread, one completion queue. Here is what is to be done, when, and what came of it; how an operation reaches the
 * service is the driver's (load_driver.h).
 *
 * The whole run is watched: when no operation has gone well for STALL_NS everything is cancelled. A message whose operation
 * failed pauses until the next tick, so that a service that is gone is not asked a million times.
 *
 * In an open loop nothing but the clock says when a message begins. Its queue is two numbers, because the k-th arrival is
 * always due at the same time. Core counts in milliseconds, so an arrival may begin a little late; that is in its latency.
 */
#include "load_driver.h"

#include "base/clock.h"
#include "rpc/credentials.h"
#include "rpc/library.h"
#include "rpc/rpc.h"

#include <signal.h>
#include <sys/resource.h>

#define TICK_NS  (100 * NS_PER_MS)
#define STALL_NS (20 * NS_PER_S)

static volatile sig_atomic_t interrupted;

static void on_signal(int number) {
    interrupted = 1;
}

static uint64_t cpu_ns(void) {
    struct rusage u;
    ASSERT(getrusage(RUSAGE_SELF, &u) == 0);
    return (uint64_t)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) * NS_PER_S +
           (uint64_t)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) * 1000;
}

static gpr_timespec core_time(uint64_t ns) {
    return (gpr_timespec){
        .tv_sec = (int64_t)(ns / NS_PER_S), .tv_nsec = (int32_t)(ns % NS_PER_S), .clock_type = GPR_CLOCK_MONOTONIC};
}

/* --- arrivals, open loop --- */

static uint64_t due_ns(const struct load *l, uint64_t k) {
    return l->start_ns + (uint64_t)((double)k * l->interval_ns);
}

static uint64_t arrived(const struct load *l, uint64_t now) {
    uint64_t k = (uint64_t)((double)(now - l->start_ns) / l->interval_ns) + 1;
    return MAX(k, l->begun);
}

static uint64_t waiting(const struct load *l, uint64_t now) {
    return l->interval_ns > 0 ? arrived(l, now) - l->begun : 0;
}

/* After all that could begin has begun. */
static void note_queue(struct load *l, uint64_t now) {
    uint64_t all = arrived(l, now), n = all - l->begun;
    if (l->phase == LOAD_MEASURE && !l->idle_n && n) {
        l->result->queued += all - MIN(MAX(l->begun, l->noticed), all);
        l->result->queue_max = MAX(l->result->queue_max, n);
    }
    if (!l->idle_n)
        l->noticed = MAX(l->noticed, all);
}

/* --- a message --- */

static void plan_add(struct load_message *m, enum request_kind kind, bool twice) {
    m->plan[m->plan_n++] = (struct load_step){.kind = kind};
    if (twice)
        m->plan[m->plan_n++] = (struct load_step){.kind = kind, .again = true};
}

static void step(struct load *l, struct load_message *m) {
    l->open++;
    l->driver->step(l, m);
}

static void message_begin(struct load *l, struct load_message *m, uint64_t at) {
    for (size_t i = 0; i < (size_t)MAX(l->o->batch, 1); i++)
        uuid_v7_make(l->now_ms, &m->ids[i]);
    bool twice = fate_duplicated(&l->fates, &m->ids[0]);
    m->plan_n = m->at = 0;
    m->fate = FATE_CONFIRMED;
    m->began_ns = at;
    if (l->o->mode == LOAD_PAIR) {
        m->fate = l->o->batch ? FATE_CONFIRMED : fate_of(&l->fates, &m->ids[0]);
        plan_add(m, REQUEST_PREPARE, twice);
        if (m->fate != FATE_UNDECIDED)
            plan_add(m, m->fate == FATE_CANCELLED ? REQUEST_CANCEL : REQUEST_CONFIRM, twice);
    } else {
        plan_add(m, l->o->mode == LOAD_PUBLISH ? REQUEST_PUBLISH : REQUEST_CANCEL, twice);
    }
    step(l, m);
}

/* Whatever can begin now. */
static void begin_messages(struct load *l, uint64_t now) {
    if (l->phase == LOAD_DRAIN)
        return;
    while (l->idle_n && (!l->o->rate || due_ns(l, l->begun) <= now)) {
        uint64_t at = l->o->rate ? due_ns(l, l->begun++) : now;
        message_begin(l, l->idle[--l->idle_n], at);
    }
    if (l->o->rate)
        note_queue(l, now);
}

static void message_done(struct load *l, const struct load_message *m, uint64_t messages, uint64_t now) {
    if (l->phase != LOAD_MEASURE)
        return;
    l->result->messages += messages;
    if (m->fate != FATE_UNDECIDED)
        histogram_add(&l->result->latency, now - m->began_ns);
}

void load_note_error(struct load *l, int code, const char *path, struct bytes text) {
    if (code < 0 || code >= LOAD_CODES)
        code = RPC_UNKNOWN;
    char *first = l->result->error_texts[code];
    if (!l->result->errors[code]++)
        snprintf(first, sizeof(l->result->error_texts[code]), "%s: %.*s", path, (int)MIN(text.n, 200),
                 text.n ? (const char *)text.p : "");
}

static void count_ok(struct load *l, const struct load_message *m, uint64_t n) {
    struct load_result *r = l->result;
    struct load_step s = m->plan[m->at];
    uint64_t *const totals[REQUEST_KINDS] = {&r->prepared, &r->confirmed, &r->cancelled, &r->published};
    *(s.again ? &r->repeats : totals[s.kind]) += n;
    if (s.kind == REQUEST_PREPARE && !s.again && m->fate == FATE_UNDECIDED) {
        r->undecided += n;
        r->undecided_commit += fate_committed_by_check(&m->ids[0]) ? n : 0;
    }
}

void load_step_done(struct load *l, struct load_message *m, const struct load_outcome *o, uint64_t now) {
    l->open--;
    if (o->code) {
        if (!l->result->stalled)
            load_note_error(l, o->code, request_path(m->plan[m->at].kind, REQUEST_SINGLE), o->text);
        l->paused[l->paused_n++] = m;
        return;
    }
    l->ok_ns = now;
    count_ok(l, m, o->messages);
    if (++m->at < m->plan_n && !l->result->stalled) {
        step(l, m); /* also while draining: what was prepared is decided */
        return;
    }
    if (m->at == m->plan_n)
        message_done(l, m, o->messages, now);
    l->idle[l->idle_n++] = m;
}

/* --- the run --- */

/* What has not begun would not be in the percentiles at all, though it has waited longest. */
static void count_unbegun(struct load *l, uint64_t now) {
    begin_messages(l, now); /* what is only just due is not late */
    uint64_t all = arrived(l, now);
    l->result->arrived = all - l->arrived_before;
    l->result->unbegun = all - l->begun;
    for (uint64_t k = l->begun; k < all; k++)
        histogram_add(&l->result->latency, now - MIN(due_ns(l, k), now));
}

static void phase_begin(struct load *l, enum load_phase phase, uint64_t now) {
    if (l->phase == LOAD_MEASURE && phase == LOAD_DRAIN) {
        l->result->elapsed_ns = now - l->begin_ns;
        l->result->cpu_ns = cpu_ns() - l->begin_cpu_ns;
        if (l->o->rate)
            count_unbegun(l, now);
    }
    l->phase = phase;
    l->phase_end_ns = UINT64_MAX;
    if (phase == LOAD_MEASURE) {
        l->begin_ns = now;
        l->begin_cpu_ns = cpu_ns();
        l->second_end_ns = now + NS_PER_S;
        if (l->o->rate)
            l->arrived_before = l->noticed = now > l->start_ns ? arrived(l, now - 1) : 0;
        if (!l->o->count)
            l->phase_end_ns = now + (uint64_t)l->o->run_ms * NS_PER_MS;
    }
    if (phase != LOAD_WARM && l->o->on_phase)
        l->o->on_phase(phase == LOAD_MEASURE);
}

static void show_progress(struct load *l, uint64_t now) {
    if (!l->o->progress || l->phase == LOAD_WARM || now - l->shown_ns < NS_PER_S)
        return;
    uint64_t messages = l->result->messages - l->shown_messages, errors = 0;
    for (size_t i = 0; i < LOAD_CODES; i++)
        errors += l->result->errors[i];
    fprintf(stderr, "%6.1f s  %9.0f messages/s  %llu errors", (double)(now - l->begin_ns) / 1e9,
            (double)messages * 1e9 / (double)(now - MAX(l->shown_ns, l->begin_ns)), (unsigned long long)errors);
    if (l->o->rate)
        fprintf(stderr, "  %llu waiting", (unsigned long long)waiting(l, now));
    fputc('\n', stderr);
    l->shown_ns = now;
    l->shown_messages = l->result->messages;
}

static void note_second(struct load *l, uint64_t now) {
    struct load_result *r = l->result;
    for (; l->phase == LOAD_MEASURE && now >= l->second_end_ns; l->second_end_ns += NS_PER_S) {
        int64_t n = (int64_t)(r->messages - l->second_messages);
        r->slowest_second = r->slowest_second < 0 ? n : MIN(r->slowest_second, n);
        l->second_messages = r->messages;
    }
}

static void cancel_all(struct load *l, uint64_t now) {
    l->result->stalled = true;
    if (l->phase != LOAD_DRAIN)
        phase_begin(l, LOAD_DRAIN, now);
    l->driver->cancel(l);
}

static void on_tick(struct load *l, uint64_t now) {
    l->tick_ns = now + TICK_NS;
    show_progress(l, now);
    if (interrupted && l->phase != LOAD_DRAIN)
        phase_begin(l, LOAD_DRAIN, now);
    if (!l->open && !l->paused_n && !waiting(l, now))
        l->ok_ns = now; /* a quiet schedule is no stall */
    if (!l->result->stalled && now - l->ok_ns > STALL_NS)
        cancel_all(l, now);
    while (l->paused_n)
        l->idle[l->idle_n++] = l->paused[--l->paused_n];
}

static void on_time(struct load *l, uint64_t now) {
    note_second(l, now);
    if (now >= l->phase_end_ns ||
        (l->phase == LOAD_MEASURE && l->o->count && l->result->messages >= (uint64_t)l->o->count))
        phase_begin(l, l->phase + 1, now);
    if (now >= l->tick_ns)
        on_tick(l, now);
}

static uint64_t wake_ns(const struct load *l) {
    uint64_t t = MIN(l->tick_ns, l->phase_end_ns);
    return l->o->rate && l->idle_n && l->phase != LOAD_DRAIN ? MIN(t, due_ns(l, l->begun)) : t;
}

static void run(struct load *l) {
    uint64_t now = clock_mono_ns();
    l->ok_ns = l->start_ns = now;
    l->tick_ns = now + TICK_NS;
    l->phase_end_ns = now + (uint64_t)l->o->warmup_ms * NS_PER_MS;
    l->now_ms = clock_real_us() / 1000;
    on_time(l, now); /* no warm-up at all */
    for (;;) {
        begin_messages(l, now);
        l->ending = l->phase == LOAD_DRAIN && !l->open;
        if (l->driver->flush)
            l->driver->flush(l);
        if (l->ending && !l->batches)
            return;
        grpc_event ev = grpc_completion_queue_next(l->queue, core_time(wake_ns(l)), NULL);
        now = clock_mono_ns();
        l->now_ms = clock_real_us() / 1000;
        if (ev.type == GRPC_OP_COMPLETE)
            l->driver->event(l, &ev, now);
        on_time(l, now);
    }
}

/* --- making and unmaking --- */

static grpc_arg int_arg(const char *key, int value) {
    return (grpc_arg){.type = GRPC_ARG_INTEGER, .key = (char *)(uintptr_t)key, .value.integer = value};
}

/* Of `a,b,c` the one with this number, counted round. The result is an allocation, NULL without memory. */
static char *server_of(const char *servers, int number) {
    int n = 1;
    for (const char *p = servers; *p; p++)
        n += *p == ',';
    for (number %= n; number; number--)
        servers = strchr(servers, ',') + 1;
    return mem_strndup(servers, strcspn(servers, ","));
}

/* Connections are apart only if the channels share no subchannel pool. What this tool does not use is off: it costs. */
static int open_channel(struct load *l, int number, struct errmsg *e) {
    struct load_channel *ch = &l->channels[number];
    CLEANUP_FREE char *server = server_of(l->o->server, number);
    if (!server)
        return err_set(e, -ENOMEM, "out of memory");
    grpc_channel_credentials *credentials = credentials_client();
    grpc_arg args[] = {
        int_arg(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1),
        int_arg("txmsg.bench_channel", number),
        int_arg(GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH, LOAD_RESPONSE_MAX),
        int_arg(GRPC_ARG_ENABLE_HTTP_PROXY, 0),
        int_arg(GRPC_ARG_ENABLE_RETRIES, 0),
        int_arg(GRPC_ARG_ENABLE_CHANNELZ, 0),
        int_arg(GRPC_ARG_ENABLE_PER_MESSAGE_COMPRESSION, 0),
        int_arg(GRPC_ARG_SERVICE_CONFIG_DISABLE_RESOLUTION, 1),
        int_arg(GRPC_ARG_CLIENT_IDLE_TIMEOUT_MS, INT_MAX),
    };
    ch->core =
        grpc_channel_create(server, credentials, &(grpc_channel_args){.num_args = ARRAY_LEN(args), .args = args});
    grpc_channel_credentials_release(credentials);
    if (!ch->core)
        return err_set(e, -EINVAL, "cannot make a channel to %s", server);
    for (int kind = 0; kind < REQUEST_KINDS; kind++)
        ch->methods[kind] =
            grpc_channel_register_call(ch->core, request_path((enum request_kind)kind, load_form(l->o)), NULL, NULL);
    return 0;
}

static int make_requests(struct load *l, struct errmsg *e) {
    const struct request_options o = {.producer = l->o->producer,
                                      .topic = l->o->topic,
                                      .body = (size_t)l->o->body,
                                      .form = load_form(l->o),
                                      .ids = (size_t)MAX(l->o->batch, 1)};
    int r = 0;
    for (int kind = 0; r == 0 && kind < REQUEST_KINDS; kind++)
        r = request_init(&l->requests[kind], (enum request_kind)kind, &o);
    return r < 0 ? err_set(e, r, "cannot pack requests for producer %s, topic %s: %s", o.producer, o.topic, err_text(r))
                 : 0;
}

static int make_messages(struct load *l, struct errmsg *e) {
    size_t n = (size_t)l->o->callers, each = (size_t)MAX(l->o->batch, 1);
    l->messages = mem_calloc(n, sizeof(*l->messages));
    l->idle = mem_calloc(n, sizeof(struct load_message *));
    l->paused = mem_calloc(n, sizeof(struct load_message *));
    l->ids = mem_calloc(n * each, sizeof(*l->ids));
    if (!l->messages || !l->idle || !l->paused || !l->ids)
        return err_set(e, -ENOMEM, "out of memory");
    for (size_t i = 0; i < n; i++) {
        l->messages[i] = (struct load_message){.index = i, .ids = l->ids + i * each};
        l->idle[l->idle_n++] = &l->messages[i];
    }
    return 0;
}

static int load_init(struct load *l, const struct load_options *o, struct load_result *result, struct errmsg *e) {
    *l = (struct load){.o = o, .result = result, .driver = o->streams ? &load_stream : &load_unary};
    *result = (struct load_result){.slowest_second = -1};
    l->fates = fates_make(o->undecided, o->cancelled, o->duplicated);
    if (o->rate)
        l->interval_ns = 1e9 * (double)MAX(o->batch, 1) / (double)o->rate;
    buf_init(&l->scratch, LOAD_RESPONSE_MAX);
    library_init();
    l->queue = grpc_completion_queue_create_for_next(NULL);
    int r = make_requests(l, e);
    for (int i = 0; r == 0 && i < (int)MIN(o->channels, LOAD_CHANNELS_MAX); i++)
        r = open_channel(l, i, e);
    if (r == 0)
        r = make_messages(l, e);
    return r == 0 ? l->driver->init(l, e) : r;
}

static void load_deinit(struct load *l) {
    l->driver->deinit(l);
    for (size_t i = 0; i < LOAD_CHANNELS_MAX; i++)
        if (l->channels[i].core)
            grpc_channel_destroy(l->channels[i].core);
    grpc_completion_queue_shutdown(l->queue);
    while (grpc_completion_queue_next(l->queue, gpr_inf_future(GPR_CLOCK_MONOTONIC), NULL).type != GRPC_QUEUE_SHUTDOWN)
        ;
    grpc_completion_queue_destroy(l->queue);
    library_deinit();
    for (int kind = 0; kind < REQUEST_KINDS; kind++)
        request_deinit(&l->requests[kind]);
    buf_deinit(&l->scratch);
    mem_free(l->ids);
    mem_free(l->paused);
    mem_free(l->idle);
    mem_free(l->messages);
}

int load_run(const struct load_options *o, struct load_result *ret, struct errmsg *e) {
    CLEANUP_FREE struct load *l = mem_alloc(sizeof(*l));
    if (!l)
        return err_set(e, -ENOMEM, "out of memory");
    int r = load_init(l, o, ret, e);
    if (r == 0) {
        signal(SIGINT, on_signal);
        signal(SIGTERM, on_signal);
        run(l);
    }
    load_deinit(l);
    return r;
}
