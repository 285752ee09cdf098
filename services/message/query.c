/*
 * GetTransaction and ListTransactions: parsed on the rpc thread, asked by a worker on its connection for people, answered on the rpc thread.
 * The response is built in the call's arena by the worker: nobody else touches the call between the two hand-overs.
 */
#include "message/message_private.h"

struct query {
    struct list link;
    struct rpc_call *call;
    struct message_worker *worker;
    struct reader *reader;
    struct message_service *service;
    bool list;
    struct uuid id;
    bool bodies;
    struct view_filter filter;
    uint32_t filter_hash;             /* of what a page token must agree with */
    const ProtobufCMessage *response; /* NULL = failed, err says why */
    struct rpc_error err;
};

enum { PAGE_DEFAULT = 50, PAGE_MAX = 1000, PAGE_DELIVERIES_MAX = 100 };
#define LIST_WINDOW_US (3600ll * 1000000)

static void reply(struct rpc_call *call, void *arg) {
    struct query *q = arg;
    if (q->response)
        rpc_reply(call, q->response);
    else
        rpc_fail(call, &q->err);
}

static void finish(struct query *q) {
    if (!q->response && !q->err.code && !rpc_call_arena(q->call)->full)
        q->err = (struct rpc_error){.code = RPC_RESOURCE_EXHAUSTED,
                                    .reason = "OVERLOADED",
                                    .message = "out of memory for the answer",
                                    .retry_after_ms = 200};
    else if (!q->response && !q->err.code)
        q->err = (struct rpc_error){.code = RPC_RESOURCE_EXHAUSTED,
                                    .reason = "RESPONSE_TOO_LARGE",
                                    .message = "the answer does not fit into this call's memory; ask for less"};
    worker_wake(q->worker);
    rpc_call_finish(q->call, reply, q);
}

static void unavailable(struct query *q) {
    q->err = (struct rpc_error){.code = RPC_UNAVAILABLE,
                                .reason = "STORE_UNAVAILABLE",
                                .message = "the store is away or busy",
                                .retry_after_ms = 200};
}

static void on_past(void *arg, int code, bool past) {
    struct query *q = arg;
    struct arena *a = rpc_call_arena(q->call);
    char id[UUID_TEXT];
    uuid_format(&q->id, id);
    if (code < 0) {
        unavailable(q);
    } else {
        (void)!codec_refuse(a, &q->err, past ? RPC_FAILED_PRECONDITION : RPC_NOT_FOUND,
                            past ? "PAST_RETENTION" : "TRANSACTION_NOT_FOUND", NULL,
                            past ? "the transaction_id lies past retention" : "no such transaction");
        codec_meta(&q->err, "transaction_id", arena_strndup(a, id, strlen(id)));
    }
    finish(q);
}

static void on_get(void *arg, int code, const struct view_tx *t) {
    struct query *q = arg;
    struct arena *a = rpc_call_arena(q->call);
    Txmsg__V1__GetTransactionResponse *resp = arena_alloc(a, sizeof(*resp));
    if (code < 0) {
        unavailable(q);
    } else if (!t) {
        if (view_past(reader_people(q->reader), &q->id, on_past, q) == 0)
            return;
        unavailable(q);
    } else if (resp) {
        txmsg__v1__get_transaction_response__init(resp);
        resp->transaction = codec_transaction(a, t);
        q->response = resp->transaction ? &resp->base : NULL;
    }
    finish(q);
}

static void on_list(void *arg, int code, const struct view_tx *t, size_t n) {
    struct query *q = arg;
    struct arena *a = rpc_call_arena(q->call);
    if (code < 0) {
        unavailable(q);
        finish(q);
        return;
    }
    Txmsg__V1__ListTransactionsResponse *resp = arena_alloc(a, sizeof(*resp));
    Txmsg__V1__Transaction **rows = arena_alloc(a, MAX(n, 1u) * sizeof(Txmsg__V1__Transaction *));
    if (resp && rows) {
        txmsg__v1__list_transactions_response__init(resp);
        resp->transactions = rows;
        bool ok = true;
        for (size_t i = 0; ok && i < n; i++) {
            rows[i] = codec_transaction(a, &t[i]);
            ok = rows[i] != NULL;
        }
        resp->n_transactions = n;
        char id[UUID_TEXT] = "";
        if (n == (size_t)q->filter.limit)
            uuid_format(&t[n - 1].id, id);
        resp->next_page_token = *id ? arena_printf(a, "%s.%08x", id, q->filter_hash) : arena_strndup(a, "", 0);
        q->response = ok && resp->next_page_token ? &resp->base : NULL;
    }
    finish(q);
}

void query_run(struct list *link, struct reader *r, struct message_worker *w) {
    struct query *q = LIST_ENTRY(link, struct query, link);
    q->worker = w;
    q->reader = r;
    struct pg_conn *c = reader_people(r);
    int e = q->list ? view_list(c, q->service->store, &q->filter, on_list, q)
                    : view_get(c, &q->id, q->bodies, true, on_get, q);
    if (e < 0) {
        unavailable(q);
        finish(q);
    }
}

static void start(struct message_service *m, struct query *q) {
    if (worker_query(m->workers[0], &q->link) == 0)
        return;
    const struct rpc_error err = {.code = RPC_RESOURCE_EXHAUSTED,
                                  .reason = "OVERLOADED",
                                  .message = "too many queries are waiting",
                                  .retry_after_ms = 200};
    rpc_fail(q->call, &err);
}

static struct query *query_new(struct message_service *m, struct rpc_call *call) {
    struct query *q = arena_zalloc(rpc_call_arena(call), sizeof(*q));
    if (!q) {
        service_fail_memory(call);
        return NULL;
    }
    list_init(&q->link);
    q->service = m;
    q->call = call;
    return q;
}

void query_get(struct rpc_call *call, void *user) {
    const Txmsg__V1__GetTransactionRequest *in = (const Txmsg__V1__GetTransactionRequest *)rpc_call_request(call);
    struct query *q = query_new(user, call);
    if (!q)
        return;
    if (service_parse_id(in->transaction_id, rpc_call_arena(call), &q->id, &q->err)) {
        rpc_fail(call, &q->err);
        return;
    }
    q->bodies = in->include_bodies;
    start(user, q);
}

/* Times are left out: their defaults move from page to page. */
static uint32_t hash_filter(const Txmsg__V1__ListTransactionsRequest *in) {
    uint64_t h = hash_bytes(in->producer, strlen(in->producer) + 1, (uint64_t)in->state);
    h = hash_bytes(in->business_key, strlen(in->business_key) + 1, h);
    h = hash_bytes(in->topic, strlen(in->topic) + 1, h);
    return (uint32_t)(h ^ h >> 32);
}

/* "<last transaction_id>.<hash of the filters>" */
static int parse_token(const char *token, struct query *q) {
    char expected[16];
    snprintf(expected, sizeof(expected), ".%08x", q->filter_hash);
    if (strlen(token) != UUID_TEXT - 1 + strlen(expected) || strcmp(token + UUID_TEXT - 1, expected))
        return -EINVAL;
    return uuid_parse(bytes_of(token, UUID_TEXT - 1), &q->filter.before);
}

static int parse_filter(struct message_service *m, const Txmsg__V1__ListTransactionsRequest *in, struct arena *a,
                        struct query *q) {
    struct view_filter *f = &q->filter;
    f->producer = *in->producer ? in->producer : NULL;
    f->business_key = *in->business_key ? in->business_key : NULL;
    f->topic = *in->topic ? in->topic : NULL;
    f->state = (enum tx_state)in->state;
    f->end_us = in->end_time ? codec_timestamp_us(in->end_time) : store_now_us(m->store) + 1000000;
    f->start_us = in->start_time ? codec_timestamp_us(in->start_time) : f->end_us - LIST_WINDOW_US;
    f->deliveries = in->include_deliveries;
    f->limit = in->page_size == 0 ? PAGE_DEFAULT : MIN(in->page_size, f->deliveries ? PAGE_DELIVERIES_MAX : PAGE_MAX);
    if (in->page_size < 0)
        return codec_refuse(a, &q->err, RPC_INVALID_ARGUMENT, "INVALID_FIELD", "page_size", "is negative");
    if (f->business_key && !f->producer)
        return codec_refuse(a, &q->err, RPC_INVALID_ARGUMENT, "INVALID_FIELD", "business_key", "needs a producer");
    if (f->start_us < 0 || f->end_us < f->start_us)
        return codec_refuse(a, &q->err, RPC_INVALID_ARGUMENT, "INVALID_FIELD", "end_time", "lies before start_time");
    q->filter_hash = hash_filter(in);
    f->has_before = *in->page_token != 0;
    if (f->has_before && parse_token(in->page_token, q) < 0)
        return codec_refuse(a, &q->err, RPC_INVALID_ARGUMENT, "INVALID_FIELD", "page_token",
                            "was not given by this service for these filters");
    return 0;
}

void query_list(struct rpc_call *call, void *user) {
    struct message_service *m = user;
    const Txmsg__V1__ListTransactionsRequest *in = (const Txmsg__V1__ListTransactionsRequest *)rpc_call_request(call);
    struct query *q = query_new(m, call);
    if (!q)
        return;
    q->list = true;
    if (parse_filter(m, in, rpc_call_arena(call), q)) {
        rpc_fail(call, &q->err);
        return;
    }
    start(m, q);
}
