/* Nothing but the words of http_answer.h: a body that is no acknowledgement in the declared form is none at all. */
#include "forward/http_answer.h"

#include "base/json.h"

#include <strings.h>

enum { SHOWN_BYTES = 80 };

static bool body_is_success(struct bytes b) {
    while (b.n && isspace(b.p[0]))
        b.p++, b.n--;
    while (b.n && isspace(b.p[b.n - 1]))
        b.n--;
    return b.n == 7 && strncasecmp((const char *)b.p, "success", 7) == 0;
}

/* The member at "result.code", NULL = there is none. */
static const json_t *member_at(const json_t *j, const char *path) {
    while (j && *path) {
        size_t n = strcspn(path, ".");
        j = json_object_getn(j, path, n);
        path += n + (path[n] == '.');
    }
    return j;
}

static bool value_is(const json_t *j, const char *want) {
    char number[32];

    switch (j ? (int)json_typeof(j) : -1) {
    case JSON_STRING:
        return strlen(want) == json_string_length(j) && strcmp(json_string_value(j), want) == 0;
    case JSON_INTEGER:
        snprintf(number, sizeof(number), "%lld", (long long)json_integer_value(j));
        return strcmp(number, want) == 0;
    case JSON_TRUE:
        return strcmp(want, "true") == 0;
    case JSON_FALSE:
        return strcmp(want, "false") == 0;
    default:
        return false;
    }
}

static bool body_has_field(struct bytes body, const char *path, const char *want) {
    CLEANUP_JSON json_t *j = json_parse(body, NULL);

    return j && value_is(member_at(j, path), *want ? want : "true");
}

static bool acknowledged(const struct sink_conf *c, int status, struct bytes body) {
    if (status < 200 || status > 299)
        return false;
    switch (c->http.ack) {
    case ACK_STATUS_2XX:
        return true;
    case ACK_BODY_SUCCESS:
        return body_is_success(body);
    case ACK_JSON_FIELD:
        return body_has_field(body, c->http.ack_field, c->http.ack_value);
    }
    UNREACHABLE();
}

static bool rejected(const struct sink_conf *c, int status) {
    if (status == 410)
        return true;
    for (int i = 0; i < c->http.rejects_n; i++)
        if (c->http.rejects[i] == status)
            return true;
    return false;
}

/* The beginning of a foreign text as one printable line. */
static void show(char out[SHOWN_BYTES + 1], struct bytes b) {
    size_t n = MIN(b.n, (size_t)SHOWN_BYTES);

    for (size_t i = 0; i < n; i++)
        out[i] = b.p[i] >= 0x20 && b.p[i] < 0x7f ? (char)b.p[i] : ' ';
    out[n] = 0;
}

enum sink_verdict http_answer_judge(const struct sink_conf *c, int status, struct bytes body,
                                    char why[HTTP_ANSWER_TEXT]) {
    char text[SHOWN_BYTES + 1];

    if (acknowledged(c, status, body))
        return SINK_OK;
    show(text, body);
    snprintf(why, HTTP_ANSWER_TEXT, "%sstatus %d: %s", status / 100 == 2 ? "not acknowledged: " : "", status, text);
    return rejected(c, status) ? SINK_REJECT : SINK_RETRY;
}
