#include "rig.h"

#include "base/clock.h"

PGconn *a, *b, *watch;
struct txmsg_pq_error err;
static const char *dsn;
static void (*make)(PGconn *db), (*renew)(void);

static void on_notice(void *arg, const char *text) {
    UNUSED(arg); /* "already exists" */
}

PGconn *rig_connect(void) {
    PGconn *db = PQconnectdb(dsn);

    if (PQstatus(db) != CONNECTION_OK)
        fail_msg("%s", PQerrorMessage(db));
    PQsetNoticeProcessor(db, on_notice, NULL);
    return db;
}

PRINTF_LIKE(2, 0) static PGresult *run(PGconn *db, const char *fmt, va_list ap) {
    char sql[1000];

    vsnprintf(sql, sizeof(sql), fmt, ap);
    PGresult *r = PQexec(db, sql);
    if (PQresultStatus(r) != PGRES_COMMAND_OK && PQresultStatus(r) != PGRES_TUPLES_OK)
        fail_msg("%s: %s", sql, PQerrorMessage(db));
    return r;
}

void rig_sql(PGconn *db, const char *fmt, ...) {
    va_list ap;

    va_start(ap, fmt);
    PQclear(run(db, fmt, ap));
    va_end(ap);
}

long rig_number(PGconn *db, const char *fmt, ...) {
    va_list ap;

    va_start(ap, fmt);
    PGresult *r = run(db, fmt, ap);
    va_end(ap);
    assert_int_equal(PQntuples(r), 1);
    long n = strtol(PQgetvalue(r, 0, 0), NULL, 10);
    PQclear(r);
    return n;
}

const char *rig_id(char id[UUID_TEXT], int64_t age_s) {
    struct uuid u;

    uuid_v7_make(clock_real_us() / 1000 - age_s * 1000, &u);
    uuid_format(&u, id);
    return id;
}

void rig_wait_blocked(PGconn *db, int pid) {
    uint64_t until = clock_mono_ns() + 30 * NS_PER_S;

    while (rig_number(db, "SELECT cardinality(pg_blocking_pids(%d))", pid) == 0)
        if (clock_mono_ns() > until)
            fail_msg("backend %d does not wait for a lock", pid);
}

pthread_t rig_thread(void *(*fn)(void *), void *arg) {
    pthread_t t;

    assert_int_equal(pthread_create(&t, NULL, fn, arg), 0);
    return t;
}

void rig_join(pthread_t t) {
    assert_int_equal(pthread_join(t, NULL), 0);
}

int rig_setup(void **state) {
    a = rig_connect();
    b = rig_connect();
    watch = rig_connect();
    renew();
    return 0;
}

int rig_teardown(void **state) {
    PQfinish(a);
    PQfinish(b);
    PQfinish(watch);
    return 0;
}

static int create_all(void **state) {
    PGconn *db = rig_connect();

    make(db);
    PQfinish(db);
    return 0;
}

int rig_run(int argc, char **argv, const struct CMUnitTest *tests, size_t n, void (*create)(PGconn *db),
            void (*fresh)(void)) {
    if (argc != 2)
        return 2;
    dsn = argv[1];
    make = create;
    renew = fresh;
    return _cmocka_run_group_tests("tests", tests, n, create_all, NULL);
}
