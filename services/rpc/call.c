/*
 * One unary call, from the armed slot to the reply.
 *
 *     call_new -> ARMED -> (arrives with its message) -> RUNNING -> rpc_reply / rpc_fail -> REPLYING -> (sent) -> FREE
 *                   |                                     ^  |
 *                   +-> (server shut down) -> FREE        |  +-- kept by the handler
 *                                                         +----- rpc_call_finish() by any thread, calls_finish() here
 *
 * Costs, measured: core charges per batch and per queue event, so a call has one event for its arrival (registered
 * method with its payload) and one batch for everything else: headers, message, status, and the notice of the end
 * (RECV_CLOSE). The last one could be asked for at arrival, but nothing here acts on an early cancel and
 * a batch of its own costs 15 % more instructions; left out altogether it makes core cancel the stream when the call is
 * dropped, which costs 27 % more.
 *
 * The object is kept with the first chunk of its arena for the next call, so steady traffic allocates nothing of ours.
 */
#include "base/clock.h"
#include "rpc/budget.h"
#include "rpc/payload.h"
#include "rpc/server.h"
#include "rpc/status.h"
#include "rpc/stream.h"
#include "rpc/wire.h"

#include <grpc/support/alloc.h>

enum {
    FREE_MAX = 4096,            /* calls kept per thread */
    ARENA_KEPT_MAX = 16 * 1024, /* an arena that grew past this is given back with the call */
    REPLIES_PER_ARRIVAL = 2,    /* more than one, so that a flood of calls cannot hold answers up */
};

static void call_arrived(struct tag *t, bool ok);
static void call_sent(struct tag *t, bool ok);

struct rpc_call *call_new(struct rpc_thread *t, struct method *m) {
    struct rpc_call *c = t->free;

    if (c) {
        t->free = c->next;
        t->free_n--;
    } else {
        c = mem_zalloc(sizeof(*c));
        if (!c)
            return NULL;
        c->arrived.run = call_arrived;
        c->sent.run = call_sent;
        c->thread = t;
        list_init(&c->link);
        arena_init(&c->arena, (size_t)t->server->options.arena_bytes);
        c->allocator = payload_allocator(&c->arena);
        grpc_metadata_array_init(&c->metadata);
    }
    ASSERT(c->state == CALL_FREE);
    c->method = m;
    c->state = CALL_ARMED;
    return c;
}

void call_free(struct rpc_call *c) {
    arena_deinit(&c->arena);
    mem_free(c);
}

void call_release(struct rpc_call *c) {
    struct rpc_thread *t = c->thread;

    budget_release(c);
    grpc_metadata_array_destroy(&c->metadata);
    grpc_metadata_array_init(&c->metadata);
    if (c->payload)
        grpc_byte_buffer_destroy(TAKE(c->payload));
    if (c->response)
        grpc_byte_buffer_destroy(TAKE(c->response));
    if (!c->method->registered)
        grpc_call_details_destroy(&c->details);
    grpc_slice_unref(c->trailer.value);
    c->trailer.value = grpc_empty_slice();
    if (c->core)
        grpc_call_unref(TAKE(c->core));
    c->state = CALL_FREE;
    c->request = NULL;
    c->path = c->peer = NULL;
    if (t->free_n >= FREE_MAX) {
        call_free(c);
        return;
    }
    if (c->arena.used > ARENA_KEPT_MAX) {
        arena_deinit(&c->arena);
        arena_init(&c->arena, (size_t)t->server->options.arena_bytes);
    } else {
        arena_reset(&c->arena);
    }
    c->next = t->free;
    t->free = c;
    t->free_n++;
    if (t->missing_n)
        server_arm_missing(t);
}

static void call_sent(struct tag *tag, bool ok) {
    struct rpc_call *c = CONTAINER_OF(tag, struct rpc_call, sent);
    struct rpc_thread *t = c->thread;

    UNUSED(ok); /* the peer may have gone: nothing is left to do about it */
    call_release(c);
    t->live--;
}

/* --- arrival --- */

static uint64_t deadline_ns(gpr_timespec d, uint64_t now_ns, int64_t max_ms) {
    uint64_t latest = now_ns + (uint64_t)max_ms * NS_PER_MS, ns;

    /* Core gives the deadline on the monotonic clock; converting is free when that is so. */
    d = gpr_convert_clock_type(d, GPR_CLOCK_MONOTONIC);
    if (d.tv_sec < 0)
        return 0;
    if (d.tv_sec >= INT64_MAX / (int64_t)NS_PER_S)
        return latest;
    ns = (uint64_t)d.tv_sec * NS_PER_S + (uint64_t)d.tv_nsec;
    return MIN(ns, latest);
}

static void fail_fault(struct rpc_call *c, const struct wire_fault *f) {
    char *message = arena_printf(&c->arena, "%s: %s", f->field[0] ? f->field : "the request", f->description);
    char *field = arena_strndup(&c->arena, f->field, strlen(f->field));

    rpc_fail(c, &(struct rpc_error){
                    .code = RPC_INVALID_ARGUMENT,
                    .reason = f->reason,
                    .message = message ? message : f->description,
                    .field = field ? field : "",
                    .field_description = f->description,
                });
}

/* 0 = c->request is there; 1 = the call was answered. */
static int decode(struct rpc_call *c) {
    const ProtobufCMessageDescriptor *d = c->method->def.request;
    struct wire_fault fault;
    struct bytes in;

    if (!c->payload) { /* closed by the client without a message */
        rpc_fail(c, &(struct rpc_error){.code = RPC_INVALID_ARGUMENT,
                                        .reason = "MALFORMED_REQUEST",
                                        .message = "the call came without a request message"});
        return 1;
    }
    if (payload_view(c->payload, &c->thread->scratch, &in) == 0) {
        if (wire_check(d, in, WIRE_FROM_CLIENT, &fault)) {
            fail_fault(c, &fault);
            return 1;
        }
        c->request = protobuf_c_message_unpack(d, &c->allocator, in.n, in.p);
    }
    /* protobuf-c copied everything, so a large request is not held twice. */
    grpc_byte_buffer_destroy(TAKE(c->payload));
    if (c->thread->scratch.cap > ARENA_KEPT_MAX)
        buf_deinit(&c->thread->scratch);
    budget_unpacked(c);
    if (c->request)
        return 0;
    bool full = c->arena.full;
    arena_reset(&c->arena); /* room for the error itself */
    if (full)
        rpc_fail(c, &(struct rpc_error){.code = RPC_RESOURCE_EXHAUSTED,
                                        .reason = "REQUEST_TOO_LARGE",
                                        .message = "the request takes more memory than one call may use"});
    else
        rpc_fail(c, &(struct rpc_error){.code = RPC_RESOURCE_EXHAUSTED,
                                        .reason = "OVERLOADED",
                                        .message = "out of memory for this call; nothing was stored",
                                        .retry_after_ms = 200});
    return 1;
}

static void fail_draining(struct rpc_call *c) {
    atomic_fetch_add(&c->thread->server->refused, 1);
    rpc_fail(c, &(struct rpc_error){.code = RPC_UNAVAILABLE,
                                    .reason = "SHUTTING_DOWN",
                                    .message = "this replica is stopping, nothing was stored; repeat at another",
                                    .retry_after_ms = 200});
}

/* Whatever is no registered method: a stream, or unknown. */
static void generic_arrived(struct rpc_call *c) {
    struct bytes path = bytes_of(GRPC_SLICE_START_PTR(c->details.method), GRPC_SLICE_LENGTH(c->details.method));
    struct stream_method *m = stream_find(c->thread->server, path);

    if (!m) {
        rpc_fail(c, &(struct rpc_error){.code = RPC_UNIMPLEMENTED,
                                        .reason = "METHOD_UNKNOWN",
                                        .message = "this server has no such method",
                                        .meta = {"method", rpc_call_method(c)}});
        return;
    }
    if (atomic_load(&c->thread->server->draining)) { /* the others have been told already */
        fail_draining(c);
        return;
    }
    if (!stream_open(c->thread, m, c->core, &c->metadata)) {
        rpc_fail(c, &(struct rpc_error){.code = RPC_RESOURCE_EXHAUSTED,
                                        .reason = "TOO_MANY_STREAMS",
                                        .message = "this server holds as many streams as it may",
                                        .retry_after_ms = 1000});
        return;
    }
    c->core = NULL; /* the stream's now, and so is the place in live */
    call_release(c);
}

static void call_arrived(struct tag *tag, bool ok) {
    struct rpc_call *c = CONTAINER_OF(tag, struct rpc_call, arrived);
    struct rpc_thread *t = c->thread;
    struct method *m = c->method;

    if (!ok) { /* the server is going down and gives every slot back */
        c->core = NULL;
        call_release(c);
        return;
    }
    server_arm(t, m); /* first, so that the next call never waits for this one */
    t->live++;
    c->state = CALL_RUNNING;
    c->start_ns = clock_mono_ns();
    if (!m->registered) {
        c->deadline_ns = deadline_ns(c->details.deadline, c->start_ns, t->server->options.deadline_max_ms);
        generic_arrived(c);
        return;
    }
    c->deadline_ns = deadline_ns(c->deadline, c->start_ns, t->server->options.deadline_max_ms);
    if (atomic_load_explicit(&t->server->draining, memory_order_relaxed)) {
        fail_draining(c);
    } else if (c->deadline_ns <= c->start_ns)
        rpc_fail(c, &(struct rpc_error){.code = RPC_DEADLINE_EXCEEDED,
                                        .reason = "DEADLINE_PASSED",
                                        .message = "the deadline had passed when the call was read"});
    else if (budget_admit(c) && decode(c) == 0)
        m->def.handle(c, m->def.user);
    calls_finish(t, REPLIES_PER_ARRIVAL);
}

/* --- what a handler sees --- */

const ProtobufCMessage *rpc_call_request(const struct rpc_call *c) {
    return c->request;
}

struct arena *rpc_call_arena(struct rpc_call *c) {
    return &c->arena;
}

ProtobufCAllocator *rpc_call_allocator(struct rpc_call *c) {
    return &c->allocator;
}

uint64_t rpc_call_deadline_ns(const struct rpc_call *c) {
    return c->deadline_ns;
}

const char *rpc_call_metadata(const struct rpc_call *c, const char *key) {
    struct rpc_call *owner = (struct rpc_call *)(uintptr_t)c; /* only its arena changes */

    for (size_t i = 0; i < c->metadata.count; i++)
        if (grpc_slice_str_cmp(c->metadata.metadata[i].key, key) == 0)
            return payload_text(&owner->arena, c->metadata.metadata[i].value);
    return NULL;
}

const char *rpc_call_peer(struct rpc_call *c) {
    char *peer;

    if (!c->peer) {
        peer = grpc_call_get_peer(c->core);
        c->peer = arena_strndup(&c->arena, peer, strlen(peer));
        gpr_free(peer);
    }
    return c->peer ? c->peer : "";
}

const char *rpc_call_method(const struct rpc_call *c) {
    struct rpc_call *owner = (struct rpc_call *)(uintptr_t)c; /* only its arena changes */

    if (c->method->registered)
        return c->method->def.path;
    if (!c->path)
        owner->path = payload_text(&owner->arena, c->details.method);
    return c->path ? c->path : "";
}

/* --- the reply --- */

/* Headers, message (NULL = none), status and the notice of the end, in one batch. */
static void send_reply(struct rpc_call *c, int code, grpc_slice *details, size_t trailers_n) {
    grpc_op ops[4] = {{.op = GRPC_OP_SEND_INITIAL_METADATA}};
    grpc_op *status = &ops[1], *close;

    ASSERT(c->state == CALL_RUNNING && thread_current == c->thread);
    c->state = CALL_REPLYING;
    method_count(c->method, code);
    method_observe(c->method, c->start_ns, clock_mono_ns());
    if (c->response) {
        ops[1].op = GRPC_OP_SEND_MESSAGE;
        ops[1].data.send_message.send_message = c->response;
        status++;
    }
    status->op = GRPC_OP_SEND_STATUS_FROM_SERVER;
    status->data.send_status_from_server.status = (grpc_status_code)code;
    status->data.send_status_from_server.status_details = details;
    status->data.send_status_from_server.trailing_metadata = trailers_n ? &c->trailer : NULL;
    status->data.send_status_from_server.trailing_metadata_count = trailers_n;
    close = status + 1;
    close->op = GRPC_OP_RECV_CLOSE_ON_SERVER;
    close->data.recv_close_on_server.cancelled = &c->cancelled;
    budget_replying(c);
    batch_start(c->core, ops, (size_t)(close - ops) + 1, &c->sent);
}

void rpc_reply(struct rpc_call *c, const ProtobufCMessage *response) {
    ASSERT(response->descriptor == c->method->def.response);
    c->response = payload_pack(response);
    send_reply(c, RPC_OK, NULL, 0);
}

void rpc_fail(struct rpc_call *c, const struct rpc_error *err) {
    grpc_slice details = grpc_slice_from_copied_string(status_text(err->message, &c->arena));
    struct bytes status = BYTES_NULL;
    size_t trailers_n = 0;

    ASSERT(err->code > RPC_OK && err->code < CODES);
    /* Out of memory: the code and the message alone. */
    if (status_pack(err, &c->arena, &status) == 0) {
        c->trailer = (grpc_metadata){
            .key = grpc_slice_from_static_string(STATUS_TRAILER),
            .value = grpc_slice_from_copied_buffer((const char *)status.p, status.n),
        };
        trailers_n = 1;
    }
    send_reply(c, err->code, &details, trailers_n);
    grpc_slice_unref(details); /* core has its own reference; the trailer must stay until the batch is done */
}

/* --- finishing from elsewhere --- */

void rpc_call_finish(struct rpc_call *c, void (*fn)(struct rpc_call *c, void *arg), void *arg) {
    struct rpc_thread *t = c->thread;
    struct rpc_call *head = atomic_load_explicit(&t->finished, memory_order_relaxed);

    c->finish = fn;
    c->finish_arg = arg;
    do
        c->next = head;
    while (!atomic_compare_exchange_weak(&t->finished, &head, c));
}

static void take_finished(struct rpc_thread *t) {
    struct rpc_call *c = atomic_load_explicit(&t->finished, memory_order_relaxed), *next;

    if (!c)
        return;
    for (c = atomic_exchange(&t->finished, NULL); c; c = next) { /* newest first */
        next = c->next;
        c->next = t->answers;
        t->answers = c;
    }
}

int calls_finish(struct rpc_thread *t, int max) {
    struct rpc_call *c;
    int n;

    for (n = 0; n < max; n++) {
        if (!t->answers)
            take_finished(t);
        c = t->answers;
        if (!c)
            break;
        t->answers = c->next;
        c->finish(c, c->finish_arg);
    }
    return n;
}

void rpc_wake(struct rpc_server *s) {
    for (int i = 0; i < s->options.threads; i++) {
        struct rpc_thread *t = &s->threads[i];

        /* On its own thread nothing is needed: the list is looked at after every event. */
        if (t != thread_current && (atomic_load(&t->finished) || atomic_load(&t->signalled)))
            thread_wake(t);
    }
}
