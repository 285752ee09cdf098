/* grpc.health.v1: Check and List are ordinary methods, Watch is a stream. The status itself is server->serving. */
#pragma once

#include "rpc/stream.h"

extern const struct rpc_stream_method health_watch;

/* Handlers; user is the server. */
void health_check(struct rpc_call *c, void *server);
void health_list(struct rpc_call *c, void *server);
