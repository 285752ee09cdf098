/*
 * Sink: where deliveries go. One implementation file per kind behind this contract; tests/contract judges them all
 * alike.
 *
 * A sink instance belongs to one subscription of one worker and is used on that worker's loop thread only;
 * implementations that need a thread of their own (blocking client libraries) hide it. A sink never decides about
 * retries: it says what happened to one message and nothing else. Promises of an implementation:
 *  - `deliver` takes a delivery or refuses with SINK_BUSY and then calls `ready` once when it takes more;
 *  - every delivery taken gets exactly one sink_done(), never from inside `deliver`, within the sink's timeout;
 *  - what was acknowledged was really accepted by the other side (2xx, publisher confirm); everything doubtful is
 *    SINK_RETRY with `unknown`;
 *  - `close` ends all deliveries (SINK_RETRY, unknown as it applies) and releases everything; then no callback comes.
 */
#pragma once

#include "core/attempt.h"
#include "core/policy.h"
#include "core/tx.h"
#include "loop/loop.h"

struct guard;
struct store;
struct webclient;
struct rpc_caller;
struct sink;

/* One message on its way. Owned by the dispatcher; the sink may use it until sink_done(). */
struct delivery {
    struct list link; /* the sink's while it has the delivery */
    struct tx_content *content;
    uint16_t n;                /* message number within the content */
    int32_t attempt;           /* 1 = first */
    int64_t confirmed_us;      /* since when it could have been delivered; 0 = unknown */
    int64_t decided_us;        /* 0 = unknown: it comes from a row to retry */
    bool again;                /* the other side may have it already */
    const struct uuid *replay; /* the replay that sends it again; NULL = none */
    void *sink_data;           /* the sink's */
    /* Set by sink_done(): */
    enum sink_verdict { SINK_OK = 1, SINK_RETRY, SINK_REJECT } verdict;
    bool unknown;           /* RETRY: the other side may have it (counted as a possible duplicate) */
    int64_t retry_after_ms; /* RETRY: the other side's wish, -1 = none */
    uint64_t started_ns;    /* the outlet's: when the sink got it */
    struct attempt_end end; /* what else is known; whoever frees the delivery resets it */
    char error[200];        /* RETRY, REJECT: for people */
};

enum { SINK_TAKEN = 0, SINK_BUSY = 1 };

struct sink_ops {
    int (*deliver)(struct sink *s, struct delivery *d); /* SINK_TAKEN, SINK_BUSY */
    void (*flush)(struct sink *s);                      /* a burst of deliver calls ended; NULL = not needed */
    void (*close)(struct sink *s);
};

struct sink_owner {
    void (*done)(void *arg, struct delivery *d);
    void (*ready)(void *arg); /* after SINK_BUSY */
    void *arg;
};

/* First member of every implementation. */
struct sink {
    const struct sink_ops *ops;
    struct sink_owner owner;
};

static inline int sink_deliver(struct sink *s, struct delivery *d) {
    return s->ops->deliver(s, d);
}
static inline void sink_flush(struct sink *s) {
    if (s->ops->flush)
        s->ops->flush(s);
}
static inline void sink_close(struct sink *s) {
    s->ops->close(s);
}
/* For implementations: fills the verdict and tells the owner. */
void sink_done(struct sink *s, struct delivery *d, enum sink_verdict v, bool unknown, int64_t retry_after_ms,
               const char *error);
/*
 * Before sink_done(): what else is to be recorded; attempt_keep_response(&d->end, ..) for the answer's beginning. Of a sink that says
 * nothing the verdict alone is recorded. status: 0 = none.
 */
static inline void sink_says(struct delivery *d, enum attempt_class class, int status) {
    d->end.class = class;
    d->end.status = status;
}

/* What every protocol says about a message. "<transaction_id>.<n>" */
enum { MESSAGE_ID_TEXT = UUID_TEXT + 4 };
void delivery_message_id(const struct delivery *d, char sep, char out[MESSAGE_ID_TEXT]);

/* Constructors; `conf` lives as long as the sink (the caller holds the topology). 0, or negative and *e. */
struct sink_env {
    struct loop *loop;
    struct webclient *web;
    struct rpc_caller *caller; /* NULL = no gRPC sink */
    const struct guard *guard; /* of connections that neither of them makes; NULL = public addresses only */
    const struct store *store; /* its clock stamps signatures; NULL = this machine's */
    const struct sub_conf *sub;
};
int sink_discard_new(const struct sink_env *env, const struct sink_owner *o, struct sink **ret, struct errmsg *e)
    MUSTCHECK;
int sink_log_new(const struct sink_env *env, const struct sink_owner *o, struct sink **ret, struct errmsg *e) MUSTCHECK;
int sink_http_new(const struct sink_env *env, const struct sink_owner *o, struct sink **ret, struct errmsg *e)
    MUSTCHECK;
int sink_grpc_new(const struct sink_env *env, const struct sink_owner *o, struct sink **ret, struct errmsg *e)
    MUSTCHECK;
int sink_rabbitmq_new(const struct sink_env *env, const struct sink_owner *o, struct sink **ret, struct errmsg *e)
    MUSTCHECK;
/* By env->sub->sink.kind; -ENOTSUP when the kind was left out of this build. */
int sink_new(const struct sink_env *env, const struct sink_owner *o, struct sink **ret, struct errmsg *e) MUSTCHECK;
