/*
 * A stream of Pipeline to one address. It is opened when something is in flight, and stays open. When it ends, what was sent and not answered may be
 * stored: it is repeated under the same id. What was not sent yet goes elsewhere.
 *
 * It takes operations from the first frame, which grants credit, until its end is seen.
 */
#include "engine.h"

#include "rpc/credentials.h"
#include "rpc/rpc.h"
#include "scan.h"

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

static const struct stream_kind pipeline;

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
    grpc_channel *channel =
        grpc_channel_create(address, credentials, &(grpc_channel_args){.num_args = ARRAY_LEN(args), .args = args});

    grpc_channel_credentials_release(credentials);
    stream_init(&r->stream, &pipeline, c, channel);
    list_init(&r->ready);
    return channel ? TXMSG_OK : TXMSG_ERROR_INVALID;
}

void route_deinit(struct route *r) {
    if (r->stream.channel)
        grpc_channel_destroy(r->stream.channel);
    stream_deinit(&r->stream);
}

static struct route *route_of(struct stream *s) {
    return CONTAINER_OF(s, struct route, stream);
}

/* --- its end --- */

/* The service said something about what the stream carried, not about itself: who was on it asks alone. */
static bool frame_refused(const txmsg_result *r) {
    return r->code == RPC_INVALID_ARGUMENT || r->code == RPC_UNIMPLEMENTED ||
           (r->code == RPC_RESOURCE_EXHAUSTED && !r->reason[0]);
}

/* It never opened: nothing was sent. */
static void note_failure(struct client *c, const txmsg_result *why) {
    snprintf(c->last_error, sizeof(c->last_error), "%s%s%s", why->reason, why->reason[0] ? ": " : "", why->message);
    if (why->code == RPC_UNIMPLEMENTED)
        c->unary = true; /* an older service, or a proxy */
}

static void fail_sent(struct route *r, const txmsg_result *why, uint64_t now) {
    struct client *c = r->stream.client;

    for (size_t i = 0; r->sent > 0 && i <= c->slot_mask; i++) {
        struct op *op = c->slots[i];

        if (!op || op->place != OP_SENT || op->route != r)
            continue;
        op->alone |= frame_refused(why);
        result_error(&op->result, why->code, "", why->message);
        op_attempted(c, op, OUTCOME_UNKNOWN, now);
    }
}

static void on_closed(struct stream *s, uint64_t now) {
    struct route *r = route_of(s);
    txmsg_result why;

    result_init(&why);
    take_end(&why, s->code ? (int)s->code : RPC_UNAVAILABLE, &s->details, &s->trailers);
    s->retry_ns = MAX(s->retry_ns, now + (uint64_t)why.retry_after_ms * NS_PER_MS);
    if (!r->granted)
        note_failure(s->client, &why);
    r->granted = false;
    r->credit = 0;
    fail_sent(r, &why, now);
    if (s->client->unary)
        client_reroute(s->client, &s->client->waiting, now);
    result_deinit(&why);
}

/* Nothing new goes on it. */
static void on_ended(struct stream *s, uint64_t now) {
    client_reroute(s->client, &route_of(s)->ready, now);
}

/* --- sending --- */

/* How many of the ready ones go in the next frame, and at most how many bytes they are. */
static size_t measure(const struct route *r, size_t *bytes) {
    size_t n = 0, fields = 0;

    *bytes = 0;
    LIST_FOR (e, &r->ready) {
        const struct op *op = LIST_ENTRY(e, struct op, link);
        size_t size = ENCODE_TAG_MAX + ENCODE_OPERATION_MAX + op->n;

        if (n == r->credit || n == FRAME_OPERATIONS ||
            (n > 0 && (*bytes + size > FRAME_BYTES || fields + op->fields > FRAME_FIELDS)))
            break;
        *bytes += size;
        fields += op->fields;
        n++;
    }
    return n;
}

static grpc_byte_buffer *next_frame(struct stream *s, uint64_t now) {
    struct route *r = route_of(s);
    grpc_byte_buffer *frame;
    size_t bytes, n;
    grpc_slice slice;
    uint8_t *p;

    if (!r->credit || list_empty(&r->ready))
        return NULL;
    n = measure(r, &bytes);
    slice = grpc_slice_malloc(bytes);
    p = GRPC_SLICE_START_PTR(slice);
    if (r->sent == 0)
        r->heard_ns = now;
    r->credit -= n;
    for (; n > 0; n--) {
        struct op *op = LIST_ENTRY(list_pop(&r->ready), struct op, link);
        size_t size = (size_t)(op->request - op->operation) + op->n;

        p = encode_tag(op->tag, size, p);
        memcpy(p, op->operation, size);
        p += size;
        op->tries++;
        op->place = OP_SENT;
        op->route = r;
        r->sent++;
    }
    GRPC_SLICE_SET_LENGTH(slice, (size_t)(p - GRPC_SLICE_START_PTR(slice)));
    frame = grpc_raw_byte_buffer_create(&slice, 1);
    grpc_slice_unref(slice);
    return frame;
}

/* --- receiving --- */

static void take_result(struct route *r, struct bytes row, uint64_t now) {
    struct wire_reader in = wire_reader(row);
    struct bytes result = BYTES_NULL;
    enum outcome o = OUTCOME_UNKNOWN;
    uint64_t tag = UINT64_MAX;
    struct wire_field f;
    struct op *op;
    int64_t key;

    (void)scan_number(&in, SCAN_VARINT(1), &tag);
    (void)scan_bytes(&in, SCAN_BYTES(2), &result);
    while ((key = scan_rest(&in, &f)) > 0) {
        if (key == SCAN_VARINT(1))
            tag = f.value;
        else if (key == SCAN_BYTES(2))
            result = f.bytes;
    }
    op = op_of_tag(r->stream.client, tag);
    if (!op || op->place != OP_SENT)
        return; /* its caller's deadline came first */
    in = wire_reader(result);
    key = scan_bytes(&in, SCAN_BYTES(1), &f.bytes) ? SCAN_BYTES(1) : scan_rest(&in, &f);
    if (key == SCAN_BYTES(1))
        o = result_take_status(&op->result, f.bytes, op->result.id.text);
    else if (key == SCAN_BYTES(2))
        o = result_take_error(&op->result, RPC_UNKNOWN, BYTES_NULL, f.bytes);
    else
        result_error(&op->result, RPC_INTERNAL, "", "the answer is not well formed");
    op_attempted(r->stream.client, op, o, now);
}

static bool on_received(struct stream *s, struct bytes in, uint64_t now) {
    struct route *r = route_of(s);
    struct wire_reader frame = wire_reader(in);
    struct wire_field f;
    int64_t key;

    r->heard_ns = now;
    do {
        while (scan_bytes(&frame, SCAN_BYTES(1), &f.bytes))
            take_result(r, f.bytes, now);
        key = scan_rest(&frame, &f);
        if (key == SCAN_BYTES(1))
            take_result(r, f.bytes, now);
        else if (key == SCAN_VARINT(2))
            r->credit += f.value;
    } while (key > 0);
    if (!r->granted && r->credit > 0) {
        r->granted = true;
        s->client->last_error[0] = '\0';
        client_reroute(s->client, &s->client->waiting, now);
    }
    return key == 0;
}

void route_watch(struct route *r, uint64_t now) {
    if (r->sent > 0 && now - r->heard_ns > STALL_S * NS_PER_S) {
        r->heard_ns = now;
        stream_cancel(&r->stream);
    }
}

static const struct stream_kind pipeline = {.path = "/txmsg.v1.MessageService/Pipeline",
                                            .next = next_frame,
                                            .received = on_received,
                                            .ended = on_ended,
                                            .closed = on_closed};
