/*
 * GetStats: one statement, which is one snapshot.
 *
 * Lanes count in their log rows, in the transaction that makes the change. Retention rolls them up into `stat` and
 * notes how far in lane_stat, in one transaction; so the sum of both is the same before and after. What is in flight
 * is not counted anywhere: it is what stands behind the cursors, and the rows to retry.
 */
#include "store/stat.h"

#include "store/stat_sql.h"
#include "store/view_private.h"

#define OPEN_MAX    100000
#define TEXT_OF(x)  TEXT_OF_(x)
#define TEXT_OF_(x) #x

/* clang-format off */
static const struct pg_stmt stat_stmts[] = {
    {"stats",
     "WITH " STAT_TOP ", " STAT_POS ","
     " t AS MATERIALIZED (SELECT l.lane, coalesce(s.seq, 0) AS from_seq, l.seq AS to_seq FROM top l"
     " LEFT JOIN lane_stat s ON s.lane = l.lane), " STAT_ENTRIES ","
     " x AS MATERIALIZED (SELECT u.sub, sum(u.prepared)::int8 AS prepared, sum(u.confirmed)::int8 AS confirmed,"
     " sum(u.cancelled)::int8 AS cancelled, sum(u.tombstones)::int8 AS tombstones, sum(u.delivered)::int8 AS delivered,"
     " sum(u.dead)::int8 AS dead, sum(u.discarded)::int8 AS discarded FROM (SELECT sub, prepared, confirmed, cancelled,"
     " tombstones, delivered, dead, discarded FROM stat UNION ALL (" STAT_SUMS ")) u GROUP BY u.sub),"
     " o AS MATERIALIZED (SELECT p.sub, sum(o.n)::int8 AS n, min(o.at) AS at, bool_or(o.n >= " TEXT_OF(OPEN_MAX) ")"
     " AS more FROM pos p CROSS JOIN LATERAL (SELECT count(*) AS n, min(o.at) AS at FROM "
     STAT_OPEN(TEXT_OF(OPEN_MAX)) " o) o WHERE $1::text IS NULL OR p.name = $1::text GROUP BY p.sub),"
     /* What is delayed has no age before its deliver_at, and counts from there. */
     " d AS MATERIALIZED (SELECT q.sub, count(*) AS n, min(greatest(z.at, m.deliver_at)) FILTER (WHERE m.deliver_at IS NULL"
     " OR m.deliver_at <= now()) AS at FROM delivery_due q LEFT JOIN LATERAL"
     " (SELECT z.at FROM decision z WHERE z.tx = q.tx OFFSET 0) z ON true LEFT JOIN LATERAL"
     " (SELECT m.deliver_at FROM message m WHERE m.tx = q.tx AND m.n = q.n OFFSET 0) m ON true GROUP BY q.sub),"
     " s AS MATERIALIZED (SELECT CASE WHEN s.state <> 'deleted' THEN s.name END AS name,"
     " coalesce(x.delivered, 0) AS delivered, coalesce(x.dead, 0) AS dead, coalesce(x.discarded, 0) AS discarded,"
     " coalesce(o.n, 0) + coalesce(d.n, 0) AS open, least(o.at, d.at) AS at, coalesce(o.more, false) AS more"
     " FROM subscription s LEFT JOIN x ON x.sub = s.id LEFT JOIN o ON o.sub = s.id LEFT JOIN d ON d.sub = s.id"
     " WHERE $1::text IS NULL OR (s.name = $1::text AND s.state <> 'deleted'))"
     " SELECT 0 AS kind, '' AS name, coalesce(sum(x.prepared), 0)::int8, coalesce(sum(x.confirmed), 0)::int8,"
     " coalesce(sum(x.cancelled), 0)::int8, coalesce(sum(x.tombstones), 0)::int8, (SELECT m.at FROM (SELECT c.tx"
     " FROM check_due c WHERE NOT EXISTS (SELECT FROM decision d WHERE d.tx = c.tx OFFSET 0) ORDER BY c.tx LIMIT 1) c"
     " CROSS JOIN LATERAL (SELECT m.at FROM message m WHERE m.tx = c.tx AND m.n = 0 OFFSET 0) m),"
     " (SELECT count(*) FROM check_due c WHERE c.state = 1"
     " AND NOT EXISTS (SELECT FROM decision d WHERE d.tx = c.tx OFFSET 0)), now(), false FROM x WHERE x.sub = 0"
     " UNION ALL SELECT 1, s.name, s.delivered, s.dead, s.discarded, s.open, s.at, 0, now(), s.more FROM s"
     " WHERE s.name IS NOT NULL"
     " UNION ALL SELECT 2, '', coalesce(sum(s.delivered), 0)::int8, coalesce(sum(s.dead), 0)::int8,"
     " coalesce(sum(s.discarded), 0)::int8, coalesce(sum(s.open), 0)::int8, min(s.at), 0, now(),"
     " coalesce(bool_or(s.more), false) FROM s WHERE s.name IS NULL AND $1::text IS NULL HAVING $1::text IS NULL"
     " ORDER BY 1, 2"},
    {NULL, NULL},
};
/* clang-format on */
enum { COL_KIND, COL_NAME, COL_FIRST, COL_SECOND, COL_THIRD, COL_FOURTH, COL_OLDEST, COL_STUCK, COL_NOW, COL_MORE };

struct stat_req {
    struct view_req q;
    stat_fn *fn;
    void *arg;
    struct stat_totals t;
    struct stat_sub *subs;
};

static void put_totals(struct stat_totals *t, const PGresult *res, int row) {
    t->at_us = pg_get_time_us(res, row, COL_NOW);
    t->prepared = pg_get_int64(res, row, COL_FIRST);
    t->confirmed = pg_get_int64(res, row, COL_SECOND);
    t->cancelled = pg_get_int64(res, row, COL_THIRD);
    t->tombstones = pg_get_int64(res, row, COL_FOURTH);
    t->oldest_us = pg_get_null(res, row, COL_OLDEST) ? 0 : pg_get_time_us(res, row, COL_OLDEST);
    t->stuck = pg_get_int64(res, row, COL_STUCK);
}

static void result(struct view_req *req, int i, PGresult *res) {
    struct stat_req *q = CONTAINER_OF(req, struct stat_req, q);
    int rows = PQntuples(res);
    UNUSED(i);
    q->subs = arena_zalloc(&q->q.arena, (size_t)MAX(rows, 1) * sizeof(*q->subs));
    if (!q->subs) {
        q->q.code = -ENOMEM;
        return;
    }
    for (int row = 0; row < rows && q->q.code == 0; row++) {
        if (pg_get_int32(res, row, COL_KIND) == 0) {
            put_totals(&q->t, res, row);
            continue;
        }
        q->subs[q->t.subs_n++] = (struct stat_sub){
            .name = view_text(&q->q, res, row, COL_NAME),
            .delivered = pg_get_int64(res, row, COL_FIRST),
            .dead = pg_get_int64(res, row, COL_SECOND),
            .discarded = pg_get_int64(res, row, COL_THIRD),
            .in_flight = pg_get_int64(res, row, COL_FOURTH),
            .oldest_us = pg_get_null(res, row, COL_OLDEST) ? 0 : pg_get_time_us(res, row, COL_OLDEST),
            .more = pg_get_bool(res, row, COL_MORE),
        };
    }
    q->t.subs = q->subs;
}

static void stat_free(struct stat_req *q) {
    if (!q)
        return;
    arena_deinit(&q->q.arena);
    mem_free(q);
}
DEFINE_CLEANUP(struct stat_req *, stat, stat_free);

static void done(struct view_req *req) {
    CLEANUP(stat_cleanup) struct stat_req *q = CONTAINER_OF(req, struct stat_req, q);
    q->fn(q->arg, q->q.code, q->q.code == 0 ? &q->t : NULL);
}

int stat_get(struct pg_conn *c, const char *subscription, stat_fn *fn, void *arg) {
    CLEANUP(stat_cleanup) struct stat_req *q = mem_zalloc(sizeof(*q));
    if (!q)
        return -ENOMEM;
    view_req_init(&q->q);
    q->q.result = result;
    q->q.done = done;
    q->fn = fn;
    q->arg = arg;
    struct pg_params p;
    pg_params_init(&p);
    pg_param_text(&p, subscription);
    int r = view_ask(c, &q->q, stat_stmts, "stats", &p);
    if (r == 0)
        (void)TAKE(q);
    return r;
}
