/* Three statements, see alerts.h. The tables of exceptions are small as long as things go well; counting ends at 10,000. */
#include "store/alerts.h"

#define NOW_BAD                                                                                                        \
    "WITH c AS MATERIALIZED (SELECT 'dead_letters' AS kind, s.name AS object FROM subscription s"                      \
    " WHERE s.state <> 'deleted' AND EXISTS (SELECT 1 FROM dead_letter d WHERE d.sub = s.id)"                          \
    " UNION ALL SELECT DISTINCT 'stuck', k.producer FROM check_due k WHERE k.state = 1)"

/* What was never told and is over already goes without a word; a notice that somebody is sending is left alone. */
static const char look_sql[] =
    NOW_BAD ", opened AS (INSERT INTO alert (kind, object) SELECT kind, object FROM c ON CONFLICT DO NOTHING),"
            " gone AS (DELETE FROM alert a WHERE a.seq = 0 AND NOT (a.sending AND a.due > now())"
            " AND NOT EXISTS (SELECT 1 FROM c WHERE c.kind = a.kind AND c.object = a.object))"
            " UPDATE alert a SET resolved = NOT a.resolved, due = now(), tries = 0 FROM alert b"
            " LEFT JOIN c ON c.kind = b.kind AND c.object = b.object WHERE a.kind = b.kind AND a.object = b.object"
            " AND (c.kind IS NULL) <> a.resolved AND a.seq > 0 AND NOT (a.sending AND a.due > now())";

static const char claim_sql[] =
    "WITH n AS MATERIALIZED (SELECT kind, object FROM alert WHERE due <= now() ORDER BY due LIMIT 1 FOR UPDATE SKIP "
    "LOCKED)"
    " UPDATE alert a SET due = now() + interval '30 s', token = a.token + 1, sending = true FROM n"
    " WHERE a.kind = n.kind AND a.object = n.object"
    " RETURNING a.kind, a.object, a.id || '-' || a.seq, a.seq, a.token, a.tries, a.since, now(), a.resolved,"
    " CASE a.kind WHEN 'stuck' THEN (SELECT count(*) FROM (SELECT 1 FROM check_due k WHERE k.state = 1"
    " AND k.producer = a.object LIMIT 10000) x) ELSE (SELECT count(*) FROM (SELECT 1 FROM dead_letter d"
    " JOIN subscription s ON s.id = d.sub WHERE s.name = a.object AND s.state <> 'deleted' LIMIT 10000) x) END,"
    " left(CASE a.kind WHEN 'stuck' THEN (SELECT k.last_error FROM check_due k WHERE k.state = 1"
    " AND k.producer = a.object ORDER BY k.tx DESC LIMIT 1) ELSE (SELECT d.error FROM dead_letter d JOIN subscription s"
    " ON s.id = d.sub WHERE s.name = a.object AND s.state <> 'deleted' ORDER BY d.at DESC LIMIT 1) END, 60)";

static const char end_sql[] =
    "WITH gone AS (DELETE FROM alert WHERE kind = $1::text AND object = $2::text AND token = $3::int4 AND $4::bool"
    " AND resolved) UPDATE alert SET sending = false, due = now() + $5::int8 * interval '1 ms',"
    " seq = seq + $4::bool::int, tries = CASE WHEN $4::bool THEN 0 ELSE tries + 1 END"
    " WHERE kind = $1::text AND object = $2::text AND token = $3::int4 AND NOT ($4::bool AND resolved)";

struct question {
    void (*done)(void *arg, int code);
    void (*claimed)(void *arg, int code, const struct alert *a);
    void *arg;
};

static void on_done(void *arg, PGresult *res, const struct pg_error *err) {
    struct question q = *(struct question *)arg;
    UNUSED(res);
    mem_free(arg);
    q.done(q.arg, err->cls == PG_OK ? 0 : -EAGAIN);
}

static void put(char *out, size_t n, const PGresult *res, int col) {
    struct bytes v = pg_get_bytes(res, 0, col);
    snprintf(out, n, "%.*s", (int)v.n, v.n ? (const char *)v.p : "");
}

static void on_claimed(void *arg, PGresult *res, const struct pg_error *err) {
    struct question q = *(struct question *)arg;
    struct alert a = {.seq = 0};
    mem_free(arg);
    if (err->cls != PG_OK || PQntuples(res) == 0) {
        q.claimed(q.arg, err->cls == PG_OK ? 0 : -EAGAIN, NULL);
        return;
    }
    put(a.kind, sizeof(a.kind), res, 0);
    put(a.object, sizeof(a.object), res, 1);
    put(a.id, sizeof(a.id), res, 2);
    a.seq = pg_get_int32(res, 0, 3);
    a.token = pg_get_int32(res, 0, 4);
    a.tries = pg_get_int32(res, 0, 5);
    a.since_us = pg_get_time_us(res, 0, 6);
    a.now_us = pg_get_time_us(res, 0, 7);
    a.resolved = pg_get_bool(res, 0, 8);
    a.count = pg_get_int64(res, 0, 9);
    put(a.error, sizeof(a.error), res, 10);
    q.claimed(q.arg, 0, &a);
}

static int ask(struct pg_conn *c, const char *sql, const struct pg_params *p, pg_done_fn *fn, struct question q) {
    struct question *kept = mem_alloc(sizeof(*kept));
    if (!kept)
        return -ENOMEM;
    *kept = q;
    int r = pg_query_sql(c, sql, p, fn, kept);
    if (r != 0)
        mem_free(kept);
    return r;
}

int alert_look(struct pg_conn *c, void (*fn)(void *arg, int code), void *arg) {
    return ask(c, look_sql, NULL, on_done, (struct question){.done = fn, .arg = arg});
}

int alert_claim(struct pg_conn *c, void (*fn)(void *arg, int code, const struct alert *a), void *arg) {
    return ask(c, claim_sql, NULL, on_claimed, (struct question){.claimed = fn, .arg = arg});
}

int alert_end(struct pg_conn *c, const struct alert *a, bool told, int64_t next_ms, void (*fn)(void *arg, int code),
              void *arg) {
    struct pg_params p;
    pg_params_init(&p);
    pg_param_text(&p, a->kind);
    pg_param_text(&p, a->object);
    pg_param_int32(&p, a->token);
    pg_param_bool(&p, told);
    pg_param_int64(&p, next_ms);
    return ask(c, end_sql, &p, on_done, (struct question){.done = fn, .arg = arg});
}
