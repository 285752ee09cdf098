/* What retention does next, from what a look at the database found: rules without a database. */
#include "store/retention_plan.h"

#include "base/uuid.h"
#include "store/partition.h"

#include <setjmp.h>
#include <cmocka.h>

#define DAY  86400
#define KEEP (7ll * DAY * 1000)

enum { TODAY = 20000 }; /* periods of a day since 1970; the schema is 100 days old */

static struct retention_view view(void) {
    return (struct retention_view){.seconds = DAY,
                                   .origin_us = (TODAY - 100) * (int64_t)DAY * 1000000,
                                   .now_us = (TODAY * (int64_t)DAY + 3600) * 1000000};
}

static void give(struct retention_view *v, enum partition_kind k, int64_t period, enum table_state state) {
    v->tables[v->tables_n++] = (struct retention_table){k, period, state};
}

static void give_pair(struct retention_view *v, int64_t period) {
    give(v, PARTITION_MESSAGE, period, TABLE_ATTACHED);
    give(v, PARTITION_DECISION, period, TABLE_ATTACHED);
}

static void expect(const struct retention_view *v, enum retention_act act, enum partition_kind k, int64_t period) {
    struct retention_task t = retention_next(v, KEEP);
    assert_int_equal(t.act, act);
    if (act != RETENTION_REST) {
        assert_int_equal(t.kind, k);
        assert_int_equal(t.period, period);
    }
}

static void test_a_period_is_old_when_its_end_is(void **state) {
    struct retention_view v = view();
    give_pair(&v, TODAY - 7);
    expect(&v, RETENTION_REST, 0, 0); /* it ended six days and an hour ago */
    give_pair(&v, TODAY - 8);
    expect(&v, RETENTION_RAISE, PARTITION_MESSAGE, TODAY - 8);
    give_pair(&v, TODAY - 10);
    expect(&v, RETENTION_RAISE, PARTITION_MESSAGE, TODAY - 10); /* the oldest first */
}

static void test_below_the_floor_it_is_dropped_before_the_next_rises(void **state) {
    struct retention_view v = view();
    give_pair(&v, TODAY - 9);
    give_pair(&v, TODAY - 8);
    v.floor_ms = retention_end_ms(&v, TODAY - 9);
    expect(&v, RETENTION_DROP, PARTITION_MESSAGE, TODAY - 9);
    assert_int_equal(retention_oldest_ms(&v), (TODAY - 9) * (int64_t)DAY * 1000);
}

static void test_goes_on_where_a_crash_left_it(void **state) {
    struct retention_view v = view();
    v.floor_ms = retention_end_ms(&v, TODAY - 9);
    give_pair(&v, TODAY - 8);
    give(&v, PARTITION_DECISION, TODAY - 9, TABLE_ATTACHED);
    expect(&v, RETENTION_DETACH, PARTITION_DECISION, TODAY - 9);
    give(&v, PARTITION_MESSAGE, TODAY - 9, TABLE_LOOSE);
    expect(&v, RETENTION_REMOVE, PARTITION_MESSAGE, TODAY - 9);
    give(&v, PARTITION_MESSAGE, TODAY - 10, TABLE_PENDING);
    expect(&v, RETENTION_FINALIZE, PARTITION_MESSAGE, TODAY - 10); /* only one may be pending */
}

static void test_half_a_pair_above_the_floor_is_not_touched(void **state) {
    struct retention_view v = view();
    give(&v, PARTITION_MESSAGE, TODAY - 20, TABLE_ATTACHED);
    give(&v, PARTITION_DECISION, TODAY - 19, TABLE_LOOSE);
    expect(&v, RETENTION_REST, 0, 0);
}

static void test_lanes_come_when_their_period_is_old(void **state) {
    struct retention_view v = view();
    give(&v, PARTITION_LANE_LOG, 90, TABLE_ATTACHED);
    give(&v, PARTITION_LANE_LOG, 91, TABLE_ATTACHED);
    give(&v, PARTITION_LANE_LOG, 92, TABLE_LOOSE);
    give(&v, PARTITION_LANE_LOG, 93, TABLE_ATTACHED);
    give(&v, PARTITION_LANE_LOG, 100, TABLE_LOOSE);
    assert_int_equal(retention_next_lanes(&v, KEEP, INT64_MIN).period, 90);
    assert_int_equal(retention_next_lanes(&v, KEEP, 90).period, 91);
    assert_int_equal(retention_next_lanes(&v, KEEP, 91).act, RETENTION_REST);
    expect(&v, RETENTION_REMOVE, PARTITION_LANE_LOG, 92);
}

static void test_statements_fit(void **state) {
    char sql[RETENTION_SQL_MAX];
    retention_raise_sql(INT64_C(253402300799999), sql);
    assert_non_null(strstr(sql, "IN SHARE MODE"));
    assert_non_null(strstr(sql, "SET floor = 'e677d21f-dbff-0000-0000-000000000000'"));
    retention_blocked_sql(INT64_C(253402300799999), sql);
    retention_fold_sql((1 << 17) - 1, sql);
    char ids[RETENTION_IDS_MAX];
    memset(ids, '7', sizeof(ids) - 1);
    ids[sizeof(ids) - 1] = 0;
    retention_settle_sql(ids, sql);
    assert_true(strlen(sql) > 4 * strlen(ids));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_period_is_old_when_its_end_is),
        cmocka_unit_test(test_below_the_floor_it_is_dropped_before_the_next_rises),
        cmocka_unit_test(test_goes_on_where_a_crash_left_it),
        cmocka_unit_test(test_half_a_pair_above_the_floor_is_not_touched),
        cmocka_unit_test(test_lanes_come_when_their_period_is_old),
        cmocka_unit_test(test_statements_fit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
