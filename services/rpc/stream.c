/*
 * A stream has up to three batches under way, each with its own tag:
 *
 *     closed    RECV_CLOSE, from the beginning: how we learn that the client has gone
 *     received  RECV_MESSAGE, one at a time, none while the method pauses
 *     sent      SEND_MESSAGE or the final SEND_STATUS, one at a time; the first carries the headers
 *
 *     open --rpc_stream_end / _fail, half-close, drain--> ending --no hold, nothing being sent--> ended
 *       |                                                   |                                      |
 *       +---------------------------------------------------+------- the client has gone ----------+-> gone
 *
 * It is freed when it was closed, no tag is under way, nobody holds it and no signal is down. After `gone` nothing is
 * started any more. Every entry from core or from a signal runs callbacks and then settle(), which is the only place
 * that ends, reads on and frees; so no callback ever finds its stream freed under it.
 *
 * Core keeps little for a stream that is not read (one message and a flow control window) and for one whose client does
 * not read (64 KiB and one message). Who does not take a message within reply_ms is cut off.
 */
#include "rpc/stream.h"

#include "base/clock.h"
#include "base/log.h"
#include "rpc/payload.h"
#include "rpc/status.h"
#include "rpc/wire.h"

enum { STREAMS_MAX = 1024, SWEEP_MS = 1000, SCRATCH_KEPT_MAX = 1 << 20 };

struct rpc_stream {
    struct list node; /* of thread->streams */
    struct rpc_thread *thread;
    struct stream_method *method;
    void *data;
    grpc_call *core;
    grpc_metadata_array metadata;
    struct tag closed, received, sent;
    bool receiving, sending, was_closed; /* the tags under way */
    bool headers_sent, asked, paused, ending, ended, gone;
    int holds;
    int code; /* of the end */
    grpc_slice details;
    grpc_metadata trailer;
    size_t trailers_n;
    grpc_byte_buffer *in, *out;
    uint64_t sending_ns;
    struct arena arena;
    int cancelled;
    struct rpc_stream *next; /* of thread->signalled */
    atomic_bool signalled;   /* it stands there */
};

struct stream_method *stream_find(struct rpc_server *s, struct bytes path) {
    for (int i = 0; i < s->streams_n; i++)
        if (bytes_eq_str(path, s->streams[i].def.path))
            return &s->streams[i];
    return NULL;
}

struct rpc_server *stream_server(const struct rpc_stream *s) {
    return s->thread->server;
}

void *rpc_stream_user(const struct rpc_stream *s) {
    return s->method->def.user;
}

void *rpc_stream_data(const struct rpc_stream *s) {
    return s->data;
}

void rpc_stream_set_data(struct rpc_stream *s, void *data) {
    s->data = data;
}

struct arena *rpc_stream_arena(struct rpc_stream *s) {
    return &s->arena;
}

const char *rpc_stream_metadata(struct rpc_stream *s, const char *key) {
    for (size_t i = 0; i < s->metadata.count; i++)
        if (grpc_slice_str_cmp(s->metadata.metadata[i].key, key) == 0)
            return payload_text(&s->arena, s->metadata.metadata[i].value);
    return NULL;
}

uint64_t rpc_stream_deadline_ns(const struct rpc_stream *s) {
    return clock_mono_ns() + (uint64_t)s->thread->server->options.deadline_max_ms * NS_PER_MS;
}

void rpc_stream_pause(struct rpc_stream *s, bool paused) {
    s->paused = paused;
}

void rpc_stream_hold(struct rpc_stream *s) {
    s->holds++;
}

void rpc_stream_release(struct rpc_stream *s) {
    ASSERT(s->holds > 0);
    s->holds--;
}

static void free_if_done(struct rpc_stream *s) {
    if (!s->was_closed || s->receiving || s->sending || s->holds || atomic_load(&s->signalled))
        return;
    method_count(&s->method->counts, s->ended ? s->code : RPC_CANCELLED);
    atomic_fetch_sub(&s->method->open, 1);
    list_del(&s->node);
    s->thread->streams_n--;
    s->thread->live--;
    grpc_metadata_array_destroy(&s->metadata);
    grpc_slice_unref(s->details);
    grpc_slice_unref(s->trailer.value);
    arena_deinit(&s->arena);
    grpc_call_unref(s->core);
    mem_free(s);
}

static void receive(struct rpc_stream *s) {
    grpc_op op = {.op = GRPC_OP_RECV_MESSAGE};

    if (s->receiving || s->gone || s->ending || s->paused)
        return;
    op.data.recv_message.recv_message = &s->in;
    s->receiving = true;
    batch_start(s->core, &op, 1, &s->received);
}

/* --- sending --- */

/* Starts a batch of one op, with the headers before it the first time. */
static void send_op(struct rpc_stream *s, const grpc_op *op) {
    grpc_op ops[2] = {{.op = GRPC_OP_SEND_INITIAL_METADATA}, *op};
    size_t skip = s->headers_sent ? 1 : 0;

    s->headers_sent = s->sending = true;
    s->sending_ns = clock_mono_ns();
    batch_start(s->core, ops + skip, 2 - skip, &s->sent);
}

bool rpc_stream_may_send(const struct rpc_stream *s) {
    return !s->gone && !s->sending && !s->ended;
}

static void send_message(struct rpc_stream *s, grpc_byte_buffer *m) {
    grpc_op op = {.op = GRPC_OP_SEND_MESSAGE};

    ASSERT(rpc_stream_may_send(s) && thread_current == s->thread);
    s->out = m;
    op.data.send_message.send_message = m;
    send_op(s, &op);
}

void rpc_stream_send(struct rpc_stream *s, const ProtobufCMessage *m) {
    send_message(s, payload_pack(m));
}

void rpc_stream_send_bytes(struct rpc_stream *s, struct bytes packed) {
    grpc_slice slice = grpc_slice_from_copied_buffer((const char *)packed.p, packed.n);

    send_message(s, grpc_raw_byte_buffer_create(&slice, 1));
    grpc_slice_unref(slice);
}

static void send_end(struct rpc_stream *s) {
    grpc_op op = {.op = GRPC_OP_SEND_STATUS_FROM_SERVER};

    s->ended = true;
    op.data.send_status_from_server.status = (grpc_status_code)s->code;
    op.data.send_status_from_server.status_details = &s->details;
    op.data.send_status_from_server.trailing_metadata = s->trailers_n ? &s->trailer : NULL;
    op.data.send_status_from_server.trailing_metadata_count = s->trailers_n;
    send_op(s, &op);
}

void rpc_stream_end(struct rpc_stream *s) {
    s->ending = true; /* the first word counts; RPC_OK unless there was one */
}

void rpc_stream_fail(struct rpc_stream *s, const struct rpc_error *err) {
    struct bytes status = BYTES_NULL;

    ASSERT(err->code > RPC_OK && err->code < CODES);
    if (s->ending || s->gone)
        return;
    s->ending = true;
    s->code = err->code;
    s->details = grpc_slice_from_copied_string(status_text(err->message, &s->arena));
    if (status_pack(err, &s->arena, &status) == 0) {
        s->trailer = (grpc_metadata){
            .key = grpc_slice_from_static_string(STATUS_TRAILER),
            .value = grpc_slice_from_copied_buffer((const char *)status.p, status.n),
        };
        s->trailers_n = 1;
    }
}

void stream_fail(struct rpc_stream *s, int code, const char *reason, const char *message) {
    rpc_stream_fail(s, &(struct rpc_error){.code = code,
                                           .reason = reason,
                                           .message = message,
                                           .retry_after_ms = code == RPC_UNAVAILABLE          ? 200
                                                             : code == RPC_RESOURCE_EXHAUSTED ? 1000
                                                                                              : 0});
}

/* After every callback. `s` may be gone afterwards. */
static void settle(struct rpc_stream *s) {
    if (s->ending && !s->ended && !s->gone && !s->sending && !s->holds)
        send_end(s);
    receive(s);
    free_if_done(s);
}

/* --- events --- */

static void on_closed(struct tag *tag, bool ok) {
    struct rpc_stream *s = CONTAINER_OF(tag, struct rpc_stream, closed);

    UNUSED(ok);
    s->was_closed = s->gone = true;
    if (s->method->def.closed)
        s->method->def.closed(s);
    settle(s);
}

static void fail_fault(struct rpc_stream *s, const struct wire_fault *f) {
    char *message = arena_printf(&s->arena, "%s: %s", f->field[0] ? f->field : "the message", f->description);

    rpc_stream_fail(s, &(struct rpc_error){.code = RPC_INVALID_ARGUMENT,
                                           .reason = f->reason,
                                           .message = message ? message : f->description,
                                           .field = f->field,
                                           .field_description = f->description});
}

static void on_message(struct rpc_stream *s) {
    const struct rpc_stream_method *def = &s->method->def;
    ProtobufCAllocator allocator = payload_allocator(&s->arena);
    const ProtobufCMessage *m = NULL;
    struct wire_fault fault;
    struct bytes in;

    if (payload_view(s->in, &s->thread->scratch, &in) == 0) {
        if (wire_check(def->request, in, WIRE_FROM_CLIENT, &fault)) {
            fail_fault(s, &fault);
            return;
        }
        m = protobuf_c_message_unpack(def->request, &allocator, in.n, in.p);
    }
    s->asked = true;
    if (m) {
        def->message(s, m);
        return;
    }
    arena_reset(&s->arena); /* room for the error itself */
    stream_fail(s, RPC_RESOURCE_EXHAUSTED, "REQUEST_TOO_LARGE", "the message takes more memory than one call may use");
}

static void on_received(struct tag *tag, bool ok) {
    struct rpc_stream *s = CONTAINER_OF(tag, struct rpc_stream, received);

    s->receiving = false;
    if (ok && s->in && !s->gone && !s->ending)
        on_message(s);
    else if (ok && !s->in && s->method->def.asks && !s->asked)
        rpc_stream_fail(s, &(struct rpc_error){.code = RPC_INVALID_ARGUMENT,
                                               .reason = "MALFORMED_REQUEST",
                                               .message = "the call came without a request message",
                                               .field = "",
                                               .field_description = "the call came without a request message"});
    else if (ok && !s->in) /* the client has said all it wants to say */
        rpc_stream_end(s);
    if (s->in)
        grpc_byte_buffer_destroy(TAKE(s->in));
    arena_reset(&s->arena);
    if (s->thread->scratch.cap > SCRATCH_KEPT_MAX)
        buf_deinit(&s->thread->scratch);
    settle(s);
}

static void on_sent(struct tag *tag, bool ok) {
    struct rpc_stream *s = CONTAINER_OF(tag, struct rpc_stream, sent);

    s->sending = false;
    if (s->out)
        grpc_byte_buffer_destroy(TAKE(s->out));
    if (!ok)
        s->gone = true;
    if (rpc_stream_may_send(s) && s->method->def.sendable)
        s->method->def.sendable(s);
    settle(s);
}

struct rpc_stream *stream_open(struct rpc_thread *t, struct stream_method *m, grpc_call *core,
                               grpc_metadata_array *metadata) {
    bool room = t->streams_n < STREAMS_MAX && (!m->def.max || atomic_load(&m->open) < m->def.max);
    struct rpc_stream *s = room ? mem_zalloc(sizeof(*s)) : NULL;
    grpc_op op = {.op = GRPC_OP_RECV_CLOSE_ON_SERVER};

    if (!s)
        return NULL;
    atomic_fetch_add(&m->open, 1);
    s->thread = t;
    s->method = m;
    s->core = core;
    s->metadata = *metadata;
    grpc_metadata_array_init(metadata);
    s->closed.run = on_closed;
    s->received.run = on_received;
    s->sent.run = on_sent;
    s->details = s->trailer.value = grpc_empty_slice();
    arena_init(&s->arena, (size_t)t->server->options.arena_bytes);
    list_add_tail(&t->streams, &s->node);
    t->streams_n++;
    op.data.recv_close_on_server.cancelled = &s->cancelled;
    batch_start(core, &op, 1, &s->closed);
    if (m->def.opened)
        m->def.opened(s);
    arena_reset(&s->arena);
    settle(s);
    return s;
}

/* --- from elsewhere --- */

void rpc_stream_signal(struct rpc_stream *s) {
    struct rpc_thread *t = s->thread;
    struct rpc_stream *head;

    if (atomic_exchange(&s->signalled, true))
        return;
    head = atomic_load_explicit(&t->signalled, memory_order_relaxed);
    do
        s->next = head;
    while (!atomic_compare_exchange_weak(&t->signalled, &head, s));
}

static void signalled(struct rpc_stream *s) {
    if (s->method->def.signalled)
        s->method->def.signalled(s);
    settle(s);
}

void streams_signalled(struct rpc_thread *t) {
    struct rpc_stream *s, *next;

    for (s = atomic_exchange(&t->signalled, NULL); s; s = next) {
        next = s->next;
        atomic_store(&s->signalled, false); /* before looking: who comes later puts it down again */
        signalled(s);
    }
}

void streams_news(struct rpc_thread *t) {
    bool draining = atomic_load(&t->server->draining) || atomic_load(&t->server->stopping);

    LIST_FOR_SAFE (node, &t->streams) {
        struct rpc_stream *s = LIST_ENTRY(node, struct rpc_stream, node);

        if (s->method->def.signalled)
            s->method->def.signalled(s);
        if (draining)
            stream_fail(s, RPC_UNAVAILABLE, "SHUTTING_DOWN",
                        "this replica is stopping; what was not answered is to be repeated at another");
        settle(s);
    }
}

void streams_sweep(struct rpc_thread *t, uint64_t now_ns) {
    uint64_t longest = (uint64_t)t->server->options.reply_ms * NS_PER_MS;

    if (now_ns < t->sweep_ns)
        return;
    t->sweep_ns = now_ns + SWEEP_MS * NS_PER_MS;
    LIST_FOR (node, &t->streams) {
        struct rpc_stream *s = LIST_ENTRY(node, struct rpc_stream, node);

        if (s->sending && !s->gone && now_ns - s->sending_ns > longest) {
            LOG_DEBUG("rpc", "a client of %s does not read: cut off", s->method->counts.name);
            grpc_call_cancel(s->core, NULL); /* its tags come back */
        }
    }
}
