/*
 * Structured mode. The members are taken one by one off the text, so that the data keeps its bytes: what is JSON is the
 * body as the producer sent it, and no parser between has touched a number.
 */
#include "event.h"

#include "base/crypto.h"
#include "json_scan.h"

enum { MEMBERS_MAX = 64, NAME_MAX_BYTES = 64 };

struct data {
    bool has, is_base64, is_string;
    struct bytes raw; /* the value as it stands there, with the blanks around it: they may be the body's own */
};

static int malformed(struct bytes text, size_t at, struct txmsg_why *why) {
    return why_set(why, TXMSG_BAD_EVENT, "not JSON of an event, at byte %zu of %zu", at, text.n);
}

static int read_attribute(struct txmsg_event *ev, enum attribute a, struct bytes text, size_t *at,
                          struct txmsg_why *why) {
    struct buf *out = NULL;
    int r = event_claim(ev, a, &out, why);

    if (r != TXMSG_OK)
        return r;
    r = json_scan_string(text, at, out);
    if (r == -EINVAL)
        return why_set(why, TXMSG_BAD_EVENT, "%s is not a string", attributes[a]);
    return r < 0 ? status_of(r) : TXMSG_OK;
}

static int read_data(struct data *d, bool is_base64, struct bytes text, size_t *at, struct txmsg_why *why) {
    size_t begin = *at, first;

    if (d->has)
        return why_set(why, TXMSG_BAD_EVENT, "data is there twice");
    json_scan_space(text, at);
    first = *at;
    if (json_scan_value(text, at) < 0)
        return malformed(text, *at, why);
    json_scan_space(text, at);
    *d = (struct data){.has = true,
                       .is_base64 = is_base64,
                       .is_string = text.p[first] == '"',
                       .raw = bytes_of(text.p + begin, *at - begin)};
    return TXMSG_OK;
}

static int read_member(struct txmsg_event *ev, struct data *d, struct bytes name, struct bytes text, size_t *at,
                       struct txmsg_why *why) {
    enum attribute a = attribute_of(name);

    if (bytes_eq_str(name, "data"))
        return read_data(d, false, text, at, why);
    if (bytes_eq_str(name, "data_base64"))
        return read_data(d, true, text, at, why);
    json_scan_space(text, at);
    if (a != ATTRIBUTES)
        return read_attribute(ev, a, text, at, why);
    return json_scan_value(text, at) < 0 ? malformed(text, *at, why) : TXMSG_OK; /* an extension */
}

static int read_members(struct txmsg_event *ev, struct data *d, struct bytes text, size_t *at, struct txmsg_why *why) {
    CLEANUP_BUF struct buf name;

    buf_init(&name, NAME_MAX_BYTES);
    for (int i = 0; i < MEMBERS_MAX; i++) {
        buf_reset(&name);
        json_scan_space(text, at);
        int r = json_scan_string(text, at, &name);
        if (r == -ENOMEM)
            return TXMSG_ERROR_MEMORY;
        json_scan_space(text, at);
        if (r < 0 || !json_scan_char(text, at, ':'))
            return malformed(text, *at, why);
        r = read_member(ev, d, buf_bytes(&name), text, at, why);
        if (r != TXMSG_OK)
            return r;
        json_scan_space(text, at);
        if (json_scan_char(text, at, '}'))
            return TXMSG_OK;
        if (!json_scan_char(text, at, ','))
            return malformed(text, *at, why);
    }
    return why_set(why, TXMSG_BAD_EVENT, "more than %d members", MEMBERS_MAX);
}

/* "application/json", "application/vnd.x+json; charset=utf-8"; nothing said means JSON in this mode. */
static bool type_is_json(struct bytes type) {
    const uint8_t *end = type.n ? memchr(type.p, ';', type.n) : NULL;
    size_t n = end ? (size_t)(end - type.p) : type.n;

    while (n && type.p[n - 1] == ' ')
        n--;
    return n == 0 || (n >= 5 && strncasecmp((const char *)type.p + n - 4, "json", 4) == 0 &&
                      (type.p[n - 5] == '/' || type.p[n - 5] == '+'));
}

static int take_base64(struct txmsg_event *ev, struct bytes raw, struct txmsg_why *why) {
    CLEANUP_BUF struct buf text;
    size_t at = 0;

    buf_init(&text, EVENT_MAX);
    json_scan_space(raw, &at);
    int r = json_scan_string(raw, &at, &text);
    if (r == 0)
        r = base64_get(&ev->body, buf_bytes(&text));
    if (r == -EINVAL)
        return why_set(why, TXMSG_BAD_EVENT, "data_base64 is not base64");
    return r < 0 ? status_of(r) : TXMSG_OK;
}

/* Text of another type than JSON is written as a string. */
static int take_data(struct txmsg_event *ev, const struct data *d, struct txmsg_why *why) {
    size_t at = 0;
    int r = 0;

    if (!d->has)
        return TXMSG_OK;
    if (d->is_base64)
        return take_base64(ev, d->raw, why);
    if (d->is_string && !type_is_json(buf_bytes(&ev->value[A_CONTENT_TYPE]))) {
        json_scan_space(d->raw, &at);
        r = json_scan_string(d->raw, &at, &ev->body);
    } else {
        buf_put_bytes(&ev->body, d->raw);
    }
    r = r < 0 ? r : buf_error(&ev->body);
    return r < 0 ? status_of(r) : TXMSG_OK;
}

int event_read_structured(struct txmsg_event *ev, struct bytes text, struct txmsg_why *why) {
    struct data data = {.has = false};
    size_t at = 0;

    json_scan_space(text, &at);
    if (!json_scan_char(text, &at, '{'))
        return malformed(text, at, why);
    int r = read_members(ev, &data, text, &at, why);
    if (r != TXMSG_OK)
        return r;
    json_scan_space(text, &at);
    if (at != text.n)
        return malformed(text, at, why);
    return take_data(ev, &data, why);
}
