/*
 * STUCK transactions put back under checks: their rows come due again with nothing counted, in one statement with its
 * row in the audit log. What was decided meanwhile is passed over.
 */
#include "store/view_private.h"

#include "store/pgarr.h"

enum { RECHECK_MAX = 10000, SAMPLE_MAX = 10 };

/* clang-format off */
#define PICKED                                                                                                         \
    "SELECT c.tx FROM check_due c WHERE c.state = 1 AND c.tx >= $1::uuid AND c.tx < $2::uuid"                          \
    " AND ($3::text IS NULL OR c.producer = $3::text) AND ($4::uuid[] IS NULL OR c.tx = ANY ($4::uuid[]))"             \
    " AND NOT EXISTS (SELECT FROM decision d WHERE d.tx = c.tx) ORDER BY c.tx LIMIT $5::int8"
#define ANSWER(from) "SELECT count(*), (SELECT array_agg(s.tx) FROM (SELECT tx FROM " from " ORDER BY tx LIMIT 10) s) FROM " from

static const struct pg_stmt stmts[] = {
    {"count", "WITH t AS MATERIALIZED (" PICKED ") " ANSWER("t")},
    {"recheck",
     "WITH t AS MATERIALIZED (" PICKED " FOR UPDATE OF c SKIP LOCKED),"
     " u AS (UPDATE check_due c SET state = 0, unknowns = 0, failures = 0, due = now(), token = c.token + 1"
     " FROM t WHERE c.tx = t.tx RETURNING c.tx),"
     " noted AS (INSERT INTO audit (actor, act, object, reason, before, after)"
     " SELECT $6::text, 'stuck.recheck', coalesce($3::text, '*'), $7::text,"
     " jsonb_build_object('state', 'STUCK', 'count', count(*)), jsonb_build_object('state', 'PREPARED', 'count', count(*)) FROM u"
     " WHERE $4::uuid[] IS NULL HAVING count(*) > 0 UNION ALL"
     " SELECT $6::text, 'stuck.recheck', u.tx::text, $7::text, jsonb_build_object('state', 'STUCK'),"
     " jsonb_build_object('state', 'PREPARED') FROM u WHERE $4::uuid[] IS NOT NULL) " ANSWER("u")},
    {NULL, NULL},
};
/* clang-format on */

struct recheck_req {
    struct view_req q;
    view_recheck_fn *fn;
    void *arg;
    int64_t count;
    struct uuid sample[SAMPLE_MAX];
    size_t sample_n;
};

static void recheck_cleanup(struct recheck_req **at) {
    if (!*at)
        return;
    arena_deinit(&(*at)->q.arena);
    mem_free(*at);
}

static void recheck_result(struct view_req *req, int i, PGresult *res) {
    struct recheck_req *q = CONTAINER_OF(req, struct recheck_req, q);
    struct bytes ids = pg_get_bytes(res, 0, 1);
    struct pgarr_view v = {.n = 0};
    UNUSED(i);
    q->count = pg_get_int64(res, 0, 0);
    if (ids.n && pgarr_read(ids, OID_UUID, &v) < 0)
        q->q.code = -EINVAL;
    for (; q->sample_n < MIN(v.n, (uint32_t)SAMPLE_MAX); q->sample_n++)
        memcpy(q->sample[q->sample_n].b, pgarr_next(&v).p, sizeof(q->sample->b));
}

static void recheck_done(struct view_req *req) {
    CLEANUP(recheck_cleanup) struct recheck_req *q = CONTAINER_OF(req, struct recheck_req, q);
    q->fn(q->arg, q->q.code, MIN(q->count, (int64_t)RECHECK_MAX), q->count > RECHECK_MAX, q->sample, q->sample_n);
}

static int ask(struct pg_conn *c, struct recheck_req *q, const struct view_recheck *r) {
    CLEANUP_BUF struct buf ids;
    struct uuid lo, hi;
    struct pg_params p;

    buf_init(&ids, 1 << 20);
    memset(&hi, 0xff, sizeof(hi));
    view_floor(r->filter.start_us, &lo);
    if (r->filter.end_us)
        view_floor(r->filter.end_us, &hi);
    pg_params_init(&p);
    pg_param_uuid(&p, &lo);
    pg_param_uuid(&p, &hi);
    pg_param_text(&p, r->filter.producer);
    if (r->ids) {
        pgarr_begin(&ids, OID_UUID);
        for (size_t i = 0; i < r->ids_n; i++)
            pgarr_uuid(&ids, &r->ids[i]);
        int e = pgarr_end(&ids);
        if (e < 0)
            return e;
        pg_param_array(&p, &ids);
    } else {
        pg_param_null(&p);
    }
    pg_param_int64(&p, r->force ? RECHECK_MAX : RECHECK_MAX + 1);
    if (r->force) {
        pg_param_text(&p, r->actor);
        pg_param_text(&p, r->reason);
    }
    return view_ask(c, &q->q, stmts, r->force ? "recheck" : "count", &p);
}

int view_recheck(struct pg_conn *c, const struct view_recheck *r, view_recheck_fn *fn, void *arg) {
    CLEANUP(recheck_cleanup) struct recheck_req *q = mem_zalloc(sizeof(*q));
    if (!q)
        return -ENOMEM;
    view_req_init(&q->q);
    q->q.result = recheck_result;
    q->q.done = recheck_done;
    q->fn = fn;
    q->arg = arg;
    int e = ask(c, q, r);
    if (e == 0)
        TAKE(q);
    return e;
}
