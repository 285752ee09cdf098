/*
 * One thread, one completion queue. A caller is the tag of its one call; when the call ends the caller starts the next
 * one from its own memory. Core's objects are made per call, all else once.
 *
 * Calls carry no deadline, since a timer per call is work that says nothing about the service. Instead the whole run is
 * watched: when no call has gone well for STALL_NS everything is cancelled. A caller whose call failed pauses until the
 * next tick, so that a service that is gone is not asked a million times.
 */
#include "load.h"

#include "request.h"

#include "base/clock.h"
#include "rpc/credentials.h"
#include "rpc/library.h"
#include "rpc/payload.h"
#include "rpc/rpc.h"

#include <grpc/byte_buffer.h>
#include <grpc/grpc.h>
#include <signal.h>
#include <sys/resource.h>

#define TICK_NS  (100 * NS_PER_MS)
#define STALL_NS (20 * NS_PER_S)
enum { PLAN_MAX = 4, CHANNELS_MAX = 64, RESPONSE_MAX = 16 << 20 };

enum phase { WARM, MEASURE, DRAIN };

struct step {
    enum request_kind kind;
    bool again; /* a repeat of the step before */
};

struct channel {
    grpc_channel *core;
    void *methods[REQUEST_KINDS];
};

struct caller {
    /* What the batch of the call under way points to. */
    grpc_call *call;
    grpc_byte_buffer *request, *response;
    grpc_metadata_array headers, trailers;
    grpc_status_code code;
    grpc_slice details;

    const struct channel *channel;
    struct uuid *ids; /* of the message under way; of all messages of a batch */
    struct step plan[PLAN_MAX];
    int plan_n, at;
    bool undecided;
    uint64_t began_ns;
};

struct load {
    const struct load_options *o;
    struct load_result *result;
    grpc_completion_queue *queue;
    struct channel channels[CHANNELS_MAX];
    struct request requests[REQUEST_KINDS];
    struct caller *callers, **paused;
    struct uuid *ids;
    size_t paused_n, open;                                       /* callers that wait for a tick; calls under way */
    uint32_t undecided_below, cancelled_below, duplicated_below; /* bounds of the random bits of an id */
    struct buf scratch;
    int64_t now_ms; /* wall clock, for new ids */
    enum phase phase;
    uint64_t phase_end_ns, tick_ns, ok_ns; /* the last call that went well */
    uint64_t begin_ns, begin_cpu_ns;       /* of the measured time */
    uint64_t shown_ns, shown_messages;     /* by the progress line */
};

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

/* --- a call --- */

static void call_start(struct load *l, struct caller *c) {
    enum request_kind kind = c->plan[c->at].kind;
    grpc_slice slice = request_pack(&l->requests[kind], c->ids);
    c->request = grpc_raw_byte_buffer_create(&slice, 1);
    grpc_slice_unref(slice);
    c->headers.count = c->trailers.count = 0; /* the elements belonged to the call before */
    c->call = grpc_channel_create_registered_call(c->channel->core, NULL, GRPC_PROPAGATE_DEFAULTS, l->queue,
                                                  c->channel->methods[kind], gpr_inf_future(GPR_CLOCK_MONOTONIC), NULL);
    const grpc_op ops[] = {
        {.op = GRPC_OP_SEND_INITIAL_METADATA},
        {.op = GRPC_OP_SEND_MESSAGE, .data.send_message.send_message = c->request},
        {.op = GRPC_OP_SEND_CLOSE_FROM_CLIENT},
        {.op = GRPC_OP_RECV_INITIAL_METADATA, .data.recv_initial_metadata.recv_initial_metadata = &c->headers},
        {.op = GRPC_OP_RECV_MESSAGE, .data.recv_message.recv_message = &c->response},
        {.op = GRPC_OP_RECV_STATUS_ON_CLIENT,
         .data.recv_status_on_client = {.trailing_metadata = &c->trailers,
                                        .status = &c->code,
                                        .status_details = &c->details}},
    };
    ASSERT(grpc_call_start_batch(c->call, ops, ARRAY_LEN(ops), c, NULL) == GRPC_CALL_OK);
    l->open++;
}

static void call_end(struct load *l, struct caller *c) {
    grpc_call_unref(c->call);
    grpc_byte_buffer_destroy(c->request);
    if (c->response)
        grpc_byte_buffer_destroy(c->response);
    grpc_slice_unref(c->details);
    c->call = NULL;
    c->request = c->response = NULL;
    l->open--;
}

/* --- a message --- */

static void plan_add(struct caller *c, enum request_kind kind, bool twice) {
    c->plan[c->plan_n++] = (struct step){.kind = kind};
    if (twice)
        c->plan[c->plan_n++] = (struct step){.kind = kind, .again = true};
}

/* The random bits of the (first) id decide what becomes of the message: no other source of chance is needed. */
static void message_start(struct load *l, struct caller *c, uint64_t now) {
    size_t n = l->o->mode == LOAD_BATCH ? (size_t)l->o->batch : 1;
    uint32_t fate, twice_fate;
    for (size_t i = 0; i < n; i++)
        uuid_v7_make(l->now_ms, &c->ids[i]);
    memcpy(&fate, c->ids[0].b + 12, 4);
    twice_fate = (uint32_t)c->ids[0].b[9] << 24 | (uint32_t)c->ids[0].b[10] << 16 | (uint32_t)c->ids[0].b[11] << 8;
    bool twice = twice_fate < l->duplicated_below;
    c->plan_n = c->at = 0;
    c->undecided = false;
    c->began_ns = now;
    if (l->o->mode == LOAD_PAIR) {
        plan_add(c, REQUEST_PREPARE, twice);
        c->undecided = fate < l->undecided_below;
        if (!c->undecided)
            plan_add(c, fate < l->cancelled_below ? REQUEST_CANCEL : REQUEST_CONFIRM, twice);
    } else {
        plan_add(c,
                 l->o->mode == LOAD_PUBLISH ? REQUEST_PUBLISH
                 : l->o->mode == LOAD_BATCH ? REQUEST_BATCH
                                            : REQUEST_CANCEL,
                 twice);
    }
    call_start(l, c);
}

static void message_done(struct load *l, const struct caller *c, uint64_t messages, uint64_t now) {
    if (l->phase != MEASURE)
        return;
    l->result->messages += messages;
    if (!c->undecided)
        histogram_add(&l->result->latency, now - c->began_ns);
}

static void note_error(struct load *l, const struct caller *c) {
    unsigned code = (unsigned)c->code < LOAD_CODES ? (unsigned)c->code : RPC_UNKNOWN;
    char *text = l->result->error_texts[code];
    if (!l->result->errors[code]++)
        snprintf(text, sizeof(l->result->error_texts[code]), "%s: %.*s", request_path(c->plan[c->at].kind),
                 (int)MIN(GRPC_SLICE_LENGTH(c->details), 200), (const char *)GRPC_SLICE_START_PTR(c->details));
}

/* How many messages a call that was answered OK has brought forward. */
static uint64_t count_ok(struct load *l, const struct caller *c) {
    struct step s = c->plan[c->at];
    uint64_t n = 1;
    if (s.kind == REQUEST_BATCH) {
        struct bytes in = BYTES_NULL;
        if (c->response && payload_view(c->response, &l->scratch, &in) < 0)
            in = BYTES_NULL;
        n = 0;
        request_batch_result(in, (size_t)l->o->batch, l->result->errors, &n);
    }
    uint64_t *const totals[REQUEST_KINDS] = {&l->result->prepared, &l->result->confirmed, &l->result->cancelled,
                                             &l->result->published, &l->result->published};
    *(s.again ? &l->result->repeats : totals[s.kind]) += n;
    return n;
}

/* @thread the only one, for each call once */
static void on_call_end(struct load *l, struct caller *c, uint64_t now) {
    bool ok = c->code == GRPC_STATUS_OK;
    uint64_t messages = 0;
    if (ok) {
        l->ok_ns = now;
        messages = count_ok(l, c);
    } else if (!l->result->stalled) {
        note_error(l, c);
    }
    call_end(l, c);
    if (!ok) {
        l->paused[l->paused_n++] = c;
    } else if (++c->at < c->plan_n) {
        call_start(l, c); /* also while draining: what was prepared is decided */
    } else {
        message_done(l, c, messages, now);
        if (l->phase != DRAIN)
            message_start(l, c, now);
    }
}

/* --- the run --- */

static void phase_begin(struct load *l, enum phase phase, uint64_t now) {
    if (l->phase == MEASURE && phase == DRAIN) {
        l->result->elapsed_ns = now - l->begin_ns;
        l->result->cpu_ns = cpu_ns() - l->begin_cpu_ns;
    }
    l->phase = phase;
    l->phase_end_ns = UINT64_MAX;
    if (phase == MEASURE) {
        l->begin_ns = now;
        l->begin_cpu_ns = cpu_ns();
        if (!l->o->count)
            l->phase_end_ns = now + (uint64_t)l->o->run_ms * NS_PER_MS;
    }
    if (phase != WARM && l->o->on_phase)
        l->o->on_phase(phase == MEASURE);
}

static void show_progress(struct load *l, uint64_t now) {
    if (!l->o->progress || l->phase == WARM || now - l->shown_ns < NS_PER_S)
        return;
    uint64_t messages = l->result->messages - l->shown_messages, errors = 0;
    for (size_t i = 0; i < LOAD_CODES; i++)
        errors += l->result->errors[i];
    fprintf(stderr, "%6.1f s  %9.0f messages/s  %llu errors\n", (double)(now - l->begin_ns) / 1e9,
            (double)messages * 1e9 / (double)(now - MAX(l->shown_ns, l->begin_ns)), (unsigned long long)errors);
    l->shown_ns = now;
    l->shown_messages = l->result->messages;
}

static void cancel_all(struct load *l) {
    l->result->stalled = true;
    if (l->phase != DRAIN)
        phase_begin(l, DRAIN, clock_mono_ns());
    for (int64_t i = 0; i < l->o->callers; i++)
        if (l->callers[i].call)
            grpc_call_cancel(l->callers[i].call, NULL);
}

static void on_tick(struct load *l, uint64_t now) {
    l->tick_ns = now + TICK_NS;
    show_progress(l, now);
    if (interrupted && l->phase != DRAIN)
        phase_begin(l, DRAIN, now);
    if (!l->result->stalled && now - l->ok_ns > STALL_NS)
        cancel_all(l);
    if (l->phase == DRAIN)
        return;
    size_t n = l->paused_n;
    for (l->paused_n = 0; n > 0; n--)
        message_start(l, l->paused[n - 1], now);
}

static void on_time(struct load *l, uint64_t now) {
    if (now >= l->phase_end_ns || (l->phase == MEASURE && l->o->count && l->result->messages >= (uint64_t)l->o->count))
        phase_begin(l, l->phase + 1, now);
    if (now >= l->tick_ns)
        on_tick(l, now);
}

static void run(struct load *l) {
    uint64_t now = clock_mono_ns();
    l->ok_ns = now;
    l->tick_ns = now + TICK_NS;
    l->phase_end_ns = now + (uint64_t)l->o->warmup_ms * NS_PER_MS;
    l->now_ms = clock_real_us() / 1000;
    for (int64_t i = 0; i < l->o->callers; i++)
        message_start(l, &l->callers[i], now);
    while (l->phase != DRAIN || l->open) {
        grpc_event ev = grpc_completion_queue_next(l->queue, core_time(MIN(l->tick_ns, l->phase_end_ns)), NULL);
        now = clock_mono_ns();
        l->now_ms = clock_real_us() / 1000;
        if (ev.type == GRPC_OP_COMPLETE)
            on_call_end(l, ev.tag, now);
        on_time(l, now);
    }
}

/* --- making and unmaking --- */

static grpc_arg int_arg(const char *key, int value) {
    return (grpc_arg){.type = GRPC_ARG_INTEGER, .key = (char *)(uintptr_t)key, .value.integer = value};
}

/* Connections are apart only if the channels share no subchannel pool. What this tool does not use is off: it costs. */
static int open_channel(struct load *l, int number, struct errmsg *e) {
    struct channel *ch = &l->channels[number];
    grpc_channel_credentials *credentials = credentials_client();
    grpc_arg args[] = {
        int_arg(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1),
        int_arg("txmsg.bench_channel", number),
        int_arg(GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH, RESPONSE_MAX),
        int_arg(GRPC_ARG_ENABLE_HTTP_PROXY, 0),
        int_arg(GRPC_ARG_ENABLE_RETRIES, 0),
        int_arg(GRPC_ARG_ENABLE_CHANNELZ, 0),
        int_arg(GRPC_ARG_ENABLE_PER_MESSAGE_COMPRESSION, 0),
        int_arg(GRPC_ARG_SERVICE_CONFIG_DISABLE_RESOLUTION, 1),
    };
    ch->core =
        grpc_channel_create(l->o->server, credentials, &(grpc_channel_args){.num_args = ARRAY_LEN(args), .args = args});
    grpc_channel_credentials_release(credentials);
    if (!ch->core)
        return err_set(e, -EINVAL, "cannot make a channel to %s", l->o->server);
    for (int kind = 0; kind < REQUEST_KINDS; kind++)
        ch->methods[kind] = grpc_channel_register_call(ch->core, request_path((enum request_kind)kind), NULL, NULL);
    return 0;
}

static uint32_t share_of_bits(int percent) {
    return (uint32_t)MIN((uint64_t)percent * (1ull << 32) / 100, UINT32_MAX);
}

static int make_requests(struct load *l, struct errmsg *e) {
    const struct request_options o = {.producer = l->o->producer,
                                      .topic = l->o->topic,
                                      .body = (size_t)l->o->body,
                                      .ids = (size_t)MAX(l->o->batch, 1)};
    int r = 0;
    for (int kind = 0; r == 0 && kind < REQUEST_KINDS; kind++)
        r = request_init(&l->requests[kind], (enum request_kind)kind, &o);
    return r < 0 ? err_set(e, r, "cannot pack requests for producer %s, topic %s: %s", o.producer, o.topic, err_text(r))
                 : 0;
}

static int make_callers(struct load *l, struct errmsg *e) {
    size_t n = (size_t)l->o->callers, each = (size_t)MAX(l->o->batch, 1);
    l->callers = mem_calloc(n, sizeof(*l->callers));
    l->paused = mem_calloc(n, sizeof(struct caller *));
    l->ids = mem_calloc(n * each, sizeof(*l->ids));
    if (!l->callers || !l->paused || !l->ids)
        return err_set(e, -ENOMEM, "out of memory");
    for (size_t i = 0; i < n; i++) {
        l->callers[i].channel = &l->channels[i % (size_t)l->o->channels];
        l->callers[i].ids = l->ids + i * each;
        grpc_metadata_array_init(&l->callers[i].headers);
        grpc_metadata_array_init(&l->callers[i].trailers);
    }
    return 0;
}

static int load_init(struct load *l, const struct load_options *o, struct load_result *result, struct errmsg *e) {
    *l = (struct load){.o = o, .result = result};
    *result = (struct load_result){0};
    l->undecided_below = share_of_bits(o->undecided);
    l->cancelled_below = share_of_bits(o->undecided + o->cancelled);
    l->duplicated_below = share_of_bits(o->duplicated);
    buf_init(&l->scratch, RESPONSE_MAX);
    library_init();
    l->queue = grpc_completion_queue_create_for_next(NULL);
    int r = make_requests(l, e);
    for (int i = 0; r == 0 && i < (int)MIN(o->channels, CHANNELS_MAX); i++)
        r = open_channel(l, i, e);
    return r == 0 ? make_callers(l, e) : r;
}

static void load_deinit(struct load *l) {
    for (int64_t i = 0; l->callers && i < l->o->callers; i++) {
        grpc_metadata_array_destroy(&l->callers[i].headers);
        grpc_metadata_array_destroy(&l->callers[i].trailers);
    }
    for (size_t i = 0; i < CHANNELS_MAX; i++)
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
    mem_free(l->callers);
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
