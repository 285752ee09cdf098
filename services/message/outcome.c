/* See outcome.h. */
#include "message/outcome.h"

#include "base/clock.h"

enum { RETRY_MS = 200 };

static const char * or (const char *s, const char *fallback) {
    return s ? s : fallback;
}

static const char *origin_word(enum tx_origin o) {
    return o == TX_ORIGIN_CHECK ? "CHECK" : o == TX_ORIGIN_ADMIN ? "ADMIN" : "RPC";
}

static int decided_otherwise(const struct lane_op *op, struct arena *a, struct rpc_error *err) {
    const char *stored = op->state == TX_CONFIRMED ? "COMMITTED" : "ROLLED_BACK";
    const char *origin = origin_word(op->decided_by);
    *err = (struct rpc_error){
        .code = RPC_FAILED_PRECONDITION,
        .reason = "DECIDED_OTHERWISE",
        .message =
            or (arena_printf(a, "the transaction is decided already: %s by %s", stored, origin), "decided otherwise"),
        .precondition_subject = "transaction_id",
    };
    char time[32];
    clock_format(op->decision_us, time);
    const char *when = op->decision_us ? arena_strndup(a, time, strlen(time)) : NULL;
    const char *const meta[] = {"decision", stored, "origin", origin, when ? "decision_time" : NULL, when};
    memcpy(err->meta, meta, sizeof(meta));
    return 1;
}

static int explain(const struct lane_op *op, struct arena *a, struct rpc_error *err) {
    const char *why = op->why[0] ? arena_strndup(a, op->why, strlen(op->why)) : NULL;
    switch (op->outcome) {
    case OP_OK:
        return 0;
    case OP_NOT_FOUND:
        if (op->kind == OP_CANCEL && op->producer.n && !op->tombstone)
            return codec_refuse(a, err, RPC_INVALID_ARGUMENT, "ID_TIME_OUT_OF_WINDOW", "transaction_id",
                                "is unknown, and its time is too far from the database clock to be closed ahead");
        return codec_refuse(a, err, RPC_NOT_FOUND, "TRANSACTION_NOT_FOUND", NULL,
                            "no such transaction; if its Prepare is still under way, repeat this call");
    case OP_CONTENT_DIFFERS:
        return codec_refuse(a, err, RPC_ALREADY_EXISTS, "CONTENT_DIFFERS", NULL,
                            op->kind == OP_CONFIRM ? "this transaction_id is confirmed with other bodies"
                                                   : "this transaction_id is stored with other content");
    case OP_BODIES_DIFFER:
        return codec_refuse(a, err, RPC_INVALID_ARGUMENT, "BODIES_MISMATCH", "bodies",
                            "must be one for each message that was prepared with body_later, and no other");
    case OP_DECIDED_OTHERWISE:
        return decided_otherwise(op, a, err);
    case OP_PRODUCER_DIFFERS:
        return codec_refuse(a, err, RPC_FAILED_PRECONDITION, "PRODUCER_MISMATCH", NULL,
                            "the transaction belongs to another producer");
    case OP_PAST_RETENTION:
        return codec_refuse(a, err, RPC_FAILED_PRECONDITION, "PAST_RETENTION", NULL,
                            "the transaction_id lies past retention");
    case OP_REFUSED:
        return codec_refuse(a, err, RPC_INVALID_ARGUMENT, "REFUSED_BY_STORE", NULL,
                            or (why, "the store refused a value; nothing was stored"));
    case OP_UNAVAILABLE:
        why = why ? arena_printf(a, "the store cannot write now, nothing was stored: %s", why) : NULL;
        (void)!codec_refuse(a, err, RPC_UNAVAILABLE, "STORE_UNAVAILABLE", NULL,
                            or (why, "the store cannot write now, nothing was stored"));
        err->retry_after_ms = RETRY_MS;
        return 1;
    case OP_OUTCOME_UNKNOWN:
        (void)!codec_refuse(a, err, RPC_UNAVAILABLE, "OUTCOME_UNKNOWN", NULL,
                            "the commit's answer was lost: repeat with the same transaction_id");
        err->retry_after_ms = RETRY_MS;
        return 1;
    case OP_EXPIRED:
        return codec_refuse(a, err, RPC_DEADLINE_EXCEEDED, "EXPIRED_IN_QUEUE", NULL,
                            "the deadline passed before the operation was sent to the store; nothing was stored");
    case OP_SHUTDOWN:
        (void)!codec_refuse(a, err, RPC_UNAVAILABLE, "SHUTTING_DOWN", NULL,
                            "this replica is stopping, nothing was stored; repeat at another");
        err->retry_after_ms = RETRY_MS;
        return 1;
    }
    UNREACHABLE();
}

int outcome_error(const struct lane_op *op, struct arena *a, struct rpc_error *err) {
    int r = explain(op, a, err);
    char id[UUID_TEXT];
    uuid_format(&op->id, id);
    if (r)
        codec_meta(err, "transaction_id", arena_strndup(a, id, strlen(id)));
    return r;
}

Txmsg__V1__TransactionStatus *outcome_status(const struct lane_op *op, struct arena *a) {
    return codec_status(a, &op->id, op->state, op->decided_by, op->prepare_us, op->decision_us);
}
