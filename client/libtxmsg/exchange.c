/* An operation by a call of its own: with the option unary, or because what it shared a stream with was refused as a whole. */
#include "engine.h"

#include "rpc/crossing.h"
#include "rpc/payload.h"
#include "rpc/rpc.h"
#include "rpc/status.h"
#include "rpc/wire.h"
#include "view.h"

#include <grpc/byte_buffer.h>
#include <grpc/support/time.h>

struct exchange {
    struct event event;
    struct list link; /* of client->exchanges */
    uint64_t tag;     /* of the operation, which may be gone before */
    grpc_call *call;
    grpc_byte_buffer *request, *response;
    grpc_metadata_array headers, trailers;
    grpc_status_code code;
    grpc_slice details;
};

static struct bytes slice_bytes(const grpc_slice *s) {
    return bytes_of(GRPC_SLICE_START_PTR(*s), GRPC_SLICE_LENGTH(*s));
}

static enum outcome take_error(struct exchange *x, struct op *op) {
    struct bytes status = BYTES_NULL;

    for (size_t i = 0; i < x->trailers.count; i++)
        if (grpc_slice_str_cmp(x->trailers.metadata[i].key, STATUS_TRAILER) == 0)
            status = slice_bytes(&x->trailers.metadata[i].value);
    return result_take_error(&op->result, (int)x->code, slice_bytes(&x->details), status);
}

/* All responses are one message in field 1: a TransactionStatus, or of OP_GET a Transaction. */
static enum outcome take_response(struct client *c, struct exchange *x, struct op *op) {
    struct wire_field f = {0};
    struct wire_reader in;
    struct bytes bytes;

    if (x->response && payload_view(x->response, &c->scratch, &bytes) == 0) {
        in = wire_reader(bytes);
        if (wire_next(&in, &f) == 1 && f.id == 1 && f.type == WIRE_BYTES)
            return op->kind == OP_GET ? view_take(&op->result, f.bytes, op->result.id.text)
                                      : result_take_status(&op->result, f.bytes, op->result.id.text);
    }
    result_error(&op->result, RPC_INTERNAL, "", "the answer is not well formed");
    return OUTCOME_UNKNOWN;
}

static void exchange_free(struct exchange *x) {
    grpc_byte_buffer_destroy(x->request);
    if (x->response)
        grpc_byte_buffer_destroy(x->response);
    grpc_metadata_array_destroy(&x->headers);
    grpc_metadata_array_destroy(&x->trailers);
    grpc_slice_unref(x->details);
    grpc_call_unref(x->call);
    mem_free(x);
}

static void on_done(struct client *c, struct event *ev, bool ok) {
    struct exchange *x = CONTAINER_OF(ev, struct exchange, event);
    struct op *op = op_of_tag(c, x->tag);

    list_del(&x->link);
    if (op && op->place == OP_CALLING)
        op_attempted(c, op, x->code == GRPC_STATUS_OK ? take_response(c, x, op) : take_error(x, op), clock_mono_ns());
    exchange_free(x);
}

static void begin(struct client *c, struct exchange *x) {
    const grpc_op ops[] = {
        {.op = GRPC_OP_SEND_INITIAL_METADATA},
        {.op = GRPC_OP_SEND_MESSAGE, .data.send_message.send_message = x->request},
        {.op = GRPC_OP_SEND_CLOSE_FROM_CLIENT},
        {.op = GRPC_OP_RECV_INITIAL_METADATA, .data.recv_initial_metadata.recv_initial_metadata = &x->headers},
        {.op = GRPC_OP_RECV_MESSAGE, .data.recv_message.recv_message = &x->response},
        {.op = GRPC_OP_RECV_STATUS_ON_CLIENT,
         .data.recv_status_on_client = {.trailing_metadata = &x->trailers,
                                        .status = &x->code,
                                        .status_details = &x->details}},
    };

    client_start(c, x->call, ops, ARRAY_LEN(ops), &x->event);
}

void exchange_start(struct client *c, struct op *op, uint64_t now) {
    struct route *r = &c->routes[(op->hash + (uint64_t)op->tries) % c->routes_n];
    struct exchange *x = mem_zalloc(sizeof(*x));
    int64_t left_ms = op->deadline_ns > now ? (int64_t)((op->deadline_ns - now) / NS_PER_MS) + 1 : 1;
    grpc_slice path, request;

    op->tries++;
    op->place = OP_CALLING;
    if (!x) {
        result_error(&op->result, RPC_RESOURCE_EXHAUSTED, "OVERLOADED", "out of memory");
        op_attempted(c, op, OUTCOME_NOT_STORED, now);
        return;
    }
    x->event.fn = on_done;
    x->tag = op->tag;
    x->details = grpc_empty_slice();
    grpc_metadata_array_init(&x->headers);
    grpc_metadata_array_init(&x->trailers);
    request = grpc_slice_from_copied_buffer((const char *)op->bytes, op->n);
    x->request = grpc_raw_byte_buffer_create(&request, 1);
    grpc_slice_unref(request);
    path = grpc_slice_from_static_string(op_path(op->kind));
    x->call = grpc_channel_create_call(
        r->channel, NULL, GRPC_PROPAGATE_DEFAULTS, c->queue, path, NULL,
        gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC), gpr_time_from_millis(left_ms, GPR_TIMESPAN)), NULL);
    list_add_tail(&c->exchanges, &x->link);
    begin(c, x);
}

void exchange_cancel_all(struct client *c) {
    LIST_FOR (e, &c->exchanges)
        grpc_call_cancel(LIST_ENTRY(e, struct exchange, link)->call, NULL);
}
