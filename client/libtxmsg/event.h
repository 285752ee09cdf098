/* What core gives back. */
#pragma once

#include "base/err.h"
#include "result.h"

#include <grpc/grpc.h>

struct client;
/* The tag of a batch of core. `fn` comes on the engine's thread, under the lock. */
struct event {
    void (*fn)(struct client *c, struct event *ev, bool ok);
};
void client_start(struct client *c, grpc_call *call, const grpc_op *ops, size_t n, struct event *ev);
/* How a call ended, as the outcome of who was on it. */
enum outcome take_end(txmsg_result *r, int code, const grpc_slice *details, const grpc_metadata_array *trailers);
