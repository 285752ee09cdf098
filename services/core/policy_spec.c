/*
 * The JSON form of txmsg.v1.Producer and Subscription -> the structs of policy.h. Every message of the proto has a table here,
 * read by policy_member.c.
 */
#include "core/policy_member.h"
#include "core/policy_private.h"
#include "core/validate.h"

#define SECOND   1000.0
#define MINUTE   (60 * SECOND)
#define HOUR     (60 * MINUTE)
#define DAY      (24 * HOUR)
#define CHECK(m) offsetof(struct check_policy, m)
#define SUB(m)   offsetof(struct sub_conf, m)
#define SINK(m)  offsetof(struct sink_conf, m)
#define TOLD(m)  offsetof(struct outcome_topics, m)

static const struct member topic_members[] = {
    {"name", MEMBER_NESTED},
    {"description", MEMBER_ABOUT, .max = 1024},
    {NULL},
};

static const struct member producer_members[] = {
    {"name", MEMBER_NESTED},
    {"description", MEMBER_ABOUT, .max = 1024},
    {"check", MEMBER_NESTED},
    {"outcomes", MEMBER_NESTED},
    {NULL},
};

static const struct member outcome_members[] = {
    {"delivered", MEMBER_TEXT, TOLD(delivered), .max = LIMIT_NAME},
    {"dead", MEMBER_TEXT, TOLD(dead), .max = LIMIT_NAME},
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
    {"rolled_back_not_before", MEMBER_MS, CHECK(rolled_back_not_before_ms), 0, 1 * DAY, 0},
    {"rate", MEMBER_INT, CHECK(rate), 0, 100000, 0},
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
    {"rate", MEMBER_INT, SUB(rate), 0, 1000000, 0},
    {"dead_letter_topic", MEMBER_TEXT, SUB(dead_letter_topic), .max = 128},
    {"ordering", MEMBER_LATER, .words = only_unordered},
    {"filter", MEMBER_NESTED},
    {"breaker", MEMBER_NESTED},
    {"state", MEMBER_ABOUT, .max = 64},
    {"create_time", MEMBER_ABOUT, .max = 64},
    {NULL},
};

static const struct member breaker_members[] = {
    {"failures", MEMBER_INT, SUB(breaker.failures), 1, 10000, 16},
    {"open", MEMBER_MS, SUB(breaker.open_ms), 100, 1 * HOUR, 1 * SECOND},
    {"max_open", MEMBER_MS, SUB(breaker.max_open_ms), 100, 1 * HOUR, 30 * SECOND},
    {NULL},
};

static const struct member filter_members[] = {{"headers", MEMBER_NESTED}, {NULL}};

static const struct member retry_members[] = {
    {"initial", MEMBER_MS, SUB(backoff.initial_ms), 10, 1 * DAY, 1 * SECOND},
    {"factor", MEMBER_NUM, SUB(backoff.factor), 1, 100, 2},
    {"max", MEMBER_MS, SUB(backoff.max_ms), 10, 1 * DAY, 10 * MINUTE},
    {"max_attempts", MEMBER_INT, SUB(max_attempts), 1, 1000, 16},
    {"max_age", MEMBER_MS, SUB(max_age_ms), 1 * SECOND, 365 * DAY, 24 * HOUR},
    {"jitter", MEMBER_NUM, SUB(backoff.jitter), 0, 1, 1},
    {"schedule", MEMBER_NESTED},
    {"intervals", MEMBER_NESTED},
    {NULL},
};

/* standard: what the Standard Webhooks specification recommends. */
#define MIN_MS (60 * 1000ll)
#define H_MS   (60 * MIN_MS)
static const struct {
    const char *name;
    int n;
    int64_t ms[9];
} schedules[] = {
    {"standard", 9, {5000, 5 * MIN_MS, 30 * MIN_MS, 2 * H_MS, 5 * H_MS, 10 * H_MS, 14 * H_MS, 20 * H_MS, 24 * H_MS}},
    {"alipay", 7, {4 * MIN_MS, 10 * MIN_MS, 10 * MIN_MS, 1 * H_MS, 2 * H_MS, 6 * H_MS, 15 * H_MS}},
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
    {"grpc", MEMBER_NESTED},
    {NULL},
};

/* In the order of enum ack_mode. */
static const char *const ack_words[] = {"HTTP_ACK_MODE_UNSPECIFIED", "HTTP_ACK_MODE_STATUS_2XX",
                                        "HTTP_ACK_MODE_BODY_SUCCESS", "HTTP_ACK_MODE_JSON_FIELD", NULL};
/* In the order of enum content_mode. */
static const char *const mode_words[] = {"HTTP_CONTENT_MODE_UNSPECIFIED", "HTTP_CONTENT_MODE_BINARY",
                                         "HTTP_CONTENT_MODE_STRUCTURED", NULL};

static const struct member http_members[] = {
    {"url", MEMBER_HTTP, SINK(http.url)},
    {"secret", MEMBER_SECRET, SINK(http.secret)},
    {"timeout", MEMBER_MS, SINK(http.timeout_ms), 100, 10 * MINUTE, 10 * SECOND},
    {"headers", MEMBER_NESTED},
    {"ack_mode", MEMBER_ENUM, SINK(http.ack), .def = ACK_STATUS_2XX, .words = ack_words},
    {"previous_secret", MEMBER_SECRET, SINK(http.previous_secret)},
    {"ack_field", MEMBER_TEXT, SINK(http.ack_field), .max = 255},
    {"ack_value", MEMBER_TEXT, SINK(http.ack_value), .max = 255},
    {"content_mode", MEMBER_ENUM, SINK(http.mode), .def = CONTENT_BINARY, .words = mode_words},
    {"reject_statuses", MEMBER_NESTED},
    {NULL},
};

static const struct member rabbitmq_members[] = {
    {"url", MEMBER_AMQP, SINK(rabbitmq.url)},
    {"exchange", MEMBER_TEXT, SINK(rabbitmq.exchange), .max = 255},
    {"routing_key", MEMBER_TEXT, SINK(rabbitmq.routing_key), .max = 255},
    {"timeout", MEMBER_MS, SINK(rabbitmq.timeout_ms), 100, 10 * MINUTE, 10 * SECOND},
    {NULL},
};

static const struct member grpc_members[] = {
    {"endpoints", MEMBER_NESTED},
    {"tls", MEMBER_LATER},
    {"token", MEMBER_LATER},
    {"timeout", MEMBER_MS, SINK(grpc.timeout_ms), 100, 10 * MINUTE, 10 * SECOND},
    {NULL},
};

static const struct member log_members[] = {{"include_body", MEMBER_LATER}, {NULL}};
static const struct member discard_members[] = {{NULL}};

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

/* The number of endpoints, or negative. */
static int read_endpoints(const struct spec *s, const json_t *list, enum kind kind,
                          const char *out[POLICY_ENDPOINTS_MAX]) {
    if (list && !json_is_array(list))
        return err_set(s->e, -EINVAL, "%sendpoints must be a list", s->path);
    if (json_array_size(list) > POLICY_ENDPOINTS_MAX)
        return err_set(s->e, -EINVAL, "%sendpoints are %zu, the limit is %d", s->path, json_array_size(list),
                       POLICY_ENDPOINTS_MAX);
    for (size_t i = 0; i < json_array_size(list); i++) {
        char name[32];
        const struct member m = {name, kind};
        snprintf(name, sizeof(name), "endpoints[%zu]", i);
        int r = read_text(s, &m, json_array_get(list, i), &out[i]);
        if (r < 0)
            return r;
    }
    return (int)json_array_size(list);
}

static int read_check_endpoints(const struct spec *s, const json_t *list, struct check_policy *out) {
    int n = read_endpoints(s, list, MEMBER_ENDPOINT, out->endpoints);

    out->endpoints_n = MAX(n, 0);
    out->grpc_n = 0;
    for (int i = 0; i < out->endpoints_n; i++)
        out->grpc_n += strncmp(out->endpoints[i], POLICY_GRPC, strlen(POLICY_GRPC)) == 0;
    return MIN(n, 0);
}

static int read_outcomes(const struct spec *s, const char *producer, const json_t *obj, struct outcome_topics *out) {
    int r = read_members(s, outcome_members, obj, out);

    if (r == 0 && strcmp(producer, POLICY_OWN_PRODUCER) == 0 && (out->delivered[0] || out->dead[0]))
        return err_set(s->e, -EINVAL,
                       "outcomes: producer " POLICY_OWN_PRODUCER " is the service itself, and has no outcomes");
    return r;
}

int spec_producer(const char *name, const json_t *spec, struct arena *a, struct check_policy *out,
                  struct outcome_topics *outcomes, struct errmsg *e) {
    const struct spec top = {a, e, ""}, s = {a, e, "check."}, o = {a, e, "outcomes."};
    const json_t *check = member_of(spec, "check");
    int r = check_names(&top, name, spec);

    if (r == 0)
        r = read_members(&top, producer_members, spec, out);
    if (r == 0)
        r = read_members(&s, check_members, check, out);
    if (r == 0)
        r = read_outcomes(&o, name, member_of(spec, "outcomes"), outcomes);
    out->backoff.list_n = 0;
    if (r == 0)
        r = read_check_endpoints(&s, member_of(check, "endpoints"), out);
    return r < 0 ? r : check_order(&s, &out->backoff);
}

/* --- subscription --- */

enum { SINK_HEADERS = 32, SINK_HEADER_BYTES = 8192, SINK_TEXT_MAX = 1 << 20 };

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

static int read_rejects(const struct spec *s, const json_t *list, struct sink_conf *out) {
    out->http.rejects_n = 0;
    if (list && !json_is_array(list))
        return err_set(s->e, -EINVAL, "%sreject_statuses must be a list", s->path);
    if (json_array_size(list) > POLICY_REJECTS_MAX)
        return err_set(s->e, -EINVAL, "%sreject_statuses are %zu, the limit is %d", s->path, json_array_size(list),
                       POLICY_REJECTS_MAX);
    for (size_t i = 0; i < json_array_size(list); i++) {
        json_int_t status = json_integer_value(json_array_get(list, i)); /* 0 for what is no number */
        if (status < 300 || status > 599)
            return err_set(s->e, -EINVAL, "%sreject_statuses[%zu] must be a status of 300 to 599", s->path, i);
        out->http.rejects[out->http.rejects_n++] = (int)status;
    }
    return 0;
}

static int check_http(const struct spec *s, const struct sink_conf *c) {
    if (c->http.previous_secret[0] && !c->http.secret[0])
        return err_set(s->e, -EINVAL, "%sprevious_secret needs a secret", s->path);
    if ((c->http.ack == ACK_JSON_FIELD) != (c->http.ack_field[0] != '\0'))
        return err_set(s->e, -EINVAL, "%sack_field belongs to ack_mode HTTP_ACK_MODE_JSON_FIELD, which needs it",
                       s->path);
    if (c->http.ack_value[0] && !c->http.ack_field[0])
        return err_set(s->e, -EINVAL, "%sack_value needs an ack_field", s->path);
    return 0;
}

static int read_http(const struct spec *s, const json_t *obj, struct sink_conf *out) {
    const json_t *headers = member_of(obj, "headers");
    int r = read_members(s, http_members, obj, out);

    out->http.headers = NULL;
    if (r == 0)
        r = read_rejects(s, member_of(obj, "reject_statuses"), out);
    if (r == 0)
        r = check_http(s, out);
    if (r < 0 || !headers)
        return r;
    r = check_sink_headers(headers, s->e);
    if (r < 0 || json_object_size(headers) == 0)
        return r;
    out->http.headers = json_clone(headers);
    return out->http.headers ? 0 : err_set(s->e, -ENOMEM, "sink.http.headers: out of memory");
}

static int read_grpc(const struct spec *s, const json_t *obj, struct sink_conf *out) {
    int r = read_members(s, grpc_members, obj, out);
    int n = r < 0 ? r : read_endpoints(s, member_of(obj, "endpoints"), MEMBER_GRPC, out->grpc.endpoints);

    out->grpc.endpoints_n = MAX(n, 0);
    if (n == 0)
        return err_set(s->e, -EINVAL, "%sendpoints is required", s->path);
    return MIN(n, 0);
}

static int keep_sink_text(const struct spec *s, const json_t *sink, struct sink_conf *out) {
    CLEANUP_BUF struct buf text;

    buf_init(&text, SINK_TEXT_MAX);
    if (json_write(&text, sink) < 0)
        return err_set(s->e, -ENOMEM, "%s: out of memory", "sink");
    return keep_text(s, "sink", buf_str(&text), &out->text);
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
        {"grpc", SINK_GRPC, "sink.grpc.", grpc_members},
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
        return err_set(top->e, -EINVAL, "sink must hold exactly one of http, rabbitmq, grpc, log, discard");
    r = keep_sink_text(top, sink, out);
    if (r < 0)
        return r;
    const struct spec inner = {top->arena, top->e, kinds[found].path};
    const json_t *obj = member_of(sink, kinds[found].name);
    out->kind = kinds[found].kind;
    if (out->kind == SINK_HTTP)
        return read_http(&inner, obj, out);
    if (out->kind == SINK_GRPC)
        return read_grpc(&inner, obj, out);
    return read_members(&inner, kinds[found].members, obj, out);
}

static int read_intervals(const struct spec *s, const json_t *list, struct backoff *out) {
    size_t n = json_array_size(list);
    int64_t *ms = n ? arena_alloc(s->arena, n * sizeof(*ms)) : NULL;

    if (!json_is_array(list) || n == 0 || n > POLICY_INTERVALS_MAX)
        return err_set(s->e, -EINVAL, "%sintervals must be a list of 1 to %d durations", s->path, POLICY_INTERVALS_MAX);
    if (!ms)
        return err_set(s->e, -ENOMEM, "%sintervals: out of memory", s->path);
    for (size_t i = 0; i < n; i++) {
        char name[32];
        const struct member m = {name, MEMBER_MS, 0, 10, 30 * DAY, 0};
        snprintf(name, sizeof(name), "intervals[%zu]", i);
        int r = read_ms(s, &m, json_array_get(list, i), &ms[i]);
        if (r < 0)
            return r;
        if (ms[i] == 0)
            return err_set(s->e, -EINVAL, "%s%s must be a duration such as \"10s\"", s->path, name);
    }
    out->list_ms = ms;
    out->list_n = (int)n;
    return 0;
}

static int read_schedule(const struct spec *s, const char *name, struct backoff *out) {
    for (size_t i = 0; name && i < ARRAY_LEN(schedules); i++) {
        if (strcmp(schedules[i].name, name) == 0) {
            out->list_ms = schedules[i].ms;
            out->list_n = schedules[i].n;
            return 0;
        }
    }
    return err_set(s->e, -EINVAL, "%sschedule must be standard or alipay", s->path);
}

static int read_filter(const struct spec *s, const json_t *filter, struct sub_conf *out) {
    const json_t *headers = member_of(filter, "headers");
    const char *name;
    json_t *value;
    char none;
    int r = read_members(s, filter_members, filter, &none);

    out->filter_n = 0;
    if (r < 0 || !headers)
        return r;
    if (!json_is_object(headers) || json_object_size(headers) > POLICY_FILTER_MAX)
        return err_set(s->e, -EINVAL, "%sheaders must be an object of at most %d strings", s->path, POLICY_FILTER_MAX);
    json_object_foreach ((json_t *)headers, name, value) {
        int i = out->filter_n++;
        if (!text_of(value))
            return err_set(s->e, -EINVAL, "%sheaders must be an object of at most %d strings", s->path,
                           POLICY_FILTER_MAX);
        r = keep_text(s, "headers", name, &out->filter[i].name);
        if (r == 0)
            r = keep_text(s, "headers", text_of(value), &out->filter[i].value);
        if (r < 0)
            return r;
    }
    return 0;
}

static int read_breaker(const struct spec *s, const json_t *obj, struct sub_conf *out) {
    char max[32], open[32];
    int r = read_members(s, breaker_members, obj, out);

    if (r == 0 && !member_of(obj, "max_open"))
        out->breaker.max_open_ms = MAX(out->breaker.max_open_ms, out->breaker.open_ms);
    if (r == 0 && out->breaker.max_open_ms < out->breaker.open_ms)
        return err_set(s->e, -EINVAL, "%smax_open is %s, less than open, which is %s", s->path,
                       print_ms(max, (double)out->breaker.max_open_ms), print_ms(open, (double)out->breaker.open_ms));
    return r;
}

/* Growth, a named schedule, or a list; each with defaults of its own. */
static int read_retry(const struct spec *s, const json_t *retry, struct sub_conf *out) {
    const json_t *schedule = member_of(retry, "schedule"), *list = member_of(retry, "intervals");
    int r = read_members(s, retry_members, retry, out);

    out->backoff.list_n = 0;
    if (r < 0 || (!schedule && !list))
        return r < 0 ? r : check_order(s, &out->backoff);
    if ((schedule && list) || member_of(retry, "initial") || member_of(retry, "factor") || member_of(retry, "max"))
        return err_set(s->e, -EINVAL, "%sschedule, %sintervals, and %sinitial, factor, max exclude each other", s->path,
                       s->path, s->path);
    r = schedule ? read_schedule(s, text_of(schedule), &out->backoff) : read_intervals(s, list, &out->backoff);
    if (r < 0)
        return r;
    if (!member_of(retry, "jitter"))
        out->backoff.jitter = 0;
    if (!member_of(retry, "max_attempts"))
        out->max_attempts = out->backoff.list_n + 1;
    if (!member_of(retry, "max_age"))
        out->max_age_ms = (int64_t)(365 * DAY);
    return 0;
}

int spec_sub(const char *name, const json_t *spec, struct arena *a, struct sub_conf *out, struct errmsg *e) {
    const struct spec top = {a, e, ""}, s = {a, e, "retry."}, f = {a, e, "filter."}, b = {a, e, "breaker."};
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
        r = read_retry(&s, member_of(spec, "retry"), out);
    if (r == 0)
        r = read_filter(&f, member_of(spec, "filter"), out);
    if (r == 0)
        r = read_breaker(&b, member_of(spec, "breaker"), out);
    out->paused = false;
    return r < 0 ? r : read_sink(&top, member_of(spec, "sink"), &out->sink);
}
