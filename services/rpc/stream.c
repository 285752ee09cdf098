/*
 * A stream has up to three batches under way, each with its own tag:
 *
 *     closed    RECV_CLOSE, from the beginning: how we learn that the client has gone
 *     received  RECV_MESSAGE, one at a time
 *     sent      SEND_MESSAGE or the final SEND_STATUS, one at a time; the first carries the headers
 *
 * It is freed when it was closed and no tag is under way. After `gone` nothing is started any more.
 */
#include "rpc/stream.h"

#include "rpc/health.h"
#include "rpc/payload.h"
#include "rpc/reflection.h"
#include "rpc/wire.h"

enum { STREAMS_MAX = 1024, STREAM_ARENA_MAX = 1 << 20 };

struct stream {
    struct list node; /* of thread->streams */
    struct rpc_thread *thread;
    const struct stream_ops *ops;
    grpc_call *core;
    struct tag closed, received, sent;
    bool receiving, sending, was_closed; /* the tags under way */
    bool headers_sent, asked, ending, gone;
    int end_code; /* -1 = not ending */
    const char *end_message;
    grpc_byte_buffer *in, *out;
    struct arena arena;
    int cancelled;
    int state[2];
};

static const struct stream_ops *const all[] = {&health_watch, &reflection_v1, &reflection_v1alpha};

const struct stream_ops *stream_find(struct bytes path) {
    for (size_t i = 0; i < ARRAY_LEN(all); i++)
        if (bytes_eq_str(path, all[i]->path))
            return all[i];
    return NULL;
}

struct rpc_server *stream_server(const struct stream *s) {
    return s->thread->server;
}

struct arena *stream_arena(struct stream *s) {
    return &s->arena;
}

int *stream_state(struct stream *s) {
    return s->state;
}

bool stream_may_send(const struct stream *s) {
    return !s->gone && !s->sending && !s->ending && s->end_code < 0;
}

static void free_if_done(struct stream *s) {
    if (!s->was_closed || s->receiving || s->sending)
        return;
    method_count(s->ops->method(s->thread->server), s->end_code < 0 ? RPC_CANCELLED : s->end_code);
    list_del(&s->node);
    s->thread->streams_n--;
    s->thread->live--;
    arena_deinit(&s->arena);
    grpc_call_unref(s->core);
    mem_free(s);
}

static void receive(struct stream *s) {
    grpc_op op = {.op = GRPC_OP_RECV_MESSAGE};

    if (s->receiving || s->gone || s->ending || (s->ops->once && s->asked))
        return;
    op.data.recv_message.recv_message = &s->in;
    s->receiving = true;
    batch_start(s->core, &op, 1, &s->received);
}

/* Starts a batch of one op, with the headers before it the first time. */
static void send_op(struct stream *s, const grpc_op *op) {
    grpc_op ops[2] = {{.op = GRPC_OP_SEND_INITIAL_METADATA}, *op};
    size_t skip = s->headers_sent ? 1 : 0;

    s->headers_sent = s->sending = true;
    batch_start(s->core, ops + skip, 2 - skip, &s->sent);
}

void stream_send(struct stream *s, const ProtobufCMessage *m) {
    grpc_op op = {.op = GRPC_OP_SEND_MESSAGE};

    ASSERT(stream_may_send(s));
    s->out = payload_pack(m);
    op.data.send_message.send_message = s->out;
    send_op(s, &op);
}

static void send_end(struct stream *s) {
    grpc_slice details = grpc_slice_from_static_string(s->end_message);
    grpc_op op = {.op = GRPC_OP_SEND_STATUS_FROM_SERVER};

    s->ending = true;
    op.data.send_status_from_server.status = (grpc_status_code)s->end_code;
    op.data.send_status_from_server.status_details = &details;
    send_op(s, &op);
}

void stream_end(struct stream *s, int code, const char *message) {
    if (s->end_code >= 0 || s->gone)
        return;
    s->end_code = code;
    s->end_message = message;
    if (!s->sending)
        send_end(s);
}

static void on_closed(struct tag *tag, bool ok) {
    struct stream *s = CONTAINER_OF(tag, struct stream, closed);

    UNUSED(ok);
    s->was_closed = s->gone = true;
    free_if_done(s);
}

static void on_message(struct stream *s) {
    ProtobufCAllocator allocator = payload_allocator(&s->arena);
    const ProtobufCMessage *m = NULL;
    struct wire_fault fault;
    struct bytes in;

    arena_reset(&s->arena);
    s->asked = true;
    if (payload_view(s->in, &s->thread->scratch, &in) == 0) {
        if (wire_check(s->ops->request, in, WIRE_FROM_CLIENT, &fault)) {
            stream_end(s, RPC_INVALID_ARGUMENT, "the request is not well formed");
            return;
        }
        m = protobuf_c_message_unpack(s->ops->request, &allocator, in.n, in.p);
    }
    if (m)
        s->ops->message(s, m);
    else
        stream_end(s, RPC_RESOURCE_EXHAUSTED, "the request takes too much memory");
}

static void on_received(struct tag *tag, bool ok) {
    struct stream *s = CONTAINER_OF(tag, struct stream, received);

    s->receiving = false;
    if (ok && s->in && !s->gone)
        on_message(s);
    else if (ok && !s->in) /* the client has said all it wants to say */
        stream_end(s, s->ops->once ? RPC_INVALID_ARGUMENT : RPC_OK, s->ops->once ? "no request came" : "");
    if (s->in)
        grpc_byte_buffer_destroy(TAKE(s->in));
    if (!s->sending)
        receive(s);
    free_if_done(s);
}

static void on_sent(struct tag *tag, bool ok) {
    struct stream *s = CONTAINER_OF(tag, struct stream, sent);

    s->sending = false;
    if (s->out)
        grpc_byte_buffer_destroy(TAKE(s->out));
    if (!ok)
        s->gone = true;
    if (!s->gone && !s->ending) {
        if (s->end_code >= 0)
            send_end(s);
        else if (s->ops->news)
            s->ops->news(s);
        receive(s);
    }
    free_if_done(s);
}

struct stream *stream_open(struct rpc_thread *t, const struct stream_ops *ops, grpc_call *core) {
    struct stream *s = t->streams_n < STREAMS_MAX ? mem_zalloc(sizeof(*s)) : NULL;
    grpc_op op = {.op = GRPC_OP_RECV_CLOSE_ON_SERVER};

    if (!s)
        return NULL;
    s->thread = t;
    s->ops = ops;
    s->core = core;
    s->closed.run = on_closed;
    s->received.run = on_received;
    s->sent.run = on_sent;
    s->end_code = -1;
    arena_init(&s->arena, STREAM_ARENA_MAX);
    list_add_tail(&t->streams, &s->node);
    t->streams_n++;
    op.data.recv_close_on_server.cancelled = &s->cancelled;
    batch_start(core, &op, 1, &s->closed);
    receive(s);
    return s;
}

void streams_news(struct rpc_thread *t) {
    bool stopping = atomic_load(&t->server->stopping);

    /* Ending one does not free it here: its tags come back first. */
    LIST_FOR_SAFE (node, &t->streams) {
        struct stream *s = LIST_ENTRY(node, struct stream, node);

        if (stopping)
            stream_end(s, RPC_UNAVAILABLE, "the server is stopping");
        else if (s->ops->news && s->asked)
            s->ops->news(s);
    }
}
