/* Buffers keep their bound and their first error; text checks accept exactly what they promise. */
#include "base/bytes.h"

#include <setjmp.h>
#include <cmocka.h>

static void test_cmp(void **state) {
    assert_true(bytes_cmp(BYTES_LIT("a"), BYTES_LIT("b")) < 0);
    assert_true(bytes_cmp(BYTES_LIT("ab"), BYTES_LIT("a")) > 0);
    assert_true(bytes_cmp(BYTES_LIT("\xff"), BYTES_LIT("a")) > 0);
    assert_int_equal(bytes_cmp(BYTES_NULL, BYTES_LIT("")), 0);
    assert_true(bytes_eq(BYTES_NULL, bytes_str("")));
}

static void test_buf_grows(void **state) {
    CLEANUP_BUF struct buf b;
    buf_init(&b, 100000);
    assert_string_equal(buf_str(&b), "");
    for (int i = 0; i < 10000; i++)
        buf_printf(&b, "%d,", i % 10);
    assert_int_equal(buf_error(&b), 0);
    assert_int_equal(b.n, 20000);
    assert_int_equal(strlen(buf_str(&b)), 20000);
    buf_reset(&b);
    assert_string_equal(buf_str(&b), "");
    buf_put_be16(&b, 0x0102);
    buf_put_be32(&b, 0x03040506);
    buf_put_be64(&b, 0x0708090a0b0c0d0e);
    assert_memory_equal(b.p, "\1\2\3\4\5\6\7\x8\x9\xa\xb\xc\xd\xe", 14);
}

static void test_buf_bound(void **state) {
    CLEANUP_BUF struct buf b;
    buf_init(&b, 8);
    buf_put_str(&b, "1234567");
    buf_put_str(&b, "89");
    assert_int_equal(buf_error(&b), -E2BIG);
    assert_string_equal(buf_str(&b), "1234567");
    buf_put_char(&b, 'x'); /* after an error nothing more is taken, even if it would fit */
    assert_int_equal(b.n, 7);
    assert_int_equal(buf_reserve(&b, 1), -E2BIG);
    buf_reset(&b);
    buf_put_str(&b, "12345678");
    assert_int_equal(buf_error(&b), 0);
    buf_printf(&b, "%s", "x");
    assert_int_equal(buf_error(&b), -E2BIG);
    assert_string_equal(buf_str(&b), "12345678");
    buf_reset(&b);
    buf_printf(&b, "%s", "123456789");
    assert_int_equal(buf_error(&b), -E2BIG);
    assert_string_equal(buf_str(&b), "");
}

static void test_buf_huge(void **state) {
    CLEANUP_BUF struct buf b;
    buf_init(&b, SIZE_MAX);
    buf_put_str(&b, "abc");
    assert_int_equal(buf_reserve(&b, SIZE_MAX - 1), -E2BIG);
    assert_string_equal(buf_str(&b), "abc");
}

static void test_buf_out_of_memory(void **state) {
    CLEANUP_BUF struct buf b;
    buf_init(&b, 1000);
    buf_put_str(&b, "kept");
    mem_fail_at(1);
    for (int i = 0; i < 20; i++)
        buf_put_str(&b, "0123456789");
    mem_fail_at(0);
    assert_int_equal(buf_error(&b), -ENOMEM);
    assert_memory_equal(b.p, "kept", 4);
}

static bool valid(const char *s, size_t n) {
    return text_valid(bytes_of(s, n));
}
#define VALID(s) valid(s, sizeof(s) - 1)

static void test_utf8(void **state) {
    assert_true(VALID(""));
    assert_true(VALID("plain ascii that is longer than eight"));
    assert_true(VALID("\x7f"));
    assert_true(VALID("gr\xc3\xbc\xc3\x9f \xe2\x82\xac \xf0\x9f\x98\x80"));
    assert_true(VALID("\xf4\x8f\xbf\xbf \xef\xbf\xbf \xed\x9f\xbf \xee\x80\x80"));
    assert_false(VALID("a\0b"));
    assert_false(VALID("0123456\0"
                       "89abcdef"));
    assert_false(VALID("01234567"
                       "0123\0"
                       "567"));
    assert_false(VALID("\x80"));
    assert_false(VALID("01234567\xbf"));
    assert_false(VALID("\xc0\xaf")); /* overlong */
    assert_false(VALID("\xc1\xbf"));
    assert_false(VALID("\xe0\x9f\xbf"));
    assert_false(VALID("\xf0\x8f\xbf\xbf"));
    assert_false(VALID("\xed\xa0\x80"));     /* surrogate */
    assert_false(VALID("\xf4\x90\x80\x80")); /* beyond U+10FFFF */
    assert_false(VALID("\xf5\x80\x80\x80"));
    assert_false(VALID("\xff"));
    assert_false(VALID("\xe2\x82")); /* cut off */
    assert_false(VALID("\xe2\x28\xa1"));
    assert_false(VALID("\xf0\x9f\x98"));
    assert_false(VALID("\xc3"));
}

/* Every code point, alone and behind seven plain bytes, against the definition. */
static void test_utf8_all(void **state) {
    for (uint32_t c = 1; c < 0x120000; c++) {
        uint8_t s[12] = "0123456";
        size_t n = 7;
        if (c < 0x80) {
            s[n++] = (uint8_t)c;
        } else if (c < 0x800) {
            s[n++] = (uint8_t)(0xc0 | c >> 6);
            s[n++] = (uint8_t)(0x80 | (c & 63));
        } else if (c < 0x10000) {
            s[n++] = (uint8_t)(0xe0 | c >> 12);
            s[n++] = (uint8_t)(0x80 | (c >> 6 & 63));
            s[n++] = (uint8_t)(0x80 | (c & 63));
        } else {
            s[n++] = (uint8_t)(0xf0 | c >> 18);
            s[n++] = (uint8_t)(0x80 | (c >> 12 & 63));
            s[n++] = (uint8_t)(0x80 | (c >> 6 & 63));
            s[n++] = (uint8_t)(0x80 | (c & 63));
        }
        bool want = c <= 0x10ffff && !(c >= 0xd800 && c <= 0xdfff);
        if (text_valid(bytes_of(s, n)) != want || text_valid(bytes_of(s + 7, n - 7)) != want)
            fail_msg("U+%04X", c);
    }
}

static void test_names(void **state) {
    char longest[130];
    memset(longest, 'a', sizeof(longest));
    assert_true(text_is_name(BYTES_LIT("order.paid-v1_x")));
    assert_true(text_is_name(BYTES_LIT("0")));
    assert_true(text_is_name(bytes_of(longest, 128)));
    assert_false(text_is_name(bytes_of(longest, 129)));
    assert_false(text_is_name(BYTES_NULL));
    assert_false(text_is_name(BYTES_LIT(".a")));
    assert_false(text_is_name(BYTES_LIT("-a")));
    assert_false(text_is_name(BYTES_LIT("Order")));
    assert_false(text_is_name(BYTES_LIT("a b")));
    assert_false(text_is_name(BYTES_LIT("a\0")));
    assert_false(text_is_name(BYTES_LIT("a/b")));
}

static void test_durations(void **state) {
    static const struct {
        const char *text;
        int64_t ms;
    } good[] = {{"10", 10000},
                {"10s", 10000},
                {"1.5s", 1500},
                {"250ms", 250},
                {"10m", 600000},
                {"2h", 7200000},
                {"7d", 604800000},
                {"0", 0},
                {"1.500000000000s", 1500},
                {"0.5m", 30000},
                {"0.0009765625d", 84375},
                {"1.5", 1500},
                {"9223372036854775807ms", INT64_MAX}};
    static const char *const bad[] = {"",    " ",       "s",    "-1s", "+1s",   "1 s", "1.s", ".5s",  "1.5ms",
                                      "1ss", "0.0001s", "1e3s", "1s ", "1.2.3", "10S", "1us", "0x1s", "0.00000000001d"};
    int64_t ms;
    for (size_t i = 0; i < ARRAY_LEN(good); i++) {
        assert_int_equal(text_duration_ms(good[i].text, &ms), 0);
        assert_int_equal(ms, good[i].ms);
    }
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        if (text_duration_ms(bad[i], &ms) != -EINVAL)
            fail_msg("\"%s\" passed", bad[i]);
    }
    assert_int_equal(text_duration_ms("9223372036854775808ms", &ms), -ERANGE);
    assert_int_equal(text_duration_ms("9223372036854775807s", &ms), -ERANGE);
    assert_int_equal(text_duration_ms("99999999999999999999999d", &ms), -ERANGE);
}

static void test_sizes(void **state) {
    int64_t n;
    assert_int_equal(text_size("100", &n), 0);
    assert_int_equal(n, 100);
    assert_int_equal(text_size("4KiB", &n), 0);
    assert_int_equal(n, 4096);
    assert_int_equal(text_size("64MiB", &n), 0);
    assert_int_equal(n, 67108864);
    assert_int_equal(text_size("1GiB", &n), 0);
    assert_int_equal(n, 1073741824);
    static const char *const bad[] = {"", "KiB", "1kb", "1MB", "1.5MiB", "-1", " 1", "1 KiB", "1KiBs"};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        assert_int_equal(text_size(bad[i], &n), -EINVAL);
    assert_int_equal(text_size("9999999999GiB", &n), -ERANGE);
}

static void test_errmsg(void **state) {
    struct errmsg e = ERRMSG_NULL;
    assert_int_equal(err_set(&e, -EINVAL, "no %d", 5), -EINVAL);
    assert_string_equal(e.text, "no 5");
    err_prefix(&e, "file %s", "x");
    assert_string_equal(e.text, "file x: no 5");
    assert_int_equal(err_set(&e, -EIO, "again: %s", e.text), -EIO); /* its own text may be an argument */
    assert_string_equal(e.text, "again: file x: no 5");
    char big[1000];
    memset(big, 'x', sizeof(big) - 1);
    big[sizeof(big) - 1] = '\0';
    err_prefix(&e, "%.470s", big);
    assert_int_equal(strlen(e.text), sizeof(e.text) - 1);
    err_prefix(&e, "%s", big);
    assert_int_equal(strlen(e.text), sizeof(e.text) - 1);
    assert_int_equal(err_set(NULL, -EIO, "nobody listens"), -EIO);
    assert_string_equal(err_text(-ENOMEM), "ENOMEM");
    assert_string_equal(err_text(-99999), "UNKNOWN");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cmp),      cmocka_unit_test(test_buf_grows), cmocka_unit_test(test_buf_bound),
        cmocka_unit_test(test_buf_huge), cmocka_unit_test(test_utf8),      cmocka_unit_test(test_buf_out_of_memory),
        cmocka_unit_test(test_utf8_all), cmocka_unit_test(test_names),     cmocka_unit_test(test_durations),
        cmocka_unit_test(test_sizes),    cmocka_unit_test(test_errmsg),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
