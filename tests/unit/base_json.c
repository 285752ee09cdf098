/* Only well-formed, bounded JSON comes in, and what goes out reads back the same. */
#include "base/json.h"

#include <setjmp.h>
#include <cmocka.h>

static void round_trip(const char *in, const char *out) {
    struct errmsg e = ERRMSG_NULL;
    CLEANUP_BUF struct buf b;
    CLEANUP_JSON json_t *j = json_parse(bytes_str(in), &e);
    if (!j)
        fail_msg("%s: %s", in, e.text);
    buf_init(&b, 4096);
    assert_int_equal(json_write(&b, j), 0);
    assert_string_equal(buf_str(&b), out);
}

static void test_round_trip(void **state) {
    round_trip(" { \"z\" : 1, \"a\" : [ true, null, \"x\\ny\" ] } ", "{\"z\":1,\"a\":[true,null,\"x\\ny\"]}");
    round_trip("\"text\"", "\"text\"");
    round_trip("0.2", "0.2");
    round_trip("9223372036854775807", "9223372036854775807");
    round_trip("\"\\ud83d\\ude00\"", "\"\xf0\x9f\x98\x80\"");
    round_trip("[\"[[{{\\\"[\"]", "[\"[[{{\\\"[\"]");
}

static void refused(const char *text, size_t n) {
    struct errmsg e = ERRMSG_NULL;
    CLEANUP_JSON json_t *j = json_parse(bytes_of(text, n), &e);
    if (j || !*e.text)
        fail_msg("\"%s\" passed", text);
}
#define REFUSED(s) refused(s, sizeof(s) - 1)

static void test_hostile(void **state) {
    REFUSED("");
    REFUSED(" ");
    REFUSED("{\"a\":1,\"a\":2}");
    REFUSED("{\"a\":1} x");
    REFUSED("{\"a\":1}{}");
    REFUSED("{\"a\":1,}");
    REFUSED("{'a':1}");
    REFUSED("[1,2");
    REFUSED("\"\\u0000\"");
    REFUSED("{\"a\\u0000b\":1}");
    REFUSED("\"a\0b\"");
    REFUSED("{}\0");
    REFUSED("1\0");
    REFUSED("[1\0]");
    REFUSED("\"\xff\"");
    REFUSED("\"\xc0\x80\"");
    REFUSED("\"\xed\xa0\x80\"");
    REFUSED("\"\\ud800\"");
    REFUSED("\"\n\"");
    REFUSED("NaN");
    REFUSED("1e999");
    REFUSED("9223372036854775808");
    REFUSED("01");
    REFUSED("\xef\xbb\xbf{}");
    REFUSED("\"unterminated");
    REFUSED("\"\\");
    CLEANUP_JSON json_t *j = json_parse(BYTES_NULL, NULL);
    assert_null(j);
}

static void test_depth(void **state) {
    static char text[200002];
    struct errmsg e;
    memset(text, '[', 64);
    memset(text + 64, ']', 64);
    CLEANUP_JSON json_t *deep = json_parse(bytes_of(text, 128), &e);
    assert_non_null(deep);
    memset(text, '[', 65);
    memset(text + 65, ']', 65);
    refused(text, 130);
    memset(text, '[', 200000);
    refused(text, 200000);
}

static void test_out_of_memory(void **state) {
    for (uint64_t n = 1;; n++) {
        struct errmsg e = ERRMSG_NULL;
        uint64_t before = mem_count();
        mem_fail_at(n);
        CLEANUP_JSON json_t *j = json_parse(
            BYTES_LIT("{\"a\":[1,2.5,\"a text that outgrows its first buffer twice, at least\"],\"b\":{\"c\":null}}"),
            &e);
        mem_fail_at(0);
        if (mem_count() - before < n) {
            assert_non_null(j);
            break;
        }
        assert_null(j); /* and never a text that lacks characters */
        assert_int_equal(errno, ENOMEM);
    }
}

/* All of it or nothing. */
static void test_clone(void **state) {
    CLEANUP_JSON json_t *from = json_parse(
        BYTES_LIT("{\"a\":[1,2.5,\"a text that outgrows its first buffer twice, at least\"],\"b\":{\"c\":null}}"),
        NULL);
    for (uint64_t n = 1;; n++) {
        uint64_t before = mem_count();
        mem_fail_at(n);
        CLEANUP_JSON json_t *j = json_clone(from);
        mem_fail_at(0);
        if (mem_count() - before < n) {
            assert_true(json_equal(j, from));
            break;
        }
        assert_null(j);
    }
}

static void test_put_string(void **state) {
    CLEANUP_BUF struct buf b;
    CLEANUP_BUF struct buf all;
    buf_init(&b, 4096);
    buf_init(&all, 4096);
    json_put_string(&b, BYTES_LIT("a\"b\\c\n\t\r\b\f\x01\x1f\x7f/\xc3\xbc"));
    assert_string_equal(buf_str(&b), "\"a\\\"b\\\\c\\n\\t\\r\\b\\f\\u0001\\u001f\x7f/\xc3\xbc\"");
    buf_reset(&b);
    json_put_string(&b, BYTES_NULL);
    assert_string_equal(buf_str(&b), "\"\"");
    for (int c = 1; c < 128; c++)
        buf_put_char(&all, (char)c);
    buf_reset(&b);
    json_put_string(&b, buf_bytes(&all));
    CLEANUP_JSON json_t *j = json_parse(buf_bytes(&b), NULL);
    assert_string_equal(json_string_value(j), buf_str(&all));
}

static void test_write_bound(void **state) {
    CLEANUP_JSON json_t *j = json_parse(BYTES_LIT("[1,2,3,4,5,6]"), NULL);
    CLEANUP_BUF struct buf b;
    buf_init(&b, 8);
    assert_int_equal(json_write(&b, j), -E2BIG);
    buf_reset(&b);
    assert_int_equal(json_write(&b, NULL), -EINVAL);
}

static void test_members(void **state) {
    struct errmsg e = ERRMSG_NULL;
    CLEANUP_JSON json_t *j = json_parse(BYTES_LIT("{\"s\":\"x\",\"i\":5,\"r\":1.5,\"b\":true,\"n\":null,"
                                                  "\"d\":\"1.500s\",\"bad\":\"1x\",\"neg\":-1}"),
                                        &e);
    const char *s;
    int64_t i;
    double r;
    bool b;
    assert_int_equal(json_member_str(j, "s", "def", &s, &e), 0);
    assert_string_equal(s, "x");
    assert_int_equal(json_member_str(j, "none", "def", &s, &e), 0);
    assert_string_equal(s, "def");
    assert_int_equal(json_member_str(j, "n", NULL, &s, &e), 0);
    assert_null(s);
    assert_int_equal(json_member_str(j, "i", "def", &s, &e), -EINVAL);
    assert_string_equal(e.text, "\"i\" must be a string");
    assert_int_equal(json_member_int(j, "i", 1, &i, &e), 0);
    assert_int_equal(i, 5);
    assert_int_equal(json_member_int(j, "r", 1, &i, &e), -EINVAL);
    assert_int_equal(json_member_int(j, "b", 1, &i, &e), -EINVAL);
    assert_int_equal(json_member_num(j, "i", 1, &r, &e), 0);
    assert_true(r == 5);
    assert_int_equal(json_member_num(j, "s", 1, &r, &e), -EINVAL);
    assert_int_equal(json_member_bool(j, "b", false, &b, &e), 0);
    assert_true(b);
    assert_int_equal(json_member_bool(j, "i", false, &b, &e), -EINVAL);
    assert_int_equal(json_member_ms(j, "d", 1, &i, &e), 0);
    assert_int_equal(i, 1500);
    assert_int_equal(json_member_ms(j, "i", 1, &i, &e), 0);
    assert_int_equal(i, 5000);
    assert_int_equal(json_member_ms(j, "r", 1, &i, &e), 0);
    assert_int_equal(i, 1500);
    assert_int_equal(json_member_ms(j, "none", 7, &i, &e), 0);
    assert_int_equal(i, 7);
    assert_int_equal(json_member_ms(j, "bad", 7, &i, &e), -EINVAL);
    assert_int_equal(json_member_ms(j, "neg", 7, &i, &e), -EINVAL);
    assert_int_equal(json_member_ms(j, "b", 7, &i, &e), -EINVAL);
    assert_int_equal(json_member_int(NULL, "i", 9, &i, &e), 0);
    assert_int_equal(i, 9);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip), cmocka_unit_test(test_hostile),       cmocka_unit_test(test_depth),
        cmocka_unit_test(test_put_string), cmocka_unit_test(test_out_of_memory), cmocka_unit_test(test_write_bound),
        cmocka_unit_test(test_members),    cmocka_unit_test(test_clone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
