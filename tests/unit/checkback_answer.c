/* What counts as an answer to a check, and above all what does not. */
#include "checkback/answer.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#define ID    "0197a3b4-0000-7000-8000-0000000000ab"
#define OTHER "0197a3b4-0000-7000-8000-0000000000ac"

static struct answer read_response(const struct web_response *r) {
    struct answer a;
    struct uuid tx;

    assert_int_equal(uuid_parse(BYTES_LIT(ID), &tx), 0);
    answer_read(r, &tx, &a);
    return a;
}

static enum answer_verdict verdict_of(int status, struct bytes body) {
    struct web_response r = {.result = WEB_ANSWERED, .status = status, .body = body, .error = ""};
    struct answer a = read_response(&r);

    assert_int_equal(a.verdict == ANSWER_UNREACHABLE, a.why[0] != 0);
    answer_end(&a);
    return a.verdict;
}

static enum answer_verdict verdict_200(const char *text) {
    return verdict_of(200, bytes_str(text));
}

static void test_verdicts(void **state) {
    assert_int_equal(verdict_200("{\"transactionId\":\"" ID "\",\"decision\":\"COMMITTED\"}"), ANSWER_COMMITTED);
    assert_int_equal(verdict_200("{\"decision\":\"ROLLED_BACK\",\"transactionId\":\"" ID "\"}"), ANSWER_ROLLED_BACK);
    assert_int_equal(verdict_200(" { \"transactionId\" : \"" ID "\" , \"decision\" : \"UNKNOWN\" }\r\n"),
                     ANSWER_UNKNOWN);
    assert_string_equal(answer_name(ANSWER_ROLLED_BACK), "rolled_back");
}

static void test_tolerated(void **state) {
    assert_int_equal(
        verdict_200("{\"transactionId\":\"0197A3B4-0000-7000-8000-0000000000AB\",\"decision\":\"COMMITTED\"}"),
        ANSWER_COMMITTED);
    assert_int_equal(verdict_200("{\"transactionId\":\"" ID "\",\"decision\":\"COMMITTED\",\"bodies\":[],"
                                 "\"note\":null,\"Decision\":\"ROLLED_BACK\"}"),
                     ANSWER_COMMITTED);
    assert_int_equal(verdict_200("{\"transactionId\":\"" ID "\",\"decision\":\"\\u0043OMMITTED\"}"), ANSWER_COMMITTED);
}

static void test_not_answers(void **state) {
    static const char *const bodies[] = {
        "{\"transactionId\":\"" ID "\",\"decision\":\"COMMITTED\",\"bodies\":[{\"n\":0}]}",
        "",
        "COMMITTED",
        "\"COMMITTED\"",
        "null",
        "[]",
        "{}",
        "<html><body>COMMITTED</body></html>",
        "{\"decision\":\"COMMITTED\"}",
        "{\"transactionId\":\"" ID "\"}",
        "{\"transactionId\":\"" OTHER "\",\"decision\":\"COMMITTED\"}",
        "{\"transactionId\":\"\",\"decision\":\"COMMITTED\"}",
        "{\"transactionId\":null,\"decision\":\"COMMITTED\"}",
        "{\"transactionId\":7,\"decision\":\"COMMITTED\"}",
        "{\"transactionId\":[\"" ID "\"],\"decision\":\"COMMITTED\"}",
        "{\"transactionId\":\"" ID " \",\"decision\":\"COMMITTED\"}",
        "{\"transactionId\":\"{" ID "}\",\"decision\":\"COMMITTED\"}",
        "{\"transactionId\":\"0197a3b4000070008000000000000000ab\",\"decision\":\"COMMITTED\"}",
        "{\"transactionid\":\"" ID "\",\"decision\":\"COMMITTED\"}",
        "{\"transaction_id\":\"" ID "\",\"decision\":\"COMMITTED\"}",
        "{\"transactionId\":\"" ID "\",\"Decision\":\"COMMITTED\"}",
        "{\"transactionId\":\"" ID "\",\"decision\":\"committed\"}",
        "{\"transactionId\":\"" ID "\",\"decision\":\"Committed\"}",
        "{\"transactionId\":\"" ID "\",\"decision\":\"COMMITTED \"}",
        "{\"transactionId\":\"" ID "\",\"decision\":\"COMMIT\"}",
        "{\"transactionId\":\"" ID "\",\"decision\":\"COMMITTED_\"}",
        "{\"transactionId\":\"" ID "\",\"decision\":\"\"}",
        "{\"transactionId\":\"" ID "\",\"decision\":null}",
        "{\"transactionId\":\"" ID "\",\"decision\":true}",
        "{\"transactionId\":\"" ID "\",\"decision\":1}",
        "{\"transactionId\":\"" ID "\",\"decision\":[\"COMMITTED\"]}",
        "{\"transactionId\":\"" ID "\",\"decision\":{\"COMMITTED\":true}}",
        /* two of anything: which one would it be */
        "{\"transactionId\":\"" ID "\",\"decision\":\"ROLLED_BACK\",\"decision\":\"COMMITTED\"}",
        "{\"transactionId\":\"" OTHER "\",\"transactionId\":\"" ID "\",\"decision\":\"COMMITTED\"}",
        "{\"transactionId\":\"" ID "\",\"decision\":\"COMMITTED\"}{}",
        "{\"transactionId\":\"" ID "\",\"decision\":\"COMMITTED\"} x",
        "[{\"transactionId\":\"" ID "\",\"decision\":\"COMMITTED\"}]",
        "{\"answer\":{\"transactionId\":\"" ID "\",\"decision\":\"COMMITTED\"}}",
        "{\"transactionId\":\"" ID "\",\"decision\":\"COMMITTED\"",
        "{'transactionId':'" ID "','decision':'COMMITTED'}",
        "{\"transactionId\":\"" ID "\",\"decision\":\"COMMITTED\\u0000\"}",
        "\xef\xbb\xbf{\"transactionId\":\"" ID "\",\"decision\":\"COMMITTED\"}",
        "{\"transactionId\":\"" ID "\",\"decision\":\"COMMITTED\",\"x\":\"\xff\"}",
    };

    for (size_t i = 0; i < ARRAY_LEN(bodies); i++) {
        if (verdict_200(bodies[i]) != ANSWER_UNREACHABLE)
            fail_msg("taken as an answer: %s", bodies[i]);
    }
}

static void test_bytes(void **state) {
    static const char with_nul[] = "{\"transactionId\":\"" ID "\",\"decision\":\"COMMITTED\"}\0";

    assert_int_equal(verdict_of(200, BYTES_NULL), ANSWER_UNREACHABLE);
    assert_int_equal(verdict_of(200, bytes_of(with_nul, sizeof(with_nul))), ANSWER_UNREACHABLE);
    /* not NUL-terminated: the length counts */
    assert_int_equal(verdict_of(200, bytes_of(with_nul, sizeof(with_nul) - 2)), ANSWER_COMMITTED);
    assert_int_equal(verdict_of(200, bytes_of(with_nul, 20)), ANSWER_UNREACHABLE);
}

/* Only 200 carries a verdict, whatever the body says. */
static void test_status(void **state) {
    static const int statuses[] = {0,   100, 201, 202, 203, 204, 206, 207, 226, 301,
                                   302, 304, 400, 401, 403, 404, 410, 429, 500, 503};
    static const char body[] = "{\"transactionId\":\"" ID "\",\"decision\":\"ROLLED_BACK\"}";

    for (size_t i = 0; i < ARRAY_LEN(statuses); i++)
        assert_int_equal(verdict_of(statuses[i], bytes_str(body)), ANSWER_UNREACHABLE);
    assert_int_equal(verdict_of(200, bytes_str(body)), ANSWER_ROLLED_BACK);
}

static void test_failures(void **state) {
    static const enum web_result results[] = {WEB_TIMEOUT, WEB_UNREACHABLE, WEB_BROKEN, WEB_TOO_LARGE, WEB_CANCELLED};

    for (size_t i = 0; i < ARRAY_LEN(results); i++) {
        struct web_response r = {.result = results[i],
                                 .status = 200,
                                 .body = BYTES_LIT("{\"transactionId\":\"" ID "\",\"decision\":\"COMMITTED\"}"),
                                 .error = "it failed"};
        struct answer a = read_response(&r);
        assert_int_equal(a.verdict, ANSWER_UNREACHABLE);
        assert_string_equal(a.why, "it failed");
    }
}

static void test_huge_and_deep(void **state) {
    CLEANUP_BUF struct buf b;

    buf_init(&b, 8 << 20);
    for (int i = 0; i < 1 << 20; i++)
        buf_put_char(&b, '[');
    assert_int_equal(verdict_of(200, buf_bytes(&b)), ANSWER_UNREACHABLE);
    buf_reset(&b);
    buf_put_str(&b, "{\"transactionId\":\"" ID "\",\"decision\":\"");
    for (int i = 0; i < 1 << 20; i++)
        buf_put_str(&b, "COMM");
    buf_put_str(&b, "\"}");
    assert_int_equal(verdict_of(200, buf_bytes(&b)), ANSWER_UNREACHABLE);
}

#define UNKNOWN(more) "{\"transactionId\":\"" ID "\",\"decision\":\"UNKNOWN\"," more "}"

static struct answer answer_of(const char *text) {
    struct web_response r = {.result = WEB_ANSWERED, .status = 200, .body = bytes_str(text), .error = ""};

    return read_response(&r);
}

static void test_ask_again(void **state) {
    struct answer a = answer_of(UNKNOWN("\"askAgainAfter\":\"90s\""));

    assert_int_equal(a.verdict, ANSWER_UNKNOWN);
    assert_int_equal(a.again_after_ms, 90000);
    assert_int_equal(a.again_at_us, 0);
    a = answer_of(UNKNOWN("\"askAgainAt\":\"2026-01-01T02:00:00.5+02:00\",\"askAgainAfter\":null"));
    assert_int_equal(a.verdict, ANSWER_UNKNOWN);
    assert_int_equal(a.again_at_us, 1767225600500000);
    assert_int_equal(a.again_after_ms, -1);
    a = answer_of(UNKNOWN("\"x\":1"));
    assert_int_equal(a.again_after_ms, -1);
    assert_int_equal(a.again_at_us, 0);
    static const char *const wrong[] = {
        UNKNOWN("\"askAgainAfter\":90"),
        UNKNOWN("\"askAgainAfter\":\"soon\""),
        UNKNOWN("\"askAgainAfter\":\"-1s\""),
        UNKNOWN("\"askAgainAfter\":\"\""),
        UNKNOWN("\"askAgainAfter\":{}"),
        UNKNOWN("\"askAgainAfter\":\"1s\\u0000\""),
        UNKNOWN("\"askAgainAt\":\"tomorrow\""),
        UNKNOWN("\"askAgainAt\":1767225600"),
        UNKNOWN("\"askAgainAt\":\"2026-13-01T00:00:00Z\""),
        UNKNOWN("\"askAgainAt\":\"2026-01-01T00:00:00Z\",\"askAgainAfter\":\"1s\""),
        "{\"transactionId\":\"" ID "\",\"decision\":\"COMMITTED\",\"askAgainAfter\":\"1s\"}",
        "{\"transactionId\":\"" ID "\",\"decision\":\"ROLLED_BACK\",\"askAgainAt\":\"2026-01-01T00:00:00Z\"}",
    };
    for (size_t i = 0; i < ARRAY_LEN(wrong); i++)
        if (answer_of(wrong[i]).verdict != ANSWER_UNREACHABLE)
            fail_msg("taken as an answer: %s", wrong[i]);
}

static struct answer message_of(Txmsg__V1__CheckVerdict verdict, Google__Protobuf__Timestamp *at,
                                Google__Protobuf__Duration *after) {
    Txmsg__V1__CheckResponse m = TXMSG__V1__CHECK_RESPONSE__INIT;
    struct answer a;
    struct uuid tx;

    assert_int_equal(uuid_parse(BYTES_LIT(ID), &tx), 0);
    m.transaction_id = (char *)(uintptr_t)ID;
    m.decision = verdict;
    m.ask_again_at = at;
    m.ask_again_after = after;
    answer_message(&m, &tx, &a);
    return a;
}

static void test_ask_again_message(void **state) {
    const Txmsg__V1__CheckVerdict unknown = TXMSG__V1__CHECK_VERDICT__CHECK_VERDICT_UNKNOWN;
    Google__Protobuf__Timestamp at = GOOGLE__PROTOBUF__TIMESTAMP__INIT;
    Google__Protobuf__Duration after = GOOGLE__PROTOBUF__DURATION__INIT;

    at.seconds = 1767225600;
    at.nanos = 500000000;
    after.seconds = 90;
    assert_int_equal(message_of(unknown, &at, NULL).again_at_us, 1767225600500000);
    assert_int_equal(message_of(unknown, NULL, &after).again_after_ms, 90000);
    assert_int_equal(message_of(unknown, NULL, NULL).again_after_ms, -1);
    assert_int_equal(message_of(unknown, &at, &after).verdict, ANSWER_UNREACHABLE);
    assert_int_equal(message_of(TXMSG__V1__CHECK_VERDICT__CHECK_VERDICT_COMMITTED, &at, NULL).verdict,
                     ANSWER_UNREACHABLE);
    at.nanos = 1000000000;
    assert_int_equal(message_of(unknown, &at, NULL).verdict, ANSWER_UNREACHABLE);
    at.nanos = 0;
    at.seconds = INT64_MAX;
    assert_int_equal(message_of(unknown, &at, NULL).verdict, ANSWER_UNREACHABLE);
    after.seconds = -1;
    assert_int_equal(message_of(unknown, NULL, &after).verdict, ANSWER_UNREACHABLE);
    after.seconds = INT64_MAX;
    assert_int_equal(message_of(unknown, NULL, &after).verdict, ANSWER_UNREACHABLE);
}

#define COMMITTED(bodies) "{\"transactionId\":\"" ID "\",\"decision\":\"COMMITTED\",\"bodies\":" bodies "}"

static void test_brings_bodies(void **state) {
    struct answer a =
        answer_of(COMMITTED("[{\"n\":3,\"bodyBase64\":\"AP8=\"},{\"n\":0,\"body\":\"t\"},{\"n\":1,\"body\":\"\"}]"));

    assert_int_equal(a.verdict, ANSWER_COMMITTED);
    assert_int_equal(a.bodies->n, 3);
    assert_int_equal(a.bodies->bytes, 3);
    assert_int_equal(a.bodies->list[2].n, 3);
    assert_true(bytes_eq(a.bodies->list[2].body, bytes_of("\0\xff", 2)));
    assert_true(bytes_eq_str(a.bodies->list[0].body, "t"));
    assert_non_null(a.bodies->list[1].body.p);
    answer_end(&a);
    assert_null(a.bodies);
    static const char *const wrong[] = {
        COMMITTED("{}"),
        COMMITTED("[1]"),
        COMMITTED("[{\"n\":0,\"body\":\"x\"},{\"n\":0,\"body\":\"x\"}]"),
        COMMITTED("[{\"n\":128,\"body\":\"x\"}]"),
        COMMITTED("[{\"n\":0.5,\"body\":\"x\"}]"),
        COMMITTED("[{\"n\":0,\"body\":\"x\",\"bodyBase64\":\"eA==\"}]"),
        COMMITTED("[{\"n\":0,\"bodyBase64\":\"e\"}]"),
        "{\"transactionId\":\"" ID "\",\"decision\":\"ROLLED_BACK\",\"bodies\":[{\"n\":0,\"body\":\"x\"}]}",
        "{\"transactionId\":\"" ID "\",\"decision\":\"UNKNOWN\",\"bodies\":[{\"n\":0,\"body\":\"x\"}]}",
    };
    for (size_t i = 0; i < ARRAY_LEN(wrong); i++)
        if (answer_of(wrong[i]).verdict != ANSWER_UNREACHABLE)
            fail_msg("taken as an answer: %s", wrong[i]);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_verdicts),      cmocka_unit_test(test_tolerated),
        cmocka_unit_test(test_not_answers),   cmocka_unit_test(test_bytes),
        cmocka_unit_test(test_status),        cmocka_unit_test(test_failures),
        cmocka_unit_test(test_huge_and_deep), cmocka_unit_test(test_ask_again),
        cmocka_unit_test(test_brings_bodies), cmocka_unit_test(test_ask_again_message),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
