/* What a listener sees of a check. */
#include "check_inside.h"

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
