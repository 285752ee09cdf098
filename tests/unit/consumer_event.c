/* Deliveries in every form that txmsg sends them, decoded; and what is none of its messages. */
#include "event.h"
#include "forward/event.h"
#include "json_scan.h"
#include "webclient/signature.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#define TX     "019b76da-0000-7000-8000-000000000001"
#define SECRET "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
enum { NOW = 1700000000, HEADERS_MAX = 32 };

struct request {
    struct txmsg_header h[HEADERS_MAX];
    size_t n;
};

static void put(struct request *q, const char *name, const char *value) {
    q->h[q->n++] = (struct txmsg_header){name, strlen(name), value, strlen(value)};
}

/* Names with NULL or "" for a value are left out. */
static struct request binary(const char *id, const char *type) {
    struct request q = {.n = 0};

    put(&q, "Content-Type", "application/json");
    put(&q, "CE-SpecVersion", "1.0");
    put(&q, "ce-id", id);
    put(&q, "ce-source", "/txmsg/producers/shop");
    put(&q, "ce-type", type);
    put(&q, "ce-time", "2023-11-14T22:13:20.123000Z");
    put(&q, "ce-subject", "order%207%25%C3%A4");
    put(&q, "ce-partitionkey", "a%00%FFb");
    put(&q, "traceparent", "00-aa-bb-01");
    put(&q, "tracestate", "v=1");
    put(&q, "txmsg-attempt", "3");
    put(&q, "colour", "blue");
    return q;
}

static struct txmsg_why why;

static int from_http(const struct request *q, struct bytes body, txmsg_event **ret) {
    return txmsg_event_from_http(ret, NULL, q->h, q->n, body.p, body.n, NOW, &why);
}

static void assert_bad(const struct request *q, const char *body, const char *says) {
    txmsg_event *ev = (txmsg_event *)(uintptr_t)1;

    why.text[0] = '\0';
    assert_int_equal(from_http(q, bytes_str(body), &ev), TXMSG_BAD_EVENT);
    assert_null(ev);
    if (!strstr(why.text, says))
        fail_msg("'%s' does not say '%s'", why.text, says);
}

static void assert_bytes(const void *p, size_t n, struct bytes want) {
    assert_int_equal(n, want.n);
    assert_memory_equal(p, want.p, want.n);
    assert_int_equal(((const char *)p)[n], 0);
}

static void test_binary(void **state) {
    struct request q = binary(TX ".12", "orders");
    struct bytes body = BYTES_LIT("{\"a\":\0\xff");
    txmsg_event *ev;
    size_t n;

    assert_int_equal(from_http(&q, body, &ev), TXMSG_OK);
    assert_string_equal(txmsg_event_id(ev), TX ".12");
    assert_string_equal(txmsg_event_transaction_id(ev), TX);
    assert_int_equal(txmsg_event_n(ev), 12);
    assert_string_equal(txmsg_event_topic(ev), "orders");
    assert_string_equal(txmsg_event_producer(ev), "shop");
    assert_string_equal(txmsg_event_business_key(ev), "order 7%\xc3\xa4");
    assert_string_equal(txmsg_event_time(ev), "2023-11-14T22:13:20.123000Z");
    assert_string_equal(txmsg_event_content_type(ev), "application/json");
    assert_string_equal(txmsg_event_traceparent(ev), "00-aa-bb-01");
    assert_string_equal(txmsg_event_tracestate(ev), "v=1");
    assert_int_equal(txmsg_event_attempt(ev), 3);
    const void *key = txmsg_event_key(ev, &n);
    assert_bytes(key, n,
                 BYTES_LIT("a\0\xff"
                           "b"));
    const void *got = txmsg_event_body(ev, &n);
    assert_bytes(got, n, body);
    txmsg_event_free(ev);
}

/* The least that a message has. */
static void test_least(void **state) {
    struct request q = {.n = 0};
    txmsg_event *ev;
    size_t n = 7;

    put(&q, "ce-specversion", "1.0");
    put(&q, "ce-id", TX ".0");
    put(&q, "ce-source", "/elsewhere");
    put(&q, "ce-type", "t");
    assert_int_equal(from_http(&q, BYTES_NULL, &ev), TXMSG_OK);
    assert_string_equal(txmsg_event_producer(ev), "");
    assert_string_equal(txmsg_event_business_key(ev), "");
    assert_string_equal(txmsg_event_content_type(ev), "");
    assert_int_equal(txmsg_event_attempt(ev), 0);
    assert_string_equal(txmsg_event_body(ev, &n), "");
    assert_int_equal(n, 0);
    txmsg_event_free(ev);
}

static void test_bad_attributes(void **state) {
    static const char *const ids[] = {"",
                                      TX,
                                      TX ".",
                                      TX ".x",
                                      TX ".01",
                                      TX ".-1",
                                      TX ".1 ",
                                      TX ".1.2",
                                      TX "-1",
                                      "x" TX ".1",
                                      "1",
                                      TX ".1234567890",
                                      ".0",
                                      "019B76DA-0000-7000-8000-000000000001.0",
                                      "019b76da-0000-7000-8000-00000000000g.0"};

    for (size_t i = 0; i < ARRAY_LEN(ids); i++) {
        struct request q = binary(ids[i], "orders");
        assert_bad(&q, "", *ids[i] ? "id is not" : "id is missing");
    }
    for (size_t gone = 1; gone <= 4; gone++) {
        struct request q = binary(TX ".0", "orders");
        q.h[gone] = q.h[0];
        q.h[gone].name = "other", q.h[gone].name_size = 5;
        assert_bad(&q, "", " is missing");
    }
    struct request q = binary(TX ".0", "orders");
    put(&q, "Ce-Id", TX ".0");
    assert_bad(&q, "", "id is there twice");
    q = binary(TX ".0", "orders");
    put(&q, "content-type", "application/json");
    assert_bad(&q, "", "content-type is there twice");
    q = binary(TX ".0", "orders");
    put(&q, "txmsg-attempt", "3");
    assert_bad(&q, "", "txmsg-attempt");
    static const char *const types[] = {"%", "%4", "%4g", "a%00b", "%ff"};
    for (size_t i = 0; i < ARRAY_LEN(types); i++) {
        q = binary(TX ".0", types[i]);
        assert_bad(&q, "", "type is not");
    }
    q = binary(TX ".0", "orders");
    q.h[1].value = "0.3";
    assert_bad(&q, "", "specversion");
    q = binary(TX ".0", "orders");
    q.h[0] = (struct txmsg_header){"content-type", 12, "application/cloudevents-batch+json", 34};
    assert_bad(&q, "[]", "batch");
}

/* --- structured --- */

static int structured(const char *text, txmsg_event **ret) {
    struct request q = {.n = 0};

    put(&q, "Content-Type", "application/cloudevents+json; charset=utf-8");
    put(&q, "txmsg-attempt", "1");
    return from_http(&q, bytes_str(text), ret);
}

#define HEAD "{\"specversion\":\"1.0\",\"id\":\"" TX ".0\",\"source\":\"/txmsg/producers/shop\",\"type\":\"orders\""

static void assert_data(const char *members, struct bytes want) {
    txmsg_event *ev;
    char text[600];
    size_t n;

    snprintf(text, sizeof(text), HEAD "%s}", members);
    if (structured(text, &ev) != TXMSG_OK)
        fail_msg("%s: %s", text, why.text);
    const void *p = txmsg_event_body(ev, &n);
    assert_bytes(p, n, want);
    txmsg_event_free(ev);
}

static void test_structured_data(void **state) {
    /* JSON keeps its bytes: blanks, the order of members, digits that no double holds. */
    assert_data(",\"data\": {\"b\" : 1.00000000000000000001,\"a\":[ ] }",
                BYTES_LIT(" {\"b\" : 1.00000000000000000001,\"a\":[ ] }"));
    assert_data(",\"datacontenttype\":\"application/vnd.x+json; charset=utf-8\",\"data\":\"a\"", BYTES_LIT("\"a\""));
    assert_data(",\"data\":\"text\",\"datacontenttype\":\"text/plain\"", BYTES_LIT("text"));
    assert_data(",\"data\":\"\\u00e4\\ud83d\\ude00\\n\\\"\\/\",\"datacontenttype\":\"text/plain\"",
                BYTES_LIT("\xc3\xa4\xf0\x9f\x98\x80\n\"/"));
    assert_data(",\"data_base64\":\"AP8=\"", BYTES_LIT("\0\xff"));
    assert_data(",\"data_base64\":\"\"", BYTES_LIT(""));
    assert_data("", BYTES_LIT(""));
    assert_data(",\"other\":{\"data\":[1,2]},\"more\":null,\"data\":null", BYTES_LIT("null"));
    assert_data(",\"d\\u0061ta\":7", BYTES_LIT("7"));
}

static void test_structured_bad(void **state) {
    static const char *const bad[] = {"",
                                      "[]",
                                      "{}",
                                      "{",
                                      "\"a\"",
                                      "null",
                                      HEAD,
                                      HEAD "}}",
                                      HEAD "} x",
                                      HEAD ",}",
                                      HEAD ",\"a\"}",
                                      HEAD ",\"a\":}",
                                      HEAD ",\"a\":1 2}",
                                      HEAD ",\"id\":\"" TX ".0\"}",
                                      HEAD ",\"i\\u0064\":\"" TX ".0\"}",
                                      HEAD ",\"data\":1,\"data\":2}",
                                      HEAD ",\"data\":1,\"data_base64\":\"\"}",
                                      HEAD ",\"data_base64\":\"*\"}",
                                      HEAD ",\"data_base64\":1}",
                                      HEAD ",\"subject\":1}",
                                      HEAD ",\"subject\":null}",
                                      HEAD ",\"subject\":\"\\u0000\"}",
                                      HEAD ",\"subject\":\"\xff\"}",
                                      HEAD ",\"subject\":\"\\ud800\"}",
                                      HEAD ",\"data\":01}",
                                      HEAD ",\"data\":[1,]}",
                                      HEAD ",\"data\":{\"a\"}}",
                                      HEAD ",\"data\":+1}",
                                      HEAD ",\"data\":1.}",
                                      HEAD ",\"data\":1e}",
                                      HEAD ",\"data\":tru}",
                                      HEAD ",\"data\":\"a\nb\"}",
                                      HEAD ",\"data\":[}]}",
                                      HEAD ",\"data\":'a'}"};
    txmsg_event *ev;

    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        if (structured(bad[i], &ev) != TXMSG_BAD_EVENT || ev || !why.text[0])
            fail_msg("%s", bad[i]);
}

static void test_structured_bounds(void **state) {
    CLEANUP_BUF struct buf b;
    txmsg_event *ev;

    buf_init(&b, 1 << 20);
    for (int levels = JSON_SCAN_DEPTH; levels <= JSON_SCAN_DEPTH + 1; levels++) {
        buf_reset(&b);
        buf_put_str(&b, HEAD ",\"data\":");
        for (int i = 0; i < levels; i++)
            buf_put_char(&b, '[');
        for (int i = 0; i < levels; i++)
            buf_put_char(&b, ']');
        buf_put_char(&b, '}');
        assert_int_equal(structured(buf_str(&b), &ev), levels > JSON_SCAN_DEPTH ? TXMSG_BAD_EVENT : TXMSG_OK);
        txmsg_event_free(ev);
    }
    buf_reset(&b);
    buf_put_str(&b, HEAD);
    for (int i = 0; i < 70; i++)
        buf_printf(&b, ",\"x%d\":0", i);
    buf_put_char(&b, '}');
    assert_int_equal(structured(buf_str(&b), &ev), TXMSG_BAD_EVENT);
}

/* What the forwarder writes comes back as it was sent. */
static void round_trip(struct bytes body, const char *content_type, const char *key) {
    struct msg m = {
        .topic = BYTES_LIT("orders"), .key = bytes_str(key), .body = body, .content_type = bytes_str(content_type)};
    CLEANUP_BUF struct buf text;
    struct request q = {.n = 0};
    struct event ev;
    struct uuid id;
    txmsg_event *got;
    size_t n;

    uuid_v7_make(1700000000123, &id);
    struct tx_content *c =
        tx_content_new(&id, BYTES_LIT("shop"), BYTES_LIT("o \"1\"\xc3\xa4"), BYTES_LIT("00-aa-bb-01\nv=1"), 0, &m, 1);
    struct delivery d = {.content = c};
    buf_init(&text, EVENT_BODY_MAX);
    event_of(&d, &ev);
    event_put_structured(&text, &ev, &c->messages[0]);
    put(&q, "content-type", "application/cloudevents+json");
    if (from_http(&q, buf_bytes(&text), &got) != TXMSG_OK)
        fail_msg("%s: %s", buf_str(&text), why.text);
    assert_string_equal(txmsg_event_id(got), ev.id);
    assert_string_equal(txmsg_event_business_key(got), "o \"1\"\xc3\xa4");
    assert_string_equal(txmsg_event_tracestate(got), "v=1");
    assert_string_equal(txmsg_event_key(got, &n), key);
    const void *p = txmsg_event_body(got, &n);
    assert_bytes(p, n, body);
    txmsg_event_free(got);
    tx_content_unref(c);
}

static void test_round_trip(void **state) {
    round_trip(BYTES_LIT("{\"item\" : \"tea\", \"n\": 12345678901234567.5}"), "application/json", "k\"\\");
    round_trip(BYTES_LIT(" [1]\n"), "application/json", "");
    round_trip(BYTES_LIT("{not json"), "application/json", "\x01");
    round_trip(BYTES_LIT("\"a\""), "text/plain", "k");
    round_trip(BYTES_LIT("line\n\x01\xc3\xa4"), "text/plain; charset=utf-8", "k");
    round_trip(BYTES_LIT("\xff\0"), "text/plain", "k");
    round_trip(BYTES_LIT("\"a\""), "", "k");
    round_trip(BYTES_LIT(""), "application/json", "k");
    round_trip(BYTES_LIT("\0\1\2"), "application/octet-stream", "k");
}

/* --- signed --- */

/* Attributes of binary mode are not signed: another id beside a signature that is good would be taken as a new message. */
static void test_signed_id(void **state) {
    static const struct txmsg_webhook keys = {.secret = SECRET};
    struct request q = binary(TX ".0", "orders");
    CLEANUP_BUF struct buf signature;
    txmsg_event *ev;

    buf_init(&signature, 1024);
    assert_int_equal(webhook_sign(&signature, SECRET, TX "-0", NOW, BYTES_LIT("body")), 0);
    put(&q, "webhook-id", TX "-0");
    put(&q, "webhook-timestamp", "1700000000");
    put(&q, "webhook-signature", buf_str(&signature));
    assert_int_equal(txmsg_event_from_http(&ev, &keys, q.h, q.n, "body", 4, NOW, &why), TXMSG_OK);
    txmsg_event_free(ev);
    assert_int_equal(txmsg_event_from_http(&ev, &keys, q.h, q.n, "bodY", 4, NOW, &why), TXMSG_BAD_SIGNATURE);
    assert_null(ev);
    q.h[2].value = TX ".1";
    assert_int_equal(txmsg_event_from_http(&ev, &keys, q.h, q.n, "body", 4, NOW, &why), TXMSG_BAD_EVENT);
    assert_non_null(strstr(why.text, "webhook-id"));
    assert_int_equal(txmsg_event_from_http(&ev, NULL, q.h, q.n, "body", 4, NOW, &why), TXMSG_BAD_EVENT);
    q.n -= 3; /* unsigned, where a signature is asked for */
    assert_int_equal(txmsg_event_from_http(&ev, &keys, q.h, q.n, "body", 4, NOW, &why), TXMSG_BAD_SIGNATURE);
}

/* --- AMQP --- */

static void test_amqp(void **state) {
    struct request q = {.n = 0};
    txmsg_event *ev;
    size_t n;

    put(&q, "cloudEvents:specversion", "1.0");
    put(&q, "cloudEvents:id", TX ".0");
    put(&q, "cloudEvents:source", "/txmsg/producers/shop");
    put(&q, "cloudEvents:type", "orders");
    put(&q, "cloudEvents:subject", "as%20it is");
    put(&q, "cloudEvents:partitionkey", "k");
    put(&q, "txmsg-attempt", "2");
    put(&q, "traceparent", "00-aa");
    put(&q, "cloudEvents_id", "a producer's own header");
    assert_int_equal(txmsg_event_from_amqp(&ev, q.h, q.n, "text/plain", "b", 1, &why), TXMSG_OK);
    assert_string_equal(txmsg_event_id(ev), TX ".0");
    assert_string_equal(txmsg_event_business_key(ev), "as%20it is");
    assert_string_equal(txmsg_event_content_type(ev), "text/plain");
    assert_string_equal(txmsg_event_traceparent(ev), "00-aa");
    assert_int_equal(txmsg_event_attempt(ev), 2);
    assert_string_equal(txmsg_event_body(ev, &n), "b");
    txmsg_event_free(ev);
    assert_int_equal(txmsg_event_from_amqp(&ev, q.h + 1, q.n - 1, NULL, "b", 1, &why), TXMSG_BAD_EVENT);
    assert_null(ev);
}

/* --- misuse, memory --- */

static void test_misuse(void **state) {
    struct request q = binary(TX ".0", "orders");
    struct txmsg_header nameless = {NULL, 0, "", 0}, valueless = {"a", 1, NULL, 1};
    txmsg_event *ev;
    size_t n = 3;

    assert_int_equal(txmsg_event_from_http(NULL, NULL, q.h, q.n, "", 0, NOW, NULL), TXMSG_ERROR_INVALID);
    assert_int_equal(txmsg_event_from_http(&ev, NULL, NULL, 1, "", 0, NOW, NULL), TXMSG_ERROR_INVALID);
    assert_int_equal(txmsg_event_from_http(&ev, NULL, &nameless, 1, "", 0, NOW, NULL), TXMSG_ERROR_INVALID);
    assert_int_equal(txmsg_event_from_http(&ev, NULL, &valueless, 1, "", 0, NOW, NULL), TXMSG_ERROR_INVALID);
    assert_int_equal(txmsg_event_from_http(&ev, NULL, q.h, q.n, NULL, 1, NOW, NULL), TXMSG_ERROR_INVALID);
    assert_int_equal(txmsg_event_from_amqp(NULL, q.h, q.n, NULL, "", 0, NULL), TXMSG_ERROR_INVALID);
    assert_int_equal(txmsg_event_from_amqp(&ev, NULL, 1, NULL, "", 0, NULL), TXMSG_ERROR_INVALID);
    assert_null(ev);
    txmsg_event_free(NULL);
    assert_string_equal(txmsg_event_id(NULL), "");
    assert_string_equal(txmsg_event_transaction_id(NULL), "");
    assert_string_equal(txmsg_event_producer(NULL), "");
    assert_string_equal(txmsg_event_body(NULL, &n), "");
    assert_int_equal(n, 0);
    assert_string_equal(txmsg_event_key(NULL, NULL), "");
    assert_int_equal(txmsg_event_n(NULL) + (unsigned)txmsg_event_attempt(NULL), 0);
}

static void fails_for_memory(const struct request *q, struct bytes body) {
    txmsg_event *ev;
    int failures = 0;

    for (uint64_t n = 1;; n++) {
        mem_fail_at(n);
        int r = from_http(q, body, &ev);
        mem_fail_at(0);
        if (r == TXMSG_OK)
            break;
        assert_int_equal(r, TXMSG_ERROR_MEMORY);
        assert_null(ev);
        failures++;
    }
    txmsg_event_free(ev);
    assert_true(failures > 5);
}

static void test_memory(void **state) {
    struct request q = binary(TX ".0", "orders"), s = {.n = 0};

    fails_for_memory(&q, BYTES_LIT("body"));
    put(&s, "content-type", "application/cloudevents+json");
    fails_for_memory(&s, BYTES_LIT(HEAD ",\"data_base64\":\"AAAA\",\"datacontenttype\":\"a/b\"}"));
    fails_for_memory(&s, BYTES_LIT(HEAD ",\"datacontenttype\":\"text/plain\",\"data\":\"a\"}"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_binary),         cmocka_unit_test(test_least),
        cmocka_unit_test(test_bad_attributes), cmocka_unit_test(test_structured_data),
        cmocka_unit_test(test_structured_bad), cmocka_unit_test(test_structured_bounds),
        cmocka_unit_test(test_round_trip),     cmocka_unit_test(test_signed_id),
        cmocka_unit_test(test_amqp),           cmocka_unit_test(test_misuse),
        cmocka_unit_test(test_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
