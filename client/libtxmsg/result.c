#include "result.h"

#include "base/uuid.h"
#include "google/rpc/error_details.pb-c.h"
#include "rpc/rpc.h"
#include "rpc/status.h"
#include "scan.h"
#include "view.h"

enum { MAGIC = 0x74786d72, DEAD = 0x64656164, TEXTS_MAX = 64 << 10 };

/* --- life --- */

bool result_valid(const txmsg_result *r) {
    return r && r->magic == MAGIC;
}

/* One by one: each operation has one, and clearing what nobody reads costs more than the rest of it. */
void result_init(txmsg_result *r) {
    r->magic = MAGIC;
    r->status = r->state = r->origin = r->code = r->attempts = 0;
    r->executed = false;
    r->id.text[0] = '\0';
    r->retry_after_ms = 0;
    r->prepared.us = r->decided.us = 0;
    r->prepared.n = r->decided.n = 0;
    r->reason = r->message = "";
    r->view = NULL;
    arena_init(&r->texts, TEXTS_MAX);
}

void result_deinit(txmsg_result *r) {
    if (r->view)
        view_free(r->view);
    if (r->texts.head)
        arena_deinit(&r->texts);
    r->magic = DEAD;
}

void result_reset(txmsg_result *r) {
    struct arena texts = r->texts;

    view_free(r->view);
    result_init(r);
    r->texts = texts;
    arena_reset(&r->texts);
}

void result_move(txmsg_result *to, txmsg_result *from) {
    result_deinit(to);
    *to = *from;
    result_init(from);
}

static const char *keep(txmsg_result *r, const char *s, size_t n) {
    const char *copy = n ? arena_strndup(&r->texts, s, n) : "";

    return copy ? copy : "";
}

void result_error(txmsg_result *r, int code, const char *reason, const char *message) {
    arena_reset(&r->texts);
    r->code = code;
    r->reason = reason;
    r->message = keep(r, message, strlen(message));
    r->retry_after_ms = 0;
}

txmsg_result *txmsg_result_new(void) {
    txmsg_result *r = mem_alloc(sizeof(*r));

    if (r)
        result_init(r);
    return r;
}

void txmsg_result_free(txmsg_result *r) {
    if (!result_valid(r))
        return;
    result_deinit(r);
    mem_free(r);
}

static int64_t read_time(struct bytes timestamp) {
    struct wire_reader in = wire_reader(timestamp);
    struct wire_field f;
    int64_t seconds = 0, nanos = 0;

    while (wire_next(&in, &f) == 1) {
        if (f.id == 1 && f.type == WIRE_VARINT)
            seconds = (int64_t)f.value;
        else if (f.id == 2 && f.type == WIRE_VARINT)
            nanos = (int64_t)f.value;
    }
    return seconds < 0 || seconds > INT64_C(253402300799) || nanos < 0 || nanos > 999999999
               ? 0
               : seconds * 1000000 + nanos / 1000;
}

static int64_t time_us(const struct result_time *t) {
    return t->n ? read_time(bytes_of(t->raw, t->n)) : t->us;
}

static void keep_time(struct result_time *t, struct bytes timestamp) {
    bool fits = timestamp.n <= sizeof(t->raw);

    t->us = fits ? 0 : read_time(timestamp);
    t->n = fits ? (uint8_t)timestamp.n : 0;
    if (fits && timestamp.n > 0)
        memcpy(t->raw, timestamp.p, timestamp.n);
}

/* --- what it says --- */

int txmsg_result_status(const txmsg_result *r) {
    return result_valid(r) ? r->status : TXMSG_ERROR_INVALID;
}

const txmsg_id *txmsg_result_id(const txmsg_result *r) {
    static const txmsg_id none = {""};

    return result_valid(r) ? &r->id : &none;
}

int txmsg_result_state(const txmsg_result *r) {
    return result_valid(r) ? r->state : TXMSG_STATE_NONE;
}

int txmsg_result_origin(const txmsg_result *r) {
    return result_valid(r) ? r->origin : TXMSG_ORIGIN_NONE;
}

int64_t txmsg_result_prepare_time_us(const txmsg_result *r) {
    return result_valid(r) ? time_us(&r->prepared) : 0;
}

int64_t txmsg_result_decision_time_us(const txmsg_result *r) {
    return result_valid(r) ? time_us(&r->decided) : 0;
}

int txmsg_result_code(const txmsg_result *r) {
    return result_valid(r) ? r->code : RPC_UNKNOWN;
}

const char *txmsg_result_code_name(const txmsg_result *r) {
    return rpc_code_name(txmsg_result_code(r));
}

const char *txmsg_result_reason(const txmsg_result *r) {
    return result_valid(r) ? r->reason : "";
}

const char *txmsg_result_message(const txmsg_result *r) {
    return result_valid(r) ? r->message : "";
}

int64_t txmsg_result_retry_after_ms(const txmsg_result *r) {
    return result_valid(r) ? r->retry_after_ms : 0;
}

int txmsg_result_attempts(const txmsg_result *r) {
    return result_valid(r) ? r->attempts : 0;
}

int txmsg_result_executed(const txmsg_result *r) {
    return result_valid(r) && r->executed;
}

/* --- what was answered --- */

static bool is(const char *a, const char *b) {
    return strcmp(a, b) == 0;
}

enum outcome outcome_of(int code, const char *reason) {
    bool told = reason[0] != '\0';

    switch (code) {
    case RPC_OK:
        return OUTCOME_DONE;
    case RPC_UNIMPLEMENTED:
    case RPC_UNAUTHENTICATED:
    case RPC_PERMISSION_DENIED:
        return OUTCOME_REFUSED;
    case RPC_INVALID_ARGUMENT:
    case RPC_NOT_FOUND:
    case RPC_ALREADY_EXISTS:
    case RPC_FAILED_PRECONDITION:
    case RPC_OUT_OF_RANGE:
        return told ? OUTCOME_REFUSED : OUTCOME_UNKNOWN;
    case RPC_RESOURCE_EXHAUSTED:
        return is(reason, "OVERLOADED") || is(reason, "TOO_MANY_STREAMS") ? OUTCOME_NOT_STORED : OUTCOME_REFUSED;
    case RPC_UNAVAILABLE:
        return is(reason, "STORE_UNAVAILABLE") || is(reason, "SHUTTING_DOWN") ? OUTCOME_NOT_STORED : OUTCOME_UNKNOWN;
    case RPC_DEADLINE_EXCEEDED:
        return is(reason, "EXPIRED_IN_QUEUE") || is(reason, "DEADLINE_PASSED") ? OUTCOME_NOT_STORED : OUTCOME_UNKNOWN;
    default:
        return OUTCOME_UNKNOWN;
    }
}

bool outcome_settles(int code, const char *reason) {
    return code == RPC_ALREADY_EXISTS ||
           (code == RPC_FAILED_PRECONDITION && (is(reason, "DECIDED_OTHERWISE") || is(reason, "PRODUCER_MISMATCH")));
}

struct status {
    struct bytes id, prepared, decided;
    uint64_t state, origin;
};

/* False: it is not protobuf. */
static bool scan_status(struct wire_reader in, struct status *s) {
    struct wire_field f;
    int64_t key;

    /* In this order they come from the service; the rest is for what comes otherwise. */
    (void)scan_bytes(&in, SCAN_BYTES(1), &s->id);
    (void)scan_number(&in, SCAN_VARINT(2), &s->state);
    (void)scan_number(&in, SCAN_VARINT(3), &s->origin);
    (void)scan_bytes(&in, SCAN_BYTES(4), &s->prepared);
    (void)scan_bytes(&in, SCAN_BYTES(5), &s->decided);
    while ((key = scan_rest(&in, &f)) > 0) {
        switch (key) {
        case SCAN_BYTES(1):
            s->id = f.bytes;
            break;
        case SCAN_VARINT(2):
            s->state = f.value;
            break;
        case SCAN_VARINT(3):
            s->origin = f.value;
            break;
        case SCAN_BYTES(4):
            s->prepared = f.bytes;
            break;
        case SCAN_BYTES(5):
            s->decided = f.bytes;
            break;
        }
    }
    return key == 0;
}

enum outcome result_take_status(txmsg_result *r, struct bytes status, const char *id) {
    struct status s = {0};

    if (!scan_status(wire_reader(status), &s) || s.id.n != UUID_TEXT - 1 || memcmp(s.id.p, id, UUID_TEXT - 1) != 0) {
        r->state = r->origin = 0;
        r->prepared = r->decided = (struct result_time){0};
        result_error(r, RPC_INTERNAL, "", "the answer is not that of this transaction");
        return OUTCOME_UNKNOWN;
    }
    r->state = s.state <= TXMSG_STATE_STUCK ? (int)s.state : TXMSG_STATE_NONE;
    r->origin = s.origin <= TXMSG_ORIGIN_ADMIN ? (int)s.origin : TXMSG_ORIGIN_NONE;
    keep_time(&r->prepared, s.prepared);
    keep_time(&r->decided, s.decided);
    r->code = RPC_OK;
    r->reason = r->message = "";
    r->retry_after_ms = 0;
    return OUTCOME_DONE;
}

/* What the store holds, as DECIDED_OTHERWISE tells it. */
static void take_metadata(txmsg_result *r, const Google__Rpc__ErrorInfo *info) {
    for (size_t i = 0; info && i < info->n_metadata; i++) {
        const char *key = info->metadata[i]->key, *value = info->metadata[i]->value;

        if (is(key, "decision"))
            r->state = is(value, "COMMITTED")     ? TXMSG_STATE_CONFIRMED
                       : is(value, "ROLLED_BACK") ? TXMSG_STATE_CANCELLED
                                                  : TXMSG_STATE_NONE;
        else if (is(key, "origin"))
            r->origin = is(value, "RPC")     ? TXMSG_ORIGIN_RPC
                        : is(value, "CHECK") ? TXMSG_ORIGIN_CHECK
                        : is(value, "ADMIN") ? TXMSG_ORIGIN_ADMIN
                                             : TXMSG_ORIGIN_NONE;
    }
}

enum outcome result_take_error(txmsg_result *r, int code, struct bytes text, struct bytes status) {
    struct status_details d = {0};

    arena_reset(&r->texts);
    r->code = code;
    r->state = r->origin = 0;
    r->retry_after_ms = 0;
    r->reason = "";
    r->message = keep(r, (const char *)text.p, text.n);
    if (status.n > 0 && status_unpack(status, &r->texts, &d) == 0) {
        r->code = d.code ? d.code : code;
        r->reason = d.reason ? d.reason : "";
        r->message = d.message && d.message[0] ? d.message : r->message;
        r->retry_after_ms = d.retry_after_ms;
        take_metadata(r, d.info);
    }
    return r->code == RPC_OK ? OUTCOME_UNKNOWN : outcome_of(r->code, r->reason);
}
