/*
 * Written straight into a buffer: a request may carry megabytes of bodies, a JSON tree of them would cost several times
 * as much.
 */
#include "checkback/request.h"

#include "base/clock.h"
#include "base/crypto.h"
#include "base/json.h"
#include "webclient/signature.h"

/* ,"name": as text, or ,"nameBase64": when it is not text. */
static void put_value(struct buf *out, const char *name, struct bytes v) {
    if (text_valid(v)) {
        buf_printf(out, ",\"%s\":", name);
        json_put_string(out, v);
    } else {
        buf_printf(out, ",\"%sBase64\":\"", name);
        base64_put(out, v);
        buf_put_char(out, '"');
    }
}

static void put_message(struct buf *out, const struct msg *m, bool include_body) {
    buf_put_str(out, "{\"topic\":");
    json_put_string(out, m->topic);
    put_value(out, "key", m->key);
    buf_put_str(out, ",\"headers\":");
    buf_put_bytes(out, m->headers_json.n ? m->headers_json : BYTES_LIT("{}"));
    if (m->later)
        buf_put_str(out, ",\"bodyLater\":true");
    else if (include_body)
        put_value(out, "body", m->body);
    buf_put_char(out, '}');
}

int request_body(struct buf *out, const struct question *q) {
    char id[UUID_TEXT], at[32];

    uuid_format(q->tx, id);
    clock_format(q->prepared_us, at);
    buf_printf(out, "{\"transactionId\":\"%s\",\"producer\":", id);
    json_put_string(out, bytes_str(q->producer));
    put_value(out, "businessKey", bytes_str(q->business_key));
    buf_printf(out, ",\"preparedTime\":\"%s\",\"checkCount\":%d,\"messages\":[", at, q->check_count);
    for (uint32_t i = 0; i < q->content->messages_n; i++) {
        if (i)
            buf_put_char(out, ',');
        put_message(out, &q->content->messages[i], q->include_body);
    }
    buf_put_str(out, "]}");
    return buf_error(out);
}

int request_headers(struct request_headers *h, const char *secret, const struct uuid *tx, int64_t now_s,
                    struct bytes body) {
    CLEANUP_BUF struct buf signature;
    char id[UUID_TEXT];

    uuid_format(tx, id);
    snprintf(h->lines[0], sizeof(h->lines[0]), "Content-Type: application/json");
    snprintf(h->lines[1], sizeof(h->lines[1]), "webhook-id: %s", id);
    snprintf(h->lines[2], sizeof(h->lines[2]), "webhook-timestamp: %lld", (long long)now_s);
    for (int i = 0; i < 3; i++)
        h->list[i] = h->lines[i];
    h->list[3] = h->list[4] = NULL;
    buf_init(&signature, sizeof(h->lines[3]) - 32);
    if (!secret || !*secret)
        return 0;
    int r = webhook_sign(&signature, secret, id, now_s, body);
    if (r < 0)
        return r;
    snprintf(h->lines[3], sizeof(h->lines[3]), "webhook-signature: %s", buf_str(&signature));
    h->list[3] = h->lines[3];
    return 0;
}

/* --- as a message --- */

static char *text_of(struct bytes v) {
    return v.n ? (char *)(uintptr_t)v.p : (char *)(uintptr_t) "";
}

static ProtobufCBinaryData data_of(struct bytes v) {
    return (ProtobufCBinaryData){.data = (uint8_t *)(uintptr_t)v.p, .len = v.n};
}

static int message_headers(struct arena *a, const struct msg *m, Txmsg__V1__CheckedMessage *out) {
    if (m->headers_n == 0)
        return 0;
    Txmsg__V1__CheckedMessage__HeadersEntry *rows = arena_alloc(a, m->headers_n * sizeof(*rows));
    out->headers = arena_alloc(a, m->headers_n * sizeof(*out->headers));
    if (!rows || !out->headers)
        return -ENOMEM;
    for (uint32_t i = 0; i < m->headers_n; i++) {
        txmsg__v1__checked_message__headers_entry__init(&rows[i]);
        rows[i].key = text_of(m->headers[i].name);
        rows[i].value = text_of(m->headers[i].value);
        out->headers[out->n_headers++] = &rows[i];
    }
    return 0;
}

static int messages_of(struct arena *a, const struct question *q, Txmsg__V1__CheckRequest *out) {
    const struct tx_content *c = q->content;
    Txmsg__V1__CheckedMessage *rows = arena_alloc(a, c->messages_n * sizeof(*rows));
    out->messages = arena_alloc(a, c->messages_n * sizeof(*out->messages));
    if (!rows || !out->messages)
        return -ENOMEM;
    for (uint32_t i = 0; i < c->messages_n; i++) {
        const struct msg *m = &c->messages[i];
        txmsg__v1__checked_message__init(&rows[i]);
        rows[i].n = i;
        rows[i].topic = text_of(m->topic);
        rows[i].key = data_of(m->key);
        rows[i].body_later = m->later;
        if (q->include_body && !m->later)
            rows[i].body = data_of(m->body);
        if (message_headers(a, m, &rows[i]) < 0)
            return -ENOMEM;
        out->messages[out->n_messages++] = &rows[i];
    }
    return 0;
}

Txmsg__V1__CheckRequest *request_message(struct arena *a, const struct question *q) {
    Txmsg__V1__CheckRequest *out = arena_alloc(a, sizeof(*out));
    Google__Protobuf__Timestamp *at = arena_alloc(a, sizeof(*at));
    char *id = arena_alloc(a, UUID_TEXT);
    if (!out || !at || !id)
        return NULL;
    uuid_format(q->tx, id);
    txmsg__v1__check_request__init(out);
    google__protobuf__timestamp__init(at);
    at->seconds = q->prepared_us / 1000000;
    at->nanos = (int32_t)(q->prepared_us % 1000000) * 1000;
    out->transaction_id = id;
    out->producer = (char *)(uintptr_t)q->producer;
    out->business_key = (char *)(uintptr_t)(q->business_key ? q->business_key : "");
    out->prepared_time = at;
    out->check_count = q->check_count;
    return messages_of(a, q, out) < 0 ? NULL : out;
}
