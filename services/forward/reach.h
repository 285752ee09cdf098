/*
 * Can an endpoint be reached from here? Connects as deliveries and checks do, and says nothing: over HTTP a connection (with TLS), of a gRPC
 * server any answer, of RabbitMQ a login, and that the exchange is there. @thread of the loop
 */
#pragma once

#include "base/guard.h"
#include "loop/loop.h"

struct webclient;
struct rpc_caller;
struct reach;
enum { REACH_MAX = 16 };
/* The guard is copied, the others outlive it. */
int reach_new(struct loop *l, struct webclient *web, struct rpc_caller *caller, const struct guard *guard,
              struct reach **ret) MUSTCHECK;
/*
 * http://, https://, grpc://, amqp:// or amqps://; `exchange` of the last two, NULL or "" = none. 0: `done` comes once, not from inside
 * this call, at the latest some seconds after the timeout; error NULL = it was reached. 1 = REACH_MAX are under way; -EINVAL (no such URL),
 * -ENOMEM, -EAGAIN (no thread), -ENOTSUP (not in this build).
 */
int reach_start(struct reach *r, const char *url, const char *exchange, int64_t timeout_ms,
                void (*done)(void *arg, const char *error), void *arg) MUSTCHECK;
void reach_free(struct reach *r); /* what is under way ends before it returns. NULL allowed */
