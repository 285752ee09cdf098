/* What counts as an acknowledgement, as a refusal for good, and as neither. */
#include "forward/http_answer.h"

#include <setjmp.h>
#include <cmocka.h>

static enum sink_verdict judge(const struct sink_conf *c, int status, const char *body) {
    char why[HTTP_ANSWER_TEXT] = "";
    enum sink_verdict v = http_answer_judge(c, status, bytes_str(body), why);

    assert_int_equal(v == SINK_OK, why[0] == 0);
    return v;
}

static void test_status(void **state) {
    const struct sink_conf c = {.http = {.ack = ACK_STATUS_2XX}};

    assert_int_equal(judge(&c, 200, ""), SINK_OK);
    assert_int_equal(judge(&c, 299, "no"), SINK_OK);
    for (int status = 100; status < 600; status++)
        if (status / 100 != 2)
            assert_int_equal(judge(&c, status, "success"), status == 410 ? SINK_REJECT : SINK_RETRY);
}

static void test_success(void **state) {
    const struct sink_conf c = {.http = {.ack = ACK_BODY_SUCCESS}};

    assert_int_equal(judge(&c, 200, " SUCCESS\r\n"), SINK_OK);
    assert_int_equal(judge(&c, 200, "success!"), SINK_RETRY);
    assert_int_equal(judge(&c, 200, ""), SINK_RETRY);
    assert_int_equal(judge(&c, 500, "success"), SINK_RETRY);
}

static void test_field(void **state) {
    struct sink_conf c = {.http = {.ack = ACK_JSON_FIELD, .ack_field = "result.code", .ack_value = "0"}};

    assert_int_equal(judge(&c, 200, "{\"result\": {\"code\": 0}}"), SINK_OK);
    assert_int_equal(judge(&c, 200, "{\"result\": {\"code\": \"0\"}}"), SINK_OK);
    assert_int_equal(judge(&c, 500, "{\"result\": {\"code\": 0}}"), SINK_RETRY);
    static const char *const others[] = {"",
                                         "{}",
                                         "{\"result\": {}}",
                                         "{\"result\": {\"code\": 1}}",
                                         "{\"result\": {\"code\": null}}",
                                         "[]",
                                         "0",
                                         "{\"result\": 0}",
                                         "{\"result\": {\"code\": {\"0\": 0}}}",
                                         "{\"result\": {\"code\": 0}",
                                         "{\"code\": 0}"};
    for (size_t i = 0; i < ARRAY_LEN(others); i++)
        assert_int_equal(judge(&c, 200, others[i]), SINK_RETRY);
    c.http.ack_field = "ok";
    c.http.ack_value = "";
    assert_int_equal(judge(&c, 200, "{\"ok\": true}"), SINK_OK);
    assert_int_equal(judge(&c, 200, "{\"ok\": false}"), SINK_RETRY);
    assert_int_equal(judge(&c, 200, "{\"ok\": \"\"}"), SINK_RETRY);
}

static void test_rejects(void **state) {
    const struct sink_conf c = {.http = {.ack = ACK_STATUS_2XX, .rejects = {400, 422}, .rejects_n = 2}};

    assert_int_equal(judge(&c, 400, ""), SINK_REJECT);
    assert_int_equal(judge(&c, 422, ""), SINK_REJECT);
    assert_int_equal(judge(&c, 410, ""), SINK_REJECT);
    assert_int_equal(judge(&c, 421, ""), SINK_RETRY);
    assert_int_equal(judge(&c, 200, ""), SINK_OK);
}

static void test_shown(void **state) {
    const struct sink_conf c = {.http = {.ack = ACK_STATUS_2XX}};
    char why[HTTP_ANSWER_TEXT], long_body[1000];

    memset(long_body, 'x', sizeof(long_body));
    long_body[1] = '\n';
    long_body[2] = (char)0xff;
    assert_int_equal(http_answer_judge(&c, 500, bytes_of(long_body, sizeof(long_body)), why), SINK_RETRY);
    assert_memory_equal(why, "status 500: x  xxx", 18);
    assert_in_range(strlen(why), 50, HTTP_ANSWER_TEXT - 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_status),  cmocka_unit_test(test_success), cmocka_unit_test(test_field),
        cmocka_unit_test(test_rejects), cmocka_unit_test(test_shown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
