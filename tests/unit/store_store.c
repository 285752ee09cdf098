/* The database's clock as observations make it. */
#include "store/store.h"

#include "base/clock.h"

#include <setjmp.h>
#include <cmocka.h>

#define MS 1000000ull

/* The database's clock is `ahead_us` ahead of CLOCK_BOOTTIME and answers in the middle of the round trip. */
static void observe(struct store *s, int64_t ahead_us, uint64_t sent_ns, uint64_t trip_ns) {
    store_clock_observe(s, (int64_t)((sent_ns + trip_ns / 2) / 1000) + ahead_us, sent_ns, sent_ns + trip_ns);
}

static void test_first_observation_counts(void **state) {
    struct store s = {0};
    observe(&s, 5000000, 100 * MS, 40 * MS);
    assert_int_equal(s.clock_offset_us, 5000000);
    int64_t now = store_now_us(&s), boot = (int64_t)(clock_boot_ns() / 1000);
    assert_in_range(now - boot + 1000000, 5000000, 6000000);
}

static void test_better_replaces_worse(void **state) {
    struct store s = {0};
    observe(&s, 5000, 100 * MS, 40 * MS);
    observe(&s, 7000, 200 * MS, 2 * MS);
    assert_int_equal(s.clock_offset_us, 7000);
    observe(&s, 9000, 300 * MS, 40 * MS); /* agrees within its error: says nothing new */
    assert_int_equal(s.clock_offset_us, 7000);
}

static void test_a_contradiction_counts_at_once(void **state) {
    struct store s = {0};
    observe(&s, 5000, 100 * MS, 2 * MS);
    observe(&s, 3600000000, 200 * MS, 40 * MS);
    assert_int_equal(s.clock_offset_us, 3600000000);
    observe(&s, -3600000000, 300 * MS, 40 * MS);
    assert_int_equal(s.clock_offset_us, -3600000000);
}

/* One lucky measurement must not be held for ever: clocks drift. */
static void test_an_old_observation_fades(void **state) {
    struct store s = {0};
    observe(&s, 5000, 100 * MS, MS / 10);
    int n = 0;
    while (s.clock_offset_us == 5000 && n < 1000)
        observe(&s, 5100, (200 + (uint64_t)n++) * MS, 2 * MS);
    assert_int_equal(s.clock_offset_us, 5100);
    assert_in_range(n, 2, 100);
}

static void test_nonsense_is_ignored(void **state) {
    struct store s = {0};
    store_clock_observe(&s, 77, 10, 9);
    assert_int_equal(s.clock_error_us, 0);
    assert_int_equal(s.clock_offset_us, 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_first_observation_counts),
        cmocka_unit_test(test_better_replaces_worse),
        cmocka_unit_test(test_a_contradiction_counts_at_once),
        cmocka_unit_test(test_an_old_observation_fades),
        cmocka_unit_test(test_nonsense_is_ignored),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
