/* Delays: exact without jitter, within their bounds with it, finite for every attempt number. */
#include "core/retry.h"

#include <limits.h>
#include <math.h>
#include <setjmp.h>
#include <cmocka.h>

enum { DRAWS = 20000 };

static void test_growth_without_jitter(void **state) {
    const struct backoff b = {.initial_ms = 1000, .max_ms = 600000, .factor = 2, .jitter = 0};
    const int64_t want[] = {1000, 2000, 4000, 8000, 16000, 32000, 64000, 128000, 256000, 512000, 600000, 600000};

    for (size_t i = 0; i < ARRAY_LEN(want); i++)
        assert_int_equal(backoff_delay_ms(&b, (int)i + 1, 0.7), want[i]);
    assert_int_equal(backoff_delay_ms(&b, 0, 0.7), 1000);
    assert_int_equal(backoff_delay_ms(&b, INT_MIN, 0.7), 1000);
}

static void test_factor_one_never_grows(void **state) {
    const struct backoff b = {.initial_ms = 250, .max_ms = 600000, .factor = 1, .jitter = 0};

    assert_int_equal(backoff_delay_ms(&b, 1, 0), 250);
    assert_int_equal(backoff_delay_ms(&b, 1000000, 0), 250);
}

static void test_formula_with_given_random(void **state) {
    struct backoff b = {.initial_ms = 1000, .max_ms = 600000, .factor = 2, .jitter = 0.2};

    assert_int_equal(backoff_delay_ms(&b, 1, 0), 800);
    assert_int_equal(backoff_delay_ms(&b, 1, 0.5), 1000);
    assert_int_equal(backoff_delay_ms(&b, 2, 0.5), 2000);
    b.jitter = 0.5;
    assert_int_equal(backoff_delay_ms(&b, 1, 0), 500);
    assert_int_equal(backoff_delay_ms(&b, 1, 0.5), 1000);
    b.jitter = 0.75;
    assert_int_equal(backoff_delay_ms(&b, 1, 0), 250);
    assert_int_equal(backoff_delay_ms(&b, 1, 0.5), 750);
    b.jitter = 1;
    assert_int_equal(backoff_delay_ms(&b, 1, 0), 1); /* never below 1 ms */
    assert_int_equal(backoff_delay_ms(&b, 1, 0.25), 250);
    assert_int_equal(backoff_delay_ms(&b, 40, 0.5), 300000);
}

/* All draws within [low, high], spread evenly over ten equal parts, mean in the middle. */
static void check_spread(const struct backoff *b, int n, int64_t low, int64_t high) {
    int parts[10] = {0};
    double sum = 0;

    for (int i = 0; i < DRAWS; i++) {
        int64_t d = backoff_delay_ms(b, n, backoff_random());
        assert_in_range(d, low, high);
        sum += (double)d;
        parts[MIN(9, (d - low) * 10 / (high - low))]++;
    }
    /* 8 and more standard deviations away: does not fail by chance. */
    assert_true(fabs(sum / DRAWS - (double)(low + high) / 2) < 0.02 * (double)(high - low));
    for (size_t i = 0; i < ARRAY_LEN(parts); i++)
        assert_in_range(parts[i], DRAWS / 10 * 8 / 10, DRAWS / 10 * 12 / 10);
}

static void test_distribution(void **state) {
    const struct backoff check = {.initial_ms = 10000, .max_ms = 600000, .factor = 2, .jitter = 0.2};
    const struct backoff half = {.initial_ms = 10000, .max_ms = 600000, .factor = 2, .jitter = 0.5};
    const struct backoff full = {.initial_ms = 10000, .max_ms = 600000, .factor = 2, .jitter = 1};

    check_spread(&check, 1, 8000, 12000);
    check_spread(&check, 3, 32000, 48000);
    check_spread(&check, 100, 480000, 720000);
    check_spread(&half, 1, 5000, 15000);
    check_spread(&half, 100, 300000, 900000);
    check_spread(&full, 1, 1, 10000);
    check_spread(&full, 1000, 1, 600000);
}

static void test_no_overflow(void **state) {
    const double jitters[] = {0, 0.2, 0.5, 0.7, 1};
    const double almost_one = 0x1.fffffffffffffp-1;

    for (size_t j = 0; j < ARRAY_LEN(jitters); j++) {
        const struct backoff b = {.initial_ms = 1000, .max_ms = 86400000, .factor = 100, .jitter = jitters[j]};
        int64_t top = (int64_t)(86400000 * (1 + MIN(jitters[j], 0.5)));
        int64_t last = 0;
        for (int n = 1; n <= 1000000; n++) {
            int64_t d = backoff_delay_ms(&b, n, almost_one);
            assert_true(d >= last && d <= top);
            last = d;
            assert_true(backoff_delay_ms(&b, n, 0) >= 1);
        }
        assert_true(backoff_delay_ms(&b, INT_MAX, almost_one) <= top);
    }
    const struct backoff huge = {.initial_ms = INT64_MAX, .max_ms = INT64_MAX, .factor = 100, .jitter = 0.5};
    assert_int_equal(backoff_delay_ms(&huge, 1000000, almost_one), INT64_MAX);
}

static void test_nonsense_is_harmless(void **state) {
    const struct backoff zero = {0};
    const struct backoff nan = {.initial_ms = 100, .max_ms = 1000, .factor = NAN, .jitter = NAN};
    const struct backoff shrinking = {.initial_ms = 100, .max_ms = 1000, .factor = 0.5, .jitter = 7};
    const struct backoff crossed = {.initial_ms = 5000, .max_ms = 1000, .factor = 2, .jitter = 0};

    assert_int_equal(backoff_delay_ms(&zero, 5, 0.5), 1);
    assert_int_equal(backoff_delay_ms(&nan, 5, 0.5), 100);
    assert_int_equal(backoff_delay_ms(&shrinking, 5, 0.5), 50);
    assert_int_equal(backoff_delay_ms(&crossed, 1, 0.5), 1000);
}

static void test_random_range(void **state) {
    double first = backoff_random();
    bool moved = false;

    for (int i = 0; i < DRAWS; i++) {
        double r = backoff_random();
        assert_true(r >= 0 && r < 1);
        moved |= r != first;
    }
    assert_true(moved);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_growth_without_jitter),
        cmocka_unit_test(test_factor_one_never_grows),
        cmocka_unit_test(test_formula_with_given_random),
        cmocka_unit_test(test_distribution),
        cmocka_unit_test(test_no_overflow),
        cmocka_unit_test(test_nonsense_is_harmless),
        cmocka_unit_test(test_random_range),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
