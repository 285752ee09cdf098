/*
 * ListStuck and ResolveStuck. A person's decision goes through the lane with origin admin, actor and reason: the first decision wins, whoever
 * makes it. Only a STUCK transaction can be decided by hand; before that the producer is still being asked.
 */
#include "admin/admin_private.h"

#include "base/clock.h"

struct stuck {
    struct job job;
    struct view_filter filter;
    struct lane_op op;
    struct uuid id;
    enum op_kind kind;
    const char *actor, *reason;
    const struct msg_body *bodies; /* in the call's arena */
    size_t bodies_n;
};

static char *copy(struct arena *a, const char *s) {
    return arena_strndup(a, s ? s : "", s ? strlen(s) : 0);
}

static Txmsg__V1__StuckTransaction *row_of(struct arena *a, const struct view_tx *t) {
    Txmsg__V1__StuckTransaction *o = arena_alloc(a, sizeof(*o));
    Txmsg__V1__Transaction *x = arena_alloc(a, sizeof(*x));
    Txmsg__V1__CheckSummary *c = arena_alloc(a, sizeof(*c));
    if (!o || !x || !c)
        return NULL;
    txmsg__v1__stuck_transaction__init(o);
    txmsg__v1__transaction__init(x);
    txmsg__v1__check_summary__init(c);
    o->transaction = x;
    x->transaction_id = admin_id(a, &t->id);
    x->state = (Txmsg__V1__TransactionState)t->state;
    x->producer = copy(a, t->producer);
    x->business_key = copy(a, t->business_key);
    x->checks = c;
    c->count = t->checks;
    c->unknowns = t->unknowns;
    c->last_error = copy(a, t->check_error);
    bool ok = x->transaction_id && x->producer && x->business_key && c->last_error &&
              admin_time(a, t->prepare_us, &x->prepare_time) && admin_time(a, t->stuck_us, &c->stuck_time);
    o->stuck_time = c->stuck_time;
    return ok ? o : NULL;
}

static void on_list(void *arg, int code, const struct view_tx *t, size_t n) {
    struct stuck *j = arg;
    struct arena *a = rpc_call_arena(j->job.call);
    Txmsg__V1__ListStuckResponse *resp = arena_alloc(a, sizeof(*resp));
    Txmsg__V1__StuckTransaction **rows = arena_alloc(a, MAX(n, 1u) * sizeof(Txmsg__V1__StuckTransaction *));
    if (code < 0) {
        job_unavailable(&j->job);
    } else if (resp && rows) {
        txmsg__v1__list_stuck_response__init(resp);
        bool ok = true;
        for (size_t i = 0; ok && i < n; i++)
            ok = (rows[i] = row_of(a, &t[i])) != NULL;
        resp->stuck = rows;
        resp->n_stuck = n;
        resp->next_page_token = n == (size_t)j->filter.limit ? admin_id(a, &t[n - 1].id) : copy(a, "");
        j->job.response = ok && resp->next_page_token ? &resp->base : NULL;
    }
    job_done(&j->job);
}

static void run_list(struct job *job) {
    struct stuck *j = CONTAINER_OF(job, struct stuck, job);
    if (view_stuck(job_conn(job), &j->filter, on_list, j) < 0) {
        job_unavailable(job);
        job_done(job);
    }
}

void admin_list_stuck(struct rpc_call *call, void *service) {
    const Txmsg__V1__ListStuckRequest *q = (const Txmsg__V1__ListStuckRequest *)rpc_call_request(call);
    struct stuck *j = job_new(call, service, sizeof(*j), run_list);
    if (!j)
        return;
    if (q->filter) {
        j->filter.producer = *q->filter->producer ? q->filter->producer : NULL;
        j->filter.start_us = admin_time_us(q->filter->start_time);
        j->filter.end_us = admin_time_us(q->filter->end_time);
    }
    j->filter.limit = admin_page_size(q->page_size);
    j->filter.has_before = *q->page_token != 0;
    if (j->filter.has_before && uuid_parse(bytes_str(q->page_token), &j->filter.before) < 0) {
        call_refuse(call, RPC_INVALID_ARGUMENT, "INVALID_FIELD", "page_token", "was not given by this service");
        return;
    }
    job_start(&j->job);
}

/* --- resolve --- */

static void refuse_outcome(struct stuck *j) {
    struct lane_op *op = &j->op;
    if (op->outcome == OP_DECIDED_OTHERWISE) {
        char why[128];
        snprintf(why, sizeof(why), "the transaction is decided already: %s by %s",
                 op->state == TX_CONFIRMED ? "COMMITTED" : "ROLLED_BACK", tx_origin_name(op->decided_by));
        job_refuse(&j->job, RPC_FAILED_PRECONDITION, "DECIDED_OTHERWISE", NULL, why);
    } else if (op->outcome == OP_NOT_FOUND) {
        job_refuse(&j->job, RPC_NOT_FOUND, "TRANSACTION_NOT_FOUND", NULL, "no such transaction");
    } else if (op->outcome == OP_BODIES_DIFFER) {
        job_refuse(&j->job, RPC_INVALID_ARGUMENT, "BODIES_MISMATCH", "bodies",
                   "must be one for each message that was prepared with body_later, and no other");
    } else if (op->outcome == OP_CONTENT_DIFFERS) {
        job_refuse(&j->job, RPC_ALREADY_EXISTS, "CONTENT_DIFFERS", NULL,
                   "the transaction is confirmed with other bodies");
    } else if (op->outcome == OP_OUTCOME_UNKNOWN) {
        job_refuse(&j->job, RPC_UNAVAILABLE, "OUTCOME_UNKNOWN", NULL, "the commit's answer was lost: repeat this call");
        j->job.err.retry_after_ms = 200;
    } else {
        job_unavailable(&j->job);
    }
}

static void on_decided(struct lane_op *op) {
    struct stuck *j = CONTAINER_OF(op, struct stuck, op);
    struct arena *a = rpc_call_arena(j->job.call);
    mem_free(TAKE(op->bodies));
    Txmsg__V1__ResolveStuckResponse *resp = arena_alloc(a, sizeof(*resp));
    Txmsg__V1__TransactionStatus *s = arena_alloc(a, sizeof(*s));
    if (op->outcome != OP_OK) {
        refuse_outcome(j);
    } else if (resp && s) {
        txmsg__v1__resolve_stuck_response__init(resp);
        txmsg__v1__transaction_status__init(s);
        s->transaction_id = admin_id(a, &op->id);
        s->state = (Txmsg__V1__TransactionState)op->state;
        s->origin = (Txmsg__V1__DecisionOrigin)op->decided_by;
        bool ok = s->transaction_id && admin_time(a, op->prepare_us, &s->prepare_time) &&
                  admin_time(a, op->decision_us, &s->decision_time);
        resp->status = s;
        j->job.response = ok ? &resp->base : NULL;
    }
    if (op->outcome == OP_OK && !j->job.response)
        job_unknown(&j->job);
    job_done(&j->job);
}

/* 1 = the lane takes no more, or there is no memory. */
static int submit(struct stuck *j) {
    struct lane *lane = j->job.service->lane;
    j->op = (struct lane_op){.kind = j->kind,
                             .origin = TX_ORIGIN_ADMIN,
                             .id = j->id,
                             .actor = bytes_str(j->actor),
                             .reason = bytes_str(j->reason),
                             .deadline_ns = rpc_call_deadline_ns(j->job.call),
                             .done = on_decided};
    if (j->bodies_n && tx_bodies_new(j->bodies, (uint32_t)j->bodies_n, &j->op.bodies) != 0)
        return 1;
    if (lane_submit(lane, &j->op) != 0) {
        mem_free(TAKE(j->op.bodies));
        return 1;
    }
    lane_kick(lane, 0);
    return 0;
}

static void on_state(void *arg, int code, const struct view_tx *t) {
    struct stuck *j = arg;
    if (code < 0 || !j->job.service->lane) {
        job_unavailable(&j->job);
    } else if (!t) {
        job_refuse(&j->job, RPC_NOT_FOUND, "TRANSACTION_NOT_FOUND", NULL, "no such transaction");
    } else if (t->state == TX_PREPARED) {
        job_refuse(&j->job, RPC_FAILED_PRECONDITION, "NOT_STUCK", NULL,
                   "the transaction is not STUCK: its producer is still being asked");
    } else {
        if (submit(j) == 0)
            return;
        job_unavailable(&j->job);
    }
    job_done(&j->job);
}

static void run_resolve(struct job *job) {
    struct stuck *j = CONTAINER_OF(job, struct stuck, job);
    if (view_get(job_conn(job), &j->id, false, false, on_state, j) < 0) {
        job_unavailable(job);
        job_done(job);
    }
}

/* False: the call was refused. */
static bool read_bodies(struct rpc_call *call, const Txmsg__V1__ResolveStuckRequest *q, struct stuck *j) {
    struct arena *a = rpc_call_arena(call);
    struct msg_body *list = arena_alloc(a, MAX(q->n_bodies, 1u) * sizeof(*list));
    struct violation v;
    if (!list) {
        call_overloaded(call);
        return false;
    }
    for (size_t i = 0; i < q->n_bodies; i++)
        list[i] = (struct msg_body){q->bodies[i]->n, bytes_of(q->bodies[i]->body.data, q->bodies[i]->body.len)};
    if (validate_bodies(&j->job.service->limits, list, q->n_bodies, &v)) {
        call_refuse(call, RPC_INVALID_ARGUMENT, "INVALID_FIELD", arena_strndup(a, v.field, strlen(v.field)),
                    arena_strndup(a, v.description, strlen(v.description)));
        return false;
    }
    j->bodies = list;
    j->bodies_n = q->n_bodies;
    return true;
}

void admin_resolve(struct rpc_call *call, void *service) {
    const Txmsg__V1__ResolveStuckRequest *q = (const Txmsg__V1__ResolveStuckRequest *)rpc_call_request(call);
    struct stuck *j = job_new(call, service, sizeof(*j), run_resolve);
    struct violation v;
    if (!j)
        return;
    if (uuid_parse(bytes_str(q->transaction_id), &j->id) < 0 || !uuid_is_v7(&j->id)) {
        call_refuse(call, RPC_INVALID_ARGUMENT, "INVALID_FIELD", "transaction_id", "is not a UUIDv7");
        return;
    }
    if (q->decision == TXMSG__V1__DECISION__DECISION_UNSPECIFIED) {
        call_refuse(call, RPC_INVALID_ARGUMENT, "INVALID_FIELD", "decision", "must be COMMITTED or ROLLED_BACK");
        return;
    }
    if (q->n_bodies && q->decision != TXMSG__V1__DECISION__DECISION_COMMITTED) {
        call_refuse(call, RPC_INVALID_ARGUMENT, "BODIES_MISMATCH", "bodies", "are for COMMITTED");
        return;
    }
    if (!read_bodies(call, q, j))
        return;
    if (!*q->reason || validate_text("reason", bytes_str(q->reason), LIMIT_REASON, &v)) {
        call_refuse(call, RPC_INVALID_ARGUMENT, "INVALID_FIELD", "reason", "is required, at most 1024 bytes of text");
        return;
    }
    if (validate_text("actor", bytes_str(q->actor), 255, &v)) {
        call_refuse(call, RPC_INVALID_ARGUMENT, "INVALID_FIELD", "actor", "is not valid text of at most 255 bytes");
        return;
    }
    j->kind = q->decision == TXMSG__V1__DECISION__DECISION_COMMITTED ? OP_CONFIRM : OP_CANCEL;
    j->actor = *q->actor ? q->actor : "rpc";
    j->reason = q->reason;
    job_start(&j->job);
}
