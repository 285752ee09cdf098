/*
 * Streams that the room itself serves: health Watch and reflection. One message each way at a time, so a stream holds
 * one request and one response at most. @thread rpc
 */
#pragma once

#include "rpc/server.h"

struct stream;

struct stream_ops {
    const char *path;
    const ProtobufCMessageDescriptor *request;
    struct method *(*method)(struct rpc_server *s); /* for the metrics */
    bool once; /* the client sends one message; otherwise the next is read when the answer to the last was sent */
    void (*message)(struct stream *s, const ProtobufCMessage *request);
    void (*news)(struct stream *s); /* server->news changed, or the last message was sent; NULL = nothing to do */
};

const struct stream_ops *stream_find(struct bytes path); /* NULL = no such stream */
/* Takes over `core` and the call's place in thread->live. NULL = too many, or out of memory: nothing was taken. */
struct stream *stream_open(struct rpc_thread *t, const struct stream_ops *ops, grpc_call *core) MUSTCHECK;
/* Tells every stream of the thread that server->news changed; ends them when the server stops. */
void streams_news(struct rpc_thread *t);

/* --- for the ops --- */
struct rpc_server *stream_server(const struct stream *s);
struct arena *stream_arena(struct stream *s); /* emptied before each message() */
bool stream_may_send(const struct stream *s);
void stream_send(struct stream *s, const ProtobufCMessage *m);    /* only if stream_may_send() */
void stream_end(struct stream *s, int code, const char *message); /* after what is being sent; `message` is a literal */
/* Two numbers that belong to the ops, zero at first. */
int *stream_state(struct stream *s);
