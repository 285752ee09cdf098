/*
 * The meaning, size and count of what a caller sends, checked before anything is stored: a refusal here concerns one
 * caller, a refusal by the database would abort everybody's batch. Runs for each request, so the text of a field's name
 * is made only when there is something to say. No state; any thread.
 */
#include "core/validate.h"

#include <stdarg.h>
#include <strings.h>

static int PRINTF_LIKE(2, 3) describe(struct violation *v, const char *fmt, ...) {
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(v->description, sizeof(v->description), fmt, ap);
    va_end(ap);
    return 1;
}

static int PRINTF_LIKE(2, 3) at_field(struct violation *v, const char *fmt, ...) {
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(v->field, sizeof(v->field), fmt, ap);
    va_end(ap);
    return 1;
}

/* `prefix["name"]`. The name may be anything: what is not printable ASCII is escaped, and a long one is cut. */
static int at_header(struct violation *v, const char *prefix, struct bytes name) {
    char text[48];
    size_t n = 0, i;

    for (i = 0; i < name.n && n + 8 < sizeof(text); i++) {
        uint8_t c = name.p[i];
        if (c < 0x20 || c >= 0x7f) {
            n += (size_t)snprintf(text + n, sizeof(text) - n, "\\x%02x", c);
            continue;
        }
        if (c == '"' || c == '\\')
            text[n++] = '\\';
        text[n++] = (char)c;
    }
    text[n] = '\0';
    return at_field(v, "%s[\"%s%s\"]", prefix, text, i < name.n ? "..." : "");
}

/* --- one value: 1 and a description, the field is the caller's --- */

static int bad_size(size_t n, int64_t max, struct violation *v) {
    if ((int64_t)n > max)
        return describe(v, "is %zu bytes, the limit is %lld", n, (long long)max);
    return 0;
}

static bool has_control(struct bytes s) {
    for (size_t i = 0; i < s.n; i++)
        if (s.p[i] < 0x20 || s.p[i] == 0x7f)
            return true;
    return false;
}

static int bad_text(struct bytes text, size_t max, struct violation *v) {
    if (bad_size(text.n, (int64_t)max, v))
        return 1;
    if (has_control(text))
        return describe(v, "holds a control character");
    return 0;
}

static int bad_name(struct bytes name, struct violation *v) {
    if (name.n == 0)
        return describe(v, "is required");
    if (bad_size(name.n, LIMIT_NAME, v))
        return 1;
    if (!text_is_name(name))
        return describe(v, "may hold a-z, 0-9, '.', '_' and '-' only and begins with a letter or digit");
    return 0;
}

static bool is_token(uint8_t c) {
    if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9'))
        return true;
    return c != '\0' && strchr("!#$%&'*+.^_`|~-", c) != NULL;
}

static bool has_prefix(struct bytes s, const char *prefix) {
    size_t n = strlen(prefix);
    return s.n >= n && strncasecmp((const char *)s.p, prefix, n) == 0;
}

/* Few headers are the rule and the limit stands before: comparing each with each is cheaper than anything cleverer. */
static bool is_repeated(const struct header *h, uint32_t at) {
    struct bytes name = h[at].name;

    for (uint32_t i = 0; i < at; i++)
        if (h[i].name.n == name.n && strncasecmp((const char *)h[i].name.p, (const char *)name.p, name.n) == 0)
            return true;
    return false;
}

/* h[at], after all before it were found good. */
static int bad_header(const struct header *h, uint32_t at, struct violation *v) {
    static const char *const reserved[] = {"txmsg-", "ce-", "webhook-"};
    struct bytes name = h[at].name;

    if (name.n == 0)
        return describe(v, "has an empty name");
    if (name.n > LIMIT_HEADER_NAME)
        return describe(v, "has a name of %zu bytes, the limit is %d", name.n, LIMIT_HEADER_NAME);
    for (size_t i = 0; i < name.n; i++)
        if (!is_token(name.p[i]))
            return describe(v, "has a name with characters other than letters, digits and !#$%%&'*+.^_`|~-");
    for (size_t i = 0; i < ARRAY_LEN(reserved); i++)
        if (has_prefix(name, reserved[i]))
            return describe(v, "has a reserved name: it begins with \"%s\"", reserved[i]);
    if (is_repeated(h, at))
        return describe(v, "is there twice, names are compared regardless of case");
    if (has_control(h[at].value))
        return describe(v, "has a value with a control character");
    return 0;
}

/* --- for callers --- */

int validate_name(const char *field, struct bytes name, struct violation *v) {
    return bad_name(name, v) ? at_field(v, "%s", field) : 0;
}

int validate_text(const char *field, struct bytes text, size_t max, struct violation *v) {
    return bad_text(text, max, v) ? at_field(v, "%s", field) : 0;
}

int validate_header(const char *field, const struct header *h, uint32_t at, struct violation *v) {
    return bad_header(h, at, v) ? at_header(v, field, h[at].name) : 0;
}

int validate_id_window(const struct limits *l, const struct uuid *id, int64_t now_ms, struct violation *v) {
    int64_t age;

    if (!uuid_is_v7(id)) {
        describe(v, "must be a UUID of version 7");
        return at_field(v, "transaction_id");
    }
    age = now_ms - uuid_v7_ms(id);
    if (age > l->id_past_ms)
        describe(v, "its time lies %lld ms behind the database clock, the limit is %lld", (long long)age,
                 (long long)l->id_past_ms);
    else if (-age > l->id_future_ms)
        describe(v, "its time lies %lld ms ahead of the database clock, the limit is %lld", (long long)-age,
                 (long long)l->id_future_ms);
    else
        return 0;
    return at_field(v, "transaction_id");
}

static int validate_headers(const struct limits *l, const struct msg *m, uint32_t i, int64_t *total,
                            struct violation *v) {
    int64_t bytes = 0;
    char field[40];

    if (m->headers_n > l->headers) {
        describe(v, "are %u, the limit is %lld", m->headers_n, (long long)l->headers);
        return at_field(v, "messages[%u].headers", i);
    }
    for (uint32_t h = 0; h < m->headers_n; h++) {
        const struct header *header = &m->headers[h];
        if (bad_header(m->headers, h, v)) {
            snprintf(field, sizeof(field), "messages[%u].headers", i);
            return at_header(v, field, header->name);
        }
        bytes += (int64_t)(header->name.n + header->value.n);
    }
    if (bytes > l->header_bytes) {
        describe(v, "are %lld bytes together, the limit is %lld", (long long)bytes, (long long)l->header_bytes);
        return at_field(v, "messages[%u].headers", i);
    }
    *total += bytes;
    return 0;
}

static int validate_message(const struct limits *l, const struct msg *m, uint32_t i, int64_t *total,
                            struct violation *v) {
    if (bad_name(m->topic, v))
        return at_field(v, "messages[%u].topic", i);
    if (bad_size(m->key.n, LIMIT_KEY, v))
        return at_field(v, "messages[%u].key", i);
    if (bad_text(m->content_type, LIMIT_CONTENT_TYPE, v))
        return at_field(v, "messages[%u].content_type", i);
    if (bad_size(m->body.n, l->body_bytes, v))
        return at_field(v, "messages[%u].body", i);
    *total += (int64_t)(m->key.n + m->body.n);
    return validate_headers(l, m, i, total, v);
}

int validate_messages(const struct limits *l, const struct msg *m, uint32_t n, struct violation *v) {
    int64_t max = MIN(l->messages, LIMIT_MESSAGES_HARD), total = 0;

    if (n == 0) {
        describe(v, "are required");
        return at_field(v, "messages");
    }
    if (n > max) {
        describe(v, "are %u, the limit is %lld", n, (long long)max);
        return at_field(v, "messages");
    }
    for (uint32_t i = 0; i < n; i++)
        if (validate_message(l, &m[i], i, &total, v))
            return 1;
    if (total > l->transaction_bytes) {
        describe(v, "are %lld bytes together (bodies, headers, keys), the limit is %lld", (long long)total,
                 (long long)l->transaction_bytes);
        return at_field(v, "messages");
    }
    return 0;
}

int validate_times(const struct limits *l, int64_t id_ms, const struct msg *m, uint32_t n, struct violation *v) {
    int64_t id_us = id_ms * 1000;

    for (uint32_t i = 0; i < n; i++) {
        int64_t ahead_ms = (m[i].deliver_at_us - id_us) / 1000;
        if (m[i].deliver_at_us && ahead_ms > l->deliver_ahead_ms) {
            describe(v, "lies %lld s ahead of the time in transaction_id, the limit is %lld (the retention)",
                     (long long)ahead_ms / 1000, (long long)l->deliver_ahead_ms / 1000);
            return at_field(v, "messages[%u].deliver_at", i);
        }
        if (!m[i].expire_at_us)
            continue;
        if (m[i].expire_at_us <= id_us)
            describe(v, "must be later than the time in transaction_id (that of the call, if it has none)");
        else if (m[i].expire_at_us <= m[i].deliver_at_us)
            describe(v, "must be later than deliver_at");
        else
            continue;
        return at_field(v, "messages[%u].expire_at", i);
    }
    return 0;
}

int validate_bodies(const struct limits *l, const struct msg_body *b, size_t n, struct violation *v) {
    int64_t max = MIN(l->messages, LIMIT_MESSAGES_HARD), total = 0;

    if (n > (size_t)max) {
        describe(v, "are %zu, the limit is %lld", n, (long long)max);
        return at_field(v, "bodies");
    }
    for (size_t i = 0; i < n; i++) {
        if (b[i].n >= LIMIT_MESSAGES_HARD) {
            describe(v, "is %u, no transaction has so many messages", b[i].n);
            return at_field(v, "bodies[%zu].n", i);
        }
        for (size_t k = 0; k < i; k++) {
            if (b[k].n == b[i].n) {
                describe(v, "is %u, that of another one", b[i].n);
                return at_field(v, "bodies[%zu].n", i);
            }
        }
        if (bad_size(b[i].body.n, l->body_bytes, v))
            return at_field(v, "bodies[%zu].body", i);
        total += (int64_t)b[i].body.n;
    }
    if (total > l->transaction_bytes) {
        describe(v, "are %lld bytes together, the limit is %lld", (long long)total, (long long)l->transaction_bytes);
        return at_field(v, "bodies");
    }
    return 0;
}
