/*
 * The operations on rpc threads: request -> lane operations -> worker, and back to a response.
 *
 * Everything of a request lives in its call's arena, except the transaction's content, which outlives the call in caches and
 * deliveries and is shared by reference. A request belongs to the rpc thread, then (item by item) to workers, then to the rpc thread
 * again when the last item is done.
 */
#include "message/message_private.h"

#include "base/clock.h"

enum { CHECK_AFTER_MIN_MS = 1000 };

/* --- small things --- */

void service_fail_memory(struct rpc_call *call) {
    const struct rpc_error err = {.code = RPC_RESOURCE_EXHAUSTED,
                                  .reason = "OVERLOADED",
                                  .message = "out of memory for this call; nothing was stored",
                                  .retry_after_ms = 200};
    rpc_fail(call, &err);
}

int service_parse_id(const char *text, struct arena *a, struct uuid *ret, struct rpc_error *err) {
    if (!*text)
        return codec_refuse(a, err, RPC_INVALID_ARGUMENT, "INVALID_FIELD", "transaction_id", "is required");
    if (uuid_parse(bytes_str(text), ret) < 0 || !uuid_is_v7(ret))
        return codec_refuse(a, err, RPC_INVALID_ARGUMENT, "INVALID_FIELD", "transaction_id",
                            "is not a UUIDv7 in the form xxxxxxxx-xxxx-7xxx-xxxx-xxxxxxxxxxxx");
    return 0;
}

/* "traceparent" or "traceparent\ntracestate"; anything odd is left out: tracing never fails a call. */
static const char *trace_of(struct rpc_call *call) {
    const char *parent = rpc_call_metadata(call, "traceparent"), *state = rpc_call_metadata(call, "tracestate");
    if (!parent || strlen(parent) != 55)
        return NULL;
    for (const char *p = parent; *p; p++)
        if (!strchr("0123456789abcdef-", *p))
            return NULL;
    if (!state || !*state || strlen(state) > 512 || !text_valid(bytes_str(state)))
        return parent;
    return arena_printf(rpc_call_arena(call), "%s\n%s", parent, state);
}

static uint64_t op_deadline(const struct rpc_call *call) {
    uint64_t at = rpc_call_deadline_ns(call), now = clock_mono_ns();
    if (at <= now)
        return now;
    /* A little earlier than the caller's, so that it hears our answer instead of its own timer. */
    return at - MIN((at - now) / 10, 50 * NS_PER_MS);
}

static bool has_partition(const struct message_service *m, const struct uuid *id) {
    int64_t ms = uuid_v7_ms(id);
    return ms >= atomic_load(&m->store->window_lo_ms) && ms < atomic_load(&m->store->window_hi_ms);
}

static int check_window(struct message_service *m, const struct uuid *id, struct arena *a, struct rpc_error *err) {
    struct violation v;
    if (!validate_id_window(&m->o.limits, id, store_now_us(m->store) / 1000, &v)) {
        if (has_partition(m, id))
            return 0;
        /* Accepted by the rules but without a partition yet: the keeper is behind. */
        return codec_refuse(a, err, RPC_UNAVAILABLE, "STORE_UNAVAILABLE", NULL,
                            "no partition for the time of this id yet");
    }
    int r = codec_violation(a, err, &v);
    char text[UUID_TEXT];
    uuid_format(id, text);
    err->reason = "ID_TIME_OUT_OF_WINDOW";
    codec_meta(err, "transaction_id", arena_strndup(a, text, strlen(text)));
    return r;
}

/* --- request message -> operation: 0, 1 = refused, -ENOMEM --- */

struct content_request {
    const char *id, *producer, *business_key;
    size_t messages_n;
    Txmsg__V1__Message **messages;
    const Google__Protobuf__Duration *check_after;
};

static int duration_ms(const Google__Protobuf__Duration *d) {
    if (!d)
        return 0;
    if (d->seconds < 0 || d->nanos < 0 || d->nanos > 999999999 || d->seconds > INT32_MAX / 1000 - 1)
        return -1;
    return (int)(d->seconds * 1000 + d->nanos / 1000000);
}

static int content_op(struct message_service *m, struct rpc_call *call, const struct content_request *in,
                      struct item *i) {
    struct arena *a = rpc_call_arena(call);
    struct lane_op *op = &i->op;
    op->origin = TX_ORIGIN_RPC;
    if (*in->id) {
        int r = service_parse_id(in->id, a, &op->id, &i->err);
        if (r || (r = check_window(m, &op->id, a, &i->err)))
            return r;
    } else {
        uuid_v7_make(store_now_us(m->store) / 1000, &op->id);
    }
    struct codec_content_in c = {.producer = in->producer,
                                 .business_key = in->business_key,
                                 .trace = trace_of(call),
                                 .messages_n = in->messages_n,
                                 .messages = in->messages,
                                 .check_after_ms = duration_ms(in->check_after)};
    if (in->check_after && c.check_after_ms < CHECK_AFTER_MIN_MS)
        return codec_refuse(a, &i->err, RPC_INVALID_ARGUMENT, "INVALID_FIELD", "check_after", "is less than 1 s");
    pthread_rwlock_rdlock(&m->lock);
    struct topology *t = topology_ref(m->topology);
    pthread_rwlock_unlock(&m->lock);
    int r = codec_content(&m->o.limits, t, &op->id, &c, a, &op->content, &i->err);
    if (r == 0)
        op->check_after_ms =
            c.check_after_ms ? c.check_after_ms : topology_producer(t, op->content->producer)->check.first_after_ms;
    topology_unref(t);
    return r;
}

static int prepare_op(struct message_service *m, struct rpc_call *call, const Txmsg__V1__PrepareRequest *q,
                      struct item *i) {
    i->op.kind = OP_PREPARE;
    const struct content_request c = {q->transaction_id, q->producer, q->business_key,
                                      q->n_messages,     q->messages, q->check_after};
    return content_op(m, call, &c, i);
}

static int publish_op(struct message_service *m, struct rpc_call *call, const Txmsg__V1__PublishRequest *q,
                      struct item *i) {
    i->op.kind = OP_PUBLISH;
    const struct content_request c = {q->transaction_id, q->producer, q->business_key,
                                      q->n_messages,     q->messages, NULL};
    return content_op(m, call, &c, i);
}

/* Of an id without partitions: dropped, or never made. */
static enum op_outcome without_partition(const struct message_service *m, const struct uuid *id) {
    return uuid_v7_ms(id) < atomic_load(&m->store->floor_ms) ? OP_PAST_RETENTION : OP_NOT_FOUND;
}

static int not_found(struct arena *a, const char *id, struct rpc_error *err) {
    (void)!codec_refuse(a, err, RPC_NOT_FOUND, "TRANSACTION_NOT_FOUND", NULL, "no such transaction within retention");
    codec_meta(err, "transaction_id", id);
    return 1;
}

static int confirm_op(struct message_service *m, struct rpc_call *call, const Txmsg__V1__ConfirmRequest *q,
                      struct item *i) {
    struct arena *a = rpc_call_arena(call);
    struct violation v;
    i->op.kind = OP_CONFIRM;
    i->op.origin = TX_ORIGIN_RPC;
    int r = service_parse_id(q->transaction_id, a, &i->op.id, &i->err);
    if (r)
        return r;
    if (q->n_bodies)
        return codec_refuse(a, &i->err, RPC_INVALID_ARGUMENT, "BODIES_MISMATCH", "bodies",
                            "no message of this transaction was declared body_later");
    if (*q->producer && validate_name("producer", bytes_str(q->producer), &v))
        return codec_violation(a, &i->err, &v);
    i->op.producer = *q->producer ? bytes_str(q->producer) : BYTES_NULL;
    if (has_partition(m, &i->op.id))
        return 0;
    i->op.outcome = without_partition(m, &i->op.id);
    return i->op.outcome == OP_NOT_FOUND ? not_found(a, q->transaction_id, &i->err) : outcome_error(&i->op, a, &i->err);
}

static int cancel_op(struct message_service *m, struct rpc_call *call, const Txmsg__V1__CancelRequest *q,
                     struct item *i) {
    struct arena *a = rpc_call_arena(call);
    struct violation v;
    struct rpc_error outside;
    i->op.kind = OP_CANCEL;
    i->op.origin = TX_ORIGIN_RPC;
    int r = service_parse_id(q->transaction_id, a, &i->op.id, &i->err);
    if (r)
        return r;
    if (*q->producer && validate_name("producer", bytes_str(q->producer), &v))
        return codec_violation(a, &i->err, &v);
    if (validate_text("reason", bytes_str(q->reason), LIMIT_REASON, &v))
        return codec_violation(a, &i->err, &v);
    i->op.producer = *q->producer ? bytes_str(q->producer) : BYTES_NULL;
    i->op.reason = *q->reason ? bytes_str(q->reason) : BYTES_NULL;
    i->op.tombstone = *q->producer && check_window(m, &i->op.id, a, &outside) == 0;
    if (has_partition(m, &i->op.id))
        return 0;
    i->op.outcome = without_partition(m, &i->op.id); /* nothing can be stored under such an id */
    return outcome_error(&i->op, a, &i->err);
}

/* --- requests --- */

static void reply_on_rpc(struct rpc_call *call, void *arg) {
    struct request *r = arg;
    UNUSED(call);
    r->reply(r);
}

void request_item_done(struct item *i) {
    struct request *r = i->request;
    if (atomic_fetch_sub(&r->pending, 1) == 1)
        rpc_call_finish(r->call, reply_on_rpc, r);
}

static struct request *request_new(struct rpc_call *call, size_t n, void (*reply)(struct request *r)) {
    struct request *r = arena_zalloc(rpc_call_arena(call), sizeof(*r) + n * sizeof(r->items[0]));
    if (!r)
        return NULL;
    r->call = call;
    r->reply = reply;
    r->n = n;
    atomic_init(&r->pending, n);
    for (size_t i = 0; i < n; i++) {
        r->items[i].request = r;
        list_init(&r->items[i].link);
        list_init(&r->items[i].op.link);
    }
    return r;
}

static void request_drop(struct request *r) {
    for (size_t i = 0; i < r->n; i++) {
        tx_content_unref(r->items[i].op.content);
        r->items[i].op.content = NULL;
    }
}

static struct message_worker *worker_of(const struct message_service *m, const struct uuid *id) {
    return m->workers[(uuid_hash(id) >> 32) % (unsigned)m->workers_n];
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

static void hold(struct message_service *m, size_t n) {
    uint64_t now = clock_mono_ns();
    if (held.n == 0)
        held.since_ns = now;
    held.n += (int64_t)n;
    if (held.n >= m->o.gather || now - held.since_ns >= GATHER_NS)
        message_service_flush(m);
}

void request_start(struct message_service *m, struct request *r) {
    /* One extra count: the reply cannot run before every item was looked at. */
    atomic_fetch_add(&r->pending, 1);
    uint64_t deadline = op_deadline(r->call);
    for (size_t i = 0; i < r->n; i++) {
        struct item *it = &r->items[i];
        it->op.deadline_ns = deadline;
        if (it->refused || worker_put(worker_of(m, &it->op.id), it))
            atomic_fetch_sub(&r->pending, 1);
    }
    hold(m, r->n);
    if (atomic_fetch_sub(&r->pending, 1) == 1)
        r->reply(r);
}

/* The status of an item, or NULL with *err. */
static Txmsg__V1__TransactionStatus *item_result(struct item *i, struct arena *a, struct rpc_error *err) {
    if (i->refused) {
        *err = i->err;
        return NULL;
    }
    if (outcome_error(&i->op, a, err))
        return NULL;
    Txmsg__V1__TransactionStatus *s = outcome_status(&i->op, a);
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
        response.status = item_result(&r->items[0], rpc_call_arena(r->call), &err);                                    \
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

static bool configured(struct message_service *m, struct rpc_call *call) {
    pthread_rwlock_rdlock(&m->lock);
    bool ok = m->topology != NULL;
    pthread_rwlock_unlock(&m->lock);
    if (ok)
        return true;
    const struct rpc_error err = {.code = RPC_UNAVAILABLE,
                                  .reason = "STORE_UNAVAILABLE",
                                  .retry_after_ms = 200,
                                  .message = "the configuration is not read from the store yet"};
    rpc_fail(call, &err);
    return false;
}

static void unary(struct message_service *m, struct rpc_call *call, int decoded, struct request *r) {
    if (decoded < 0) {
        request_drop(r);
        service_fail_memory(call);
    } else if (decoded > 0) {
        request_drop(r);
        rpc_fail(call, &r->items[0].err);
    } else {
        request_start(m, r);
    }
}

#define UNARY_HANDLER(name, Request, decode, reply)                                                                    \
    static void name(struct rpc_call *call, void *user) {                                                              \
        struct message_service *m = user;                                                                              \
        if (!configured(m, call))                                                                                      \
            return;                                                                                                    \
        struct request *r = request_new(call, 1, reply);                                                               \
        if (!r) {                                                                                                      \
            service_fail_memory(call);                                                                                 \
            return;                                                                                                    \
        }                                                                                                              \
        unary(m, call, decode(m, call, (const Request *)rpc_call_request(call), &r->items[0]), r);                     \
    }
UNARY_HANDLER(handle_prepare, Txmsg__V1__PrepareRequest, prepare_op, reply_prepare)
UNARY_HANDLER(handle_confirm, Txmsg__V1__ConfirmRequest, confirm_op, reply_confirm)
UNARY_HANDLER(handle_cancel, Txmsg__V1__CancelRequest, cancel_op, reply_cancel)
UNARY_HANDLER(handle_publish, Txmsg__V1__PublishRequest, publish_op, reply_publish)

/* --- Batch --- */

static int batch_result(struct request *r, size_t i, Txmsg__V1__OperationResult *out) {
    struct arena *a = rpc_call_arena(r->call);
    struct rpc_error err;
    txmsg__v1__operation_result__init(out);
    out->status = item_result(&r->items[i], a, &err);
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

static int batch_op(struct message_service *m, struct rpc_call *call, const Txmsg__V1__Operation *o, struct item *i) {
    switch (o->operation_case) {
    case TXMSG__V1__OPERATION__OPERATION_PREPARE:
        return prepare_op(m, call, o->prepare, i);
    case TXMSG__V1__OPERATION__OPERATION_CONFIRM:
        return confirm_op(m, call, o->confirm, i);
    case TXMSG__V1__OPERATION__OPERATION_CANCEL:
        return cancel_op(m, call, o->cancel, i);
    case TXMSG__V1__OPERATION__OPERATION_PUBLISH:
        return publish_op(m, call, o->publish, i);
    default:
        return codec_refuse(rpc_call_arena(call), &i->err, RPC_INVALID_ARGUMENT, "INVALID_FIELD", "operation",
                            "is not set, or is of a kind that this version does not know");
    }
}

static void handle_batch(struct rpc_call *call, void *user) {
    struct message_service *m = user;
    const Txmsg__V1__BatchRequest *q = (const Txmsg__V1__BatchRequest *)rpc_call_request(call);
    struct arena *a = rpc_call_arena(call);
    struct rpc_error err;
    if (!configured(m, call))
        return;
    if (q->n_operations == 0 || q->n_operations > LIMIT_BATCH_OPERATIONS) {
        (void)!codec_refuse(
            a, &err, RPC_INVALID_ARGUMENT, "INVALID_FIELD", "operations",
            arena_printf(a, "has %zu operations, allowed are 1 to %d", q->n_operations, LIMIT_BATCH_OPERATIONS));
        rpc_fail(call, &err);
        return;
    }
    struct request *r = request_new(call, q->n_operations, reply_batch);
    if (!r) {
        service_fail_memory(call);
        return;
    }
    for (size_t i = 0; i < q->n_operations; i++) {
        struct item *it = &r->items[i];
        int e = batch_op(m, call, q->operations[i], it);
        if (e < 0) {
            request_drop(r);
            service_fail_memory(call);
            return;
        }
        it->refused = e > 0;
    }
    request_start(m, r);
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
    topology_unref(m->topology);
    pthread_rwlock_destroy(&m->lock);
    mem_free(m);
}

const struct rpc_method *message_service_methods(struct message_service *m, size_t *n) {
    *n = m->methods_n;
    return m->methods;
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
