/*
 * Rules and statements of retention.
 *
 * Everything is decided from what one look at the database found, so whoever goes on after a crash, at whichever step
 * it came, does the same as the one who began: a floor above attached tables means that they are about to go; one
 * table of a pair alone, or a detached one, that they were found dead.
 */
#include "store/retention_plan.h"

#include "base/uuid.h"
#include "store/partition.h"
#include "store/stat_sql.h"

static const char *const parents[PARTITION_KINDS] = {"message", "decision", "lane_log"};

/* --- rules --- */

int64_t retention_end_ms(const struct retention_view *v, int64_t period) {
    return (period + 1) * v->seconds * 1000;
}

static const struct retention_table *find(const struct retention_view *v, enum partition_kind k, int64_t period) {
    for (size_t i = 0; i < v->tables_n; i++)
        if (v->tables[i].kind == k && v->tables[i].period == period && v->tables[i].state == TABLE_ATTACHED)
            return &v->tables[i];
    return NULL;
}

static bool of_pair(enum partition_kind k) {
    return k == PARTITION_MESSAGE || k == PARTITION_DECISION;
}

int64_t retention_oldest_ms(const struct retention_view *v) {
    int64_t oldest = INT64_MAX;
    for (size_t i = 0; i < v->tables_n; i++)
        if (of_pair(v->tables[i].kind))
            oldest = MIN(oldest, v->tables[i].period * v->seconds * 1000);
    return oldest;
}

static int64_t lane_period_now(const struct retention_view *v) {
    return (v->now_us - v->origin_us) / ((int64_t)v->seconds * 1000000);
}

/* A loose table of lanes: its lanes were folded before it was detached, so only the age is looked at again. */
static bool lanes_old(const struct retention_view *v, int64_t period, int64_t retention_ms) {
    int64_t end_us = v->origin_us + (period + 1) * v->seconds * 1000000;
    return period < lane_period_now(v) - 1 && end_us / 1000 <= v->now_us / 1000 - retention_ms;
}

struct retention_task retention_next(const struct retention_view *v, int64_t retention_ms) {
    const struct retention_table *below = NULL, *old = NULL;
    for (size_t i = 0; i < v->tables_n; i++)
        if (v->tables[i].state == TABLE_PENDING)
            return (struct retention_task){RETENTION_FINALIZE, v->tables[i].kind, v->tables[i].period};
    for (size_t i = 0; i < v->tables_n; i++) {
        const struct retention_table *t = &v->tables[i];
        bool dead =
            of_pair(t->kind) ? retention_end_ms(v, t->period) <= v->floor_ms : lanes_old(v, t->period, retention_ms);
        if (t->state == TABLE_LOOSE && dead)
            return (struct retention_task){RETENTION_REMOVE, t->kind, t->period};
    }
    for (size_t i = 0; i < v->tables_n; i++) {
        const struct retention_table *t = &v->tables[i];
        if (!of_pair(t->kind) || t->state != TABLE_ATTACHED)
            continue;
        enum partition_kind other = t->kind == PARTITION_MESSAGE ? PARTITION_DECISION : PARTITION_MESSAGE;
        bool pair = find(v, other, t->period);
        if (retention_end_ms(v, t->period) <= v->floor_ms) {
            if (!pair)
                return (struct retention_task){RETENTION_DETACH, t->kind, t->period};
            if (!below || t->period < below->period)
                below = t;
        } else if (pair && retention_end_ms(v, t->period) <= v->now_us / 1000 - retention_ms &&
                   (!old || t->period < old->period)) {
            old = t;
        }
    }
    if (below)
        return (struct retention_task){RETENTION_DROP, PARTITION_MESSAGE, below->period};
    if (old)
        return (struct retention_task){RETENTION_RAISE, PARTITION_MESSAGE, old->period};
    return (struct retention_task){.act = RETENTION_REST};
}

struct retention_task retention_next_lanes(const struct retention_view *v, int64_t retention_ms, int64_t after) {
    for (size_t i = 0; i < v->tables_n; i++) {
        const struct retention_table *t = &v->tables[i];
        if (t->kind == PARTITION_LANE_LOG && t->state == TABLE_ATTACHED && t->period > after &&
            lanes_old(v, t->period, retention_ms))
            return (struct retention_task){RETENTION_LANES, PARTITION_LANE_LOG, t->period};
    }
    return (struct retention_task){.act = RETENTION_REST};
}

/* --- statements --- */

static void floor_text(int64_t ms, char out[UUID_TEXT]) {
    struct uuid id;
    uuid_v7_floor(ms, &id);
    uuid_format(&id, out);
}

static void put(char *out, const char *fmt, ...) PRINTF_LIKE(2, 3);
static void put(char *out, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(out, RETENTION_SQL_MAX, fmt, ap);
    va_end(ap);
    ASSERT(n > 0 && n < RETENTION_SQL_MAX);
}

/* Also: deleted subscriptions that are not settled, and the lowest epoch of those who may still deliver for them. */
const char retention_look_sql[] =
    "SELECT c.partition_seconds, c.origin, clock_timestamp(), c.floor, c.epoch, g.ids, w.epoch, p.kind, p.period,"
    " p.state FROM cfg c"
    " CROSS JOIN (SELECT coalesce(string_agg(s.id::text, ','), '') AS ids FROM (SELECT id FROM subscription"
    " WHERE state = 'deleted' AND NOT settled ORDER BY id LIMIT 40) s) g"
    " CROSS JOIN (SELECT coalesce(min(abs(w.epoch)), 9223372036854775807) AS epoch FROM worker w"
    " WHERE EXISTS (SELECT FROM lane l WHERE l.run = w.run AND l.state <> 'drained')) w"
    " LEFT JOIN ("
    " SELECT k.kind, substring(t.relname from '_p([0-9]+)$')::int8 AS period,"
    " CASE WHEN i.inhrelid IS NULL THEN 2 WHEN i.inhdetachpending THEN 1 ELSE 0 END::int4 AS state"
    " FROM (VALUES (0::int4, 'message'), (1, 'decision'), (2, 'lane_log')) AS k(kind, name)"
    " JOIN pg_class t ON t.relkind = 'r' AND t.relname ~ ('^' || k.name || '_p[0-9]{1,15}$')"
    " AND t.relnamespace = (SELECT relnamespace FROM pg_class WHERE oid = 'message'::regclass)"
    " LEFT JOIN pg_inherits i ON i.inhrelid = t.oid AND i.inhparent = k.name::regclass"
    ") p ON true ORDER BY p.kind, p.period LIMIT 1024";

#define ROLL(lanes)                                                                                                    \
    "WITH t AS MATERIALIZED (SELECT l.lane, coalesce(s.seq, 0) AS from_seq, g.seq AS to_seq FROM lane l"               \
    " LEFT JOIN lane_stat s ON s.lane = l.lane"                                                                        \
    " CROSS JOIN LATERAL (SELECT g.seq FROM lane_log g WHERE g.lane = l.lane ORDER BY g.seq DESC LIMIT 1) g"           \
    " WHERE " lanes "), " STAT_ENTRIES

const char retention_roll_sql[] =
    ROLL("g.seq - coalesce(s.seq, 0) >= 1000") ","
                                               " k AS (INSERT INTO lane_stat (lane, seq) SELECT lane, to_seq FROM t"
                                               " ON CONFLICT (lane) DO UPDATE SET seq = excluded.seq)"
                                               " INSERT INTO stat " STAT_COLUMNS " " STAT_SUMS;

const char retention_compact_sql[] =
    "WITH many AS MATERIALIZED (SELECT count(*) > 200 AS yes FROM (SELECT FROM stat LIMIT 201) s),"
    " gone AS (DELETE FROM stat WHERE (SELECT yes FROM many) RETURNING *)"
    " INSERT INTO stat " STAT_COLUMNS " SELECT sub, sum(prepared), sum(confirmed), sum(cancelled), sum(tombstones),"
    " sum(delivered), sum(dead), sum(discarded) FROM gone GROUP BY sub";

/*
 * The lock waits for every transaction that has written its lane row under the old floor; a lane row that is written
 * later reads the new one. ONLY: rows are inserted through the parent, so its lock is what they hold.
 */
void retention_raise_sql(int64_t floor_ms, char *out) {
    char id[UUID_TEXT];
    floor_text(floor_ms, id);
    put(out,
        "DO $$ BEGIN\n"
        "  SET LOCAL lock_timeout = '200ms';\n"
        "  LOCK TABLE ONLY lane_log IN SHARE MODE;\n"
        "  UPDATE cfg SET floor = '%s', epoch = epoch + 1 WHERE floor < '%s';\n"
        "END $$",
        id, id);
}

void retention_lower_sql(int64_t from_ms, int64_t to_ms, char *out) {
    char from[UUID_TEXT], to[UUID_TEXT];
    floor_text(from_ms, from);
    floor_text(to_ms, to);
    put(out, "UPDATE cfg SET floor = '%s', epoch = epoch + 1 WHERE floor = '%s'", to, from);
}

void retention_sweep_sql(int64_t floor_ms, char *out) {
    char id[UUID_TEXT];
    floor_text(floor_ms, id);
    put(out,
        "DELETE FROM check_due c WHERE c.tx < '%s' AND (EXISTS (SELECT FROM decision d WHERE d.tx = c.tx OFFSET 0)"
        " OR NOT EXISTS (SELECT FROM message m WHERE m.tx = c.tx OFFSET 0))",
        id);
}

void retention_blocked_sql(int64_t floor_ms, char *out) {
    char id[UUID_TEXT];
    floor_text(floor_ms, id);
    put(out,
        "WITH " STAT_TOP ", " STAT_POS
        " SELECT * FROM (SELECT 'undecided' AS reason, c.producer AS who, 'transaction ' || c.tx AS what"
        " FROM check_due c WHERE c.tx < '%s' ORDER BY c.tx LIMIT 1) u"
        " UNION ALL SELECT CASE WHEN d.attempt = 0 AND d.due > now() THEN 'delay' ELSE 'due' END, s.name,"
        " 'transaction ' || d.tx FROM subs s CROSS JOIN LATERAL (SELECT d.tx, d.attempt, d.due FROM delivery_due d "
        "WHERE d.sub = s.id AND d.tx < '%s' ORDER BY d.tx LIMIT 1) d"
        " UNION ALL SELECT 'cursor', p.name, 'lane ' || min(p.lane) FROM pos p WHERE EXISTS (SELECT FROM lane_log e"
        " CROSS JOIN LATERAL unnest(e.conf) WITH ORDINALITY u(tx, ord) WHERE e.lane = p.lane AND e.seq >= p.seq"
        " AND e.seq <= p.top AND u.tx < '%s' AND (e.seq > p.seq OR u.ord * 128 > p.index)) GROUP BY p.name",
        id, id, id);
}

/* A tombstone has its decision too. Both keys are walked in order. */
void retention_undecided_sql(int64_t period, char *out) {
    long long p = period;
    put(out,
        "SELECT 'undecided', m.producer, 'transaction ' || m.tx FROM (SELECT m.tx FROM message_p%lld m WHERE m.n = 0"
        " AND NOT EXISTS (SELECT FROM decision_p%lld d WHERE d.tx = m.tx) LIMIT 1) u"
        " JOIN message_p%lld m ON m.tx = u.tx AND m.n = 0",
        p, p, p);
}

void retention_detach_sql(enum partition_kind k, int64_t period, bool finalize, char *out) {
    put(out, "ALTER TABLE %s DETACH PARTITION %s_p%lld %s", parents[k], parents[k], (long long)period,
        finalize ? "FINALIZE" : "CONCURRENTLY");
}

void retention_drop_sql(int64_t period, char *out) {
    put(out, "DROP TABLE IF EXISTS message_p%lld, decision_p%lld", (long long)period, (long long)period);
}

void retention_remove_sql(enum partition_kind k, int64_t period, char *out) {
    put(out, "DROP TABLE IF EXISTS %s_p%lld", parents[k], (long long)period);
}

static long long lane_from(int64_t period) {
    return period * LANES_PER_PERIOD;
}

void retention_lanes_sql(int64_t period, char *out) {
    put(out,
        "SELECT count(*) FILTER (WHERE l.state = 'open'), count(*) FILTER (WHERE l.state = 'sealed'),"
        " coalesce(min(l.lane) FILTER (WHERE l.state = 'sealed'), 0),"
        " coalesce(max(g.at), 'epoch') FROM lane l LEFT JOIN LATERAL (SELECT g.at FROM lane_log g"
        " WHERE g.lane = l.lane ORDER BY g.seq DESC LIMIT 1) g ON true"
        " WHERE l.lane::int8 >= %lld AND l.lane::int8 < %lld",
        lane_from(period), lane_from(period + 1));
}

/*
 * One transaction, so that no entry is counted twice or not at all. The row of cfg is locked first, as by whoever
 * changes the configuration: a new subscription that opens finished lanes again comes before it or finds none.
 */
void retention_fold_sql(int64_t period, char *out) {
    long long lo = lane_from(period), hi = lane_from(period + 1);
    put(out,
        "DO $$ BEGIN\n"
        "  SET LOCAL lock_timeout = '1s';\n"
        "  PERFORM FROM cfg FOR UPDATE;\n"
        "  IF EXISTS (SELECT FROM lane WHERE lane::int8 >= %lld AND lane::int8 < %lld AND state <> 'drained') THEN\n"
        "    RAISE EXCEPTION 'a lane was opened again' USING ERRCODE = '55P03';\n"
        "  END IF;\n"
        "  " ROLL("l.lane::int8 >= %lld AND l.lane::int8 < %lld") " INSERT INTO stat " STAT_COLUMNS " " STAT_SUMS ";\n"
                                                                  "  DELETE FROM lane_stat WHERE lane::int8 >= %lld "
                                                                  "AND lane::int8 < %lld;\n"
                                                                  "  DELETE FROM sub_vec WHERE lane::int8 >= %lld AND "
                                                                  "lane::int8 < %lld;\n"
                                                                  "  DELETE FROM lane WHERE lane::int8 >= %lld AND "
                                                                  "lane::int8 < %lld;\n"
                                                                  "END $$",
        lo, hi, lo, hi, lo, hi, lo, hi, lo, hi);
}

void retention_settle_sql(const char *ids, char *out) {
    put(out,
        "WITH " STAT_TOP ", " STAT_POS ","
        " due AS (DELETE FROM delivery_due WHERE sub IN (%s) RETURNING sub),"
        " open AS (SELECT p.sub, count(*) AS n FROM pos p CROSS JOIN LATERAL " STAT_OPEN(
            "1000000000") " o"
                          " WHERE p.sub IN (%s) GROUP BY p.sub UNION ALL SELECT sub, count(*) FROM due GROUP BY sub),"
                          " counted AS (INSERT INTO stat (sub, discarded) SELECT sub, sum(n) FROM open GROUP BY sub),"
                          " vec AS (DELETE FROM sub_vec WHERE sub IN (%s))"
                          " UPDATE subscription SET settled = true WHERE id IN (%s) AND state = 'deleted' AND NOT "
                          "settled",
        ids, ids, ids, ids);
}

void retention_chunk_sql(const char *table, int64_t keep_ms, int rows, char *out) {
    put(out,
        "DELETE FROM %s WHERE ctid = ANY (ARRAY(SELECT ctid FROM %s WHERE at < now() - %lld * interval '1 ms'"
        " ORDER BY at LIMIT %d))",
        table, table, (long long)keep_ms, rows);
}

/*
 * Only of lanes in use: their owner writes at the end. Once a lane is sealed its seal must stay where the owner would
 * write next, so nothing of it is touched. Cursors are read from the last 2,500 entries.
 */
void retention_prune_sql(int64_t before_ms, int rows, char *out) {
    put(out,
        "DELETE FROM lane_log e USING (SELECT g.lane, g.seq FROM (SELECT l.lane, least(s.seq, g.seq - 2500) AS upto"
        " FROM lane l JOIN lane_stat s ON s.lane = l.lane CROSS JOIN LATERAL (SELECT g.seq FROM lane_log g"
        " WHERE g.lane = l.lane ORDER BY g.seq DESC LIMIT 1) g WHERE l.state = 'open') t CROSS JOIN LATERAL"
        " (SELECT g.lane, g.seq, g.at FROM lane_log g WHERE g.lane = t.lane ORDER BY g.seq LIMIT %d) g"
        " WHERE g.seq <= t.upto AND g.at < to_timestamp(%lld / 1000.0) LIMIT %d) d"
        " WHERE e.lane = d.lane AND e.seq = d.seq",
        rows, (long long)before_ms, rows);
}
