/*
 * Topology from JSON: defaults, bounds, messages that name the member, and a snapshot that a failure leaves as it was.
 */
#include "core/policy.h"

#include "base/crypto.h"

#include <setjmp.h>
#include <cmocka.h>

static struct errmsg e;

static int setup(void **state) {
    *state = topology_new(7);
    e = ERRMSG_NULL;
    return *state ? 0 : -1;
}

static int teardown(void **state) {
    topology_unref(*state);
    return 0;
}

static json_t *parse(const char *text) {
    json_t *j = json_parse(bytes_str(text), &e);
    if (!j)
        fail_msg("%s: %s", text, e.text);
    return j;
}

enum what { TOPIC, PRODUCER, SUB };

static int add(struct topology *t, enum what what, int32_t id, const char *name, const char *text) {
    CLEANUP_JSON json_t *spec = parse(text);

    e = ERRMSG_NULL;
    switch (what) {
    case TOPIC:
        return topology_add_topic(t, name, spec, &e);
    case PRODUCER:
        return topology_add_producer(t, name, spec, &e);
    case SUB:
        return topology_add_sub(t, id, name, spec, &e);
    }
    return -1;
}

static void added(struct topology *t, enum what what, int32_t id, const char *name, const char *text) {
    if (add(t, what, id, name, text) < 0)
        fail_msg("%s: %s", text, e.text);
}

static void assert_refused(enum what what, const char *text, const char *why) {
    struct topology *t = topology_new(1);

    assert_int_equal(add(t, what, 1, "x", text), -EINVAL);
    assert_string_equal(e.text, why);
    assert_null(topology_topic(t, bytes_str("x")));
    assert_null(topology_producer(t, bytes_str("x")));
    assert_null(topology_sub(t, 1));
    assert_int_equal(t->subs_n, 0);
    topology_unref(t);
}

static void test_topics(void **state) {
    struct topology *t = *state;

    assert_int_equal(t->epoch, 7);
    added(t, TOPIC, 0, "orders", "{}");
    added(t, TOPIC, 0, "invoices", "{\"name\": \"invoices\", \"description\": \"for\\npeople\"}");
    assert_string_equal(topology_topic(t, bytes_str("orders"))->name, "orders");
    assert_string_equal(topology_topic(t, bytes_str("invoices"))->name, "invoices");
    assert_null(topology_topic(t, bytes_str("order")));
    assert_null(topology_topic(t, BYTES_NULL));
    assert_null(topology_producer(t, bytes_str("orders")));
    assert_int_equal(add(t, TOPIC, 0, "orders", "{}"), -EEXIST);
    assert_string_equal(e.text, "topic orders is there twice");
    assert_int_equal(topology_add_topic(t, "null", NULL, &e), 0);
    assert_int_equal(add(t, TOPIC, 0, "Or ders", "{}"), -EINVAL);
    assert_string_equal(e.text, "name may hold a-z, 0-9, '.', '_' and '-' only and begins with a letter or digit");
    assert_refused(TOPIC, "{\"descripton\": \"\"}", "descripton is not a known member");
    assert_refused(TOPIC, "{\"name\": \"y\"}", "name must be \"x\"");
    assert_refused(TOPIC, "[]", "spec must be an object");
    assert_refused(TOPIC, "{\"description\": 5}", "description must be a string");
}

static void test_producer_defaults(void **state) {
    struct topology *t = *state;
    static const char *const same[] = {"{}", "{\"check\": null}", "{\"check\": {}}",
                                       "{\"check\": {\"endpoints\": null, \"secret\": null, \"first_after\": null, "
                                       "\"factor\": null, \"jitter\": null, \"concurrency\": null, "
                                       "\"include_body\": null, \"max_unknowns\": null, \"timeout\": null}}"};

    for (size_t i = 0; i < ARRAY_LEN(same); i++) {
        char name[] = {'p', (char)('0' + i), '\0'};
        added(t, PRODUCER, 0, name, same[i]);
        const struct check_policy *c = &topology_producer(t, bytes_str(name))->check;
        assert_int_equal(c->endpoints_n, 0);
        assert_string_equal(c->secret, "");
        assert_int_equal(c->first_after_ms, 10000);
        assert_int_equal(c->backoff.initial_ms, 10000);
        assert_true(c->backoff.factor == 2.0);
        assert_int_equal(c->backoff.max_ms, 600000);
        assert_true(c->backoff.jitter == 0.2);
        assert_int_equal(c->max_unknowns, 15);
        assert_int_equal(c->timeout_ms, 5000);
        assert_int_equal(c->concurrency, 16);
        assert_false(c->include_body);
        assert_int_equal(c->rate, 0);
        assert_int_equal(c->rolled_back_not_before_ms, 0);
    }
}

static void test_producer_values(void **state) {
    struct topology *t = *state;

    added(t, PRODUCER, 0, "shop",
          "{\"name\": \"shop\", \"check\": {\"endpoints\": [\"http://a:8080/check\", \"https://[::1]/c?d=%20\"],"
          "\"secret\": \"whsec_MDEyMzQ1Njc4OWFiY2RlZg==\", \"first_after\": \"1.500s\", \"initial\": \"2s\","
          "\"factor\": 1, \"max\": \"2s\", \"jitter\": 0, \"max_unknowns\": 1000, \"timeout\": \"600s\","
          "\"concurrency\": 4096, \"include_body\": true, \"rate\": 100000, \"rolled_back_not_before\": \"24h\"}}");
    const struct producer_conf *p = topology_producer(t, bytes_str("shop"));
    assert_string_equal(p->name, "shop");
    assert_int_equal(p->check.endpoints_n, 2);
    assert_string_equal(p->check.endpoints[0], "http://a:8080/check");
    assert_string_equal(p->check.endpoints[1], "https://[::1]/c?d=%20");
    assert_string_equal(p->check.secret, "whsec_MDEyMzQ1Njc4OWFiY2RlZg==");
    assert_int_equal(p->check.first_after_ms, 1500);
    assert_int_equal(p->check.backoff.initial_ms, 2000);
    assert_true(p->check.backoff.factor == 1.0);
    assert_int_equal(p->check.rate, 100000);
    assert_int_equal(p->check.rolled_back_not_before_ms, 24 * 3600 * 1000);
    assert_int_equal(p->check.backoff.max_ms, 2000);
    assert_true(p->check.backoff.jitter == 0.0);
    assert_int_equal(p->check.max_unknowns, 1000);
    assert_int_equal(p->check.timeout_ms, 600000);
    assert_int_equal(p->check.concurrency, 4096);
    assert_true(p->check.include_body);
    assert_int_equal(add(t, PRODUCER, 0, "shop", "{}"), -EEXIST);
}

static void test_producer_refusals(void **state) {
    static const struct {
        const char *check, *why;
    } rows[] = {
        {"5", "check must be an object"},
        {"{\"endpoint\": []}", "check.endpoint is not a known member"},
        {"{\"\\u00e9\\n\": 1}", "check.??? is not a known member"},
        {"{\"factor\": 100.5}", "check.factor is 100.5, the limit is 1..100"},
        {"{\"factor\": 0.99}", "check.factor is 0.99, the limit is 1..100"},
        {"{\"factor\": \"2\"}", "check.factor must be a number"},
        {"{\"jitter\": 1.01}", "check.jitter is 1.01, the limit is 0..1"},
        {"{\"jitter\": -0.1}", "check.jitter is -0.1, the limit is 0..1"},
        {"{\"concurrency\": 0}", "check.concurrency is 0, the limit is 1..4096"},
        {"{\"concurrency\": 4097}", "check.concurrency is 4097, the limit is 1..4096"},
        {"{\"concurrency\": 9223372036854775807}", "check.concurrency is 9223372036854775807, the limit is 1..4096"},
        {"{\"concurrency\": 1.0}", "check.concurrency must be a whole number"},
        {"{\"max_unknowns\": 1001}", "check.max_unknowns is 1001, the limit is 1..1000"},
        {"{\"timeout\": \"99ms\"}", "check.timeout is 99ms, the limit is 100ms..10m"},
        {"{\"timeout\": \"600.001s\"}", "check.timeout is 600.001s, the limit is 100ms..10m"},
        {"{\"timeout\": 5}", "check.timeout must be a duration such as \"10s\""},
        {"{\"timeout\": \"soon\"}", "check.timeout must be a duration such as \"10s\""},
        {"{\"first_after\": \"25h\"}", "check.first_after is 25h, the limit is 1s..24h"},
        {"{\"initial\": \"20s\", \"max\": \"10s\"}", "check.max is 10s, less than initial, which is 20s"},
        {"{\"initial\": \"11m\"}", "check.max is 10m, less than initial, which is 11m"},
        {"{\"include_body\": 1}", "check.include_body must be true or false"},
        {"{\"rate\": -1}", "check.rate is -1, the limit is 0..100000"},
        {"{\"rate\": 100001}", "check.rate is 100001, the limit is 0..100000"},
        {"{\"rate\": \"10\"}", "check.rate must be a whole number"},
        {"{\"rolled_back_not_before\": \"25h\"}", "check.rolled_back_not_before is 25h, the limit is 0s..24h"},
        {"{\"rolled_back_not_before\": \"-1s\"}", "check.rolled_back_not_before must be a duration such as \"10s\""},
        {"{\"endpoints\": \"http://a\"}", "check.endpoints must be a list"},
        {"{\"endpoints\": [\"http://a\", 7]}", "check.endpoints[1] must be a string"},
        {"{\"endpoints\": [\"http://a\", \"\"]}", "check.endpoints[1] is required"},
        {"{\"endpoints\": [\"ftp://a\"]}", "check.endpoints[0] must begin with http://, https:// or grpc://"},
        {"{\"endpoints\": [\"grpc://a\"]}", "check.endpoints[0] needs a port"},
        {"{\"endpoints\": [\"grpc://:1\"]}", "check.endpoints[0] has a host that is neither a name nor an address"},
        {"{\"endpoints\": [\"grpc://u@a:1\"]}", "check.endpoints[0] has a host that is neither a name nor an address"},
        {"{\"endpoints\": [\"grpc://a:1/x\"]}",
         "check.endpoints[0] has a port that is not 1..65535, or something behind it"},
        {"{\"endpoints\": [\"grpcs://a:1\"]}", "check.endpoints[0] must begin with http://, https:// or grpc://"},
        {"{\"endpoints\": [\"http://1\",\"http://2\",\"http://3\",\"http://4\",\"http://5\",\"http://6\","
         "\"http://7\",\"http://8\",\"http://9\"]}",
         "check.endpoints are 9, the limit is 8"},
        {"{\"secret\": \"hunter2\"}", "check.secret must be empty, or whsec_ and the base64 of 16..64 bytes"},
    };

    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        char text[512];
        snprintf(text, sizeof(text), "{\"check\": %s}", rows[i].check);
        assert_refused(PRODUCER, text, rows[i].why);
    }
    assert_refused(PRODUCER, "{\"checks\": {}}", "checks is not a known member");
}

static void test_outcomes(void **state) {
    struct topology *t = *state;

    added(t, PRODUCER, 0, "silent", "{\"outcomes\": {\"delivered\": \"\", \"dead\": \"shop.dead\"}}");
    assert_string_equal(topology_producer(t, bytes_str("silent"))->outcomes.dead, "shop.dead");
    assert_false(t->tells_delivered);
    added(t, PRODUCER, 0, "shop", "{\"outcomes\": {\"delivered\": \"shop.outcomes\"}}");
    assert_true(t->tells_delivered);
    assert_true(topology_tells_delivered(t, bytes_str("shop")));
    assert_false(topology_tells_delivered(t, bytes_str("silent")));
    assert_false(topology_tells_delivered(t, bytes_str("nobody")));
    assert_string_equal(topology_producer(t, bytes_str("shop"))->outcomes.delivered, "shop.outcomes");
    assert_string_equal(topology_producer(t, bytes_str("shop"))->outcomes.dead, "");
    assert_refused(PRODUCER, "{\"outcomes\": \"shop.outcomes\"}", "outcomes must be an object");
    assert_refused(PRODUCER, "{\"outcomes\": {\"discarded\": \"t\"}}", "outcomes.discarded is not a known member");
    assert_refused(PRODUCER, "{\"outcomes\": {\"dead\": true}}", "outcomes.dead must be a string");
    /* Events are of this producer: there are none of them. */
    assert_int_equal(add(t, PRODUCER, 0, "txmsg", "{\"outcomes\": {\"dead\": \"t\"}}"), -EINVAL);
    assert_string_equal(e.text, "outcomes: producer txmsg is the service itself, and has no outcomes");
}

static void url(const char *member, const char *value, const char *why) {
    bool amqp = strcmp(member, "rabbitmq") == 0;
    char text[4000], want[200];

    snprintf(text, sizeof(text), "{\"topic\": \"t\", \"sink\": {\"%s\": {\"url\": \"%s\"}}}", member, value);
    if (why) {
        snprintf(want, sizeof(want), "sink.%s.url %s", member, why);
        assert_refused(SUB, text, want);
        return;
    }
    struct topology *t = topology_new(1);
    added(t, SUB, 1, "s", text);
    const struct sink_conf *sink = &topology_sub(t, 1)->sink;
    assert_string_equal(amqp ? sink->rabbitmq.url : sink->http.url, value);
    topology_unref(t);
}

static void test_urls(void **state) {
    static const char host[] = "has a host that is neither a name nor an address";
    static const char chars[] = "holds a space, a control character or another one that a URL may not hold";
    static const char scheme[] = "must begin with http:// or https://";
    static const char port[] = "has a port that is not 1..65535";
    char longest[2100];

    url("http", "http://a", NULL);
    url("http", "HTTPS://Example.com:443", NULL);
    url("http", "http://127.0.0.1:1/p?q=a@b:c#f", NULL);
    url("http", "https://[2001:db8::1]:65535/", NULL);
    url("http", "http://a?x", NULL);
    url("http", "http://under_score-d.x/%0d%0a", NULL);
    url("http", "", "is required");
    url("http", "a", scheme);
    url("http", "http:/a", scheme);
    url("http", "httpx://a", scheme);
    url("http", "httpss://a", scheme);
    url("http", "//a", scheme);
    url("http", "file:///etc/passwd", scheme);
    url("http", "http://", "has no host");
    url("http", "http:///path", "has no host");
    url("http", "https://?q", "has no host");
    url("http", "http://:80/", "has no host");
    url("http", "http://user@a/", "may not hold a user or password");
    url("http", "http://user:pass@a/", "may not hold a user or password");
    url("http", "http://@a/", "may not hold a user or password");
    url("http", "http://a:0/", port);
    url("http", "http://a:65536/", port);
    url("http", "http://a:/", port);
    url("http", "http://a:8o/", port);
    url("http", "http://a:1:2/", port);
    url("http", "http://[::1/", host);
    url("http", "http://[]/", host);
    url("http", "http://[::g]/", host);
    url("http", "http://[::1]x/", host);
    url("http", "http://a%2fb/", host);
    url("http", "http://a,b/", host);
    url("http", "http://a b/", chars);
    url("http", "http://a/ b", chars);
    url("http", " http://a", chars);
    url("http", "http://a/\\r\\n", chars);
    url("http", "http://a/\\t", chars);
    url("http", "http://a\\\\@b/", chars);
    url("http", "http://a/\\u007f", chars);
    url("http", "http://a/\\u00e9", chars);

    url("rabbitmq", "amqp://user:pass@host:5672/vhost", NULL);
    url("rabbitmq", "amqps://host", NULL);
    url("rabbitmq", "amqp://user:p%40ss@[::1]/%2f", NULL);
    url("rabbitmq", "http://host", "must begin with amqp:// or amqps://");
    url("rabbitmq", "amqp://user:pass@/vhost", "has no host");
    url("rabbitmq", "amqp://user:pass@:5672/vhost", "has no host");
    url("rabbitmq", "amqp://a:b@host:99999", port);

    memset(longest, 'a', sizeof(longest));
    memcpy(longest, "http://", 7);
    longest[2048] = '\0';
    url("http", longest, NULL);
    longest[2048] = 'a';
    longest[2049] = '\0';
    url("http", longest, "is longer than 2048 bytes");
}

static void test_secrets(void **state) {
    struct topology *t = *state;
    const uint8_t key[70] = {1, 2, 250, 255};
    const struct {
        size_t n;
        int want;
    } rows[] = {{15, -EINVAL}, {16, 0}, {24, 0}, {64, 0}, {65, -EINVAL}, {0, -EINVAL}};

    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        CLEANUP_BUF struct buf text;
        char name[] = {'p', (char)('0' + i), '\0'};
        buf_init(&text, 1000);
        buf_put_str(&text, "{\"check\": {\"secret\": \"whsec_");
        base64_put(&text, bytes_of(key, rows[i].n));
        buf_put_str(&text, "\"}}");
        assert_int_equal(add(t, PRODUCER, 0, name, buf_str(&text)), rows[i].want);
    }
    added(t, PRODUCER, 0, "none", "{\"check\": {\"secret\": \"\"}}");
    assert_int_equal(add(t, PRODUCER, 0, "q", "{\"check\": {\"secret\": \"whsec_!!!!!!!!!!!!!!!!!!!!!!\"}}"), -EINVAL);
    assert_int_equal(add(t, PRODUCER, 0, "q", "{\"check\": {\"secret\": \"MDEyMzQ1Njc4OWFiY2RlZg==\"}}"), -EINVAL);
    assert_null(strstr(e.text, "MDEy")); /* a secret is never quoted */
}

static void test_sub_defaults(void **state) {
    struct topology *t = *state;

    added(t, SUB, 3, "audit", "{\"topic\": \"orders\", \"sink\": {\"discard\": {}, \"http\": null}}");
    const struct sub_conf *s = topology_sub(t, 3);
    assert_int_equal(s->id, 3);
    assert_string_equal(s->name, "audit");
    assert_string_equal(s->topic, "orders");
    assert_int_equal(s->sink.kind, SINK_DISCARD);
    assert_int_equal(s->backoff.initial_ms, 1000);
    assert_true(s->backoff.factor == 2.0);
    assert_int_equal(s->backoff.max_ms, 600000);
    assert_true(s->backoff.jitter == 1.0);
    assert_int_equal(s->max_attempts, 16);
    assert_int_equal(s->max_age_ms, 86400000);
    assert_int_equal(s->concurrency, 256);

    added(t, SUB, 4, "web", "{\"topic\": \"orders\", \"sink\": {\"http\": {\"url\": \"http://a/\"}}}");
    s = topology_sub(t, 4);
    assert_int_equal(s->sink.kind, SINK_HTTP);
    assert_string_equal(s->sink.http.secret, "");
    assert_int_equal(s->sink.http.timeout_ms, 10000);
    assert_int_equal(s->sink.http.ack, ACK_STATUS_2XX);
    assert_null(s->sink.http.headers);

    added(t, SUB, 5, "mq", "{\"topic\": \"orders\", \"sink\": {\"rabbitmq\": {\"url\": \"amqp://h\"}}}");
    s = topology_sub(t, 5);
    assert_int_equal(s->sink.kind, SINK_RABBITMQ);
    assert_string_equal(s->sink.rabbitmq.exchange, "");
    assert_string_equal(s->sink.rabbitmq.routing_key, "");
    assert_int_equal(s->sink.rabbitmq.timeout_ms, 10000);

    added(t, SUB, 8, "grpc",
          "{\"topic\": \"orders\", \"sink\": {\"grpc\": {\"endpoints\": [\"grpc://a:1\", \"grpc://[::1]:2\"], \"tls\": "
          "false}}}");
    s = topology_sub(t, 8);
    assert_int_equal(s->sink.kind, SINK_GRPC);
    assert_int_equal(s->sink.grpc.endpoints_n, 2);
    assert_string_equal(s->sink.grpc.endpoints[1], "grpc://[::1]:2");
    assert_int_equal(s->sink.grpc.timeout_ms, 10000);

    added(t, SUB, 6, "log", "{\"topic\": \"orders\", \"sink\": {\"log\": {\"include_body\": false}}}");
    assert_int_equal(topology_sub(t, 6)->sink.kind, SINK_LOG);
    assert_null(topology_sub(t, 7));
    assert_null(topology_sub(t, -3));
}

static void test_sub_values(void **state) {
    struct topology *t = *state;

    added(t, SUB, -1, "web",
          "{\"name\": \"web\", \"topic\": \"orders\", \"description\": \"d\", \"concurrency\": 1,"
          "\"retry\": {\"initial\": \"10ms\", \"factor\": 1.5, \"max\": \"1m\", \"max_attempts\": 1000,"
          "\"max_age\": \"7d\"},"
          "\"start_from\": \"START_FROM_BEGINNING\", \"ordering\": \"ORDERING_NONE\", \"filter\": {\"headers\": {}},"
          "\"state\": \"SUBSCRIPTION_STATE_ACTIVE\", \"create_time\": \"2024-01-01T00:00:00Z\", \"rate\": 0,"
          "\"sink\": {\"http\": {\"url\": \"https://a/\", \"timeout\": \"0.1s\","
          "\"ack_mode\": \"HTTP_ACK_MODE_BODY_SUCCESS\","
          "\"headers\": {\"Authorization\": \"Bearer x\", \"x-empty\": \"\"},"
          "\"secret\": \"whsec_MDEyMzQ1Njc4OWFiY2RlZg==\"}}}");
    const struct sub_conf *s = topology_sub(t, -1);
    assert_int_equal(s->concurrency, 1);
    assert_int_equal(s->backoff.initial_ms, 10);
    assert_true(s->backoff.factor == 1.5);
    assert_int_equal(s->backoff.max_ms, 60000);
    assert_int_equal(s->max_attempts, 1000);
    assert_int_equal(s->max_age_ms, 7 * 86400000ll);
    assert_int_equal(s->sink.http.timeout_ms, 100);
    assert_int_equal(s->sink.http.ack, ACK_BODY_SUCCESS);
    assert_int_equal(json_object_size(s->sink.http.headers), 2);
    assert_string_equal(json_string_value(json_object_get(s->sink.http.headers, "Authorization")), "Bearer x");

    added(t, SUB, 2, "mq",
          "{\"topic\": \"orders\", \"sink\": {\"rabbitmq\": {\"url\": \"amqp://u:p@h/v\", \"exchange\": \"ex\","
          "\"routing_key\": \"r k\", \"timeout\": \"600s\"}}}");
    s = topology_sub(t, 2);
    assert_string_equal(s->sink.rabbitmq.url, "amqp://u:p@h/v");
    assert_string_equal(s->sink.rabbitmq.exchange, "ex");
    assert_string_equal(s->sink.rabbitmq.routing_key, "r k");
    assert_int_equal(s->sink.rabbitmq.timeout_ms, 600000);
}

static void test_sub_schedules(void **state) {
    struct topology *t = *state;
    const struct sub_conf *s;

    added(t, SUB, 1, "a", "{\"topic\": \"t\", \"sink\": {\"log\": {}}, \"retry\": {\"schedule\": \"alipay\"}}");
    s = topology_sub(t, 1);
    assert_int_equal(s->backoff.list_n, 7);
    assert_int_equal(s->max_attempts, 8);
    assert_int_equal(s->max_age_ms, 365 * 86400000ll);
    const int64_t minutes[] = {4, 10, 10, 60, 120, 360, 900, 900};
    for (int i = 0; i < 8; i++)
        assert_int_equal(backoff_delay_ms(&s->backoff, i + 1, 0.9), minutes[i] * 60000);
    assert_int_equal(backoff_delay_ms(&s->backoff, 0, 0.9), 240000);

    added(t, SUB, 2, "b",
          "{\"topic\": \"t\", \"sink\": {\"log\": {}}, \"retry\": {\"schedule\": \"standard\","
          "\"max_attempts\": 3, \"max_age\": \"1h\"}}");
    s = topology_sub(t, 2);
    assert_int_equal(backoff_delay_ms(&s->backoff, 1, 0), 5000);
    assert_int_equal(backoff_delay_ms(&s->backoff, 9, 0), 86400000);
    assert_int_equal(s->max_attempts, 3);
    assert_int_equal(s->max_age_ms, 3600000);

    added(t, SUB, 3, "c",
          "{\"topic\": \"t\", \"sink\": {\"log\": {}}, \"retry\": {\"intervals\": [\"1s\", \"20ms\"],"
          "\"jitter\": 0.2}}");
    s = topology_sub(t, 3);
    assert_int_equal(s->max_attempts, 3);
    assert_int_equal(backoff_delay_ms(&s->backoff, 1, 0.5), 1000);
    assert_int_equal(backoff_delay_ms(&s->backoff, 1, 0), 800);
    assert_int_equal(backoff_delay_ms(&s->backoff, 2, 0.5), 20);
    assert_int_equal(backoff_delay_ms(&s->backoff, 99, 0.5), 20);
}

static void test_sub_filter(void **state) {
    struct topology *t = *state;

    added(t, SUB, 1, "a",
          "{\"topic\": \"t\", \"sink\": {\"log\": {}}, \"rate\": 7,"
          "\"filter\": {\"headers\": {\"colour\": \"blue\", \"size\": \"\"}}}");
    added(t, SUB, 2, "b", "{\"topic\": \"t\", \"sink\": {\"log\": {}}}");
    topology_pause_sub(t, 2);
    topology_pause_sub(t, 3); /* no such */
    const struct sub_conf *s = topology_sub(t, 1);
    assert_int_equal(s->filter_n, 2);
    assert_string_equal(s->filter[0].name, "colour");
    assert_string_equal(s->filter[0].value, "blue");
    assert_string_equal(s->filter[1].value, "");
    assert_int_equal(s->rate, 7);
    assert_false(s->paused);
    assert_true(topology_sub(t, 2)->paused);
    assert_int_equal(topology_sub(t, 2)->filter_n, 0);
}

static void test_sub_http(void **state) {
    struct topology *t = *state;
    const struct sub_conf *s;

    added(t, SUB, 1, "a",
          "{\"topic\": \"t\", \"sink\": {\"http\": {\"url\": \"http://a\","
          "\"secret\": \"whsec_MDEyMzQ1Njc4OWFiY2RlZg==\", \"previous_secret\": \"whsec_MTEyMzQ1Njc4OWFiY2RlZg==\","
          "\"ack_mode\": \"HTTP_ACK_MODE_JSON_FIELD\", \"ack_field\": \"result.code\", \"ack_value\": \"0\","
          "\"content_mode\": \"HTTP_CONTENT_MODE_STRUCTURED\", \"reject_statuses\": [422, 400]}}}");
    s = topology_sub(t, 1);
    assert_int_equal(s->sink.http.ack, ACK_JSON_FIELD);
    assert_string_equal(s->sink.http.ack_field, "result.code");
    assert_string_equal(s->sink.http.ack_value, "0");
    assert_int_equal(s->sink.http.mode, CONTENT_STRUCTURED);
    assert_int_equal(s->sink.http.rejects_n, 2);
    assert_int_equal(s->sink.http.rejects[1], 400);
    assert_string_equal(s->sink.http.previous_secret, "whsec_MTEyMzQ1Njc4OWFiY2RlZg==");
}

static void test_sub_refusals(void **state) {
    static const struct {
        const char *spec, *why;
    } rows[] = {
        {"{}", "topic is required"},
        {"{\"topic\": 5}", "topic must be a string"},
        {"{\"topic\": \"A\"}", "topic may hold a-z, 0-9, '.', '_' and '-' only and begins with a letter or digit"},
        {"{\"topic\": \"t\"}", "sink is required"},
        {"{\"topic\": \"t\", \"sink\": []}", "sink must be an object"},
        {"{\"topic\": \"t\", \"sink\": {}}", "sink must hold exactly one of http, rabbitmq, grpc, log, discard"},
        {"{\"topic\": \"t\", \"sink\": {\"log\": {}, \"discard\": {}}}",
         "sink must hold exactly one of http, rabbitmq, grpc, log, discard"},
        {"{\"topic\": \"t\", \"sink\": {\"kafka\": {}}}", "sink.kafka is not supported by this version"},
        {"{\"topic\": \"t\", \"sink\": {\"smtp\": {}}}", "sink.smtp is not a known member"},
        {"{\"topic\": \"t\", \"sink\": {\"log\": true}}", "sink.log must be an object"},
        {"{\"topic\": \"t\", \"sink\": {\"log\": {\"include_body\": true}}}",
         "sink.log.include_body is not supported by this version"},
        {"{\"topic\": \"t\", \"sink\": {\"discard\": {\"x\": 1}}}", "sink.discard.x is not a known member"},
        {"{\"topic\": \"t\", \"sink\": {\"grpc\": {}}}", "sink.grpc.endpoints is required"},
        {"{\"topic\": \"t\", \"sink\": {\"grpc\": {\"endpoints\": []}}}", "sink.grpc.endpoints is required"},
        {"{\"topic\": \"t\", \"sink\": {\"grpc\": {\"endpoints\": \"grpc://a:1\"}}}",
         "sink.grpc.endpoints must be a list"},
        {"{\"topic\": \"t\", \"sink\": {\"grpc\": {\"endpoints\": [\"grpc://a:1\", \"\"]}}}",
         "sink.grpc.endpoints[1] is required"},
        {"{\"topic\": \"t\", \"sink\": {\"grpc\": {\"endpoints\": [\"http://a:1\"]}}}",
         "sink.grpc.endpoints[0] must begin with grpc://"},
        {"{\"topic\": \"t\", \"sink\": {\"grpc\": {\"endpoints\": [\"grpc://a:1\"], \"token\": \"x\"}}}",
         "sink.grpc.token is not supported by this version"},
        {"{\"topic\": \"t\", \"sink\": {\"http\": {}}}", "sink.http.url is required"},
        {"{\"topic\": \"t\", \"sink\": {\"http\": {\"url\": \"http://a\", \"ack_mode\": \"ANY\"}}}",
         "sink.http.ack_mode must be HTTP_ACK_MODE_STATUS_2XX or HTTP_ACK_MODE_BODY_SUCCESS or "
         "HTTP_ACK_MODE_JSON_FIELD"},
        {"{\"topic\": \"t\", \"sink\": {\"http\": {\"url\": \"http://a\", \"ack_field\": \"a\"}}}",
         "sink.http.ack_field belongs to ack_mode HTTP_ACK_MODE_JSON_FIELD, which needs it"},
        {"{\"topic\": \"t\", \"sink\": {\"http\": {\"url\": \"http://a\", \"ack_mode\": "
         "\"HTTP_ACK_MODE_JSON_FIELD\"}}}",
         "sink.http.ack_field belongs to ack_mode HTTP_ACK_MODE_JSON_FIELD, which needs it"},
        {"{\"topic\": \"t\", \"sink\": {\"http\": {\"url\": \"http://a\", \"ack_value\": \"0\"}}}",
         "sink.http.ack_value needs an ack_field"},
        {"{\"topic\": \"t\", \"sink\": {\"http\": {\"url\": \"http://a\","
         "\"previous_secret\": \"whsec_MDEyMzQ1Njc4OWFiY2RlZg==\"}}}",
         "sink.http.previous_secret needs a secret"},
        {"{\"topic\": \"t\", \"sink\": {\"http\": {\"url\": \"http://a\", \"reject_statuses\": [422, 200]}}}",
         "sink.http.reject_statuses[1] must be a status of 300 to 599"},
        {"{\"topic\": \"t\", \"sink\": {\"http\": {\"url\": \"http://a\", \"reject_statuses\": 422}}}",
         "sink.http.reject_statuses must be a list"},
        {"{\"topic\": \"t\", \"sink\": {\"log\": {}}, \"retry\": {\"schedule\": \"daily\"}}",
         "retry.schedule must be standard or alipay"},
        {"{\"topic\": \"t\", \"sink\": {\"log\": {}}, \"retry\": {\"schedule\": \"alipay\", \"max\": \"1h\"}}",
         "retry.schedule, retry.intervals, and retry.initial, factor, max exclude each other"},
        {"{\"topic\": \"t\", \"sink\": {\"log\": {}}, \"retry\": {\"intervals\": []}}",
         "retry.intervals must be a list of 1 to 64 durations"},
        {"{\"topic\": \"t\", \"sink\": {\"log\": {}}, \"retry\": {\"intervals\": [\"1s\", \"31d\"]}}",
         "retry.intervals[1] is 31d, the limit is 10ms..720h"},
        {"{\"topic\": \"t\", \"sink\": {\"log\": {}}, \"retry\": {\"intervals\": [null]}}",
         "retry.intervals[0] must be a duration such as \"10s\""},
        {"{\"topic\": \"t\", \"sink\": {\"http\": {\"url\": \"http://a\", \"timeout\": \"11m\"}}}",
         "sink.http.timeout is 11m, the limit is 100ms..10m"},
        {"{\"topic\": \"t\", \"sink\": {\"http\": {\"url\": \"http://a\", \"headers\": {\"a\": 1}}}}",
         "sink.http.headers must be an object of strings"},
        {"{\"topic\": \"t\", \"sink\": {\"http\": {\"url\": \"http://a\", \"headers\": {\"a b\": \"\"}}}}",
         "sink.http.headers[\"a b\"] has a name with characters other than letters, digits and !#$%&'*+.^_`|~-"},
        {"{\"topic\": \"t\", \"sink\": {\"http\": {\"url\": \"http://a\", \"headers\": {\"a\": \"x\\r\\ny\"}}}}",
         "sink.http.headers[\"a\"] has a value with a control character"},
        {"{\"topic\": \"t\", \"sink\": {\"http\": {\"url\": \"http://a\", \"headers\": {\"a\": \"\", \"A\": \"\"}}}}",
         "sink.http.headers[\"A\"] is there twice, names are compared regardless of case"},
        {"{\"topic\": \"t\", \"sink\": {\"rabbitmq\": {\"url\": \"amqp://a\", \"exchange\": \"a\\nb\"}}}",
         "sink.rabbitmq.exchange holds a control character"},
        {"{\"topic\": \"t\", \"sink\": {\"log\": {}}, \"retry\": {\"max_attempts\": 0}}",
         "retry.max_attempts is 0, the limit is 1..1000"},
        {"{\"topic\": \"t\", \"sink\": {\"log\": {}}, \"retry\": {\"jitter\": 1.5}}",
         "retry.jitter is 1.5, the limit is 0..1"},
        {"{\"topic\": \"t\", \"sink\": {\"log\": {}}, \"retry\": {\"pause\": 1}}", "retry.pause is not a known member"},
        {"{\"topic\": \"t\", \"sink\": {\"log\": {}}, \"retry\": {\"factor\": 101}}",
         "retry.factor is 101, the limit is 1..100"},
        {"{\"topic\": \"t\", \"sink\": {\"log\": {}}, \"retry\": {\"initial\": \"9ms\"}}",
         "retry.initial is 9ms, the limit is 10ms..24h"},
        {"{\"topic\": \"t\", \"sink\": {\"log\": {}}, \"concurrency\": 5000}",
         "concurrency is 5000, the limit is 1..4096"},
        {"{\"topic\": \"t\", \"sink\": {\"log\": {}}, \"ordering\": \"ORDERING_KEY\"}",
         "ordering is not supported by this version"},
        {"{\"topic\": \"t\", \"sink\": {\"log\": {}}, \"filter\": {\"headers\": {\"a\": 0}}}",
         "filter.headers must be an object of at most 16 strings"},
        {"{\"topic\": \"t\", \"sink\": {\"log\": {}}, \"filter\": {\"body\": {}}}",
         "filter.body is not a known member"},
        {"{\"topic\": \"t\", \"sink\": {\"log\": {}}, \"rate\": 1000001}", "rate is 1000001, the limit is 0..1000000"},
        {"{\"topic\": \"t\", \"sink\": {\"log\": {}}, \"breaker\": {\"failures\": 0}}",
         "breaker.failures is 0, the limit is 1..10000"},
        {"{\"topic\": \"t\", \"sink\": {\"log\": {}}, \"breaker\": {\"open\": \"99ms\"}}",
         "breaker.open is 99ms, the limit is 100ms..1h"},
        {"{\"topic\": \"t\", \"sink\": {\"log\": {}}, \"breaker\": {\"open\": \"5s\", \"max_open\": \"1s\"}}",
         "breaker.max_open is 1s, less than open, which is 5s"},
        {"{\"topic\": \"t\", \"sink\": {\"log\": {}}, \"breaker\": {\"close\": \"1s\"}}",
         "breaker.close is not a known member"},
        {"{\"topic\": \"t\", \"sink\": {\"log\": {}}, \"breaker\": []}", "breaker must be an object"},
    };

    for (size_t i = 0; i < ARRAY_LEN(rows); i++)
        assert_refused(SUB, rows[i].spec, rows[i].why);
}

static void test_many(void **state) {
    enum { N = 3000 };
    struct topology *t = *state;
    CLEANUP_JSON json_t *spec = parse("{\"topic\": \"t\", \"sink\": {\"http\": {\"url\": \"http://a\","
                                      "\"headers\": {\"a\": \"b\"}}}}");
    char name[32];

    for (int i = 0; i < N; i++) {
        snprintf(name, sizeof(name), "s%d", i);
        assert_int_equal(topology_add_sub(t, i * 7, name, spec, &e), 0);
        assert_int_equal(topology_add_topic(t, name, NULL, &e), 0);
        assert_int_equal(topology_add_producer(t, name, NULL, &e), 0);
    }
    assert_int_equal(topology_add_sub(t, 7, "again", spec, &e), -EEXIST);
    assert_int_equal(t->subs_n, N);
    for (int i = 0; i < N; i++) {
        snprintf(name, sizeof(name), "s%d", i);
        assert_string_equal(topology_sub(t, i * 7)->name, name);
        assert_string_equal(t->subs[i].name, name);
        assert_string_equal(topology_topic(t, bytes_str(name))->name, name);
        assert_string_equal(topology_producer(t, bytes_str(name))->name, name);
        assert_null(topology_sub(t, i * 7 + 1));
    }
    /* The snapshot has its own copy of what it keeps. */
    json_object_clear(json_object_get(json_object_get(json_object_get(spec, "sink"), "http"), "headers"));
    assert_int_equal(json_object_size(topology_sub(t, 0)->sink.http.headers), 1);
}

static void test_references(void **state) {
    struct topology *t = topology_new(1);

    assert_ptr_equal(topology_ref(t), t);
    topology_unref(t);
    added(t, TOPIC, 0, "still-here", "{}");
    topology_unref(t);
    topology_unref(NULL);
}

/* Fails each allocation in turn; a snapshot survives each failure and takes the same thing afterwards. */
static void test_no_memory(void **state) {
    CLEANUP_JSON json_t *sub = parse("{\"topic\": \"t\", \"sink\": {\"http\": {\"url\": \"http://a\","
                                     "\"headers\": {\"a\": \"b\"}}}}");
    CLEANUP_JSON json_t *producer = parse("{\"check\": {\"endpoints\": [\"http://a\"]}}");
    int failed = 0;

    for (uint64_t n = 1;; n++) {
        struct topology *t;
        int r = 0, s = 0, p = 0;
        mem_fail_at(n);
        t = topology_new(1);
        if (t) {
            r = topology_add_topic(t, "t", NULL, &e);
            p = topology_add_producer(t, "p", producer, &e);
            s = topology_add_sub(t, 1, "s", sub, &e);
        }
        mem_fail_at(0);
        if (t) {
            assert_true((r == 0 || r == -ENOMEM) && (p == 0 || p == -ENOMEM) && (s == 0 || s == -ENOMEM));
            assert_int_equal(topology_topic(t, bytes_str("t")) != NULL, r == 0);
            assert_int_equal(topology_producer(t, bytes_str("p")) != NULL, p == 0);
            assert_int_equal(topology_sub(t, 1) != NULL, s == 0);
            if (s < 0)
                assert_int_equal(topology_add_sub(t, 1, "s", sub, &e), 0);
        }
        topology_unref(t);
        if (t && r == 0 && p == 0 && s == 0)
            break;
        failed++;
    }
    assert_true(failed >= 3);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_topics, setup, teardown),
        cmocka_unit_test_setup_teardown(test_producer_defaults, setup, teardown),
        cmocka_unit_test_setup_teardown(test_producer_values, setup, teardown),
        cmocka_unit_test(test_producer_refusals),
        cmocka_unit_test_setup_teardown(test_outcomes, setup, teardown),
        cmocka_unit_test(test_urls),
        cmocka_unit_test_setup_teardown(test_secrets, setup, teardown),
        cmocka_unit_test_setup_teardown(test_sub_defaults, setup, teardown),
        cmocka_unit_test_setup_teardown(test_sub_values, setup, teardown),
        cmocka_unit_test(test_sub_refusals),
        cmocka_unit_test_setup_teardown(test_sub_schedules, setup, teardown),
        cmocka_unit_test_setup_teardown(test_sub_filter, setup, teardown),
        cmocka_unit_test_setup_teardown(test_sub_http, setup, teardown),
        cmocka_unit_test_setup_teardown(test_many, setup, teardown),
        cmocka_unit_test(test_references),
        cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
