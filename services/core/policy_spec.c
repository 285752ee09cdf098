/*
 * The JSON form of txmsg.v1.Producer and Subscription -> the structs of policy.h.
 *
 * Every message of the proto has a table here: one row for each member with its type, place, bounds and default. One
 * function reads any table, so that unknown members, wrong types and bounds are refused in one way, by name. Members
 * that the contract has and the workers cannot honour yet are refused as well unless they say nothing (MEMBER_LATER): a
 * filter or an order that is silently ignored would be worse than an error.
 */
#include "core/policy_private.h"
#include "core/validate.h"

#include <math.h>

enum kind {
    MEMBER_MS,   /* "10s" -> int64_t */
    MEMBER_INT,  /* -> int */
    MEMBER_NUM,  /* -> double */
    MEMBER_BOOL, /* -> bool */
    MEMBER_TEXT, /* -> const char *, at most `max` bytes, no control characters */
    MEMBER_HTTP, /* -> const char *, a URL */
    MEMBER_ENDPOINT,
    MEMBER_AMQP,   /* -> const char *, a URL */
    MEMBER_SECRET, /* -> const char * */
    MEMBER_NESTED, /* has a table of its own, or code: not read here */
    MEMBER_ENUM,   /* -> int: the place in `words`, from 1; `def` if the first word (UNSPECIFIED) is given */
    MEMBER_ABOUT,  /* a text for people, or set by the server: bounded, but not kept */
    MEMBER_LATER,  /* must be absent, or say nothing: false, 0, "0s", {}; or be one of `words` if there are any */
};

struct member {
    const char *name;
    enum kind kind;
    size_t offset;
    double min, max, def;
    const char *const *words; /* ended by NULL; words[0] = UNSPECIFIED */
};

/* Where the reader stands. */
struct spec {
    struct arena *arena;
    struct errmsg *e;
    const char *path; /* "check.", or "" at the top */
};

#define SECOND   1000.0
#define MINUTE   (60 * SECOND)
#define HOUR     (60 * MINUTE)
#define DAY      (24 * HOUR)
#define CHECK(m) offsetof(struct check_policy, m)
#define SUB(m)   offsetof(struct sub_conf, m)
#define SINK(m)  offsetof(struct sink_conf, m)

static const struct member topic_members[] = {
    {"name", MEMBER_NESTED},
    {"description", MEMBER_ABOUT, .max = 1024},
    {NULL},
};

static const struct member producer_members[] = {
    {"name", MEMBER_NESTED},
    {"description", MEMBER_ABOUT, .max = 1024},
    {"check", MEMBER_NESTED},
    {NULL},
};

static const struct member check_members[] = {
    {"endpoints", MEMBER_NESTED},
    {"secret", MEMBER_SECRET, CHECK(secret)},
    {"first_after", MEMBER_MS, CHECK(first_after_ms), 1 * SECOND, 1 * DAY, 10 * SECOND},
    {"initial", MEMBER_MS, CHECK(backoff.initial_ms), 1 * SECOND, 1 * DAY, 10 * SECOND},
    {"factor", MEMBER_NUM, CHECK(backoff.factor), 1, 100, 2},
    {"max", MEMBER_MS, CHECK(backoff.max_ms), 1 * SECOND, 1 * DAY, 10 * MINUTE},
    {"jitter", MEMBER_NUM, CHECK(backoff.jitter), 0, 1, 0.2},
    {"max_unknowns", MEMBER_INT, CHECK(max_unknowns), 1, 1000, 15},
    {"timeout", MEMBER_MS, CHECK(timeout_ms), 100, 10 * MINUTE, 5 * SECOND},
    {"concurrency", MEMBER_INT, CHECK(concurrency), 1, 4096, 16},
    {"include_body", MEMBER_BOOL, CHECK(include_body)},
    {"rolled_back_not_before", MEMBER_LATER},
    {"rate", MEMBER_LATER},
    {NULL},
};

static const char *const only_unordered[] = {"ORDERING_UNSPECIFIED", "ORDERING_NONE", NULL};

static const struct member sub_members[] = {
    {"name", MEMBER_NESTED},
    {"topic", MEMBER_NESTED},
    {"description", MEMBER_ABOUT, .max = 1024},
    {"sink", MEMBER_NESTED},
    {"retry", MEMBER_NESTED},
    {"concurrency", MEMBER_INT, SUB(concurrency), 1, 4096, 256},
    {"start_from", MEMBER_ABOUT, .max = 64}, /* of its creation: the store's */
    {"rate", MEMBER_LATER},
    {"ordering", MEMBER_LATER, .words = only_unordered},
    {"filter", MEMBER_LATER},
    {"state", MEMBER_ABOUT, .max = 64},
    {"create_time", MEMBER_ABOUT, .max = 64},
    {NULL},
};

static const struct member retry_members[] = {
    {"initial", MEMBER_MS, SUB(backoff.initial_ms), 10, 1 * DAY, 1 * SECOND},
    {"factor", MEMBER_NUM, SUB(backoff.factor), 1, 100, 2},
    {"max", MEMBER_MS, SUB(backoff.max_ms), 10, 1 * DAY, 10 * MINUTE},
    {"max_attempts", MEMBER_INT, SUB(max_attempts), 1, 1000, 16},
    {"max_age", MEMBER_MS, SUB(max_age_ms), 1 * SECOND, 365 * DAY, 24 * HOUR},
    {NULL},
};

static const char *const never[] = {NULL};

static const struct member sink_members[] = {
    {"http", MEMBER_NESTED},
    {"rabbitmq", MEMBER_NESTED},
    {"log", MEMBER_NESTED},
    {"discard", MEMBER_NESTED},
    {"kafka", MEMBER_LATER, .words = never},
    {"rocketmq", MEMBER_LATER, .words = never},
    {"nats", MEMBER_LATER, .words = never},
    {"redis", MEMBER_LATER, .words = never},
    {"grpc", MEMBER_LATER, .words = never},
    {NULL},
};

/* In the order of enum ack_mode. */
static const char *const ack_words[] = {"HTTP_ACK_MODE_UNSPECIFIED", "HTTP_ACK_MODE_STATUS_2XX",
                                        "HTTP_ACK_MODE_BODY_SUCCESS", NULL};

static const struct member http_members[] = {
    {"url", MEMBER_HTTP, SINK(http.url)},
    {"secret", MEMBER_SECRET, SINK(http.secret)},
    {"timeout", MEMBER_MS, SINK(http.timeout_ms), 100, 10 * MINUTE, 10 * SECOND},
    {"headers", MEMBER_NESTED},
    {"ack_mode", MEMBER_ENUM, SINK(http.ack), .def = ACK_STATUS_2XX, .words = ack_words},
    {NULL},
};

static const struct member rabbitmq_members[] = {
    {"url", MEMBER_AMQP, SINK(rabbitmq.url)},
    {"exchange", MEMBER_TEXT, SINK(rabbitmq.exchange), .max = 255},
    {"routing_key", MEMBER_TEXT, SINK(rabbitmq.routing_key), .max = 255},
    {"timeout", MEMBER_MS, SINK(rabbitmq.timeout_ms), 100, 10 * MINUTE, 10 * SECOND},
    {NULL},
};

static const struct member log_members[] = {{"include_body", MEMBER_LATER}, {NULL}};
static const struct member discard_members[] = {{NULL}};

/* --- reading --- */

/* The member, NULL when it is absent or null. */
static const json_t *member_of(const json_t *obj, const char *name) {
    const json_t *j = json_object_get(obj, name);
    return json_is_null(j) ? NULL : j;
}

/* Durations are printed as they are written: "100ms", "10s", "10m", "24h". */
static const char *print_ms(char out[32], double v) {
    int64_t ms = (int64_t)v;

    if (ms % (60 * 60 * 1000) == 0 && ms > 0)
        snprintf(out, 32, "%lldh", (long long)(ms / (60 * 60 * 1000)));
    else if (ms % (60 * 1000) == 0 && ms > 0)
        snprintf(out, 32, "%lldm", (long long)(ms / (60 * 1000)));
    else if (ms % 1000 == 0)
        snprintf(out, 32, "%llds", (long long)(ms / 1000));
    else
        snprintf(out, 32, "%lldms", (long long)ms);
    return out;
}

/* A key from outside, as short printable ASCII. */
static const char *print_key(char out[64], const char *key) {
    size_t n;

    for (n = 0; key[n] && n < 63; n++)
        out[n] = key[n] >= 0x20 && key[n] < 0x7f ? key[n] : '?';
    out[n] = '\0';
    return out;
}

/* A string without NUL, else NULL. */
static const char *text_of(const json_t *j) {
    const char *s = json_string_value(j);
    return s && strlen(s) == json_string_length(j) ? s : NULL;
}

static int keep_text(const struct spec *s, const char *name, const char *text, const char **ret) {
    *ret = arena_strndup(s->arena, text, strlen(text));
    if (!*ret)
        return err_set(s->e, -ENOMEM, "%s%s: out of memory", s->path, name);
    return 0;
}

static int read_ms(const struct spec *s, const struct member *m, const json_t *j, int64_t *ret) {
    const char *text = text_of(j);
    char min[32], max[32];
    int64_t ms = 0;
    int r;

    if (!j) {
        *ret = (int64_t)m->def;
        return 0;
    }
    r = text ? text_duration_ms(text, &ms) : -EINVAL;
    if (r == -EINVAL)
        return err_set(s->e, -EINVAL, "%s%s must be a duration such as \"10s\"", s->path, m->name);
    if (r < 0 || (double)ms < m->min || (double)ms > m->max)
        return err_set(s->e, -EINVAL, "%s%s is %.32s, the limit is %s..%s", s->path, m->name, text,
                       print_ms(min, m->min), print_ms(max, m->max));
    *ret = ms;
    return 0;
}

static int read_int(const struct spec *s, const struct member *m, const json_t *j, int *ret) {
    if (!j) {
        *ret = (int)m->def;
        return 0;
    }
    if (!json_is_integer(j))
        return err_set(s->e, -EINVAL, "%s%s must be a whole number", s->path, m->name);
    if ((double)json_integer_value(j) < m->min || (double)json_integer_value(j) > m->max)
        return err_set(s->e, -EINVAL, "%s%s is %lld, the limit is %.0f..%.0f", s->path, m->name,
                       (long long)json_integer_value(j), m->min, m->max);
    *ret = (int)json_integer_value(j);
    return 0;
}

static int read_num(const struct spec *s, const struct member *m, const json_t *j, double *ret) {
    double v = m->def;

    if (j && !json_is_number(j))
        return err_set(s->e, -EINVAL, "%s%s must be a number", s->path, m->name);
    if (j)
        v = json_number_value(j);
    if (!(v >= m->min && v <= m->max))
        return err_set(s->e, -EINVAL, "%s%s is %g, the limit is %g..%g", s->path, m->name, v, m->min, m->max);
    *ret = v;
    return 0;
}

static int read_enum(const struct spec *s, const struct member *m, const json_t *j, int *ret) {
    const char *text = text_of(j);

    *ret = (int)m->def;
    if (!j || (text && strcmp(text, m->words[0]) == 0))
        return 0;
    for (int i = 1; text && m->words[i]; i++) {
        if (strcmp(text, m->words[i]) == 0) {
            *ret = i;
            return 0;
        }
    }
    return err_set(s->e, -EINVAL, "%s%s must be %s%s%s", s->path, m->name, m->words[1], m->words[2] ? " or " : "",
                   m->words[2] ? m->words[2] : "");
}

/* Texts of every kind; absent = "". */
static int read_text(const struct spec *s, const struct member *m, const json_t *j, const char **ret) {
    const char *text = j ? text_of(j) : "", *wrong = NULL;
    struct violation v;

    if (!text)
        return err_set(s->e, -EINVAL, "%s%s must be a string", s->path, m->name);
    if ((m->kind == MEMBER_HTTP || m->kind == MEMBER_ENDPOINT || m->kind == MEMBER_AMQP) && text[0] == '\0')
        wrong = "is required";
    else if (m->kind == MEMBER_HTTP)
        wrong = url_wrong_http(text);
    else if (m->kind == MEMBER_ENDPOINT)
        wrong = url_wrong_endpoint(text);
    else if (m->kind == MEMBER_AMQP)
        wrong = url_wrong_amqp(text);
    else if (m->kind == MEMBER_SECRET)
        wrong = secret_wrong(text);
    else if (validate_text(m->name, bytes_str(text), (size_t)m->max, &v))
        wrong = v.description;
    if (wrong)
        return err_set(s->e, -EINVAL, "%s%s %s", s->path, m->name, wrong);
    return keep_text(s, m->name, text, ret);
}

static int read_about(const struct spec *s, const struct member *m, const json_t *j) {
    if (j && !text_of(j))
        return err_set(s->e, -EINVAL, "%s%s must be a string", s->path, m->name);
    if (j && (double)json_string_length(j) > m->max)
        return err_set(s->e, -EINVAL, "%s%s is %zu bytes, the limit is %.0f", s->path, m->name, json_string_length(j),
                       m->max);
    return 0;
}

/* True if the value is what its absence means. */
static bool says_nothing(const struct member *m, const json_t *j) {
    const char *text = text_of(j), *key;
    json_t *value;
    int64_t ms;

    if (m->words) {
        for (int i = 0; text && m->words[i]; i++)
            if (strcmp(text, m->words[i]) == 0)
                return true;
        return false;
    }
    switch (json_typeof(j)) {
    case JSON_FALSE:
        return true;
    case JSON_INTEGER:
        return json_integer_value(j) == 0;
    case JSON_STRING:
        return text && text_duration_ms(text, &ms) == 0 && ms == 0;
    case JSON_OBJECT: /* {"headers": {}} */
        json_object_foreach ((json_t *)j, key, value)
            if (!json_is_object(value) || !says_nothing(m, value))
                return false;
        return true;
    default:
        return false;
    }
}

static int read_member(const struct spec *s, const struct member *m, const json_t *j, void *out) {
    void *at = (char *)out + m->offset;

    switch (m->kind) {
    case MEMBER_MS:
        return read_ms(s, m, j, at);
    case MEMBER_INT:
        return read_int(s, m, j, at);
    case MEMBER_NUM:
        return read_num(s, m, j, at);
    case MEMBER_BOOL:
        if (j && !json_is_boolean(j))
            return err_set(s->e, -EINVAL, "%s%s must be true or false", s->path, m->name);
        *(bool *)at = json_is_true(j);
        return 0;
    case MEMBER_ENUM:
        return read_enum(s, m, j, at);
    case MEMBER_TEXT:
    case MEMBER_HTTP:
    case MEMBER_ENDPOINT:
    case MEMBER_AMQP:
    case MEMBER_SECRET:
        return read_text(s, m, j, at);
    case MEMBER_ABOUT:
        return read_about(s, m, j);
    case MEMBER_LATER:
        if (j && !says_nothing(m, j))
            return err_set(s->e, -EINVAL, "%s%s is not supported by this version", s->path, m->name);
        return 0;
    case MEMBER_NESTED:
        return 0;
    }
    UNREACHABLE();
}

/* All members of one object; obj NULL = it is absent, all defaults. */
static int read_members(const struct spec *s, const struct member *table, const json_t *obj, void *out) {
    const char *key;
    json_t *value;
    char name[64];

    if (obj && !json_is_object(obj)) {
        int n = (int)strlen(s->path);
        return err_set(s->e, -EINVAL, "%.*s must be an object", n > 0 ? n - 1 : 4, n > 0 ? s->path : "spec");
    }
    json_object_foreach ((json_t *)obj, key, value) {
        const struct member *m = table;
        while (m->name && strcmp(m->name, key) != 0)
            m++;
        if (!m->name)
            return err_set(s->e, -EINVAL, "%s%s is not a known member", s->path, print_key(name, key));
    }
    for (const struct member *m = table; m->name; m++) {
        int r = read_member(s, m, member_of(obj, m->name), out);
        if (r < 0)
            return r;
    }
    return 0;
}

/* A name inside the object may be there, but not tell another one. */
static int check_names(const struct spec *s, const char *name, const json_t *spec) {
    const json_t *j = member_of(spec, "name");
    const char *inside = text_of(j);
    struct violation v;

    if (validate_name("name", bytes_str(name), &v))
        return err_set(s->e, -EINVAL, "name %s", v.description);
    if (j && (!inside || (inside[0] != '\0' && strcmp(inside, name) != 0)))
        return err_set(s->e, -EINVAL, "name must be \"%s\"", name);
    return 0;
}

static int check_order(const struct spec *s, const struct backoff *b) {
    char max[32], initial[32];

    if (b->max_ms < b->initial_ms)
        return err_set(s->e, -EINVAL, "%smax is %s, less than initial, which is %s", s->path,
                       print_ms(max, (double)b->max_ms), print_ms(initial, (double)b->initial_ms));
    return 0;
}

/* --- topic, producer --- */

int spec_topic(const char *name, const json_t *spec, struct errmsg *e) {
    const struct spec s = {NULL, e, ""};
    int r = check_names(&s, name, spec);
    char none; /* no member of the table is kept */
    return r < 0 ? r : read_members(&s, topic_members, spec, &none);
}

static int read_endpoints(const struct spec *s, const json_t *list, struct check_policy *out) {
    out->endpoints_n = out->grpc_n = 0;
    if (!list)
        return 0;
    if (!json_is_array(list))
        return err_set(s->e, -EINVAL, "%sendpoints must be a list", s->path);
    if (json_array_size(list) > POLICY_ENDPOINTS_MAX)
        return err_set(s->e, -EINVAL, "%sendpoints are %zu, the limit is %d", s->path, json_array_size(list),
                       POLICY_ENDPOINTS_MAX);
    for (size_t i = 0; i < json_array_size(list); i++) {
        char name[32];
        const struct member m = {name, MEMBER_ENDPOINT};
        snprintf(name, sizeof(name), "endpoints[%zu]", i);
        int r = read_text(s, &m, json_array_get(list, i), &out->endpoints[i]);
        if (r < 0)
            return r;
        if (strncmp(out->endpoints[i], POLICY_GRPC, strlen(POLICY_GRPC)) == 0)
            out->grpc_n++;
        out->endpoints_n++;
    }
    return 0;
}

int spec_producer(const char *name, const json_t *spec, struct arena *a, struct check_policy *out, struct errmsg *e) {
    const struct spec top = {a, e, ""}, s = {a, e, "check."};
    const json_t *check = member_of(spec, "check");
    int r = check_names(&top, name, spec);

    if (r == 0)
        r = read_members(&top, producer_members, spec, out);
    if (r == 0)
        r = read_members(&s, check_members, check, out);
    if (r == 0)
        r = read_endpoints(&s, member_of(check, "endpoints"), out);
    return r < 0 ? r : check_order(&s, &out->backoff);
}

/* --- subscription --- */

enum { SINK_HEADERS = 32, SINK_HEADER_BYTES = 8192 };

static int check_sink_headers(const json_t *obj, struct errmsg *e) {
    struct header headers[SINK_HEADERS];
    size_t bytes = 0;
    uint32_t n = 0;
    const char *name;
    json_t *value;

    if (!json_is_object(obj))
        return err_set(e, -EINVAL, "sink.http.headers must be an object of strings");
    if (json_object_size(obj) > SINK_HEADERS)
        return err_set(e, -EINVAL, "sink.http.headers are %zu, the limit is %d", json_object_size(obj), SINK_HEADERS);
    json_object_foreach ((json_t *)obj, name, value) {
        struct violation v;
        if (!text_of(value))
            return err_set(e, -EINVAL, "sink.http.headers must be an object of strings");
        bytes += strlen(name) + json_string_length(value);
        headers[n] = (struct header){bytes_str(name), bytes_str(text_of(value))};
        if (validate_header("sink.http.headers", headers, n++, &v))
            return err_set(e, -EINVAL, "%s %s", v.field, v.description);
    }
    if (bytes > SINK_HEADER_BYTES)
        return err_set(e, -EINVAL, "sink.http.headers are %zu bytes together, the limit is %d", bytes,
                       SINK_HEADER_BYTES);
    return 0;
}

static int read_http(const struct spec *s, const json_t *obj, struct sink_conf *out) {
    const json_t *headers = member_of(obj, "headers");
    int r = read_members(s, http_members, obj, out);

    out->http.headers = NULL;
    if (r < 0 || !headers)
        return r;
    r = check_sink_headers(headers, s->e);
    if (r < 0 || json_object_size(headers) == 0)
        return r;
    out->http.headers = json_deep_copy(headers);
    return out->http.headers ? 0 : err_set(s->e, -ENOMEM, "sink.http.headers: out of memory");
}

static int read_sink(const struct spec *top, const json_t *sink, struct sink_conf *out) {
    static const struct {
        const char *name;
        enum sink_kind kind;
        const char *path;
        const struct member *members;
    } kinds[] = {
        {"http", SINK_HTTP, "sink.http.", http_members},
        {"rabbitmq", SINK_RABBITMQ, "sink.rabbitmq.", rabbitmq_members},
        {"log", SINK_LOG, "sink.log.", log_members},
        {"discard", SINK_DISCARD, "sink.discard.", discard_members},
    };
    const struct spec s = {top->arena, top->e, "sink."};
    size_t found = ARRAY_LEN(kinds), n = 0;
    int r;

    if (!sink)
        return err_set(top->e, -EINVAL, "sink is required");
    r = read_members(&s, sink_members, sink, out);
    if (r < 0)
        return r;
    for (size_t i = 0; i < ARRAY_LEN(kinds); i++) {
        if (member_of(sink, kinds[i].name)) {
            found = i;
            n++;
        }
    }
    if (n != 1)
        return err_set(top->e, -EINVAL, "sink must hold exactly one of http, rabbitmq, log, discard");
    const struct spec inner = {top->arena, top->e, kinds[found].path};
    const json_t *obj = member_of(sink, kinds[found].name);
    out->kind = kinds[found].kind;
    if (out->kind == SINK_HTTP)
        return read_http(&inner, obj, out);
    return read_members(&inner, kinds[found].members, obj, out);
}

int spec_sub(const char *name, const json_t *spec, struct arena *a, struct sub_conf *out, struct errmsg *e) {
    const struct spec top = {a, e, ""}, s = {a, e, "retry."};
    const char *topic = text_of(member_of(spec, "topic"));
    struct violation v;
    int r = check_names(&top, name, spec);

    if (r == 0)
        r = read_members(&top, sub_members, spec, out);
    if (r == 0 && !topic && member_of(spec, "topic"))
        r = err_set(e, -EINVAL, "topic must be a string");
    if (r == 0 && validate_name("topic", bytes_str(topic), &v))
        r = err_set(e, -EINVAL, "topic %s", v.description);
    if (r == 0)
        r = keep_text(&top, "topic", topic, &out->topic);
    if (r == 0)
        r = read_members(&s, retry_members, member_of(spec, "retry"), out);
    out->backoff.jitter = 1;
    if (r == 0)
        r = check_order(&s, &out->backoff);
    return r < 0 ? r : read_sink(&top, member_of(spec, "sink"), &out->sink);
}
