/* A mailbox: nothing lost, nothing twice, in order, bounded, and closed against running senders. */
#include "base/mem.h"
#include "loop/loop.h"

#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <cmocka.h>

struct item {
    struct list link;
    int sender, number;
};

enum { SENDERS = 3, EACH = 20000 };

struct office {
    struct loop *l;
    struct mailbox *m;
    size_t max;
    int calls, received, last[SENDERS], wrong, expected;
    bool close_inside;
};

static void stop(void *arg) {
    loop_stop(arg);
}

static void take(void *arg, struct list *items) {
    struct office *o = arg;
    struct list *e;
    size_t n = 0;

    o->calls++;
    o->wrong += !loop_is_mine(o->l) || list_empty(items);
    while ((e = list_pop(items))) {
        struct item *i = LIST_ENTRY(e, struct item, link);
        o->wrong += i->number != ++o->last[i->sender]; /* each sender's items in order */
        o->received++;
        n++;
        mem_free(i);
    }
    o->wrong += n > o->max;
    if (o->close_inside) {
        mailbox_close(o->m);
        mailbox_free(o->m);
    }
    if (o->expected > 0 && o->received == o->expected) {
        mailbox_close(o->m);
        mailbox_free(o->m);
        loop_stop(o->l);
    }
}

static void office_open(struct office *o, size_t max) {
    *o = (struct office){.max = max};
    assert_int_equal(loop_new("office", &o->l), 0);
    assert_int_equal(mailbox_new(o->l, max, take, o, &o->m), 0);
}

static struct item *item_new(int sender, int number) {
    struct item *i = mem_zalloc(sizeof(*i));
    i->sender = sender;
    i->number = number;
    return i;
}

static void test_bound(void **state) {
    struct office o;
    struct item *i[4];

    office_open(&o, 3);
    for (int n = 0; n < 4; n++)
        i[n] = item_new(0, n + 1);
    assert_int_equal(mailbox_length(o.m), 0);
    for (int n = 0; n < 3; n++)
        assert_int_equal(mailbox_send(o.m, &i[n]->link), 0);
    assert_int_equal(mailbox_length(o.m), 3);
    assert_int_equal(mailbox_send(o.m, &i[3]->link), 1); /* still ours */
    uv_run(loop_uv(o.l), UV_RUN_NOWAIT);
    assert_int_equal(o.received, 3);
    assert_int_equal(o.calls, 1); /* the wakes have coalesced */
    assert_int_equal(mailbox_length(o.m), 0);
    assert_int_equal(mailbox_send(o.m, &i[3]->link), 0); /* received items do not count */
    uv_run(loop_uv(o.l), UV_RUN_NOWAIT);
    assert_int_equal(o.received, 4);
    assert_int_equal(o.wrong, 0);
    mailbox_close(o.m);
    mailbox_free(o.m);
    loop_free(o.l);
}

/* Puts items of these numbers; what did not fit comes back. */
static int put(struct office *o, int from, int to) {
    struct list items = LIST_INIT(items), *e;
    int left = 0;

    for (int n = from; n <= to; n++)
        list_add_tail(&items, &item_new(0, n)->link);
    mailbox_put_all(o->m, &items);
    for (; (e = list_pop(&items)); left++)
        mem_free(LIST_ENTRY(e, struct item, link));
    return left;
}

/* What is put waits for a wake, anybody's. */
static void test_put(void **state) {
    struct office o;

    office_open(&o, 3);
    mailbox_wake(o.m); /* nothing is in it */
    assert_int_equal(put(&o, 1, 2), 0);
    uv_run(loop_uv(o.l), UV_RUN_NOWAIT);
    assert_int_equal(o.calls, 0);
    mailbox_wake(o.m);
    mailbox_wake(o.m);
    uv_run(loop_uv(o.l), UV_RUN_NOWAIT);
    assert_int_equal(o.calls, 1);
    assert_int_equal(o.received, 2);
    assert_int_equal(put(&o, 3, 3), 0);
    assert_int_equal(mailbox_send(o.m, &item_new(0, 4)->link), 0);
    uv_run(loop_uv(o.l), UV_RUN_NOWAIT);
    assert_int_equal(o.received, 4);
    assert_int_equal(put(&o, 5, 9), 2); /* the head of them is in, as far as the bound */
    mailbox_close(o.m);                 /* delivers it */
    mailbox_wake(o.m);                  /* harmless */
    assert_int_equal(o.received, 7);
    assert_int_equal(put(&o, 8, 9), 2); /* it is closed */
    assert_int_equal(o.wrong, 0);
    mailbox_free(o.m);
    loop_free(o.l);
}

static void test_close_delivers(void **state) {
    struct office o;
    struct item *late = item_new(0, 3);

    office_open(&o, 10);
    assert_int_equal(mailbox_send(o.m, &item_new(0, 1)->link), 0);
    assert_int_equal(mailbox_send(o.m, &item_new(0, 2)->link), 0);
    mailbox_close(o.m);
    assert_int_equal(o.received, 2);
    assert_int_equal(o.calls, 1);
    assert_int_equal(mailbox_send(o.m, &late->link), 1);
    mailbox_close(o.m);
    uv_run(loop_uv(o.l), UV_RUN_NOWAIT); /* the handle is gone */
    assert_int_equal(mailbox_send(o.m, &late->link), 1);
    assert_int_equal(o.calls, 1);
    mem_free(late);
    mailbox_free(o.m);
    mailbox_free(NULL);
    loop_free(o.l);
}

static void test_free_inside_receive(void **state) {
    struct office o;

    office_open(&o, 10);
    o.close_inside = true;
    assert_int_equal(mailbox_send(o.m, &item_new(0, 1)->link), 0);
    loop_stop(o.l);
    assert_int_equal(loop_run(o.l), 0); /* ends, for the handle is closed */
    assert_int_equal(o.received, 1);
    loop_free(o.l);
}

static void test_refusals(void **state) {
    struct loop *l;
    struct mailbox *m = NULL;

    assert_int_equal(loop_new("x", &l), 0);
    assert_int_equal(mailbox_new(l, 0, take, NULL, &m), -EINVAL);
    mem_fail_at(1);
    assert_int_equal(mailbox_new(l, 1, take, NULL, &m), -ENOMEM);
    assert_null(m);
    loop_free(l);
}

struct sender {
    struct office *o;
    int me, sent, full;
    bool until_closed;
};

static void *send_each(void *arg) {
    struct sender *s = arg;

    for (int n = 1; n <= EACH; n++) {
        struct item *i = item_new(s->me, n);
        while (mailbox_send(s->o->m, &i->link) != 0) {
            s->full++;
            sched_yield(); /* the receiver makes room, or else the test's time limit ends it */
        }
        s->sent++;
    }
    return NULL;
}

/* The receiver closes and frees with the last item, so no sender touches the mailbox afterwards. */
static void test_many_senders(void **state) {
    const size_t bounds[] = {1, 64, SENDERS * EACH};

    for (size_t b = 0; b < ARRAY_LEN(bounds); b++) {
        struct office o;
        struct sender s[SENDERS];
        pthread_t threads[SENDERS];
        office_open(&o, bounds[b]);
        o.expected = SENDERS * EACH;
        assert_int_equal(loop_start(o.l), 0);
        for (int i = 0; i < SENDERS; i++) {
            s[i] = (struct sender){.o = &o, .me = i};
            assert_int_equal(pthread_create(&threads[i], NULL, send_each, &s[i]), 0);
        }
        for (int i = 0; i < SENDERS; i++)
            assert_int_equal(pthread_join(threads[i], NULL), 0);
        loop_join(o.l);
        assert_int_equal(o.received, SENDERS * EACH);
        assert_int_equal(o.wrong, 0);
        assert_true(o.calls <= o.received);
        loop_free(o.l);
    }
}

static void *send_until_closed(void *arg) {
    struct sender *s = arg;

    /* A bound that is never reached: 1 means closed. */
    for (int n = 1;; n++) {
        struct item *i = item_new(s->me, n);
        if (mailbox_send(s->o->m, &i->link) != 0) {
            mem_free(i);
            return NULL;
        }
        s->sent++;
    }
}

static void close_and_stop(void *arg) {
    struct office *o = arg;

    mailbox_close(o->m);
    loop_stop(o->l);
}

/* Every accepted item is received although the close comes in the middle of the sending. */
static void test_close_against_senders(void **state) {
    for (int round = 0; round < 20; round++) {
        struct office o;
        struct sender s[SENDERS];
        pthread_t threads[SENDERS];
        int sent = 0;
        office_open(&o, SIZE_MAX);
        assert_int_equal(loop_start(o.l), 0);
        for (int i = 0; i < SENDERS; i++) {
            s[i] = (struct sender){.o = &o, .me = i};
            assert_int_equal(pthread_create(&threads[i], NULL, send_until_closed, &s[i]), 0);
        }
        assert_int_equal(loop_post(o.l, close_and_stop, &o), 0);
        for (int i = 0; i < SENDERS; i++) {
            assert_int_equal(pthread_join(threads[i], NULL), 0);
            sent += s[i].sent;
        }
        loop_join(o.l);
        assert_int_equal(o.received, sent);
        assert_int_equal(o.wrong, 0);
        assert_int_equal(mailbox_length(o.m), 0);
        mailbox_free(o.m); /* after the loop has ended */
        loop_free(o.l);
    }
}

static void test_stop_keeps_open_mailboxes(void **state) {
    struct office o;

    office_open(&o, 10);
    o.expected = 1;
    assert_int_equal(loop_start(o.l), 0);
    assert_int_equal(loop_post(o.l, stop, o.l), 0);
    while (loop_post(o.l, stop, o.l) == 0)
        sched_yield();                                             /* until the stop is effective */
    assert_int_equal(mailbox_send(o.m, &item_new(0, 1)->link), 0); /* the loop still runs for its owners */
    loop_join(o.l);
    assert_int_equal(o.received, 1);
    loop_free(o.l);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bound),
        cmocka_unit_test(test_put),
        cmocka_unit_test(test_close_delivers),
        cmocka_unit_test(test_free_inside_receive),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_many_senders),
        cmocka_unit_test(test_close_against_senders),
        cmocka_unit_test(test_stop_keeps_open_mailboxes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
