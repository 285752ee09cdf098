/* GetStats: the counters as the store adds them up, and what follows from them. */
#include "admin/admin_private.h"

struct stats {
    struct job job;
    const char *subscription; /* NULL = all */
};

static Google__Protobuf__Duration *age(struct arena *a, int64_t from_us, int64_t to_us) {
    Google__Protobuf__Duration *d = from_us ? arena_alloc(a, sizeof(*d)) : NULL;
    if (!d)
        return NULL;
    int64_t us = MAX(to_us - from_us, 0);
    google__protobuf__duration__init(d);
    d->seconds = us / 1000000;
    d->nanos = (int32_t)(us % 1000000) * 1000;
    return d;
}

static Txmsg__V1__SubscriptionStats *sub_of(struct arena *a, const struct stat_sub *s, int64_t now_us) {
    Txmsg__V1__SubscriptionStats *o = arena_alloc(a, sizeof(*o));
    if (!o)
        return NULL;
    txmsg__v1__subscription_stats__init(o);
    o->subscription = arena_strndup(a, s->name, strlen(s->name));
    o->delivered = s->delivered;
    o->dead = s->dead;
    o->discarded = s->discarded;
    o->in_flight = s->in_flight;
    o->in_flight_more = s->more;
    o->oldest_undelivered = age(a, s->oldest_us, now_us);
    return o->subscription ? o : NULL;
}

static bool fill(struct arena *a, Txmsg__V1__GetStatsResponse *resp, const struct stat_totals *t) {
    txmsg__v1__get_stats_response__init(resp);
    resp->prepared = t->prepared;
    resp->confirmed = t->confirmed;
    resp->cancelled = t->cancelled;
    resp->undecided = t->prepared - t->confirmed - t->cancelled;
    resp->tombstones = t->tombstones;
    resp->stuck = t->stuck;
    resp->oldest_undecided = age(a, t->oldest_us, t->at_us);
    resp->subscriptions = arena_alloc(a, MAX(t->subs_n, 1u) * sizeof(*resp->subscriptions));
    if (!resp->subscriptions || !admin_time(a, t->at_us, &resp->time))
        return false;
    for (size_t i = 0; i < t->subs_n; i++) {
        Txmsg__V1__SubscriptionStats *s = sub_of(a, &t->subs[i], t->at_us);
        if (!s)
            return false;
        if (*s->subscription)
            resp->subscriptions[resp->n_subscriptions++] = s;
        else
            resp->deleted = s;
    }
    return true;
}

static void refuse_name(struct stats *j) {
    job_refuse(&j->job, RPC_NOT_FOUND, "SUBSCRIPTION_NOT_FOUND", NULL, "no such subscription");
    j->job.err.meta[0] = "name";
    j->job.err.meta[1] = j->subscription;
}

static void on_stats(void *arg, int code, const struct stat_totals *t) {
    struct stats *j = arg;
    struct arena *a = rpc_call_arena(j->job.call);
    Txmsg__V1__GetStatsResponse *resp = arena_alloc(a, sizeof(*resp));
    if (code < 0)
        job_unavailable(&j->job);
    else if (j->subscription && t->subs_n == 0)
        refuse_name(j);
    else if (resp)
        j->job.response = fill(a, resp, t) ? &resp->base : NULL;
    job_done(&j->job);
}

static void run(struct job *job) {
    struct stats *j = CONTAINER_OF(job, struct stats, job);
    if (stat_get(job_conn(job), j->subscription, on_stats, j) < 0) {
        job_unavailable(job);
        job_done(job);
    }
}

void admin_stats(struct rpc_call *call, void *service) {
    const Txmsg__V1__GetStatsRequest *q = (const Txmsg__V1__GetStatsRequest *)rpc_call_request(call);
    struct stats *j = job_new(call, service, sizeof(*j), run);
    if (!j)
        return;
    j->subscription = *q->subscription ? q->subscription : NULL;
    job_start(&j->job);
}
