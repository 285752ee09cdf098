/*
 * The message service: Prepare, Confirm, Cancel, Publish, Batch, Pipeline, GetTransaction, ListTransactions, Watch.
 *
 * Handlers run on an rpc thread: they decode, validate and hand the operation to a worker's bounded mailbox (or shed it there and then
 * with RESOURCE_EXHAUSTED). The worker commits it in its lane and hands the call back; the answer is built on the rpc thread.
 */
#pragma once

#include "core/policy.h"
#include "rpc/rpc.h"
#include "store/lane.h"
#include "store/read.h"

struct message_options {
    struct limits limits;
    int64_t mailbox; /* operations on their way to one worker; default 8192 */
    int64_t queries; /* Get and List under way per worker; default 256 */
    int64_t gather;  /* operations that an rpc thread collects before it wakes a worker; default 64 */
    /* Pipeline. Beyond the first a client's operations are refused; beyond the others streams are not opened, or not read. */
    int64_t pipeline_operations; /* of one stream, until their results are sent */
    int64_t pipeline_streams, pipeline_operations_all, pipeline_bytes_all;
    int64_t watches; /* streams of Watch; more are not opened */
};

struct message_service;
int message_service_new(struct store *s, const struct message_options *o, int workers, struct message_service **ret)
    MUSTCHECK;
void message_service_free(struct message_service *m); /* after the rpc server and the workers are gone */
/* The methods to serve; *n = how many. Lives as long as the service. */
const struct rpc_method *message_service_methods(struct message_service *m, size_t *n);
const struct rpc_stream_method *message_service_streams(struct message_service *m, size_t *n);
void message_service_rpc(struct message_service *m, struct rpc_server *rpc); /* whom to wake; before it starts */
/* Wakes the workers for what this thread has collected: the flush of the rpc server. @thread rpc */
void message_service_flush(void *service);
/* The snapshot that requests are checked against. Without one everything is UNAVAILABLE. @thread any */
void message_service_topology(struct message_service *m, struct topology *t);

/* One worker's end. @thread of its loop */
struct message_worker;
int message_worker_new(struct message_service *m, int index, struct loop *l, struct reader *r,
                       struct message_worker **ret) MUSTCHECK;
/* NULL: operations are answered SHUTTING_DOWN. */
void message_worker_lane(struct message_worker *w, struct lane *lane);
void message_worker_close(struct message_worker *w); /* no more operations get in; those inside are answered */
void message_worker_free(struct message_worker *w);
