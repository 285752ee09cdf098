/* Allocations are aligned, apart from each other and bounded; a reset keeps one chunk. */
#include "base/arena.h"

#include <setjmp.h>
#include <cmocka.h>

static void test_many(void **state) {
    CLEANUP(arena_deinit) struct arena a;
    uint8_t *got[400];
    arena_init(&a, 10 << 20);
    for (size_t i = 0; i < ARRAY_LEN(got); i++) {
        size_t n = i * 37 % 5000;
        got[i] = arena_alloc(&a, n);
        assert_non_null(got[i]);
        assert_int_equal((uintptr_t)got[i] % 16, 0);
        memset(got[i], (int)(i & 255), n);
    }
    for (size_t i = 0; i < ARRAY_LEN(got); i++) {
        for (size_t k = 0; k < i * 37 % 5000; k++) {
            if (got[i][k] != (i & 255))
                fail_msg("allocation %zu was overwritten", i);
        }
    }
    arena_deinit(&a);
    arena_deinit(&a);
}

static void test_bound(void **state) {
    CLEANUP(arena_deinit) struct arena a;
    arena_init(&a, 1024);
    assert_null(arena_alloc(&a, 1025));
    assert_null(arena_alloc(&a, SIZE_MAX));
    assert_null(arena_alloc(&a, SIZE_MAX - 15));
    assert_non_null(arena_alloc(&a, 1000)); /* 1008 with its alignment */
    assert_non_null(arena_alloc(&a, 16));
    assert_null(arena_alloc(&a, 1));
    assert_int_equal(a.used, 1024);
    arena_reset(&a);
    assert_int_equal(a.used, 0);
    assert_non_null(arena_alloc(&a, 1024));
}

static void test_reset_keeps_first(void **state) {
    CLEANUP(arena_deinit) struct arena a;
    arena_init(&a, 1 << 20);
    void *first = arena_alloc(&a, 100);
    for (int i = 0; i < 100; i++)
        assert_non_null(arena_alloc(&a, 5000));
    arena_reset(&a);
    uint64_t before = mem_count();
    assert_ptr_equal(arena_alloc(&a, 100), first);
    assert_int_equal(mem_count(), before);
}

static void test_text(void **state) {
    CLEANUP(arena_deinit) struct arena a;
    arena_init(&a, 1 << 20);
    assert_string_equal(arena_strndup(&a, "abcdef", 3), "abc");
    assert_string_equal(arena_strndup(&a, NULL, 0), "");
    assert_memory_equal(arena_strndup(&a, "a\0b", 3), "a\0b", 4);
    assert_string_equal(arena_printf(&a, "%s-%d", "x", 7), "x-7");
    uint8_t *z = arena_zalloc(&a, 64);
    for (int i = 0; i < 64; i++)
        assert_int_equal(z[i], 0);
}

static void test_out_of_memory(void **state) {
    CLEANUP(arena_deinit) struct arena a;
    arena_init(&a, 1 << 20);
    mem_fail_at(1);
    assert_null(arena_alloc(&a, 10));
    assert_int_equal(a.used, 0);
    assert_non_null(arena_alloc(&a, 10));
    mem_fail_at(1);
    assert_null(arena_alloc(&a, 100000));
    assert_non_null(arena_alloc(&a, 100000));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_many), cmocka_unit_test(test_bound),         cmocka_unit_test(test_reset_keeps_first),
        cmocka_unit_test(test_text), cmocka_unit_test(test_out_of_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
