/*
 * What a producer asks, as an operation of a lane: ids against the window, names against the configuration, limits,
 * digest. Everything of it is judged here, on the rpc thread, so that what a lane gets can only fail for what is stored.
 */
#include "message/operation.h"

#include "base/clock.h"

enum { CHECK_AFTER_MIN_MS = 1000 };

void operation_reader_open(struct operation_reader *o, struct message_service *m, struct arena *a, const char *trace) {
    pthread_rwlock_rdlock(&m->lock);
    struct topology *t = m->topology ? topology_ref(m->topology) : NULL;
    pthread_rwlock_unlock(&m->lock);
    *o = (struct operation_reader){.service = m, .topology = t, .arena = a, .trace = trace};
}

void operation_drop(struct lane_op *op) {
    tx_content_unref(TAKE(op->content));
    mem_free(TAKE(op->bodies));
}

void operation_reader_close(struct operation_reader *o) {
    topology_unref(TAKE(o->topology));
}

int service_parse_id(const char *text, struct arena *a, struct uuid *ret, struct rpc_error *err) {
    if (!*text)
        return codec_refuse(a, err, RPC_INVALID_ARGUMENT, "INVALID_FIELD", "transaction_id", "is required");
    if (uuid_parse(bytes_str(text), ret) < 0 || !uuid_is_v7(ret))
        return codec_refuse(a, err, RPC_INVALID_ARGUMENT, "INVALID_FIELD", "transaction_id",
                            "is not a UUIDv7 in the form xxxxxxxx-xxxx-7xxx-xxxx-xxxxxxxxxxxx");
    return 0;
}

const char *operation_trace(const char *parent, const char *state, struct arena *a) {
    if (!parent || strlen(parent) != 55)
        return NULL;
    for (const char *p = parent; *p; p++)
        if (!strchr("0123456789abcdef-", *p))
            return NULL;
    if (!state || !*state || strlen(state) > 512 || !text_valid(bytes_str(state)))
        return parent;
    return arena_printf(a, "%s\n%s", parent, state);
}

uint64_t operation_deadline_ns(uint64_t at) {
    uint64_t now = clock_mono_ns();
    if (at <= now)
        return now;
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

int operation_check_count(size_t n, struct arena *a, struct rpc_error *err) {
    if (n > 0 && n <= LIMIT_BATCH_OPERATIONS)
        return 0;
    return codec_refuse(a, err, RPC_INVALID_ARGUMENT, "INVALID_FIELD", "operations",
                        arena_printf(a, "has %zu operations, allowed are 1 to %d", n, LIMIT_BATCH_OPERATIONS));
}

int operation_unconfigured(struct rpc_error *err) {
    *err = (struct rpc_error){.code = RPC_UNAVAILABLE,
                              .reason = "STORE_UNAVAILABLE",
                              .retry_after_ms = 200,
                              .message = "the configuration is not read from the store yet"};
    return 1;
}

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

static int content_op(const struct operation_reader *o, const struct content_request *in, struct lane_op *op,
                      struct rpc_error *err) {
    struct message_service *m = o->service;
    struct arena *a = o->arena;
    op->origin = TX_ORIGIN_RPC;
    if (!o->topology)
        return operation_unconfigured(err);
    if (*in->id) {
        int r = service_parse_id(in->id, a, &op->id, err);
        if (r || (r = check_window(m, &op->id, a, err)))
            return r;
    } else {
        uuid_v7_make(store_now_us(m->store) / 1000, &op->id);
    }
    struct codec_content_in c = {.producer = in->producer,
                                 .business_key = in->business_key,
                                 .trace = o->trace,
                                 .messages_n = in->messages_n,
                                 .messages = in->messages,
                                 .may_be_later = op->kind == OP_PREPARE,
                                 .check_after_ms = duration_ms(in->check_after)};
    if (in->check_after && c.check_after_ms < CHECK_AFTER_MIN_MS)
        return codec_refuse(a, err, RPC_INVALID_ARGUMENT, "INVALID_FIELD", "check_after", "is less than 1 s");
    int r = codec_content(&m->o.limits, o->topology, &op->id, &c, a, &op->content, err);
    if (r == 0)
        op->check_after_ms = c.check_after_ms
                                 ? c.check_after_ms
                                 : topology_producer(o->topology, op->content->producer)->check.first_after_ms;
    return r;
}

int operation_prepare(const struct operation_reader *o, const Txmsg__V1__PrepareRequest *q, struct lane_op *op,
                      struct rpc_error *err) {
    op->kind = OP_PREPARE;
    const struct content_request c = {q->transaction_id, q->producer, q->business_key,
                                      q->n_messages,     q->messages, q->check_after};
    return content_op(o, &c, op, err);
}

int operation_publish(const struct operation_reader *o, const Txmsg__V1__PublishRequest *q, struct lane_op *op,
                      struct rpc_error *err) {
    op->kind = OP_PUBLISH;
    const struct content_request c = {q->transaction_id, q->producer, q->business_key,
                                      q->n_messages,     q->messages, NULL};
    return content_op(o, &c, op, err);
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

/* What Confirm and Cancel have in common. */
static int decision_op(const struct operation_reader *o, enum op_kind kind, const char *id, const char *producer,
                       struct lane_op *op, struct rpc_error *err) {
    struct violation v;
    op->kind = kind;
    op->origin = TX_ORIGIN_RPC;
    if (!o->topology)
        return operation_unconfigured(err);
    int r = service_parse_id(id, o->arena, &op->id, err);
    if (r)
        return r;
    if (*producer && validate_name("producer", bytes_str(producer), &v))
        return codec_violation(o->arena, err, &v);
    op->producer = *producer ? bytes_str(producer) : BYTES_NULL;
    return 0;
}

int operation_confirm(const struct operation_reader *o, const Txmsg__V1__ConfirmRequest *q, struct lane_op *op,
                      struct rpc_error *err) {
    struct arena *a = o->arena;
    int r = decision_op(o, OP_CONFIRM, q->transaction_id, q->producer, op, err);
    if (r)
        return r;
    if (has_partition(o->service, &op->id))
        return codec_bodies(&o->service->o.limits, q->bodies, q->n_bodies, a, &op->bodies, err);
    op->outcome = without_partition(o->service, &op->id);
    return op->outcome == OP_NOT_FOUND ? not_found(a, q->transaction_id, err) : outcome_error(op, a, err);
}

int operation_cancel(const struct operation_reader *o, const Txmsg__V1__CancelRequest *q, struct lane_op *op,
                     struct rpc_error *err) {
    struct arena *a = o->arena;
    struct violation v;
    struct rpc_error outside;
    int r = decision_op(o, OP_CANCEL, q->transaction_id, q->producer, op, err);
    if (r)
        return r;
    if (validate_text("reason", bytes_str(q->reason), LIMIT_REASON, &v))
        return codec_violation(a, err, &v);
    op->reason = *q->reason ? bytes_str(q->reason) : BYTES_NULL;
    op->tombstone = *q->producer && check_window(o->service, &op->id, a, &outside) == 0;
    if (has_partition(o->service, &op->id))
        return 0;
    op->outcome = without_partition(o->service, &op->id); /* nothing can be stored under such an id */
    return outcome_error(op, a, err);
}

int operation_any(const struct operation_reader *o, const Txmsg__V1__Operation *q, struct lane_op *op,
                  struct rpc_error *err) {
    switch (q->operation_case) {
    case TXMSG__V1__OPERATION__OPERATION_PREPARE:
        return operation_prepare(o, q->prepare, op, err);
    case TXMSG__V1__OPERATION__OPERATION_CONFIRM:
        return operation_confirm(o, q->confirm, op, err);
    case TXMSG__V1__OPERATION__OPERATION_CANCEL:
        return operation_cancel(o, q->cancel, op, err);
    case TXMSG__V1__OPERATION__OPERATION_PUBLISH:
        return operation_publish(o, q->publish, op, err);
    default:
        return codec_refuse(o->arena, err, RPC_INVALID_ARGUMENT, "INVALID_FIELD", "operation",
                            "is not set, or is of a kind that this version does not know");
    }
}
