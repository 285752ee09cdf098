#include "stream.h"

#include "core/retry.h"
#include "engine.h"
#include "rpc/crossing.h"
#include "rpc/payload.h"
#include "rpc/status.h"

#include <grpc/byte_buffer.h>

static const struct backoff pause = {.initial_ms = 50, .max_ms = 2000, .factor = 2, .jitter = 0.5};

static void on_opened(struct client *c, struct event *ev, bool ok);
static void on_written(struct client *c, struct event *ev, bool ok);
static void on_read(struct client *c, struct event *ev, bool ok);
static void on_over(struct client *c, struct event *ev, bool ok);

void stream_init(struct stream *s, const struct stream_kind *kind, struct client *c, grpc_channel *channel) {
    *s = (struct stream){.kind = kind,
                         .client = c,
                         .channel = channel,
                         .opened.fn = on_opened,
                         .written.fn = on_written,
                         .read.fn = on_read,
                         .over.fn = on_over};
    grpc_metadata_array_init(&s->headers);
    grpc_metadata_array_init(&s->trailers);
}

void stream_deinit(struct stream *s) {
    grpc_metadata_array_destroy(&s->headers);
    grpc_metadata_array_destroy(&s->trailers);
}

/* --- opening --- */

static void start(struct stream *s, struct event *ev, const grpc_op *ops, size_t n) {
    s->pending++;
    client_start(s->client, s->call, ops, n, ev);
}

static void start_read(struct stream *s) {
    const grpc_op op = {.op = GRPC_OP_RECV_MESSAGE, .data.recv_message.recv_message = &s->received};

    start(s, &s->read, &op, 1);
}

void stream_open(struct stream *s, uint64_t now) {
    const grpc_op opening[] = {
        {.op = GRPC_OP_SEND_INITIAL_METADATA},
        {.op = GRPC_OP_RECV_INITIAL_METADATA, .data.recv_initial_metadata.recv_initial_metadata = &s->headers},
    };
    const grpc_op status = {.op = GRPC_OP_RECV_STATUS_ON_CLIENT,
                            .data.recv_status_on_client = {
                                .trailing_metadata = &s->trailers, .status = &s->code, .status_details = &s->details}};

    if (s->call || now < s->retry_ns)
        return;
    s->headers.count = s->trailers.count = 0;
    s->ended = false;
    s->openings++;
    s->call = grpc_channel_create_call(s->channel, NULL, GRPC_PROPAGATE_DEFAULTS, s->client->queue,
                                       grpc_slice_from_static_string(s->kind->path), NULL,
                                       gpr_inf_future(GPR_CLOCK_MONOTONIC), NULL);
    start(s, &s->over, &status, 1);
    start(s, &s->opened, opening, ARRAY_LEN(opening));
    start_read(s);
}

/* --- its end --- */

enum outcome take_end(txmsg_result *r, int code, const grpc_slice *details, const grpc_metadata_array *trailers) {
    struct bytes status = BYTES_NULL, text = bytes_of(GRPC_SLICE_START_PTR(*details), GRPC_SLICE_LENGTH(*details));

    for (size_t i = 0; i < trailers->count; i++)
        if (grpc_slice_str_cmp(trailers->metadata[i].key, STATUS_TRAILER) == 0)
            status = bytes_of(GRPC_SLICE_START_PTR(trailers->metadata[i].value),
                              GRPC_SLICE_LENGTH(trailers->metadata[i].value));
    return result_take_error(r, code, text, status);
}

void stream_cancel(struct stream *s) {
    if (s->call)
        grpc_call_cancel(s->call, NULL);
}

static void batch_done(struct stream *s, uint64_t now) {
    grpc_call *call = s->call;

    if (--s->pending > 0)
        return;
    s->call = NULL;
    s->failures++;
    s->retry_ns = now + (uint64_t)backoff_delay_ms(&pause, s->failures, backoff_random()) * NS_PER_MS;
    s->kind->closed(s, now);
    grpc_slice_unref(s->details);
    grpc_call_unref(call); /* the trailers were its */
}

static void on_over(struct client *c, struct event *ev, bool ok) {
    struct stream *s = CONTAINER_OF(ev, struct stream, over);
    uint64_t now = clock_mono_ns();

    s->ended = true;
    if (s->kind->ended)
        s->kind->ended(s, now);
    batch_done(s, now);
}

static void on_opened(struct client *c, struct event *ev, bool ok) {
    batch_done(CONTAINER_OF(ev, struct stream, opened), clock_mono_ns());
}

/* --- frames --- */

static void on_read(struct client *c, struct event *ev, bool ok) {
    struct stream *s = CONTAINER_OF(ev, struct stream, read);
    uint64_t now = clock_mono_ns();
    struct bytes frame;

    if (ok && s->received) {
        s->failures = 0;
        if (payload_view(s->received, &c->scratch, &frame) < 0 || !s->kind->received(s, frame, now))
            stream_cancel(s);
        grpc_byte_buffer_destroy(s->received);
        s->received = NULL;
        start_read(s);
    }
    batch_done(s, now);
}

/* Without the lock: this is where core writes to the socket. As soon as the batch is started the engine may take back the stream's own reference. */
void stream_write(struct stream *s, uint64_t now) {
    grpc_op op = {.op = GRPC_OP_SEND_MESSAGE};
    grpc_call *call = s->call;

    if (!stream_is_open(s) || s->writing)
        return;
    s->writing = s->kind->next(s, now);
    if (!s->writing)
        return;
    op.data.send_message.send_message = s->writing;
    s->pending++;
    s->client->batches++;
    grpc_call_ref(call);
    pthread_mutex_unlock(&s->client->lock);
    crossing_begin(&s->written);
    ASSERT(grpc_call_start_batch(call, &op, 1, &s->written, NULL) == GRPC_CALL_OK);
    grpc_call_unref(call);
    pthread_mutex_lock(&s->client->lock);
}

static void on_written(struct client *c, struct event *ev, bool ok) {
    struct stream *s = CONTAINER_OF(ev, struct stream, written);

    grpc_byte_buffer_destroy(s->writing);
    s->writing = NULL;
    batch_done(s, clock_mono_ns());
}
