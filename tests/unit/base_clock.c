/* RFC 3339 both ways, at the edges of calendar and range. */
#include "base/clock.h"

#include <setjmp.h>
#include <cmocka.h>

static void test_format(void **state) {
    char s[32];
    clock_format(0, s);
    assert_string_equal(s, "1970-01-01T00:00:00.000000Z");
    clock_format(-1, s);
    assert_string_equal(s, "1969-12-31T23:59:59.999999Z");
    clock_format(1709164799123456, s);
    assert_string_equal(s, "2024-02-28T23:59:59.123456Z");
    clock_format(INT64_MAX, s);
    assert_string_equal(s, "9999-12-31T23:59:59.775807Z");
    clock_format(INT64_MIN, s);
    assert_memory_equal(s, "0000-01-01T00:00:00.", 20);
}

static void check(const char *text, int64_t want) {
    int64_t us;
    assert_int_equal(clock_parse(text, &us), 0);
    if (us != want)
        fail_msg("%s: %lld, not %lld", text, (long long)us, (long long)want);
}

static void test_parse(void **state) {
    check("1970-01-01T00:00:00Z", 0);
    check("1969-12-31T23:59:59.999999Z", -1);
    check("2024-02-29T12:00:00.5+02:00", 1709200800500000);
    check("2024-02-29t10:00:00.500000000z", 1709200800500000);
    check("2024-02-29 04:30:00.5-05:30", 1709200800500000);
    check("1970-01-01T00:00:00.0000019Z", 1); /* cut, not rounded */
    check("2016-12-31T23:59:60Z", 1483228800000000);
    check("0000-01-01T00:00:00Z", -62167219200000000);
    check("0000-03-01T00:00:00Z", -62162035200000000);
    check("9999-12-31T23:59:59Z", 253402300799000000);
}

static void test_parse_refuses(void **state) {
    static const char *const bad[] = {"",
                                      "2024",
                                      "2024-02-29",
                                      "2024-02-29T10:00:00",
                                      "2023-02-29T10:00:00Z",
                                      "1900-02-29T00:00:00Z",
                                      "2024-13-01T00:00:00Z",
                                      "2024-00-01T00:00:00Z",
                                      "2024-04-31T00:00:00Z",
                                      "2024-01-00T00:00:00Z",
                                      "2024-01-01T24:00:00Z",
                                      "2024-01-01T00:60:00Z",
                                      "2024-01-01T00:00:61Z",
                                      "2024-01-01T00:00:00.Z",
                                      "2024-01-01T00:00:00.1234567890Z",
                                      "2024-01-01T00:00:00+24:00",
                                      "2024-01-01T00:00:00+0100",
                                      "2024-01-01T00:00:00Zx",
                                      "2024-01-01T00:00:00 Z",
                                      " 2024-01-01T00:00:00Z",
                                      "+024-01-01T00:00:00Z",
                                      "24-01-01T00:00:00Z",
                                      "2024-1-01T00:00:00Z"};
    int64_t us;
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        if (clock_parse(bad[i], &us) != -EINVAL)
            fail_msg("\"%s\" passed", bad[i]);
    }
}

/* Every day of nine centuries goes out through the C library's calendar and comes back through ours. */
static void test_round_trip(void **state) {
    for (int64_t day = -140000; day < 190000; day++) {
        int64_t us = day * 86400000000 + 12345678901, back;
        char s[32];
        clock_format(us, s);
        if (clock_parse(s, &back) != 0 || back != us)
            fail_msg("%s", s);
    }
}

static void test_foreign(void **state) {
    assert_true(clock_us(1, 999999999) == 1999999);
    assert_true(clock_us(-1, 1000) == -999999);
    assert_true(clock_us(INT64_MAX, INT32_MAX) == 253402300799000000 + 2147483);
    assert_true(clock_us(INT64_MIN, INT32_MIN) == -62167219200000000 - 2147483);
}

static void test_now(void **state) {
    uint64_t a = clock_mono_ns(), b = clock_boot_ns();
    assert_true(clock_mono_ns() >= a);
    assert_true(clock_boot_ns() >= b);
    assert_true(clock_real_us() > 1600000000000000);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_format),     cmocka_unit_test(test_parse),   cmocka_unit_test(test_parse_refuses),
        cmocka_unit_test(test_round_trip), cmocka_unit_test(test_foreign), cmocka_unit_test(test_now),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
