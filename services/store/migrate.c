/*
 * Forward-only migrations.
 *
 * The table txmsg_migration says what a database has: one row per applied version with the checksum of its text,
 * versions 1..n without gaps. Each migration runs in one transaction that first takes an advisory lock and looks again
 * at what is there, so any number of processes may run `migrate up` at the same moment. A lock that a migration cannot
 * get within 5 s ends it: waiting longer would hold up everybody who queues behind it.
 *
 * Versions N and N+1 of this program run on one schema while an update rolls out, and N may have to come back
 * afterwards. A migration that leaves older binaries working says so in a line `-- serves: V`: binaries that know
 * schema V or later work on it. Without the line only binaries that know the migration do.
 */
#include "store/migrate.h"

#include "base/clock.h"
#include "base/crypto.h"
#include "store/partition.h"
#include "store/pg.h"
#include "store/sync.h"

/* "txms", 1; partitions use 2. */
#define LOCK_MIGRATE "SELECT pg_advisory_xact_lock(1954049395, 1)"
#define UP_COMMAND   "txmsgctl migrate up"
enum { PARTITIONS_AHEAD = 3 };

static const char create_history[] =
    "CREATE TABLE IF NOT EXISTS txmsg_migration ("
    " version integer PRIMARY KEY,"
    " name text NOT NULL,"
    " checksum text NOT NULL," /* SHA-256 of the migration's text, hexadecimal */
    " applied_at timestamptz NOT NULL DEFAULT now(),"
    " serves integer)"; /* the oldest schema version whose binaries work on this one; NULL = this one */

enum verdict { SCHEMA_NONE, SCHEMA_OLDER, SCHEMA_SAME, SCHEMA_NEWER_SERVES, SCHEMA_NEWER };

/* What a database has, compared with what this binary knows. */
struct history {
    PGresult *rows; /* version, name, checksum, applied_at, serves; NULL = no table */
    int n, known;
    enum verdict verdict;
};
static void history_deinit(struct history *h) {
    PQclear(h->rows);
    h->rows = NULL;
}

static int checksum_of(const char *sql, char out[65]) {
    struct sha256 *s = sha256_new();
    if (!s)
        return -ENOMEM;
    uint8_t sum[32];
    sha256_add(s, sql, strlen(sql));
    sha256_end(s, sum);
    sha256_free(s);
    for (size_t i = 0; i < sizeof(sum); i++)
        snprintf(out + 2 * i, 3, "%02x", sum[i]);
    return 0;
}

/* The line "-- serves: V" of a migration, else its own version. */
static int serves_of(const struct migration *m) {
    static const char mark[] = "\n-- serves: ";
    const char *at = strstr(m->sql, mark);
    long v = at ? strtol(at + sizeof(mark) - 1, NULL, 10) : 0;
    return v >= 1 && v <= m->version ? (int)v : m->version;
}

int migrate_known(void) {
    int n = 0;
    while (migrations[n].version)
        n++;
    return n;
}

/* Reads the history and checks that it is a prefix of ours, or ours of it. */
static int history_read(PGconn *c, struct history *h, struct errmsg *e) {
    CLEANUP(sync_result_cleanup) PGresult *there = NULL;
    h->known = migrate_known();
    int r = sync_query(c, "SELECT to_regclass('txmsg_migration') IS NOT NULL", 0, NULL, &there, e);
    if (r < 0)
        return r;
    h->verdict = SCHEMA_NONE;
    if (!pg_get_bool(there, 0, 0))
        return 0;
    r = sync_query(
        c,
        "SELECT version, name, checksum, applied_at, coalesce(serves, version) FROM txmsg_migration ORDER BY version",
        0, NULL, &h->rows, e);
    if (r < 0)
        return r;
    h->n = PQntuples(h->rows);
    int serves = 0;
    for (int i = 0; i < h->n; i++) {
        int32_t version = pg_get_int32(h->rows, i, 0);
        if (version != i + 1)
            return err_set(e, -EPROTO,
                           "txmsg_migration has version %d where %d is expected: somebody changed this table by hand; "
                           "restore its rows before anything else",
                           version, i + 1);
        if (i < h->known) {
            char sum[65];
            r = checksum_of(migrations[i].sql, sum);
            if (r < 0)
                return r;
            if (!bytes_eq_str(pg_get_bytes(h->rows, i, 2), sum))
                return err_set(
                    e, -EPROTO,
                    "migration %04d_%s was applied with another text than the one in this binary: run a binary "
                    "of the release that made this schema, or find out who changed the file (checksum here %.12s..)",
                    version, migrations[i].name, sum);
        }
        serves = MAX(serves, pg_get_int32(h->rows, i, 4));
    }
    h->verdict = h->n == 0            ? SCHEMA_NONE
                 : h->n < h->known    ? SCHEMA_OLDER
                 : h->n == h->known   ? SCHEMA_SAME
                 : serves <= h->known ? SCHEMA_NEWER_SERVES
                                      : SCHEMA_NEWER;
    return 0;
}

static int newer_error(const struct history *h, int code, struct errmsg *e) {
    return err_set(e, code,
                   "the database has schema %d, this binary knows %d and cannot work on it: use the newer release",
                   h->n, h->known);
}

/* --- reports --- */

static void put_applied(struct buf *out, const struct history *h, int i) {
    char at[32];
    clock_format(pg_get_time_us(h->rows, i, 3), at);
    buf_printf(out, "%04d %-24s applied %s%s\n", pg_get_int32(h->rows, i, 0),
               (const char *)pg_get_bytes(h->rows, i, 1).p, at, i < h->known ? "" : ", not known to this binary");
}

int migrate_status(const char *dsn, struct buf *out, struct errmsg *e) {
    CLEANUP(sync_conn_cleanup) PGconn *c = NULL;
    CLEANUP(history_deinit) struct history h = {0};
    int r = sync_connect(dsn, "txmsg migrate", &c, e);
    if (r == 0)
        r = history_read(c, &h, e);
    for (int i = 0; i < h.n; i++)
        put_applied(out, &h, i);
    if (r < 0)
        return r;
    for (int i = h.n; i < h.known; i++)
        buf_printf(out, "%04d %-24s pending\n", migrations[i].version, migrations[i].name);
    return buf_error(out);
}

int migrate_plan(const char *dsn, struct buf *out, struct errmsg *e) {
    CLEANUP(sync_conn_cleanup) PGconn *c = NULL;
    CLEANUP(history_deinit) struct history h = {0};
    int r = sync_connect(dsn, "txmsg migrate", &c, e);
    if (r == 0)
        r = history_read(c, &h, e);
    if (r < 0)
        return r;
    if (h.verdict == SCHEMA_NEWER)
        return newer_error(&h, -EPROTO, e);
    for (int i = h.n; i < h.known; i++)
        buf_printf(out, "would apply %04d_%s\n", migrations[i].version, migrations[i].name);
    if (h.n >= h.known)
        buf_printf(out, "nothing to apply: the database has schema %d\n", h.n);
    return buf_error(out);
}

int migrate_check(const char *dsn, struct errmsg *e) {
    CLEANUP(sync_conn_cleanup) PGconn *c = NULL;
    CLEANUP(history_deinit) struct history h = {0};
    int r = sync_connect(dsn, "txmsg migrate", &c, e);
    if (r == 0)
        r = history_read(c, &h, e);
    if (r < 0)
        return r;
    switch (h.verdict) {
    case SCHEMA_NONE:
        return err_set(e, 1, "the database holds no txmsg schema: run `" UP_COMMAND "` once");
    case SCHEMA_OLDER:
        return err_set(e, 1, "the database has schema %d, this binary needs %d: run `" UP_COMMAND "` of this release",
                       h.n, h.known);
    case SCHEMA_NEWER:
        return newer_error(&h, 2, e);
    case SCHEMA_SAME:
    case SCHEMA_NEWER_SERVES:
        break;
    }
    return 0;
}

/* --- up --- */

static int set_width(PGconn *c, int partition_seconds, struct errmsg *e) {
    if (partition_seconds <= 0)
        return 0;
    char width[16];
    snprintf(width, sizeof(width), "%d", partition_seconds);
    return sync_query(c, "UPDATE cfg SET partition_seconds = $1::integer", 1, (const char *[]){width}, NULL, e);
}

static int record(PGconn *c, const struct migration *m, struct errmsg *e) {
    char version[16], serves[16], sum[65];
    int r = checksum_of(m->sql, sum);
    if (r < 0)
        return r;
    snprintf(version, sizeof(version), "%d", m->version);
    snprintf(serves, sizeof(serves), "%d", serves_of(m));
    return sync_query(
        c, "INSERT INTO txmsg_migration (version, name, checksum, serves) VALUES ($1::integer, $2, $3, $4::integer)", 4,
        (const char *[]){version, m->name, sum, serves}, NULL, e);
}

/* The migration itself, inside its transaction. */
static int run_one(PGconn *c, const struct migration *m, int partition_seconds, struct errmsg *e) {
    int r = sync_exec(c, "SET LOCAL lock_timeout = '5s'", e);
    if (r == 0 && m->version == 1)
        r = sync_exec(c, create_history, e);
    if (r == 0)
        r = sync_exec(c, m->sql, e);
    if (r == 0 && PQtransactionStatus(c) != PQTRANS_INTRANS)
        return err_set(e, -EPROTO, "its text ended the transaction that it runs in");
    if (r == 0)
        r = record(c, m, e);
    if (r == 0 && m->version == 1)
        r = set_width(c, partition_seconds, e);
    if (r == 0)
        r = sync_exec(c, "COMMIT", e);
    return r;
}

/* One transaction: 0 = one migration applied, 1 = nothing to apply. On errors the caller drops the connection, and with
 * it all of it. */
static int apply_next(PGconn *c, int partition_seconds, struct buf *out, struct errmsg *e) {
    CLEANUP(history_deinit) struct history h = {0};
    int r = sync_exec(c, "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; SET LOCAL lock_timeout = '60s'", e);
    if (r == 0)
        r = sync_exec(c, LOCK_MIGRATE, e);
    if (r < 0) {
        err_prefix(e, "waiting for another migration (run `" UP_COMMAND "` again)");
        return r;
    }
    r = history_read(c, &h, e);
    if (r < 0)
        return r;
    if (h.verdict == SCHEMA_NEWER)
        return newer_error(&h, -EPROTO, e);
    if (h.n >= h.known) {
        r = sync_exec(c, "ROLLBACK", e);
        return r < 0 ? r : 1;
    }
    const struct migration *m = &migrations[h.n];
    r = run_one(c, m, partition_seconds, e);
    if (r < 0) {
        err_prefix(e, "migration %04d_%s %s", m->version, m->name,
                   r == -ENOTCONN ? "ended in a lost connection (look with `txmsgctl migrate status`)"
                   : r == -EAGAIN ? "was rolled back (busy: run `" UP_COMMAND "` again)"
                                  : "was rolled back");
        return r;
    }
    buf_printf(out, "applied %04d_%s\n", m->version, m->name);
    return 0;
}

/* What the schema was made with cannot change: say so rather than let somebody believe otherwise. */
static int report_layout(PGconn *c, int partition_seconds, struct buf *out, struct errmsg *e) {
    CLEANUP(sync_result_cleanup) PGresult *res = NULL;
    int64_t lo = 0, hi = 0;
    int r = sync_query(c, "SELECT partition_seconds FROM cfg", 0, NULL, &res, e);
    if (r == 0)
        r = partition_window_blocking(c, &lo, &hi, e);
    if (r < 0)
        return r;
    int32_t width = pg_get_int32(res, 0, 0);
    if (partition_seconds > 0 && partition_seconds != width)
        buf_printf(out, "partitions stay %d s wide: the width is fixed when the schema is made\n", width);
    char from[32], to[32];
    clock_format(lo * 1000, from);
    clock_format(hi * 1000, to);
    buf_printf(out, "partitions of %d s ready from %s to %s\n", width, from, to);
    return 0;
}

int migrate_up(const char *dsn, int partition_seconds, struct buf *out, struct errmsg *e) {
    CLEANUP(sync_conn_cleanup) PGconn *c = NULL;
    int r = sync_connect(dsn, "txmsg migrate", &c, e);
    int applied = 0;
    while (r == 0) {
        r = apply_next(c, partition_seconds, out, e);
        applied += r == 0;
    }
    if (r < 0)
        return r;
    if (applied == 0)
        buf_put_str(out, "nothing to apply\n");
    r = partition_ensure_blocking(c, PARTITIONS_AHEAD, e);
    if (r == 0)
        r = report_layout(c, partition_seconds, out, e);
    return r < 0 ? r : buf_error(out);
}
