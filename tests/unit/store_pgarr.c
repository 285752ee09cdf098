/* PostgreSQL's binary arrays, written and read, and hostile ones. */
#include "store/pgarr.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

static void test_round_trip(void **state) {
    UNUSED(state);
    struct buf b CLEANUP_BUF;
    buf_init(&b, 1 << 16);
    pgarr_begin(&b, OID_INT4);
    for (int32_t i = -2; i < 3; i++)
        pgarr_int32(&b, i * 1000000);
    assert_int_equal(pgarr_end(&b), 0);
    struct pgarr_view v;
    assert_int_equal(pgarr_read(buf_bytes(&b), OID_INT4, &v), 0);
    assert_int_equal(v.n, 5);
    for (int32_t i = -2; i < 3; i++)
        assert_int_equal(pgarr_next_int32(&v), i * 1000000);
    assert_int_equal(pgarr_read(buf_bytes(&b), OID_UUID, &v), -EINVAL);
}

static void test_known_bytes(void **state) {
    UNUSED(state);
    /* SELECT array_send('{a,NULL}'::text[]) */
    static const uint8_t expected[] = {0, 0, 0, 1, 0, 0, 0, 1, 0, 0,   0,    25,   0,    0,   0,
                                       2, 0, 0, 0, 1, 0, 0, 0, 1, 'a', 0xff, 0xff, 0xff, 0xff};
    struct buf b CLEANUP_BUF;
    buf_init(&b, 1 << 16);
    pgarr_begin(&b, OID_TEXT);
    pgarr_bytes(&b, BYTES_LIT("a"));
    pgarr_bytes(&b, BYTES_NULL);
    assert_int_equal(pgarr_end(&b), 0);
    assert_int_equal(b.n, sizeof(expected));
    assert_memory_equal(b.p, expected, sizeof(expected));
    struct pgarr_view v;
    assert_int_equal(pgarr_read(buf_bytes(&b), OID_TEXT, &v), -EINVAL); /* a NULL element is not read */
}

static void test_empty_and_bounded(void **state) {
    UNUSED(state);
    struct buf b CLEANUP_BUF;
    struct pgarr_view v;
    buf_init(&b, 64);
    pgarr_begin(&b, OID_UUID);
    assert_int_equal(pgarr_end(&b), 0);
    assert_int_equal(b.n, 12);
    assert_int_equal(pgarr_read(buf_bytes(&b), OID_UUID, &v), 0);
    assert_int_equal(v.n, 0);
    assert_int_equal(pgarr_read(BYTES_NULL, OID_UUID, &v), 0);
    struct uuid u = {{1}};
    pgarr_begin(&b, OID_UUID);
    for (int i = 0; i < 10; i++)
        pgarr_uuid(&b, &u);
    assert_int_equal(pgarr_end(&b), -E2BIG);
}

static void test_hostile(void **state) {
    UNUSED(state);
    struct buf b CLEANUP_BUF;
    struct pgarr_view v;
    buf_init(&b, 1 << 16);
    pgarr_begin(&b, OID_BYTEA);
    pgarr_bytes(&b, BYTES_LIT("abcdef"));
    pgarr_bytes(&b, BYTES_LIT("gh"));
    assert_int_equal(pgarr_end(&b), 0);
    for (size_t n = 1; n < b.n; n++) /* every truncation */
        assert_int_equal(pgarr_read(bytes_of(b.p, n), OID_BYTEA, &v), -EINVAL);
    b.p[15] = 200; /* more elements than bytes */
    assert_int_equal(pgarr_read(buf_bytes(&b), OID_BYTEA, &v), -EINVAL);
    b.p[15] = 2;
    b.p[20] = 0x7f; /* an element longer than the array */
    assert_int_equal(pgarr_read(buf_bytes(&b), OID_BYTEA, &v), -EINVAL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_known_bytes),
        cmocka_unit_test(test_empty_and_bounded),
        cmocka_unit_test(test_hostile),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
