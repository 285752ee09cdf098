/*
 *   armed -> arrived -> its message was read -> its checks wait for the listener -> all are answered, or its time is nearly over -> a reply -> gone
 *
 * A batch is answered with what there is a little before its deadline: if the listener takes longer than all of it may, some of it is settled each
 * time, instead of nothing ever. Who was not asked by then is not asked at all. A check that the listener still has keeps its inquiry until it returns.
 *
 * Core queues what no slot is armed for, without bound. So a slot that was taken is armed again at once, and what is too much is refused, before its
 * message is read.
 */
#include "check_server.h"

#include "listener.h"
#include "port.h"
#include "rpc/crossing.h"
#include "rpc/payload.h"
#include "rpc/wire.h"

#include <grpc/byte_buffer.h>
#include <grpc/support/time.h>

enum {
    SLOTS = 8,
    CALLS_MAX = 256,
    BYTES_MAX = 64 << 20, /* held by calls; those that are being read come on top */
    CHECKS_MAX = 100,     /* in a batch, by the contract */
    STREAMS_MAX = 100,    /* of a connection */
    RECEIVE_MAX = 32 << 20,
    ANSWER_BODIES_MAX = 960 << 10, /* in a batch: services take 1 MiB */
    SWEEP_MS = 25,
    CALL_MAX_MS = 900000, /* whatever it says itself; CheckPolicy.timeout is at most 10 min */
    EARLY_MIN_MS = 20,    /* a batch is answered so long before its deadline, a tenth of its time, */
    EARLY_MAX_MS = 500,   /* but no longer than this */
    KEEPALIVE_MS = 60000,
    IDLE_MS = 1800000,
    PING_INTERVAL_MIN_MS = 9000, /* what a client may do that has no call */
};

enum step { ARRIVED, RECEIVED, CLOSED, REPLIED, STEPS };
struct step_event {
    struct event event;
    struct inquiry *inquiry;
};
struct question {
    struct txmsg_check check;
    struct inquiry *inquiry;
    bool answered;
};
struct inquiry { /* a call */
    struct step_event events[STEPS];
    struct check_server *server;
    struct list link; /* of server->inquiries, once it has arrived */
    grpc_call *call;  /* NULL: all its batches are back */
    grpc_call_details details;
    grpc_metadata_array metadata;
    grpc_byte_buffer *received, *reply;
    int cancelled, pending; /* pending: batches out */
    bool batch, over;       /* over: it was replied to, or nobody waits for it any more */
    uint64_t early_ns, deadline_ns;
    struct arena arena;
    struct question *questions;
    size_t n, open; /* open: not answered */
};

struct check_server {
    struct event down;
    struct client *client;
    struct listener *listener;
    struct port *port;
    grpc_server *core;
    struct list inquiries;
    int armed, calls;
    size_t bytes;
    uint64_t sweep_ns;
    bool stopping, ended;
};

static void start(struct inquiry *q, enum step step, const grpc_op *ops, size_t n) {
    q->pending++;
    client_start(q->server->client, q->call, ops, n, &q->events[step].event);
}

/* --- its end --- */

static bool at_listener(const struct inquiry *q) {
    for (size_t i = 0; i < q->n; i++)
        if (q->questions[i].check.asked && !q->questions[i].answered)
            return true;
    return false;
}

static void inquiry_free(struct inquiry *q) {
    for (size_t i = 0; i < q->n; i++)
        arena_deinit(&q->questions[i].check.arena);
    list_del(&q->link);
    q->server->bytes -= q->arena.used;
    arena_deinit(&q->arena);
    grpc_call_details_destroy(&q->details);
    grpc_metadata_array_destroy(&q->metadata);
    mem_free(q);
}

/* As far as it can. */
static void leave(struct inquiry *q) {
    if (!q->over || q->pending > 0)
        return;
    if (q->received)
        grpc_byte_buffer_destroy(TAKE(q->received));
    if (q->reply)
        grpc_byte_buffer_destroy(TAKE(q->reply));
    if (q->call) {
        grpc_call_unref(TAKE(q->call));
        q->server->calls--;
    }
    if (!at_listener(q))
        inquiry_free(q);
}

/* Nothing of it is asked any more. */
static void end(struct inquiry *q) {
    q->over = true;
    for (size_t i = 0; i < q->n; i++)
        if (!q->questions[i].check.asked)
            list_del(&q->questions[i].check.link);
}

/* With q->reply if there is one. `text` is static. */
static void reply(struct inquiry *q, grpc_status_code code, const char *text) {
    grpc_slice details = grpc_slice_from_static_string(text);
    grpc_op ops[3] = {{.op = GRPC_OP_SEND_INITIAL_METADATA}}, *op = &ops[1];

    end(q);
    if (q->reply) {
        op->op = GRPC_OP_SEND_MESSAGE;
        op->data.send_message.send_message = q->reply;
        op++;
    }
    op->op = GRPC_OP_SEND_STATUS_FROM_SERVER;
    op->data.send_status_from_server.status = code;
    op->data.send_status_from_server.status_details = &details;
    start(q, REPLIED, ops, (size_t)(op - ops) + 1);
}

/* With what there is, and goes into one answer. What is left out is asked again. */
static void answer(struct inquiry *q) {
    Txmsg__V1__CheckResponse responses[CHECKS_MAX], *list[CHECKS_MAX];
    Txmsg__V1__CheckBatchResponse all = TXMSG__V1__CHECK_BATCH_RESPONSE__INIT;

    size_t bodies = 0;

    all.answers = list;
    for (size_t i = 0; i < q->n; i++) {
        struct txmsg_check *check = &q->questions[i].check;

        if (!q->questions[i].answered || (q->batch && bodies + check->bodies_size > ANSWER_BODIES_MAX))
            continue;
        bodies += check->bodies_size;
        check_response(check, &responses[all.n_answers]);
        list[all.n_answers] = &responses[all.n_answers];
        all.n_answers++;
    }
    q->reply = payload_pack(q->batch ? &all.base : &responses[0].base);
    reply(q, GRPC_STATUS_OK, "");
}

static void on_answered(struct txmsg_check *check) {
    struct question *question = CONTAINER_OF(check, struct question, check);
    struct inquiry *q = question->inquiry;

    question->answered = true;
    q->open--;
    if (!q->over && q->open == 0)
        answer(q);
    leave(q);
}

/* --- what comes --- */

/* False: whoever asks gets no answer to this one. */
static bool question_init(struct inquiry *q, struct question *question, const Txmsg__V1__CheckRequest *request) {
    *question = (struct question){.check = {.request = request, .answered = on_answered}, .inquiry = q};
    list_init(&question->check.link);
    arena_init(&question->check.arena, CHECK_BYTES_MAX);
    return txmsg_id_parse(&question->check.id, request->transaction_id) == TXMSG_OK;
}

static void take_checks(struct inquiry *q, Txmsg__V1__CheckRequest **list, size_t n) {
    const char *producer = q->server->client->o->producer;

    q->questions = n > 0 && n <= CHECKS_MAX ? arena_alloc(&q->arena, n * sizeof(*q->questions)) : NULL;
    if (!q->questions) {
        reply(q, GRPC_STATUS_INVALID_ARGUMENT, "a batch has 1 to 100 checks");
        return;
    }
    for (size_t i = 0; i < n; i++) {
        /* Who answered for another producer would find nothing, and perhaps take that for rolled back. */
        if (strcmp(list[i]->producer, producer) != 0) {
            reply(q, GRPC_STATUS_FAILED_PRECONDITION, "checks of another producer are answered here");
            return;
        }
        q->n += question_init(q, &q->questions[q->n], list[i]);
    }
    if (q->n == 0) {
        reply(q, GRPC_STATUS_INVALID_ARGUMENT, "transaction_id is not a UUIDv7");
        return;
    }
    q->open = q->n;
    for (size_t i = 0; i < q->n; i++)
        listener_ask(q->server->listener, &q->questions[i].check);
}

static void take_message(struct inquiry *q) {
    const ProtobufCMessageDescriptor *d =
        q->batch ? &txmsg__v1__check_batch_request__descriptor : &txmsg__v1__check_request__descriptor;
    ProtobufCAllocator allocator = payload_allocator(&q->arena);
    ProtobufCMessage *m = NULL;
    struct wire_fault fault;
    struct bytes in;

    if (payload_view(q->received, &q->server->client->scratch, &in) == 0) {
        if (wire_check(d, in, WIRE_FROM_SERVER, &fault)) {
            reply(q, GRPC_STATUS_INVALID_ARGUMENT, "the request is not well formed");
            return;
        }
        m = protobuf_c_message_unpack(d, &allocator, in.n, in.p);
    }
    if (!m) {
        reply(q, GRPC_STATUS_RESOURCE_EXHAUSTED, "out of memory");
    } else if (q->batch) {
        Txmsg__V1__CheckBatchRequest *all = (Txmsg__V1__CheckBatchRequest *)m;
        take_checks(q, all->checks, all->n_checks);
    } else {
        take_checks(q, &(Txmsg__V1__CheckRequest *){(Txmsg__V1__CheckRequest *)m}, 1);
    }
}

static void on_received(struct client *c, struct event *ev, bool ok) {
    struct inquiry *q = ((struct step_event *)ev)->inquiry;

    q->pending--;
    if (!q->over && q->received) {
        take_message(q);
        q->server->bytes += q->arena.used;
        grpc_byte_buffer_destroy(TAKE(q->received));
    } else if (!q->over) {
        reply(q, GRPC_STATUS_INVALID_ARGUMENT, "the call came without a request message");
    }
    leave(q);
}

/* The call is over for core: it was replied to, was cancelled, or its time has passed. */
static void on_closed(struct client *c, struct event *ev, bool ok) {
    struct inquiry *q = ((struct step_event *)ev)->inquiry;

    q->pending--;
    if (!q->over)
        end(q);
    leave(q);
}

static void on_replied(struct client *c, struct event *ev, bool ok) {
    struct inquiry *q = ((struct step_event *)ev)->inquiry;

    q->pending--;
    leave(q);
}

static void set_times(struct inquiry *q, uint64_t now) {
    gpr_timespec d = gpr_convert_clock_type(q->details.deadline, GPR_CLOCK_MONOTONIC);
    uint64_t latest = now + CALL_MAX_MS * NS_PER_MS, left;

    q->deadline_ns = d.tv_sec < 0 ? 0
                     : (uint64_t)d.tv_sec > (uint64_t)INT64_MAX / NS_PER_S
                         ? latest
                         : (uint64_t)d.tv_sec * NS_PER_S + (uint64_t)d.tv_nsec;
    q->deadline_ns = MIN(q->deadline_ns, latest);
    left = q->deadline_ns > now ? q->deadline_ns - now : 0;
    q->early_ns = q->deadline_ns - MIN(left, MIN(MAX(left / 10, EARLY_MIN_MS * NS_PER_MS), EARLY_MAX_MS * NS_PER_MS));
}

static void begin(struct inquiry *q) {
    const grpc_op close = {.op = GRPC_OP_RECV_CLOSE_ON_SERVER, .data.recv_close_on_server.cancelled = &q->cancelled},
                  receive = {.op = GRPC_OP_RECV_MESSAGE, .data.recv_message.recv_message = &q->received};
    const struct check_server *s = q->server;

    start(q, CLOSED, &close, 1);
    q->batch = grpc_slice_str_cmp(q->details.method, "/txmsg.v1.CheckService/CheckBatch") == 0;
    if (!q->batch && grpc_slice_str_cmp(q->details.method, "/txmsg.v1.CheckService/Check") != 0)
        reply(q, GRPC_STATUS_UNIMPLEMENTED, "there is CheckService alone");
    else if (s->stopping)
        end(q);
    else if (s->calls > CALLS_MAX || s->bytes >= BYTES_MAX)
        reply(q, GRPC_STATUS_RESOURCE_EXHAUSTED, "too many checks are under way");
    else
        start(q, RECEIVED, &receive, 1);
}

static void arm(struct check_server *s);

static void on_arrived(struct client *c, struct event *ev, bool ok) {
    struct inquiry *q = ((struct step_event *)ev)->inquiry;
    struct check_server *s = q->server;

    q->pending--;
    s->armed--;
    if (!ok) { /* it was shut down */
        inquiry_free(q);
        return;
    }
    arm(s);
    list_add_tail(&s->inquiries, &q->link);
    s->calls++;
    set_times(q, clock_mono_ns());
    begin(q);
}

static bool arm_one(struct check_server *s) {
    static void (*const fns[])(struct client *, struct event *, bool) = {
        [ARRIVED] = on_arrived, [RECEIVED] = on_received, [CLOSED] = on_closed, [REPLIED] = on_replied};
    struct inquiry *q = mem_zalloc(sizeof(*q));
    struct event *arrived;

    if (!q)
        return false;
    for (int i = 0; i < STEPS; i++)
        q->events[i] = (struct step_event){.event.fn = fns[i], .inquiry = q};
    q->server = s;
    list_init(&q->link);
    arena_init(&q->arena, 2 * (size_t)RECEIVE_MAX);
    grpc_call_details_init(&q->details);
    grpc_metadata_array_init(&q->metadata);
    q->pending = 1;
    s->armed++;
    s->client->batches++;
    arrived = &q->events[ARRIVED].event;
    crossing_begin(arrived);
    ASSERT(grpc_server_request_call(s->core, &q->call, &q->details, &q->metadata, s->client->queue, s->client->queue,
                                    arrived) == GRPC_CALL_OK);
    return true;
}

static void arm(struct check_server *s) {
    while (s->armed < SLOTS && !s->stopping && arm_one(s))
        ;
}

bool check_server_turn(struct check_server *s, uint64_t now) {
    arm(s);
    if (now >= s->sweep_ns) {
        s->sweep_ns = now + SWEEP_MS * NS_PER_MS;
        LIST_FOR_SAFE (e, &s->inquiries) {
            struct inquiry *q = LIST_ENTRY(e, struct inquiry, link);

            if (!q->over && q->batch && now >= q->early_ns)
                answer(q);
            else if (q->call && now >= q->deadline_ns)
                grpc_call_cancel(q->call, NULL);
        }
    }
    return !list_empty(&s->inquiries) || s->armed < SLOTS;
}

/* --- life --- */

static void on_down(struct client *c, struct event *ev, bool ok) {
    CONTAINER_OF(ev, struct check_server, down)->ended = true;
}

static grpc_arg int_arg(const char *key, int value) {
    return (grpc_arg){.type = GRPC_ARG_INTEGER, .key = (char *)(uintptr_t)key, .value.integer = value};
}

static void start_core(struct check_server *s) {
    grpc_arg args[] = {
        int_arg(GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH, RECEIVE_MAX),
        int_arg(GRPC_ARG_MAX_CONCURRENT_STREAMS, STREAMS_MAX),
        int_arg(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, PING_INTERVAL_MIN_MS),
        int_arg(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1),
        int_arg(GRPC_ARG_KEEPALIVE_TIME_MS, KEEPALIVE_MS),
        int_arg(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, KEEPALIVE_MS / 3),
        int_arg(GRPC_ARG_MAX_CONNECTION_IDLE_MS, IDLE_MS),
        int_arg(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0),
        int_arg(GRPC_ARG_ENABLE_PER_MESSAGE_COMPRESSION, 0),
        int_arg(GRPC_ARG_ENABLE_CHANNELZ, 0),
    };

    s->core = grpc_server_create(&(grpc_channel_args){.num_args = ARRAY_LEN(args), .args = args}, NULL);
    grpc_server_register_completion_queue(s->core, s->client->queue, NULL);
    grpc_server_start(s->core);
}

int check_server_make(struct client *c, struct listener *l, struct check_server **ret) {
    struct check_server *s = *ret = mem_zalloc(sizeof(*s));
    int e;

    if (!s)
        return TXMSG_ERROR_MEMORY;
    s->client = c;
    s->listener = l;
    s->down.fn = on_down;
    list_init(&s->inquiries);
    e = port_open(c->o->check_address, &s->port);
    if (e)
        return e;
    start_core(s);
    return port_start(s->port, s->core);
}

int check_server_port(const struct check_server *s) {
    return port_number(s->port);
}

void check_server_stop(struct check_server *s) {
    if (s->stopping)
        return;
    s->stopping = true;
    LIST_FOR (e, &s->inquiries)
        end(LIST_ENTRY(e, struct inquiry, link));
    if (!s->core)
        return;
    port_stop(s->port);
    s->client->batches++;
    crossing_begin(&s->down);
    grpc_server_shutdown_and_notify(s->core, s->client->queue, &s->down);
    grpc_server_cancel_all_calls(s->core);
}

/* When the engine never ran, nobody has seen the end of core's server yet. */
static void wait_down(struct check_server *s) {
    while (!s->ended) {
        grpc_event ev = grpc_completion_queue_next(s->client->queue, gpr_inf_future(GPR_CLOCK_MONOTONIC), NULL);
        struct event *event = ev.tag;

        crossing_end(event);
        s->client->batches--;
        event->fn(s->client, event, ev.success);
    }
}

void check_server_free(struct check_server *s) {
    if (!s)
        return;
    if (s->core) {
        wait_down(s);
        grpc_server_destroy(s->core);
    }
    port_free(s->port);
    mem_free(s);
}
