/* What a gRPC sink says to ConsumerService.Deliver, and what an outcome of that call means. Pure. @thread any */
#pragma once

#include "forward/sink.h"
#include "rpc/caller.h"

#include "txmsg/v1/consumer_service.pb-c.h"

/* Points into the delivery's content; lives in the arena. NULL = out of memory. */
Txmsg__V1__DeliverRequest *grpc_request(struct arena *a, const struct delivery *d, const char *subscription) MUSTCHECK;

struct grpc_answer {
    enum sink_verdict verdict;
    enum attempt_class class;
    bool unsent;            /* nobody can have it: another endpoint may be asked within this attempt */
    bool elsewhere;         /* the next call should go to another endpoint */
    bool unknown;           /* as in sink.h, these two also */
    int64_t retry_after_ms; /* -1 = none */
    char why[200];          /* "" for SINK_OK */
};
void grpc_answer_judge(const struct rpc_outcome *o, struct grpc_answer *ret);
