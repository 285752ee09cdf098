/*
 * A call for each operation. A call is the tag of its one batch and belongs to a message; core's objects are made per
 * call, all else once. Calls carry no deadline, since a timer per call is work that says nothing about the service.
 */
#include "load_driver.h"

#include "rpc/payload.h"

#include <grpc/byte_buffer.h>

struct call { /* what the batch under way points to */
    struct load_message *message;
    grpc_call *core;
    grpc_byte_buffer *request, *response;
    grpc_metadata_array headers, trailers;
    grpc_status_code code;
    grpc_slice details;
};

static int unary_init(struct load *l, struct errmsg *e) {
    struct call *calls = mem_calloc((size_t)l->o->callers, sizeof(*calls));
    if (!calls)
        return err_set(e, -ENOMEM, "out of memory");
    l->driver_state = calls;
    for (int64_t i = 0; i < l->o->callers; i++) {
        calls[i].message = &l->messages[i];
        grpc_metadata_array_init(&calls[i].headers);
        grpc_metadata_array_init(&calls[i].trailers);
    }
    return 0;
}

static void unary_deinit(struct load *l) {
    struct call *calls = l->driver_state;
    for (int64_t i = 0; calls && i < l->o->callers; i++) {
        grpc_metadata_array_destroy(&calls[i].headers);
        grpc_metadata_array_destroy(&calls[i].trailers);
    }
    mem_free(calls);
}

static void unary_step(struct load *l, struct load_message *m) {
    struct call *c = (struct call *)l->driver_state + m->index;
    const struct load_channel *channel = &l->channels[m->index % (size_t)l->o->channels];
    enum request_kind kind = m->plan[m->at].kind;
    grpc_slice slice = request_pack(&l->requests[kind], m->ids);
    c->request = grpc_raw_byte_buffer_create(&slice, 1);
    grpc_slice_unref(slice);
    c->headers.count = c->trailers.count = 0; /* the elements belonged to the call before */
    c->core = grpc_channel_create_registered_call(channel->core, NULL, GRPC_PROPAGATE_DEFAULTS, l->queue,
                                                  channel->methods[kind], gpr_inf_future(GPR_CLOCK_MONOTONIC), NULL);
    const grpc_op ops[] = {
        {.op = GRPC_OP_SEND_INITIAL_METADATA},
        {.op = GRPC_OP_SEND_MESSAGE, .data.send_message.send_message = c->request},
        {.op = GRPC_OP_SEND_CLOSE_FROM_CLIENT},
        {.op = GRPC_OP_RECV_INITIAL_METADATA, .data.recv_initial_metadata.recv_initial_metadata = &c->headers},
        {.op = GRPC_OP_RECV_MESSAGE, .data.recv_message.recv_message = &c->response},
        {.op = GRPC_OP_RECV_STATUS_ON_CLIENT,
         .data.recv_status_on_client = {.trailing_metadata = &c->trailers,
                                        .status = &c->code,
                                        .status_details = &c->details}},
    };
    ASSERT(grpc_call_start_batch(c->core, ops, ARRAY_LEN(ops), c, NULL) == GRPC_CALL_OK);
    l->batches++;
}

/* How many of the items of a batch were done. */
static uint64_t items_done(struct load *l, const struct call *c) {
    struct bytes in = BYTES_NULL;
    uint64_t n = 0;
    if (c->response && payload_view(c->response, &l->scratch, &in) < 0)
        in = BYTES_NULL;
    request_batch_result(in, (size_t)l->o->batch, l->result->errors, &n);
    return n;
}

static void unary_event(struct load *l, const grpc_event *ev, uint64_t now) {
    struct call *c = ev->tag;
    grpc_slice details = c->details;
    struct load_outcome o = {.code = (int)c->code, .text = load_slice(&details), .messages = 1};
    if (c->code == GRPC_STATUS_OK && l->o->batch)
        o.messages = items_done(l, c);
    grpc_call_unref(c->core);
    grpc_byte_buffer_destroy(c->request);
    if (c->response)
        grpc_byte_buffer_destroy(c->response);
    c->core = NULL;
    c->request = c->response = NULL;
    l->batches--;
    load_step_done(l, c->message, &o, now); /* uses the call again */
    grpc_slice_unref(details);
}

static void unary_cancel(struct load *l) {
    struct call *calls = l->driver_state;
    for (int64_t i = 0; i < l->o->callers; i++)
        if (calls[i].core)
            grpc_call_cancel(calls[i].core, NULL);
}

const struct load_driver load_unary = {
    .init = unary_init,
    .deinit = unary_deinit,
    .step = unary_step,
    .event = unary_event,
    .cancel = unary_cancel,
};
