/* What goes wrong at the server, from a thread with a connection of its own that does not pass the proxy. */
#include "attack.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <unistd.h>

struct chaos {
    PGconn *pg;
    struct proxy *proxy;
    uint64_t rng;
    _Atomic int fault;
    _Atomic unsigned rounds; /* completed */
    _Atomic unsigned standby;
    _Atomic bool stop;
    pthread_t thread;
};

#define ANY_LANE "FROM pg_stat_activity WHERE application_name LIKE 'txmsg-lane-%' AND datname = current_database()"

static void nap(struct chaos *c, unsigned at_most_ms) {
    unsigned ms = (unsigned)(attack_random(&c->rng) % at_most_ms) + 1;
    struct timespec t = {.tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * 1000000};
    nanosleep(&t, NULL);
}

static void run(struct chaos *c, const char *sql) {
    PQclear(PQexec(c->pg, sql));
    if (PQtransactionStatus(c->pg) == PQTRANS_INERROR || PQtransactionStatus(c->pg) == PQTRANS_INTRANS)
        PQclear(PQexec(c->pg, "ROLLBACK"));
}

/* What takes a fault back: until it is done, for on a busy machine a statement may meet its timeout. */
static void must(struct chaos *c, const char *sql) {
    for (bool done = false; !done && !atomic_load(&c->stop);) {
        PGresult *r = PQexec(c->pg, sql);
        done = PQresultStatus(r) == PGRES_COMMAND_OK || PQresultStatus(r) == PGRES_TUPLES_OK;
        PQclear(r);
    }
}

static void stop_backend(struct chaos *c) {
    PGresult *r = PQexec(c->pg, "SELECT pid " ANY_LANE " ORDER BY random() LIMIT 1");
    pid_t pid = PQntuples(r) ? (pid_t)strtol(PQgetvalue(r, 0, 0), NULL, 10) : 0;
    PQclear(r);
    if (pid <= 1 || kill(pid, SIGSTOP) != 0)
        return;
    nap(c, 2500);
    kill(pid, SIGCONT);
}

/* Sessions keep the default that they began with. The first are ended here; those that are read-only then must end by themselves. */
static void read_only(struct chaos *c) {
    char on[200], off[200];
    snprintf(on, sizeof(on), "ALTER DATABASE \"%s\" SET default_transaction_read_only = on", PQdb(c->pg));
    snprintf(off, sizeof(off), "ALTER DATABASE \"%s\" RESET default_transaction_read_only", PQdb(c->pg));
    run(c, on);
    run(c, "SELECT pg_terminate_backend(pid) " ANY_LANE);
    nap(c, 1500);
    must(c, off);
}

static void no_standby(struct chaos *c) {
    run(c, "ALTER SYSTEM SET synchronous_standby_names = 'nobody'");
    run(c, "SELECT pg_reload_conf()");
    nap(c, 1);
    for (int i = 0; i < 10; i++)
        nap(c, 100); /* every backend has read it */
    atomic_fetch_add(&c->standby, 1);
    for (int i = 0; i < 8; i++) {
        nap(c, 150);
        run(c, attack_random(&c->rng) % 2 ? "SELECT pg_cancel_backend(pid) " ANY_LANE " AND wait_event = 'SyncRep'"
                                          : "SELECT pg_terminate_backend(pid) " ANY_LANE " AND wait_event = 'SyncRep'");
    }
    atomic_fetch_add(&c->standby, 1);
    must(c, "ALTER SYSTEM RESET synchronous_standby_names");
    must(c, "SELECT pg_reload_conf()");
}

static void one_round(struct chaos *c, enum fault f) {
    if (f == FAULT_ALL) {
        proxy_set(c->proxy, 10);
        f = (enum fault)(1 + attack_random(&c->rng) % (FAULT_ALL - 1));
    }
    switch (f) {
    case FAULT_TERMINATE:
        run(c, "SELECT pg_terminate_backend(pid) " ANY_LANE " ORDER BY random() LIMIT 1");
        nap(c, 150);
        break;
    case FAULT_PROXY:
        proxy_set(c->proxy, 40);
        nap(c, 200);
        break;
    case FAULT_STOP:
        stop_backend(c);
        nap(c, 200);
        break;
    case FAULT_FENCE:
        run(c, "INSERT INTO lane_log (lane, seq, kind, nonce) SELECT l.lane, max(g.seq) + 1, 'S', 0 FROM lane l"
               " JOIN lane_log g ON g.lane = l.lane WHERE l.lane IN (SELECT substring(application_name, "
               "'lane-(\\d+)-')::int " ANY_LANE ") GROUP BY 1 ORDER BY random() LIMIT 1");
        nap(c, 300);
        break;
    case FAULT_FULL:
        run(c, "UPDATE attack SET disk_full = true");
        nap(c, 700);
        must(c, "UPDATE attack SET disk_full = false");
        nap(c, 700);
        break;
    case FAULT_READONLY:
        read_only(c);
        nap(c, 700);
        break;
    case FAULT_LOCK:
        PQclear(PQexec(c->pg, attack_random(&c->rng) % 2 ? "BEGIN; LOCK TABLE decision"
                                                         : "BEGIN; LOCK TABLE lane_log IN SHARE MODE"));
        nap(c, 2500);
        run(c, "COMMIT");
        nap(c, 300);
        break;
    case FAULT_STANDBY:
        no_standby(c);
        nap(c, 500);
        break;
    default:
        nap(c, 20);
    }
}

static void *work(void *arg) {
    struct chaos *c = arg;
    while (!atomic_load(&c->stop)) {
        one_round(c, (enum fault)atomic_load(&c->fault));
        atomic_fetch_add(&c->rounds, 1);
    }
    return NULL;
}

int chaos_start(const char *dsn, struct proxy *proxy, uint64_t seed, struct chaos **ret) {
    struct chaos *c = calloc(1, sizeof(*c));
    c->pg = PQconnectdb(dsn);
    c->proxy = proxy;
    c->rng = seed;
    run(c, "SET synchronous_commit = local");
    run(c, "SET statement_timeout = 3000");
    run(c, "SET client_min_messages = error");
    *ret = c;
    return PQstatus(c->pg) == CONNECTION_OK && pthread_create(&c->thread, NULL, work, c) == 0 ? 0 : -1;
}

void chaos_set(struct chaos *c, enum fault f) {
    atomic_store(&c->fault, f);
}

void chaos_calm(struct chaos *c) {
    atomic_store(&c->fault, FAULT_NONE);
    unsigned seen = atomic_load(&c->rounds);
    while (atomic_load(&c->rounds) < seen + 2)
        usleep(10000);
    proxy_set(c->proxy, 0);
}

unsigned chaos_standby(struct chaos *c) {
    return atomic_load(&c->standby);
}

void chaos_stop(struct chaos *c) {
    atomic_store(&c->stop, true);
    pthread_join(c->thread, NULL);
    PQfinish(c->pg);
    free(c);
}
