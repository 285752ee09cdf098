/* The window's W never passes what is in flight or waits to be spilled; the breaker lets one probe through per step. */
#include "forward/window.h"

#include "base/clock.h"
#include "base/mem.h"
#include "forward/breaker.h"

#include <setjmp.h>
#include <cmocka.h>

static struct lane_pos at(int32_t seq, int32_t index) {
    return (struct lane_pos){seq, index};
}

static uint64_t push(struct window *w, int32_t seq) {
    assert_int_equal(window_room(w), 0);
    return window_push(w, at(seq, 0), NULL);
}

static void assert_mark(struct window *w, int32_t read_seq, int32_t seq) {
    assert_int_equal(window_mark(w, at(read_seq, 0)).seq, seq);
}

static void test_in_order(void **state) {
    CLEANUP(window_deinit) struct window w;

    window_init(&w, 8);
    assert_null(window_head(&w));
    assert_mark(&w, 7, 7); /* empty: where it reads */
    uint64_t a = push(&w, 1), b = push(&w, 2);
    assert_mark(&w, 3, 1);
    window_settle(&w, a, WINDOW_DONE);
    assert_int_equal(window_leading_done(&w), 1);
    assert_mark(&w, 3, 1); /* until it is popped: nothing of it is in a batch */
    window_pop(&w);
    assert_mark(&w, 3, 2);
    window_settle(&w, b, WINDOW_DONE);
    window_pop(&w);
    assert_mark(&w, 3, 3);
}

static void test_out_of_order(void **state) {
    CLEANUP(window_deinit) struct window w;
    uint64_t id[5];

    window_init(&w, 8);
    for (int i = 0; i < 5; i++)
        id[i] = push(&w, i + 1);
    window_settle(&w, id[4], WINDOW_DONE);
    window_settle(&w, id[2], WINDOW_DONE);
    window_settle(&w, id[1], WINDOW_DONE);
    assert_int_equal(window_leading_done(&w), 0); /* the first one is still out */
    assert_int_equal(window_settled(&w), 3);
    assert_int_equal(w.in_flight, 2);
    window_settle(&w, id[0], WINDOW_DONE);
    assert_int_equal(window_leading_done(&w), 3);
    for (int i = 0; i < 3; i++)
        window_pop(&w);
    assert_mark(&w, 6, 4);
    assert_int_equal(window_leading_done(&w), 0);
    window_settle(&w, id[3], WINDOW_DONE);
    assert_int_equal(window_leading_done(&w), 2);
}

/* A spilled message stops W until its row has been added by whoever pops it. */
static void test_spill_stops(void **state) {
    CLEANUP(window_deinit) struct window w;
    uint64_t id[3];
    int item;

    window_init(&w, 8);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(window_room(&w), 0);
        id[i] = window_push(&w, at(4, i * 128), &item);
    }
    window_settle(&w, id[0], WINDOW_DONE);
    window_settle(&w, id[1], WINDOW_SPILL);
    window_settle(&w, id[2], WINDOW_DONE);
    assert_int_equal(window_leading_done(&w), 1);
    window_pop(&w);
    assert_int_equal(window_leading_done(&w), 0);
    assert_int_equal(window_mark(&w, at(9, 0)).index, 128);
    assert_int_equal(window_head(&w)->state, WINDOW_SPILL);
    assert_ptr_equal(window_head(&w)->item, &item);
    window_pop(&w);
    assert_int_equal(window_leading_done(&w), 1);
}

static void test_bound_and_growth(void **state) {
    CLEANUP(window_deinit) struct window w;
    uint64_t first = 0;

    window_init(&w, 1000);
    for (int i = 0; i < 1000; i++) {
        uint64_t id = push(&w, i + 1);
        first = i == 0 ? id : first;
    }
    assert_int_equal(window_room(&w), 1);
    window_settle(&w, first + 700, WINDOW_DONE); /* ids survive the growth */
    assert_int_equal(window_slot(&w, first + 700)->pos.seq, 701);
    window_settle(&w, first, WINDOW_DONE);
    assert_int_equal(window_room(&w), 1); /* settled but not recorded still counts */
    window_pop(&w);
    assert_int_equal(window_room(&w), 0);
    window_push(&w, at(1001, 0), NULL);
    assert_int_equal(window_room(&w), 1);
}

static void test_limits(void **state) {
    CLEANUP(window_deinit) struct window w;

    window_init(&w, 1000000);
    assert_int_equal(w.max, WINDOW_HARD_MAX);
    window_init(&w, 0);
    assert_int_equal(w.max, 1);
    mem_fail_at(1);
    assert_int_equal(window_room(&w), -ENOMEM);
    assert_int_equal(window_room(&w), 0);
}

/* Any order of ends: W is always the smallest position that is not popped, and everything is popped once. */
static void test_random(void **state) {
    CLEANUP(window_deinit) struct window w;
    enum { N = 20000, CAP = 100 };
    static bool popped[N];
    uint64_t flying[CAP], x = 88172645463325252ull;
    size_t flying_n = 0;
    int next = 0, passed = 0;

    window_init(&w, CAP);
    memset(popped, 0, sizeof(popped));
    while (passed < N) {
        x ^= x << 13, x ^= x >> 7, x ^= x << 17;
        if (next < N && x % 3 && window_room(&w) == 0) {
            flying[flying_n++] = window_push(&w, at(next, 0), &popped[next]);
            next++;
        } else if (flying_n) {
            size_t i = (x >> 20) % flying_n;
            window_settle(&w, flying[i], (x >> 40) % 4 ? WINDOW_DONE : WINDOW_SPILL);
            flying[i] = flying[--flying_n];
        }
        for (struct window_slot *s; (s = window_head(&w)) && s->state != WINDOW_FLIGHT;) {
            bool *b = s->item;
            assert_false(*b);
            assert_int_equal(s->pos.seq, passed);
            *b = true;
            passed++;
            window_pop(&w);
        }
        assert_mark(&w, next, passed);
        assert_int_equal(w.in_flight, flying_n);
    }
}

/* --- breaker --- */

static const struct breaker_policy standard = {.failures = 16, .open_ms = 1000, .max_open_ms = 30000};

static void failures(struct breaker *b, int n, uint64_t now_ns) {
    for (int i = 0; i < n; i++)
        breaker_failure(b, &standard, false, now_ns);
}

static void test_breaker_opens(void **state) {
    struct breaker b = {0};

    failures(&b, 15, 0);
    assert_true(breaker_allows(&b, 0));
    assert_false(breaker_success(&b)); /* was not open */
    failures(&b, 15, 0);               /* in a row only */
    assert_true(breaker_allows(&b, 0));
    assert_true(breaker_failure(&b, &standard, false, 0));
    assert_false(breaker_allows(&b, 999 * NS_PER_MS));
    assert_true(breaker_allows(&b, 1000 * NS_PER_MS));
}

static void test_breaker_probes(void **state) {
    struct breaker b = {0};
    uint64_t now = 5 * NS_PER_S;
    static const unsigned steps_s[] = {1, 2, 4, 8, 16, 30, 30};

    failures(&b, 16, now);
    for (size_t i = 0; i < ARRAY_LEN(steps_s); i++) {
        now += steps_s[i] * NS_PER_S;
        assert_false(breaker_allows(&b, now - 1));
        assert_true(breaker_allows(&b, now));
        assert_true(breaker_started(&b));
        assert_false(breaker_allows(&b, now + 3600 * NS_PER_S)); /* one at a time */
        breaker_failure(&b, &standard, false, now);              /* an old one: changes nothing */
        assert_false(breaker_allows(&b, now + 3600 * NS_PER_S));
        breaker_failure(&b, &standard, true, now);
    }
    now += 30 * NS_PER_S;
    assert_true(breaker_started(&b));
    assert_true(breaker_success(&b));
    assert_true(breaker_allows(&b, now));
    assert_false(breaker_started(&b)); /* no probe: it is closed */
    failures(&b, 15, now);
    assert_true(breaker_allows(&b, now));
}

/* Two failures open it for 100 ms, then 200, then never longer than 250. */
static void test_breaker_by_policy(void **state) {
    const struct breaker_policy p = {.failures = 2, .open_ms = 100, .max_open_ms = 250};
    const uint64_t steps_ms[] = {100, 200, 250, 250};
    struct breaker b = {0};
    uint64_t now = 0;

    assert_false(breaker_failure(&b, &p, false, now));
    assert_true(breaker_failure(&b, &p, false, now));
    for (size_t i = 0; i < ARRAY_LEN(steps_ms); i++) {
        now += steps_ms[i] * NS_PER_MS;
        assert_false(breaker_allows(&b, now - 1));
        assert_true(breaker_allows(&b, now));
        assert_true(breaker_started(&b));
        breaker_failure(&b, &p, true, now);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_in_order),
        cmocka_unit_test(test_out_of_order),
        cmocka_unit_test(test_spill_stops),
        cmocka_unit_test(test_bound_and_growth),
        cmocka_unit_test(test_limits),
        cmocka_unit_test(test_random),
        cmocka_unit_test(test_breaker_opens),
        cmocka_unit_test(test_breaker_probes),
        cmocka_unit_test(test_breaker_by_policy),
    };
    return cmocka_run_group_tests_name("forward_window", tests, NULL, NULL);
}
