/* Timers: once per arming, never after stop or free, and never at the expense of the rest of the loop. */
#include "base/mem.h"
#include "loop/loop.h"

#include <setjmp.h>
#include <cmocka.h>

struct bench {
    struct loop *l;
    struct timer *a, *b;
    int fired_a, fired_b, turns;
    char order[16];
    size_t n;
};

static void bench_open(struct bench *b, void (*fn_a)(void *), void (*fn_b)(void *)) {
    *b = (struct bench){0};
    assert_int_equal(loop_new("timers", &b->l), 0);
    assert_int_equal(timer_new(b->l, fn_a, b, &b->a), 0);
    assert_int_equal(timer_new(b->l, fn_b, b, &b->b), 0);
}

static void bench_run(struct bench *b) {
    assert_int_equal(loop_run(b->l), 0);
    loop_free(b->l);
}

static void finish(struct bench *b) {
    timer_free(b->a);
    timer_free(b->b);
    b->a = b->b = NULL;
    loop_stop(b->l);
}

static void fire_a(void *arg) {
    struct bench *b = arg;
    b->fired_a++;
    b->order[b->n++] = 'a';
}

static void fire_b_and_finish(void *arg) {
    struct bench *b = arg;
    b->fired_b++;
    b->order[b->n++] = 'b';
    finish(b);
}

static void test_fires_once_in_order(void **state) {
    struct bench b;

    bench_open(&b, fire_a, fire_b_and_finish);
    assert_false(timer_armed(b.a));
    timer_arm(b.b, 20);
    timer_arm(b.a, 10);
    assert_true(timer_armed(b.a));
    bench_run(&b);
    assert_string_equal(b.order, "ab");
}

static void test_rearming_replaces(void **state) {
    struct bench b;

    bench_open(&b, fire_a, fire_b_and_finish);
    timer_arm(b.a, 1);
    timer_arm(b.a, UINT64_MAX); /* not now, and no overflow */
    timer_arm(b.b, 3600000);
    timer_arm(b.b, 2);
    assert_true(timer_armed(b.a));
    bench_run(&b);
    assert_string_equal(b.order, "b");
}

static void test_stop(void **state) {
    struct bench b;

    bench_open(&b, fire_a, fire_b_and_finish);
    timer_arm(b.a, 0);
    timer_stop(b.a);
    timer_stop(b.a);
    assert_false(timer_armed(b.a));
    timer_arm(b.b, 5);
    bench_run(&b);
    assert_int_equal(b.fired_a, 0);
}

/* Both are due in the same turn; the first frees the second. */
static void free_b_and_stop(void *arg) {
    struct bench *b = arg;
    b->fired_a++;
    assert_false(timer_armed(b->a)); /* one-shot: already off inside its function */
    finish(b);
}

static void test_free_prevents_firing(void **state) {
    struct bench b;

    bench_open(&b, free_b_and_stop, fire_b_and_finish);
    timer_arm(b.a, 0);
    timer_arm(b.b, 0);
    bench_run(&b);
    assert_int_equal(b.fired_a, 1);
    assert_int_equal(b.fired_b, 0);
}

static void test_free_unused(void **state) {
    struct bench b;

    bench_open(&b, fire_a, fire_a);
    timer_arm(b.a, 0);
    timer_free(b.a);
    timer_free(b.b);
    timer_free(NULL);
    loop_free(b.l); /* never ran: the memory goes all the same */
    assert_int_equal(b.fired_a, 0);
}

static void again_a(void *arg) {
    struct bench *b = arg;
    if (++b->fired_a < 5)
        timer_arm(b->a, 0);
    else
        finish(b);
}

static void test_rearm_inside(void **state) {
    struct bench b;

    bench_open(&b, again_a, fire_a);
    timer_arm(b.a, 0);
    bench_run(&b);
    assert_int_equal(b.fired_a, 5);
}

/* Two timers that arm each other with 0 for ever: posts must still get their turn. */
static void arm_b(void *arg) {
    struct bench *b = arg;
    b->fired_a++;
    timer_arm(b->b, 0);
}

static void arm_a(void *arg) {
    struct bench *b = arg;
    b->fired_b++;
    timer_arm(b->a, 0);
}

static void turn(void *arg) {
    struct bench *b = arg;
    if (++b->turns < 10)
        assert_int_equal(loop_post(b->l, turn, b), 0);
    else
        finish(b);
}

static void test_zero_starves_nobody(void **state) {
    struct bench b;

    bench_open(&b, arm_b, arm_a);
    timer_arm(b.a, 0);
    assert_int_equal(loop_post(b.l, turn, &b), 0);
    bench_run(&b);
    assert_int_equal(b.turns, 10);
}

/*
 * a is due 100 ms from now; b is armed 60 ms later to come after 50 ms. Were b counted from the loop's wake-up, it would
 * come first. However slow the machine is, the right order stays right.
 */
static void work_then_arm(void *arg) {
    struct bench *b = arg;

    timer_arm(b->a, 100);
    for (uint64_t until = uv_hrtime() + 60000000u; uv_hrtime() < until;)
        ;
    timer_arm(b->b, 50);
}

static void test_counts_from_now(void **state) {
    struct bench b;

    bench_open(&b, fire_a, fire_b_and_finish);
    assert_int_equal(loop_post(b.l, work_then_arm, &b), 0);
    bench_run(&b);
    assert_string_equal(b.order, "ab");
}

static void test_no_memory(void **state) {
    struct loop *l;
    struct timer *t = NULL;

    assert_int_equal(loop_new("x", &l), 0);
    mem_fail_at(1);
    assert_int_equal(timer_new(l, fire_a, NULL, &t), -ENOMEM);
    assert_null(t);
    loop_free(l);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fires_once_in_order),
        cmocka_unit_test(test_rearming_replaces),
        cmocka_unit_test(test_stop),
        cmocka_unit_test(test_free_prevents_firing),
        cmocka_unit_test(test_free_unused),
        cmocka_unit_test(test_rearm_inside),
        cmocka_unit_test(test_zero_starves_nobody),
        cmocka_unit_test(test_counts_from_now),
        cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
