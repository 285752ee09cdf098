/* A loop: posts in order, the end of life from both sides, and signals. */
#include "base/mem.h"
#include "loop/loop.h"

#include <pthread.h>
#include <signal.h>
#include <unistd.h>
#include <setjmp.h>
#include <cmocka.h>

static void stop(void *arg) {
    loop_stop(arg);
}

static void count(void *arg) {
    ++*(int *)arg;
}

static void must_post(struct loop *l, void (*fn)(void *), void *arg) {
    int r = loop_post(l, fn, arg);
    assert_int_equal(r, 0);
}

static struct loop *make(void) {
    struct loop *l = NULL;
    assert_int_equal(loop_new("test", &l), 0);
    return l;
}

static void test_never_run(void **state) {
    struct loop *l = make();
    int ran = 0;

    assert_true(loop_is_mine(l));
    assert_non_null(loop_uv(l));
    must_post(l, count, &ran);
    loop_free(l);
    assert_int_equal(ran, 1);
    loop_free(NULL);
}

static void test_stopped_before_it_runs(void **state) {
    struct loop *l = make();

    loop_stop(l);
    loop_stop(l);
    assert_int_equal(loop_run(l), 0);
    loop_join(l); /* nothing to join */
    loop_free(l);
}

struct order {
    struct loop *l;
    int seen[300], n;
};
struct numbered {
    struct order *o;
    int number;
};

static void note(void *arg) {
    struct numbered *i = arg;
    i->o->seen[i->o->n++] = i->number;
}

static void test_order(void **state) {
    struct order o = {.l = make()};
    struct numbered items[300];

    for (int i = 0; i < 300; i++) {
        items[i] = (struct numbered){&o, i};
        must_post(o.l, note, &items[i]);
        if (i == 99)
            assert_int_equal(loop_start(o.l), 0);
    }
    must_post(o.l, stop, o.l);
    loop_join(o.l);
    assert_int_equal(o.n, 300);
    for (int i = 0; i < 300; i++)
        assert_int_equal(o.seen[i], i);
    loop_free(o.l);
}

/* What got in before the stop is run, on both sides of the post that stops; what comes later is refused. */
static void stop_in_the_middle(void *arg) {
    struct order *o = arg;
    static int never;

    loop_stop(o->l);
    o->seen[o->n++] = loop_post(o->l, count, &never);
}

static void test_stop_runs_what_got_in(void **state) {
    struct order o = {.l = make()};
    int before = 0, after = 0;

    must_post(o.l, count, &before);
    must_post(o.l, stop_in_the_middle, &o);
    must_post(o.l, count, &after);
    assert_int_equal(loop_run(o.l), 0);
    assert_int_equal(before, 1);
    assert_int_equal(after, 1);
    assert_int_equal(o.n, 1);
    assert_int_equal(o.seen[0], -ECANCELED);
    assert_int_equal(loop_post(o.l, count, &after), -ECANCELED);
    loop_free(o.l);
}

static void post_again(void *arg) {
    struct order *o = arg;

    if (++o->n < 50)
        must_post(o->l, post_again, o);
    else
        loop_stop(o->l);
}

static void test_post_from_post(void **state) {
    struct order o = {.l = make()};

    must_post(o.l, post_again, &o);
    assert_int_equal(loop_run(o.l), 0);
    assert_int_equal(o.n, 50);
    loop_free(o.l);
}

struct whose {
    struct loop *a, *b;
    bool mine, other;
    char name[16];
};

static void look(void *arg) {
    struct whose *w = arg;

    w->mine = loop_is_mine(w->a);
    w->other = loop_is_mine(w->b);
    pthread_getname_np(pthread_self(), w->name, sizeof(w->name));
    loop_stop(w->a);
}

static void test_is_mine(void **state) {
    struct whose w = {.b = make()};

    assert_int_equal(loop_new("a-name-of-15-ch", &w.a), 0);
    assert_int_equal(loop_start(w.b), 0);
    assert_int_equal(loop_start(w.b), -EALREADY);
    assert_int_equal(loop_run(w.b), -EALREADY);
    assert_false(loop_is_mine(w.b));
    assert_int_equal(loop_start(w.a), 0);
    must_post(w.a, look, &w);
    loop_join(w.a);
    assert_true(w.mine);
    assert_false(w.other);
    assert_string_equal(w.name, "a-name-of-15-ch");
    must_post(w.b, stop, w.b);
    loop_join(w.b);
    assert_true(loop_is_mine(w.b));
    loop_free(w.a);
    loop_free(w.b);
}

static void test_now(void **state) {
    struct loop *l = make();
    struct timespec ts;

    uint64_t now = loop_now_ns(l);
    clock_gettime(CLOCK_MONOTONIC, &ts);
    uint64_t mono = (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
    assert_true(now > 0 && now <= mono);
    assert_int_equal(now % 1000000, 0);
    loop_free(l);
}

static void test_no_memory(void **state) {
    struct loop *l = NULL;
    int ran = 0;

    mem_fail_at(1);
    assert_int_equal(loop_new("x", &l), -ENOMEM);
    assert_null(l);
    l = make();
    mem_fail_at(1);
    assert_int_equal(loop_post(l, count, &ran), -ENOMEM);
    loop_free(l);
    assert_int_equal(ran, 0);
}

/* Many threads post while the loop ends: each post either runs or is refused. */
struct crowd {
    struct loop *l;
    _Atomic int accepted, refused;
    int ran; /* of the loop's thread */
};

static void run_one(void *arg) {
    struct crowd *c = arg;
    if (++c->ran == 500)
        loop_stop(c->l);
}

static void *post_until_refused(void *arg) {
    struct crowd *c = arg;
    int r;

    while ((r = loop_post(c->l, run_one, c)) == 0)
        c->accepted++;
    c->refused += r == -ECANCELED;
    return NULL;
}

static void test_post_against_stop(void **state) {
    for (int round = 0; round < 20; round++) {
        struct crowd c = {.l = make()};
        pthread_t threads[3];
        assert_int_equal(loop_start(c.l), 0);
        for (int i = 0; i < 3; i++)
            assert_int_equal(pthread_create(&threads[i], NULL, post_until_refused, &c), 0);
        for (int i = 0; i < 3; i++)
            assert_int_equal(pthread_join(threads[i], NULL), 0);
        loop_join(c.l);
        assert_int_equal(c.refused, 3);
        assert_int_equal(c.ran, c.accepted);
        assert_true(c.ran >= 500);
        loop_free(c.l);
    }
}

struct caught {
    struct loop *l;
    struct signals *s;
    int term, intr, hup, wrong;
};

static void on_signal(void *arg, int signum) {
    struct caught *c = arg;

    c->wrong += !loop_is_mine(c->l);
    c->term += signum == SIGTERM;
    c->intr += signum == SIGINT;
    c->hup += signum == SIGHUP;
    if (signum == SIGTERM)
        kill(getpid(), SIGINT);
    else if (signum == SIGINT)
        kill(getpid(), SIGHUP);
    if (signum == SIGHUP) {
        signals_free(c->s); /* from within its own callback */
        loop_stop(c->l);
    }
}

static void test_signals(void **state) {
    struct caught c = {.l = make()};

    assert_int_equal(signals_new(c.l, on_signal, &c, &c.s), 0);
    assert_int_equal(loop_start(c.l), 0);
    kill(getpid(), SIGTERM);
    loop_join(c.l);
    assert_int_equal(c.term, 1);
    assert_int_equal(c.intr, 1);
    assert_int_equal(c.hup, 1);
    assert_int_equal(c.wrong, 0);
    loop_free(c.l);
}

static void test_signals_without_memory(void **state) {
    struct caught c = {.l = make()};

    mem_fail_at(1);
    assert_int_equal(signals_new(c.l, on_signal, &c, &c.s), -ENOMEM);
    signals_free(NULL);
    loop_free(c.l);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_never_run),
        cmocka_unit_test(test_stopped_before_it_runs),
        cmocka_unit_test(test_order),
        cmocka_unit_test(test_stop_runs_what_got_in),
        cmocka_unit_test(test_post_from_post),
        cmocka_unit_test(test_is_mine),
        cmocka_unit_test(test_now),
        cmocka_unit_test(test_no_memory),
        cmocka_unit_test(test_post_against_stop),
        cmocka_unit_test(test_signals),
        cmocka_unit_test(test_signals_without_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
