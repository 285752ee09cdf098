/*
 * The record of local transactions against a real PostgreSQL: local-tx DSN, of an empty database. Who waits for whom is
 * brought about with transactions held open, and seen in pg_blocking_pids(); the last test is by chance, with an oracle.
 */
#include "txmsg/local_tx.h"

#include "rig.h"

enum { DAY_S = 86400, LOCK_MS = 30000, RACE_IDS = 300 };

/* a: the local transaction, b: the check */
static char id[UUID_TEXT];

static void fresh(void) {
    rig_id(id, 0);
}

static enum txmsg_decision check_of(PGconn *db, const char *tx, int lock_ms) {
    enum txmsg_decision d;
    int r = txmsg_local_tx_check(db, tx, lock_ms, &d, &err);

    if (r != 0)
        fail_msg("check: %d %s %s", r, err.sqlstate, err.text);
    assert_int_equal(PQtransactionStatus(db), PQTRANS_IDLE);
    return d;
}

static void begin_recorded(PGconn *db, const char *tx) {
    rig_sql(db, "BEGIN");
    assert_int_equal(txmsg_local_tx_commit_record(db, tx, NULL), 0);
    rig_sql(db, "INSERT INTO work VALUES ('%s')", tx);
}

static long work_of(const char *tx) {
    return rig_number(watch, "SELECT count(*) FROM work WHERE id = '%s'", tx);
}

/* --- one after the other --- */

static void test_committed(void **state) {
    begin_recorded(a, id);
    rig_sql(a, "COMMIT");
    assert_int_equal(check_of(b, id, LOCK_MS), TXMSG_COMMITTED);
    assert_int_equal(check_of(b, id, LOCK_MS), TXMSG_COMMITTED);
}

static void test_rolled_back(void **state) {
    begin_recorded(a, id);
    rig_sql(a, "ROLLBACK");
    assert_int_equal(check_of(b, id, LOCK_MS), TXMSG_ROLLED_BACK);
}

/* The check came first: the local transaction must not commit any more. */
static void test_late_commit(void **state) {
    assert_int_equal(check_of(b, id, LOCK_MS), TXMSG_ROLLED_BACK);
    rig_sql(a, "BEGIN");
    rig_sql(a, "INSERT INTO work VALUES ('%s')", id);
    assert_int_equal(txmsg_local_tx_commit_record(a, id, &err), TXMSG_LOCAL_TX_TAKEN);
    assert_string_equal(err.sqlstate, "23505");
    rig_sql(a, "COMMIT"); /* which PostgreSQL turns into a rollback */
    assert_int_equal(work_of(id), 0);
    assert_int_equal(check_of(b, id, LOCK_MS), TXMSG_ROLLED_BACK);
}

static void test_same_id_twice(void **state) {
    begin_recorded(a, id);
    rig_sql(a, "COMMIT");
    rig_sql(a, "BEGIN");
    assert_int_equal(txmsg_local_tx_commit_record(a, id, NULL), TXMSG_LOCAL_TX_TAKEN);
    rig_sql(a, "ROLLBACK");
    assert_int_equal(check_of(b, id, LOCK_MS), TXMSG_COMMITTED);
}

/* --- at the same time --- */

static void test_still_running(void **state) {
    begin_recorded(a, id);
    assert_int_equal(check_of(b, id, 50), TXMSG_UNDECIDED);
    rig_sql(a, "COMMIT");
    assert_int_equal(check_of(b, id, LOCK_MS), TXMSG_COMMITTED);
}

struct waiting {
    PGconn *db;
    const char *id;
    enum txmsg_decision decision;
    int result;
};

static void *run_check(void *arg) {
    struct waiting *w = arg;

    w->result = txmsg_local_tx_check(w->db, w->id, LOCK_MS, &w->decision, NULL);
    return NULL;
}

static void *run_record(void *arg) {
    struct waiting *w = arg;

    w->result = txmsg_local_tx_commit_record(w->db, w->id, NULL);
    return NULL;
}

static void wait_for_local(const char *end, enum txmsg_decision expected) {
    struct waiting w = {.db = b, .id = id, .result = -1};

    begin_recorded(a, id);
    pthread_t t = rig_thread(run_check, &w);
    rig_wait_blocked(watch, PQbackendPID(b));
    rig_sql(a, "%s", end);
    rig_join(t);
    assert_int_equal(w.result, 0);
    assert_int_equal(w.decision, expected);
}

static void test_check_waits_for_commit(void **state) {
    wait_for_local("COMMIT", TXMSG_COMMITTED);
}

static void test_check_waits_for_rollback(void **state) {
    wait_for_local("ROLLBACK", TXMSG_ROLLED_BACK);
}

/* The check has written its row and not committed: the local transaction waits for that. */
static void wait_for_check(const char *end, int expected) {
    struct waiting w = {.db = a, .id = id, .result = -1};

    rig_sql(b, "BEGIN");
    rig_sql(b, "INSERT INTO txmsg_local_tx VALUES ('%s', 'ROLLED_BACK')", id);
    rig_sql(a, "BEGIN");
    pthread_t t = rig_thread(run_record, &w);
    rig_wait_blocked(watch, PQbackendPID(a));
    rig_sql(b, "%s", end);
    rig_join(t);
    assert_int_equal(w.result, expected);
    rig_sql(a, "COMMIT");
}

static void test_record_waits_for_commit(void **state) {
    wait_for_check("COMMIT", TXMSG_LOCAL_TX_TAKEN);
    assert_int_equal(check_of(b, id, LOCK_MS), TXMSG_ROLLED_BACK);
}

static void test_record_waits_for_rollback(void **state) {
    wait_for_check("ROLLBACK", 0);
    assert_int_equal(check_of(b, id, LOCK_MS), TXMSG_COMMITTED);
}

static void test_two_checks(void **state) {
    struct waiting one = {.db = a, .id = id}, two = {.db = b, .id = id};
    pthread_t t = rig_thread(run_check, &one), u = rig_thread(run_check, &two);

    rig_join(t);
    rig_join(u);
    assert_int_equal(one.result, 0);
    assert_int_equal(two.result, 0);
    assert_int_equal(one.decision, TXMSG_ROLLED_BACK);
    assert_int_equal(two.decision, TXMSG_ROLLED_BACK);
}

/* Whatever the session's default isolation is. */
static void test_serializable_session(void **state) {
    rig_sql(b, "SET default_transaction_isolation = 'serializable'");
    wait_for_local("COMMIT", TXMSG_COMMITTED);
}

/* --- failures --- */

static void test_lost_connection(void **state) {
    struct waiting w = {.db = b, .id = id, .decision = TXMSG_COMMITTED};

    begin_recorded(a, id);
    pthread_t t = rig_thread(run_check, &w);
    rig_wait_blocked(watch, PQbackendPID(b));
    rig_number(watch, "SELECT pg_terminate_backend(%d)::int", PQbackendPID(b));
    rig_join(t);
    assert_int_equal(w.result, TXMSG_ERROR_CONNECTION);
    assert_int_equal(w.decision, TXMSG_UNDECIDED);
    assert_int_equal(txmsg_local_tx_check(b, id, LOCK_MS, &w.decision, &err), TXMSG_ERROR_CONNECTION);
    rig_sql(a, "COMMIT");
    assert_int_equal(check_of(watch, id, LOCK_MS), TXMSG_COMMITTED);
}

static void test_misuse(void **state) {
    static const char *const bad[] = {NULL,
                                      "",
                                      "not an id",
                                      "019b76da-0000-7000-8000-00000000000g",
                                      "019b76da-0000-4000-8000-000000000001",
                                      "019b76da00007000800000000000000100000"};
    enum txmsg_decision d = TXMSG_COMMITTED;
    int n;

    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        assert_int_equal(txmsg_local_tx_check(b, bad[i], LOCK_MS, &d, &err), TXMSG_ERROR_INVALID);
    assert_int_equal(d, TXMSG_UNDECIDED);
    assert_int_equal(txmsg_local_tx_check(b, id, 0, &d, NULL), TXMSG_ERROR_INVALID);
    assert_int_equal(txmsg_local_tx_check(b, id, LOCK_MS, NULL, NULL), TXMSG_ERROR_INVALID);
    assert_int_equal(txmsg_local_tx_check(NULL, id, LOCK_MS, &d, NULL), TXMSG_ERROR_INVALID);
    assert_int_equal(txmsg_local_tx_create(NULL, NULL), TXMSG_ERROR_INVALID);
    assert_int_equal(txmsg_local_tx_commit_record(NULL, id, NULL), TXMSG_ERROR_INVALID);
    /* Outside of a transaction the record would say what has not happened yet. */
    assert_int_equal(txmsg_local_tx_commit_record(a, id, &err), TXMSG_ERROR_INVALID);
    assert_true(err.text[0]);
    rig_sql(a, "BEGIN");
    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        assert_int_equal(txmsg_local_tx_commit_record(a, bad[i], &err), TXMSG_ERROR_INVALID);
    assert_int_equal(txmsg_local_tx_check(a, id, LOCK_MS, &d, NULL), TXMSG_ERROR_INVALID);
    assert_int_equal(txmsg_local_tx_prune(a, DAY_S, 1, &n, NULL), TXMSG_ERROR_INVALID);
    rig_sql(a, "ROLLBACK");
    assert_int_equal(txmsg_local_tx_prune(b, DAY_S - 1, 1, &n, NULL), TXMSG_ERROR_INVALID);
    assert_int_equal(txmsg_local_tx_prune(b, DAY_S, 0, &n, NULL), TXMSG_ERROR_INVALID);
    assert_int_equal(txmsg_local_tx_prune(b, DAY_S, 1, NULL, NULL), TXMSG_ERROR_INVALID);
    assert_int_equal(rig_number(watch, "SELECT count(*) FROM txmsg_local_tx WHERE id = '%s'", id), 0);
}

static void test_no_table(void **state) {
    enum txmsg_decision d = TXMSG_COMMITTED;

    rig_sql(b, "SET search_path = pg_catalog");
    assert_int_equal(txmsg_local_tx_check(b, id, LOCK_MS, &d, &err), TXMSG_ERROR_DATABASE);
    assert_string_equal(err.sqlstate, "42P01");
    assert_true(err.text[0]);
    assert_int_equal(d, TXMSG_UNDECIDED);
    assert_int_equal(PQtransactionStatus(b), PQTRANS_IDLE);
}

/* --- pruning --- */

static void test_prune(void **state) {
    char old[3][UUID_TEXT], young[UUID_TEXT], never[UUID_TEXT];
    int n;

    for (int i = 0; i < 3; i++) {
        rig_id(old[i], 40 * DAY_S + i);
        begin_recorded(a, old[i]);
        rig_sql(a, "COMMIT");
    }
    rig_id(young, 20 * DAY_S);
    begin_recorded(a, young);
    rig_sql(a, "COMMIT");
    assert_int_equal(txmsg_local_tx_prune(b, 30 * DAY_S, 2, &n, NULL), 0);
    assert_int_equal(n, 0); /* announced */
    assert_int_equal(check_of(b, old[0], LOCK_MS), TXMSG_COMMITTED);
    assert_int_equal(txmsg_local_tx_prune(b, 30 * DAY_S, 2, &n, NULL), 0);
    assert_int_equal(n, 2); /* the limit, the oldest first */
    assert_int_equal(check_of(b, old[2], LOCK_MS), TXMSG_UNDECIDED);
    assert_int_equal(check_of(b, old[0], LOCK_MS), TXMSG_COMMITTED);
    /* Never seen, and too old to tell from a pruned one: nothing is decided about it. */
    rig_id(never, 35 * DAY_S);
    assert_int_equal(check_of(b, never, LOCK_MS), TXMSG_UNDECIDED);
    assert_int_equal(rig_number(watch, "SELECT count(*) FROM txmsg_local_tx WHERE id = '%s'", never), 0);
    /* What was announced stays announced. */
    assert_int_equal(txmsg_local_tx_prune(b, 300 * DAY_S, 9, &n, NULL), 0);
    assert_int_equal(n, 1);
    assert_int_equal(check_of(b, never, LOCK_MS), TXMSG_UNDECIDED);
    assert_int_equal(check_of(b, young, LOCK_MS), TXMSG_COMMITTED);
    assert_int_equal(check_of(b, rig_id(never, 20 * DAY_S), LOCK_MS), TXMSG_ROLLED_BACK);
}

/* --- by chance --- */

static char race_ids[RACE_IDS][UUID_TEXT];
static enum txmsg_decision race_answers[2][RACE_IDS];

static void *race_locals(void *arg) {
    PGconn *db = rig_connect();

    for (int i = 0; i < RACE_IDS; i++) {
        bool first = i % 2; /* the record is the first or the last statement */
        rig_sql(db, "BEGIN");
        int r = first ? txmsg_local_tx_commit_record(db, race_ids[i], NULL) : 0;
        if (r == 0)
            rig_sql(db, "INSERT INTO work VALUES ('%s')", race_ids[i]);
        if (!first)
            r = txmsg_local_tx_commit_record(db, race_ids[i], NULL);
        rig_sql(db, r == 0 && i % 7 ? "COMMIT" : "ROLLBACK");
    }
    PQfinish(db);
    return NULL;
}

static void *race_checks(void *arg) {
    enum txmsg_decision *answers = arg;
    PGconn *db = rig_connect();

    for (int i = 0; i < RACE_IDS; i++)
        if (txmsg_local_tx_check(db, race_ids[i], 5, &answers[i], NULL) != 0)
            answers[i] = TXMSG_UNDECIDED;
    PQfinish(db);
    return NULL;
}

static void test_race(void **state) {
    for (int i = 0; i < RACE_IDS; i++)
        rig_id(race_ids[i], 0);
    pthread_t t = rig_thread(race_locals, NULL), u = rig_thread(race_checks, race_answers[0]),
              v = rig_thread(race_checks, race_answers[1]);
    rig_join(t);
    rig_join(u);
    rig_join(v);
    int committed = 0;
    for (int i = 0; i < RACE_IDS; i++) {
        long work = work_of(race_ids[i]);
        enum txmsg_decision truth = work ? TXMSG_COMMITTED : TXMSG_ROLLED_BACK;
        for (int n = 0; n < 2; n++)
            if (race_answers[n][i] != TXMSG_UNDECIDED)
                assert_int_equal(race_answers[n][i], truth);
        assert_int_equal(check_of(b, race_ids[i], LOCK_MS), truth);
        committed += (int)work;
    }
    print_message("# %d of %d committed\n", committed, RACE_IDS);
}

static void create(PGconn *db) {
    rig_sql(db, "CREATE TABLE work (id uuid PRIMARY KEY)");
    assert_int_equal(txmsg_local_tx_create(db, &err), 0);
    assert_int_equal(txmsg_local_tx_create(db, &err), 0); /* again */
    assert_non_null(strstr(txmsg_local_tx_schema(), "txmsg_local_tx"));
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        RIG_TEST(test_committed),
        RIG_TEST(test_rolled_back),
        RIG_TEST(test_late_commit),
        RIG_TEST(test_same_id_twice),
        RIG_TEST(test_still_running),
        RIG_TEST(test_check_waits_for_commit),
        RIG_TEST(test_check_waits_for_rollback),
        RIG_TEST(test_record_waits_for_commit),
        RIG_TEST(test_record_waits_for_rollback),
        RIG_TEST(test_two_checks),
        RIG_TEST(test_serializable_session),
        RIG_TEST(test_lost_connection),
        RIG_TEST(test_misuse),
        RIG_TEST(test_no_table),
        RIG_TEST(test_race),
        RIG_TEST(test_prune),
    };
    return rig_run(argc, argv, tests, ARRAY_LEN(tests), create, fresh);
}
