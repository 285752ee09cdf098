/* From the requests of producers to operations of a lane, the same for single calls, Batch and Pipeline. @thread rpc */
#pragma once

#include "message/message_private.h"

struct operation_reader {
    struct message_service *service;
    struct topology *topology; /* our reference; NULL = not read from the store yet */
    struct arena *arena;       /* errors and their texts; those of `op` are views into the request */
    const char *trace;         /* of the call or stream, NULL = none */
};
/* Takes the snapshot that is current. */
void operation_reader_open(struct operation_reader *o, struct message_service *m, struct arena *a, const char *trace);
void operation_reader_close(struct operation_reader *o);

/*
 * All: 0, 1 = refused and *err is set, -ENOMEM. What they leave in op->content and op->bodies is the caller's, always:
 * operation_drop().
 */
int operation_prepare(const struct operation_reader *o, const Txmsg__V1__PrepareRequest *q, struct lane_op *op,
                      struct rpc_error *err) MUSTCHECK;
int operation_publish(const struct operation_reader *o, const Txmsg__V1__PublishRequest *q, struct lane_op *op,
                      struct rpc_error *err) MUSTCHECK;
int operation_confirm(const struct operation_reader *o, const Txmsg__V1__ConfirmRequest *q, struct lane_op *op,
                      struct rpc_error *err) MUSTCHECK;
int operation_cancel(const struct operation_reader *o, const Txmsg__V1__CancelRequest *q, struct lane_op *op,
                     struct rpc_error *err) MUSTCHECK;
int operation_any(const struct operation_reader *o, const Txmsg__V1__Operation *q, struct lane_op *op,
                  struct rpc_error *err) MUSTCHECK;

void operation_drop(struct lane_op *op); /* gives content and bodies back */

/* Of a Batch, or of a frame of a Pipeline. */
int operation_check_count(size_t n, struct arena *a, struct rpc_error *err) MUSTCHECK;
int operation_unconfigured(struct rpc_error *err); /* sets *err, returns 1 */
/* "traceparent" or "traceparent\ntracestate" from the metadata; NULL for anything odd: tracing never fails a call. */
const char *operation_trace(const char *parent, const char *state, struct arena *a);
/* A little before `at_ns`, so that the caller hears our answer instead of its own timer. */
uint64_t operation_deadline_ns(uint64_t at_ns);
