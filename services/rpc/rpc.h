/*
 * gRPC server on gRPC C core. Nothing outside this room (and client/) includes a grpc header.
 *
 * Threads: each rpc thread owns one completion queue and every call that arrived on it. A method's handler runs on that thread
 * with the request already received, checked against its descriptor (UTF-8, NUL, depth, counts, enum ranges) and unpacked into the
 * call's arena. A handler must not block. It either replies at once, or keeps the call and has it finished later:
 * any thread may rpc_call_finish() a call, which runs its finish callback on the owning rpc thread, where it must reply.
 * Every call that reached a handler is replied to exactly once; replying after the peer went away is harmless.
 */
#pragma once

#include "base/arena.h"
#include "base/list.h"
#include "base/uuid.h"

#include <protobuf-c/protobuf-c.h>

struct rpc_server;
struct rpc_call;

/* The canonical codes; numbers are gRPC's. */
enum rpc_code {
    RPC_OK = 0,
    RPC_CANCELLED = 1,
    RPC_UNKNOWN = 2,
    RPC_INVALID_ARGUMENT = 3,
    RPC_DEADLINE_EXCEEDED = 4,
    RPC_NOT_FOUND = 5,
    RPC_ALREADY_EXISTS = 6,
    RPC_PERMISSION_DENIED = 7,
    RPC_RESOURCE_EXHAUSTED = 8,
    RPC_FAILED_PRECONDITION = 9,
    RPC_ABORTED = 10,
    RPC_OUT_OF_RANGE = 11,
    RPC_UNIMPLEMENTED = 12,
    RPC_INTERNAL = 13,
    RPC_UNAVAILABLE = 14,
    RPC_DATA_LOSS = 15,
    RPC_UNAUTHENTICATED = 16,
};
const char *rpc_code_name(int code); /* "INVALID_ARGUMENT" */

/*
 * An error as google.rpc.Status: code, message, ErrorInfo(domain "txmsg", reason, metadata) and where they apply BadRequest (field),
 * RetryInfo (retry_after_ms > 0), PreconditionFailure (subject). Strings may live in the call's arena or be literals.
 */
struct rpc_error {
    int code;
    const char *reason;                    /* UPPER_SNAKE; never NULL */
    const char *message;                   /* for people; never NULL */
    const char *field, *field_description; /* BadRequest, NULL = none */
    int64_t retry_after_ms;                /* RetryInfo, 0 = none */
    const char *precondition_subject;      /* PreconditionFailure, type = reason; NULL = none */
    const char *meta[8];                   /* ErrorInfo metadata: key, value, key, value, NULL */
};
/* Packs a google.rpc.Status with these details; the bytes live in the arena. -ENOMEM. Also used for per-item errors of a batch. */
struct Google__Rpc__Status;
int rpc_error_status(const struct rpc_error *err, struct arena *a, struct Google__Rpc__Status **ret) MUSTCHECK;

struct rpc_method {
    const char *path; /* "/txmsg.v1.MessageService/Prepare" */
    const ProtobufCMessageDescriptor *request, *response;
    /* Unary only. @thread rpc, once per call */
    void (*handle)(struct rpc_call *call, void *user);
    void *user;
    bool rare; /* called by people: it gets few slots, because each armed one costs every event of all methods */
};

/*
 * A method with messages both ways, many on one call. All callbacks come on the stream's rpc thread, none from inside a function of this
 * header. Messages are checked like requests; one that is not well formed fails the stream.
 */
struct rpc_stream;
struct rpc_stream_method {
    const char *path;
    const ProtobufCMessageDescriptor *request;
    const char *name; /* label of the metrics; NULL = the last part of the path */
    bool asks;        /* half-closed without any message it fails with INVALID_ARGUMENT */
    int max;          /* streams at once, over all threads: more are RESOURCE_EXHAUSTED. 0 = the room's own bound */
    void *user;
    void (*opened)(struct rpc_stream *s); /* first of all. NULL allowed, as for all but `message` */
    void (*message)(struct rpc_stream *s, const ProtobufCMessage *m); /* valid until it returns */
    void (*sendable)(struct rpc_stream *s); /* what was sent is with core: the next may follow */
    void (*signalled)(
        struct rpc_stream *s); /* after rpc_stream_signal(), several may come as one; now and then for no reason */
    void (*closed)(struct rpc_stream *s); /* once: nothing is received or sent any more; holds may still be released */
};

struct rpc_server_options {
    const char *listen; /* "127.0.0.1:7400"; port 0 = any free port */
    int threads;        /* rpc threads; 1 is enough for 2 cores */
    int slots; /* armed calls per method and thread; default 16: 1.51 as Debian builds it searches all armed tags at every event */
    int64_t receive_bytes;          /* largest request; default 8 MiB */
    int64_t max_concurrent_streams; /* per connection; default 2048 */
    int64_t arena_bytes;            /* bound of one call's arena; default 4 x receive_bytes */
    int max_connections;            /* of the port; default 10000 */
    int max_calls;                  /* under way, of all connections; default 16384 */
    int64_t memory_bytes;           /* that those hold together; default 256 MiB */
    int64_t reply_ms;               /* an answer that is not read within this is given up; default 30 s */
    int64_t handshake_ms;           /* a connection that has said nothing valid until then is closed; default 20 s */
    int64_t idle_ms;                /* one without a call for so long is closed; 0: never, and each call is cheaper */
    int64_t keepalive_ms;           /* a silent one is pinged, and closed after a third more; default 60 s */
    int64_t deadline_max_ms;        /* a longer or absent deadline is cut to this; default 30 s */
    /*
     * Called when an rpc thread has no more work at hand, before it waits: what handlers held back to send in one go must go
     * now. NULL = none. @thread rpc
     */
    void (*flush)(void *user);
    void *flush_user;
    const struct rpc_stream_method *streams; /* copied */
    size_t streams_n;
};

/* Methods are copied. grpc.health.v1 and reflection v1 / v1alpha are served by the room itself. */
int rpc_server_new(const struct rpc_server_options *o, const struct rpc_method *methods, size_t methods_n,
                   struct rpc_server **ret, struct errmsg *e) MUSTCHECK;
int rpc_server_start(struct rpc_server *s, struct errmsg *e) MUSTCHECK; /* -EADDRINUSE ... */
int rpc_server_port(const struct rpc_server *s);
/* To be called about every second: gives up answers that nobody reads. @thread any */
void rpc_server_sweep(struct rpc_server *s);
/* Sets the health of "" and of every served service; a Watch hears of it. @thread any */
void rpc_server_health(struct rpc_server *s, bool serving);
/*
 * Graceful stop: no new calls, waits up to grace_ms for those under way, cancels the rest, joins the threads.
 * Handlers may still run and calls may be finished meanwhile. A call that a handler kept must be finished even when it was
 * cancelled: this returns only after the last one was replied to. Blocks; not from an rpc thread.
 */
void rpc_server_stop(struct rpc_server *s, int64_t grace_ms);
void rpc_server_free(struct rpc_server *s); /* NULL allowed; stops with no grace if that was not done */

/* --- a call, on its rpc thread --- */
const ProtobufCMessage *rpc_call_request(const struct rpc_call *c);
struct arena *rpc_call_arena(struct rpc_call *c);
ProtobufCAllocator *rpc_call_allocator(struct rpc_call *c);
uint64_t rpc_call_deadline_ns(const struct rpc_call *c); /* CLOCK_MONOTONIC, already capped */
/* ASCII metadata of the request, NULL if absent; copied into the call's arena each time, so keep the pointer. */
const char *rpc_call_metadata(const struct rpc_call *c, const char *key);
const char *rpc_call_peer(struct rpc_call *c);         /* "ipv4:127.0.0.1:40114", never NULL */
const char *rpc_call_method(const struct rpc_call *c); /* path */
/* Both end the call; it must not be touched afterwards. `response` is packed at once, err's texts are copied. */
void rpc_reply(struct rpc_call *c, const ProtobufCMessage *response);
void rpc_fail(struct rpc_call *c, const struct rpc_error *err);

/* --- finishing from elsewhere --- */
/*
 * Queues `fn(c, arg)` to run on the call's rpc thread; wakes are coalesced until rpc_wake(). Never fails. @thread any, once per call.
 * The worker finishes all calls of a group commit and then wakes each rpc thread once.
 */
void rpc_call_finish(struct rpc_call *c, void (*fn)(struct rpc_call *c, void *arg), void *arg);
void rpc_wake(struct rpc_server *s); /* @thread any, until rpc_server_free() */

/* --- a stream, on its rpc thread --- */
/*
 * It ends by rpc_stream_end() (OK), rpc_stream_fail(), the client's half-close (OK) or the drain of the server (UNAVAILABLE SHUTTING_DOWN);
 * the first of them counts. From then on nothing is received, but it can send until the last hold is released. A client that takes nothing
 * within reply_ms, or goes away, closes it at once; the object stays until the last release.
 */
void *rpc_stream_user(const struct rpc_stream *s);
void *rpc_stream_data(const struct rpc_stream *s); /* the method's; NULL at first */
void rpc_stream_set_data(struct rpc_stream *s, void *data);
struct arena *rpc_stream_arena(struct rpc_stream *s); /* emptied after each opened() and message() */
/* ASCII metadata, NULL if absent; copied into the arena. */
const char *rpc_stream_metadata(struct rpc_stream *s, const char *key);
uint64_t rpc_stream_deadline_ns(const struct rpc_stream *s); /* of what begins now: the server's cap */
void rpc_stream_pause(struct rpc_stream *s, bool paused);    /* messages wait with the client; also its half-close */
bool rpc_stream_may_send(const struct rpc_stream *s);        /* false: after `sendable` again, or never */
void rpc_stream_send(struct rpc_stream *s, const ProtobufCMessage *m); /* only if it may; packed at once */
void rpc_stream_send_bytes(struct rpc_stream *s,
                           struct bytes packed); /* the same for a message packed already; copied */
void rpc_stream_end(struct rpc_stream *s);
void rpc_stream_fail(struct rpc_stream *s, const struct rpc_error *err); /* texts are copied */
/* Counted: while held it does not end by itself and can be signalled. Release only in one of its callbacks. */
void rpc_stream_hold(struct rpc_stream *s);
void rpc_stream_release(struct rpc_stream *s);
/*
 * Has `signalled` called; wakes are coalesced until rpc_wake(). Not after the last release: who hands over what leads to it
 * signals inside the lock of that, for an earlier signal may find it already. Never fails. @thread any
 */
void rpc_stream_signal(struct rpc_stream *s);
