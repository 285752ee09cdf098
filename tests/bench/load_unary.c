/*
 * A call for each operation. A call is the tag of its one batch and belongs to a message; core's objects are made per
 * call, all else once. Calls carry no deadline, since a timer per call is work that says nothing about the service.
 */
#include "load_driver.h"

#include "rpc/exchange.h"
#include "rpc/payload.h"

#include <grpc/byte_buffer.h>

struct call {
    struct load_message *message;
    struct exchange exchange;
};

static int unary_init(struct load *l, struct errmsg *e) {
    struct call *calls = mem_calloc((size_t)l->o->callers, sizeof(*calls));
    if (!calls)
        return err_set(e, -ENOMEM, "out of memory");
    l->driver_state = calls;
    for (int64_t i = 0; i < l->o->callers; i++) {
        calls[i].message = &l->messages[i];
        exchange_init(&calls[i].exchange);
    }
    return 0;
}

static void unary_deinit(struct load *l) {
    struct call *calls = l->driver_state;
    for (int64_t i = 0; calls && i < l->o->callers; i++)
        exchange_deinit(&calls[i].exchange);
    mem_free(calls);
}

static void unary_step(struct load *l, struct load_message *m) {
    struct call *c = (struct call *)l->driver_state + m->index;
    const struct load_channel *channel = &l->channels[m->index % (size_t)l->o->channels];
    enum request_kind kind = m->plan[m->at].kind;
    grpc_slice slice = request_pack(&l->requests[kind], m->ids);
    c->exchange.request = grpc_raw_byte_buffer_create(&slice, 1);
    grpc_slice_unref(slice);
    c->exchange.call =
        grpc_channel_create_registered_call(channel->core, NULL, GRPC_PROPAGATE_DEFAULTS, l->queue,
                                            channel->methods[kind], gpr_inf_future(GPR_CLOCK_MONOTONIC), NULL);
    exchange_start(&c->exchange, c);
    l->batches++;
}

/* How many of the items of a batch were done. */
static uint64_t items_done(struct load *l, const struct call *c) {
    struct bytes in = BYTES_NULL;
    uint64_t n = 0;
    if (c->exchange.response && payload_view(c->exchange.response, &l->scratch, &in) < 0)
        in = BYTES_NULL;
    request_batch_result(in, (size_t)l->o->batch, l->result->errors, &n);
    return n;
}

static void unary_event(struct load *l, const grpc_event *ev, uint64_t now) {
    struct call *c = ev->tag;
    grpc_slice details = c->exchange.details;
    struct load_outcome o = {.code = (int)c->exchange.code, .text = load_slice(&details), .messages = 1};
    if (c->exchange.code == GRPC_STATUS_OK && l->o->batch)
        o.messages = items_done(l, c);
    c->exchange.details = grpc_empty_slice();
    exchange_reset(&c->exchange);
    l->batches--;
    load_step_done(l, c->message, &o, now); /* uses the call again */
    grpc_slice_unref(details);
}

static void unary_cancel(struct load *l) {
    struct call *calls = l->driver_state;
    for (int64_t i = 0; i < l->o->callers; i++)
        if (calls[i].exchange.call)
            grpc_call_cancel(calls[i].exchange.call, NULL);
}

const struct load_driver load_unary = {
    .init = unary_init,
    .deinit = unary_deinit,
    .step = unary_step,
    .event = unary_event,
    .cancel = unary_cancel,
};
