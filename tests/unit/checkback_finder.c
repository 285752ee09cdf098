/*
 * The finder against a lane and a reader in the test's hand: rows and cursors travel in such an order that no crash
 * loses a row, and little is written when there is little to say.
 */
#include "checkback/finder.h"

#include "checkback_fakes.h"

enum { POLL_MS = 1, LANE = 7 };

static struct {
    struct loop *loop;
    struct reader reader;
    struct lane lane;
    struct age age;
    struct finder *finder;
} t;

static int setup(void **state) {
    memset(&t, 0, sizeof(t));
    fake_lane_init(&t.lane, LANE);
    age_open(&t.age);
    assert_int_equal(loop_new("test", &t.loop), 0);
    assert_int_equal(finder_new(t.loop, &t.reader, &t.age, POLL_MS, &t.finder), 0);
    return 0;
}

static int teardown(void **state) {
    finder_free(t.finder);
    fake_reader_end(&t.reader);
    age_close(&t.age);
    loop_free(t.loop);
    assert_true(list_empty(&t.lane.riders));
    return 0;
}

/* Until the finder reads entries. */
static void wait_read(void) {
    while (!t.reader.undecided.fn)
        uv_run(loop_uv(t.loop), UV_RUN_ONCE);
}

static struct uuid id_of(int seq, int i) {
    struct uuid u;

    uuid_v7_floor(1750000000000 + seq, &u);
    u.b[14] = (uint8_t)(i >> 8);
    u.b[15] = (uint8_t)i;
    return u;
}

/* Answers the read under way with `n` undecided ones and the next cursor. */
static void answer(int code, int n, int32_t next_seq) {
    static struct undecided rows[FAKE_MAX];
    reader_undecided_fn *fn = TAKE(t.reader.undecided.fn);

    for (int i = 0; i < n; i++)
        rows[i] = (struct undecided){id_of(next_seq, i), i % 3 ? "shop" : "bank", 1750000000000000 + i};
    fn(t.reader.undecided.arg, code, rows, (size_t)n, (struct lane_pos){next_seq, 0});
    memset(rows, 0, sizeof(rows)); /* they are the reader's */
}

/* The next read of this class; those of other classes find nothing. */
static void answer_class(int cls, int n, int32_t passed) {
    for (;;) {
        wait_read();
        if (t.reader.undecided.cls == cls)
            break;
        answer(0, 0, t.reader.undecided.pos.seq);
    }
    answer(0, n, t.reader.undecided.pos.seq + passed);
}

static void answer_cursors(const struct cursor *c, size_t n, int32_t max_seq) {
    while (!t.reader.cursors.fn)
        uv_run(loop_uv(t.loop), UV_RUN_ONCE);
    reader_cursors_fn *fn = TAKE(t.reader.cursors.fn);
    fn(t.reader.cursors.arg, 0, c, n, max_seq);
}

static void test_rows_and_cursor_together(void **state) {
    assert_int_equal(finder_lane(t.finder, &t.lane, LANE, false), 0);
    wait_read();
    assert_int_equal(t.reader.undecided.lane, LANE);
    assert_int_equal(t.reader.undecided.pos.seq, 0);
    answer_class(1, 5, 3);
    assert_true(t.lane.kicks > 0);
    assert_true(fake_collect(&t.lane, 100));
    assert_int_equal(t.lane.b.checks_n, 5);
    assert_string_equal(t.lane.b.checks[0].producer, "bank");
    assert_string_equal(t.lane.b.checks[4].producer, "shop");
    assert_int_equal(t.lane.b.checks[4].due_us, 1750000000000004);
    assert_int_equal(fake_progress(&t.lane, LANE_TARGET_FINDER(1)), 3);
    assert_int_equal(t.lane.b.progress_n, 1);
    fake_end(&t.lane, true);
    do { /* goes on behind them */
        answer_class(0, 0, 0);
        wait_read();
    } while (t.reader.undecided.cls != 1);
    assert_int_equal(t.reader.undecided.pos.seq, 3);
    assert_false(fake_collect(&t.lane, 100));
}

static void test_full_batch(void **state) {
    assert_int_equal(finder_lane(t.finder, &t.lane, LANE, false), 0);
    answer_class(0, 5, 3);
    assert_true(fake_collect(&t.lane, 2));
    assert_int_equal(t.lane.b.checks_n, 2);
    assert_int_equal(t.lane.b.progress_n, 0);
    fake_end(&t.lane, true);
    assert_false(fake_collect(&t.lane, 0)); /* no room at all: nothing comes back */
    assert_true(fake_collect(&t.lane, 3));
    assert_int_equal(t.lane.b.checks_n, 3);
    assert_string_equal(t.lane.b.checks[0].producer, "shop"); /* the third */
    assert_int_equal(fake_progress(&t.lane, LANE_TARGET_FINDER(0)), 3);
    fake_end(&t.lane, true);
    assert_false(fake_collect(&t.lane, 100));
}

static void test_lost(void **state) {
    assert_int_equal(finder_lane(t.finder, &t.lane, LANE, false), 0);
    answer_class(0, 5, 3);
    assert_true(fake_collect(&t.lane, 100));
    fake_end(&t.lane, false);
    assert_false(fake_collect(&t.lane, 100));
    if (t.reader.undecided.fn) /* the read that was under way: the last one */
        answer(0, 3, 9);
    for (int i = 0; i < 5; i++)
        uv_run(loop_uv(t.loop), UV_RUN_NOWAIT);
    assert_null(t.reader.undecided.fn);
    assert_false(fake_collect(&t.lane, 100));
    finder_drop_lane(t.finder, LANE);
    t.lane.number = LANE + 1; /* the same lane object, opened again */
    assert_int_equal(finder_lane(t.finder, &t.lane, LANE + 1, false), 0);
    answer_class(0, 1, 2);
    assert_true(fake_collect(&t.lane, 100));
    assert_int_equal(t.lane.b.checks_n, 1);
    assert_int_equal(fake_progress(&t.lane, LANE_TARGET_FINDER(0)), 2);
}

/* Fenced with nothing of ours in the batch: nobody tells, but the number is another one. */
static void test_other_number(void **state) {
    assert_int_equal(finder_lane(t.finder, &t.lane, LANE, false), 0);
    answer_class(0, 5, 3);
    t.lane.number = LANE + 1;
    assert_false(fake_collect(&t.lane, 100));
}

static void test_idle_writes_little(void **state) {
    int32_t last = 0;

    assert_int_equal(finder_lane(t.finder, &t.lane, LANE, false), 0);
    for (int i = 0; i < 20; i++) {
        answer_class(0, 0, 10);
        assert_false(fake_collect(&t.lane, 100));
    }
    answer_class(0, 0, 400); /* far enough behind: it rides along */
    assert_true(fake_collect(&t.lane, 100));
    last = fake_progress(&t.lane, LANE_TARGET_FINDER(0));
    assert_int_equal(last, 600);
    fake_end(&t.lane, true);
    /* Cursors that stand still are written again from time to time, all of them. */
    int writes[DELAY_CLASSES] = {0};
    for (int i = 0; i < 3000; i++) {
        if (!fake_collect(&t.lane, 100))
            continue;
        for (int c = 0; c < DELAY_CLASSES; c++)
            writes[c] += fake_progress(&t.lane, LANE_TARGET_FINDER(c)) == (c == 0 ? 600 : 0);
        fake_end(&t.lane, true);
    }
    for (int c = 0; c < DELAY_CLASSES; c++)
        assert_in_range(writes[c], 3, 30);
}

static void test_adopted(void **state) {
    const struct cursor cursors[] = {
        {5, {40, 2}}, {LANE_TARGET_FINDER(0), {50, 0}}, {LANE_TARGET_FINDER(2), {90, 0}}, {-99, {1, 0}}};

    assert_int_equal(finder_lane(t.finder, &t.lane, LANE, true), 0);
    assert_int_equal(t.reader.cursors.lane, LANE);
    assert_false(finder_lane_settled(t.finder, LANE));
    assert_false(fake_collect(&t.lane, 100)); /* nothing before the cursors are known */
    answer_cursors(cursors, ARRAY_LEN(cursors), 89);
    int left[DELAY_CLASSES] = {50, 0, 90, 0};
    for (int seen = 0; seen < 3; seen++) {
        wait_read();
        int cls = t.reader.undecided.cls;
        assert_int_not_equal(cls, 2); /* it is past the end */
        assert_int_equal(t.reader.undecided.pos.seq, left[cls]);
        answer(0, cls == 3 ? 2 : 0, 90);
        assert_false(finder_lane_settled(t.finder, LANE));
    }
    assert_true(fake_collect(&t.lane, 1)); /* one row of class 3 does not fit */
    assert_int_equal(fake_progress(&t.lane, LANE_TARGET_FINDER(0)), 90);
    assert_int_equal(fake_progress(&t.lane, LANE_TARGET_FINDER(1)), 90);
    assert_int_equal(fake_progress(&t.lane, LANE_TARGET_FINDER(3)), -1);
    fake_end(&t.lane, true);
    assert_false(finder_lane_settled(t.finder, LANE));
    assert_true(fake_collect(&t.lane, 1));
    assert_int_equal(fake_progress(&t.lane, LANE_TARGET_FINDER(3)), 90);
    assert_false(finder_lane_settled(t.finder, LANE)); /* not durable yet */
    fake_end(&t.lane, true);
    assert_true(finder_lane_settled(t.finder, LANE));
    for (int i = 0; i < 5; i++)
        uv_run(loop_uv(t.loop), UV_RUN_NOWAIT);
    assert_null(t.reader.undecided.fn); /* nothing more to read */
    finder_drop_lane(t.finder, LANE);
    assert_false(finder_lane_settled(t.finder, LANE));
}

static void test_errors(void **state) {
    assert_int_equal(finder_lane(t.finder, &t.lane, LANE, false), 0);
    wait_read();
    int cls = t.reader.undecided.cls;
    answer(-EAGAIN, 0, 0);
    do { /* again, from the same place */
        answer_class(cls == 0 ? 1 : 0, 0, 0);
        wait_read();
    } while (t.reader.undecided.cls != cls);
    assert_int_equal(t.reader.undecided.pos.seq, 0);
}

static void test_not_allowed(void **state) {
    finder_allow(t.finder, false);
    assert_int_equal(finder_lane(t.finder, &t.lane, LANE, false), 0);
    for (int i = 0; i < 5; i++)
        uv_run(loop_uv(t.loop), UV_RUN_NOWAIT);
    assert_null(t.reader.undecided.fn);
    finder_allow(t.finder, true);
    wait_read();
}

static void test_freed_while_reading(void **state) {
    assert_int_equal(finder_lane(t.finder, &t.lane, LANE, false), 0);
    wait_read();
    finder_free(TAKE(t.finder));
    answer(0, 5, 3);
    finder_free(NULL);
}

/*
 * Random batches, sizes and losses: whenever a cursor is durable, so is every row before it; and after a loss a new
 * owner that begins with the durable cursor finds the rest.
 */
enum { SEQS = 400 };
struct model {
    bool listed[SEQS * 2]; /* by seq: its one undecided id is in the list */
    int32_t durable;
};

static void model_commit(struct model *m) {
    for (int i = 0; i < t.lane.b.checks_n; i++)
        m->listed[t.lane.b.checks[i].due_us] = true;
    m->durable = MAX(fake_progress(&t.lane, LANE_TARGET_FINDER(0)), m->durable);
    for (int32_t s = 0; s < m->durable; s++)
        assert_true(m->listed[s]);
}

static void model_read(unsigned *seed) {
    struct undecided rows[64];
    reader_undecided_fn *fn = TAKE(t.reader.undecided.fn);
    int32_t from = t.reader.undecided.pos.seq;
    int n = t.reader.undecided.cls == 0 ? MIN((int)(rand_r(seed) % 40), SEQS - from) : 0;

    for (int i = 0; i < n; i++)
        rows[i] = (struct undecided){id_of(from + i, 0), "shop", from + i};
    fn(t.reader.undecided.arg, 0, rows, (size_t)n, (struct lane_pos){from + n, 0});
}

static void test_random(void **state) {
    for (unsigned round = 1; round <= 30; round++) {
        struct model m = {.durable = 0};
        unsigned seed = round;

        assert_int_equal(finder_lane(t.finder, &t.lane, LANE, true), 0);
        answer_cursors(NULL, 0, SEQS - 1);
        while (m.durable < SEQS) {
            if (t.reader.undecided.fn && rand_r(&seed) % 2)
                model_read(&seed);
            if (rand_r(&seed) % 2 && fake_collect(&t.lane, (int)(rand_r(&seed) % 30))) {
                bool lost = rand_r(&seed) % 16 == 0;
                if (!lost)
                    model_commit(&m);
                fake_end(&t.lane, !lost);
                if (lost) {
                    finder_drop_lane(t.finder, LANE);
                    if (t.reader.undecided.fn)
                        model_read(&seed);
                    assert_int_equal(finder_lane(t.finder, &t.lane, LANE, true), 0);
                    struct cursor c = {LANE_TARGET_FINDER(0), {m.durable, 0}};
                    answer_cursors(&c, 1, SEQS - 1);
                }
            }
            uv_run(loop_uv(t.loop), UV_RUN_NOWAIT);
        }
        finder_drop_lane(t.finder, LANE);
        if (t.reader.undecided.fn)
            model_read(&seed);
    }
}

int main(void) {
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(test_rows_and_cursor_together), T(test_full_batch), T(test_lost),   T(test_other_number),
        T(test_idle_writes_little),       T(test_adopted),    T(test_errors), T(test_not_allowed),
        T(test_freed_while_reading),      T(test_random),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
