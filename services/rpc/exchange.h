/*
 * A unary call on core as one batch: what that batch points to, from the request that is sent to the status that ends it. It may be used
 * for one call after another.
 */
#pragma once

#include "base/err.h"

#include <grpc/grpc.h>

struct exchange {
    grpc_call *call;               /* the caller's to make; NULL = none */
    const grpc_metadata *metadata; /* sent with it; the caller's until the tag is back */
    size_t metadata_n;
    grpc_byte_buffer *request, *response; /* request: the caller's to fill. response: NULL = none came */
    grpc_metadata_array headers, trailers;
    grpc_status_code code;
    grpc_slice details;
};
void exchange_init(struct exchange *x);
/* Starts the batch of x->call with x->request; `tag` comes back from the call's queue, always, and then the rest is filled. */
void exchange_start(struct exchange *x, void *tag);
/* Releases the call and all that it brought; the next may be started. Not while the batch is under way. */
void exchange_reset(struct exchange *x);
void exchange_deinit(struct exchange *x); /* resets first */
