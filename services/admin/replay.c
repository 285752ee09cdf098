/* StartReplay, GetReplay, ListReplays, CancelReplay. */
#include "admin/admin_private.h"

#include "base/clock.h"
#include "base/crypto.h"
#include "store/replay.h"

enum { RATE_DEFAULT = 100 };

struct replay_job {
    struct job job;
    struct replay_spec spec;
    struct uuid before; /* list: the page begins behind it */
    int64_t before_us;
    int32_t limit;
    bool force;
    Txmsg__V1__StartReplayResponse *start;
};

static char *copy(struct arena *a, const char *s) {
    return arena_strndup(a, s, strlen(s));
}

static Txmsg__V1__Replay *message_of(struct arena *a, const struct replay *r) {
    Txmsg__V1__Replay *o = arena_alloc(a, sizeof(*o));
    if (!o)
        return NULL;
    txmsg__v1__replay__init(o);
    o->replay_id = admin_id(a, &r->id);
    o->subscription = copy(a, r->subscription);
    o->producer = copy(a, r->producer);
    o->actor = copy(a, r->actor);
    o->reason = copy(a, r->reason);
    o->last_error = copy(a, r->last_error);
    o->state = (Txmsg__V1__ReplayState)r->state;
    o->rate = r->rate;
    o->sent = r->sent;
    o->delivered = r->delivered;
    o->failed = r->failed;
    o->skipped = r->skipped;
    bool ok = o->replay_id && o->subscription && o->producer && o->actor && o->reason && o->last_error &&
              admin_time(a, r->from_us, &o->start_time) && admin_time(a, r->to_us, &o->end_time) &&
              admin_time(a, r->progress_us, &o->progress_time) && admin_time(a, r->at_us, &o->create_time) &&
              admin_time(a, r->ended_us, &o->done_time);
    return ok ? o : NULL;
}

static struct replay_job *replay_job_new(struct rpc_call *call, void *service, void (*run)(struct job *j)) {
    return job_new(call, service, sizeof(struct replay_job), run);
}

static void failed(struct job *job) {
    job_unavailable(job);
    job_done(job);
}

static void missing(struct job *job, const struct uuid *id) {
    job_refuse(job, RPC_NOT_FOUND, "REPLAY_NOT_FOUND", NULL, "no such replay");
    job->err.meta[0] = "replay_id";
    job->err.meta[1] = admin_id(rpc_call_arena(job->call), id);
}

static bool text_ok(struct rpc_call *call, const char *field, const char *text, size_t max) {
    struct violation v;
    if (!validate_text(field, bytes_str(text), max, &v))
        return true;
    call_refuse(call, RPC_INVALID_ARGUMENT, "INVALID_FIELD", field,
                arena_strndup(rpc_call_arena(call), v.description, strlen(v.description)));
    return false;
}

/* Any version of UUID. False = the call was refused. */
static bool id_ok(struct rpc_call *call, const char *text, struct uuid *ret) {
    if (uuid_parse(bytes_str(text), ret) == 0)
        return true;
    call_refuse(call, RPC_INVALID_ARGUMENT, "INVALID_FIELD", "replay_id", "is not a UUID");
    return false;
}

/* --- start --- */

/* The stored one, made by this call or by one before it. */
static void on_started(void *arg, int code, const struct replay *r, size_t n) {
    struct replay_job *j = arg;
    CLEANUP_BUF struct buf asked;
    buf_init(&asked, 1 << 20);
    if (code < 0) {
        job_unavailable(&j->job);
    } else if (n == 0) {
        job_refuse_missing(&j->job, TOPO_SUBSCRIPTION, j->spec.subscription);
    } else {
        replay_asked(&j->spec, &asked);
        if (buf_error(&asked) < 0) {
            job_unknown(&j->job);
        } else if (!bytes_eq_str(bytes_of(asked.p, asked.n), r->asked)) {
            job_refuse(&j->job, RPC_ALREADY_EXISTS, "CONTENT_DIFFERS", NULL,
                       "this replay_id was used for another replay");
            j->job.err.meta[0] = "replay_id";
            j->job.err.meta[1] = admin_id(rpc_call_arena(j->job.call), &j->spec.id);
        } else {
            j->start->replay = message_of(rpc_call_arena(j->job.call), r);
            j->job.response = j->start->replay ? &j->start->base : NULL;
        }
    }
    job_done(&j->job);
}

static void on_counted(void *arg, int code, const struct replay_matches *m) {
    struct replay_job *j = arg;
    struct arena *a = rpc_call_arena(j->job.call);
    if (code < 0) {
        failed(&j->job);
        return;
    }
    if (!m->found) {
        job_refuse_missing(&j->job, TOPO_SUBSCRIPTION, j->spec.subscription);
        job_done(&j->job);
        return;
    }
    j->start->count = MIN(m->count, (int64_t)REPLAY_COUNT_MAX);
    j->start->more = m->count > REPLAY_COUNT_MAX;
    j->start->sample = arena_alloc(a, REPLAY_SAMPLE * sizeof(char *));
    for (size_t i = 0; j->start->sample && i < m->sample_n; i++)
        if (!(j->start->sample[j->start->n_sample++] = copy(a, m->sample[i])))
            j->start->sample = NULL;
    j->job.response = j->start->sample ? &j->start->base : NULL;
    job_done(&j->job);
}

static void run_start(struct job *job) {
    struct replay_job *j = CONTAINER_OF(job, struct replay_job, job);
    int r = j->force ? replay_start(job_conn(job), &j->spec, on_started, j)
                     : replay_count(job_conn(job), &j->spec, on_counted, j);
    if (r < 0)
        failed(job);
}

/* The transactions, or the times. False = the call was refused. */
static bool range_ok(struct rpc_call *call, struct admin_service *s, const Txmsg__V1__StartReplayRequest *q,
                     struct replay_spec *spec) {
    struct arena *a = rpc_call_arena(call);
    const char *field = "start_time", *why = NULL;
    struct uuid *ids = arena_alloc(a, MAX(q->n_transaction_ids, 1u) * sizeof(*ids));
    spec->from_us = admin_time_us(q->start_time);
    spec->to_us = admin_time_us(q->end_time);
    if (!ids) {
        call_overloaded(call);
        return false;
    }
    if (q->n_transaction_ids && (q->start_time || q->end_time))
        field = "transaction_ids", why = "come without start_time and end_time";
    else if (q->n_transaction_ids > REPLAY_IDS_MAX)
        field = "transaction_ids", why = "has more than 1000 entries";
    else if (!q->n_transaction_ids && !q->start_time)
        why = "is required, or give transaction_ids";
    else if (q->start_time && spec->from_us < store_now_us(s->store) - s->store->o.retention_ms * 1000)
        why = "lies before what is kept (store.retention)";
    else if (q->start_time && spec->from_us > store_now_us(s->store))
        why = "lies ahead";
    else if (q->end_time && spec->to_us <= spec->from_us)
        field = "end_time", why = "is not later than start_time";
    for (size_t i = 0; !why && i < q->n_transaction_ids; i++)
        if (uuid_parse(bytes_str(q->transaction_ids[i]), &ids[i]) < 0)
            field = arena_printf(a, "transaction_ids[%zu]", i), why = "is not a UUID";
    if (why) {
        call_refuse(call, RPC_INVALID_ARGUMENT, "INVALID_FIELD", field ? field : "transaction_ids", why);
        return false;
    }
    spec->ids = ids;
    spec->ids_n = q->n_transaction_ids;
    return true;
}

void admin_start_replay(struct rpc_call *call, void *service) {
    const Txmsg__V1__StartReplayRequest *q = (const Txmsg__V1__StartReplayRequest *)rpc_call_request(call);
    struct replay_job *j = replay_job_new(call, service, run_start);
    struct violation v;
    if (!j)
        return;
    j->spec = (struct replay_spec){.subscription = q->subscription,
                                   .producer = *q->producer ? q->producer : NULL,
                                   .rate = q->rate ? q->rate : RATE_DEFAULT,
                                   .actor = *q->actor ? q->actor : "rpc",
                                   .reason = q->reason};
    j->force = q->force;
    j->start = arena_alloc(rpc_call_arena(call), sizeof(*j->start));
    if (!j->start) {
        call_overloaded(call);
        return;
    }
    txmsg__v1__start_replay_response__init(j->start);
    if (validate_name("subscription", bytes_str(q->subscription), &v)) {
        call_refuse(call, RPC_INVALID_ARGUMENT, "INVALID_FIELD", "subscription", "is not the name of a subscription");
        return;
    }
    if (q->rate < 0 || q->rate > REPLAY_RATE_MAX) {
        call_refuse(call, RPC_INVALID_ARGUMENT, "INVALID_FIELD", "rate", "is outside 1 to 1000 messages a second");
        return;
    }
    if (!text_ok(call, "reason", q->reason, LIMIT_REASON) || !text_ok(call, "actor", q->actor, LIMIT_BUSINESS_KEY) ||
        !range_ok(call, service, q, &j->spec))
        return;
    if (*q->replay_id && !id_ok(call, q->replay_id, &j->spec.id))
        return;
    if (!*q->replay_id)
        uuid_v7_make(store_now_us(j->job.service->store) / 1000, &j->spec.id);
    job_start(&j->job);
}

/* --- get, cancel --- */

static void on_got(void *arg, int code, const struct replay *r, size_t n) {
    struct replay_job *j = arg;
    struct arena *a = rpc_call_arena(j->job.call);
    Txmsg__V1__GetReplayResponse *resp = arena_alloc(a, sizeof(*resp));
    if (code < 0) {
        job_unavailable(&j->job);
    } else if (n == 0) {
        missing(&j->job, &j->spec.id);
    } else if (resp) {
        txmsg__v1__get_replay_response__init(resp);
        resp->replay = message_of(a, r);
        j->job.response = resp->replay ? &resp->base : NULL;
    }
    job_done(&j->job);
}

static void run_get(struct job *job) {
    struct replay_job *j = CONTAINER_OF(job, struct replay_job, job);
    if (replay_get(job_conn(job), &j->spec.id, on_got, j) < 0)
        failed(job);
}

void admin_get_replay(struct rpc_call *call, void *service) {
    const Txmsg__V1__GetReplayRequest *q = (const Txmsg__V1__GetReplayRequest *)rpc_call_request(call);
    struct replay_job *j = replay_job_new(call, service, run_get);
    if (j && id_ok(call, q->replay_id, &j->spec.id))
        job_start(&j->job);
}

static void on_cancelled(void *arg, int code, const struct replay *r, size_t n) {
    struct replay_job *j = arg;
    struct arena *a = rpc_call_arena(j->job.call);
    Txmsg__V1__CancelReplayResponse *resp = arena_alloc(a, sizeof(*resp));
    if (code < 0) {
        job_unavailable(&j->job);
    } else if (n == 0) {
        missing(&j->job, &j->spec.id);
    } else if (resp) {
        txmsg__v1__cancel_replay_response__init(resp);
        resp->replay = message_of(a, r);
        j->job.response = resp->replay ? &resp->base : NULL;
    }
    if (code == 0 && n && !j->job.response)
        job_unknown(&j->job);
    job_done(&j->job);
}

static void run_cancel(struct job *job) {
    struct replay_job *j = CONTAINER_OF(job, struct replay_job, job);
    if (replay_cancel(job_conn(job), &j->spec.id, j->spec.actor, j->spec.reason, on_cancelled, j) < 0)
        failed(job);
}

void admin_cancel_replay(struct rpc_call *call, void *service) {
    const Txmsg__V1__CancelReplayRequest *q = (const Txmsg__V1__CancelReplayRequest *)rpc_call_request(call);
    struct replay_job *j = replay_job_new(call, service, run_cancel);
    if (!j || !id_ok(call, q->replay_id, &j->spec.id) || !text_ok(call, "reason", q->reason, LIMIT_REASON) ||
        !text_ok(call, "actor", q->actor, LIMIT_BUSINESS_KEY))
        return;
    j->spec.actor = *q->actor ? q->actor : "rpc";
    j->spec.reason = q->reason;
    job_start(&j->job);
}

/* --- list --- */

static void on_listed(void *arg, int code, const struct replay *r, size_t n) {
    struct replay_job *j = arg;
    struct arena *a = rpc_call_arena(j->job.call);
    Txmsg__V1__ListReplaysResponse *resp = arena_alloc(a, sizeof(*resp));
    Txmsg__V1__Replay **rows = arena_alloc(a, MAX(n, 1u) * sizeof(Txmsg__V1__Replay *));
    if (code < 0) {
        job_unavailable(&j->job);
    } else if (resp && rows) {
        txmsg__v1__list_replays_response__init(resp);
        bool ok = true;
        for (size_t i = 0; ok && i < n; i++)
            ok = (rows[i] = message_of(a, &r[i])) != NULL;
        resp->replays = rows;
        resp->n_replays = n;
        resp->next_page_token = arena_strndup(a, "", 0);
        if (ok && n == (size_t)j->limit)
            resp->next_page_token = arena_printf(a, "%lld/%s", (long long)r[n - 1].at_us, rows[n - 1]->replay_id);
        j->job.response = ok && resp->next_page_token ? &resp->base : NULL;
    }
    job_done(&j->job);
}

static void run_list(struct job *job) {
    struct replay_job *j = CONTAINER_OF(job, struct replay_job, job);
    if (replay_list(job_conn(job), j->spec.subscription, j->before_us, &j->before, j->limit, on_listed, j) < 0)
        failed(job);
}

void admin_list_replays(struct rpc_call *call, void *service) {
    const Txmsg__V1__ListReplaysRequest *q = (const Txmsg__V1__ListReplaysRequest *)rpc_call_request(call);
    struct replay_job *j = replay_job_new(call, service, run_list);
    char *end = NULL;
    if (!j)
        return;
    j->spec.subscription = *q->subscription ? q->subscription : NULL;
    j->limit = admin_page_size(q->page_size);
    if (*q->page_token)
        j->before_us = strtoll(q->page_token, &end, 10);
    if (*q->page_token && (j->before_us <= 0 || *end != '/' || uuid_parse(bytes_str(end + 1), &j->before) < 0)) {
        call_refuse(call, RPC_INVALID_ARGUMENT, "INVALID_FIELD", "page_token", "was not given by this service");
        return;
    }
    job_start(&j->job);
}
