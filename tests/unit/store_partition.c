/* Which partitions are wanted, which window of ids they give, and the numbers of lanes: rules without a database. */
#include "store/partition_plan.h"

#include "base/mem.h"
#include "base/uuid.h"
#include "store/partition.h"

#include <setjmp.h>
#include <cmocka.h>

#define DAY 86400
#define US  1000000ll

/* 2024-05-05 10:00 UTC; the schema is three days old. */
static const int64_t noon_us = 1714903200ll * US, origin_us = (1714903200ll / DAY - 3) * DAY * US;

static void give(struct partition_layout *l, enum partition_kind kind, int64_t from, int64_t to) {
    l->have[kind] = mem_realloc(l->have[kind], (l->have_n[kind] + (size_t)(to - from + 1)) * sizeof(int64_t));
    for (int64_t p = from; p <= to; p++)
        l->have[kind][l->have_n[kind]++] = p;
}

static struct partition_layout layout(int32_t seconds) {
    return (struct partition_layout){.seconds = seconds, .origin_us = origin_us, .now_us = noon_us};
}

static size_t missing(const struct partition_layout *l, int ahead, struct partition_need *needs) {
    size_t n = 0;
    assert_int_equal(partition_missing(l, ahead, needs, &n, NULL), 0);
    return n;
}

static void test_fresh_schema_needs_a_day_back_and_ahead(void **state) {
    struct partition_layout l = layout(DAY);
    struct partition_need needs[PARTITION_NEEDS_MAX];
    size_t n = missing(&l, 3, needs);
    int64_t today = 1714903200 / DAY, lo[PARTITION_KINDS] = {INT64_MAX, INT64_MAX, INT64_MAX},
            hi[PARTITION_KINDS] = {0};
    assert_int_equal(n, 15);
    for (size_t i = 0; i < n; i++) {
        lo[needs[i].kind] = MIN(lo[needs[i].kind], needs[i].period);
        hi[needs[i].kind] = MAX(hi[needs[i].kind], needs[i].period);
    }
    assert_int_equal(lo[PARTITION_MESSAGE], today - 1);
    assert_int_equal(hi[PARTITION_MESSAGE], today + 3);
    assert_int_equal(lo[PARTITION_LANE_LOG], 2);
    assert_int_equal(hi[PARTITION_LANE_LOG], 6);
    /* Without the present one nothing works: it comes first. */
    assert_int_equal(needs[0].period, today);
    assert_int_equal(needs[1].period, today);
    assert_int_equal(needs[2].period, 3);
}

static void test_narrow_periods_are_bounded(void **state) {
    struct partition_layout l = layout(60);
    struct partition_need needs[PARTITION_NEEDS_MAX];
    assert_int_equal(missing(&l, 3, needs), 2 * (16 + 1 + 3) + (1 + 1 + 3));
    assert_true(missing(&l, 1000, needs) <= PARTITION_NEEDS_MAX);
}

static void test_nothing_is_made_below_the_floor(void **state) {
    struct partition_layout l = layout(60);
    struct partition_need needs[PARTITION_NEEDS_MAX];
    l.floor_ms = noon_us / 1000 - 5 * 60000;
    size_t n = missing(&l, 3, needs);
    assert_int_equal(n, 2 * (5 + 1 + 3) + (1 + 1 + 3));
    for (size_t i = 0; i < n; i++)
        assert_true(needs[i].kind == PARTITION_LANE_LOG || needs[i].period * 60000 >= l.floor_ms);
}

static void test_what_is_there_is_not_made_again(void **state) {
    struct partition_layout l = layout(DAY);
    struct partition_need needs[PARTITION_NEEDS_MAX];
    int64_t today = 1714903200 / DAY;
    give(&l, PARTITION_MESSAGE, today - 7, today + 3);
    give(&l, PARTITION_DECISION, today - 7, today + 2);
    give(&l, PARTITION_LANE_LOG, 0, 6);
    assert_int_equal(missing(&l, 3, needs), 1);
    assert_int_equal(needs[0].kind, PARTITION_DECISION);
    assert_int_equal(needs[0].period, today + 3);
    assert_int_equal(partition_ready_ahead(&l), 2);
    partition_layout_deinit(&l);
}

static void test_window_ends_at_the_first_gap(void **state) {
    struct partition_layout l = layout(DAY);
    int64_t today = 1714903200 / DAY, lo, hi;
    give(&l, PARTITION_MESSAGE, today - 9, today - 9);
    give(&l, PARTITION_MESSAGE, today - 7, today + 3);
    give(&l, PARTITION_DECISION, today - 9, today - 4);
    give(&l, PARTITION_DECISION, today - 2, today + 2);
    partition_window(&l, &lo, &hi);
    assert_int_equal(lo, (today - 2) * DAY * 1000);
    assert_int_equal(hi, (today + 3) * DAY * 1000);
    l.have_n[PARTITION_DECISION] -= 3; /* neither today nor later */
    partition_window(&l, &lo, &hi);
    assert_int_equal(lo, 0);
    assert_int_equal(hi, 0);
    partition_layout_deinit(&l);
}

static void test_lane_numbers(void **state) {
    assert_int_equal(partition_lane_first(DAY, origin_us, noon_us), 3 * LANES_PER_PERIOD);
    assert_int_equal(partition_lane_first(DAY, origin_us, origin_us - 1), 1); /* 0 means "no lane" */
    assert_int_equal(partition_lane_first(DAY, origin_us, origin_us + DAY * US - 1), 1);
    assert_int_equal(partition_lane_first(DAY, origin_us, origin_us + DAY * US), LANES_PER_PERIOD);
    /* The last period is the end, not an overflow. */
    assert_int_equal(partition_lane_first(1, 0, INT64_MAX / 2), (LANE_PERIODS - 1) * LANES_PER_PERIOD);
    struct partition_layout l = {.seconds = 1, .origin_us = 0, .now_us = (LANE_PERIODS - 2) * US};
    struct partition_need needs[PARTITION_NEEDS_MAX];
    size_t n;
    struct errmsg e = ERRMSG_NULL;
    assert_int_equal(partition_missing(&l, 3, needs, &n, &e), -ERANGE);
    assert_non_null(strstr(e.text, "too narrow"));
}

/* Bounds must meet exactly: an id of the last millisecond belongs to its own period. */
static void test_bounds_in_sql(void **state) {
    struct partition_layout l = layout(DAY);
    char sql[PARTITION_SQL_MAX], text[UUID_TEXT];
    struct uuid id;
    partition_sql(&l, &(struct partition_need){PARTITION_DECISION, 19848}, sql);
    uuid_v7_floor(19848ll * DAY * 1000, &id);
    uuid_format(&id, text);
    assert_non_null(strstr(sql, text));
    uuid_v7_floor(19849ll * DAY * 1000, &id);
    uuid_format(&id, text);
    assert_non_null(strstr(sql, text));
    assert_non_null(strstr(sql, "decision_p19848 (LIKE decision INCLUDING ALL)"));
    assert_null(strstr(sql, "toast_tuple_target"));
    partition_sql(&l, &(struct partition_need){PARTITION_LANE_LOG, 5}, sql);
    assert_non_null(strstr(sql, "FROM (81920) TO (98304)"));
    assert_non_null(strstr(sql, "toast_tuple_target = 8160"));
    partition_sql(&l, &(struct partition_need){PARTITION_LANE_LOG, LANE_PERIODS - 1}, sql);
    assert_non_null(strstr(sql, "FROM (2147467264) TO (MAXVALUE)"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fresh_schema_needs_a_day_back_and_ahead),
        cmocka_unit_test(test_narrow_periods_are_bounded),
        cmocka_unit_test(test_nothing_is_made_below_the_floor),
        cmocka_unit_test(test_what_is_there_is_not_made_again),
        cmocka_unit_test(test_window_ends_at_the_first_gap),
        cmocka_unit_test(test_lane_numbers),
        cmocka_unit_test(test_bounds_in_sql),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
