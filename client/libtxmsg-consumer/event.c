/* Events out of headers, and what makes one whole. */
#include "event.h"

#include <stdarg.h>
#include <strings.h>

enum { DIGITS_MAX = 9 };

const char *const attributes[ATTRIBUTES] = {
    [A_SPECVERSION] = "specversion",
    [A_ID] = "id",
    [A_SOURCE] = "source",
    [A_TYPE] = "type",
    [A_TIME] = "time",
    [A_SUBJECT] = "subject",
    [A_KEY] = "partitionkey",
    [A_CONTENT_TYPE] = "datacontenttype",
    [A_TRACEPARENT] = "traceparent",
    [A_TRACESTATE] = "tracestate",
};

int why_set(struct txmsg_why *why, int code, const char *fmt, ...) {
    va_list ap;

    va_start(ap, fmt);
    if (why)
        vsnprintf(why->text, sizeof(why->text), fmt, ap);
    va_end(ap);
    return code;
}

int status_of(int code) {
    return code == -ENOMEM ? TXMSG_ERROR_MEMORY : TXMSG_ERROR_INVALID;
}

enum attribute attribute_of(struct bytes name) {
    for (int i = 0; i < ATTRIBUTES; i++)
        if (bytes_eq_str(name, attributes[i]))
            return (enum attribute)i;
    return ATTRIBUTES;
}

int event_claim(struct txmsg_event *ev, enum attribute a, struct buf **ret, struct txmsg_why *why) {
    if (ev->has[a])
        return why_set(why, TXMSG_BAD_EVENT, "%s is there twice", attributes[a]);
    ev->has[a] = true;
    *ret = &ev->value[a];
    return TXMSG_OK;
}

/* --- headers --- */

static bool name_is(const struct txmsg_header *h, const char *name) {
    return h->name_size == strlen(name) && strncasecmp(h->name, name, h->name_size) == 0;
}

int header_one(const struct txmsg_header *headers, size_t n, const char *name, struct bytes *ret) {
    int found = 0;

    *ret = BYTES_NULL;
    for (size_t i = 0; i < n; i++) {
        if (!name_is(&headers[i], name))
            continue;
        if (found++)
            return TXMSG_BAD_EVENT;
        *ret = bytes_of(headers[i].value, headers[i].value_size);
    }
    return found;
}

static bool headers_valid(const struct txmsg_header *headers, size_t n) {
    if (n && !headers)
        return false;
    for (size_t i = 0; i < n; i++)
        if (!headers[i].name || (headers[i].value_size && !headers[i].value))
            return false;
    return true;
}

static int hex_of(uint8_t c) {
    return c >= '0' && c <= '9' ? c - '0' : isxdigit(c) ? (c | 0x20) - 'a' + 10 : -1;
}

static int put_unpercent(struct buf *out, struct bytes v) {
    for (size_t i = 0; i < v.n; i++) {
        if (v.p[i] != '%') {
            buf_put_char(out, (char)v.p[i]);
            continue;
        }
        int high = v.n - i > 2 ? hex_of(v.p[i + 1]) : -1, low = v.n - i > 2 ? hex_of(v.p[i + 2]) : -1;
        if (high < 0 || low < 0)
            return TXMSG_BAD_EVENT;
        buf_put_char(out, (char)(high << 4 | low));
        i += 2;
    }
    return buf_error(out) < 0 ? status_of(buf_error(out)) : TXMSG_OK;
}

static int put_value(struct txmsg_event *ev, enum attribute a, struct bytes v, bool percent, struct txmsg_why *why) {
    struct buf *out = NULL;
    int r = event_claim(ev, a, &out, why);

    if (r != TXMSG_OK)
        return r;
    if (!percent) {
        buf_put_bytes(out, v);
        return buf_error(out) < 0 ? status_of(buf_error(out)) : TXMSG_OK;
    }
    r = put_unpercent(out, v);
    return r == TXMSG_BAD_EVENT ? why_set(why, r, "%s is not percent-encoded as it must be", attributes[a]) : r;
}

/* A header that stands beside the attributes, in every protocol. */
static int put_header(struct txmsg_event *ev, const struct txmsg_header *headers, size_t n, const char *name,
                      enum attribute a, struct txmsg_why *why) {
    struct bytes v;
    int r = header_one(headers, n, name, &v);

    if (r == TXMSG_BAD_EVENT)
        return why_set(why, r, "the header %s is there twice", name);
    return r ? put_value(ev, a, v, false, why) : TXMSG_OK;
}

/* Attributes that stand in headers behind `prefix`. No producer can send such: "ce-" is reserved, ':' no part of a name. */
static int put_attributes(struct txmsg_event *ev, const struct txmsg_header *headers, size_t n, const char *prefix,
                          bool http, struct txmsg_why *why) {
    size_t skip = strlen(prefix);

    for (size_t i = 0; i < n; i++) {
        const struct txmsg_header *h = &headers[i];
        if (h->name_size <= skip || strncasecmp(h->name, prefix, skip) != 0)
            continue;
        for (int a = 0; a < A_CONTENT_TYPE; a++) {
            size_t size = strlen(attributes[a]);
            if (h->name_size - skip != size || strncasecmp(h->name + skip, attributes[a], size) != 0)
                continue;
            int r = put_value(ev, (enum attribute)a, bytes_of(h->value, h->value_size), http, why);
            if (r != TXMSG_OK)
                return r;
        }
    }
    return TXMSG_OK;
}

static int put_trace(struct txmsg_event *ev, const struct txmsg_header *headers, size_t n, struct txmsg_why *why) {
    int r = put_header(ev, headers, n, "traceparent", A_TRACEPARENT, why);

    return r == TXMSG_OK ? put_header(ev, headers, n, "tracestate", A_TRACESTATE, why) : r;
}

/* --- what makes an event whole --- */

/* A number of digits alone; -1 if it is not one. */
static int number_of(struct bytes v) {
    int n = 0;

    if (v.n == 0 || v.n > DIGITS_MAX)
        return -1;
    for (size_t i = 0; i < v.n; i++) {
        if (!isdigit(v.p[i]))
            return -1;
        n = n * 10 + (v.p[i] - '0');
    }
    return n;
}

static int read_attempt(struct txmsg_event *ev, const struct txmsg_header *headers, size_t n, struct txmsg_why *why) {
    struct bytes v;
    int r = header_one(headers, n, "txmsg-attempt", &v);

    if (r == 0)
        return TXMSG_OK;
    ev->attempt = r == TXMSG_BAD_EVENT ? -1 : number_of(v);
    return ev->attempt < 1 ? why_set(why, TXMSG_BAD_EVENT, "txmsg-attempt is not a number") : TXMSG_OK;
}

/* "<uuid>.<n>" */
static int read_id(struct txmsg_event *ev, struct txmsg_why *why) {
    struct bytes id = buf_bytes(&ev->value[A_ID]);
    struct uuid u;
    size_t dot = UUID_TEXT - 1;

    if (id.n < dot + 2 || id.p[dot] != '.' || uuid_parse(bytes_of(id.p, dot), &u) < 0)
        return why_set(why, TXMSG_BAD_EVENT, "id is not of the form <transaction id>.<n>");
    struct bytes digits = bytes_of(id.p + dot + 1, id.n - dot - 1);
    int n = number_of(digits);
    uuid_format(&u, ev->transaction_id);
    /* One text for one id: an inbox compares them. */
    if (n < 0 || (digits.p[0] == '0' && digits.n > 1) || memcmp(ev->transaction_id, id.p, dot) != 0)
        return why_set(why, TXMSG_BAD_EVENT, "id is not of the form <transaction id>.<n>");
    ev->n = (unsigned)n;
    return TXMSG_OK;
}

static int finish(struct txmsg_event *ev, struct txmsg_why *why) {
    for (int a = 0; a < ATTRIBUTES; a++)
        if (a != A_KEY && !text_valid(buf_bytes(&ev->value[a])))
            return why_set(why, TXMSG_BAD_EVENT, "%s is not UTF-8", attributes[a]);
    for (int a = A_SPECVERSION; a <= A_TYPE; a++)
        if (ev->value[a].n == 0)
            return why_set(why, TXMSG_BAD_EVENT, "%s is missing", attributes[a]);
    if (!bytes_eq_str(buf_bytes(&ev->value[A_SPECVERSION]), "1.0"))
        return why_set(why, TXMSG_BAD_EVENT, "specversion is not 1.0");
    return read_id(ev, why);
}

static struct txmsg_event *event_new(void) {
    struct txmsg_event *ev = mem_zalloc(sizeof(*ev));

    if (!ev)
        return NULL;
    for (int a = 0; a < ATTRIBUTES; a++)
        buf_init(&ev->value[a], EVENT_MAX);
    buf_init(&ev->body, EVENT_MAX);
    return ev;
}

void txmsg_event_free(txmsg_event *ev) {
    if (!ev)
        return;
    for (int a = 0; a < ATTRIBUTES; a++)
        buf_deinit(&ev->value[a]);
    buf_deinit(&ev->body);
    mem_free(ev);
}

DEFINE_CLEANUP(struct txmsg_event *, event, txmsg_event_free);

static int put_body(struct txmsg_event *ev, const void *body, size_t size) {
    buf_put(&ev->body, body, size);
    return buf_error(&ev->body) < 0 ? status_of(buf_error(&ev->body)) : TXMSG_OK;
}

/* --- the protocols --- */

/* The id that was signed, with '-' for the dot that it may not hold. */
static int compare_ids(const struct txmsg_event *ev, const struct txmsg_header *headers, size_t n, bool required,
                       struct txmsg_why *why) {
    struct bytes signed_id, id = buf_bytes(&ev->value[A_ID]);
    size_t dot = UUID_TEXT - 1;
    int r = header_one(headers, n, "webhook-id", &signed_id);

    if (r == 0 && !required)
        return TXMSG_OK;
    if (r != 1 || signed_id.n != id.n || signed_id.p[dot] != '-' || memcmp(signed_id.p, id.p, dot) != 0 ||
        memcmp(signed_id.p + dot + 1, id.p + dot + 1, id.n - dot - 1) != 0)
        return why_set(why, TXMSG_BAD_EVENT, "the event's id is not the one of webhook-id");
    return TXMSG_OK;
}

/* 1: structured, 0: binary. */
static int mode_of(struct bytes type, struct txmsg_why *why) {
    static const char prefix[] = "application/cloudevents";
    size_t n = sizeof(prefix) - 1;

    if (type.n < n || strncasecmp((const char *)type.p, prefix, n) != 0)
        return 0;
    struct bytes rest = bytes_of(type.p + n, type.n - n);
    if (rest.n >= 5 && strncasecmp((const char *)rest.p, "+json", 5) == 0 &&
        (rest.n == 5 || rest.p[5] == ';' || rest.p[5] == ' '))
        return 1;
    return why_set(why, TXMSG_BAD_EVENT, "an event in a format that is not JSON, or a batch of them");
}

static int read_http(struct txmsg_event *ev, const struct txmsg_header *headers, size_t n, struct bytes body,
                     struct txmsg_why *why) {
    struct bytes type;
    int r = header_one(headers, n, "content-type", &type);

    if (r == TXMSG_BAD_EVENT)
        return why_set(why, r, "the header content-type is there twice");
    r = mode_of(type, why);
    if (r == TXMSG_BAD_EVENT)
        return r;
    if (r == 1)
        return event_read_structured(ev, body, why);
    r = put_attributes(ev, headers, n, "ce-", true, why);
    if (r == TXMSG_OK)
        r = put_header(ev, headers, n, "content-type", A_CONTENT_TYPE, why);
    if (r == TXMSG_OK)
        r = put_trace(ev, headers, n, why);
    return r == TXMSG_OK ? put_body(ev, body.p, body.n) : r;
}

int txmsg_event_from_http(txmsg_event **ret, const struct txmsg_webhook *keys, const struct txmsg_header *headers,
                          size_t headers_n, const void *body, size_t size, int64_t now_s, struct txmsg_why *why) {
    if (ret)
        *ret = NULL;
    if (!ret || !headers_valid(headers, headers_n) || (size && !body))
        return why_set(why, TXMSG_ERROR_INVALID, "an argument is NULL");
    int r = keys ? txmsg_webhook_verify(keys, headers, headers_n, body, size, now_s, why) : TXMSG_OK;
    if (r != TXMSG_OK)
        return r;
    CLEANUP(event_cleanup) struct txmsg_event *ev = event_new();
    if (!ev)
        return TXMSG_ERROR_MEMORY;
    r = read_http(ev, headers, headers_n, bytes_of(body, size), why);
    if (r == TXMSG_OK)
        r = finish(ev, why);
    if (r == TXMSG_OK)
        r = compare_ids(ev, headers, headers_n, keys != NULL, why);
    if (r == TXMSG_OK)
        r = read_attempt(ev, headers, headers_n, why);
    if (r == TXMSG_OK)
        *ret = TAKE(ev);
    return r;
}

int txmsg_event_from_amqp(txmsg_event **ret, const struct txmsg_header *headers, size_t headers_n,
                          const char *content_type, const void *body, size_t size, struct txmsg_why *why) {
    if (ret)
        *ret = NULL;
    if (!ret || !headers_valid(headers, headers_n) || (size && !body))
        return why_set(why, TXMSG_ERROR_INVALID, "an argument is NULL");
    CLEANUP(event_cleanup) struct txmsg_event *ev = event_new();
    if (!ev)
        return TXMSG_ERROR_MEMORY;
    int r = put_attributes(ev, headers, headers_n, "cloudEvents:", false, why);
    if (r == TXMSG_OK && content_type)
        r = put_value(ev, A_CONTENT_TYPE, bytes_str(content_type), false, why);
    if (r == TXMSG_OK)
        r = put_trace(ev, headers, headers_n, why);
    if (r == TXMSG_OK)
        r = put_body(ev, body, size);
    if (r == TXMSG_OK)
        r = finish(ev, why);
    if (r == TXMSG_OK)
        r = read_attempt(ev, headers, headers_n, why);
    if (r == TXMSG_OK)
        *ret = TAKE(ev);
    return r;
}

/* --- reading --- */

static const char *text_of(const txmsg_event *ev, enum attribute a) {
    return ev ? buf_str(&ev->value[a]) : "";
}

const char *txmsg_event_id(const txmsg_event *ev) {
    return text_of(ev, A_ID);
}

const char *txmsg_event_transaction_id(const txmsg_event *ev) {
    return ev ? ev->transaction_id : "";
}

unsigned txmsg_event_n(const txmsg_event *ev) {
    return ev ? ev->n : 0;
}

const char *txmsg_event_topic(const txmsg_event *ev) {
    return text_of(ev, A_TYPE);
}

const char *txmsg_event_producer(const txmsg_event *ev) {
    static const char prefix[] = "/txmsg/producers/";
    const char *source = text_of(ev, A_SOURCE);

    return strncmp(source, prefix, sizeof(prefix) - 1) == 0 ? source + sizeof(prefix) - 1 : "";
}

const char *txmsg_event_business_key(const txmsg_event *ev) {
    return text_of(ev, A_SUBJECT);
}

const char *txmsg_event_time(const txmsg_event *ev) {
    return text_of(ev, A_TIME);
}

const char *txmsg_event_content_type(const txmsg_event *ev) {
    return text_of(ev, A_CONTENT_TYPE);
}

const char *txmsg_event_traceparent(const txmsg_event *ev) {
    return text_of(ev, A_TRACEPARENT);
}

const char *txmsg_event_tracestate(const txmsg_event *ev) {
    return text_of(ev, A_TRACESTATE);
}

int txmsg_event_attempt(const txmsg_event *ev) {
    return ev ? ev->attempt : 0;
}

static const void *bytes_out(const struct buf *b, size_t *size) {
    if (size)
        *size = b ? b->n : 0;
    return b ? buf_str(b) : "";
}

const void *txmsg_event_key(const txmsg_event *ev, size_t *size) {
    return bytes_out(ev ? &ev->value[A_KEY] : NULL, size);
}

const void *txmsg_event_body(const txmsg_event *ev, size_t *size) {
    return bytes_out(ev ? &ev->body : NULL, size);
}
