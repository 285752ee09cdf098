/*
 * The operations on rpc threads: request -> lane operations -> worker, and back to a response.
 *
 * Everything of a request lives in its call's arena, except the transaction's content, which outlives the call in caches and
 * deliveries and is shared by reference. A request belongs to the rpc thread, then (item by item) to workers, then to the rpc thread
 * again when the last item is done.
 */
#include "message/operation.h"

#include "base/clock.h"

const struct rpc_error service_no_memory = {.code = RPC_RESOURCE_EXHAUSTED,
                                            .reason = "OVERLOADED",
                                            .message = "out of memory for this call; nothing was stored",
                                            .retry_after_ms = 200};

void service_fail_memory(struct rpc_call *call) {
    rpc_fail(call, &service_no_memory);
}

/* --- requests --- */

/* A call with its operations: one, or those of a Batch. Lives in the call's arena. */
struct request;
struct part {
    struct item item;
    struct request *request;
    bool refused; /* err says why; the operation never reached a worker */
    struct rpc_error err;
};
struct request {
    struct rpc_call *call;
    void (*reply)(struct request *r); /* on the rpc thread, when nothing is pending */
    _Atomic size_t pending;
    size_t n;
    struct part parts[];
};

static void reply_on_rpc(struct rpc_call *call, void *arg) {
    struct request *r = arg;
    UNUSED(call);
    r->reply(r);
}

static void on_done(struct item *i) {
    struct request *r = CONTAINER_OF(i, struct part, item)->request;
    if (atomic_fetch_sub(&r->pending, 1) == 1)
        rpc_call_finish(r->call, reply_on_rpc, r);
}

static struct request *request_new(struct rpc_call *call, size_t n, void (*reply)(struct request *r)) {
    struct request *r = arena_zalloc(rpc_call_arena(call), sizeof(*r) + n * sizeof(r->parts[0]));
    if (!r)
        return NULL;
    r->call = call;
    r->reply = reply;
    r->n = n;
    atomic_init(&r->pending, n);
    for (size_t i = 0; i < n; i++) {
        r->parts[i].request = r;
        r->parts[i].item.done = on_done;
        list_init(&r->parts[i].item.link);
        list_init(&r->parts[i].item.op.link);
    }
    return r;
}

static void request_drop(struct request *r) {
    for (size_t i = 0; i < r->n; i++)
        operation_drop(&r->parts[i].item.op);
}

/* What did not fit into the mailbox. */
static void refuse_left(struct request *r, struct list *left) {
    struct list *e;
    while ((e = list_pop(left))) {
        LIST_ENTRY(e, struct item, link)->overloaded = true;
        atomic_fetch_sub(&r->pending, 1);
    }
}

/*
 * What this rpc thread has put into mailboxes without a wake. A worker that is woken by the first operation of a burst commits
 * it alone, and a commit of one costs as much as twenty operations in one of a hundred. So the wake waits until the thread
 * has nothing more to read (a single caller loses nothing), enough has come together, or GATHER_NS have passed.
 */
static __thread struct {
    int64_t n;
    uint64_t since_ns;
} held;

enum { GATHER_NS = 1000000 };

void message_service_flush(void *service) {
    struct message_service *m = service;
    if (held.n == 0)
        return;
    held.n = 0;
    for (int i = 0; i < m->workers_n; i++)
        worker_flush(m->workers[i]);
}

void service_hold(struct message_service *m, size_t n) {
    uint64_t now = clock_mono_ns();
    if (held.n == 0)
        held.since_ns = now;
    held.n += (int64_t)n;
    if (held.n >= m->o.gather || now - held.since_ns >= GATHER_NS)
        message_service_flush(m);
}

/* Mails every operation that was not refused. */
static void request_start(struct message_service *m, struct request *r) {
    struct list to[WORKERS_MAX];
    uint64_t deadline = operation_deadline_ns(rpc_call_deadline_ns(r->call));
    /* One extra count: the reply cannot run before every part was looked at. */
    atomic_fetch_add(&r->pending, 1);
    for (int w = 0; w < m->workers_n; w++)
        list_init(&to[w]);
    for (size_t i = 0; i < r->n; i++) {
        struct part *p = &r->parts[i];
        p->item.op.deadline_ns = deadline;
        if (p->refused)
            atomic_fetch_sub(&r->pending, 1);
        else
            list_add_tail(&to[worker_index(worker_of(m, &p->item.op.id))], &p->item.link);
    }
    for (int w = 0; w < m->workers_n; w++) {
        if (!list_empty(&to[w]))
            worker_put(m->workers[w], &to[w]);
        refuse_left(r, &to[w]);
    }
    service_hold(m, r->n);
    if (atomic_fetch_sub(&r->pending, 1) == 1)
        r->reply(r);
}

/* The status of a part, or NULL with *err. */
static Txmsg__V1__TransactionStatus *part_result(struct part *p, struct arena *a, struct rpc_error *err) {
    if (p->refused) {
        *err = p->err;
        return NULL;
    }
    if (p->item.overloaded) {
        item_overloaded(err);
        return NULL;
    }
    if (outcome_error(&p->item.op, a, err))
        return NULL;
    Txmsg__V1__TransactionStatus *s = outcome_status(&p->item.op, a);
    if (!s) /* it is stored; only this answer could not be built */
        *err = (struct rpc_error){.code = RPC_UNAVAILABLE,
                                  .reason = "OUTCOME_UNKNOWN",
                                  .retry_after_ms = 100,
                                  .message = "no memory for the answer: repeat with the same transaction_id"};
    return s;
}

/* The four unary responses have one shape: a status. */
#define UNARY_REPLY(name, Type, type)                                                                                  \
    static void name(struct request *r) {                                                                              \
        struct rpc_error err;                                                                                          \
        Type response;                                                                                                 \
        type##__init(&response);                                                                                       \
        response.status = part_result(&r->parts[0], rpc_call_arena(r->call), &err);                                    \
        request_drop(r);                                                                                               \
        if (response.status)                                                                                           \
            rpc_reply(r->call, &response.base);                                                                        \
        else                                                                                                           \
            rpc_fail(r->call, &err);                                                                                   \
    }
UNARY_REPLY(reply_prepare, Txmsg__V1__PrepareResponse, txmsg__v1__prepare_response)
UNARY_REPLY(reply_confirm, Txmsg__V1__ConfirmResponse, txmsg__v1__confirm_response)
UNARY_REPLY(reply_cancel, Txmsg__V1__CancelResponse, txmsg__v1__cancel_response)
UNARY_REPLY(reply_publish, Txmsg__V1__PublishResponse, txmsg__v1__publish_response)

static void unary(struct message_service *m, struct rpc_call *call, int decoded, struct request *r) {
    if (decoded < 0) {
        request_drop(r);
        service_fail_memory(call);
    } else if (decoded > 0) {
        request_drop(r);
        rpc_fail(call, &r->parts[0].err);
    } else {
        request_start(m, r);
    }
}

static const char *trace_of(struct rpc_call *call) {
    const char *parent = rpc_call_metadata(call, "traceparent");
    return operation_trace(parent, parent ? rpc_call_metadata(call, "tracestate") : NULL, rpc_call_arena(call));
}

#define UNARY_HANDLER(name, Request, read, reply, trace)                                                               \
    static void name(struct rpc_call *call, void *user) {                                                              \
        struct operation_reader o;                                                                                     \
        struct request *r = request_new(call, 1, reply);                                                               \
        if (!r) {                                                                                                      \
            service_fail_memory(call);                                                                                 \
            return;                                                                                                    \
        }                                                                                                              \
        operation_reader_open(&o, user, rpc_call_arena(call), trace);                                                  \
        int e = read(&o, (const Request *)rpc_call_request(call), &r->parts[0].item.op, &r->parts[0].err);             \
        operation_reader_close(&o);                                                                                    \
        unary(user, call, e, r);                                                                                       \
    }
UNARY_HANDLER(handle_prepare, Txmsg__V1__PrepareRequest, operation_prepare, reply_prepare, trace_of(call))
UNARY_HANDLER(handle_confirm, Txmsg__V1__ConfirmRequest, operation_confirm, reply_confirm, NULL)
UNARY_HANDLER(handle_cancel, Txmsg__V1__CancelRequest, operation_cancel, reply_cancel, NULL)
UNARY_HANDLER(handle_publish, Txmsg__V1__PublishRequest, operation_publish, reply_publish, trace_of(call))

/* --- Batch --- */

static int batch_result(struct request *r, size_t i, Txmsg__V1__OperationResult *out) {
    struct arena *a = rpc_call_arena(r->call);
    struct rpc_error err;
    txmsg__v1__operation_result__init(out);
    out->status = part_result(&r->parts[i], a, &err);
    if (out->status) {
        out->result_case = TXMSG__V1__OPERATION_RESULT__RESULT_STATUS;
        return 0;
    }
    out->result_case = TXMSG__V1__OPERATION_RESULT__RESULT_ERROR;
    return rpc_error_status(&err, a, &out->error);
}

static void reply_batch(struct request *r) {
    struct arena *a = rpc_call_arena(r->call);
    Txmsg__V1__OperationResult *rows = arena_alloc(a, r->n * sizeof(*rows));
    Txmsg__V1__BatchResponse response;
    txmsg__v1__batch_response__init(&response);
    response.results = arena_alloc(a, r->n * sizeof(*response.results));
    bool ok = rows && response.results;
    for (size_t i = 0; ok && i < r->n; i++) {
        ok = batch_result(r, i, &rows[i]) == 0;
        response.results[response.n_results++] = &rows[i];
    }
    request_drop(r);
    if (ok) {
        rpc_reply(r->call, &response.base);
        return;
    }
    const struct rpc_error err = {.code = RPC_UNAVAILABLE,
                                  .reason = "OUTCOME_UNKNOWN",
                                  .retry_after_ms = 100,
                                  .message = "no memory for the answer: repeat with the same transaction_ids"};
    rpc_fail(r->call, &err);
}

/* 0, or -ENOMEM: nothing of the batch is done. */
static int read_batch(struct operation_reader *o, const Txmsg__V1__BatchRequest *q, struct request *r) {
    for (size_t i = 0; i < q->n_operations; i++) {
        int e = operation_any(o, q->operations[i], &r->parts[i].item.op, &r->parts[i].err);
        if (e < 0)
            return e;
        r->parts[i].refused = e > 0;
    }
    return 0;
}

static void handle_batch(struct rpc_call *call, void *user) {
    struct message_service *m = user;
    const Txmsg__V1__BatchRequest *q = (const Txmsg__V1__BatchRequest *)rpc_call_request(call);
    struct arena *a = rpc_call_arena(call);
    struct operation_reader o;
    struct rpc_error err;
    if (operation_check_count(q->n_operations, a, &err)) {
        rpc_fail(call, &err);
        return;
    }
    struct request *r = request_new(call, q->n_operations, reply_batch);
    if (!r) {
        service_fail_memory(call);
        return;
    }
    operation_reader_open(&o, m, a, trace_of(call));
    int e = o.topology ? read_batch(&o, q, r) : 1;
    operation_reader_close(&o);
    if (e == 0) {
        request_start(m, r);
        return;
    }
    request_drop(r);
    if (e < 0) {
        service_fail_memory(call);
        return;
    }
    operation_unconfigured(&err);
    rpc_fail(call, &err);
}

/* --- life --- */

int message_service_new(struct store *s, const struct message_options *o, int workers, struct message_service **ret) {
    ASSERT(workers > 0 && workers <= WORKERS_MAX);
    struct message_service *m = mem_zalloc(sizeof(*m));
    if (!m)
        return -ENOMEM;
    m->store = s;
    m->o = *o;
    m->workers_n = workers;
    pthread_rwlock_init(&m->lock, NULL);
    pthread_mutex_init(&m->flights.lock, NULL);
    list_init(&m->flights.waiting);
    int r = watches_new(m, &m->watches);
    if (r < 0) {
        message_service_free(m);
        return r;
    }
    m->streams[0] = pipeline_method(m);
    m->streams[1] = watch_method(m->watches);
    const struct rpc_method methods[] = {
#define METHOD(name, request, response, handler)                                                                       \
    {"/txmsg.v1.MessageService/" name,                                                                                 \
     &txmsg__v1__##request##__descriptor,                                                                              \
     &txmsg__v1__##response##__descriptor,                                                                             \
     handler,                                                                                                          \
     m,                                                                                                                \
     false}
        METHOD("Prepare", prepare_request, prepare_response, handle_prepare),
        METHOD("Confirm", confirm_request, confirm_response, handle_confirm),
        METHOD("Cancel", cancel_request, cancel_response, handle_cancel),
        METHOD("Publish", publish_request, publish_response, handle_publish),
        METHOD("Batch", batch_request, batch_response, handle_batch),
        METHOD("GetTransaction", get_transaction_request, get_transaction_response, query_get),
        METHOD("ListTransactions", list_transactions_request, list_transactions_response, query_list),
#undef METHOD
    };
    memcpy(m->methods, methods, sizeof(methods));
    m->methods_n = ARRAY_LEN(methods);
    *ret = m;
    return 0;
}

void message_service_free(struct message_service *m) {
    if (!m)
        return;
    watches_free(m->watches);
    topology_unref(m->topology);
    pthread_rwlock_destroy(&m->lock);
    pthread_mutex_destroy(&m->flights.lock);
    mem_free(m);
}

const struct rpc_method *message_service_methods(struct message_service *m, size_t *n) {
    *n = m->methods_n;
    return m->methods;
}

const struct rpc_stream_method *message_service_streams(struct message_service *m, size_t *n) {
    *n = ARRAY_LEN(m->streams);
    return m->streams;
}

void message_service_rpc(struct message_service *m, struct rpc_server *rpc) {
    m->rpc = rpc;
}

void message_service_topology(struct message_service *m, struct topology *t) {
    t = topology_ref(t);
    pthread_rwlock_wrlock(&m->lock);
    struct topology *old = m->topology;
    m->topology = t;
    pthread_rwlock_unlock(&m->lock);
    topology_unref(old);
}
