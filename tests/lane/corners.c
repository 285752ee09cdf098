/*
 * lane-corners: outcomes and rows of a lane that chance (lane-attack) does not reach, one scene after the other against a real
 * PostgreSQL: what the retention floor and a CHECK refuse inside a group, STUCK, every kind of rider row in both forms, on its own
 * lane and on an adopted one, across a lost answer, and memory that runs out at any allocation.
 */
#include "rig.h"
#include "tap.h"

#include "base/clock.h"
#include "base/log.h"

static struct rig rig;

static void report(const char *name) {
    tap_report(name);
    rig_clear(&rig);
}

static const char *id_of(const struct call *c) {
    static char text[4][UUID_TEXT];
    static unsigned turn;
    turn = (turn + 1) % 4;
    uuid_format(&c->id, text[turn]);
    return text[turn];
}

static void run_calls(int from) {
    rig_submit(&rig, from);
    EXPECT(rig_wait_done(&rig));
}

static void expect_stored(const struct call *c) {
    EXPECT(c->outcome == OP_OK);
    EXPECT(rig_sql(&rig, "SELECT count(*) FROM message WHERE tx = '%s'", id_of(c)) ==
           (c->op.kind == OP_PUBLISH ? 2 : 1));
}

/* --- refused inside a group --- */

static void go_exact(struct rig *r) {
    r->lane->exact_until_ns = clock_mono_ns() + WAIT_S * NS_PER_S;
}

/* Ids below the floor are refused by the lane row itself; the rest of the group goes through. */
static void past_retention(bool exact) {
    rig_call(&rig, OP_PREPARE, -1, 0);
    run_calls(0);
    rig_settle(&rig);
    struct call *confirm = rig_call(&rig, OP_CONFIRM, 0, 0), *prepare = rig_call(&rig, OP_PREPARE, 0, 0);
    struct call *other = rig_call(&rig, OP_PUBLISH, -1, 0), *twin = rig_call(&rig, OP_PUBLISH, -1, 0);
    const struct call *lower = uuid_cmp(&other->id, &twin->id) < 0 ? other : twin; /* the floor itself is above it */
    rig_sql(&rig, "UPDATE cfg SET floor = '%s'", id_of(lower));
    if (exact)
        rig_on_loop(&rig, go_exact);
    run_calls(1);
    EXPECT(confirm->outcome == OP_PAST_RETENTION && prepare->outcome == OP_PAST_RETENTION);
    expect_stored(other);
    expect_stored(twin);
    EXPECT(rig_sql(&rig, "SELECT count(*) FROM decision WHERE tx = '%s'", id_of(confirm)) == 0);
    rig_sql(&rig, "UPDATE cfg SET floor = '00000000-0000-0000-0000-000000000000'");
    struct call *later = rig_call(&rig, OP_CONFIRM, 0, 0);
    run_calls(5);
    EXPECT(later->outcome == OP_OK && later->state == TX_CONFIRMED);
    report(exact ? "exact: ids below the floor" : "ids below the floor");
}

/* A value that a CHECK refuses (23514; the schema has none on hot tables, somebody may add one) harms its own operation only. */
static void refused_by_check(void) {
    rig_call(&rig, OP_PREPARE, -1, 0);
    run_calls(0);
    rig_settle(&rig);
    struct call *before = rig_call(&rig, OP_PUBLISH, -1, 0), *wrong = rig_call(&rig, OP_CONFIRM, 0, 0),
                *after = rig_call(&rig, OP_PUBLISH, -1, 0);
    wrong->op.origin = (enum tx_origin)7;
    rig_sql(&rig, "ALTER TABLE decision ADD CONSTRAINT decision_origin_check CHECK (origin < 7)");
    run_calls(1);
    EXPECT(wrong->outcome == OP_REFUSED && strstr(wrong->op.why, "decision_origin_check"));
    expect_stored(before);
    expect_stored(after);
    EXPECT(rig_sql(&rig, "SELECT count(*) FROM decision WHERE tx = '%s'", id_of(wrong)) == 0);
    rig_sql(&rig, "ALTER TABLE decision DROP CONSTRAINT decision_origin_check");
    report("refused by a CHECK");
}

/* --- riders --- */

static bool ridden(struct rig *r) {
    return !r->ride && !r->riding;
}

static void ride(void (*collect)(struct rig *r, struct lane_batch *b)) {
    rig.collect = collect;
    rig.ride = true;
    rig_submit(&rig, rig.calls_n);
    EXPECT(rig_wait(&rig, ridden));
}

/* The same, while the answer of the commit is lost. */
static void ride_lost_answer(void (*collect)(struct rig *r, struct lane_batch *b)) {
    int rides = rig.rides;
    rig_settle(&rig);
    wire_arm(rig.wire, "lane_row", WIRE_BEFORE_ANSWER);
    rig.collect = collect;
    rig.ride = true;
    rig_submit(&rig, rig.calls_n);
    int id = wire_wait(rig.wire, WAIT_S);
    EXPECT(id >= 0);
    wire_cut(rig.wire, MAX(id, 0));
    EXPECT(rig_wait(&rig, ridden) && rig.rides == rides + 1);
}

static void add_check(struct rig *r, struct lane_batch *b) {
    EXPECT(lane_add_check(b, &r->calls[0].id, "shop", 1000000) == 0);
}

static struct check_finish ending;
static void end_check(struct rig *r, struct lane_batch *b) {
    ending.tx = r->calls[0].id;
    EXPECT(lane_add_check_finish(b, &ending) == 0);
}

#define CHECK_ROW "SELECT %s FROM check_due WHERE tx = '%s'"

static void checks(void) {
    struct call *tx = rig_call(&rig, OP_PREPARE, -1, 0);
    run_calls(0);
    ride(add_check);
    ride_lost_answer(add_check); /* DO NOTHING */
    EXPECT(rig_sql(&rig, CHECK_ROW, "count(*)", id_of(tx)) == 1);
    rig_sql(&rig, "UPDATE check_due SET token = 5 WHERE tx = '%s'", id_of(tx));
    int stale = rig.rides_stale;
    ending = (struct check_finish){.token = 4, .unknowns = 9, .last_error = "late"};
    ride(end_check);
    EXPECT(rig.rides_stale == stale + 1 && rig_sql(&rig, CHECK_ROW, "unknowns", id_of(tx)) == 0);
    ending =
        (struct check_finish){.token = 5, .due_in_ms = 60000, .unknowns = 3, .failures = 2, .last_error = "no answer"};
    ride_lost_answer(end_check);
    EXPECT(rig_sql(&rig, CHECK_ROW, "unknowns * 10 + failures", id_of(tx)) == 32);
    ending = (struct check_finish){.token = 5, .unknowns = 15, .stuck = true};
    ride(end_check);
    EXPECT(rig.rides_stale == stale + 1 && rig_sql(&rig, CHECK_ROW, "state", id_of(tx)) == 1);
    struct call *repeat = rig_call(&rig, OP_PREPARE, 0, 0); /* reads back what it met */
    run_calls(1);
    EXPECT(repeat->outcome == OP_OK && repeat->state == TX_STUCK);
    struct call *late = rig_call(&rig, OP_CONFIRM, 0, 0);
    run_calls(2);
    EXPECT(late->outcome == OP_OK && late->state == TX_CONFIRMED);
    ending = (struct check_finish){.token = 5, .remove = true};
    ride(end_check);
    EXPECT(rig_sql(&rig, CHECK_ROW, "count(*)", id_of(tx)) == 0);
    report("checks: due, stale token, again, STUCK, decided late, gone");
}

static void add_spills(struct rig *r, struct lane_batch *b) {
    struct spill s = {
        .sub = 7, .tx = r->calls[0].id, .due_in_ms = 60000, .lane = 1, .seq = 1, .attempt = 1, .error = "500"};
    EXPECT(lane_add_spill(b, &s) == 0);
    s = (struct spill){.sub = 7, .tx = r->calls[0].id, .n = 1, .attempt = 1, .error = "\xff rejected", .dead = true};
    EXPECT(lane_add_spill(b, &s) == 0);
}

static void end_spilled(struct rig *r, struct lane_batch *b) {
    const struct delivery_finish f = {.sub = 7,
                                      .tx = r->calls[0].id,
                                      .token = 3,
                                      .end = DELIVERY_RETRY,
                                      .due_in_ms = 60000,
                                      .attempt = 2,
                                      .error = "503"};
    EXPECT(lane_add_delivery_finish(b, &f) == 0);
}

static void kill_spilled(struct rig *r, struct lane_batch *b) {
    struct delivery_finish f = {
        .sub = 7, .tx = r->calls[0].id, .token = 3, .end = DELIVERY_DEAD, .attempt = 3, .error = "410 gone"};
    EXPECT(lane_add_delivery_finish(b, &f) == 0);
    f = (struct delivery_finish){.sub = 7, .tx = r->calls[0].id, .n = 1, .token = 3, .end = DELIVERY_DISCARDED};
    EXPECT(lane_add_delivery_finish(b, &f) == 0); /* has no row: stale */
}

#define COUNTED                                                                                                        \
    "SELECT coalesce(sum(sub_cnt[i + %d]), 0) FROM lane_log, generate_series(1, coalesce(array_length(sub_cnt, 1), "   \
    "0), 5) i"                                                                                                         \
    " WHERE sub_cnt[i] = 7"
enum { COUNT_DEAD = 2, COUNT_DISCARDED = 3 };

static void deliveries(bool adopted) {
    struct call *tx = rig_call(&rig, OP_PUBLISH, -1, 0);
    run_calls(0);
    if (adopted)
        rig_lane(&rig, true);
    const char *id = id_of(tx);
    long dead = rig_sql(&rig, COUNTED, COUNT_DEAD), discarded = rig_sql(&rig, COUNTED, COUNT_DISCARDED);
    ride_lost_answer(add_spills);
    EXPECT(rig_sql(&rig, "SELECT count(*) FROM delivery_due WHERE tx = '%s' AND attempt = 1", id) == 1);
    EXPECT(rig_sql(&rig,
                   "SELECT count(*) FROM dead_letter WHERE tx = '%s' AND n = 1 AND error = '? rejected'"
                   " AND body = 'the second' AND producer = 'shop'",
                   id) == 1);
    EXPECT(rig_sql(&rig, "SELECT count(*) FROM attempt WHERE tx = '%s'", id) == 2);
    EXPECT(rig_sql(&rig, COUNTED, COUNT_DEAD) == dead + 1);
    rig_sql(&rig, "UPDATE delivery_due SET token = 3 WHERE tx = '%s'", id);
    ride_lost_answer(end_spilled);
    EXPECT(rig_sql(&rig, "SELECT attempt FROM delivery_due WHERE tx = '%s'", id) == 2);
    int stale = rig.rides_stale;
    ride(kill_spilled); /* divides by zero, then goes in the exact form */
    EXPECT(rig.rides_stale == stale + 1);
    EXPECT(rig_sql(&rig, "SELECT count(*) FROM delivery_due WHERE tx = '%s'", id) == 0);
    EXPECT(rig_sql(&rig, "SELECT attempts FROM dead_letter WHERE tx = '%s' AND n = 0", id) == 3);
    EXPECT(rig_sql(&rig, COUNTED, COUNT_DEAD) == dead + 2 && rig_sql(&rig, COUNTED, COUNT_DISCARDED) == discarded);
    if (adopted) {
        EXPECT(rig_sql(&rig, "SELECT count(*) FROM lane_log WHERE lane = %d AND kind = 'P'", rig.number) == 3);
        rig_lane(&rig, false);
    }
    report(adopted ? "adopted: deliveries spilled, again, dead, stale token"
                   : "deliveries spilled, again, dead, stale token");
}

/* --- memory --- */

static uint64_t fail_at;
static void fail(struct rig *r) {
    UNUSED(r);
    mem_fail_at(fail_at);
}

static bool kept(enum op_outcome o) {
    return o == OP_OK || o == OP_OUTCOME_UNKNOWN || o == OP_UNAVAILABLE || o == OP_SHUTDOWN;
}

static void try_spill(struct rig *r, struct lane_batch *b) {
    const struct spill s = {.sub = 8, .tx = r->calls[0].id, .due_in_ms = 60000, .attempt = 1, .error = "500"};
    (void)!lane_add_spill(b, &s); /* LANE_FULL when memory is out */
}

/* Whichever allocation fails: each operation ends once, the lane lives on, and a repeat under the same id ends well. */
static void out_of_memory(void) {
    uint64_t at = 0; /* the last one that went well */
    for (fail_at = 1; fail_at <= 80; fail_at++) {
        rig_call(&rig, OP_PREPARE, -1, 0);
        run_calls(0);
        rig_settle(&rig);
        rig_call(&rig, OP_PREPARE, 0, 20000);
        rig_call(&rig, OP_PUBLISH, -1, 20000);
        rig.collect = try_spill;
        rig.ride = fail_at % 2;
        rig_on_loop(&rig, fail);
        run_calls(1);
        rig.collect = NULL;
        rig.ride = false;
        EXPECT(kept(rig.calls[1].outcome) && kept(rig.calls[2].outcome));
        rig_settle(&rig);
        struct call *repeat = rig_call(&rig, OP_PUBLISH, 2, 0);
        run_calls(3);
        expect_stored(repeat);
        EXPECT(rig_sql(&rig, "SELECT count(*) FROM lane_log WHERE '%s' = ANY (conf)", id_of(repeat)) == 1);
        if (tap_good)
            at = fail_at;
        else if (at + 1 == fail_at)
            printf("# at allocation %llu\n", (unsigned long long)fail_at);
        rig_clear(&rig);
    }
    fail_at = 0;
    rig_on_loop(&rig, fail);
    report("out of memory at every allocation");
}

int main(int argc, char **argv) {
    if (argc != 2) {
        fprintf(stderr, "usage: lane-corners DSN\n");
        return 2;
    }
    log_set_level(getenv("LANE_LOG") ? LOG_LEVEL_INFO : LOG_LEVEL_ERROR);
    if (rig_start(&rig, argv[1]) < 0)
        return 2;
    past_retention(false);
    past_retention(true);
    refused_by_check();
    checks();
    deliveries(false);
    deliveries(true);
    out_of_memory();
    rig_stop(&rig);
    return tap_end();
}
