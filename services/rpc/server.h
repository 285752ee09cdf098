/*
 * The room's own view of server, rpc thread, method and call. Private to services/rpc.
 *
 * Ownership: a server owns its threads and methods; a thread owns its queue, its calls and its streams, and nobody else
 * touches them, except the members marked @thread any.
 */
#pragma once

#include "base/metric.h"
#include "rpc/rpc.h"

#include <grpc/grpc.h>
#include <pthread.h>
#include <stdatomic.h>

struct rpc_thread;
struct stream_method;

/* What a completion queue hands back: one per batch under way, first of all tells whom it concerns. */
struct tag {
    void (*run)(struct tag *t, bool ok);
};

enum { CODES = 17 };

struct method {
    struct rpc_method def;                             /* path owned; handle NULL = the generic slot */
    const char *name;                                  /* "Prepare": label of the metrics */
    void *registered;                                  /* core's handle; NULL = the generic slot */
    bool vital;                                        /* some are answered also when the server is full */
    _Atomic(struct metric *) requests[CODES], seconds; /* found at first use */
};

struct rpc_thread {
    struct rpc_server *server;
    int index;
    pthread_t id;
    bool started, armed;
    grpc_completion_queue *queue;
    struct rpc_call *free; /* calls to use again, with their arenas */
    int free_n;
    int *missing;     /* per method: slots that could not be armed for want of memory */
    int missing_n;    /* their sum */
    long live;        /* calls and streams with a batch or a handler under way */
    int64_t held;     /* bytes of the calls under way */
    int64_t held_max; /* this thread's share of the server's bounds */
    long live_max;
    int vital;            /* calls for health that need no room */
    struct list replying; /* calls whose answer is being sent, oldest first */
    bool idle;            /* no live ones after core was shut down. @locks server->lock */
    struct list streams;  /* struct rpc_stream */
    int streams_n;
    uint64_t sweep_ns;        /* when the streams are looked at again */
    unsigned seen;            /* of server->news */
    struct buf scratch;       /* to put messages together that came in pieces */
    struct rpc_call *answers; /* taken from `finished`, oldest first */

    /* The crossing. @thread any */
    _Atomic(struct rpc_call *) finished;    /* newest first */
    _Atomic(struct rpc_stream *) signalled; /* newest first */
    atomic_bool waking;                     /* `woken` is under way */
    pthread_mutex_t waker_lock;
    grpc_call *waker; /* carries the empty batches; NULL once the queue is shut down. @locks waker_lock */
    struct tag woken;
};

struct rpc_server {
    struct rpc_server_options options; /* listen owned */
    struct method *methods;            /* the last one is the generic slot */
    int methods_n;
    struct stream_method *streams; /* found by path, behind the generic slot */
    int streams_n;
    char **services; /* sorted names of what is served */
    int services_n;
    struct rpc_thread *threads;
    struct reflection *reflection;
    grpc_server *core;
    grpc_channel *lame; /* of the wakers */
    int port;
    struct gate *gate;

    atomic_bool started, serving, draining, stopping;
    atomic_uint refused; /* calls that came while draining */
    atomic_uint news;    /* counts changes of the last two: streams look at them again */
    atomic_bool down;    /* core has ended every connection */
    struct tag shut_down;
    pthread_mutex_t lock;
    pthread_cond_t changed; /* down, or a thread became idle */
};

enum call_state { CALL_FREE, CALL_ARMED, CALL_RUNNING, CALL_REPLYING };

struct rpc_call {
    struct tag arrived, sent;
    struct rpc_thread *thread;
    struct method *method;
    enum call_state state;
    grpc_call *core;
    grpc_call_details details; /* generic slot only */
    grpc_metadata_array metadata;
    grpc_byte_buffer *payload;
    gpr_timespec deadline;
    uint64_t start_ns, deadline_ns;
    ProtobufCMessage *request;
    struct arena arena;
    ProtobufCAllocator allocator;
    const char *path, *peer; /* in the arena, made on demand */
    struct rpc_call *next;   /* on thread->free or thread->finished */
    void (*finish)(struct rpc_call *c, void *arg);
    void *finish_arg;
    grpc_byte_buffer *response;
    grpc_metadata trailer;
    int cancelled;
    size_t held;          /* charged to the thread */
    bool vital;           /* counted there */
    uint64_t replying_ns; /* since when its answer is being sent */
    struct list link;     /* of thread->replying */
};

/* The rpc thread that runs this code, NULL elsewhere. */
extern __thread struct rpc_thread *thread_current;

/* server.c */
void server_arm(struct rpc_thread *t, struct method *m);
void server_arm_missing(struct rpc_thread *t); /* memory may be there again */
void thread_wake(struct rpc_thread *t);        /* @thread any */
void method_count(struct method *m, int code);
void method_observe(struct method *m, uint64_t since_ns, uint64_t now_ns);

/* port.c */
grpc_server *server_core(const struct rpc_server_options *o);
int server_open_port(struct rpc_server *s, struct errmsg *e) MUSTCHECK;

/* call.c */
struct rpc_call *call_new(struct rpc_thread *t, struct method *m) MUSTCHECK; /* from the free list or the heap */
void call_release(struct rpc_call *c); /* back to the free list; drops what core gave */
void call_free(struct rpc_call *c);
int calls_finish(struct rpc_thread *t, int max); /* runs finish callbacks that have come in; how many */

/* Never a failure of input: a batch that core does not take is a mistake of ours. */
static inline void batch_start(grpc_call *call, const grpc_op *ops, size_t n, struct tag *t) {
    grpc_call_error err = grpc_call_start_batch(call, ops, n, t, NULL);

    ASSERT(err == GRPC_CALL_OK);
}
