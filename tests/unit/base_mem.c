/* The fault countdown hits exactly one allocation, and cleanup frees or hands over. */
#include "base/mem.h"

#include <setjmp.h>
#include <cmocka.h>

static void test_countdown(void **state) {
    uint64_t before = mem_count();
    mem_fail_at(3);
    CLEANUP_FREE void *a = mem_alloc(1);
    CLEANUP_FREE void *b = mem_zalloc(1);
    CLEANUP_FREE void *c = mem_strdup("c");
    CLEANUP_FREE void *d = mem_calloc(2, 2);
    assert_non_null(a);
    assert_non_null(b);
    assert_null(c);
    assert_non_null(d); /* once only */
    assert_int_equal(mem_count() - before, 4);
}

static void test_realloc_keeps(void **state) {
    CLEANUP_FREE char *p = mem_strdup("kept");
    mem_fail_at(1);
    assert_null(mem_realloc(p, 100));
    assert_string_equal(p, "kept");
}

static void test_edges(void **state) {
    volatile size_t half = SIZE_MAX / 2;
    CLEANUP_FREE void *none = mem_alloc(0);
    CLEANUP_FREE void *other = mem_alloc(0);
    assert_non_null(none);
    assert_ptr_not_equal(none, other);
    assert_null(mem_calloc(half, 3));
    CLEANUP_FREE char *s = mem_strndup("abc\0def", 7);
    assert_string_equal(s, "abc");
    CLEANUP_FREE char *t = mem_strndup("abc", 2);
    assert_string_equal(t, "ab");
    mem_free(NULL);
}

static char *make(void) {
    CLEANUP_FREE char *p = mem_strdup("mine");
    return TAKE(p);
}

static void test_take(void **state) {
    CLEANUP_FREE char *p = make();
    assert_string_equal(p, "mine");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_countdown),
        cmocka_unit_test(test_realloc_keeps),
        cmocka_unit_test(test_edges),
        cmocka_unit_test(test_take),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
