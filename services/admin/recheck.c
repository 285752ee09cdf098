/*
 * RecheckStuck: what was STUCK is asked about again, as if no UNKNOWN had been answered. Nothing is decided here; the
 * checks that follow, or a Confirm or Cancel, do that.
 */
#include "admin/admin_private.h"

enum { IDS_MAX = 1000, RECHECK_MORE = 10000 };

struct recheck {
    struct job job;
    struct view_recheck r;
};

static void on_rechecked(void *arg, int code, int64_t count, bool more, const struct uuid *sample, size_t n) {
    struct recheck *j = arg;
    struct arena *a = rpc_call_arena(j->job.call);
    Txmsg__V1__RecheckStuckResponse *resp = arena_alloc(a, sizeof(*resp));
    char **ids = arena_alloc(a, MAX(n, 1u) * sizeof(*ids));
    if (code < 0) {
        job_unavailable(&j->job);
    } else if (resp && ids) {
        bool ok = true;
        txmsg__v1__recheck_stuck_response__init(resp);
        for (size_t i = 0; ok && i < n; i++)
            ok = (ids[i] = admin_id(a, &sample[i])) != NULL;
        resp->count = count;
        resp->more = more || (j->r.force && !j->r.ids && count == RECHECK_MORE);
        resp->sample = ids;
        resp->n_sample = n;
        j->job.response = ok ? &resp->base : NULL;
    }
    if (code == 0 && !j->job.response && j->r.force)
        job_unknown(&j->job);
    job_done(&j->job);
}

static void run_recheck(struct job *job) {
    struct recheck *j = CONTAINER_OF(job, struct recheck, job);
    if (view_recheck(job_conn(job), &j->r, on_rechecked, j) < 0) {
        job_unavailable(job);
        job_done(job);
    }
}

/* False: the call was refused. */
static bool read_ids(struct rpc_call *call, const Txmsg__V1__RecheckStuckRequest *q, struct recheck *j) {
    struct arena *a = rpc_call_arena(call);
    struct uuid *ids = arena_alloc(a, MAX(q->n_transaction_ids, 1u) * sizeof(*ids));
    if (!ids) {
        call_overloaded(call);
        return false;
    }
    for (size_t i = 0; i < q->n_transaction_ids; i++) {
        if (uuid_parse(bytes_str(q->transaction_ids[i]), &ids[i]) < 0) {
            const char *field = arena_printf(a, "transaction_ids[%zu]", i);
            call_refuse(call, RPC_INVALID_ARGUMENT, "INVALID_FIELD", field ? field : "transaction_ids",
                        "is not a UUID");
            return false;
        }
    }
    j->r.ids = q->n_transaction_ids ? ids : NULL;
    j->r.ids_n = q->n_transaction_ids;
    return true;
}

void admin_recheck(struct rpc_call *call, void *service) {
    const Txmsg__V1__RecheckStuckRequest *q = (const Txmsg__V1__RecheckStuckRequest *)rpc_call_request(call);
    struct recheck *j = job_new(call, service, sizeof(*j), run_recheck);
    struct violation v;
    if (!j)
        return;
    if (!q->filter && q->n_transaction_ids == 0) {
        call_refuse(call, RPC_INVALID_ARGUMENT, "INVALID_FIELD", "filter",
                    "is required if there are no transaction_ids");
        return;
    }
    if (q->n_transaction_ids > IDS_MAX) {
        call_refuse(call, RPC_INVALID_ARGUMENT, "INVALID_FIELD", "transaction_ids", "has more than 1000 entries");
        return;
    }
    if (validate_text("reason", bytes_str(q->reason), LIMIT_REASON, &v)) {
        call_refuse(call, RPC_INVALID_ARGUMENT, "INVALID_FIELD", "reason", "is not valid text of at most 1024 bytes");
        return;
    }
    if (validate_text("actor", bytes_str(q->actor), 255, &v)) {
        call_refuse(call, RPC_INVALID_ARGUMENT, "INVALID_FIELD", "actor", "is not valid text of at most 255 bytes");
        return;
    }
    if (!read_ids(call, q, j))
        return;
    if (q->filter) {
        j->r.filter.producer = *q->filter->producer ? q->filter->producer : NULL;
        j->r.filter.start_us = admin_time_us(q->filter->start_time);
        j->r.filter.end_us = admin_time_us(q->filter->end_time);
    }
    j->r.force = q->force;
    j->r.actor = *q->actor ? q->actor : "rpc";
    j->r.reason = *q->reason ? q->reason : NULL;
    job_start(&j->job);
}
