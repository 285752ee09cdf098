/*
 * Operations through streams of Pipeline. The tag of an operation is the place of its message, so a result finds it without
 * a search; a result for a place that waits for none is an error.
 *
 *   step -> `ready` of its stream -> a frame with all that is ready, within the credit -> one write under way; meanwhile the
 *        next frame forms -> results by tag -> load_step_done(), which may make the next step ready
 *
 * A stream is opened by the first step that needs it. When it ends too early, all its messages fail with its status, and
 * their next steps open it anew. It is given up once all its batches are back: `pending`.
 */
#include "load_driver.h"

#include "rpc/payload.h"
#include "rpc/rpc.h"

#include <grpc/byte_buffer.h>

enum { FRAME_OPERATIONS = 1000, FRAME_BYTES = 4 << 20 }; /* one operation may be larger */

enum batch { OPENED, WRITTEN, READ, CLOSED, ENDED, BATCHES };
struct note { /* the tag of a batch */
    struct stream *stream;
    enum batch batch;
};

enum state { IDLE, READY, SENT };

struct stream {
    struct note notes[BATCHES];
    const struct load_channel *channel;
    grpc_call *call; /* NULL = not open */
    grpc_metadata_array headers, trailers;
    grpc_status_code code;
    grpc_slice details;
    grpc_byte_buffer *sent, *received; /* sent: a write is under way */
    int pending;
    bool closed;                 /* half-closed by us */
    uint64_t credit;             /* operations that may be sent */
    struct load_message **ready; /* a ring; its size is the number of messages of the stream */
    size_t ready_at, ready_n, size;
};

struct streams {
    size_t n;
    struct stream *all;
    uint8_t *states; /* of the messages */
    struct load_message **ready;
};

static struct stream *stream_of(const struct load *l, size_t message) {
    const struct streams *ss = l->driver_state;
    return &ss->all[message % ss->n];
}

/* --- life --- */

static int stream_init(struct load *l, struct errmsg *e) {
    struct streams *ss = mem_zalloc(sizeof(*ss));
    size_t n = (size_t)l->o->streams, callers = (size_t)l->o->callers, at = 0;
    l->driver_state = ss;
    if (!ss || !(ss->all = mem_calloc(n, sizeof(*ss->all))) || !(ss->states = mem_calloc(callers, 1)) ||
        !(ss->ready = mem_calloc(callers, sizeof(struct load_message *))))
        return err_set(e, -ENOMEM, "out of memory");
    ss->n = n;
    for (size_t i = 0; i < n; i++) {
        struct stream *s = &ss->all[i];
        for (int b = 0; b < BATCHES; b++)
            s->notes[b] = (struct note){.stream = s, .batch = (enum batch)b};
        s->channel = &l->channels[i % (size_t)l->o->channels];
        s->size = callers / n + (i < callers % n);
        s->ready = ss->ready + at;
        at += s->size;
        grpc_metadata_array_init(&s->headers);
        grpc_metadata_array_init(&s->trailers);
    }
    return 0;
}

static void stream_deinit(struct load *l) {
    struct streams *ss = l->driver_state;
    if (!ss)
        return;
    for (size_t i = 0; i < ss->n; i++) {
        grpc_metadata_array_destroy(&ss->all[i].headers);
        grpc_metadata_array_destroy(&ss->all[i].trailers);
    }
    mem_free(ss->ready);
    mem_free(ss->states);
    mem_free(ss->all);
    mem_free(ss);
}

static void start(struct load *l, struct stream *s, enum batch batch, const grpc_op *ops, size_t n) {
    ASSERT(grpc_call_start_batch(s->call, ops, n, &s->notes[batch], NULL) == GRPC_CALL_OK);
    s->pending++;
    l->batches++;
}

static void start_read(struct load *l, struct stream *s) {
    const grpc_op op = {.op = GRPC_OP_RECV_MESSAGE, .data.recv_message.recv_message = &s->received};
    start(l, s, READ, &op, 1);
}

static void open_stream(struct load *l, struct stream *s) {
    const grpc_op opening[] = {
        {.op = GRPC_OP_SEND_INITIAL_METADATA},
        {.op = GRPC_OP_RECV_INITIAL_METADATA, .data.recv_initial_metadata.recv_initial_metadata = &s->headers},
    };
    const grpc_op status = {.op = GRPC_OP_RECV_STATUS_ON_CLIENT,
                            .data.recv_status_on_client = {
                                .trailing_metadata = &s->trailers, .status = &s->code, .status_details = &s->details}};
    s->headers.count = s->trailers.count = 0;
    s->credit = 0;
    s->closed = false;
    s->call = grpc_channel_create_registered_call(s->channel->core, NULL, GRPC_PROPAGATE_DEFAULTS, l->queue,
                                                  s->channel->methods[REQUEST_PREPARE],
                                                  gpr_inf_future(GPR_CLOCK_MONOTONIC), NULL);
    start(l, s, ENDED, &status, 1);
    start(l, s, OPENED, opening, ARRAY_LEN(opening));
    start_read(l, s);
}

/* Everything is back. What was not answered fails with the status of the stream. */
static void give_up(struct load *l, struct stream *s, uint64_t now) {
    struct streams *ss = l->driver_state;
    struct load_outcome o = {.code = s->code ? (int)s->code : RPC_UNKNOWN, .text = load_slice(&s->details)};
    if (!s->code)
        o.text = bytes_str("the stream ended too early");
    grpc_call_unref(s->call);
    s->call = NULL;
    s->ready_n = 0;
    size_t unanswered = 0;
    for (size_t i = (size_t)(s - ss->all); i < (size_t)l->o->callers; i += ss->n) {
        if (ss->states[i] == IDLE)
            continue;
        ss->states[i] = IDLE;
        unanswered++;
        load_step_done(l, &l->messages[i], &o, now);
    }
    if (!unanswered && (s->code || !l->ending) && !l->result->stalled)
        load_note_error(l, o.code, request_path(REQUEST_PREPARE, REQUEST_TAGGED), o.text);
    grpc_slice_unref(s->details);
}

/* --- sending --- */

static void stream_step(struct load *l, struct load_message *m) {
    struct streams *ss = l->driver_state;
    struct stream *s = stream_of(l, m->index);
    if (!s->call)
        open_stream(l, s);
    ASSERT(s->ready_n < s->size && ss->states[m->index] == IDLE);
    s->ready[(s->ready_at + s->ready_n++) % s->size] = m;
    ss->states[m->index] = READY;
}

static const struct request *ready_request(const struct load *l, const struct stream *s, size_t i) {
    const struct load_message *m = s->ready[(s->ready_at + i) % s->size];
    return &l->requests[m->plan[m->at].kind];
}

static grpc_slice pack_frame(struct load *l, struct stream *s) {
    struct streams *ss = l->driver_state;
    size_t most = (size_t)MIN(MIN(s->credit, s->ready_n), FRAME_OPERATIONS), n = 0, bytes = 0;
    while (n < most && (n == 0 || bytes + ready_request(l, s, n)->n <= FRAME_BYTES))
        bytes += ready_request(l, s, n++)->n;
    grpc_slice slice = grpc_slice_malloc(bytes);
    uint8_t *p = GRPC_SLICE_START_PTR(slice);
    for (size_t i = 0; i < n; i++) {
        const struct load_message *m = s->ready[s->ready_at];
        const struct request *r = ready_request(l, s, 0);
        request_put_tagged(r, m->ids, REQUEST_TAG_MIN + (uint32_t)m->index, p);
        p += r->n;
        ss->states[m->index] = SENT;
        s->ready_at = (s->ready_at + 1) % s->size;
        s->ready_n--;
    }
    s->credit -= n;
    return slice;
}

/* A credit means that the stream is open: it came with the first frame. */
static void stream_flush(struct load *l) {
    struct streams *ss = l->driver_state;
    for (size_t i = 0; i < ss->n; i++) {
        struct stream *s = &ss->all[i];
        if (!s->call || s->sent)
            continue;
        if (s->ready_n && s->credit) {
            grpc_slice slice = pack_frame(l, s);
            s->sent = grpc_raw_byte_buffer_create(&slice, 1);
            grpc_slice_unref(slice);
            start(l, s, WRITTEN, &(grpc_op){.op = GRPC_OP_SEND_MESSAGE, .data.send_message.send_message = s->sent}, 1);
        } else if (l->ending && !s->closed) {
            s->closed = true;
            start(l, s, CLOSED, &(grpc_op){.op = GRPC_OP_SEND_CLOSE_FROM_CLIENT}, 1);
        }
    }
}

/* --- receiving --- */

static void take_results(struct load *l, struct stream *s, uint64_t now) {
    const struct streams *ss = l->driver_state;
    struct wire_reader frame;
    struct request_result r;
    struct bytes in;
    int e = payload_view(s->received, &l->scratch, &in);
    for (frame = wire_reader(e < 0 ? BYTES_NULL : in);
         e >= 0 && (e = request_stream_result(&frame, &r, &s->credit)) == 1;) {
        size_t i = (size_t)(r.tag - REQUEST_TAG_MIN);
        if (i >= (size_t)l->o->callers || ss->states[i] != SENT || stream_of(l, i) != s) {
            load_note_error(l, RPC_INTERNAL, "Pipeline", bytes_str("a result for a tag that has no operation"));
            continue;
        }
        ss->states[i] = IDLE;
        load_step_done(l, &l->messages[i], &(struct load_outcome){.code = r.code, .text = r.text, .messages = 1}, now);
    }
    if (e < 0)
        load_note_error(l, RPC_INTERNAL, "Pipeline", bytes_str("a frame that cannot be read"));
}

static void stream_event(struct load *l, const grpc_event *ev, uint64_t now) {
    const struct note *note = ev->tag;
    struct stream *s = note->stream;
    s->pending--;
    l->batches--;
    if (note->batch == WRITTEN) {
        grpc_byte_buffer_destroy(TAKE(s->sent));
    } else if (note->batch == READ && s->received) {
        take_results(l, s, now);
        grpc_byte_buffer_destroy(TAKE(s->received));
        start_read(l, s);
    }
    if (!s->pending)
        give_up(l, s, now);
}

static void stream_cancel(struct load *l) {
    struct streams *ss = l->driver_state;
    for (size_t i = 0; i < ss->n; i++)
        if (ss->all[i].call)
            grpc_call_cancel(ss->all[i].call, NULL);
}

const struct load_driver load_stream = {
    .init = stream_init,
    .deinit = stream_deinit,
    .step = stream_step,
    .event = stream_event,
    .flush = stream_flush,
    .cancel = stream_cancel,
};
