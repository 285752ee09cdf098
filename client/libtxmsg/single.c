/* An operation by a call of its own: to read, with the option unary, or because what it shared a stream with was refused as a whole. */
#include "engine.h"

#include "rpc/crossing.h"
#include "rpc/exchange.h"
#include "rpc/payload.h"
#include "rpc/rpc.h"
#include "rpc/wire.h"
#include "view.h"

#include <grpc/byte_buffer.h>
#include <grpc/support/time.h>

struct single {
    struct event event;
    struct list link; /* of client->singles */
    uint64_t tag;     /* of the operation, which may be gone before */
    struct exchange x;
};

/* All responses are one message in field 1: a TransactionStatus, or of OP_GET a Transaction. */
static enum outcome take_response(struct client *c, struct single *s, struct op *op) {
    struct wire_field f = {0};
    struct wire_reader in;
    struct bytes bytes;

    if (s->x.response && payload_view(s->x.response, &c->scratch, &bytes) == 0) {
        in = wire_reader(bytes);
        if (wire_next(&in, &f) == 1 && f.id == 1 && f.type == WIRE_BYTES)
            return op->kind == OP_GET ? view_take(&op->result, f.bytes, op->result.id.text)
                                      : result_take_status(&op->result, f.bytes, op->result.id.text);
    }
    result_error(&op->result, RPC_INTERNAL, "", "the answer is not well formed");
    return OUTCOME_UNKNOWN;
}

static void on_done(struct client *c, struct event *ev, bool ok) {
    struct single *s = CONTAINER_OF(ev, struct single, event);
    struct op *op = op_of_tag(c, s->tag);

    list_del(&s->link);
    if (op && op->place == OP_CALLING)
        op_attempted(c, op,
                     s->x.code == GRPC_STATUS_OK ? take_response(c, s, op)
                                                 : take_end(&op->result, (int)s->x.code, &s->x.details, &s->x.trailers),
                     clock_mono_ns());
    exchange_deinit(&s->x);
    mem_free(s);
}

void single_start(struct client *c, struct op *op, uint64_t now) {
    struct route *r = &c->routes[(op->hash + (uint64_t)op->tries) % c->routes_n];
    struct single *s = mem_zalloc(sizeof(*s));
    int64_t left_ms = op->deadline_ns > now ? (int64_t)((op->deadline_ns - now) / NS_PER_MS) + 1 : 1;
    grpc_slice request;

    op->tries++;
    op->place = OP_CALLING;
    if (!s) {
        result_error(&op->result, RPC_RESOURCE_EXHAUSTED, "OVERLOADED", "out of memory");
        op_attempted(c, op, OUTCOME_NOT_STORED, now);
        return;
    }
    s->event.fn = on_done;
    s->tag = op->tag;
    exchange_init(&s->x);
    request = grpc_slice_from_copied_buffer((const char *)op->request, op->n);
    s->x.request = grpc_raw_byte_buffer_create(&request, 1);
    grpc_slice_unref(request);
    s->x.call = grpc_channel_create_call(
        r->stream.channel, NULL, GRPC_PROPAGATE_DEFAULTS, c->queue, grpc_slice_from_static_string(op_path(op->kind)),
        NULL, gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC), gpr_time_from_millis(left_ms, GPR_TIMESPAN)), NULL);
    list_add_tail(&c->singles, &s->link);
    c->batches++;
    crossing_begin(&s->event);
    exchange_start(&s->x, &s->event);
}

void single_cancel_all(struct client *c) {
    LIST_FOR (e, &c->singles)
        grpc_call_cancel(LIST_ENTRY(e, struct single, link)->x.call, NULL);
}
