/* The question as the producer gets it. */
#include "checkback/request.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#include "base/json.h"

#define ID     "0197a3b4-0000-7000-8000-0000000000ab"
#define SECRET "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

static struct uuid tx;

static struct tx_content *content_new(void) {
    static const struct header headers[] = {{BYTES_LIT("b"), BYTES_LIT("2")}, {BYTES_LIT("a"), BYTES_LIT("\"1\"")}};
    const struct msg msgs[] = {
        {.topic = BYTES_LIT("orders"),
         .key = BYTES_LIT("k\xc3\xa4\n"),
         .body = BYTES_LIT("{\"x\":1}"),
         .headers = headers,
         .headers_n = 2},
        {.topic = BYTES_LIT("audit"), .key = BYTES_LIT("\xff\x00\x01"), .body = BYTES_LIT("a\0b")},
        {.topic = BYTES_LIT("plain")},
    };
    return tx_content_new(&tx, BYTES_LIT("shop"), BYTES_LIT("order 7"), BYTES_NULL, 0, msgs, ARRAY_LEN(msgs));
}

static void body_of(struct buf *out, const char *business_key, bool include_body) {
    CLEANUP(tx_content_cleanup) struct tx_content *content = content_new();
    struct question q = {.tx = &tx,
                         .producer = "shop",
                         .business_key = business_key,
                         .prepared_us = 1750000000123456,
                         .check_count = 3,
                         .content = content,
                         .include_body = include_body};

    assert_non_null(content);
    buf_reset(out);
    assert_int_equal(request_body(out, &q), 0);
}

static void test_body(void **state) {
    CLEANUP_BUF struct buf b;

    buf_init(&b, 1 << 16);
    body_of(&b, "order \"7\"", false);
    assert_string_equal(buf_str(&b),
                        "{\"transactionId\":\"" ID "\",\"producer\":\"shop\",\"businessKey\":\"order \\\"7\\\"\","
                        "\"preparedTime\":\"2025-06-15T15:06:40.123456Z\",\"checkCount\":3,\"messages\":["
                        "{\"topic\":\"orders\",\"key\":\"k\xc3\xa4\\n\",\"headers\":{\"a\":\"\\\"1\\\"\",\"b\":\"2\"}},"
                        "{\"topic\":\"audit\",\"keyBase64\":\"/wAB\",\"headers\":{}},"
                        "{\"topic\":\"plain\",\"key\":\"\",\"headers\":{}}]}");
}

static void test_body_included(void **state) {
    CLEANUP_BUF struct buf b;

    buf_init(&b, 1 << 16);
    body_of(&b, NULL, true);
    struct errmsg e;
    CLEANUP_JSON json_t *j = json_parse(buf_bytes(&b), &e);
    assert_non_null(j);
    assert_string_equal(json_string_value(json_object_get(j, "businessKey")), "");
    json_t *m = json_object_get(j, "messages");
    assert_int_equal(json_array_size(m), 3);
    assert_string_equal(json_string_value(json_object_get(json_array_get(m, 0), "body")), "{\"x\":1}");
    assert_string_equal(json_string_value(json_object_get(json_array_get(m, 1), "bodyBase64")), "YQBi");
    assert_null(json_object_get(json_array_get(m, 1), "body"));
    assert_string_equal(json_string_value(json_object_get(json_array_get(m, 2), "body")), "");
}

static void test_bound(void **state) {
    CLEANUP(tx_content_cleanup) struct tx_content *content = content_new();
    struct question q = {.tx = &tx, .producer = "shop", .content = content};
    CLEANUP_BUF struct buf b;

    buf_init(&b, 100);
    assert_int_equal(request_body(&b, &q), -E2BIG);
}

static void test_headers(void **state) {
    struct request_headers h;

    assert_int_equal(request_headers(&h, SECRET, &tx, 1614265330, BYTES_LIT("{\"a\":1}")), 0);
    assert_string_equal(h.list[0], "Content-Type: application/json");
    assert_string_equal(h.list[1], "webhook-id: " ID);
    assert_string_equal(h.list[2], "webhook-timestamp: 1614265330");
    /* Python's hmac over "<id>.1614265330.{"a":1}". */
    assert_string_equal(h.list[3], "webhook-signature: v1,RGIuGngKpCH0QS0IXBZKhKmVMKmvYqDOlKLOGGWz7+4=");
    assert_null(h.list[4]);
}

static void test_headers_unsigned(void **state) {
    struct request_headers h;

    assert_int_equal(request_headers(&h, "", &tx, 1614265330, BYTES_LIT("{}")), 0);
    assert_non_null(h.list[2]);
    assert_null(h.list[3]);
    assert_int_equal(request_headers(&h, "secret", &tx, 1614265330, BYTES_LIT("{}")), -EINVAL);
}

static int setup(void **state) {
    return uuid_parse(BYTES_LIT(ID), &tx);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_body),    cmocka_unit_test(test_body_included),    cmocka_unit_test(test_bound),
        cmocka_unit_test(test_headers), cmocka_unit_test(test_headers_unsigned),
    };
    return cmocka_run_group_tests(tests, setup, NULL);
}
