/*
 * The clockwork of retention: one connection, one statement at a time, each round begun with a look.
 *
 *   IDLE -> LEADING (advisory lock of the session) -> ROLL once a second
 *        -> LOOK -> what is next (retention_plan.c)
 *             RAISE: nothing undecided, no cursor behind, nothing due below F -> raise the floor to F -> look again
 *             DROP:  the same again, now that nothing below F can come any more -> detach both -> drop both -> look
 *             an undecided transaction slipped in before the floor rose -> lower it again
 *        -> lanes -> housekeeping -> IDLE
 *
 * Whoever holds the session's lock leads; if it dies or hangs, the server ends its session and another one looks and
 * goes on from what it finds. What blocks is kept in gauges and said in the log now and then. @thread of the loop
 */
#include "store/retention.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/metric.h"
#include "store/pg.h"
#include "store/retention_plan.h"

enum {
    TICK_MS = 1000,
    FOLLOW_MS = 5000, /* others try for the lock so often */
    ROUND_MAX_MS = 60000,
    RAISE_TRIES = 50,
    RAISE_PAUSE_MS = 100,
    SETTLE_S = 10, /* a batch formed before its worker saw the deletion is over by then */
    CHUNK_ROWS = 5000,
    BLOCKED_MAX = 200,
    SAY_S = 600,
};

enum step {
    STEP_LOCK,
    STEP_ROLL,
    STEP_LOOK,
    STEP_SWEEP,
    STEP_UNDECIDED,
    STEP_BLOCKED,
    STEP_RAISE,
    STEP_LOWER,
    STEP_DETACH_MESSAGE,
    STEP_DETACH_DECISION,
    STEP_DROP,
    STEP_ALONE, /* finalize, detach or remove one table */
    STEP_LANES,
    STEP_FOLD,
    STEP_LANES_DETACH,
    STEP_LANES_REMOVE,
    STEP_SETTLE,
    STEP_COMPACT,
    STEP_PRUNE,
    STEP_ATTEMPTS,
    STEP_CHECK_ATTEMPTS,
    STEP_DISCARDED,
    STEP_REPLAYS,
    STEP_AUDIT,
};

struct retention {
    struct store *store;
    struct pg_conn *conn;
    struct timer *timer;
    bool busy, leading, closed;
    enum step step;
    uint64_t round_ns; /* when the last round began; 0 = begin one now */
    struct retention_view view;
    struct retention_task task;
    bool more;            /* a chunk was full: the next round comes soon */
    int tries;            /* of RAISE */
    int64_t verified_ms;  /* this floor was found without undecided transactions below it, after it was raised */
    int64_t lanes_period; /* looked at last in this round */
    /* Deleted subscriptions to be settled: those known at `gone_epoch`, once everybody has applied it for a while. */
    char unsettled[RETENTION_IDS_MAX], gone[RETENTION_IDS_MAX];
    int64_t applied_epoch, gone_epoch;
    uint64_t gone_ns;
    char sql[RETENTION_SQL_MAX];
    struct metric_family *blocked;
    struct metric *blocking[BLOCKED_MAX]; /* series that are 1 now */
    size_t blocking_n;
    struct metric *dropped, *overdue;
    char said[160];
    struct log_limit said_limit, failed_limit;
};

static void on_answer(void *arg, PGresult *res, const struct pg_error *err);

static uint64_t round_ms(const struct retention *r) {
    uint64_t quarter = (uint64_t)r->store->partition_seconds * 1000 / 4;
    return MAX((uint64_t)250, MIN(quarter, (uint64_t)ROUND_MAX_MS));
}

static void rest(struct retention *r) {
    timer_arm(r->timer, r->leading ? MIN(round_ms(r), (uint64_t)TICK_MS) : FOLLOW_MS);
}

static void ask(struct retention *r, enum step step, const char *sql) {
    r->step = step;
    r->busy = pg_query_sql(r->conn, sql, NULL, on_answer, r) == 0;
    if (!r->busy)
        rest(r);
}

/* --- what blocks --- */

static void unblock(struct retention *r) {
    for (size_t i = 0; i < r->blocking_n; i++)
        metric_set(r->blocking[i], 0);
    r->blocking_n = 0;
}

static void block(struct retention *r, const char *reason, const char *who, const char *what) {
    char at[32], text[sizeof(r->said)];
    bool named = !strcmp(reason, "cursor") || !strcmp(reason, "due") || !strcmp(reason, "delay");
    struct metric *m = metric_get(r->blocked, reason, named ? who : "");
    metric_set(m, 1);
    if (r->blocking_n < BLOCKED_MAX)
        r->blocking[r->blocking_n++] = m;
    if (r->blocking_n > 1)
        return;
    snprintf(text, sizeof(text), "%s %.64s", reason, who);
    bool news = strcmp(text, r->said) != 0;
    if (!log_limit_pass(&r->said_limit, SAY_S * NS_PER_S) && !news)
        return;
    snprintf(r->said, sizeof(r->said), "%s", text);
    clock_format((r->view.now_us / 1000 - r->store->o.retention_ms) * 1000, at);
    LOG_WARN("store", "retention: not all that is older than %s can be dropped: %s %s (%s)", at, reason, who, what);
}

static void block_rows(struct retention *r, const PGresult *res) {
    for (int i = 0; i < PQntuples(res); i++)
        block(r, (const char *)pg_get_bytes(res, i, 0).p, (const char *)pg_get_bytes(res, i, 1).p,
              (const char *)pg_get_bytes(res, i, 2).p);
}

/* --- a round --- */

static void lanes_next(struct retention *r);

static void round_again(struct retention *r) {
    ask(r, STEP_LOOK, retention_look_sql);
}

static void check(struct retention *r) {
    retention_sweep_sql(retention_end_ms(&r->view, r->task.period), r->sql);
    ask(r, STEP_SWEEP, r->sql);
}

static void ask_undecided(struct retention *r) {
    retention_undecided_sql(r->task.period, r->sql);
    ask(r, STEP_UNDECIDED, r->sql);
}

static void ask_blocked(struct retention *r) {
    int64_t floor_ms = r->task.act == RETENTION_DROP ? r->view.floor_ms : retention_end_ms(&r->view, r->task.period);
    retention_blocked_sql(floor_ms, r->sql);
    ask(r, STEP_BLOCKED, r->sql);
}

static void raise_floor(struct retention *r) {
    retention_raise_sql(retention_end_ms(&r->view, r->task.period), r->sql);
    ask(r, STEP_RAISE, r->sql);
}

static void detach(struct retention *r, enum step step, enum partition_kind k) {
    retention_detach_sql(k, r->task.period, r->task.act == RETENTION_FINALIZE, r->sql);
    ask(r, step, r->sql);
}

static void begin_task(struct retention *r) {
    r->tries = 0;
    switch (r->task.act) {
    case RETENTION_FINALIZE:
    case RETENTION_DETACH:
        detach(r, STEP_ALONE, r->task.kind);
        break;
    case RETENTION_REMOVE:
        retention_remove_sql(r->task.kind, r->task.period, r->sql);
        ask(r, STEP_ALONE, r->sql);
        break;
    case RETENTION_DROP:
    case RETENTION_RAISE:
        check(r);
        break;
    case RETENTION_LANES:
    case RETENTION_REST:
        unblock(r);
        lanes_next(r);
    }
}

static int view_read(struct retention *r, const PGresult *res) {
    enum { SECONDS, ORIGIN, NOW, FLOOR, EPOCH, GONE, APPLIED, KIND, PERIOD, STATE };
    struct retention_view *v = &r->view;
    int n = PQntuples(res);
    if (n == 0)
        return -EPROTO;
    struct uuid floor;
    pg_get_uuid(res, 0, FLOOR, &floor);
    v->seconds = pg_get_int32(res, 0, SECONDS);
    v->origin_us = pg_get_time_us(res, 0, ORIGIN);
    v->now_us = pg_get_time_us(res, 0, NOW);
    v->floor_ms = uuid_v7_ms(&floor);
    v->epoch = pg_get_int64(res, 0, EPOCH);
    snprintf(r->unsettled, sizeof(r->unsettled), "%s", (const char *)pg_get_bytes(res, 0, GONE).p);
    r->applied_epoch = pg_get_int64(res, 0, APPLIED);
    v->tables_n = 0;
    for (int i = 0; i < n && v->tables_n < RETENTION_TABLES_MAX; i++)
        if (!pg_get_null(res, i, KIND))
            v->tables[v->tables_n++] =
                (struct retention_table){(enum partition_kind)pg_get_int32(res, i, KIND), pg_get_int64(res, i, PERIOD),
                                         (enum table_state)pg_get_int32(res, i, STATE)};
    return v->seconds > 0 ? 0 : -EPROTO;
}

static void looked(struct retention *r, const PGresult *res) {
    if (view_read(r, res) < 0) {
        rest(r);
        return;
    }
    int64_t keep_ms = r->store->o.retention_ms, oldest = retention_oldest_ms(&r->view);
    int64_t late_ms =
        oldest == INT64_MAX ? 0 : r->view.now_us / 1000 - keep_ms - oldest - (int64_t)r->view.seconds * 1000;
    metric_set(r->overdue, late_ms > 0 ? (double)late_ms / 1000 : 0);
    r->lanes_period = INT64_MIN;
    r->task = retention_next(&r->view, keep_ms);
    begin_task(r);
}

/* --- after the pairs: lanes, then the rest --- */

static void settle(struct retention *r) {
    uint64_t now = clock_boot_ns();
    if (!*r->gone && *r->unsettled) {
        snprintf(r->gone, sizeof(r->gone), "%s", r->unsettled);
        r->gone_epoch = r->view.epoch;
        r->gone_ns = 0;
    }
    if (*r->gone && r->applied_epoch < r->gone_epoch)
        r->gone_ns = 0;
    else if (*r->gone && !r->gone_ns)
        r->gone_ns = now;
    if (*r->gone && r->gone_ns && now - r->gone_ns >= SETTLE_S * NS_PER_S) {
        retention_settle_sql(r->gone, r->sql);
        *r->gone = 0;
        ask(r, STEP_SETTLE, r->sql);
        return;
    }
    ask(r, STEP_COMPACT, retention_compact_sql);
}

static void lanes_next(struct retention *r) {
    r->task = retention_next_lanes(&r->view, r->store->o.retention_ms, r->lanes_period);
    if (r->task.act != RETENTION_LANES) {
        settle(r);
        return;
    }
    r->lanes_period = r->task.period;
    retention_lanes_sql(r->task.period, r->sql);
    ask(r, STEP_LANES, r->sql);
}

/* Ids of an entry are at most id_future ahead of its time: all of them are gone when the oldest pair begins behind it. */
static void lanes_looked(struct retention *r, const PGresult *res) {
    enum { IN_USE, SEALED, FIRST, LAST };
    int64_t last_ms = pg_get_time_us(res, 0, LAST) / 1000 + r->store->o.id_future_ms;
    if (pg_get_int64(res, 0, SEALED) > 0) {
        char lane[32];
        snprintf(lane, sizeof(lane), "lane %d", pg_get_int32(res, 0, FIRST));
        block(r, "lane", lane, "is not finished");
        lanes_next(r);
    } else if (pg_get_int64(res, 0, IN_USE) > 0) {
        lanes_next(r);
    } else if (last_ms > retention_oldest_ms(&r->view)) {
        lanes_next(r);
    } else {
        retention_fold_sql(r->task.period, r->sql);
        ask(r, STEP_FOLD, r->sql);
    }
}

static void chunk(struct retention *r, enum step step, const char *table, int64_t keep_ms) {
    retention_chunk_sql(table, keep_ms, CHUNK_ROWS, r->sql);
    ask(r, step, r->sql);
}

static void prune(struct retention *r) {
    int64_t oldest = retention_oldest_ms(&r->view);
    retention_prune_sql(oldest == INT64_MAX ? 0 : oldest - r->store->o.id_future_ms, CHUNK_ROWS, r->sql);
    ask(r, STEP_PRUNE, r->sql);
}

static bool was_full(const PGresult *res) {
    return strtol(PQcmdTuples((PGresult *)(uintptr_t)res), NULL, 10) == CHUNK_ROWS;
}

/* --- answers --- */

static void failed(struct retention *r, const struct pg_error *err) {
    if (r->step == STEP_RAISE && err->cls == PG_RETRY && ++r->tries < RAISE_TRIES) {
        if (r->tries == 1)
            block(r, "lock", "", "commits under way hold lane_log");
        timer_arm(r->timer, RAISE_PAUSE_MS);
        return;
    }
    if (r->step == STEP_RAISE)
        r->tries = 0;
    if (err->cls == PG_RETRY && r->step >= STEP_DETACH_MESSAGE && r->step <= STEP_LANES_REMOVE)
        block(r, "lock", "", "a transaction reads the partition");
    else if (err->cls != PG_LOST && log_limit_pass(&r->failed_limit, 60 * NS_PER_S))
        LOG_WARN("store", "retention: step %d failed, later again: %s %s", (int)r->step, err->sqlstate, err->message);
    rest(r);
}

static void blocked_rows(struct retention *r, const PGresult *res, bool undecided) {
    unblock(r);
    block_rows(r, res);
    if (undecided && r->task.act == RETENTION_DROP) {
        /* It came before the floor did. What was below the pair is gone: the floor goes back to where it begins. */
        LOG_WARN("store", "retention: the floor is lowered again: a transaction came in before it was raised");
        retention_lower_sql(r->view.floor_ms, r->task.period * r->view.seconds * 1000, r->sql);
        ask(r, STEP_LOWER, r->sql);
        return;
    }
    lanes_next(r);
}

static void gone(struct retention *r) {
    char at[32];
    clock_format(r->task.period * r->view.seconds * 1000000, at);
    LOG_INFO("store", "retention: partitions of %s dropped", at);
    metric_add(r->dropped, 1);
    r->verified_ms = 0;
    unblock(r);
    round_again(r);
}

static void lanes_gone(struct retention *r) {
    LOG_INFO("store", "retention: lanes of period %lld dropped", (long long)r->task.period);
    lanes_next(r);
}

static void answered(struct retention *r, const PGresult *res) {
    bool raised = r->task.act == RETENTION_DROP;
    switch (r->step) {
    case STEP_LOCK:
        if (pg_get_bool(res, 0, 0)) {
            r->leading = true;
            r->round_ns = 0;
            r->verified_ms = 0;
            *r->gone = 0;
        }
        timer_arm(r->timer, r->leading ? 0 : FOLLOW_MS);
        break;
    case STEP_ROLL:
        if (!r->round_ns || r->more || clock_boot_ns() - r->round_ns >= round_ms(r) * NS_PER_MS) {
            r->round_ns = clock_boot_ns();
            r->more = false;
            round_again(r);
        } else {
            rest(r);
        }
        break;
    case STEP_LOOK:
        looked(r, res);
        break;
    case STEP_SWEEP:
        if (raised && r->verified_ms != r->view.floor_ms)
            ask_undecided(r);
        else
            ask_blocked(r);
        break;
    case STEP_UNDECIDED:
        if (PQntuples(res)) {
            blocked_rows(r, res, true);
        } else if (raised) {
            r->verified_ms = r->view.floor_ms;
            ask_blocked(r);
        } else {
            raise_floor(r);
        }
        break;
    case STEP_BLOCKED:
        if (PQntuples(res))
            blocked_rows(r, res, false);
        else if (raised)
            detach(r, STEP_DETACH_MESSAGE, PARTITION_MESSAGE);
        else
            ask_undecided(r);
        break;
    case STEP_RAISE:
        r->tries = 0;
        unblock(r);
        round_again(r);
        break;
    case STEP_LOWER:
        lanes_next(r);
        break;
    case STEP_DETACH_MESSAGE:
        detach(r, STEP_DETACH_DECISION, PARTITION_DECISION);
        break;
    case STEP_DETACH_DECISION:
        retention_drop_sql(r->task.period, r->sql);
        ask(r, STEP_DROP, r->sql);
        break;
    case STEP_DROP:
        gone(r);
        break;
    case STEP_ALONE:
        round_again(r);
        break;
    case STEP_LANES:
        lanes_looked(r, res);
        break;
    case STEP_FOLD:
        detach(r, STEP_LANES_DETACH, PARTITION_LANE_LOG);
        break;
    case STEP_LANES_DETACH:
        retention_remove_sql(PARTITION_LANE_LOG, r->task.period, r->sql);
        ask(r, STEP_LANES_REMOVE, r->sql);
        break;
    case STEP_LANES_REMOVE:
        lanes_gone(r);
        break;
    case STEP_SETTLE:
        ask(r, STEP_COMPACT, retention_compact_sql);
        break;
    case STEP_COMPACT:
        prune(r);
        break;
    case STEP_PRUNE:
        r->more |= was_full(res);
        chunk(r, STEP_ATTEMPTS, "attempt", r->store->o.retention_ms);
        break;
    case STEP_ATTEMPTS:
        r->more |= was_full(res);
        chunk(r, STEP_CHECK_ATTEMPTS, "check_attempt", r->store->o.retention_ms);
        break;
    case STEP_CHECK_ATTEMPTS:
        r->more |= was_full(res);
        chunk(r, STEP_DISCARDED, "discarded", r->store->o.retention_ms);
        break;
    case STEP_DISCARDED:
        r->more |= was_full(res);
        chunk(r, STEP_REPLAYS, "replay", r->store->o.audit_ms);
        break;
    case STEP_REPLAYS:
        r->more |= was_full(res);
        chunk(r, STEP_AUDIT, "audit", r->store->o.audit_ms);
        break;
    case STEP_AUDIT:
        r->more |= was_full(res);
        if (r->blocking_n == 0)
            r->said[0] = 0;
        rest(r);
        break;
    }
}

static void on_answer(void *arg, PGresult *res, const struct pg_error *err) {
    struct retention *r = arg;
    r->busy = false;
    if (r->closed)
        return;
    if (err->cls == PG_OK)
        answered(r, res);
    else
        failed(r, err);
}

/* --- life --- */

static void on_timer(void *arg) {
    struct retention *r = arg;
    if (r->busy || !pg_conn_ready(r->conn)) /* on_ready looks at once */
        return;
    if (!r->leading)
        ask(r, STEP_LOCK, "SELECT pg_try_advisory_lock(1954049395, 3)"); /* "txms", 3; see migrate.c */
    else if (r->step == STEP_RAISE && r->tries)
        raise_floor(r);
    else
        ask(r, STEP_ROLL, retention_roll_sql);
}

static void on_lost(void *arg, const struct pg_error *why) {
    struct retention *r = arg;
    UNUSED(why);
    if (r->closed)
        return;
    r->leading = false;
    r->tries = 0;
    unblock(r);
    metric_set(r->overdue, 0);
}

int retention_new(struct loop *l, struct store *s, struct retention **ret) {
    struct retention *r = mem_zalloc(sizeof(*r));
    if (!r)
        return -ENOMEM;
    r->store = s;
    r->blocked = metric_family(METRIC_GAUGE, "txmsg_retention_blocked", "reason,subscription",
                               "1 while this keeps the oldest partitions from being dropped.", BLOCKED_MAX);
    r->overdue = metric_get(metric_family(METRIC_GAUGE, "txmsg_retention_overdue_seconds", "",
                                          "How long the oldest partitions are past retention.", 1));
    r->dropped = metric_get(metric_family(METRIC_COUNTER, "txmsg_partitions_dropped_total", "",
                                          "Pairs of partitions dropped by this replica.", 1));
    static const char *const reasons[] = {"undecided", "due", "cursor", "lane", "lock"};
    for (size_t i = 0; i < ARRAY_LEN(reasons); i++)
        metric_set(metric_get(r->blocked, reasons[i], ""), 0);
    int e = timer_new(l, on_timer, r, &r->timer);
    if (e == 0)
        e = pg_conn_new(l,
                        &(struct pg_conn_options){.dsn = s->o.dsn,
                                                  .application_name = "txmsg retention",
                                                  /* A leader that hangs loses its session, and with it the lock. */
                                                  .options = "-c statement_timeout=600000 -c lock_timeout=2000"
                                                             " -c idle_session_timeout=30000 -c jit=off"
                                                             " -c default_transaction_isolation=read\\ committed",
                                                  .on_ready = on_timer,
                                                  .on_lost = on_lost,
                                                  .arg = r},
                        &r->conn);
    if (e < 0) {
        timer_free(r->timer);
        mem_free(r);
        return e;
    }
    *ret = r;
    return 0;
}

void retention_free(struct retention *r) {
    if (!r)
        return;
    r->closed = true;
    pg_conn_free(r->conn); /* what is under way ends in here */
    timer_free(r->timer);
    mem_free(r);
}
