#include "view.h"

#include "base/clock.h"
#include "calls.h"
#include "rpc/payload.h"
#include "rpc/rpc.h"
#include "rpc/wire.h"
#include "txmsg/v1/transaction.pb-c.h"

enum { VIEW_BYTES_MAX = 256 << 20 };

struct txmsg_view {
    struct arena arena;
    const Txmsg__V1__Transaction *tx;
};

/* --- life --- */

static txmsg_view *view_new(struct bytes transaction) {
    txmsg_view *v = mem_alloc(sizeof(*v));
    ProtobufCAllocator allocator;

    if (!v)
        return NULL;
    arena_init(&v->arena, VIEW_BYTES_MAX);
    allocator = payload_allocator(&v->arena);
    v->tx = txmsg__v1__transaction__unpack(&allocator, transaction.n, transaction.p);
    if (!v->tx)
        view_free(TAKE(v));
    return v;
}

void view_free(txmsg_view *v) {
    if (!v)
        return;
    arena_deinit(&v->arena);
    mem_free(v);
}

static int64_t time_us(const Google__Protobuf__Timestamp *t) {
    return t ? clock_us(t->seconds, t->nanos) : 0;
}

enum outcome view_take(txmsg_result *r, struct bytes transaction, const char *id) {
    struct wire_fault fault;

    if (wire_check(&txmsg__v1__transaction__descriptor, transaction, WIRE_FROM_SERVER, &fault)) {
        result_error(r, RPC_INTERNAL, "", "the answer is not well formed");
        return OUTCOME_NOT_STORED;
    }
    view_free(r->view);
    r->view = view_new(transaction);
    if (!r->view || strcmp(r->view->tx->transaction_id, id) != 0) {
        result_error(r, RPC_INTERNAL, "", r->view ? "the answer is not that of this transaction" : "out of memory");
        view_free(TAKE(r->view));
        return OUTCOME_NOT_STORED;
    }
    const Txmsg__V1__Transaction *tx = r->view->tx;
    r->state = (unsigned)tx->state <= TXMSG_STATE_STUCK ? (int)tx->state : TXMSG_STATE_NONE;
    r->origin = (unsigned)tx->origin <= TXMSG_ORIGIN_ADMIN ? (int)tx->origin : TXMSG_ORIGIN_NONE;
    r->prepared = (struct result_time){.us = time_us(tx->prepare_time)};
    r->decided = (struct result_time){.us = time_us(tx->decision_time)};
    r->code = RPC_OK;
    r->reason = r->message = "";
    r->retry_after_ms = 0;
    return OUTCOME_DONE;
}

/* --- reading one --- */

int txmsg_get(txmsg_client *client, const txmsg_id *id, const txmsg_call_options *options, txmsg_result *result) {
    return call_run(client, &(struct call){.kind = OP_GET, .id = id, .options = options}, result);
}

int txmsg_get_async(txmsg_client *client, const txmsg_id *id, const txmsg_call_options *options, txmsg_done_fn done,
                    void *arg) {
    return call_begin(client, &(struct call){.kind = OP_GET, .id = id, .options = options}, done, arg);
}

const txmsg_view *txmsg_result_view(const txmsg_result *r) {
    return result_valid(r) && r->status == TXMSG_OK ? r->view : NULL;
}

/* --- what it says --- */

const char *txmsg_view_producer(const txmsg_view *v) {
    return v ? v->tx->producer : "";
}

const char *txmsg_view_business_key(const txmsg_view *v) {
    return v ? v->tx->business_key : "";
}

int txmsg_view_decision(const txmsg_view *v) {
    return v && (unsigned)v->tx->decision <= TXMSG_ROLLED_BACK ? (int)v->tx->decision : TXMSG_UNDECIDED;
}

const char *txmsg_view_actor(const txmsg_view *v) {
    return v ? v->tx->actor : "";
}

const char *txmsg_view_reason(const txmsg_view *v) {
    return v ? v->tx->reason : "";
}

int txmsg_view_checks(const txmsg_view *v) {
    return v && v->tx->checks ? v->tx->checks->count : 0;
}

const char *txmsg_view_check_error(const txmsg_view *v) {
    return v && v->tx->checks ? v->tx->checks->last_error : "";
}

size_t txmsg_view_messages(const txmsg_view *v) {
    return v ? v->tx->n_messages : 0;
}

static const Txmsg__V1__Message *message_at(const txmsg_view *v, size_t n) {
    return n < txmsg_view_messages(v) ? v->tx->messages[n]->message : NULL;
}

const char *txmsg_view_topic(const txmsg_view *v, size_t n) {
    const Txmsg__V1__Message *m = message_at(v, n);

    return m ? m->topic : "";
}

static const void *bytes_at(const ProtobufCBinaryData *data, size_t *size) {
    if (size)
        *size = data ? data->len : 0;
    return data && data->len ? data->data : NULL;
}

const void *txmsg_view_key(const txmsg_view *v, size_t n, size_t *size) {
    const Txmsg__V1__Message *m = message_at(v, n);

    return bytes_at(m ? &m->key : NULL, size);
}

const void *txmsg_view_body(const txmsg_view *v, size_t n, size_t *size) {
    const Txmsg__V1__Message *m = message_at(v, n);

    return bytes_at(m ? &m->body : NULL, size);
}

int64_t txmsg_view_body_size(const txmsg_view *v, size_t n) {
    return n < txmsg_view_messages(v) ? v->tx->messages[n]->body_size : 0;
}

const char *txmsg_view_header(const txmsg_view *v, size_t n, const char *name) {
    const Txmsg__V1__Message *m = message_at(v, n);

    for (size_t i = 0; m && name && i < m->n_headers; i++)
        if (strcmp(m->headers[i]->key, name) == 0)
            return m->headers[i]->value;
    return NULL;
}

size_t txmsg_view_deliveries(const txmsg_view *v, size_t n) {
    return n < txmsg_view_messages(v) ? v->tx->messages[n]->n_deliveries : 0;
}

static const Txmsg__V1__Delivery *delivery_at(const txmsg_view *v, size_t n, size_t i) {
    return i < txmsg_view_deliveries(v, n) ? v->tx->messages[n]->deliveries[i] : NULL;
}

const char *txmsg_view_subscription(const txmsg_view *v, size_t n, size_t i) {
    const Txmsg__V1__Delivery *d = delivery_at(v, n, i);

    return d ? d->subscription : "";
}

int txmsg_view_delivery_state(const txmsg_view *v, size_t n, size_t i) {
    const Txmsg__V1__Delivery *d = delivery_at(v, n, i);

    return d && (unsigned)d->state <= TXMSG_DELIVERY_DISCARDED ? (int)d->state : TXMSG_DELIVERY_NONE;
}

int txmsg_view_delivery_attempts(const txmsg_view *v, size_t n, size_t i) {
    const Txmsg__V1__Delivery *d = delivery_at(v, n, i);

    return d ? d->attempts : 0;
}

const char *txmsg_view_delivery_error(const txmsg_view *v, size_t n, size_t i) {
    const Txmsg__V1__Delivery *d = delivery_at(v, n, i);

    return d ? d->last_error : "";
}

int64_t txmsg_view_next_attempt_time_us(const txmsg_view *v, size_t n, size_t i) {
    const Txmsg__V1__Delivery *d = delivery_at(v, n, i);

    return d ? time_us(d->next_attempt_time) : 0;
}
