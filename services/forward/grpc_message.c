/*
 * A status is an answer of the consumer only where gRPC itself never makes that code up; with all others somebody may have taken the
 * message. UNIMPLEMENTED is of a server that has no such service or method.
 */
#include "forward/grpc_message.h"

enum { RETRY_AFTER_MAX_S = 30 * 86400 };

/* --- the request --- */

static char *text_of(struct bytes v) {
    return v.n ? (char *)(uintptr_t)v.p : (char *)(uintptr_t) "";
}

static ProtobufCBinaryData data_of(struct bytes v) {
    return (ProtobufCBinaryData){.data = (uint8_t *)(uintptr_t)v.p, .len = v.n};
}

static Google__Protobuf__Timestamp *time_of(struct arena *a, int64_t us) {
    Google__Protobuf__Timestamp *t = arena_alloc(a, sizeof(*t));

    if (!t)
        return NULL;
    google__protobuf__timestamp__init(t);
    t->seconds = us / 1000000;
    t->nanos = (int32_t)(us % 1000000) * 1000;
    return t;
}

static Txmsg__V1__Message *message_of(struct arena *a, const struct msg *m) {
    Txmsg__V1__Message *out = arena_alloc(a, sizeof(*out));
    Txmsg__V1__Message__HeadersEntry *rows = arena_alloc(a, (m->headers_n + 1) * sizeof(*rows));

    if (!out || !rows)
        return NULL;
    txmsg__v1__message__init(out);
    out->topic = text_of(m->topic);
    out->key = data_of(m->key);
    out->body = data_of(m->body);
    out->content_type = text_of(m->content_type);
    out->headers = arena_alloc(a, (m->headers_n + 1) * sizeof(*out->headers));
    if (!out->headers)
        return NULL;
    for (uint32_t i = 0; i < m->headers_n; i++) {
        txmsg__v1__message__headers_entry__init(&rows[i]);
        rows[i].key = text_of(m->headers[i].name);
        rows[i].value = text_of(m->headers[i].value);
        out->headers[out->n_headers++] = &rows[i];
    }
    return out;
}

Txmsg__V1__DeliverRequest *grpc_request(struct arena *a, const struct delivery *d, const char *subscription) {
    const struct tx_content *c = d->content;
    Txmsg__V1__DeliverRequest *out = arena_alloc(a, sizeof(*out));
    char *ids = arena_alloc(a, MESSAGE_ID_TEXT + 2 * UUID_TEXT);

    if (!out || !ids)
        return NULL;
    txmsg__v1__deliver_request__init(out);
    delivery_message_id(d, '.', ids);
    uuid_format(&c->id, ids + MESSAGE_ID_TEXT);
    out->message_id = ids;
    out->transaction_id = ids + MESSAGE_ID_TEXT;
    if (d->replay) {
        out->replay_id = ids + MESSAGE_ID_TEXT + UUID_TEXT;
        uuid_format(d->replay, out->replay_id);
    }
    out->n = d->n;
    out->subscription = (char *)(uintptr_t)subscription;
    out->producer = text_of(c->producer);
    out->business_key = text_of(c->business_key);
    out->attempt = d->attempt;
    out->possible_duplicate = d->again || d->attempt > 1;
    out->message = message_of(a, &c->messages[d->n]);
    out->prepare_time = time_of(a, uuid_v7_ms(&c->id) * 1000);
    if (!out->message || !out->prepare_time)
        return NULL;
    if (d->decided_us) {
        out->decision_time = time_of(a, d->decided_us);
        if (!out->decision_time)
            return NULL;
    }
    return out;
}

/* --- the answer --- */

/* Codes that gRPC and its proxies do not make up by themselves: the consumer has said no. */
static bool is_answer(int code) {
    switch (code) {
    case RPC_INVALID_ARGUMENT:
    case RPC_NOT_FOUND:
    case RPC_ALREADY_EXISTS:
    case RPC_PERMISSION_DENIED:
    case RPC_FAILED_PRECONDITION:
    case RPC_ABORTED:
    case RPC_OUT_OF_RANGE:
    case RPC_UNIMPLEMENTED:
    case RPC_UNAUTHENTICATED:
        return true;
    default:
        return false;
    }
}

static void judge_error(const struct rpc_outcome *o, struct grpc_answer *ret) {
    ret->verdict = SINK_RETRY;
    ret->unsent = o->unsent;
    ret->unknown = !o->unsent && !is_answer(o->code);
    ret->elsewhere =
        o->unsent || o->code == RPC_UNAVAILABLE || o->code == RPC_DEADLINE_EXCEEDED || o->code == RPC_UNIMPLEMENTED;
    ret->class = o->unsent                          ? ATTEMPT_UNREACHABLE
                 : o->code == RPC_DEADLINE_EXCEEDED ? ATTEMPT_TIMEOUT
                 : ret->unknown                     ? ATTEMPT_BROKEN
                                                    : ATTEMPT_NACKED;
    snprintf(ret->why, sizeof(ret->why), "gRPC %s: %s", rpc_code_name(o->code), o->message);
}

/* What is no duration counts as none. */
static int64_t wish_ms(const Google__Protobuf__Duration *d) {
    if (!d || d->seconds < 0 || d->nanos < 0 || d->nanos > 999999999)
        return -1;
    return MIN(d->seconds, (int64_t)RETRY_AFTER_MAX_S) * 1000 + d->nanos / 1000000;
}

void grpc_answer_judge(const struct rpc_outcome *o, struct grpc_answer *ret) {
    const Txmsg__V1__DeliverResponse *r = (const Txmsg__V1__DeliverResponse *)o->response;

    *ret = (struct grpc_answer){.retry_after_ms = -1};
    if (o->code != RPC_OK) {
        judge_error(o, ret);
        return;
    }
    switch ((int)r->outcome) {
    case TXMSG__V1__DELIVER_RESPONSE__OUTCOME__OUTCOME_ACK:
        ret->verdict = SINK_OK;
        return;
    case TXMSG__V1__DELIVER_RESPONSE__OUTCOME__OUTCOME_REJECT:
        ret->verdict = SINK_REJECT;
        ret->class = ATTEMPT_PERMANENT;
        snprintf(ret->why, sizeof(ret->why), "rejected: %s", r->reason);
        return;
    case TXMSG__V1__DELIVER_RESPONSE__OUTCOME__OUTCOME_RETRY:
        ret->verdict = SINK_RETRY;
        ret->class = ATTEMPT_NACKED;
        ret->retry_after_ms = wish_ms(r->retry_after);
        snprintf(ret->why, sizeof(ret->why), "not now: %s", r->reason);
        return;
    default: /* whoever says this does not know the contract: perhaps it was taken */
        ret->verdict = SINK_RETRY;
        ret->unknown = true;
        ret->class = ATTEMPT_BROKEN;
        snprintf(ret->why, sizeof(ret->why), "the answer has no outcome");
    }
}
