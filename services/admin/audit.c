/* ListAudit: what people did, newest first. */
#include "admin/admin_private.h"

struct audit {
    struct job job;
    struct view_audit_filter filter;
};

static char *copy(struct arena *a, const char *s) {
    return arena_strndup(a, s ? s : "", s ? strlen(s) : 0);
}

static Txmsg__V1__AuditEntry *entry_of(struct arena *a, const struct view_audit *v) {
    Txmsg__V1__AuditEntry *o = arena_alloc(a, sizeof(*o));
    if (!o)
        return NULL;
    txmsg__v1__audit_entry__init(o);
    o->actor = copy(a, v->actor);
    o->action = copy(a, v->act);
    o->target = copy(a, v->object);
    o->reason = copy(a, v->reason);
    o->detail = copy(a, v->detail);
    o->count = v->count;
    bool ok = o->actor && o->action && o->target && o->reason && o->detail && admin_time(a, v->at_us, &o->time);
    return ok ? o : NULL;
}

static void on_list(void *arg, int code, const struct view_audit *v, size_t n) {
    struct audit *j = arg;
    struct arena *a = rpc_call_arena(j->job.call);
    Txmsg__V1__ListAuditResponse *resp = arena_alloc(a, sizeof(*resp));
    Txmsg__V1__AuditEntry **rows = arena_alloc(a, MAX(n, 1u) * sizeof(Txmsg__V1__AuditEntry *));
    if (code < 0) {
        job_unavailable(&j->job);
    } else if (resp && rows) {
        txmsg__v1__list_audit_response__init(resp);
        bool ok = true;
        for (size_t i = 0; ok && i < n; i++)
            ok = (rows[i] = entry_of(a, &v[i])) != NULL;
        resp->entries = rows;
        resp->n_entries = n;
        resp->next_page_token =
            n == (size_t)j->filter.limit ? arena_printf(a, "%lld", (long long)v[n - 1].id) : copy(a, "");
        j->job.response = ok && resp->next_page_token ? &resp->base : NULL;
    }
    job_done(&j->job);
}

static void run_list(struct job *job) {
    struct audit *j = CONTAINER_OF(job, struct audit, job);
    if (view_audit(job_conn(job), &j->filter, on_list, j) < 0) {
        job_unavailable(job);
        job_done(job);
    }
}

void admin_list_audit(struct rpc_call *call, void *service) {
    const Txmsg__V1__ListAuditRequest *q = (const Txmsg__V1__ListAuditRequest *)rpc_call_request(call);
    struct audit *j = job_new(call, service, sizeof(*j), run_list);
    char *end = NULL;
    if (!j)
        return;
    j->filter = (struct view_audit_filter){.actor = *q->actor ? q->actor : NULL,
                                           .act = *q->action ? q->action : NULL,
                                           .object = *q->target ? q->target : NULL,
                                           .start_us = admin_time_us(q->start_time),
                                           .end_us = admin_time_us(q->end_time),
                                           .limit = admin_page_size(q->page_size)};
    if (*q->page_token)
        j->filter.before_id = strtoll(q->page_token, &end, 10);
    if (*q->page_token && (*end || j->filter.before_id <= 0)) {
        call_refuse(call, RPC_INVALID_ARGUMENT, "INVALID_FIELD", "page_token", "was not given by this service");
        return;
    }
    job_start(&j->job);
}
