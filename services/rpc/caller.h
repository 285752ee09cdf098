/*
 * Asynchronous unary gRPC client: a thread with a queue, many calls under way, to many targets. Channels are kept by target, within a
 * bound. Everything that the other side controls is bounded: time, size, what a message may hold. Names are looked up here, and their
 * addresses judged (channels.h).
 */
#pragma once

#include "base/guard.h"
#include "rpc/rpc.h"

struct rpc_caller;
struct rpc_caller_options {
    const char *thread;    /* its name, at most 15 characters; default "rpc-caller" */
    int in_flight;         /* calls under way; default 1024 */
    int targets;           /* channels kept; default 256 */
    int64_t receive_bytes; /* largest response; default 1 MiB */
    struct guard guard;    /* loopback and private networks that may be connected to; default none */
};
int rpc_caller_new(const struct rpc_caller_options *o, struct rpc_caller **ret, struct errmsg *e) MUSTCHECK;
/* No call begins any more, those under way end as CANCELLED; returns when the last `done` has. Not from `done`. */
void rpc_caller_stop(struct rpc_caller *c);
void rpc_caller_free(struct rpc_caller *c); /* NULL allowed; stops if that was not done. Nobody may call any more */

struct rpc_outcome {
    int code;                         /* RPC_OK: there is a response */
    bool unsent;                      /* no connection could be made: surely nobody has it */
    const char *message;              /* for people */
    const ProtobufCMessage *response; /* checked like a request; valid during `done` */
};
enum { RPC_CALL_METADATA = 4 };
struct rpc_call_request {
    const char *target;              /* "host:port", "[::1]:port" */
    const char *path;                /* "/txmsg.v1.CheckService/Check" */
    const ProtobufCMessage *request; /* packed at once */
    const ProtobufCMessageDescriptor *response;
    struct rpc_pair {
        const char *name;
        struct bytes value;
    } metadata[RPC_CALL_METADATA]; /* ASCII, name NULL = none; copied. What gRPC does not allow is left out */
    const void *group;             /* for rpc_caller_cancel(); NULL = none */
    int64_t timeout_ms;
    void (*done)(void *arg, const struct rpc_outcome *o); /* once, on the caller's thread: it must not block */
    void *arg;
};
/* 0 = under way; 1 = as many as may be, or stopped; -ENOMEM, -EINVAL (no host:port). `done` comes only after 0. @thread any */
int rpc_caller_call(struct rpc_caller *c, const struct rpc_call_request *r) MUSTCHECK;
/* Calls of this group that are still under way end soon, most as CANCELLED; `done` comes as always. @thread any */
void rpc_caller_cancel(struct rpc_caller *c, const void *group);
