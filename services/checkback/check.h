/*
 * One claimed check on its way, and what the checks of an asker share. Private to asker.c and check.c. @thread of the
 * loop
 *
 *   claimed -> waiting -> (read) -> ready -> asking --answer--> deciding -> ending -> riding -> gone
 *                                     ^        | no answer         |          ^
 *                                     +--------+ next one to ask   +- left    | UNKNOWN, or nobody answered
 *
 * A check whose end is not written ("left") comes due again when its lease is over, with another token.
 */
#pragma once

#include "base/clock.h"
#include "base/log.h"
#include "checkback/asker.h"
#include "checkback/producers.h"
#include "webclient/webclient.h"

struct asker {
    struct loop *loop;
    struct store *store;
    struct reader *reader;
    struct webclient *web;
    struct lane *own;
    struct age *age;
    struct asker_options o;
    struct producers producers;
    struct timer *timer;
    struct lane_rider rider;
    bool allowed, closing;
    bool soon; /* the timer is armed for less than poll_ms */
    bool in_round;
    bool wake_desk; /* checks were given to it */
    struct desk *desk;
    struct rpc_caller *caller; /* NULL = no gRPC check */
    size_t round_done;
    struct claim_call *claim; /* under way */
    struct read_call *read;
    size_t careful;       /* how many are read one by one, because one of them could not be read */
    struct list waiting;  /* for their messages */
    struct list ready;    /* for the web client */
    struct list calling;  /* for a call with others */
    struct list asking;   /* the web client, a batch or the desk has them */
    struct list batches;  /* struct batch: out */
    struct mailbox *back; /* from the desk */
    struct list deciding; /* the lane has their operation */
    struct list ending;   /* their row is to be written or removed */
    struct list riding;   /* that is in the batch under way */
    struct log_limit contrary, stuck;
};

struct check {
    struct list link;    /* of one of those, or of the read under way */
    struct asker *asker; /* NULL: it is gone, and the lane still has the operation */
    struct producer *producer;
    struct topology *topology; /* our reference: `policy` is in it */
    const struct check_policy *policy;
    char name[LIMIT_NAME + 1]; /* the producer's; the operation points to it */
    char *business_key;        /* NULL = none */
    struct uuid tx;
    int32_t token, tries, unknowns, failures; /* as claimed */
    int64_t prepared_us, stored_us;
    int64_t asked_us;           /* the last time that somebody was asked; of the database's clock */
    uint64_t lease_ns;          /* CLOCK_MONOTONIC: ours until then */
    struct buf request;         /* over HTTP, if there is an endpoint */
    struct arena arena;         /* of `message` */
    struct tx_content *content; /* it points into it, or bodies are to come; else NULL */
    Txmsg__V1__CheckRequest *message;
    bool waits;     /* for a stream: counted in producer->waiting */
    int pulled;     /* streams that did not answer in time, or nothing that counts */
    uint64_t avoid; /* the last one of them */
    bool at_desk;
    uint64_t desk_until_ns; /* CLOCK_MONOTONIC */
    struct desk_check desk;
    int endpoint, tried;
    struct web_call *call;
    enum answer_verdict verdict;
    struct tx_bodies *bodies; /* that came with it; NULL = none */
    struct lane_op op;
    struct check_finish finish;
    char error[200];
};

/* Goes to `waiting` and takes a slot. NULL = out of memory. */
struct check *check_new(struct asker *a, struct producer *of, const struct check_claim *claim, uint64_t lease_ns)
    MUSTCHECK;
/* Gives its slot back. */
void check_free(struct check *c);
/* The asker goes: ends the check, or leaves it to the callback of the lane that still comes. */
void check_abandon(struct check *c);
/* Its messages are here (NULL: none can be had): goes to `ready`, or ends. */
void check_write(struct check *c, const struct tx_content *content);
/* A ready check: asks the next one, ends or leaves it. false = the web client is full, it stays ready. */
bool check_send(struct check *c);
/* It came back from the desk. */
void check_back(struct check *c);
/* It is at the desk and its time is over: asks the next one, ends or leaves it. */
void check_overdue(struct check *c);
/* False: the rest of its lease does not suffice to ask one endpoint. */
bool check_has_time(const struct check *c);

/* A call brought this for it; or it is to be made again in another form. */
void check_called(struct check *c, struct answer *answer); /* ends the answer */
void check_call_again(struct check *c);

/* Of asker.c: sends what is ready; or only wakes whom it was given to. */
void asker_send(struct asker *a);
void asker_flush(struct asker *a);
/* Look for due checks before the next poll. */
void asker_soon(struct asker *a);
