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
    if (include_body)
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
