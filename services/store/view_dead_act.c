/*
 * What people do with dead letters: redrive moves rows to delivery_due, discard notes them in `discarded`.
 *
 * One statement is one transaction: rows, counters and the audit row go together or not at all. Who picks the same rows at
 * the same time passes over those that are locked (SKIP LOCKED), so two acts never take one letter twice and never wait for each other.
 */
#include "store/view_private.h"

/* clang-format off */
/*
 * What can be sent again: the decision says where it stands, the message is the payload. Below the floor partitions may
 * be going; the share lock keeps the floor where it is until the new rows are there for retention to see.
 */
#define FLOOR "WITH f AS MATERIALIZED (SELECT floor FROM cfg FOR SHARE)"
#define NO_FLOOR "WITH f AS (SELECT 1)"
#define REDRIVABLE                                                                                                     \
    " CROSS JOIN LATERAL (SELECT d.lane, d.seq FROM decision d WHERE d.tx = x.tx AND d.verdict = 1"                    \
    " AND x.tx >= (SELECT floor FROM f) OFFSET 0) d"                                                                   \
    " CROSS JOIN LATERAL (SELECT m.n FROM message m WHERE m.tx = x.tx AND m.n = x.n OFFSET 0) m"
#define BY_FILTER(live, redrivable)                                                                                    \
    " FROM dead_letter x JOIN subscription s ON s.id = x.sub" live redrivable " WHERE" VIEW_LETTER_FILTER
#define BY_KEY(redrivable)                                                                                             \
    " FROM unnest($1::text[], $2::uuid[], $3::int2[]) k(name, tx, n) JOIN subscription s ON s.name = k.name"           \
    " AND s.state <> 'deleted' JOIN dead_letter x ON x.sub = s.id AND x.tx = k.tx AND x.n = k.n" redrivable
#define LIVE " AND s.state <> 'deleted'"
#define PICK(place) ", y AS MATERIALIZED (SELECT x.sub, x.tx, x.n, s.name, " place
#define GONE                                                                                                           \
    " gone AS (DELETE FROM dead_letter t USING y WHERE t.sub = y.sub AND t.tx = y.tx AND t.n = y.n"                    \
    " RETURNING t.sub, t.tx, t.n, t.attempts, t.class, t.error, y.lane, y.seq, y.name)"
#define REDRIVE                                                                                                        \
    GONE ", due AS (INSERT INTO delivery_due (sub, tx, n, due, attempt, lane, seq)"                                    \
    " SELECT sub, tx, n, now(), 0, lane, seq FROM gone ORDER BY sub, tx, n ON CONFLICT (sub, tx, n) DO NOTHING),"      \
    " counted AS (INSERT INTO stat (sub, dead) SELECT sub, -count(*) FROM gone GROUP BY sub)"
#define DISCARD(reason)                                                                                                \
    GONE ", due AS (INSERT INTO discarded (sub, tx, n, reason) SELECT sub, tx, n, 'by a person: ' || " reason "::text" \
    " FROM gone ORDER BY tx, sub, n ON CONFLICT (tx, sub, n) DO NOTHING),"                                             \
    " counted AS (INSERT INTO stat (sub, dead, discarded) SELECT sub, -count(*), count(*) FROM gone GROUP BY sub)"
/* $7 limit, $8 actor, $9 reason; by keys $4 actor, $5 reason. */
#define NOTE_MANY(act, to)                                                                                             \
    ", noted AS (INSERT INTO audit (actor, act, object, reason, before, after)"                                        \
    " SELECT $8::text, '" act "', concat_ws(' ', coalesce($1::text, '*'), 'topic ' || $2::text,"                       \
    " 'producer ' || $5::text, 'class ' || $6::text), $9::text,"                                                       \
    " jsonb_build_object('state', 'DEAD', 'count', count(*)),"                                                         \
    " jsonb_build_object('state', '" to "', 'count', count(*)) FROM gone HAVING count(*) > 0)"                         \
    " SELECT count(*), now() FROM gone"
#define NOTE_EACH(act, to)                                                                                             \
    ", noted AS (INSERT INTO audit (actor, act, object, reason, before, after) SELECT $4::text, '" act "',"            \
    " name || '/' || tx || '.' || n, $5::text, jsonb_build_object('state', 'DEAD', 'attempts', attempts, 'class',"     \
    " class, 'error', error), jsonb_build_object('state', '" to "') FROM gone)"                                        \
    " SELECT count(*), now() FROM gone"

/* By enum view_dead_act, then the same by keys. */
const struct pg_stmt view_dead_act_stmts[] = {
    {"redrive", FLOOR PICK("d.lane, d.seq") BY_FILTER(LIVE, REDRIVABLE) " LIMIT $7::int8 FOR UPDATE OF x SKIP LOCKED),"
                REDRIVE NOTE_MANY("dead.redrive", "PENDING")},
    {"discard", NO_FLOOR PICK("0 AS lane, 0 AS seq") BY_FILTER("", "") " LIMIT $7::int8 FOR UPDATE OF x SKIP LOCKED),"
                DISCARD("$9") NOTE_MANY("dead.discard", "DISCARDED")},
    {"redrive_count", FLOOR " SELECT count(*), now() FROM (SELECT 1" BY_FILTER(LIVE, REDRIVABLE) " LIMIT $7::int8) c"},
    {"discard_count", NO_FLOOR " SELECT count(*), now() FROM (SELECT 1" BY_FILTER("", "") " LIMIT $7::int8) c"},
    {"redrive_keys", FLOOR PICK("d.lane, d.seq") BY_KEY(REDRIVABLE) " FOR UPDATE OF x SKIP LOCKED),"
                     REDRIVE NOTE_EACH("dead.redrive", "PENDING")},
    {"discard_keys", NO_FLOOR PICK("0 AS lane, 0 AS seq") BY_KEY("") " FOR UPDATE OF x SKIP LOCKED),"
                     DISCARD("$5") NOTE_EACH("dead.discard", "DISCARDED")},
    {"redrive_count_keys", FLOOR " SELECT count(*), now() FROM (SELECT 1" BY_KEY(REDRIVABLE) ") c"},
    {"discard_count_keys", NO_FLOOR " SELECT count(*), now() FROM (SELECT 1" BY_KEY("") ") c"},
    {NULL, NULL},
};
enum { KEYS = 4 };
/* clang-format on */

struct act_req {
    struct view_req q;
    view_count_fn *fn;
    void *arg;
    int64_t count, now_us;
};

static void act_cleanup(struct act_req **at) {
    struct act_req *q = *at;
    if (!q)
        return;
    arena_deinit(&q->q.arena);
    mem_free(q);
}

static void act_result(struct view_req *req, int i, PGresult *res) {
    struct act_req *q = CONTAINER_OF(req, struct act_req, q);
    UNUSED(i);
    q->count = pg_get_int64(res, 0, 0);
    q->now_us = pg_get_time_us(res, 0, 1);
}

static void act_done(struct view_req *req) {
    CLEANUP(act_cleanup) struct act_req *q = CONTAINER_OF(req, struct act_req, q);
    q->fn(q->arg, q->q.code, q->count, q->now_us);
}

static int act_ask(struct pg_conn *c, int stmt, const struct pg_params *p, view_count_fn *fn, void *arg) {
    CLEANUP(act_cleanup) struct act_req *q = mem_zalloc(sizeof(*q));
    if (!q)
        return -ENOMEM;
    view_req_init(&q->q);
    q->q.result = act_result;
    q->q.done = act_done;
    q->fn = fn;
    q->arg = arg;
    int r = view_ask(c, &q->q, view_dead_act_stmts, view_dead_act_stmts[stmt].name, p);
    if (r == 0)
        TAKE(q);
    return r;
}

static bool only_counts(enum view_dead_act act) {
    return act == VIEW_DEAD_COUNT_REDRIVE || act == VIEW_DEAD_COUNT_DISCARD;
}

int view_dead_act(struct pg_conn *c, enum view_dead_act act, const struct view_dead_filter *f, const char *actor,
                  const char *reason, view_count_fn *fn, void *arg) {
    struct pg_params p;
    view_dead_params(&p, f);
    if (only_counts(act)) {
        pg_param_int64(&p, VIEW_DEAD_COUNT_MAX + 1);
    } else {
        pg_param_int64(&p, MAX(1, MIN(f->limit, VIEW_DEAD_ACT_MAX)));
        pg_param_text(&p, actor);
        pg_param_text(&p, reason);
    }
    return act_ask(c, (int)act, &p, fn, arg);
}

static int put_keys(const struct dead_key *keys, size_t n, struct buf *names, struct buf *txs, struct buf *ns) {
    pgarr_begin(names, OID_TEXT);
    pgarr_begin(txs, OID_UUID);
    pgarr_begin(ns, OID_INT2);
    for (size_t i = 0; i < n; i++) {
        pgarr_bytes(names, bytes_str(keys[i].subscription));
        pgarr_uuid(txs, &keys[i].tx);
        pgarr_int16(ns, keys[i].n);
    }
    int r = pgarr_end(names);
    if (r == 0)
        r = pgarr_end(txs);
    if (r == 0)
        r = pgarr_end(ns);
    return r;
}

int view_dead_act_keys(struct pg_conn *c, enum view_dead_act act, const struct dead_key *keys, size_t n,
                       const char *actor, const char *reason, view_count_fn *fn, void *arg) {
    CLEANUP_BUF struct buf names, txs, ns;
    struct pg_params p;
    buf_init(&names, 1 << 20);
    buf_init(&txs, 1 << 20);
    buf_init(&ns, 1 << 20);
    int r = n <= VIEW_DEAD_ACT_MAX ? put_keys(keys, n, &names, &txs, &ns) : -EINVAL;
    if (r < 0)
        return r;
    pg_params_init(&p);
    pg_param_array(&p, &names);
    pg_param_array(&p, &txs);
    pg_param_array(&p, &ns);
    if (!only_counts(act)) {
        pg_param_text(&p, actor);
        pg_param_text(&p, reason);
    }
    return act_ask(c, KEYS + (int)act, &p, fn, arg);
}
