/* For tests of the rpc room: one client stream on gRPC C core, every step blocking and with a deadline. */
#pragma once

#include "rpc/credentials.h"
#include "rpc/library.h"
#include "rpc/payload.h"

#include <grpc/grpc.h>
#include <grpc/support/time.h>
#include <setjmp.h>
#include <cmocka.h>

struct test_stream {
    grpc_channel *channel;
    grpc_completion_queue *queue;
    grpc_call *call;
    grpc_metadata_array headers, trailers;
    grpc_status_code code;
    grpc_slice details;
};

static inline void stream_step(struct test_stream *s, const grpc_op *ops, size_t n, void *tag) {
    assert_int_equal(grpc_call_start_batch(s->call, ops, n, tag, NULL), GRPC_CALL_OK);
    grpc_completion_queue_pluck(s->queue, tag, gpr_inf_future(GPR_CLOCK_MONOTONIC), NULL);
}

static inline void test_stream_open(struct test_stream *s, int port, const char *path) {
    gpr_timespec deadline = gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC), gpr_time_from_seconds(30, GPR_TIMESPAN));
    grpc_op op = {.op = GRPC_OP_SEND_INITIAL_METADATA, .flags = GRPC_INITIAL_METADATA_WAIT_FOR_READY};
    grpc_channel_credentials *creds;
    char target[32];

    library_init();
    memset(s, 0, sizeof(*s));
    snprintf(target, sizeof(target), "127.0.0.1:%d", port);
    creds = credentials_client();
    s->channel = grpc_channel_create(target, creds, NULL);
    grpc_channel_credentials_release(creds);
    s->queue = grpc_completion_queue_create_for_pluck(NULL);
    s->call = grpc_channel_create_call(s->channel, NULL, GRPC_PROPAGATE_DEFAULTS, s->queue,
                                       grpc_slice_from_static_string(path), NULL, deadline, NULL);
    grpc_metadata_array_init(&s->headers);
    grpc_metadata_array_init(&s->trailers);
    stream_step(s, &op, 1, &s->call);
}

static inline void test_stream_send(struct test_stream *s, const ProtobufCMessage *m) {
    grpc_op op = {.op = GRPC_OP_SEND_MESSAGE};

    op.data.send_message.send_message = payload_pack(m);
    stream_step(s, &op, 1, &s->channel);
    grpc_byte_buffer_destroy(op.data.send_message.send_message);
}

/* NULL = the stream has ended. The caller frees with protobuf_c_message_free_unpacked(m, NULL). */
static inline ProtobufCMessage *test_stream_receive(struct test_stream *s, const ProtobufCMessageDescriptor *d) {
    grpc_byte_buffer *in = NULL;
    grpc_op ops[2] = {{.op = GRPC_OP_RECV_MESSAGE, .data.recv_message.recv_message = &in},
                      {.op = GRPC_OP_RECV_INITIAL_METADATA}};
    ProtobufCMessage *m = NULL;
    struct bytes view;
    struct buf scratch;

    ops[1].data.recv_initial_metadata.recv_initial_metadata = &s->headers;
    stream_step(s, ops, s->code == (grpc_status_code)-1 ? 1 : 2, &s->queue);
    s->code = (grpc_status_code)-1; /* headers were read */
    if (!in)
        return NULL;
    buf_init(&scratch, 1 << 20);
    assert_int_equal(payload_view(in, &scratch, &view), 0);
    m = protobuf_c_message_unpack(d, NULL, view.n, view.p);
    assert_non_null(m);
    buf_deinit(&scratch);
    grpc_byte_buffer_destroy(in);
    return m;
}

static inline void test_stream_half_close(struct test_stream *s) {
    grpc_op op = {.op = GRPC_OP_SEND_CLOSE_FROM_CLIENT};

    stream_step(s, &op, 1, &s->details);
}

/* Waits for the status, frees everything and returns the code. */
static inline int test_stream_close(struct test_stream *s, bool cancel) {
    grpc_op op = {.op = GRPC_OP_RECV_STATUS_ON_CLIENT};

    op.data.recv_status_on_client.trailing_metadata = &s->trailers;
    op.data.recv_status_on_client.status = &s->code;
    op.data.recv_status_on_client.status_details = &s->details;
    if (cancel)
        grpc_call_cancel(s->call, NULL);
    stream_step(s, &op, 1, &s->trailers);
    grpc_call_unref(s->call);
    grpc_completion_queue_shutdown(s->queue);
    while (grpc_completion_queue_pluck(s->queue, NULL, gpr_inf_future(GPR_CLOCK_MONOTONIC), NULL).type !=
           GRPC_QUEUE_SHUTDOWN)
        ;
    grpc_completion_queue_destroy(s->queue);
    grpc_channel_destroy(s->channel);
    grpc_metadata_array_destroy(&s->headers);
    grpc_metadata_array_destroy(&s->trailers);
    grpc_slice_unref(s->details);
    library_deinit();
    return (int)s->code;
}
