/*
 * Topics, producers and subscriptions, one by one and as lists, from the same read as ExportTopology; and pausing a subscription.
 * There are some thousands at most, so a page is cut from the whole.
 */
#include "admin/admin_private.h"

#include "txmsg/v1/topology.pb-c.h"

enum { APPLIED_WAIT_MS = 10000 };

struct objects {
    struct job job;
    enum topo_kind kind;
    const char *name;  /* NULL = a list */
    const char *topic; /* of subscriptions; NULL = any */
    const char *after; /* the last name of the page before; "" = none */
    int32_t limit;
    bool pause, paused; /* pause: change the state first; paused: to what */
    const char *actor, *reason;
};

static ProtobufCMessage *object_of(struct arena *a, const struct topo_object *o) {
    ProtobufCMessage *m = admin_object(a, o);
    if (m && o->kind == TOPO_SUBSCRIPTION) {
        Txmsg__V1__Subscription *s = (Txmsg__V1__Subscription *)m;
        s->state = o->paused ? TXMSG__V1__SUBSCRIPTION_STATE__SUBSCRIPTION_STATE_PAUSED
                             : TXMSG__V1__SUBSCRIPTION_STATE__SUBSCRIPTION_STATE_ACTIVE;
        if (!admin_time(a, o->created_us, &s->create_time))
            return NULL;
    }
    return m;
}

/* --- one --- */

void job_refuse_missing(struct job *j, enum topo_kind kind, const char *name) {
    static const char *const reasons[] = {"TOPIC_NOT_FOUND", "PRODUCER_NOT_FOUND", "SUBSCRIPTION_NOT_FOUND"};
    job_refuse(j, RPC_NOT_FOUND, reasons[kind], NULL, "it does not exist");
    j->err.meta[0] = "name";
    j->err.meta[1] = name;
}

/* All responses with one object have one shape. */
#define ONE(Type, type, member, Object)                                                                                \
    {                                                                                                                  \
        Type *resp = arena_alloc(a, sizeof(*resp));                                                                    \
        if (!resp)                                                                                                     \
            return NULL;                                                                                               \
        type##__init(resp);                                                                                            \
        resp->member = (Object *)m;                                                                                    \
        return &resp->base;                                                                                            \
    }

static const ProtobufCMessage *one_response(const struct objects *j, struct arena *a, ProtobufCMessage *m) {
    if (j->kind == TOPO_TOPIC)
        ONE(Txmsg__V1__GetTopicResponse, txmsg__v1__get_topic_response, topic, Txmsg__V1__Topic)
    if (j->kind == TOPO_PRODUCER)
        ONE(Txmsg__V1__GetProducerResponse, txmsg__v1__get_producer_response, producer, Txmsg__V1__Producer)
    if (!j->pause)
        ONE(Txmsg__V1__GetSubscriptionResponse, txmsg__v1__get_subscription_response, subscription,
            Txmsg__V1__Subscription)
    if (j->paused)
        ONE(Txmsg__V1__PauseSubscriptionResponse, txmsg__v1__pause_subscription_response, subscription,
            Txmsg__V1__Subscription)
    ONE(Txmsg__V1__ResumeSubscriptionResponse, txmsg__v1__resume_subscription_response, subscription,
        Txmsg__V1__Subscription)
}

static void answer_one(struct objects *j, const struct topo_object *objects, size_t n) {
    struct arena *a = rpc_call_arena(j->job.call);
    for (size_t i = 0; i < n; i++)
        if (objects[i].kind == j->kind && strcmp(objects[i].name, j->name) == 0) {
            ProtobufCMessage *m = object_of(a, &objects[i]);
            j->job.response = m ? one_response(j, a, m) : NULL;
            return;
        }
    job_refuse_missing(&j->job, j->kind, j->name);
}

/* --- lists --- */

static bool listed(const struct objects *j, const struct topo_object *o, const ProtobufCMessage *m) {
    return o->kind != TOPO_SUBSCRIPTION || !j->topic ||
           strcmp(((const Txmsg__V1__Subscription *)m)->topic, j->topic) == 0;
}

#define LIST(Type, type, member, Object)                                                                               \
    {                                                                                                                  \
        Type *resp = arena_alloc(a, sizeof(*resp));                                                                    \
        if (!resp)                                                                                                     \
            return NULL;                                                                                               \
        type##__init(resp);                                                                                            \
        resp->member = (Object **)rows;                                                                                \
        resp->n_##member = n;                                                                                          \
        resp->next_page_token = token;                                                                                 \
        return &resp->base;                                                                                            \
    }

static const ProtobufCMessage *list_response(const struct objects *j, struct arena *a, ProtobufCMessage **rows,
                                             size_t n, char *token) {
    if (j->kind == TOPO_TOPIC)
        LIST(Txmsg__V1__ListTopicsResponse, txmsg__v1__list_topics_response, topics, Txmsg__V1__Topic)
    if (j->kind == TOPO_PRODUCER)
        LIST(Txmsg__V1__ListProducersResponse, txmsg__v1__list_producers_response, producers, Txmsg__V1__Producer)
    LIST(Txmsg__V1__ListSubscriptionsResponse, txmsg__v1__list_subscriptions_response, subscriptions,
         Txmsg__V1__Subscription)
}

/* They come sorted by kind and name. */
static void answer_list(struct objects *j, const struct topo_object *objects, size_t n) {
    struct arena *a = rpc_call_arena(j->job.call);
    ProtobufCMessage **rows = arena_alloc(a, (size_t)j->limit * sizeof(ProtobufCMessage *));
    const char *last = "";
    size_t k = 0;
    bool more = false;
    for (size_t i = 0; rows && i < n && !more; i++) {
        if (objects[i].kind != j->kind || strcmp(objects[i].name, j->after) <= 0)
            continue;
        ProtobufCMessage *m = object_of(a, &objects[i]);
        if (!m)
            return;
        if (!listed(j, &objects[i], m))
            continue;
        more = k == (size_t)j->limit;
        if (!more) {
            rows[k++] = m;
            last = objects[i].name;
        }
    }
    char *token = more ? arena_strndup(a, last, strlen(last)) : arena_strndup(a, "", 0);
    if (rows && token)
        j->job.response = list_response(j, a, rows, k, token);
}

static void on_objects(void *arg, int code, const struct topo_object *objects, size_t n, int64_t epoch) {
    struct objects *j = arg;
    UNUSED(epoch);
    if (code < 0)
        job_unavailable(&j->job);
    else if (j->name)
        answer_one(j, objects, n);
    else
        answer_list(j, objects, n);
    job_done(&j->job);
}

static void read_objects(struct objects *j) {
    if (topo_export(job_conn(&j->job), on_objects, j) < 0) {
        job_unavailable(&j->job);
        job_done(&j->job);
    }
}

static void run_read(struct job *job) {
    read_objects(CONTAINER_OF(job, struct objects, job));
}

static void get_or_list(struct rpc_call *call, void *service, enum topo_kind kind, const char *name, int32_t page_size,
                        const char *page_token, const char *topic) {
    struct objects *j = job_new(call, service, sizeof(*j), run_read);
    if (!j)
        return;
    if (name && !*name) {
        call_refuse(call, RPC_INVALID_ARGUMENT, "INVALID_FIELD", "name", "is required");
        return;
    }
    j->kind = kind;
    j->name = name;
    j->after = page_token;
    j->limit = admin_page_size(page_size);
    j->topic = topic && *topic ? topic : NULL;
    job_start(&j->job);
}

#define GET(fn, Request, kind)                                                                                         \
    void fn(struct rpc_call *call, void *service) {                                                                    \
        get_or_list(call, service, kind, ((const Request *)rpc_call_request(call))->name, 0, "", NULL);                \
    }
GET(admin_get_topic, Txmsg__V1__GetTopicRequest, TOPO_TOPIC)
GET(admin_get_producer, Txmsg__V1__GetProducerRequest, TOPO_PRODUCER)
GET(admin_get_subscription, Txmsg__V1__GetSubscriptionRequest, TOPO_SUBSCRIPTION)

void admin_list_topics(struct rpc_call *call, void *service) {
    const Txmsg__V1__ListTopicsRequest *q = (const Txmsg__V1__ListTopicsRequest *)rpc_call_request(call);
    get_or_list(call, service, TOPO_TOPIC, NULL, q->page_size, q->page_token, NULL);
}

void admin_list_producers(struct rpc_call *call, void *service) {
    const Txmsg__V1__ListProducersRequest *q = (const Txmsg__V1__ListProducersRequest *)rpc_call_request(call);
    get_or_list(call, service, TOPO_PRODUCER, NULL, q->page_size, q->page_token, NULL);
}

void admin_list_subscriptions(struct rpc_call *call, void *service) {
    const Txmsg__V1__ListSubscriptionsRequest *q = (const Txmsg__V1__ListSubscriptionsRequest *)rpc_call_request(call);
    get_or_list(call, service, TOPO_SUBSCRIPTION, NULL, q->page_size, q->page_token, q->topic);
}

/* --- pause, resume --- */

static void on_paused(void *arg, int code) {
    struct objects *j = arg;
    if (code == 0) {
        read_objects(j);
        return;
    }
    if (code == -ENOENT) {
        job_refuse_missing(&j->job, j->kind, j->name);
    } else {
        job_refuse(&j->job, RPC_UNAVAILABLE, "OUTCOME_UNKNOWN", NULL,
                   code > 0 ? "it is stored, but not every replica has said that it follows: repeat this call"
                            : "the store is away or busy: repeat this call");
        j->job.err.retry_after_ms = 500;
    }
    job_done(&j->job);
}

static void run_pause(struct job *job) {
    struct objects *j = CONTAINER_OF(job, struct objects, job);
    if (topo_set_paused(job->service->loop, job_conn(job), j->name, j->paused, j->actor, j->reason,
                        job->service->store->o.dead_after_ms, job->service->store->o.dead_after_ms + APPLIED_WAIT_MS,
                        on_paused, j) == 0) {
        return;
    }
    job_unavailable(job);
    job_done(job);
}

static void pause_or_resume(struct rpc_call *call, void *service, bool paused, const char *name, const char *actor,
                            const char *reason) {
    struct objects *j = job_new(call, service, sizeof(*j), run_pause);
    struct violation v;
    if (!j)
        return;
    if (!*name) {
        call_refuse(call, RPC_INVALID_ARGUMENT, "INVALID_FIELD", "name", "is required");
    } else if (validate_text("reason", bytes_str(reason), LIMIT_REASON, &v)) {
        call_refuse(call, RPC_INVALID_ARGUMENT, "INVALID_FIELD", "reason", v.description);
    } else if (validate_text("actor", bytes_str(actor), 255, &v)) {
        call_refuse(call, RPC_INVALID_ARGUMENT, "INVALID_FIELD", "actor", v.description);
    } else {
        j->kind = TOPO_SUBSCRIPTION;
        j->name = name;
        j->pause = true;
        j->paused = paused;
        j->actor = *actor ? actor : "rpc";
        j->reason = reason;
        job_start(&j->job);
    }
}

void admin_pause(struct rpc_call *call, void *service) {
    const Txmsg__V1__PauseSubscriptionRequest *q = (const Txmsg__V1__PauseSubscriptionRequest *)rpc_call_request(call);
    pause_or_resume(call, service, true, q->name, q->actor, q->reason);
}

void admin_resume(struct rpc_call *call, void *service) {
    const Txmsg__V1__ResumeSubscriptionRequest *q =
        (const Txmsg__V1__ResumeSubscriptionRequest *)rpc_call_request(call);
    pause_or_resume(call, service, false, q->name, q->actor, q->reason);
}
