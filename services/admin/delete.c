/*
 * DeleteTopic, DeleteProducer, DeleteSubscription: ApplyTopology with one object to be removed, so the same epoch, audit and effects as
 * with prune. What must not go is refused: a topic that is read in the plan itself, a producer with undecided transactions by
 * asking first (one that prepares in between is like one that prepares on a replica that has not heard yet).
 */
#include "admin/admin_private.h"

struct removal {
    struct job job;
    struct topo_object object;
    bool validate_only;
    const char *actor;
};

/* All three responses have one shape. */
static const ProtobufCMessage *response_of(enum topo_kind kind, struct arena *a, int64_t epoch) {
    const ProtobufCMessageDescriptor *d = kind == TOPO_TOPIC ? &txmsg__v1__delete_topic_response__descriptor
                                          : kind == TOPO_PRODUCER
                                              ? &txmsg__v1__delete_producer_response__descriptor
                                              : &txmsg__v1__delete_subscription_response__descriptor;
    ProtobufCMessage *m = arena_alloc(a, d->sizeof_message);
    if (!m)
        return NULL;
    protobuf_c_message_init(d, m);
    *(int64_t *)(void *)((char *)m + d->fields[0].offset) = epoch;
    return m;
}

static void refuse_use(struct removal *j, const char *why) {
    job_refuse(&j->job, RPC_FAILED_PRECONDITION, "IN_USE", NULL, why);
    j->job.err.meta[0] = "name";
    j->job.err.meta[1] = j->object.name;
    j->job.err.precondition_subject = j->object.name;
}

static void on_removed(void *arg, int code, const char *why, const struct topo_change *changes, size_t n,
                       int64_t epoch) {
    struct removal *j = arg;
    UNUSED(changes);
    UNUSED(n);
    if (code == -ENOENT) {
        job_refuse_missing(&j->job, j->object.kind, j->object.name);
    } else if (code == -EBUSY) {
        refuse_use(j, why);
    } else if (code < 0) {
        job_unavailable(&j->job);
    } else {
        j->job.response = response_of(j->object.kind, rpc_call_arena(j->job.call), epoch);
        if (!j->job.response && !j->validate_only)
            job_unknown(&j->job);
        if (!j->validate_only && j->job.service->applied)
            j->job.service->applied(j->job.service->arg);
    }
    job_done(&j->job);
}

static void remove_object(struct removal *j) {
    if (topo_apply(job_conn(&j->job), &j->object, 1, j->validate_only, false, j->actor, on_removed, j) < 0) {
        job_unavailable(&j->job);
        job_done(&j->job);
    }
}

static void on_undecided(void *arg, int code, bool any) {
    struct removal *j = arg;
    if (code == 0 && !any) {
        remove_object(j);
        return;
    }
    if (code < 0)
        job_unavailable(&j->job);
    else
        refuse_use(j, "a transaction of it is undecided: who would be asked?");
    job_done(&j->job);
}

static void run_removal(struct job *job) {
    struct removal *j = CONTAINER_OF(job, struct removal, job);
    if (j->object.kind != TOPO_PRODUCER) {
        remove_object(j);
    } else if (view_undecided(job_conn(job), j->object.name, on_undecided, j) < 0) {
        job_unavailable(job);
        job_done(job);
    }
}

static void start(struct rpc_call *call, void *service, enum topo_kind kind, const char *name, bool validate_only,
                  const char *actor) {
    struct removal *j = job_new(call, service, sizeof(*j), run_removal);
    struct violation v;
    if (!j)
        return;
    if (!*name) {
        call_refuse(call, RPC_INVALID_ARGUMENT, "INVALID_FIELD", "name", "is required");
    } else if (validate_text("actor", bytes_str(actor), 255, &v)) {
        call_refuse(call, RPC_INVALID_ARGUMENT, "INVALID_FIELD", "actor", v.description);
    } else {
        j->object = (struct topo_object){.kind = kind, .name = name, .remove = true};
        j->validate_only = validate_only;
        j->actor = *actor ? actor : "rpc";
        job_start(&j->job);
    }
}

#define DELETE(fn, Request, kind)                                                                                      \
    void fn(struct rpc_call *call, void *service) {                                                                    \
        const Request *q = (const Request *)rpc_call_request(call);                                                    \
        start(call, service, kind, q->name, q->validate_only, q->actor);                                               \
    }
DELETE(admin_delete_topic, Txmsg__V1__DeleteTopicRequest, TOPO_TOPIC)
DELETE(admin_delete_producer, Txmsg__V1__DeleteProducerRequest, TOPO_PRODUCER)
DELETE(admin_delete_subscription, Txmsg__V1__DeleteSubscriptionRequest, TOPO_SUBSCRIPTION)
