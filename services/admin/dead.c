/* ListDeadLetters, GetDeadLetter. A dead letter is named "<subscription>/<transaction_id>.<n>". What is done with them: dead_act.c. */
#include "admin/admin_private.h"

#include "core/attempt.h"

struct dead {
    struct job job;
    struct view_dead_filter filter;
    struct dead_key *keys;
    bool with_body;
    const char *name;
};

int dead_parse_name(struct arena *a, const char *name, struct dead_key *ret) {
    const char *slash = strchr(name, '/'), *dot = strrchr(name, '.');
    if (!slash || !dot || dot < slash || dot - slash - 1 != UUID_TEXT - 1 || !dot[1])
        return -EINVAL;
    char *end;
    long n = strtol(dot + 1, &end, 10);
    if (*end || n < 0 || n >= LIMIT_MESSAGES_HARD || dot[1] < '0' || dot[1] > '9')
        return -EINVAL;
    ret->n = (int16_t)n;
    ret->subscription = arena_strndup(a, name, (size_t)(slash - name));
    if (!ret->subscription || !text_is_name(bytes_str(ret->subscription)))
        return -EINVAL;
    return uuid_parse(bytes_of(slash + 1, UUID_TEXT - 1), &ret->tx);
}

static char *copy(struct arena *a, struct bytes b) {
    return arena_strndup(a, b.p, b.n);
}

static Txmsg__V1__Message *message_of(struct arena *a, const struct msg *m, bool body) {
    Txmsg__V1__Message *o = arena_alloc(a, sizeof(*o));
    if (!o)
        return NULL;
    txmsg__v1__message__init(o);
    o->topic = copy(a, m->topic);
    o->content_type = copy(a, m->content_type);
    o->key = (ProtobufCBinaryData){.data = (uint8_t *)copy(a, m->key), .len = m->key.n};
    if (body && m->body.p)
        o->body = (ProtobufCBinaryData){.data = (uint8_t *)copy(a, m->body), .len = m->body.n};
    o->headers = m->headers_n ? arena_alloc(a, m->headers_n * sizeof(*o->headers)) : NULL;
    if (!o->topic || !o->content_type || !o->key.data || (o->body.len && !o->body.data) ||
        (m->headers_n && !o->headers))
        return NULL;
    for (uint32_t i = 0; i < m->headers_n; i++) {
        Txmsg__V1__Message__HeadersEntry *h = arena_alloc(a, sizeof(*h));
        if (!h)
            return NULL;
        txmsg__v1__message__headers_entry__init(h);
        h->key = copy(a, m->headers[i].name);
        h->value = copy(a, m->headers[i].value);
        if (!h->key || !h->value)
            return NULL;
        o->headers[o->n_headers++] = h;
    }
    return o;
}

/* The story of its attempts, oldest first. False = out of memory. */
static bool put_history(struct arena *a, const struct view_dead *d, Txmsg__V1__DeadLetter *o) {
    o->history = d->history_n ? arena_alloc(a, d->history_n * sizeof(*o->history)) : NULL;
    for (size_t i = 0; i < d->history_n; i++) {
        const struct view_attempt *v = &d->history[i];
        Txmsg__V1__DeliveryAttempt *t = o->history ? arena_alloc(a, sizeof(*t)) : NULL;
        if (!t)
            return false;
        txmsg__v1__delivery_attempt__init(t);
        t->attempt = v->attempt;
        t->status = v->status;
        t->latency_ms = v->latency_ms;
        t->error_class = copy(a, bytes_str(v->class));
        t->error = copy(a, bytes_str(v->error));
        t->response = copy(a, bytes_str(v->response));
        t->worker = copy(a, bytes_str(v->worker));
        if (!t->error_class || !t->error || !t->response || !t->worker || !admin_time(a, v->at_us, &t->end_time))
            return false;
        o->history[o->n_history++] = t;
    }
    return true;
}

Txmsg__V1__DeadLetter *dead_letter_of(struct arena *a, const struct view_dead *d, bool body) {
    Txmsg__V1__DeadLetter *o = arena_alloc(a, sizeof(*o));
    char id[UUID_TEXT];
    if (!o)
        return NULL;
    txmsg__v1__dead_letter__init(o);
    uuid_format(&d->tx, id);
    o->name = arena_printf(a, "%s/%s.%d", d->sub_name, id, d->n);
    o->subscription = copy(a, bytes_str(d->sub_name));
    o->transaction_id = admin_id(a, &d->tx);
    o->n = (uint32_t)d->n;
    o->producer = copy(a, bytes_str(d->producer));
    o->message = message_of(a, &d->msg, body);
    o->body_size = d->body_size;
    o->last_error = copy(a, bytes_str(d->error));
    o->error_class = copy(a, bytes_str(d->class));
    o->attempts = d->attempts;
    bool ok = o->name && o->subscription && o->transaction_id && o->producer && o->message && o->last_error &&
              o->error_class && put_history(a, d, o) && admin_time(a, d->at_us, &o->dead_time);
    return ok ? o : NULL;
}

/* "<at_us>/<tx>.<n>.<sub>" of the last row. */
static char *page_token(struct arena *a, const struct view_dead *last) {
    char id[UUID_TEXT];
    uuid_format(&last->tx, id);
    return arena_printf(a, "%lld/%s.%d.%d", (long long)last->at_us, id, last->n, last->sub);
}

static int parse_token(const char *token, struct view_dead_filter *f) {
    char *end;
    f->before_at_us = strtoll(token, &end, 10);
    if (f->before_at_us <= 0 || *end != '/' || strlen(end) < UUID_TEXT + 1 || end[UUID_TEXT] != '.')
        return -EINVAL;
    char *dot, *last;
    long n = strtol(end + UUID_TEXT + 1, &dot, 10), sub = *dot == '.' ? strtol(dot + 1, &last, 10) : -1;
    if (n < 0 || n >= LIMIT_MESSAGES_HARD || sub < 0 || sub > INT32_MAX || *last)
        return -EINVAL;
    f->before_n = (int16_t)n;
    f->before_sub = (int32_t)sub;
    return uuid_parse(bytes_of(end + 1, UUID_TEXT - 1), &f->before_tx);
}

bool dead_set_filter(struct rpc_call *call, const Txmsg__V1__DeadLetterFilter *in, struct view_dead_filter *f) {
    if (!in)
        return true;
    f->producer = *in->producer ? in->producer : NULL;
    f->subscription = *in->subscription ? in->subscription : NULL;
    f->topic = *in->topic ? in->topic : NULL;
    f->class = *in->error_class ? in->error_class : NULL;
    f->start_us = admin_time_us(in->start_time);
    f->end_us = admin_time_us(in->end_time);
    if (f->class && attempt_class_of(f->class) == ATTEMPT_UNSAID) {
        call_refuse(call, RPC_INVALID_ARGUMENT, "INVALID_FIELD", "filter.error_class", "is no class of errors");
        return false;
    }
    return true;
}

/* --- list and get --- */

static void on_list(void *arg, int code, const struct view_dead *d, size_t n) {
    struct dead *j = arg;
    struct arena *a = rpc_call_arena(j->job.call);
    Txmsg__V1__ListDeadLettersResponse *resp = arena_alloc(a, sizeof(*resp));
    Txmsg__V1__DeadLetter **rows = arena_alloc(a, MAX(n, 1u) * sizeof(Txmsg__V1__DeadLetter *));
    if (code < 0) {
        job_unavailable(&j->job);
    } else if (resp && rows) {
        txmsg__v1__list_dead_letters_response__init(resp);
        bool ok = true;
        for (size_t i = 0; ok && i < n; i++)
            ok = (rows[i] = dead_letter_of(a, &d[i], false)) != NULL;
        resp->dead_letters = rows;
        resp->n_dead_letters = n;
        resp->next_page_token = n == (size_t)j->filter.limit ? page_token(a, &d[n - 1]) : arena_strndup(a, "", 0);
        j->job.response = ok && resp->next_page_token ? &resp->base : NULL;
    }
    job_done(&j->job);
}

static void run_list(struct job *job) {
    struct dead *j = CONTAINER_OF(job, struct dead, job);
    if (view_dead_list(job_conn(job), &j->filter, on_list, j) < 0) {
        job_unavailable(job);
        job_done(job);
    }
}

void admin_list_dead(struct rpc_call *call, void *service) {
    const Txmsg__V1__ListDeadLettersRequest *q = (const Txmsg__V1__ListDeadLettersRequest *)rpc_call_request(call);
    struct dead *j = job_new(call, service, sizeof(*j), run_list);
    if (!j || !dead_set_filter(call, q->filter, &j->filter))
        return;
    j->filter.limit = admin_page_size(q->page_size);
    if (*q->page_token && parse_token(q->page_token, &j->filter) < 0) {
        call_refuse(call, RPC_INVALID_ARGUMENT, "INVALID_FIELD", "page_token", "was not given by this service");
        return;
    }
    job_start(&j->job);
}

static void on_get(void *arg, int code, const struct view_dead *d, size_t n) {
    struct dead *j = arg;
    struct arena *a = rpc_call_arena(j->job.call);
    Txmsg__V1__GetDeadLetterResponse *resp = arena_alloc(a, sizeof(*resp));
    if (code < 0) {
        job_unavailable(&j->job);
    } else if (n == 0) {
        job_refuse(&j->job, RPC_NOT_FOUND, "DEAD_LETTER_NOT_FOUND", NULL, "no such dead letter");
        j->job.err.meta[0] = "name";
        j->job.err.meta[1] = j->name;
    } else if (resp) {
        txmsg__v1__get_dead_letter_response__init(resp);
        resp->dead_letter = dead_letter_of(a, &d[0], j->with_body);
        j->job.response = resp->dead_letter ? &resp->base : NULL;
    }
    job_done(&j->job);
}

static void run_get(struct job *job) {
    struct dead *j = CONTAINER_OF(job, struct dead, job);
    if (view_dead_get(job_conn(job), j->keys->subscription, &j->keys->tx, j->keys->n, on_get, j) < 0) {
        job_unavailable(job);
        job_done(job);
    }
}

void admin_get_dead(struct rpc_call *call, void *service) {
    const Txmsg__V1__GetDeadLetterRequest *q = (const Txmsg__V1__GetDeadLetterRequest *)rpc_call_request(call);
    struct dead *j = job_new(call, service, sizeof(*j) + sizeof(struct dead_key), run_get);
    if (!j)
        return;
    j->keys = (struct dead_key *)(j + 1);
    j->with_body = q->include_body;
    j->name = q->name;
    if (dead_parse_name(rpc_call_arena(call), q->name, j->keys) < 0) {
        call_refuse(call, RPC_INVALID_ARGUMENT, "INVALID_FIELD", "name", "is not <subscription>/<transaction_id>.<n>");
        return;
    }
    job_start(&j->job);
}
