/*
 * Where producers in pull mode stand in line: askers put checks down, streams of the RPC Checks take them to their clients and bring the
 * answers back. One for the process, shared by all workers and rpc threads.
 *
 * A check at the desk is with exactly one stream. It comes back exactly once: answered, lost with its stream, or taken back by its asker,
 * after which whatever the client says about it counts for nothing.
 */
#pragma once

#include "checkback/answer.h"
#include "core/policy.h"
#include "loop/loop.h"
#include "rpc/rpc.h"

#include "txmsg/v1/check_service.pb-c.h"

struct desk;
int desk_new(int streams, struct desk **ret) MUSTCHECK; /* streams: open at once */
void desk_free(struct desk *d); /* after the rpc server and the workers are gone. NULL allowed */
/* The methods to serve; *n = how many. Lives as long as the desk. */
const struct rpc_stream_method *desk_streams(struct desk *d, size_t *n);
void desk_rpc(struct desk *d, struct rpc_server *rpc);  /* whom to wake; before it starts */
void desk_topology(struct desk *d, struct topology *t); /* who may open a stream. @thread any */

struct desk_check {
    /* in: unchanged and alive until it comes back */
    const Txmsg__V1__CheckRequest *request;
    struct uuid tx;
    int64_t deadline_us;  /* told to the client; microseconds since 1970 */
    struct mailbox *back; /* gets `link`. It has room for every check of its owner */
    uint64_t avoid;       /* `asked` of a stream that gave no answer, 0 = none: that one is not asked at once again */
    /* out */
    struct list link;
    bool lost; /* the stream ended first: nobody answered, ask somebody else */
    struct answer answer;
    uint64_t asked; /* number of the stream */
    /* private */
    struct hnode by_tag;
    uint64_t tag;
    struct desk_stream *stream;
};
/* --- of the askers. @thread any, one at a time for one check --- */
/* How many more checks of this producer its streams take. */
int desk_room(struct desk *d, const char *producer);
enum desk_given {
    DESK_TAKEN,  /* by the stream that has the fewest: it will come back */
    DESK_BUSY,   /* there are streams, none with credit */
    DESK_NOBODY, /* no stream of this producer at this replica, or only that to avoid */
};
enum desk_given desk_give(struct desk *d, const char *producer, struct desk_check *c) MUSTCHECK;
/* True: it is the owner's again. False: it is on its way back already. */
bool desk_take_back(struct desk *d, struct desk_check *c) MUSTCHECK;
void desk_wake(struct desk *d); /* after some desk_give(), so that many share a wake */
