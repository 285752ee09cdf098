/*
 * Watching the run-time configuration.
 *
 * A watch asks for the epoch twice a second on a connection of its own. When it changed, everything is read in one
 * statement and handed out as a new snapshot. Nothing is pushed: a lost notification could leave a worker behind for
 * ever, a poll cannot.
 *
 *      IDLE --timer, kick, connected--> ASKING --same epoch--> IDLE
 *                                          +--another--> LOADING --> on_change --> IDLE
 *
 * A kick may come from any thread and may still be on its way when the watch is freed, so the watch is counted: one for
 * its owner, one for each post under way, one while on_change runs.
 */
#include "store/topo.h"

#include "base/clock.h"
#include "base/log.h"
#include "store/topo_load.h"

enum { POLL_MS = 500 };

struct topo_watch {
    struct loop *loop;
    struct store *store;
    struct pg_conn *conn;
    struct timer *timer;
    void (*on_change)(void *arg, struct topology *t);
    void *arg;
    int64_t seen; /* epoch of the last snapshot; -1 = none yet */
    bool busy, again, closed;
    struct log_limit limit;
    _Atomic bool kicked;
    _Atomic int refs;
};

static const struct pg_stmt stmts[] = {
    {"topo_epoch", "SELECT epoch FROM cfg"},
    {"topo_load", topo_load_sql},
    {NULL, NULL},
};

static void watch_unref(struct topo_watch *w) {
    if (atomic_fetch_sub(&w->refs, 1) == 1)
        mem_free(w);
}

static void look(struct topo_watch *w);

static void look_over(struct topo_watch *w) {
    w->busy = false;
    if (w->closed)
        return;
    bool again = w->again;
    w->again = false;
    timer_arm(w->timer, again ? 0 : POLL_MS);
}

static void look_failed(struct topo_watch *w, const char *why) {
    if (!w->closed && log_limit_pass(&w->limit, 60 * NS_PER_S))
        LOG_WARN("store", "reading the configuration failed, will try again: %s", why);
    look_over(w);
}

static void on_loaded(void *arg, PGresult *res, const struct pg_error *err) {
    struct topo_watch *w = arg;
    if (w->closed)
        return;
    if (err->cls != PG_OK) {
        look_failed(w, err->message);
        return;
    }
    struct topology *t = NULL;
    int r = topo_load_snapshot(res, &t);
    if (r < 0) {
        look_failed(w, err_text(r));
        return;
    }
    w->seen = topo_load_epoch(res);
    atomic_store(&w->store->floor_ms, topo_load_floor_ms(res));
    atomic_fetch_add(&w->refs, 1); /* the callee may free the watch */
    w->on_change(w->arg, t);
    topology_unref(t);
    look_over(w);
    watch_unref(w);
}

static void on_epoch(void *arg, PGresult *res, const struct pg_error *err) {
    struct topo_watch *w = arg;
    if (w->closed)
        return;
    if (err->cls != PG_OK || PQntuples(res) != 1) {
        look_failed(w, err->cls != PG_OK ? err->message : "the table cfg has lost its row");
        return;
    }
    if (pg_get_int64(res, 0, 0) == w->seen) {
        look_over(w);
        return;
    }
    int r = pg_query(w->conn, "topo_load", NULL, on_loaded, w);
    if (r < 0)
        look_failed(w, err_text(r));
}

static void look(struct topo_watch *w) {
    if (w->closed)
        return;
    if (w->busy) {
        w->again = true;
        return;
    }
    if (!pg_conn_ready(w->conn)) /* on_ready looks at once */
        return;
    w->busy = true;
    int r = pg_query(w->conn, "topo_epoch", NULL, on_epoch, w);
    if (r < 0)
        look_failed(w, err_text(r));
}

static void on_look(void *arg) {
    look(arg);
}

int topo_watch_new(struct loop *l, struct store *s, void (*on_change)(void *arg, struct topology *t), void *arg,
                   struct topo_watch **ret) {
    struct topo_watch *w = mem_zalloc(sizeof(*w));
    if (!w)
        return -ENOMEM;
    w->loop = l;
    w->store = s;
    w->on_change = on_change;
    w->arg = arg;
    w->seen = -1;
    atomic_init(&w->refs, 1);
    int r = timer_new(l, on_look, w, &w->timer);
    if (r == 0)
        r = pg_conn_new(l,
                        &(struct pg_conn_options){.dsn = s->o.dsn,
                                                  .application_name = "txmsg topology",
                                                  .options = "-c statement_timeout=5000",
                                                  .stmts = stmts,
                                                  .on_ready = on_look,
                                                  .arg = w},
                        &w->conn);
    if (r < 0) {
        timer_free(w->timer);
        mem_free(w);
        return r;
    }
    *ret = w;
    return 0;
}

void topo_watch_free(struct topo_watch *w) {
    if (!w || w->closed)
        return;
    w->closed = true;
    pg_conn_free(w->conn); /* what is under way ends in here */
    timer_free(w->timer);
    watch_unref(w);
}

static void on_kick(void *arg) {
    struct topo_watch *w = arg;
    atomic_store(&w->kicked, false);
    look(w);
    watch_unref(w);
}

void topo_watch_kick(struct topo_watch *w) {
    if (atomic_exchange(&w->kicked, true))
        return; /* one is on its way and will see what this one saw */
    atomic_fetch_add(&w->refs, 1);
    if (loop_post(w->loop, on_kick, w) < 0) { /* the poll comes anyway */
        atomic_store(&w->kicked, false);
        watch_unref(w);
    }
}

/* --- export --- */

struct export {
    topo_exported_fn *fn;
    void *arg;
};

static void on_exported(void *arg, PGresult *res, const struct pg_error *err) {
    CLEANUP_FREE struct export *x = arg;
    CLEANUP_FREE struct topo_object *objects = NULL;
    size_t n = 0;
    int64_t epoch = 0;
    int r = err->cls == PG_OK ? topo_load_objects(res, &objects, &n, &epoch) : err->cls == PG_BUG ? -EINVAL : -EAGAIN;
    x->fn(x->arg, r, objects, n, epoch);
}

int topo_export(struct pg_conn *c, topo_exported_fn *fn, void *arg) {
    CLEANUP_FREE struct export *x = mem_alloc(sizeof(*x));
    if (!x)
        return -ENOMEM;
    *x = (struct export){fn, arg};
    int r = pg_query_sql(c, topo_load_sql, NULL, on_exported, x);
    if (r == 0)
        (void)TAKE(x);
    return r;
}
