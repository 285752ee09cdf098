/*
 * Run-time configuration as the workers see it: an immutable snapshot of topics, producers and subscriptions of one
 * epoch. Parsed from the JSON form of txmsg.v1.Topic / Producer / Subscription (proto field names, durations as "10s").
 */
#pragma once

#include "base/json.h"
#include "base/list.h"
#include "core/retry.h"

#include <stdatomic.h>

enum { POLICY_ENDPOINTS_MAX = 8 };
#define POLICY_GRPC "grpc://" /* how an endpoint that serves gRPC begins: grpc://host:port */

struct check_policy {
    const char *endpoints[POLICY_ENDPOINTS_MAX];
    int endpoints_n;        /* 0 = this producer cannot be asked: its undecided stay undecided */
    int grpc_n;             /* of them, those of the gRPC check */
    const char *secret;     /* "whsec_<base64>" or "" */
    int64_t first_after_ms; /* default 10 s */
    struct backoff backoff; /* default 10 s x2 to 10 min, +-20 % */
    int max_unknowns;       /* answered UNKNOWNs until STUCK; default 15 */
    int64_t timeout_ms;     /* of one request; default 5 s */
    int concurrency;        /* requests under way per worker; default 16 */
    bool include_body;
    int64_t rolled_back_not_before_ms; /* a ROLLED_BACK of a younger transaction is UNKNOWN; 0 = none is */
    int rate;                          /* checks per second over all workers; 0 = no limit */
};

/* Where events of what became of a producer's messages are published; "" = nowhere. */
struct outcome_topics {
    const char *delivered, *dead; /* the store looks up which, in the transaction of the outcome */
};
#define POLICY_OWN_PRODUCER "txmsg" /* of what the service itself publishes: has no outcomes, so events have none */

struct producer_conf {
    struct hnode node;
    const char *name;
    struct check_policy check;
    struct outcome_topics outcomes;
};

struct topic_conf {
    struct hnode node;
    const char *name;
};

enum sink_kind { SINK_DISCARD = 1, SINK_LOG, SINK_HTTP, SINK_RABBITMQ, SINK_GRPC };
enum ack_mode { ACK_STATUS_2XX = 1, ACK_BODY_SUCCESS = 2, ACK_JSON_FIELD = 3 };
enum content_mode { CONTENT_BINARY = 1, CONTENT_STRUCTURED = 2 };
enum { POLICY_REJECTS_MAX = 32, POLICY_INTERVALS_MAX = 64, POLICY_FILTER_MAX = 16 };

struct sink_conf {
    enum sink_kind kind;
    const char *text; /* all of it as JSON: equal texts, equal sinks */
    struct {          /* http */
        const char *url, *secret;
        const char *previous_secret; /* "" = none; signs as well while consumers change over */
        int64_t timeout_ms;          /* default 10 s */
        enum ack_mode ack;
        const char *ack_field, *ack_value; /* ACK_JSON_FIELD: "result.code", "0" */
        enum content_mode mode;
        int rejects[POLICY_REJECTS_MAX]; /* statuses that make a dead letter at once, beside 410 */
        int rejects_n;
        json_t *headers; /* object of strings, NULL = none; owned by the snapshot */
    } http;
    struct {                     /* rabbitmq */
        const char *url;         /* amqp://user:pass@host:port/vhost */
        const char *exchange;    /* "" = default exchange */
        const char *routing_key; /* "" = the message key as text, else the topic */
        int64_t timeout_ms;      /* until the confirm; default 10 s */
    } rabbitmq;
    struct {                                         /* grpc */
        const char *endpoints[POLICY_ENDPOINTS_MAX]; /* grpc://host:port */
        int endpoints_n;                             /* at least 1 */
        int64_t timeout_ms;                          /* of an attempt, all endpoints together; default 10 s */
    } grpc;
};

/* When a subscription is parked, and how often it is tried then. */
struct breaker_policy {
    int failures;                 /* in a row; default 16 */
    int64_t open_ms, max_open_ms; /* until the first probe, doubled up to the longest; default 1 s and 30 s */
};

struct sub_conf {
    int32_t id; /* of the store; never used again after deletion */
    const char *name, *topic;
    struct sink_conf sink;
    struct backoff backoff; /* default 1 s x2 to 10 min, full jitter */
    int max_attempts;       /* default 16; of a list its length + 1 */
    int64_t max_age_ms;     /* since the first failure; default 24 h; of a list 365 d */
    int concurrency;        /* deliveries in flight per worker; default 256 */
    int rate;               /* attempts per second over all workers; 0 = no limit */
    struct breaker_policy breaker;
    bool paused;                   /* starts nothing */
    const char *dead_letter_topic; /* "" = none; the store publishes to it */
    struct {
        const char *name, *value;
    } filter[POLICY_FILTER_MAX]; /* headers that a message must have */
    int filter_n;                /* 0 = every message of the topic */
};

struct topology {
    _Atomic int refs;
    int64_t epoch;
    struct hmap topics, producers; /* by hash_bytes(name) */
    bool tells_delivered;          /* a producer wants to hear of each delivery */
    struct sub_conf *subs;
    int subs_n;
    struct policy_store *memory; /* owns every string and array above */
};

/* An empty snapshot; NULL when out of memory. Fill it with the adders before anybody shares it. */
struct topology *topology_new(int64_t epoch) MUSTCHECK;
struct topology *topology_ref(struct topology *t);
void topology_unref(struct topology *t); /* NULL allowed. @thread any */
/*
 * `spec` is the stored JSON, read and not kept; a member that is null counts as absent, a NULL spec as {}. -EINVAL and
 * *e name the member; also used to validate before storing (on a scratch snapshot). -EEXIST: that name (or id) is in
 * the snapshot; -ENOMEM. After a failure the snapshot reads as before.
 */
int topology_add_topic(struct topology *t, const char *name, const json_t *spec, struct errmsg *e) MUSTCHECK;
int topology_add_producer(struct topology *t, const char *name, const json_t *spec, struct errmsg *e) MUSTCHECK;
int topology_add_sub(struct topology *t, int32_t id, const char *name, const json_t *spec, struct errmsg *e) MUSTCHECK;
void topology_pause_sub(struct topology *t, int32_t id); /* before anybody shares the snapshot */

/*
 * Is `s` no secret of Standard Webhooks ("whsec_" and the base64 of 16 to 64 bytes, or empty = none)? *ret is NULL, or what is wrong, to be put
 * behind a name; it never quotes. 0, or -ENOMEM.
 */
int secret_wrong(const char *s, const char **ret) MUSTCHECK;

const struct topic_conf *topology_topic(const struct topology *t, struct bytes name);       /* NULL = unknown */
const struct producer_conf *topology_producer(const struct topology *t, struct bytes name); /* NULL = unknown */
const struct sub_conf *topology_sub(const struct topology *t, int32_t id);                  /* NULL = unknown */
/* Is a delivery of this producer's to be told of? One comparison where no producer wants it. */
static inline bool topology_tells_delivered(const struct topology *t, struct bytes producer) {
    const struct producer_conf *p = t->tells_delivered ? topology_producer(t, producer) : NULL;

    return p && p->outcomes.delivered[0] != '\0';
}
