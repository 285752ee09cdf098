/*
 * See schema.h. What the history means is decided as at start (migrate.c): by the highest version, and the oldest schema whose
 * binaries it serves. Checksums are not looked at again.
 */
#include "store/schema.h"

#include "base/log.h"
#include "base/metric.h"
#include "store/migrate.h"
#include "store/pg.h"

enum { LOOK_MS = 2000 };

struct schema_watch {
    struct pg_conn *conn;
    struct timer *timer;
    void (*unfit)(void *arg, const char *why);
    void *arg;
    struct metric *database;
    int32_t told; /* the newer version that was logged */
    bool busy, closed, over;
};

static const char look_sql[] =
    "SELECT coalesce(max(version), 0)::int4, coalesce(max(coalesce(serves, version)), 0)::int4"
    " FROM txmsg_migration";

static void judge(struct schema_watch *w, int32_t version, int32_t serves) {
    int32_t known = migrate_known();
    char why[200];
    metric_set(w->database, version);
    if (version == known || w->over)
        return;
    if (version > known && serves <= known) {
        if (w->told != version)
            LOG_WARN("store",
                     "the database has schema %d, this binary knows %d; it says that it serves this binary too: update "
                     "this replica when the others are",
                     version, known);
        w->told = version;
        return;
    }
    if (version > known)
        snprintf(
            why, sizeof(why),
            "the database was migrated to schema %d, this binary knows %d and cannot work on it: use the newer release",
            version, known);
    else
        snprintf(why, sizeof(why),
                 "the database went back to schema %d, this binary needs %d: somebody restored an older copy; run "
                 "`txmsgctl migrate up`",
                 version, known);
    w->over = true;
    w->unfit(w->arg, why);
}

static void on_looked(void *arg, PGresult *res, const struct pg_error *err) {
    struct schema_watch *w = arg;
    w->busy = false;
    if (w->closed)
        return;
    if (err->cls == PG_OK && PQntuples(res) == 1)
        judge(w, pg_get_int32(res, 0, 0), pg_get_int32(res, 0, 1));
    else if (!strcmp(err->sqlstate, "42P01"))
        judge(w, 0, 0);
}

static void on_look(void *arg) {
    struct schema_watch *w = arg;
    timer_arm(w->timer, LOOK_MS);
    if (!w->busy && pg_conn_ready(w->conn))
        w->busy = pg_query_sql(w->conn, look_sql, NULL, on_looked, w) == 0;
}

static void on_ready(void *arg) {
    struct schema_watch *w = arg;
    timer_arm(w->timer, 0); /* after a reconnect it may be another server */
}

int schema_watch_new(struct loop *l, struct store *s, void (*unfit)(void *arg, const char *why), void *arg,
                     struct schema_watch **ret) {
    struct metric_family *f = metric_family(METRIC_GAUGE, "txmsg_schema", "of",
                                            "Schema version of the database, and that this binary knows.", 2);
    struct schema_watch *w = mem_zalloc(sizeof(*w));
    if (!w)
        return -ENOMEM;
    w->unfit = unfit;
    w->arg = arg;
    w->database = metric_get(f, "database");
    metric_set(metric_get(f, "binary"), migrate_known());
    int r = timer_new(l, on_look, w, &w->timer);
    if (r == 0)
        r = pg_conn_new(l,
                        &(struct pg_conn_options){.dsn = s->o.dsn,
                                                  .application_name = "txmsg schema",
                                                  .options = "-c statement_timeout=5000",
                                                  .on_ready = on_ready,
                                                  .arg = w},
                        &w->conn);
    if (r < 0) {
        timer_free(w->timer);
        mem_free(w);
        return r;
    }
    timer_arm(w->timer, LOOK_MS);
    *ret = w;
    return 0;
}

void schema_watch_free(struct schema_watch *w) {
    if (!w)
        return;
    w->closed = true;
    timer_free(w->timer);
    pg_conn_free(w->conn); /* a look under way ends in here */
    mem_free(w);
}
