/*
 * See replay.h. The statements of people are sent unprepared, see view.c; partitioned tables are read by lateral subqueries.
 *
 * A step looks at the next entries of all lanes, PAGE of each, merged by (time, lane, seq). How far the merge is complete is
 * the horizon: the smallest last time of a page that was full. It never goes beyond that, beyond MERGED entries, or beyond the
 * rows that it may make: what goes out in a second, while less than OPEN_MAX rows are open. A step that finds little goes on
 * at once, so that a range without matches is not walked at a second for a page.
 */
#include "store/replay.h"

#include "store/view_private.h"

#define PAGE     "64"
#define MERGED   "64"
#define OPEN_MAX "1000"

/* clang-format off */
#define TEXT_OF(x)  TEXT_OF_(x)
#define TEXT_OF_(x) #x
/* Of transaction u.tx: the messages that subscription r takes (topic, filter), and that are neither expired nor not due yet. */
#define MESSAGES                                                                                                       \
    " CROSS JOIN LATERAL (SELECT m.n FROM message m WHERE m.tx = u.tx AND m.topic = r.topic"                           \
    " AND (r.producer IS NULL OR m.producer = r.producer)"                                                             \
    " AND (r.filter IS NULL OR coalesce(m.headers, '{}')::jsonb @> r.filter)"                                          \
    " AND (m.expire_at IS NULL OR m.expire_at > now()) AND (m.deliver_at IS NULL OR m.deliver_at <= now()) OFFSET 0) m"
#define SUBSCRIPTION(name)                                                                                             \
    "SELECT s.id AS sub, s.spec->>'topic' AS topic, s.spec->'filter'->'headers' AS filter FROM subscription s"         \
    " WHERE s.name = " name " AND s.state <> 'deleted'"
#define COLUMNS                                                                                                        \
    "SELECT r.id, s.name, r.asked, coalesce(r.producer, ''), r.actor, coalesce(r.reason, ''),"                         \
    " coalesce(r.last_error, c.error, ''), r.from_at, r.to_at, CASE WHEN r.scanned THEN r.to_at ELSE r.pos_at END, r.at,"  \
    " r.ended, r.state, r.rate, r.sent, r.delivered + c.delivered, r.failed + c.failed, r.skipped + c.skipped"         \
    " FROM replay r JOIN subscription s ON s.id = r.sub CROSS JOIN LATERAL (SELECT coalesce(sum(delivered), 0)::int8"  \
    " AS delivered, coalesce(sum(failed), 0)::int8 AS failed, coalesce(sum(skipped), 0)::int8 AS skipped,"             \
    " max(error) AS error FROM replay_count WHERE replay = r.id) c"
enum { COL_ID, COL_SUB, COL_ASKED, COL_PRODUCER, COL_ACTOR, COL_REASON, COL_ERROR, COL_FROM, COL_TO, COL_PROGRESS, COL_AT,
       COL_ENDED, COL_STATE, COL_RATE, COL_SENT, COL_DELIVERED, COL_FAILED, COL_SKIPPED };
/* The sums of replay_count go into the row of a replay that ends, `e` (id). */
#define FOLD                                                                                                           \
    " counts AS (DELETE FROM replay_count c USING e WHERE c.replay = e.id RETURNING c.replay, c.delivered, c.failed,"  \
    " c.skipped, c.error),"                                                                                            \
    " sums AS (SELECT e.id, coalesce(sum(c.delivered), 0) AS delivered, coalesce(sum(c.failed), 0) AS failed,"         \
    " coalesce(sum(c.skipped), 0) AS skipped, max(c.error) AS error FROM e LEFT JOIN counts c ON c.replay = e.id"      \
    " GROUP BY e.id),"
#define FOLDED                                                                                                         \
    " delivered = t.delivered + z.delivered, failed = t.failed + z.failed, skipped = t.skipped + z.skipped,"           \
    " last_error = coalesce(z.error, t.last_error), ended = now()"

static const struct pg_stmt replay_stmts[] = {
    {"start",
     "WITH r AS (SELECT q.sub, q.topic, q.filter, $4::text AS producer FROM (" SUBSCRIPTION("$2::text") ") q),"
     " new AS (INSERT INTO replay (id, sub, asked, producer, from_at, to_at, pos_at, rate, scanned, actor, reason)"
     " SELECT $1::uuid, r.sub, $3::text, $4::text, $5::timestamptz, CASE WHEN $5::timestamptz IS NOT NULL THEN least($6::timestamptz, now()) END, $5::timestamptz,"
     " $7::int4, $5::timestamptz IS NULL, $8::text, $9::text FROM r ON CONFLICT (id) DO NOTHING RETURNING id, sub),"
     " x AS (SELECT new.id, new.sub, u.tx, m.n, row_number() OVER () AS rn FROM new CROSS JOIN r"
     " CROSS JOIN (SELECT DISTINCT tx FROM unnest($10::uuid[]) u(tx)) u CROSS JOIN LATERAL (SELECT FROM decision d"
     " WHERE d.tx = u.tx AND d.verdict = 1 OFFSET 0) d" MESSAGES "),"
     " due AS (INSERT INTO replay_due (replay, sub, tx, n, due) SELECT x.id, x.sub, x.tx, x.n,"
     " now() + (x.rn - 1) * interval '1 s' / $7::int4 FROM x ORDER BY x.tx, x.n),"
     " noted AS (INSERT INTO audit (actor, act, object, reason, after) SELECT $8::text, 'replay.start',"
     " 'replay/' || new.id, $9::text, jsonb_build_object('subscription', $2::text, 'producer', $4::text, 'start_time',"
     " $5::timestamptz, 'end_time', $6::timestamptz, 'transactions', cardinality($10::uuid[]), 'rate', $7::int4)"
     " FROM new) SELECT count(*) FROM new"},
    /* What the first statement made by ids is counted in a second one, which sees it. */
    {"sent", "UPDATE replay SET sent = (SELECT count(*) FROM replay_due WHERE replay = $1::uuid)"
             " WHERE id = $1::uuid AND from_at IS NULL AND sent = 0 AND state = 1"},
    {"get", COLUMNS " WHERE r.id = $1::uuid"},
    {"list", COLUMNS " WHERE ($1::text IS NULL OR s.name = $1::text) AND ($2::timestamptz IS NULL"
             " OR (r.at, r.id) < ($2::timestamptz, $3::uuid)) ORDER BY r.at DESC, r.id DESC LIMIT $4::int8"},
    {"cancel",
     "WITH e AS (SELECT id FROM replay WHERE id = $1::uuid AND state = 1 FOR UPDATE),"
     " gone AS (DELETE FROM replay_due d USING e WHERE d.replay = e.id)," FOLD
     " ended AS (UPDATE replay t SET state = 3," FOLDED " FROM sums z WHERE t.id = z.id RETURNING t.id)"
     " INSERT INTO audit (actor, act, object, reason, before, after) SELECT $2::text, 'replay.cancel', 'replay/' || id,"
     " $3::text, jsonb_build_object('state', 'RUNNING'), jsonb_build_object('state', 'CANCELLED') FROM ended"},
    {"subscription", SUBSCRIPTION("$1::text")},
    {"count_time",
     "WITH r AS MATERIALIZED (SELECT q.*, $2::text AS producer FROM (" SUBSCRIPTION("$1::text") ") q)"
     " SELECT u.tx || '.' || m.n FROM r CROSS JOIN LATERAL (SELECT l.lane, lane_seq_at(l.lane, $3::timestamptz) AS seq"
     " FROM lane l OFFSET 0) l CROSS JOIN LATERAL (SELECT g.conf FROM lane_log g WHERE g.lane = l.lane AND g.seq >= l.seq"
     " AND g.at >= $3::timestamptz AND g.at < least($4::timestamptz, now()) AND g.conf IS NOT NULL OFFSET 0) g"
     " CROSS JOIN LATERAL unnest(g.conf) u(tx)" MESSAGES " LIMIT $5::int8"},
    {"count_ids",
     "WITH r AS MATERIALIZED (SELECT q.*, $2::text AS producer FROM (" SUBSCRIPTION("$1::text") ") q)"
     " SELECT u.tx || '.' || m.n FROM r CROSS JOIN (SELECT DISTINCT tx FROM unnest($3::uuid[]) u(tx)) u"
     " CROSS JOIN LATERAL (SELECT FROM decision d WHERE d.tx = u.tx AND d.verdict = 1 OFFSET 0) d" MESSAGES
     " LIMIT $4::int8"},
    {"step",
     "WITH r AS MATERIALIZED (SELECT p.*, s.spec->>'topic' AS topic, s.spec->'filter'->'headers' AS filter,"
     " s.state = 'deleted' AS orphan FROM (SELECT * FROM replay WHERE state = 1 AND next <= now() ORDER BY next LIMIT 1"
     " FOR UPDATE SKIP LOCKED) p JOIN subscription s ON s.id = p.sub),"
     " o AS MATERIALIZED (SELECT r.id, least(r.rate, " OPEN_MAX " - (SELECT count(*) FROM (SELECT FROM replay_due d"
     " WHERE d.replay = r.id LIMIT " OPEN_MAX ") d)) AS room, EXISTS (SELECT FROM replay_due d WHERE d.replay = r.id)"
     " AS open FROM r),"
     " l AS MATERIALIZED (SELECT l.lane, lane_seq_at(l.lane, r.pos_at) AS seq FROM r JOIN o ON o.room > 0"
     " CROSS JOIN lane l WHERE NOT r.scanned AND NOT r.orphan),"
     " p AS MATERIALIZED (SELECT g.lane, g.seq, g.at, g.conf, count(*) OVER (PARTITION BY g.lane) = " PAGE " AS full_page"
     " FROM l CROSS JOIN LATERAL (SELECT g.lane, g.seq, g.at, g.conf FROM lane_log g WHERE g.lane = l.lane AND g.seq >= l.seq"
     " ORDER BY g.seq LIMIT " PAGE ") g),"
     " h AS MATERIALIZED (SELECT least(r.to_at, (SELECT min(f.at) FROM (SELECT max(p.at) AS at FROM p WHERE p.full_page"
     " GROUP BY p.lane) f)) AS at FROM r),"
     " e AS MATERIALIZED (SELECT p.lane, p.seq, p.at, p.conf FROM p CROSS JOIN r CROSS JOIN h WHERE p.conf IS NOT NULL"
     " AND p.at < r.to_at AND p.at <= h.at AND (p.at, p.lane, p.seq) >= (r.pos_at, r.pos_lane, r.pos_seq)"
     " ORDER BY p.at, p.lane, p.seq LIMIT " MERGED "),"
     " x AS MATERIALIZED (SELECT e.at, e.lane, e.seq, ((u.ord - 1) * 128 + m.n)::int4 AS index, u.tx, m.n"
     " FROM e CROSS JOIN r CROSS JOIN LATERAL unnest(e.conf) WITH ORDINALITY u(tx, ord)" MESSAGES
     " WHERE (e.at, e.lane, e.seq, (u.ord - 1) * 128 + m.n) > (r.pos_at, r.pos_lane, r.pos_seq, r.pos_index)"
     " ORDER BY e.at, e.lane, e.seq, index LIMIT (SELECT room FROM o)),"
     " made AS (INSERT INTO replay_due (replay, sub, tx, n, due) SELECT r.id, r.sub, x.tx, x.n,"
     " now() + (row_number() OVER (ORDER BY x.at, x.lane, x.seq, x.index) - 1) * interval '1 s' / r.rate FROM x CROSS JOIN r"
     " ON CONFLICT (replay, tx, n) DO NOTHING),"
     " n AS MATERIALIZED (SELECT (SELECT count(*) FROM x) AS made, (SELECT count(*) FROM e) AS entries,"
     " (SELECT count(*) FROM x) >= (SELECT room FROM o) AS cut),"
     /* Where it stands: at the last message if it was cut there; else at the last entry of those merged; else at the horizon. */
     " t AS MATERIALIZED (SELECT * FROM ((SELECT x.at, x.lane, x.seq, x.index, 1 AS rank FROM x CROSS JOIN n WHERE n.cut"
     " ORDER BY x.at DESC, x.lane DESC, x.seq DESC, x.index DESC LIMIT 1)"
     " UNION ALL (SELECT e.at, e.lane, e.seq, 2147483647, 2 FROM e CROSS JOIN n WHERE NOT n.cut AND n.entries = " MERGED
     " ORDER BY e.at DESC, e.lane DESC, e.seq DESC LIMIT 1)"
     " UNION ALL SELECT h.at, 2147483647, 2147483647, 2147483647, 3 FROM h CROSS JOIN n CROSS JOIN o"
     " WHERE NOT n.cut AND o.room > 0) t ORDER BY t.rank LIMIT 1),"
     " e2 AS MATERIALIZED (SELECT r.id, r.orphan FROM r CROSS JOIN o WHERE r.orphan OR (r.scanned AND NOT o.open)),"
     " gone AS (DELETE FROM replay_due d USING e2 WHERE d.replay = e2.id),"
     " counts AS (DELETE FROM replay_count c USING e2 WHERE c.replay = e2.id RETURNING c.replay, c.delivered, c.failed,"
     " c.skipped, c.error),"
     " z AS MATERIALIZED (SELECT coalesce(sum(delivered), 0) AS delivered, coalesce(sum(failed), 0) AS failed,"
     " coalesce(sum(skipped), 0) AS skipped, max(error) AS error FROM counts),"
     " moved AS (UPDATE replay v SET sent = v.sent + n.made, pos_at = coalesce(t.at, v.pos_at),"
     " pos_lane = coalesce(t.lane, v.pos_lane), pos_seq = coalesce(t.seq, v.pos_seq),"
     " pos_index = coalesce(t.index, v.pos_index), scanned = v.scanned OR coalesce(t.rank = 3 AND t.at >= v.to_at, false),"
     " state = CASE WHEN e2.orphan THEN 3 WHEN e2.id IS NOT NULL THEN 2 ELSE v.state END,"
     " ended = CASE WHEN e2.id IS NOT NULL THEN now() END, delivered = v.delivered + z.delivered,"
     " failed = v.failed + z.failed, skipped = v.skipped + z.skipped, last_error = coalesce(z.error, v.last_error),"
     " next = now() + CASE WHEN n.made > 0 OR o.room <= 0 OR r.scanned THEN interval '1 s' ELSE interval '0' END"
     " FROM r CROSS JOIN o CROSS JOIN n CROSS JOIN z LEFT JOIN t ON true LEFT JOIN e2 ON true WHERE v.id = r.id"
     " RETURNING v.next <= now() AS soon)"
     " SELECT (SELECT count(*) FROM replay WHERE state = 1), coalesce((SELECT soon FROM moved), false)"},
    {NULL, NULL},
};
/* clang-format on */

/* --- replays from rows --- */

struct replay_req {
    struct view_req q;
    replay_fn *fn;
    void *arg;
    int rows_in; /* which statement's rows are replays */
    struct replay *rows;
    size_t n;
};

static void req_cleanup(struct replay_req **at) {
    struct replay_req *q = *at;
    if (!q)
        return;
    arena_deinit(&q->q.arena);
    mem_free(q);
}

static void put(struct replay_req *q, const PGresult *res, int row, struct replay *r) {
    pg_get_uuid(res, row, COL_ID, &r->id);
    const char **texts[] = {&r->subscription, &r->asked, &r->producer, &r->actor, &r->reason, &r->last_error};
    for (int i = 0; i < (int)ARRAY_LEN(texts); i++)
        *texts[i] = view_text(&q->q, res, row, COL_SUB + i);
    int64_t *times[] = {&r->from_us, &r->to_us, &r->progress_us, &r->at_us, &r->ended_us};
    for (int i = 0; i < (int)ARRAY_LEN(times); i++)
        *times[i] = pg_get_time_us(res, row, COL_FROM + i);
    r->state = (enum replay_state)pg_get_int16(res, row, COL_STATE);
    r->rate = pg_get_int32(res, row, COL_RATE);
    int64_t *counts[] = {&r->sent, &r->delivered, &r->failed, &r->skipped};
    for (int i = 0; i < (int)ARRAY_LEN(counts); i++)
        *counts[i] = pg_get_int64(res, row, COL_SENT + i);
}

static void on_rows(struct view_req *req, int i, PGresult *res) {
    struct replay_req *q = CONTAINER_OF(req, struct replay_req, q);
    if (i != q->rows_in)
        return;
    size_t n = (size_t)PQntuples(res);
    q->rows = arena_zalloc(&q->q.arena, MAX(n, 1u) * sizeof(*q->rows));
    if (!q->rows) {
        q->q.code = -ENOMEM;
        return;
    }
    for (q->n = 0; q->n < n; q->n++)
        put(q, res, (int)q->n, &q->rows[q->n]);
}

static void on_rows_done(struct view_req *req) {
    CLEANUP(req_cleanup) struct replay_req *q = CONTAINER_OF(req, struct replay_req, q);
    q->fn(q->arg, q->q.code, q->rows, q->q.code == 0 ? q->n : 0);
}

static struct replay_req *req_new(replay_fn *fn, void *arg, int rows_in) {
    struct replay_req *q = mem_zalloc(sizeof(*q));
    if (!q)
        return NULL;
    view_req_init(&q->q);
    q->q.result = on_rows;
    q->q.done = on_rows_done;
    q->fn = fn;
    q->arg = arg;
    q->rows_in = rows_in;
    return q;
}

static void param_time(struct pg_params *p, int64_t us) {
    if (us)
        pg_param_time(p, us);
    else
        pg_param_null(p);
}

static int put_ids(const struct replay_spec *s, struct buf *a) {
    pgarr_begin(a, OID_UUID);
    for (size_t i = 0; i < s->ids_n; i++)
        pgarr_uuid(a, &s->ids[i]);
    return pgarr_end(a);
}

void replay_asked(const struct replay_spec *s, struct buf *out) {
    char id[UUID_TEXT];
    buf_printf(out, "%s %s %lld %lld %d", s->subscription, s->producer ? s->producer : "", (long long)s->from_us,
               (long long)s->to_us, s->rate);
    for (size_t i = 0; i < s->ids_n; i++) {
        uuid_format(&s->ids[i], id);
        buf_printf(out, " %s", id);
    }
}

int replay_start(struct pg_conn *c, const struct replay_spec *s, replay_fn *fn, void *arg) {
    CLEANUP_BUF struct buf ids, asked;
    buf_init(&ids, 1 << 20);
    buf_init(&asked, 1 << 20);
    CLEANUP(req_cleanup) struct replay_req *q = req_new(fn, arg, 2);
    if (!q)
        return -ENOMEM;
    replay_asked(s, &asked);
    int r = put_ids(s, &ids);
    if (r == 0)
        r = buf_error(&asked);
    if (r < 0)
        return r;
    struct pg_params p, id;
    pg_params_init(&p);
    pg_param_uuid(&p, &s->id);
    pg_param_text(&p, s->subscription);
    pg_param_bytes(&p, bytes_of(asked.p, asked.n));
    pg_param_text(&p, s->producer);
    param_time(&p, s->from_us);
    param_time(&p, s->to_us);
    pg_param_int32(&p, s->rate);
    pg_param_text(&p, s->actor);
    pg_param_text(&p, s->reason);
    pg_param_array(&p, &ids);
    pg_params_init(&id);
    pg_param_uuid(&id, &s->id);
    r = view_begin(c, &q->q);
    if (r == 0)
        r = view_send(&q->q, replay_stmts, "start", &p);
    if (r == 0)
        r = view_send(&q->q, replay_stmts, "sent", &id);
    if (r == 0)
        r = view_send(&q->q, replay_stmts, "get", &id);
    if (r == 0)
        r = view_end(&q->q);
    if (r == 0)
        TAKE(q);
    return r;
}

int replay_get(struct pg_conn *c, const struct uuid *id, replay_fn *fn, void *arg) {
    CLEANUP(req_cleanup) struct replay_req *q = req_new(fn, arg, 0);
    if (!q)
        return -ENOMEM;
    struct pg_params p;
    pg_params_init(&p);
    pg_param_uuid(&p, id);
    int r = view_ask(c, &q->q, replay_stmts, "get", &p);
    if (r == 0)
        TAKE(q);
    return r;
}

int replay_list(struct pg_conn *c, const char *subscription, int64_t before_us, const struct uuid *before,
                int32_t limit, replay_fn *fn, void *arg) {
    CLEANUP(req_cleanup) struct replay_req *q = req_new(fn, arg, 0);
    if (!q)
        return -ENOMEM;
    struct pg_params p;
    pg_params_init(&p);
    pg_param_text(&p, subscription);
    param_time(&p, before_us);
    pg_param_uuid(&p, before);
    pg_param_int64(&p, limit);
    int r = view_ask(c, &q->q, replay_stmts, "list", &p);
    if (r == 0)
        TAKE(q);
    return r;
}

int replay_cancel(struct pg_conn *c, const struct uuid *id, const char *actor, const char *reason, replay_fn *fn,
                  void *arg) {
    CLEANUP(req_cleanup) struct replay_req *q = req_new(fn, arg, 1);
    if (!q)
        return -ENOMEM;
    struct pg_params p, get;
    pg_params_init(&p);
    pg_param_uuid(&p, id);
    pg_param_text(&p, actor);
    pg_param_text(&p, reason);
    pg_params_init(&get);
    pg_param_uuid(&get, id);
    int r = view_begin(c, &q->q);
    if (r == 0)
        r = view_send(&q->q, replay_stmts, "cancel", &p);
    if (r == 0)
        r = view_send(&q->q, replay_stmts, "get", &get);
    if (r == 0)
        r = view_end(&q->q);
    if (r == 0)
        TAKE(q);
    return r;
}

/* --- what matches --- */

struct matches_req {
    struct view_req q;
    replay_matches_fn *fn;
    void *arg;
    struct replay_matches m;
};

static void matches_cleanup(struct matches_req **at) {
    struct matches_req *q = *at;
    if (!q)
        return;
    arena_deinit(&q->q.arena);
    mem_free(q);
}

static void on_matches(struct view_req *req, int i, PGresult *res) {
    struct matches_req *q = CONTAINER_OF(req, struct matches_req, q);
    if (i == 0) {
        q->m.found = PQntuples(res) > 0;
        return;
    }
    q->m.count = PQntuples(res);
    while (q->m.sample_n < MIN((size_t)q->m.count, (size_t)REPLAY_SAMPLE)) {
        q->m.sample[q->m.sample_n] = view_text(&q->q, res, (int)q->m.sample_n, 0);
        q->m.sample_n++;
    }
}

static void on_matches_done(struct view_req *req) {
    CLEANUP(matches_cleanup) struct matches_req *q = CONTAINER_OF(req, struct matches_req, q);
    q->fn(q->arg, q->q.code, &q->m);
}

int replay_count(struct pg_conn *c, const struct replay_spec *s, replay_matches_fn *fn, void *arg) {
    CLEANUP_BUF struct buf ids;
    buf_init(&ids, 1 << 20);
    CLEANUP(matches_cleanup) struct matches_req *q = mem_zalloc(sizeof(*q));
    if (!q)
        return -ENOMEM;
    view_req_init(&q->q);
    q->q.result = on_matches;
    q->q.done = on_matches_done;
    q->fn = fn;
    q->arg = arg;
    struct pg_params sub, p;
    pg_params_init(&sub);
    pg_param_text(&sub, s->subscription);
    pg_params_init(&p);
    pg_param_text(&p, s->subscription);
    pg_param_text(&p, s->producer);
    if (s->ids_n) {
        int e = put_ids(s, &ids);
        if (e < 0)
            return e;
        pg_param_array(&p, &ids);
    } else {
        param_time(&p, s->from_us);
        param_time(&p, s->to_us);
    }
    pg_param_int64(&p, REPLAY_COUNT_MAX + 1);
    int r = view_begin(c, &q->q);
    if (r == 0)
        r = view_send(&q->q, replay_stmts, "subscription", &sub);
    if (r == 0)
        r = view_send(&q->q, replay_stmts, s->ids_n ? "count_ids" : "count_time", &p);
    if (r == 0)
        r = view_end(&q->q);
    if (r == 0)
        TAKE(q);
    return r;
}

/* --- a step --- */

struct step_req {
    reader_step_fn *fn;
    void *arg;
};

static void on_step(void *arg, PGresult *res, const struct pg_error *err) {
    CLEANUP_FREE struct step_req *q = arg;
    int code = read_code(err);
    bool ok = code == 0 && PQntuples(res) == 1;
    q->fn(q->arg, code, ok ? pg_get_int64(res, 0, 0) : 0, ok && pg_get_bool(res, 0, 1));
}

int replay_step(struct pg_conn *c, reader_step_fn *fn, void *arg) {
    CLEANUP_FREE struct step_req *q = mem_alloc(sizeof(*q));
    if (!q)
        return -ENOMEM;
    *q = (struct step_req){fn, arg};
    const char *sql = NULL;
    for (const struct pg_stmt *s = replay_stmts; s->name; s++)
        if (!strcmp(s->name, "step"))
            sql = s->sql;
    struct pg_params p;
    pg_params_init(&p);
    int r = pg_query_sql(c, sql, &p, on_step, q);
    if (r == 0)
        (void)TAKE(q);
    return r;
}
