/* The payload cache: bounded by bytes, the oldest go first, one reference per entry. */
#include "store/cache.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

static struct tx_content *content(unsigned i, size_t body_n) {
    static uint8_t body[4096];
    struct uuid id = {{0}};
    struct msg m = {.topic = BYTES_LIT("t"), .body = bytes_of(body, body_n)};
    id.b[8] = (uint8_t)(i >> 8);
    id.b[15] = (uint8_t)i;
    struct tx_content *c = tx_content_new(&id, BYTES_LIT("p"), BYTES_NULL, BYTES_NULL, 0, &m, 1);
    assert_non_null(c);
    return c;
}

static void put(struct cache *c, unsigned i, size_t body_n) {
    struct tx_content *x = content(i, body_n);
    cache_put(c, x);
    tx_content_unref(x);
}

static bool take(struct cache *c, unsigned i) {
    struct tx_content *key = content(i, 1), *x = cache_take(c, &key->id);
    tx_content_unref(key);
    if (!x)
        return false;
    assert_int_equal(atomic_load(&x->refs), 1); /* the caller's is the last */
    tx_content_unref(x);
    return true;
}

static void test_take_once(void **state) {
    UNUSED(state);
    struct cache c;
    assert_int_equal(cache_init(&c, 1 << 20), 0);
    put(&c, 1, 100);
    put(&c, 2, 100);
    assert_true(take(&c, 1));
    assert_false(take(&c, 1));
    assert_false(take(&c, 3));
    assert_true(take(&c, 2));
    assert_int_equal(c.bytes, 0);
    cache_deinit(&c);
}

static void test_oldest_go_first(void **state) {
    UNUSED(state);
    struct cache c;
    struct tx_content *one = content(0, 1000);
    size_t each = one->bytes;
    tx_content_unref(one);
    assert_int_equal(cache_init(&c, 10 * each), 0);
    for (unsigned i = 1; i <= 15; i++)
        put(&c, i, 1000);
    assert_true(c.bytes <= 10 * each);
    assert_false(take(&c, 5));
    assert_true(take(&c, 6));
    assert_true(take(&c, 15));
    cache_deinit(&c);
}

static void test_too_large_and_twice(void **state) {
    UNUSED(state);
    struct cache c;
    assert_int_equal(cache_init(&c, 2000), 0);
    put(&c, 1, 100);
    put(&c, 1, 100);  /* a repeat of a Prepare adds nothing */
    put(&c, 2, 4000); /* larger than the whole cache: drives nobody out */
    size_t before = c.bytes;
    assert_true(take(&c, 1));
    assert_false(take(&c, 1));
    assert_false(take(&c, 2));
    assert_true(before <= 2000);
    cache_deinit(&c);
}

static void test_out_of_memory_only_forgets(void **state) {
    UNUSED(state);
    struct cache c;
    assert_int_equal(cache_init(&c, 1 << 20), 0);
    struct tx_content *x = content(1, 10);
    mem_fail_at(1);
    cache_put(&c, x);
    mem_fail_at(0);
    assert_int_equal(atomic_load(&x->refs), 1);
    tx_content_unref(x);
    assert_false(take(&c, 1));
    cache_deinit(&c);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_take_once),
        cmocka_unit_test(test_oldest_go_first),
        cmocka_unit_test(test_too_large_and_twice),
        cmocka_unit_test(test_out_of_memory_only_forgets),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
