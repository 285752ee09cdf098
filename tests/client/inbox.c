/* The inbox and the guards against a real PostgreSQL: inbox DSN, of an empty database. The last test is by chance. */
#include "txmsg/inbox.h"

#include "rig.h"

enum { DAY_S = 86400, RACE_MESSAGES = 200, RACE_THREADS = 3 };
#define ME "points"

static char id[UUID_TEXT + 4], signed_id[UUID_TEXT + 4];

static const char *message(char out[UUID_TEXT + 4], int64_t age_s, char separator, int n) {
    char tx[UUID_TEXT];

    snprintf(out, UUID_TEXT + 4, "%s%c%d", rig_id(tx, age_s), separator, n);
    return out;
}

static void fresh(void) {
    message(id, 0, '.', 0);
    snprintf(signed_id, sizeof(signed_id), "%s", id);
    signed_id[36] = '-';
}

static int enter(PGconn *db, const char *consumer, const char *message_id) {
    int r = txmsg_inbox_enter(db, consumer, message_id, &err);

    if (r < 0)
        print_message("# %d %s %s\n", r, err.sqlstate, err.text);
    return r;
}

static int enter_alone(const char *consumer, const char *message_id) {
    rig_sql(a, "BEGIN");
    int r = enter(a, consumer, message_id);
    rig_sql(a, "COMMIT");
    return r;
}

/* --- the inbox --- */

static void test_once(void **state) {
    char other[sizeof(id)];

    assert_int_equal(enter_alone(ME, id), TXMSG_OK);
    assert_int_equal(enter_alone(ME, id), TXMSG_INBOX_DONE);
    assert_int_equal(enter_alone(ME, signed_id), TXMSG_INBOX_DONE); /* the same message, as webhook-id writes it */
    assert_int_equal(enter_alone("stock", id), TXMSG_OK);           /* another consumer */
    snprintf(other, sizeof(other), "%.36s.1", id);
    assert_int_equal(enter_alone(ME, other), TXMSG_OK); /* another message of the transaction */
}

/* What was rolled back was not done. */
static void test_rolled_back(void **state) {
    rig_sql(a, "BEGIN");
    assert_int_equal(enter(a, ME, id), TXMSG_OK);
    assert_int_equal(enter(a, ME, id), TXMSG_INBOX_DONE); /* twice in one transaction */
    rig_sql(a, "ROLLBACK");
    assert_int_equal(enter_alone(ME, id), TXMSG_OK);
}

struct waiting {
    PGconn *db;
    int result;
};

static void *run_enter(void *arg) {
    struct waiting *w = arg;

    w->result = txmsg_inbox_enter(w->db, ME, id, NULL);
    return NULL;
}

static void two_at_once(const char *end, int expected) {
    struct waiting w = {.db = b};

    rig_sql(a, "BEGIN");
    rig_sql(b, "BEGIN");
    assert_int_equal(enter(a, ME, id), TXMSG_OK);
    pthread_t t = rig_thread(run_enter, &w);
    rig_wait_blocked(watch, PQbackendPID(b));
    rig_sql(a, "%s", end);
    rig_join(t);
    assert_int_equal(w.result, expected);
    rig_sql(b, "ROLLBACK");
}

static void test_two_at_once(void **state) {
    two_at_once("ROLLBACK", TXMSG_OK);
    two_at_once("COMMIT", TXMSG_INBOX_DONE);
}

static void test_wait_has_an_end(void **state) {
    rig_sql(b, "SET lock_timeout = 50");
    rig_sql(a, "BEGIN");
    rig_sql(b, "BEGIN");
    assert_int_equal(enter(a, ME, id), TXMSG_OK);
    assert_int_equal(enter(b, ME, id), TXMSG_ERROR_AGAIN);
    assert_string_equal(err.sqlstate, "55P03");
    rig_sql(b, "ROLLBACK");
    rig_sql(a, "COMMIT");
}

/* With one snapshot for all of a transaction, what is new since then cannot be read: begin again. */
static void test_repeatable_read(void **state) {
    rig_sql(b, "BEGIN ISOLATION LEVEL REPEATABLE READ");
    rig_number(b, "SELECT 1");
    assert_int_equal(enter_alone(ME, id), TXMSG_OK);
    assert_int_equal(enter(b, ME, id), TXMSG_ERROR_AGAIN);
    rig_sql(b, "ROLLBACK");
}

static void test_prune(void **state) {
    char old[2][sizeof(id)], young[sizeof(id)], late[sizeof(id)];
    int n;

    for (int i = 0; i < 2; i++) {
        message(old[i], 40 * DAY_S + i, '.', i);
        assert_int_equal(enter_alone(ME, old[i]), TXMSG_OK);
        assert_int_equal(enter_alone("stock", old[i]), TXMSG_OK);
    }
    assert_int_equal(enter_alone(ME, message(young, 20 * DAY_S, '.', 0)), TXMSG_OK);
    assert_int_equal(txmsg_inbox_prune(b, ME, 30 * DAY_S, 1, &n, &err), 0);
    assert_int_equal(n, 0);
    assert_int_equal(enter_alone(ME, old[0]), TXMSG_INBOX_DONE); /* announced, and still known */
    assert_int_equal(enter_alone(ME, message(late, 35 * DAY_S, '.', 0)), TXMSG_INBOX_TOO_OLD);
    assert_int_equal(txmsg_inbox_prune(b, ME, 30 * DAY_S, 1, &n, &err), 0);
    assert_int_equal(n, 1);
    assert_int_equal(txmsg_inbox_prune(b, ME, 300 * DAY_S, 9, &n, &err), 0);
    assert_int_equal(n, 1);
    /* It was done and is forgotten: it must not be done again. */
    assert_int_equal(enter_alone(ME, old[0]), TXMSG_INBOX_TOO_OLD);
    assert_int_equal(enter_alone(ME, old[1]), TXMSG_INBOX_TOO_OLD);
    assert_int_equal(enter_alone(ME, young), TXMSG_INBOX_DONE);
    assert_int_equal(enter_alone("stock", old[0]), TXMSG_INBOX_DONE); /* others forget for themselves */
    assert_int_equal(enter_alone("stock", late), TXMSG_OK);
}

static void test_misuse(void **state) {
    static const char *const bad[] = {NULL,
                                      "",
                                      "x",
                                      "019b76da-0000-7000-8000-000000000001",
                                      "019b76da-0000-7000-8000-000000000001.",
                                      "019b76da-0000-7000-8000-000000000001.x",
                                      "019b76da-0000-7000-8000-000000000001.1x",
                                      "019b76da-0000-4000-8000-000000000001.1",
                                      "019b76da-0000-7000-8000-000000000001.1234567890",
                                      "019b76da-0000-7000-8000-000000000001_1"};
    char long_name[200];
    int n;

    memset(long_name, 'x', sizeof(long_name));
    long_name[129] = '\0';
    assert_int_equal(txmsg_inbox_enter(a, ME, id, &err), TXMSG_ERROR_INVALID); /* not in a transaction */
    assert_int_equal(txmsg_inbox_enter(NULL, ME, id, &err), TXMSG_ERROR_INVALID);
    rig_sql(a, "BEGIN");
    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        assert_int_equal(txmsg_inbox_enter(a, ME, bad[i], &err), TXMSG_ERROR_INVALID);
    assert_int_equal(txmsg_inbox_enter(a, NULL, id, NULL), TXMSG_ERROR_INVALID);
    assert_int_equal(txmsg_inbox_enter(a, "", id, NULL), TXMSG_ERROR_INVALID);
    assert_int_equal(txmsg_inbox_enter(a, long_name, id, NULL), TXMSG_ERROR_INVALID);
    assert_int_equal(txmsg_inbox_prune(a, ME, DAY_S, 1, &n, NULL), TXMSG_ERROR_INVALID);
    assert_int_equal(txmsg_guard_version(a, ME, "", 1, NULL), TXMSG_ERROR_INVALID);
    assert_int_equal(txmsg_guard_version(a, "", "k", 1, NULL), TXMSG_ERROR_INVALID);
    assert_int_equal(txmsg_guard_state(a, ME, "k", "", "s", NULL, NULL), TXMSG_ERROR_INVALID);
    assert_int_equal(txmsg_guard_state(a, ME, "k", NULL, NULL, NULL, NULL), TXMSG_ERROR_INVALID);
    assert_int_equal(txmsg_guard_state(a, ME, "k", NULL, long_name, NULL, NULL), TXMSG_ERROR_INVALID);
    assert_int_equal(enter(a, ME, id), TXMSG_OK); /* the transaction was not hurt */
    rig_sql(a, "ROLLBACK");
    assert_int_equal(txmsg_inbox_prune(a, "", DAY_S, 1, &n, NULL), TXMSG_ERROR_INVALID);
    assert_int_equal(txmsg_guard_version(a, ME, "k", 1, NULL), TXMSG_ERROR_INVALID);
    assert_int_equal(txmsg_guard_state(a, ME, "k", NULL, "s", NULL, NULL), TXMSG_ERROR_INVALID);
    assert_int_equal(txmsg_inbox_create(NULL, NULL), TXMSG_ERROR_INVALID);
    assert_non_null(strstr(txmsg_inbox_schema(), "txmsg_inbox"));
}

static void test_failures(void **state) {
    rig_sql(a, "SET search_path = pg_catalog");
    rig_sql(a, "BEGIN");
    assert_int_equal(txmsg_inbox_enter(a, ME, id, &err), TXMSG_ERROR_DATABASE);
    assert_string_equal(err.sqlstate, "42P01");
    rig_sql(a, "ROLLBACK");
    rig_sql(b, "BEGIN READ ONLY");
    assert_int_equal(txmsg_inbox_enter(b, ME, id, &err), TXMSG_ERROR_READ_ONLY);
    rig_sql(b, "ROLLBACK");
    rig_sql(b, "BEGIN");
    rig_number(watch, "SELECT pg_terminate_backend(%d)::int", PQbackendPID(b));
    assert_int_equal(txmsg_inbox_enter(b, ME, id, &err), TXMSG_ERROR_CONNECTION);
    assert_true(err.text[0]);
}

/* --- guards --- */

static int version(const char *key, int64_t v) {
    rig_sql(a, "BEGIN");
    int r = txmsg_guard_version(a, ME, key, v, &err);
    rig_sql(a, "COMMIT");
    return r;
}

static void test_version(void **state) {
    assert_int_equal(version("order 1", 5), TXMSG_OK);
    assert_int_equal(version("order 1", 5), TXMSG_GUARD_STALE);
    assert_int_equal(version("order 1", 4), TXMSG_GUARD_STALE);
    assert_int_equal(version("order 1", 7), TXMSG_OK);
    assert_int_equal(version("order 1", 6), TXMSG_GUARD_STALE);
    assert_int_equal(version("order 2", INT64_MIN), TXMSG_OK);
    assert_int_equal(version("order 2", INT64_MAX), TXMSG_OK);
    rig_sql(a, "BEGIN");
    assert_int_equal(txmsg_guard_version(a, ME, "order 3", 9, NULL), TXMSG_OK);
    rig_sql(a, "ROLLBACK");
    assert_int_equal(version("order 3", 1), TXMSG_OK);
}

static int move(const char *key, const char *from, const char *to, char is[64]) {
    rig_sql(a, "BEGIN");
    int r = txmsg_guard_state(a, ME, key, from, to, is, &err);
    rig_sql(a, "COMMIT");
    return r;
}

static void test_state(void **state) {
    char is[64];

    assert_int_equal(move("order 9", "NEW", "PAID", is), TXMSG_GUARD_REFUSED);
    assert_string_equal(is, "");
    assert_int_equal(move("order 9", NULL, "NEW", is), TXMSG_OK);
    assert_string_equal(is, "NEW");
    assert_int_equal(move("order 9", NULL, "NEW", NULL), TXMSG_GUARD_STALE);
    assert_int_equal(move("order 9", "NEW", "PAID", is), TXMSG_OK);
    assert_int_equal(move("order 9", "NEW", "PAID", is), TXMSG_GUARD_STALE);
    assert_int_equal(move("order 9", "NEW", "FAILED", is), TXMSG_GUARD_REFUSED);
    assert_string_equal(is, "PAID");
    assert_int_equal(move("order 9", NULL, "NEW", is), TXMSG_GUARD_REFUSED);
    assert_int_equal(version("order 9", 1), TXMSG_OK); /* both guards of one thing */
    assert_int_equal(version("order 8", 1), TXMSG_OK);
    assert_int_equal(move("order 8", NULL, "NEW", is), TXMSG_OK);
}

/* --- by chance --- */

static char race_ids[RACE_MESSAGES][UUID_TEXT + 4];

/* Every message comes to every thread; some give up before the commit. */
static void *race(void *arg) {
    unsigned seed = (unsigned)(uintptr_t)arg;
    PGconn *db = rig_connect();

    for (int i = 0; i < RACE_MESSAGES; i++) {
        rig_sql(db, "BEGIN");
        int r = txmsg_inbox_enter(db, "race", race_ids[i], NULL);
        if (r == TXMSG_OK)
            rig_sql(db, "UPDATE account SET points = points + 1");
        rig_sql(db, r == TXMSG_OK && (i + seed) % 3 == 0 ? "ROLLBACK" : "COMMIT");
    }
    PQfinish(db);
    return NULL;
}

static void test_race(void **state) {
    pthread_t threads[RACE_THREADS];

    rig_sql(a, "CREATE TABLE account (points int)");
    rig_sql(a, "INSERT INTO account VALUES (0)");
    for (int i = 0; i < RACE_MESSAGES; i++)
        message(race_ids[i], 0, '.', 0);
    for (uintptr_t i = 0; i < RACE_THREADS; i++)
        threads[i] = rig_thread(race, (void *)i);
    for (int i = 0; i < RACE_THREADS; i++)
        rig_join(threads[i]);
    assert_int_equal(rig_number(watch, "SELECT points FROM account"), RACE_MESSAGES);
    assert_int_equal(rig_number(watch, "SELECT count(*) FROM txmsg_inbox WHERE consumer = 'race'"), RACE_MESSAGES);
}

static void create(PGconn *db) {
    assert_int_equal(txmsg_inbox_create(db, &err), 0);
    assert_int_equal(txmsg_inbox_create(db, &err), 0); /* again */
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        RIG_TEST(test_once),
        RIG_TEST(test_rolled_back),
        RIG_TEST(test_two_at_once),
        RIG_TEST(test_wait_has_an_end),
        RIG_TEST(test_repeatable_read),
        RIG_TEST(test_misuse),
        RIG_TEST(test_failures),
        RIG_TEST(test_version),
        RIG_TEST(test_state),
        RIG_TEST(test_race),
        RIG_TEST(test_prune),
    };
    return rig_run(argc, argv, tests, ARRAY_LEN(tests), create, fresh);
}
