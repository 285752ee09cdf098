/*
 * A stream of Pipeline to one address. It is opened when something is in flight, and stays open. When it ends, what was sent and not answered may be
 * stored: it is repeated under the same id. What was not sent yet goes elsewhere.
 *
 *   closed -> call made (opening) -> first frame grants credit (open) -> its end is seen (ending) -> all batches are back (closed)
 */
#include "engine.h"

#include "core/retry.h"
#include "rpc/credentials.h"
#include "rpc/crossing.h"
#include "rpc/payload.h"
#include "rpc/rpc.h"
#include "rpc/status.h"
#include "rpc/wire.h"

#include <grpc/byte_buffer.h>

enum {
    FRAME_OPERATIONS = 1000,
    FRAME_BYTES = 4 << 20,   /* one operation may be larger */
    FRAME_FIELDS = 64 << 10, /* likewise; the service looks at no more than WIRE_FIELDS_MAX */
    RECEIVE_MAX = 64 << 20,
    STALL_S = 10,
    KEEPALIVE_MS = 20000,
    KEEPALIVE_TIMEOUT_MS = 10000,
    CONNECT_MS = 5000,
    RECONNECT_MIN_MS = 100,
    RECONNECT_MAX_MS = 2000,
};

static grpc_arg int_arg(const char *key, int value) {
    return (grpc_arg){.type = GRPC_ARG_INTEGER, .key = (char *)(uintptr_t)key, .value.integer = value};
}

static grpc_arg text_arg(const char *key, const char *value) {
    return (grpc_arg){.type = GRPC_ARG_STRING, .key = (char *)(uintptr_t)key, .value.string = (char *)(uintptr_t)value};
}

static void on_opened(struct client *c, struct event *ev, bool ok);
static void on_written(struct client *c, struct event *ev, bool ok);
static void on_read(struct client *c, struct event *ev, bool ok);
static void on_ended(struct client *c, struct event *ev, bool ok);

int route_init(struct route *r, struct client *c, const char *address, int number) {
    grpc_channel_credentials *credentials = credentials_client();
    grpc_arg args[] = {
        int_arg(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1), /* or channels to one address share a connection */
        int_arg("txmsg.channel", number),
        int_arg(GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH, RECEIVE_MAX),
        int_arg(GRPC_ARG_ENABLE_HTTP_PROXY, 0),
        int_arg(GRPC_ARG_ENABLE_RETRIES, 0), /* by our own rules */
        int_arg(GRPC_ARG_ENABLE_CHANNELZ, 0),
        int_arg(GRPC_ARG_ENABLE_PER_MESSAGE_COMPRESSION, 0),
        int_arg(GRPC_ARG_SERVICE_CONFIG_DISABLE_RESOLUTION, 1),
        text_arg(GRPC_ARG_SERVICE_CONFIG, "{\"loadBalancingConfig\":[{\"round_robin\":{}}]}"),
        int_arg(GRPC_ARG_KEEPALIVE_TIME_MS, KEEPALIVE_MS),
        int_arg(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, KEEPALIVE_TIMEOUT_MS),
        int_arg(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0),
        int_arg(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, RECONNECT_MIN_MS),
        int_arg(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, CONNECT_MS),
        int_arg(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, RECONNECT_MAX_MS),
    };
    static void (*const fns[])(struct client *, struct event *, bool) = {
        [ROUTE_OPENED] = on_opened, [ROUTE_WRITTEN] = on_written, [ROUTE_READ] = on_read, [ROUTE_ENDED] = on_ended};

    for (int i = 0; i < ROUTE_BATCHES; i++)
        r->events[i] = (struct route_event){.event.fn = fns[i], .route = r};
    r->client = c;
    list_init(&r->ready);
    list_init(&r->sent);
    grpc_metadata_array_init(&r->headers);
    grpc_metadata_array_init(&r->trailers);
    r->channel =
        grpc_channel_create(address, credentials, &(grpc_channel_args){.num_args = ARRAY_LEN(args), .args = args});
    grpc_channel_credentials_release(credentials);
    return r->channel ? TXMSG_OK : TXMSG_ERROR_INVALID;
}

void route_deinit(struct route *r) {
    if (r->channel)
        grpc_channel_destroy(r->channel);
    grpc_metadata_array_destroy(&r->headers);
    grpc_metadata_array_destroy(&r->trailers);
}

static void start(struct route *r, enum route_batch batch, const grpc_op *ops, size_t n) {
    r->pending++;
    client_start(r->client, r->call, ops, n, &r->events[batch].event);
}

static void start_read(struct route *r) {
    const grpc_op op = {.op = GRPC_OP_RECV_MESSAGE, .data.recv_message.recv_message = &r->received};

    start(r, ROUTE_READ, &op, 1);
}

void route_open(struct route *r, uint64_t now) {
    const grpc_op opening[] = {
        {.op = GRPC_OP_SEND_INITIAL_METADATA},
        {.op = GRPC_OP_RECV_INITIAL_METADATA, .data.recv_initial_metadata.recv_initial_metadata = &r->headers},
    };
    const grpc_op status = {.op = GRPC_OP_RECV_STATUS_ON_CLIENT,
                            .data.recv_status_on_client = {
                                .trailing_metadata = &r->trailers, .status = &r->code, .status_details = &r->details}};
    grpc_slice path;

    if (r->call || now < r->retry_ns)
        return;
    path = grpc_slice_from_static_string("/txmsg.v1.MessageService/Pipeline");
    r->headers.count = r->trailers.count = 0;
    r->credit = 0;
    r->granted = r->open = r->ending = false;
    r->call = grpc_channel_create_call(r->channel, NULL, GRPC_PROPAGATE_DEFAULTS, r->client->queue, path, NULL,
                                       gpr_inf_future(GPR_CLOCK_MONOTONIC), NULL);
    start(r, ROUTE_ENDED, &status, 1);
    start(r, ROUTE_OPENED, opening, ARRAY_LEN(opening));
    start_read(r);
}

void route_cancel(struct route *r) {
    if (r->call)
        grpc_call_cancel(r->call, NULL);
}

/* --- its end --- */

static struct bytes slice_bytes(const grpc_slice *s) {
    return bytes_of(GRPC_SLICE_START_PTR(*s), GRPC_SLICE_LENGTH(*s));
}

/* The service said something about what the stream carried, not about itself: who was on it asks alone. */
static bool frame_refused(const txmsg_result *r) {
    return r->code == RPC_INVALID_ARGUMENT || r->code == RPC_UNIMPLEMENTED ||
           (r->code == RPC_RESOURCE_EXHAUSTED && !r->reason[0]);
}

/* It never opened: nothing was sent. */
static void note_failure(struct route *r, const txmsg_result *why) {
    struct client *c = r->client;

    snprintf(c->last_error, sizeof(c->last_error), "%s%s%s", why->reason, why->reason[0] ? ": " : "", why->message);
    if (why->code == RPC_UNIMPLEMENTED)
        c->unary = true; /* an older service, or a proxy */
}

static void fail_sent(struct route *r, const txmsg_result *why, uint64_t now) {
    struct list sent = LIST_INIT(sent);

    list_splice_tail(&sent, &r->sent);
    while (!list_empty(&sent)) {
        struct op *op = LIST_ENTRY(sent.next, struct op, link);

        op->alone |= frame_refused(why);
        result_error(&op->result, why->code, "", why->message);
        op_attempted(r->client, op, OUTCOME_UNKNOWN, now);
    }
}

static void give_up(struct route *r, uint64_t now) {
    static const struct backoff pause = {.initial_ms = 50, .max_ms = RECONNECT_MAX_MS, .factor = 2, .jitter = 0.5};
    struct bytes status = BYTES_NULL;
    bool was_open = r->granted;
    txmsg_result why;

    for (size_t i = 0; i < r->trailers.count; i++)
        if (grpc_slice_str_cmp(r->trailers.metadata[i].key, STATUS_TRAILER) == 0)
            status = slice_bytes(&r->trailers.metadata[i].value);
    result_init(&why);
    result_take_error(&why, r->code ? (int)r->code : RPC_UNAVAILABLE, slice_bytes(&r->details), status);
    grpc_slice_unref(r->details);
    grpc_call_unref(r->call);
    r->call = NULL;
    r->failures = was_open ? 1 : r->failures + 1;
    r->retry_ns =
        now + (uint64_t)MAX(backoff_delay_ms(&pause, r->failures, backoff_random()), why.retry_after_ms) * NS_PER_MS;
    if (!was_open)
        note_failure(r, &why);
    fail_sent(r, &why, now);
    if (r->client->unary)
        client_reroute(r->client, &r->client->waiting, now);
    result_deinit(&why);
}

static void batch_done(struct route *r, uint64_t now) {
    if (--r->pending == 0)
        give_up(r, now);
}

static void on_ended(struct client *c, struct event *ev, bool ok) {
    struct route *r = ((struct route_event *)ev)->route;
    uint64_t now = clock_mono_ns();

    r->ending = true;
    r->open = false;
    client_reroute(c, &r->ready, now); /* nothing new goes on it */
    batch_done(r, now);
}

static void on_opened(struct client *c, struct event *ev, bool ok) {
    batch_done(((struct route_event *)ev)->route, clock_mono_ns());
}

/* --- sending --- */

void route_take(struct route *r, struct op *op) {
    op->place = OP_READY;
    list_add_tail(&r->ready, &op->link);
}

/* How many of the ready ones go in the next frame, and their bytes. */
static size_t measure(const struct route *r, size_t *bytes) {
    size_t n = 0, fields = 0;

    *bytes = 0;
    LIST_FOR (e, &r->ready) {
        const struct op *op = LIST_ENTRY(e, struct op, link);
        size_t size = encode_tagged_size(op->tag, op->n);

        if (n == r->credit || n == FRAME_OPERATIONS ||
            (n > 0 && (*bytes + size > FRAME_BYTES || fields + op->fields > FRAME_FIELDS)))
            break;
        *bytes += size;
        fields += op->fields;
        n++;
    }
    return n;
}

grpc_call *route_begin_write(struct route *r, uint64_t now) {
    size_t bytes, n;
    grpc_slice slice;
    uint8_t *p;

    if (!r->open || r->writing || !r->credit || list_empty(&r->ready))
        return NULL;
    n = measure(r, &bytes);
    slice = grpc_slice_malloc(bytes);
    p = GRPC_SLICE_START_PTR(slice);
    if (list_empty(&r->sent))
        r->heard_ns = now;
    r->credit -= n;
    for (; n > 0; n--) {
        struct op *op = LIST_ENTRY(list_pop(&r->ready), struct op, link);

        p = encode_tagged(op->kind, op->tag, op->n, p);
        memcpy(p, op->bytes, op->n);
        p += op->n;
        op->tries++;
        op->place = OP_SENT;
        list_add_tail(&r->sent, &op->link);
    }
    r->writing = grpc_raw_byte_buffer_create(&slice, 1);
    grpc_slice_unref(slice);
    r->pending++;
    r->client->batches++;
    grpc_call_ref(r->call);
    return r->call;
}

/* Outside the lock: this is where core writes to the socket. As soon as the batch is started the engine may take back the route's own reference. */
void route_write(struct route *r, grpc_call *call) {
    struct event *ev = &r->events[ROUTE_WRITTEN].event;
    const grpc_op op = {.op = GRPC_OP_SEND_MESSAGE, .data.send_message.send_message = r->writing};

    crossing_begin(ev);
    ASSERT(grpc_call_start_batch(call, &op, 1, ev, NULL) == GRPC_CALL_OK);
    grpc_call_unref(call);
}

static void on_written(struct client *c, struct event *ev, bool ok) {
    struct route *r = ((struct route_event *)ev)->route;

    grpc_byte_buffer_destroy(r->writing);
    r->writing = NULL;
    batch_done(r, clock_mono_ns());
}

/* --- receiving --- */

static void take_result(struct route *r, struct bytes row, uint64_t now) {
    struct wire_reader in = wire_reader(row);
    struct bytes result = BYTES_NULL;
    uint64_t tag = UINT64_MAX;
    struct wire_field f;
    struct op *op;
    enum outcome o = OUTCOME_UNKNOWN;

    while (wire_next(&in, &f) == 1) {
        if (f.id == 1 && f.type == WIRE_VARINT)
            tag = f.value;
        else if (f.id == 2 && f.type == WIRE_BYTES)
            result = f.bytes;
    }
    op = op_of_tag(r->client, tag);
    if (!op || op->place != OP_SENT)
        return; /* its caller's deadline came first */
    in = wire_reader(result);
    if (wire_next(&in, &f) == 1 && f.type == WIRE_BYTES && f.id == 1)
        o = result_take_status(&op->result, f.bytes, op->result.id.text);
    else if (f.type == WIRE_BYTES && f.id == 2 && result.n > 0)
        o = result_take_error(&op->result, RPC_UNKNOWN, BYTES_NULL, f.bytes);
    else
        result_error(&op->result, RPC_INTERNAL, "", "the answer is not well formed");
    op_attempted(r->client, op, o, now);
}

/* False: it is no frame. */
static bool take_frame(struct route *r, uint64_t now) {
    struct wire_reader frame;
    struct wire_field f;
    struct bytes in;
    int e;

    if (payload_view(r->received, &r->client->scratch, &in) < 0)
        return false;
    for (frame = wire_reader(in); (e = wire_next(&frame, &f)) == 1;) {
        if (f.id == 1 && f.type == WIRE_BYTES)
            take_result(r, f.bytes, now);
        else if (f.id == 2 && f.type == WIRE_VARINT)
            r->credit += f.value;
    }
    return e == 0;
}

static void on_read(struct client *c, struct event *ev, bool ok) {
    struct route *r = ((struct route_event *)ev)->route;
    uint64_t now = clock_mono_ns();

    if (ok && r->received) {
        r->heard_ns = now;
        if (!take_frame(r, now))
            route_cancel(r);
        grpc_byte_buffer_destroy(r->received);
        r->received = NULL;
        if (!r->open && !r->ending && r->credit > 0) {
            r->granted = r->open = true;
            r->failures = 0;
            c->last_error[0] = '\0';
            client_reroute(c, &c->waiting, now);
        }
        start_read(r);
    }
    batch_done(r, now);
}

void route_watch(struct route *r, uint64_t now) {
    if (!list_empty(&r->sent) && now - r->heard_ns > STALL_S * NS_PER_S) {
        r->heard_ns = now;
        route_cancel(r);
    }
}
