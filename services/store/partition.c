/*
 * Makes partitions ahead of time, and says in which window ids have one.
 *
 * A keeper looks at the catalog, makes what is missing one short transaction at a time, and looks again. Every replica
 * keeps; whoever comes first makes, the others find it made. A step that fails (a lock held too long, the store away)
 * ends the round; the next tick begins with a new look. Nothing depends on the clock of this process: periods are
 * counted from the database's.
 *
 *      IDLE --tick--> LOOKING --missing--> MAKING --> ... --> LOOKING --nothing missing--> IDLE
 */
#include "store/partition.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/metric.h"
#include "store/partition_plan.h"
#include "store/sync.h"

/* kind 0..2 as enum partition_kind; NULL in the single row of a schema without partitions. */
static const char look_sql[] =
    "SELECT c.partition_seconds, c.origin, clock_timestamp(), c.floor, p.kind, p.period FROM cfg c LEFT JOIN ("
    " SELECT k.kind, substring(t.relname from '_p([0-9]+)$')::int8 AS period"
    " FROM (VALUES (0::int4, 'message'::regclass), (1, 'decision'::regclass), (2, 'lane_log'::regclass))"
    " AS k(kind, parent)"
    " JOIN pg_inherits i ON i.inhparent = k.parent AND NOT i.inhdetachpending"
    " JOIN pg_class t ON t.oid = i.inhrelid AND t.relname ~ '_p[0-9]{1,15}$'"
    ") p ON true ORDER BY p.kind, p.period";
enum { COL_SECONDS, COL_ORIGIN, COL_NOW, COL_FLOOR, COL_KIND, COL_PERIOD };

static int layout_read(const PGresult *res, struct partition_layout *ret) {
    CLEANUP(partition_layout_deinit) struct partition_layout l = {0};
    int n = PQntuples(res);
    if (n == 0 || pg_get_int32(res, 0, COL_SECONDS) <= 0)
        return -EPROTO;
    l.seconds = pg_get_int32(res, 0, COL_SECONDS);
    l.origin_us = pg_get_time_us(res, 0, COL_ORIGIN);
    l.now_us = pg_get_time_us(res, 0, COL_NOW);
    struct uuid floor;
    pg_get_uuid(res, 0, COL_FLOOR, &floor);
    l.floor_ms = uuid_v7_ms(&floor);
    for (int i = 0; i < n; i++) {
        int32_t kind = pg_get_int32(res, i, COL_KIND);
        if (pg_get_null(res, i, COL_KIND) || kind < 0 || kind >= PARTITION_KINDS)
            continue;
        if (!l.have[kind] && !(l.have[kind] = mem_calloc((size_t)n, sizeof(int64_t))))
            return -ENOMEM;
        l.have[kind][l.have_n[kind]++] = pg_get_int64(res, i, COL_PERIOD);
    }
    *ret = l;
    l = (struct partition_layout){0};
    return 0;
}

int32_t partition_lane_base(const struct store *s, int64_t now_us) {
    return partition_lane_first(s->partition_seconds, s->origin_us, now_us);
}

/* --- blocking, at start --- */

static int look_blocking(PGconn *conn, struct partition_layout *ret, struct errmsg *e) {
    CLEANUP(sync_result_cleanup) PGresult *res = NULL;
    int r = sync_query(conn, look_sql, 0, NULL, &res, e);
    if (r < 0)
        return r;
    r = layout_read(res, ret);
    return r == -EPROTO
               ? err_set(e, r, "the table cfg has lost its row: restore it (epoch, floor, partition_seconds, origin)")
               : r;
}

static int make_blocking(PGconn *conn, const struct partition_layout *l, const struct partition_need *need,
                         struct errmsg *e) {
    char sql[PARTITION_SQL_MAX];
    partition_sql(l, need, sql);
    int r = -EAGAIN;
    /* Somebody else may hold the lock because he makes the same ones. */
    for (int i = 0; i < 5 && r == -EAGAIN; i++)
        r = sync_exec(conn, sql, e);
    if (r < 0)
        err_prefix(e, "partition cannot be made");
    return r;
}

int partition_ensure_blocking(PGconn *conn, int ahead, struct errmsg *e) {
    CLEANUP(partition_layout_deinit) struct partition_layout l = {0};
    struct partition_need needs[PARTITION_NEEDS_MAX];
    size_t n = 0;
    int r = look_blocking(conn, &l, e);
    if (r == 0)
        r = partition_missing(&l, ahead, needs, &n, e);
    for (size_t i = 0; r == 0 && i < n; i++)
        r = make_blocking(conn, &l, &needs[i], e);
    return r;
}

int partition_window_blocking(PGconn *conn, int64_t *ret_lo_ms, int64_t *ret_hi_ms, struct errmsg *e) {
    CLEANUP(partition_layout_deinit) struct partition_layout l = {0};
    int r = look_blocking(conn, &l, e);
    if (r == 0)
        partition_window(&l, ret_lo_ms, ret_hi_ms);
    return r;
}

/* --- the keeper --- */

enum { TICK_MAX_MS = 60000, TICK_MIN_MS = 250, RETRY_MS = 5000 };

struct partition_keeper {
    struct store *store;
    struct pg_conn *conn;
    struct timer *timer;
    struct partition_layout layout;
    struct partition_need needs[PARTITION_NEEDS_MAX];
    size_t needs_n, next;
    bool busy, made; /* a statement is under way; something was made since the last look */
    bool closed;
    struct log_limit limit;
    struct metric *ahead, *failures;
};

static void look(struct partition_keeper *k);

static uint64_t tick_ms(const struct partition_keeper *k) {
    uint64_t quarter = (uint64_t)k->store->partition_seconds * 1000 / 4;
    return MAX((uint64_t)TICK_MIN_MS, MIN(quarter, (uint64_t)TICK_MAX_MS));
}

static void round_failed(struct partition_keeper *k, const char *what, const char *why) {
    metric_add(k->failures, 1);
    if (log_limit_pass(&k->limit, 60 * NS_PER_S))
        LOG_WARN("store", "partitions: %s failed, will try again: %s", what, why);
    timer_arm(k->timer, MIN(tick_ms(k), (uint64_t)RETRY_MS));
}

static void round_over(struct partition_keeper *k) {
    timer_arm(k->timer, tick_ms(k));
}

static void make_next(struct partition_keeper *k);

static void on_made(void *arg, PGresult *res, const struct pg_error *err) {
    struct partition_keeper *k = arg;
    UNUSED(res);
    k->busy = false;
    if (k->closed)
        return;
    if (err->cls != PG_OK) {
        round_failed(k, "making one", err->message);
        return;
    }
    k->made = true;
    k->next++;
    make_next(k);
}

static void make_next(struct partition_keeper *k) {
    if (k->next == k->needs_n) {
        if (k->made)
            look(k); /* publish what is there now */
        else
            round_over(k);
        return;
    }
    char sql[PARTITION_SQL_MAX];
    partition_sql(&k->layout, &k->needs[k->next], sql);
    int r = pg_query_sql(k->conn, sql, NULL, on_made, k);
    if (r < 0)
        round_failed(k, "making one", err_text(r));
    else
        k->busy = true;
}

static void publish(struct partition_keeper *k) {
    int64_t lo, hi;
    partition_window(&k->layout, &lo, &hi);
    /* Widening first, so that no reader sees an empty window between two good ones. */
    if (hi >= atomic_load(&k->store->window_hi_ms)) {
        atomic_store(&k->store->window_hi_ms, hi);
        atomic_store(&k->store->window_lo_ms, lo);
    } else {
        atomic_store(&k->store->window_lo_ms, lo);
        atomic_store(&k->store->window_hi_ms, hi);
    }
    atomic_store(&k->store->floor_ms, k->layout.floor_ms);
    metric_set(k->ahead, (double)partition_ready_ahead(&k->layout));
}

static void on_looked(void *arg, PGresult *res, const struct pg_error *err) {
    struct partition_keeper *k = arg;
    k->busy = false;
    if (k->closed)
        return;
    struct errmsg e = ERRMSG_NULL;
    struct partition_layout l = {0};
    int r = err->cls == PG_OK ? layout_read(res, &l) : -EAGAIN;
    if (r < 0) {
        round_failed(k, "looking", err->cls == PG_OK ? err_text(r) : err->message);
        return;
    }
    partition_layout_deinit(&k->layout);
    k->layout = l;
    publish(k);
    k->made = false;
    k->next = k->needs_n = 0;
    r = partition_missing(&k->layout, (int)MIN(k->store->o.partitions_ahead, (int64_t)PARTITION_AHEAD_MAX), k->needs,
                          &k->needs_n, &e);
    if (r < 0)
        round_failed(k, "planning", e.text);
    else
        make_next(k);
}

static void look(struct partition_keeper *k) {
    if (k->closed || k->busy)
        return;
    if (!pg_conn_ready(k->conn)) /* on_ready looks at once */
        return;
    int r = pg_query_sql(k->conn, look_sql, NULL, on_looked, k);
    if (r < 0)
        round_failed(k, "looking", err_text(r));
    else
        k->busy = true;
}

static void on_look(void *arg) {
    look(arg);
}

int partition_keeper_new(struct loop *l, struct store *s, struct partition_keeper **ret) {
    struct partition_keeper *k = mem_zalloc(sizeof(*k));
    if (!k)
        return -ENOMEM;
    k->store = s;
    k->ahead = metric_get(metric_family(METRIC_GAUGE, "txmsg_partitions_ahead", "",
                                        "Periods after the present one whose partitions are ready.", 1));
    k->failures = metric_get(metric_family(METRIC_COUNTER, "txmsg_partition_failures_total", "",
                                           "Rounds of partition making that failed and will be repeated.", 1));
    int r = timer_new(l, on_look, k, &k->timer);
    if (r == 0)
        r = pg_conn_new(l,
                        &(struct pg_conn_options){.dsn = s->o.dsn,
                                                  .application_name = "txmsg partitions",
                                                  .options = "-c statement_timeout=15000",
                                                  .on_ready = on_look,
                                                  .arg = k},
                        &k->conn);
    if (r < 0) {
        timer_free(k->timer);
        mem_free(k);
        return r;
    }
    *ret = k;
    return 0;
}

void partition_keeper_free(struct partition_keeper *k) {
    if (!k)
        return;
    k->closed = true;
    pg_conn_free(k->conn); /* what is under way ends in here */
    timer_free(k->timer);
    partition_layout_deinit(&k->layout);
    mem_free(k);
}
