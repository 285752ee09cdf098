/*
 * Asynchronous unary gRPC client: a thread with a queue, many calls under way, to many targets. Channels are kept by target, within a
 * bound. Everything that the other side controls is bounded: time, size, what a message may hold.
 */
#pragma once

#include "rpc/rpc.h"

struct rpc_caller;
struct rpc_caller_options {
    int in_flight;         /* calls under way; default 1024 */
    int targets;           /* channels kept; default 256 */
    int64_t receive_bytes; /* largest response; default 1 MiB */
};
int rpc_caller_new(const struct rpc_caller_options *o, struct rpc_caller **ret, struct errmsg *e) MUSTCHECK;
/* No call begins any more, those under way end as CANCELLED; returns when the last `done` has. Not from `done`. */
void rpc_caller_stop(struct rpc_caller *c);
void rpc_caller_free(struct rpc_caller *c); /* NULL allowed; stops if that was not done. Nobody may call any more */

struct rpc_outcome {
    int code;                         /* RPC_OK: there is a response */
    const char *message;              /* for people */
    const ProtobufCMessage *response; /* checked like a request; valid during `done` */
};
struct rpc_call_request {
    const char *target;              /* "host:port" */
    const char *path;                /* "/txmsg.v1.CheckService/Check" */
    const ProtobufCMessage *request; /* packed at once */
    const ProtobufCMessageDescriptor *response;
    int64_t timeout_ms;
    void (*done)(void *arg, const struct rpc_outcome *o); /* once, on the caller's thread: it must not block */
    void *arg;
};
/* 0 = under way; 1 = as many as may be, or stopped; -ENOMEM, -EINVAL (no target). `done` comes only after 0. @thread any */
int rpc_caller_call(struct rpc_caller *c, const struct rpc_call_request *r) MUSTCHECK;
