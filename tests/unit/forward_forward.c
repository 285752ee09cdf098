/*
 * The forwarder against a store in memory (forward_fakes.h): whatever fails, is lost, taken over or reconfigured,
 * every message ends once in the books, and no cursor passes what is nowhere.
 */
#include "forward_fakes.h"

#include "base/log.h"
#include "base/metric.h"

static const char *const topics[] = {"a", "b", "c"};

/* Odd ids take "a", even ones "b". */
const char *fake_topic_of(int32_t sub) {
    return topics[(sub + 1) % 2];
}

struct bench {
    struct forward *f;
    struct lane *own, *adopted;
    struct forward_options o;
    struct timer *heart;
    int subs;              /* ids 1..subs */
    int32_t gone, changed; /* ids: left out; with another sink */
    bool drained;
};

static void turn(void) {
    uv_run(loop_uv(world->loop), UV_RUN_ONCE);
}

static bool tells; /* the producer wants to hear of deliveries */

/* So that a turn always ends. */
static void on_heart(void *arg) {
    struct bench *b = arg;
    timer_arm(b->heart, 1);
}

static struct topology *topology_of(const struct bench *b, int64_t epoch) {
    struct topology *t = topology_new(epoch);
    struct errmsg e = ERRMSG_NULL;
    char name[16], headers[40];

    CLEANUP_JSON json_t *topic = json_object();
    for (int i = 0; i < 2; i++)
        assert_int_equal(topology_add_topic(t, topics[i], topic, &e), 0);
    CLEANUP_JSON json_t *producer = json_pack("{s:{s:s}}", "outcomes", "delivered", tells ? "c" : "");
    assert_int_equal(topology_add_producer(t, "p", producer, &e), 0);
    for (int i = 1; i <= b->subs; i++) {
        if (i == b->gone)
            continue;
        snprintf(name, sizeof(name), "s%d", i);
        snprintf(headers, sizeof(headers), "%d", i);
        CLEANUP_JSON json_t *spec =
            json_pack("{s:s,s:{s:{}},s:{s:s,s:s,s:i},s:i}", "topic", fake_topic_of(i), "sink",
                      i == b->changed ? "log" : "discard", "retry", "initial", "10ms", "max", "20ms", "max_attempts",
                      i == 5 ? 3 : 1000, "concurrency", i == 4 ? 1 : 16);
        if (topology_add_sub(t, i, name, spec, &e) != 0)
            fail_msg("%s", e.text);
    }
    return t;
}

static void apply(struct bench *b) {
    static int64_t epoch;
    struct topology *t = topology_of(b, ++epoch);

    forward_topology(b->f, t);
    topology_unref(t);
}

static int spill_limit; /* of the next bench; 0 = the default */

static void start_wide(struct bench *b, int subs, int window) {
    world = mem_zalloc(sizeof(*world));
    *b = (struct bench){.subs = subs,
                        .o = {.tail_bytes = window > 64 ? 64 << 20 : 200000,
                              .read_bytes = 100000,
                              .window = window,
                              .retry_poll_ms = 5,
                              .spill_limit = spill_limit}};
    world->x = 88172645463325252ull;
    world->full_after = 400;
    assert_int_equal(loop_new("t", &world->loop), 0);
    world->store.o.progress_ms = 1;
    assert_int_equal(forward_new(world->loop, &world->store, NULL, NULL, &b->o, &b->f), 0);
    assert_int_equal(timer_new(world->loop, on_heart, b, &b->heart), 0);
    timer_arm(b->heart, 1);
    apply(b);
    b->own = fake_lane_open(b->f, 1);
}

static void start(struct bench *b, int subs) {
    start_wide(b, subs, 64);
}

static void on_drained(void *arg) {
    struct bench *b = arg;
    b->drained = true;
}

static void finish(struct bench *b) {
    forward_drain(b->f, on_drained, b);
    while (!b->drained)
        turn();
    if (b->own)
        forward_drop_lane(b->f, b->own->log->number);
    if (b->adopted)
        forward_drop_lane(b->f, b->adopted->log->number);
    if (b->own)
        fake_lane_free(b->own);
    if (b->adopted)
        fake_lane_free(b->adopted);
    forward_free(b->f);
    for (int i = 0; i < 20; i++) /* answers that are still under way */
        turn();
    timer_free(b->heart);
    for (uint32_t i = 0; i < world->tx_n; i++) {
        assert_int_equal(atomic_load(&world->tx[i]->refs), 1); /* nobody keeps one */
        tx_content_unref(world->tx[i]);
    }
    loop_free(world->loop);
    mem_free(world);
}

static void confirm_some(struct bench *b, uint32_t n) {
    const char *t[FAKE_N];

    for (uint32_t i = 0; i < n; i++) {
        uint32_t k = 1 + fake_random(FAKE_N);
        for (uint32_t m = 0; m < k; m++)
            t[m] = topics[fake_random(ARRAY_LEN(topics))];
        fake_confirm(b->own, t, k);
    }
}

static void settle(const struct bench *b) {
    for (int s = 1; s <= b->subs; s++)
        while (s != b->gone && !fake_settled(s, fake_topic_of(s)))
            turn();
}

/* Books: confirmed = delivered + dead + discarded, and each delivered one arrived. exact: once. */
static void check_books(const struct bench *b, bool exact) {
    for (int s = 1; s <= b->subs; s++) {
        const struct fake_sub *sub = &world->sub[s];
        int64_t due = 0, dead = 0, discarded = 0;
        if (s == b->gone)
            continue;
        for (uint32_t t = sub->starts_at_tx; t < world->tx_n; t++)
            for (uint32_t n = 0; n < world->tx[t]->messages_n; n++) {
                if (!bytes_eq_str(world->tx[t]->messages[n].topic, fake_topic_of(s)))
                    continue;
                due++;
                dead += world->fate[s][t][n] == FATE_DEAD;
                discarded += world->fate[s][t][n] == FATE_DISCARDED;
                assert_true(world->fate[s][t][n] == FATE_DEAD || world->fate[s][t][n] == FATE_DISCARDED ||
                            world->oks[s][t][n] > 0);
                assert_true(world->fate[s][t][n] != FATE_DISCARDED || world->tx[t]->messages[n].expire_at_us);
                assert_true(!exact || world->oks[s][t][n] <= 1);
                assert_true(world->told[s][t][n] <= tells);
            }
        if (sub->told != (tells ? sub->delivered : 0))
            fail_msg("subscription %d: %lld deliveries were recorded, %lld told of", s, (long long)sub->delivered,
                     (long long)sub->told);
        assert_int_equal(sub->delivered + sub->dead + sub->discarded, due);
        assert_int_equal(sub->dead, dead);
        assert_int_equal(sub->discarded, discarded);
    }
}

static int64_t possible_duplicates(void) {
    return metric_value(metric_get(metric_family(METRIC_COUNTER, "txmsg_possible_duplicates_total", "", "", 1)));
}

/* Every delivery that was made twice was announced as one that may be, and without a reason none was. */
static void check_duplicates(const struct bench *b, int64_t counted_before, bool none) {
    int64_t twice = 0, counted = possible_duplicates() - counted_before;

    for (int s = 1; s <= b->subs; s++)
        for (uint32_t t = 0; t < world->tx_n; t++)
            for (uint32_t n = 0; n < FAKE_N; n++)
                twice += MAX(world->oks[s][t][n] - 1, 0);
    assert_true(none ? twice == 0 && counted == 0 : twice > 0 && counted >= twice);
    assert_true(counted <= twice + 64 * b->subs); /* no more than what was under way besides */
}

/* Until the last records are committed: the books are written after the fact. */
static void records(struct bench *b) {
    int quiet = 0;

    while (quiet < 20) {
        turn();
        quiet = fake_lane_idle(b->own) && (!b->adopted || fake_lane_idle(b->adopted)) ? quiet + 1 : 0;
    }
}

static void test_healthy(void **state) {
    struct bench b;
    int64_t counted = possible_duplicates();

    start(&b, 6);
    for (int i = 0; i < 30; i++) {
        confirm_some(&b, 20);
        turn();
    }
    settle(&b);
    records(&b);
    check_books(&b, true);
    for (int s = 1; s <= b.subs; s++)
        assert_int_equal(world->sub[s].sends, world->sub[s].oks);
    assert_int_equal(world->sub[4].most, 1);
    check_duplicates(&b, counted, true);
    finish(&b);
}

static void failing_world(void) {
    world->full_after = 7;
    world->forget_percent = 20;
    world->refuse_percent = 3;
    for (int s = 1; s < FAKE_SUBS; s++)
        world->sub[s] = (struct fake_sub){.fail_percent = s == 5  ? 50
                                                          : s % 3 ? 20
                                                                  : 0,
                                          .reject_percent = s == 2 ? 5 : 0,
                                          .busy_percent = 5,
                                          .delay_ms = s == 3 ? 5 : 1};
}

static void test_failures(void **state) {
    struct bench b;

    start(&b, 6);
    failing_world();
    for (int i = 0; i < 20; i++) {
        confirm_some(&b, 20);
        turn();
    }
    settle(&b);
    records(&b);
    check_books(&b, true);
    assert_true(world->sub[1].spilled > 0 && world->sub[2].dead > 0 && world->sub[5].dead > 0);
    assert_int_equal(world->sub[3].spilled, 0);
    finish(&b);
}

/* deliver_at and expire_at, with failures, batches that are full and batches that are lost: none early, none nowhere. */
static void test_times(void **state) {
    struct bench b;
    int64_t discarded = 0, spilled = 0;

    start(&b, 6);
    failing_world();
    world->timed_percent = 40;
    for (int i = 0; i < 40; i++) {
        confirm_some(&b, 20);
        turn();
        if (i % 10 == 5 && b.own->in_flight)
            fake_lane_lose(b.own);
    }
    settle(&b);
    records(&b);
    check_books(&b, false);
    for (int s = 1; s <= b.subs; s++)
        discarded += world->sub[s].discarded, spilled += world->sub[s].spilled;
    assert_true(discarded > 0 && spilled > 0);
    world->timed_percent = 0;
    finish(&b);
}

/* What is delayed does not count as failed: ten times as many as park a cursor hold nobody up. */
static void test_delayed_do_not_park(void **state) {
    struct bench b;

    int rows = 0;

    spill_limit = 10;
    start(&b, 1);
    spill_limit = 0;
    world->timed_percent = 100;
    world->timed_ms = 1000;
    confirm_some(&b, 60);
    world->timed_percent = 0;
    world->sub[1].starts_at_tx = world->tx_n;
    confirm_some(&b, 200);
    settle(&b);
    for (uint32_t i = 0; i < 60 * FAKE_N; i++)
        rows += world->row[1][i / FAKE_N][i % FAKE_N].there;
    assert_true(rows > 10);
    world->sub[1].starts_at_tx = 0;
    settle(&b);
    records(&b);
    check_books(&b, true);
    finish(&b);
}

/* A worker that dies in the middle: another one goes on from what was committed. */
static void test_takeover(void **state) {
    struct bench b;

    start(&b, 6);
    failing_world();
    for (int s = 1; s <= 6; s++)
        world->sub[s].unknown_percent = 30;
    for (int i = 0; i < 20; i++) {
        confirm_some(&b, 20);
        turn();
    }
    while (world->sub[1].oks < 150)
        turn();
    for (uint32_t i = 0; i < b.own->queue_n; i++) /* they never were confirmed */
        for (int s = 1; s <= 6; s++)
            memset(world->fate[s][b.own->queue[i]], FATE_DEAD, FAKE_N);
    uint32_t never[FAKE_TX], never_n = 0;
    fake_lane_take_back(b.own);
    memcpy(never, b.own->queue, b.own->queue_n * sizeof(never[0]));
    never_n = b.own->queue_n;
    b.own->queue_n = 0;
    fake_riders_end(b.own, false, 0);
    forward_drop_lane(b.f, 1);
    forward_free(b.f);
    fake_lane_free(b.own);
    for (int i = 0; i < 20; i++)
        turn();
    fake_leases_end();

    b.own = NULL;
    assert_int_equal(forward_new(world->loop, &world->store, NULL, NULL, &b.o, &b.f), 0);
    apply(&b);
    b.own = fake_lane_open(b.f, 2);
    b.adopted = fake_lane_adopt(b.f, 1);
    memcpy(b.own->queue, never, never_n * sizeof(never[0])); /* their callers repeat them */
    b.own->queue_n = never_n;
    for (int s = 1; s <= 6; s++)
        for (uint32_t i = 0; i < never_n; i++)
            memset(world->fate[s][never[i]], FATE_NONE, FAKE_N);
    confirm_some(&b, 50);
    settle(&b);
    while (!forward_lane_settled(b.f, 1))
        turn();
    records(&b);
    check_books(&b, false);
    for (int s = 1; s <= 6; s++)
        assert_true(world->log[0].pos[s].seq > world->log[0].entries[world->log[0].entries_n - 1].seq);
    finish(&b);
}

/* The lane refuses a batch and lives on: what it had passed is delivered again, nothing is skipped. */
static void test_lost_batch(void **state) {
    struct bench b;
    int64_t counted = possible_duplicates();

    start(&b, 3);
    world->sub[1].fail_percent = 30;
    confirm_some(&b, 300);
    while (world->sub[2].oks < 50 || !b.own->in_flight || !b.own->b.adds_n)
        turn();
    fake_lane_lose(b.own);
    settle(&b);
    records(&b);
    check_books(&b, false);
    check_duplicates(&b, counted, false);
    finish(&b);
}

/* Fenced: the lane's memory goes, its deliveries come back to nobody, the next lane serves. */
static void test_fenced(void **state) {
    struct bench b;
    int64_t counted = possible_duplicates();

    start(&b, 3);
    world->sub[1].delay_ms = 20;
    confirm_some(&b, 300);
    while (world->sub[2].oks < 50)
        turn();
    fake_lane_fence(b.own);
    struct lane *old = b.own;
    b.own = fake_lane_open(b.f, 2);
    memcpy(b.own->queue, old->queue, old->queue_n * sizeof(old->queue[0]));
    b.own->queue_n = old->queue_n;
    fake_lane_free(old);
    b.adopted = fake_lane_adopt(b.f, 1);
    settle(&b);
    records(&b);
    check_books(&b, false);
    check_duplicates(&b, counted, false);
    finish(&b);
}

/* A dead and a slow subscription stay behind, the others do not notice; then they catch up from the log. */
static void test_isolation(void **state) {
    struct bench b;

    start(&b, 5);
    world->sub[1].down = true;
    world->sub[4].delay_ms = 3; /* concurrency 1 */
    for (int i = 0; i < 40; i++) {
        confirm_some(&b, 20);
        turn();
    }
    while (!fake_settled(3, "a") || !fake_settled(2, "b"))
        turn();
    assert_false(fake_settled(1, "a"));
    assert_true(world->sub[1].sends < 16 + 16 + 20); /* parked: what was in flight, and few probes */
    assert_false(fake_settled(4, "b"));
    world->sub[1].down = false;
    world->sub[4].delay_ms = 0;
    settle(&b);
    records(&b);
    check_books(&b, true);
    assert_true(world->log_reads > 0); /* it had fallen off the ring */
    finish(&b);
}

/* The store cannot commit: at most so much is delivered without a record. */
static void test_unrecorded(void **state) {
    struct bench b;

    start_wide(&b, 1, 4096);
    confirm_some(&b, 4000);
    forward_allow(b.f, false); /* until there is more than may be delivered */
    while (b.own->queue_n || b.own->in_flight)
        turn();
    world->store_away = true;
    forward_allow(b.f, true);
    for (uint32_t quiet = 0, sends = 0; quiet < 100; quiet++, turn())
        if (sends != world->sub[1].sends) {
            sends = world->sub[1].sends;
            quiet = 0;
        }
    assert_int_equal(world->sub[1].delivered, 0);
    assert_true(world->sub[1].sends >= 1000 && world->sub[1].sends <= 1000 + 16);
    world->store_away = false;
    settle(&b);
    records(&b);
    check_books(&b, true);
    finish(&b);
}

/* Subscriptions come (from now, from the beginning), go, and change their sink while everything flows. */
static void test_topology(void **state) {
    struct bench b;

    log_set_level(LOG_LEVEL_ERROR);
    start(&b, 3);
    world->sub[1].delay_ms = 10;
    confirm_some(&b, 400);
    while (world->sub[2].oks < 100)
        turn();
    while (b.own->queue_n || b.own->in_flight)
        turn();
    b.subs = 5; /* 4 from now, 5 from the beginning */
    world->sub[4].starts_at_tx = world->tx_n;
    world->log[0].vector[4] = world->log[0].pos[4] = (struct lane_pos){.seq = b.own->log->next_seq};
    apply(&b);
    confirm_some(&b, 200);
    while (world->sub[4].oks < 20)
        turn();
    b.gone = 3;
    world->sub[3].vanished = true;
    apply(&b);
    b.changed = 1; /* its deliveries come back and go to the new sink */
    apply(&b);
    uint32_t sends = world->sub[3].sends;
    confirm_some(&b, 100);
    turn();
    b.changed = 0;
    apply(&b);
    settle(&b);
    records(&b);
    check_books(&b, false);
    assert_int_equal(world->sub[3].sends, sends);
    for (uint32_t t = 0; t < world->sub[4].starts_at_tx; t++)
        for (int n = 0; n < FAKE_N; n++)
            assert_int_equal(world->oks[4][t][n], 0);
    finish(&b);
}

/* Not alive: nothing is started. */
static void test_not_allowed(void **state) {
    struct bench b;

    start(&b, 2);
    forward_allow(b.f, false);
    confirm_some(&b, 50);
    for (int i = 0; i < 100; i++)
        turn();
    assert_int_equal(world->sub[1].sends + world->sub[2].sends, 0);
    forward_allow(b.f, true);
    settle(&b);
    records(&b);
    check_books(&b, true);
    finish(&b);
}

/* Cursors that have nothing to record are written again all the same. */
static void test_rewrite(void **state) {
    static const char *const only[] = {"a"};
    struct bench b;

    start(&b, 2);
    for (int i = 0; i < 2500; i++) {
        fake_confirm(b.own, only, 1);
        if (!b.own->in_flight)
            fake_form(b.own);
        fake_commit(b.own);
        if (i % 16 == 0)
            turn();
    }
    settle(&b);
    assert_true(b.own->log->next_seq > 2500);
    assert_true(b.own->log->written[2] > 1500); /* topic "b" saw nothing */
    finish(&b);
}

/* Out of the snapshot for long, and back: it goes on where it was. */
static void test_rest(void **state) {
    static const char *const both[] = {"a", "b"};
    struct bench b;

    start(&b, 2);
    confirm_some(&b, 100);
    settle(&b);
    records(&b);
    b.gone = 2;
    apply(&b);
    uint32_t sends = world->sub[2].sends;
    for (int i = 0; i < 2600; i++) {
        fake_confirm(b.own, both, 2);
        if (!b.own->in_flight)
            fake_form(b.own);
        fake_commit(b.own); /* checks that its position is written again and again */
        if (i % 16 == 0)
            turn();
    }
    assert_int_equal(world->sub[2].sends, sends);
    b.gone = 0;
    apply(&b);
    settle(&b);
    records(&b);
    check_books(&b, true);
    finish(&b);
}

static int tell(void **state) {
    tells = true;
    return 0;
}

static int tell_nobody(void **state) {
    tells = false;
    return 0;
}

/* While events are published too slowly, no delivery is started that makes one; then all go on. */
static void test_telling_late(void **state) {
    struct bench b;

    start(&b, 2);
    forward_telling_late(b.f, true);
    confirm_some(&b, 50);
    while (b.own->queue_n || b.own->in_flight)
        turn();
    for (int i = 0; i < 50; i++)
        turn();
    assert_int_equal(world->sub[1].sends + world->sub[2].sends, 0);
    forward_telling_late(b.f, false);
    settle(&b);
    records(&b);
    check_books(&b, true);
    finish(&b);
}

/* The same test in a world where the producer is told of deliveries. */
#define TOLD_TEST(fn)                                                                                                  \
    { #fn ", told", fn, tell, tell_nobody, NULL }

int main(void) {
    log_set_level(LOG_LEVEL_ERROR);
    const struct CMUnitTest tests[] = {
        TOLD_TEST(test_healthy),
        TOLD_TEST(test_failures),
        TOLD_TEST(test_takeover),
        TOLD_TEST(test_lost_batch),
        TOLD_TEST(test_fenced),
        TOLD_TEST(test_isolation),
        TOLD_TEST(test_unrecorded),
        TOLD_TEST(test_rewrite),
        TOLD_TEST(test_times),
        TOLD_TEST(test_telling_late),
        cmocka_unit_test(test_healthy),
        cmocka_unit_test(test_failures),
        cmocka_unit_test(test_takeover),
        cmocka_unit_test(test_lost_batch),
        cmocka_unit_test(test_fenced),
        cmocka_unit_test(test_isolation),
        cmocka_unit_test(test_unrecorded),
        cmocka_unit_test(test_topology),
        cmocka_unit_test(test_not_allowed),
        cmocka_unit_test(test_rewrite),
        cmocka_unit_test(test_rest),
        cmocka_unit_test(test_times),
        cmocka_unit_test(test_delayed_do_not_park),
    };
    return cmocka_run_group_tests_name("forward_forward", tests, NULL, NULL);
}
