/*
 * The sinks that need nobody else keep the contract of sink.h: each delivery ends once, never inside `deliver`, all
 * end by `close`. And what every protocol says about a message.
 */
#include "forward/sink.h"

#include "base/json.h"
#include "base/log.h"
#include "base/mem.h"
#include "forward/event.h"

#include <setjmp.h>
#include <cmocka.h>

enum { MANY = 6000 };

struct bench {
    struct loop *loop;
    struct topology *topology;
    struct sink *sink;
    struct timer *timer;
    struct delivery *d;
    size_t sent, ended[4], n;
    unsigned ready;
    bool inside, stop_when_ready;
};

static struct tx_content *content_of(const char *business_key, const char *key, const char *trace) {
    struct uuid id;
    struct header h = {BYTES_LIT("x-a"), BYTES_LIT("1")};
    struct msg m = {.topic = BYTES_LIT("orders"),
                    .key = bytes_str(key),
                    .body = BYTES_LIT("hello"),
                    .content_type = BYTES_LIT("text/plain"),
                    .headers = &h,
                    .headers_n = 1};
    struct msg two[2] = {m, m};

    uuid_v7_make(1700000000123, &id);
    struct tx_content *c = tx_content_new(&id, BYTES_LIT("shop"), bytes_str(business_key), bytes_str(trace), 0, two, 2);
    assert_non_null(c);
    return c;
}

static void on_done(void *arg, struct delivery *d) {
    struct bench *b = arg;

    assert_false(b->inside);
    assert_true(d->verdict >= SINK_OK && d->verdict <= SINK_REJECT);
    assert_int_equal(d->attempt, 1); /* it is that delivery, and for the first time */
    d->attempt = -1;
    b->ended[d->verdict]++;
}

static void on_ready(void *arg) {
    struct bench *b = arg;

    assert_false(b->inside);
    b->ready++;
}

static void setup(struct bench *b, enum sink_kind kind, size_t n) {
    CLEANUP_JSON json_t *spec =
        json_pack("{s:s,s:{s:{}}}", "topic", "orders", "sink", kind == SINK_LOG ? "log" : "discard");
    struct errmsg e = ERRMSG_NULL;

    *b = (struct bench){.n = n};
    assert_int_equal(loop_new("t", &b->loop), 0);
    b->topology = topology_new(1);
    CLEANUP_JSON json_t *topic = json_object();
    assert_int_equal(topology_add_topic(b->topology, "orders", topic, &e), 0);
    if (topology_add_sub(b->topology, 7, "audit", spec, &e) != 0)
        fail_msg("%s", e.text);
    struct sink_env env = {.loop = b->loop, .sub = topology_sub(b->topology, 7)};
    struct sink_owner o = {.done = on_done, .ready = on_ready, .arg = b};
    assert_int_equal(sink_new(&env, &o, &b->sink, &e), 0);
    b->d = mem_calloc(n, sizeof(*b->d));
    struct tx_content *c = content_of("b", "k", "");
    for (size_t i = 0; i < n; i++)
        b->d[i] = (struct delivery){.content = tx_content_ref(c), .n = i & 1, .attempt = 1};
    tx_content_unref(c);
}

static void teardown(struct bench *b) {
    if (b->sink)
        sink_close(b->sink);
    for (size_t i = 0; i < b->n; i++)
        tx_content_unref(b->d[i].content);
    mem_free(b->d);
    topology_unref(b->topology);
    loop_free(b->loop);
}

static void send_all(struct bench *b) {
    while (b->sent < b->n) {
        b->inside = true;
        int r = sink_deliver(b->sink, &b->d[b->sent]);
        b->inside = false;
        if (r == SINK_BUSY)
            break;
        b->sent++;
    }
    sink_flush(b->sink);
}

static void turn(struct bench *b) {
    uv_run(loop_uv(b->loop), UV_RUN_NOWAIT);
}

static void flows(enum sink_kind kind) {
    struct bench b;
    unsigned refused = 0;

    setup(&b, kind, MANY);
    while (b.ended[SINK_OK] < b.n) {
        send_all(&b);
        refused += b.sent < b.n;
        unsigned ready = b.ready;
        turn(&b);
        if (b.sent < b.n)
            assert_int_equal(b.ready, ready + 1); /* once per refusal */
    }
    assert_true(refused > 0); /* a bound, and it was met */
    assert_int_equal(b.sent, b.n);
    assert_int_equal(b.ended[SINK_OK], b.n);
    assert_int_equal(b.ready, refused);
    teardown(&b);
    assert_int_equal(b.ended[SINK_RETRY] + b.ended[SINK_REJECT], 0);
}

static void test_discard(void **state) {
    flows(SINK_DISCARD);
}

static void test_log(void **state) {
    log_set_level(LOG_LEVEL_ERROR);
    flows(SINK_LOG);
}

static void closes(enum sink_kind kind) {
    struct bench b;

    setup(&b, kind, 10);
    send_all(&b);
    sink_close(TAKE(b.sink));
    assert_int_equal(b.ended[SINK_RETRY], 10);
    for (size_t i = 0; i < b.n; i++)
        assert_false(b.d[i].unknown);
    teardown(&b);
    assert_int_equal(b.ended[SINK_RETRY], 10);
}

static void test_close(void **state) {
    closes(SINK_DISCARD);
    closes(SINK_LOG);
}

/* The bench of the room: no allocation for a delivery. */
static void test_discard_allocates_nothing(void **state) {
    struct bench b;

    setup(&b, SINK_DISCARD, 1000);
    uint64_t before = mem_count();
    send_all(&b);
    while (b.ended[SINK_OK] < b.n)
        turn(&b);
    assert_int_equal(mem_count(), before);
    teardown(&b);
}

static void test_message_id(void **state) {
    struct tx_content *c = content_of("b", "k", "");
    struct delivery d = {.content = c, .n = 1};
    char id[MESSAGE_ID_TEXT], want[UUID_TEXT];

    uuid_format(&c->id, want);
    delivery_message_id(&d, '.', id);
    assert_int_equal(strncmp(id, want, 36), 0);
    assert_string_equal(id + 36, ".1");
    d.n = 127;
    delivery_message_id(&d, '-', id);
    assert_string_equal(id + 36, "-127");
    tx_content_unref(c);
}

static void collect(void *arg, const char *name, struct bytes value) {
    struct buf *b = arg;

    buf_printf(b, "%s=", name);
    event_put_percent(b, value);
    buf_put_char(b, '\n');
}

static void test_event(void **state) {
    struct tx_content *c = content_of("order 7%\"\xc3\xa4\x7f", "a/b~!", "00-aa-bb-01\nvendor=1");
    struct delivery d = {.content = c, .n = 0, .attempt = 3, .confirmed_us = 5};
    CLEANUP_BUF struct buf got, want;
    char id[MESSAGE_ID_TEXT];
    struct event ev;

    buf_init(&got, 4096);
    buf_init(&want, 4096);
    event_of(&d, &ev);
    event_each(&ev, collect, &got);
    delivery_message_id(&d, '.', id);
    buf_printf(&want, "specversion=1.0\nid=%s\nsource=/txmsg/producers/shop\ntype=orders\n", id);
    buf_put_str(&want, "time=2023-11-14T22:13:20.123000Z\nsubject=order%207%25%22%C3%A4%7F\npartitionkey=a/b~!\n");
    assert_string_equal(buf_str(&got), buf_str(&want));
    assert_true(bytes_eq_str(ev.traceparent, "00-aa-bb-01"));
    assert_true(bytes_eq_str(ev.tracestate, "vendor=1"));
    tx_content_unref(c);

    c = content_of("", "", "00-aa-bb-01");
    d.content = c;
    event_of(&d, &ev);
    buf_reset(&got);
    event_each(&ev, collect, &got);
    assert_null(strstr(buf_str(&got), "subject"));
    assert_null(strstr(buf_str(&got), "partitionkey"));
    assert_true(bytes_eq_str(ev.traceparent, "00-aa-bb-01"));
    assert_int_equal(ev.tracestate.n, 0);
    tx_content_unref(c);
}

static void structured(struct msg m, const char *key, const char *data) {
    struct uuid id = {0};
    CLEANUP_BUF struct buf got;
    struct event ev;
    CLEANUP_JSON json_t *j = NULL;

    m.topic = BYTES_LIT("orders");
    m.key = bytes_str(key);
    uuid_v7_make(1700000000123, &id);
    struct tx_content *c =
        tx_content_new(&id, BYTES_LIT("shop"), BYTES_LIT("o \"1\""), BYTES_LIT("00-aa-bb-01\nv=1"), 0, &m, 1);
    struct delivery d = {.content = c};
    buf_init(&got, EVENT_BODY_MAX);
    event_of(&d, &ev);
    event_put_structured(&got, &ev, &c->messages[0]);
    assert_int_equal(buf_error(&got), 0);
    j = json_parse(buf_bytes(&got), NULL);
    assert_non_null(j);
    assert_string_equal(json_string_value(json_object_get(j, "specversion")), "1.0");
    assert_string_equal(json_string_value(json_object_get(j, "subject")), "o \"1\"");
    assert_string_equal(json_string_value(json_object_get(j, "traceparent")), "00-aa-bb-01");
    assert_string_equal(json_string_value(json_object_get(j, "partitionkey")), strcmp(key, "\xff") ? key : "%FF");
    assert_non_null(strstr(buf_str(&got), data));
    tx_content_unref(c);
}

static void test_structured(void **state) {
    structured((struct msg){.body = BYTES_LIT("{\"a\": [1]}"), .content_type = BYTES_LIT("application/json")}, "k",
               "\"datacontenttype\":\"application/json\",\"data\":{\"a\": [1]}}");
    structured((struct msg){.body = BYTES_LIT("{\"a\": [1]}"), .content_type = BYTES_LIT("application/x+JSON ; v=1")},
               "k", "\"data\":{\"a\": [1]}}");
    structured((struct msg){.body = BYTES_LIT("{\"a\": 1"), .content_type = BYTES_LIT("application/json")}, "k",
               "\"data_base64\":\"eyJhIjogMQ==\"}");
    structured((struct msg){.body = BYTES_LIT("hi \"you\""), .content_type = BYTES_LIT("text/plain")}, "\xff",
               "\"data\":\"hi \\\"you\\\"\"}");
    structured((struct msg){.body = BYTES_LIT("\xff"), .content_type = BYTES_LIT("text/plain")}, "k",
               "\"data_base64\":\"/w==\"}");
    structured((struct msg){.body = BYTES_LIT("")}, "k",
               "\"datacontenttype\":\"application/octet-stream\",\"data_base64\":\"\"}");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_discard),    cmocka_unit_test(test_log),
        cmocka_unit_test(test_close),      cmocka_unit_test(test_discard_allocates_nothing),
        cmocka_unit_test(test_message_id), cmocka_unit_test(test_event),
        cmocka_unit_test(test_structured),
    };
    return cmocka_run_group_tests_name("forward_sink", tests, NULL, NULL);
}
