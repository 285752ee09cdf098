/* Inside of the message room: service.c (requests on rpc threads), worker.c (operations on workers), query.c (Get and List). */
#pragma once

#include "message/codec.h"
#include "message/message.h"
#include "message/outcome.h"

#include <pthread.h>

enum { WORKERS_MAX = 64, METHODS_MAX = 8 };

struct message_service {
    struct store *store;
    struct message_options o;
    struct rpc_server *rpc;
    struct rpc_method methods[METHODS_MAX];
    size_t methods_n;
    int workers_n;
    struct message_worker *workers[WORKERS_MAX]; /* set before the rpc server starts, cleared after it stopped */
    pthread_rwlock_t lock;                       /* guards topology */
    struct topology *topology;
};

struct request;
/* One operation of a request on its way through a worker. */
struct item {
    struct list link;
    struct lane_op op;
    struct request *request;
    struct message_worker *worker;
    bool refused; /* err says why; the operation never reached a lane */
    struct rpc_error err;
};

/* A call with its operations: one, or those of a Batch. Lives in the call's arena. */
struct request {
    struct rpc_call *call;
    void (*reply)(struct request *r); /* on the rpc thread, when nothing is pending */
    _Atomic size_t pending;
    size_t n;
    struct item items[];
};
void request_item_done(struct item *i); /* @thread any, once per item */
/* Mails every item that was not refused. @thread rpc */
void request_start(struct message_service *m, struct request *r);

/* worker.c: 0 = taken, worker_flush() must follow soon; 1 = full. */
int worker_put(struct message_worker *w, struct item *i) MUSTCHECK;
void worker_flush(struct message_worker *w);
int worker_query(struct message_worker *w, struct list *query) MUSTCHECK;
void worker_wake(struct message_worker *w); /* a call was finished: wake the rpc threads at the end of this turn */

/* query.c */
void query_get(struct rpc_call *call, void *service);
void query_list(struct rpc_call *call, void *service);
void query_run(struct list *query, struct reader *r, struct message_worker *w);
/* The service.c helper of both. 1 = refused. */
int service_parse_id(const char *text, struct arena *a, struct uuid *ret, struct rpc_error *err) MUSTCHECK;
void service_fail_memory(struct rpc_call *call);
