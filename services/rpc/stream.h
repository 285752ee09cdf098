/* The room's own view of streams; what methods see of them is in rpc.h. @thread rpc unless said */
#pragma once

#include "rpc/server.h"

struct stream_method {
    struct rpc_stream_method def; /* path owned */
    struct method counts;         /* for the metrics alone */
    atomic_int open;
};

struct stream_method *stream_find(struct rpc_server *s, struct bytes path); /* NULL = no such stream. @thread any */
/*
 * Takes over `core`, `metadata` and the call's place in thread->live. NULL = too many, or out of memory: nothing was
 * taken.
 */
struct rpc_stream *stream_open(struct rpc_thread *t, struct stream_method *m, grpc_call *core,
                               grpc_metadata_array *metadata) MUSTCHECK;
/* server->news changed: every stream of the thread is signalled, and ends when the server drains. */
void streams_news(struct rpc_thread *t);
void streams_signalled(struct rpc_thread *t); /* runs the callbacks of those that rpc_stream_signal() put down */
void streams_sweep(struct rpc_thread *t, uint64_t now_ns); /* cuts off who does not read */

/* --- for the streams that the room serves itself --- */
struct rpc_server *stream_server(const struct rpc_stream *s);
void stream_fail(struct rpc_stream *s, int code, const char *reason, const char *message); /* literals */
