/* The bucket: as many as its rate says over any time, no burst after a rest, none lost to rounding. */
#include "core/rate.h"

#include "base/clock.h"

#include <setjmp.h>
#include <cmocka.h>

/* How many are started in `ms` when somebody tries every millisecond. */
static int started(struct rate *r, double per_second, uint64_t *now_ns, int ms) {
    int n = 0;

    for (int i = 0; i < ms; i++, *now_ns += NS_PER_MS)
        while (rate_allows(r, per_second, *now_ns) && n < 1000000) {
            rate_take(r, per_second);
            n++;
        }
    return n;
}

static void test_rate(void **state) {
    const double rates[] = {0.5, 1, 7, 100, 12345};

    for (size_t i = 0; i < ARRAY_LEN(rates); i++) {
        struct rate r = {0};
        uint64_t now_ns = NS_PER_S;
        int first = started(&r, rates[i], &now_ns, 1), n = started(&r, rates[i], &now_ns, 20000);
        assert_in_range(first, 1, MAX(rates[i] / 10, 1) + 1);
        assert_in_range(n, rates[i] * 20 - 1, rates[i] * 20 + 1);
    }
}

static void test_no_burst_after_a_rest(void **state) {
    struct rate r = {0};
    uint64_t now_ns = NS_PER_S;

    started(&r, 100, &now_ns, 1000);
    now_ns += 3600 * NS_PER_S;
    assert_int_equal(started(&r, 100, &now_ns, 1), 10);
}

static void test_wait(void **state) {
    struct rate r = {0};
    uint64_t now_ns = NS_PER_S;

    assert_int_equal(started(&r, 2, &now_ns, 1), 1);
    uint64_t wait = rate_wait_ms(&r, 2);
    assert_in_range(wait, 499, 501);
    assert_false(rate_allows(&r, 2, now_ns + (wait - 5) * NS_PER_MS));
    assert_true(rate_allows(&r, 2, now_ns + wait * NS_PER_MS));
}

static void test_unlimited(void **state) {
    struct rate r = {0};
    uint64_t now_ns = NS_PER_S;

    assert_int_equal(started(&r, 0, &now_ns, 1), 1000000);
    assert_int_equal(rate_wait_ms(&r, 0), 1);
}

/* Somebody who looks four times a second gets all of the rate, and no more after a rest than the bucket holds. */
static void test_room(void **state) {
    const double rates[] = {0.5, 3, 100, 12345};

    for (size_t i = 0; i < ARRAY_LEN(rates); i++) {
        struct rate r = {0};
        uint64_t now_ns = NS_PER_S;
        double n = 0;
        int first = rate_room(&r, rates[i], 0.5, now_ns);
        assert_in_range(first, 1, MAX(rates[i] / 2, 1));
        r.tokens -= first;
        for (int k = 0; k < 80; k++) {
            now_ns += 250 * NS_PER_MS;
            int room = rate_room(&r, rates[i], 0.5, now_ns);
            r.tokens -= room;
            n += room;
        }
        assert_in_range(n, rates[i] * 20 - 2, rates[i] * 20 + 1);
        now_ns += 3600 * NS_PER_S;
        assert_in_range(rate_room(&r, rates[i], 0.5, now_ns), 1, MAX(rates[i] / 2, 1));
    }
    struct rate none = {0};
    assert_int_equal(rate_room(&none, 0, 0.5, NS_PER_S), INT32_MAX);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rate), cmocka_unit_test(test_no_burst_after_a_rest),
        cmocka_unit_test(test_wait), cmocka_unit_test(test_unlimited),
        cmocka_unit_test(test_room),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
