/* What a listener sees of a check, and what the service sees of its answer. */
#include "check_inside.h"

enum { BODIES_MAX = 7 << 20 }; /* servers take 8 MiB at a time, if nobody changed it */

const txmsg_id *txmsg_check_id(const txmsg_check *check) {
    static const txmsg_id none = {""};

    return check ? &check->id : &none;
}

const char *txmsg_check_business_key(const txmsg_check *check) {
    return check ? check->request->business_key : "";
}

int64_t txmsg_check_prepared_time_us(const txmsg_check *check) {
    const Google__Protobuf__Timestamp *t = check ? check->request->prepared_time : NULL;

    return t ? clock_us(t->seconds, t->nanos) : 0;
}

int txmsg_check_count(const txmsg_check *check) {
    return check ? check->request->check_count : 0;
}

size_t txmsg_check_messages(const txmsg_check *check) {
    return check ? check->request->n_messages : 0;
}

static const Txmsg__V1__CheckedMessage *message_at(const txmsg_check *check, size_t n) {
    return check && n < check->request->n_messages ? check->request->messages[n] : NULL;
}

const char *txmsg_check_topic(const txmsg_check *check, size_t n) {
    const Txmsg__V1__CheckedMessage *m = message_at(check, n);

    return m ? m->topic : "";
}

static const void *bytes_at(const ProtobufCBinaryData *data, size_t *size) {
    if (size)
        *size = data ? data->len : 0;
    return data && data->len ? data->data : NULL;
}

const void *txmsg_check_key(const txmsg_check *check, size_t n, size_t *size) {
    const Txmsg__V1__CheckedMessage *m = message_at(check, n);

    return bytes_at(m ? &m->key : NULL, size);
}

const void *txmsg_check_body(const txmsg_check *check, size_t n, size_t *size) {
    const Txmsg__V1__CheckedMessage *m = message_at(check, n);

    return bytes_at(m ? &m->body : NULL, size);
}

const char *txmsg_check_header(const txmsg_check *check, size_t n, const char *name) {
    const Txmsg__V1__CheckedMessage *m = message_at(check, n);

    for (size_t i = 0; m && name && i < m->n_headers; i++)
        if (strcmp(m->headers[i]->key, name) == 0)
            return m->headers[i]->value;
    return NULL;
}

int txmsg_check_body_later(const txmsg_check *check, size_t n) {
    const Txmsg__V1__CheckedMessage *m = message_at(check, n);

    return m && m->body_later;
}

/* --- the answer --- */

static struct check_body *body_of(struct txmsg_check *check, size_t n) {
    struct check_body *b = check->bodies;

    while (b && b->n != n)
        b = b->next;
    if (b)
        return b;
    b = arena_zalloc(&check->arena, sizeof(*b));
    if (!b)
        return NULL;
    b->n = (uint32_t)n;
    b->next = check->bodies;
    return check->bodies = b;
}

/* The listener has it as const: the question does not change. */
int txmsg_check_set_body(const txmsg_check *question, size_t n, const void *body, size_t size) {
    struct txmsg_check *check = (struct txmsg_check *)(uintptr_t)question;
    struct check_body *b;
    char *copy;

    if (!txmsg_check_body_later(check, n) || (!body && size > 0) || size > BODIES_MAX ||
        check->bodies_size + size > BODIES_MAX)
        return TXMSG_ERROR_INVALID;
    copy = arena_strndup(&check->arena, size ? body : "", size);
    b = copy ? body_of(check, n) : NULL;
    if (!b)
        return TXMSG_ERROR_MEMORY;
    check->bodies_size += size - b->bytes.n;
    b->bytes = bytes_of(copy, size);
    return TXMSG_OK;
}

/* False: out of memory. */
static bool add_bodies(struct txmsg_check *check, Txmsg__V1__CheckResponse *ret) {
    size_t n = 0;

    for (const struct check_body *b = check->bodies; b; b = b->next)
        n++;
    Txmsg__V1__MessageBody *all = arena_zalloc(&check->arena, n * sizeof(*all));
    ret->bodies = arena_zalloc(&check->arena, n * sizeof(Txmsg__V1__MessageBody *));
    if (!all || !ret->bodies)
        return false;
    for (const struct check_body *b = check->bodies; b; b = b->next, all++) {
        txmsg__v1__message_body__init(all);
        all->n = b->n;
        all->body = (ProtobufCBinaryData){.len = b->bytes.n, .data = (uint8_t *)(uintptr_t)b->bytes.p};
        ret->bodies[ret->n_bodies++] = all;
    }
    return true;
}

void check_response(struct txmsg_check *check, Txmsg__V1__CheckResponse *ret) {
    static const Txmsg__V1__CheckVerdict verdicts[] = {
        [TXMSG_UNDECIDED] = TXMSG__V1__CHECK_VERDICT__CHECK_VERDICT_UNKNOWN,
        [TXMSG_COMMITTED] = TXMSG__V1__CHECK_VERDICT__CHECK_VERDICT_COMMITTED,
        [TXMSG_ROLLED_BACK] = TXMSG__V1__CHECK_VERDICT__CHECK_VERDICT_ROLLED_BACK,
        [TXMSG_NO_ANSWER] = TXMSG__V1__CHECK_VERDICT__CHECK_VERDICT_UNSPECIFIED,
    };

    txmsg__v1__check_response__init(ret);
    ret->transaction_id = check->id.text;
    ret->decision = verdicts[check->decision];
    if (check->decision == TXMSG_COMMITTED && check->bodies && !add_bodies(check, ret))
        ret->n_bodies = 0; /* no answer then, and it is asked again */
}
