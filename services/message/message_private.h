/*
 * Inside of the message room: service.c (single calls and Batch), pipeline.c (the stream), both on rpc threads; worker.c (operations on
 * workers), query.c (Get and List), watch.c (Watch).
 */
#pragma once

#include "message/codec.h"
#include "message/message.h"
#include "message/outcome.h"

#include <pthread.h>

enum { WORKERS_MAX = 64, METHODS_MAX = 8 };

/* What is under way on all Pipelines together. @thread any */
struct flights {
    _Atomic int64_t operations, bytes;
    _Atomic int waiting_n;
    pthread_mutex_t lock;
    struct list waiting; /* struct pipe: not read until something ended. @locks lock */
};

struct message_service {
    struct store *store;
    struct message_options o;
    struct rpc_server *rpc;
    struct rpc_method methods[METHODS_MAX];
    size_t methods_n;
    struct rpc_stream_method streams[2];
    struct watches *watches;
    struct flights flights;
    int workers_n;
    struct message_worker *workers[WORKERS_MAX]; /* set before the rpc server starts, cleared after it stopped */
    pthread_rwlock_t lock;                       /* guards topology */
    struct topology *topology;
};

/* One operation on its way through a worker. */
struct item {
    struct list link;
    struct lane_op op;
    struct message_worker *worker; /* of the worker's thread */
    void (*done)(struct item *i);  /* once: op.outcome says how it ended. @thread of the worker's loop */
    bool overloaded;               /* unless this is set: the lane was full, nothing was stored */
};
/* Refused before a lane saw it. */
void item_overloaded(struct rpc_error *err);

/* Where items of one owner collect that are done in one turn of a worker's loop. */
struct outbox {
    struct list link, items;
    void (*flush)(struct outbox *o); /* at the end of the turn; takes all items. The rpc threads are woken afterwards */
};
/* From an item's `done`. @thread of the worker's loop */
void outbox_put(struct outbox *o, struct item *i);
int worker_index(const struct message_worker *w);

/* worker.c */
struct message_worker *worker_of(const struct message_service *m, const struct uuid *id);
/* Mails the items, in their order; those that did not fit are left in the list. worker_flush() must follow soon. @thread any */
void worker_put(struct message_worker *w, struct list *items);
void worker_flush(struct message_worker *w);
/* service.c: `n` operations were put and not flushed; they go on now or by and by, see there. @thread rpc */
void service_hold(struct message_service *m, size_t n);
/* 0 = taken, 1 = full. */
int worker_query(struct message_worker *w, struct list *query) MUSTCHECK;
void worker_wake(struct message_worker *w); /* a call was finished: wake the rpc threads at the end of this turn */

/* query.c */
void query_get(struct rpc_call *call, void *service);
void query_list(struct rpc_call *call, void *service);
void query_run(struct list *query, struct reader *r, struct message_worker *w);
/* operation.c: 1 = refused. */
int service_parse_id(const char *text, struct arena *a, struct uuid *ret, struct rpc_error *err) MUSTCHECK;
extern const struct rpc_error service_no_memory;
void service_fail_memory(struct rpc_call *call);

/* watch.c */
struct watches;
int watches_new(struct message_service *m, struct watches **ret) MUSTCHECK;
void watches_free(struct watches *ws); /* NULL allowed */
/* The first worker looks for all. @thread of its loop */
int watches_attach(struct watches *ws, struct loop *l, struct reader *r) MUSTCHECK;
void watches_detach(struct watches *ws); /* answers of the reader may still come */
struct rpc_stream_method watch_method(struct watches *ws);

/* pipeline.c */
struct rpc_stream_method pipeline_method(struct message_service *m);
