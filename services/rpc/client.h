/*
 * Blocking unary gRPC client for command-line tools and tests: one channel, one call at a time.
 * Load tools and the SDK drive gRPC C core themselves.
 */
#pragma once

#include "rpc/rpc.h"

struct rpc_client;
int rpc_client_new(const char *target, struct rpc_client **ret, struct errmsg *e) MUSTCHECK; /* "127.0.0.1:7400" */
/* Over this connected socket only, which becomes the client's, also when it cannot be made. */
int rpc_client_of_socket(int fd, struct rpc_client **ret, struct errmsg *e) MUSTCHECK;
void rpc_client_free(struct rpc_client *c);

struct rpc_result {
    int code;
    const char *message;                   /* for people */
    const char *reason;                    /* of ErrorInfo, NULL = none */
    const char *field, *field_description; /* first BadRequest violation, NULL = none */
    int64_t retry_after_ms;                /* 0 = none */
    const ProtobufCMessage *response;      /* NULL unless code is RPC_OK */
};
/* 0 = the call ended (with any code) and *ret is filled from the arena; negative = nothing could be sent. */
int rpc_client_call(struct rpc_client *c, const char *path, const ProtobufCMessage *request,
                    const ProtobufCMessageDescriptor *response, int64_t timeout_ms, struct arena *a,
                    struct rpc_result *ret) MUSTCHECK;
/*
 * The same for a call that is answered by any number of messages: each is handed to `message` (valid until it returns; not 0 = enough, the
 * call is cancelled). ret->response stays NULL. timeout_ms 0 = none.
 */
int rpc_client_stream(struct rpc_client *c, const char *path, const ProtobufCMessage *request,
                      const ProtobufCMessageDescriptor *response, int64_t timeout_ms,
                      int (*message)(void *arg, const ProtobufCMessage *m), void *arg, struct arena *a,
                      struct rpc_result *ret) MUSTCHECK;
