/* The elements of the two arrays belong to the call and go with it; the arrays themselves are kept for the next. */
#include "rpc/exchange.h"

#include <grpc/byte_buffer.h>

void exchange_init(struct exchange *x) {
    *x = (struct exchange){.details = grpc_empty_slice()};
    grpc_metadata_array_init(&x->headers);
    grpc_metadata_array_init(&x->trailers);
}

void exchange_start(struct exchange *x, void *tag) {
    const grpc_op ops[] = {
        {.op = GRPC_OP_SEND_INITIAL_METADATA,
         .data.send_initial_metadata = {.count = x->metadata_n, .metadata = (grpc_metadata *)(uintptr_t)x->metadata}},
        {.op = GRPC_OP_SEND_MESSAGE, .data.send_message.send_message = x->request},
        {.op = GRPC_OP_SEND_CLOSE_FROM_CLIENT},
        {.op = GRPC_OP_RECV_INITIAL_METADATA, .data.recv_initial_metadata.recv_initial_metadata = &x->headers},
        {.op = GRPC_OP_RECV_MESSAGE, .data.recv_message.recv_message = &x->response},
        {.op = GRPC_OP_RECV_STATUS_ON_CLIENT,
         .data.recv_status_on_client = {.trailing_metadata = &x->trailers,
                                        .status = &x->code,
                                        .status_details = &x->details}},
    };
    grpc_call_error err = grpc_call_start_batch(x->call, ops, ARRAY_LEN(ops), tag, NULL);

    ASSERT(err == GRPC_CALL_OK);
}

void exchange_reset(struct exchange *x) {
    if (x->call)
        grpc_call_unref(x->call);
    if (x->request)
        grpc_byte_buffer_destroy(x->request);
    if (x->response)
        grpc_byte_buffer_destroy(x->response);
    grpc_slice_unref(x->details);
    x->call = NULL;
    x->metadata = NULL;
    x->metadata_n = 0;
    x->request = x->response = NULL;
    x->headers.count = x->trailers.count = 0;
    x->details = grpc_empty_slice();
}

void exchange_deinit(struct exchange *x) {
    exchange_reset(x);
    grpc_metadata_array_destroy(&x->headers);
    grpc_metadata_array_destroy(&x->trailers);
}
