/*
 * What people ask about transactions.
 *
 * Statements are sent unprepared, so that each is planned for its own parameters: a filter that is not given (NULL)
 * falls away and the partitions outside a time window are not looked at. The state of a transaction is nowhere stored
 * as such: it is its decision, or the lack of one. So is the state of a delivery: a dead letter, a row to retry, a
 * note that it was discarded, or else which side of the subscription's durable cursor the message is on.
 */
#include "store/view_private.h"

#include "base/log.h"

/* clang-format off */
/* That of the Prepare, or the one that the decision brought for it. */
#define BODY_OF_M                                                                                                      \
    "coalesce(m.body, (SELECT d.amend[1 + (SELECT count(*)::int4 FROM message y WHERE y.tx = m.tx AND y.n < m.n"       \
    " AND y.body IS NULL)] FROM decision d WHERE d.tx = m.tx))"
#define MESSAGE_PART(headers, body)                                                                                    \
    "m.n, m.total, m.producer, m.business_key, m.trace, m.digest, m.topic, m.okey, m.content_type,"                    \
    " m.deliver_at, m.expire_at, " headers " AS headers, "                                                                                        \
    body " AS body, NULL::bytea[] AS amend, octet_length(" BODY_OF_M ") AS body_size, m.body IS NULL AS later"
/* What is known beside the messages; in the rows of n = 0 only. `tx` is a column that holds the id. */
#define FACTS(tx)                                                                                                      \
    " LEFT JOIN LATERAL (SELECT d.verdict, d.origin, d.actor, d.reason, d.at FROM decision d"                          \
    " WHERE m.n = 0 AND d.tx = " tx                                                                                    \
    " OFFSET 0) d ON true"                                                                                             \
    " LEFT JOIN LATERAL (SELECT c.state, c.due, c.tries, c.unknowns, c.last_error FROM check_due c"                    \
    " WHERE m.n = 0 AND c.tx = " tx                                                                                    \
    " OFFSET 0) c ON true"
#define FACT_COLUMNS                                                                                                   \
    "m.at, d.verdict, d.origin, d.actor, d.reason, d.at, c.state, c.due, c.tries, c.unknowns, c.last_error"
/* Messages of the transactions in h, newest first. Headers are bounded as a whole: 1,000 could come to 1 GiB. */
#define LISTED                                                                                                         \
    " SELECT h.tx, m.n, m.total, m.producer, m.business_key, m.trace, m.digest, m.topic, m.okey, m.content_type,"      \
    " m.deliver_at, m.expire_at, CASE WHEN sum(octet_length(m.headers)) OVER (ORDER BY h.tx DESC, m.n) <= 8388608 THEN m.headers END,"            \
    " m.body, m.amend, m.body_size, m.later, " FACT_COLUMNS " FROM h"                                                           \
    " CROSS JOIN LATERAL (SELECT " MESSAGE_PART("m.headers", "NULL::bytea") ", m.at FROM message m"                    \
    " WHERE m.tx = h.tx OFFSET 0) m" FACTS("h.tx") " ORDER BY h.tx DESC, m.n"
#define MESSAGE_COLUMNS_OF_M                                                                                           \
    "m.n, m.total, m.producer, m.business_key, m.trace, m.digest, m.topic, m.okey, m.content_type,"                    \
    " m.deliver_at, m.expire_at, m.headers, m.body, m.amend,"                                                                                                \
    " m.body_size, m.later"
/* Any message of the transaction m has the topic. */
#define HAS_TOPIC(param)                                                                                               \
    "(" param "::text IS NULL OR m.topic = " param "::text OR (m.total > 1 AND EXISTS (SELECT 1"                       \
    " FROM message t WHERE t.tx = m.tx"                                                                                \
    " AND t.topic = " param "::text OFFSET 0)))"

enum { COL_TX, COL_CONTENT, COL_BODY_SIZE = COL_CONTENT + RC_COLUMNS, COL_LATER, COL_AT, COL_VERDICT, COL_ORIGIN, COL_ACTOR,
       COL_REASON, COL_DECIDED, COL_CHECK_STATE, COL_DUE, COL_TRIES, COL_UNKNOWNS, COL_CHECK_ERROR };
enum { D_N, D_SUB, D_NAME, D_PASSED, D_ATTEMPT, D_ERROR, D_DUE, D_DEAD_ATTEMPTS, D_DEAD_ERROR, D_FAILURES,
       D_LAST_FAILURE, D_DISCARDED };

const struct pg_stmt view_stmts[] = {
    {"view_tx", "SELECT $1::uuid, " MESSAGE_COLUMNS_OF_M ", " FACT_COLUMNS " FROM (SELECT " MESSAGE_PART(
                    "m.headers", "CASE WHEN $2::bool THEN " BODY_OF_M " END") ", m.at FROM message m"
                    " WHERE m.tx = $1::uuid OFFSET 0) m"
                FACTS("$1::uuid") " ORDER BY m.n"},
    /*
     * p: where the transaction stands in its lane. c: the newest cursor of each subscription there; one that has
     * passed it was written behind it, and all are written again every 1,000 entries. A subscription that began behind
     * it is left out.
     */
    {"view_deliveries",
     "WITH p AS MATERIALIZED (SELECT d.lane, d.seq, (array_position(l.conf, $1::uuid) - 1) * 128 AS base"
     " FROM decision d"
     " LEFT JOIN LATERAL (SELECT l.conf FROM lane_log l WHERE l.lane = d.lane AND l.seq = d.seq OFFSET 0) l ON true"
     " WHERE d.tx = $1::uuid AND d.verdict = 1),"
     " t AS MATERIALIZED (SELECT p.lane, p.seq, t.seq AS top FROM p CROSS JOIN LATERAL"
     " (SELECT l.seq FROM lane_log l WHERE l.lane = p.lane ORDER BY l.seq DESC LIMIT 1) t),"
     " c AS MATERIALIZED (SELECT DISTINCT ON (g.target) g.target, g.seq, g.index FROM t CROSS JOIN LATERAL"
     " (SELECT l.seq AS entry, l.prog[i] AS target, l.prog[i + 1] AS seq, l.prog[i + 2] AS index FROM lane_log l"
     " CROSS JOIN LATERAL generate_series(1, cardinality(l.prog), 3) i WHERE l.lane = t.lane AND l.seq >= t.seq"
     " AND l.seq > t.top - $2::int4 AND l.prog IS NOT NULL OFFSET 0) g WHERE g.target > 0"
     " ORDER BY g.target, g.entry DESC)"
     " SELECT m.n, s.id, s.name, coalesce((c.seq, c.index) > (p.seq, p.base + m.n), p.base IS NULL), q.attempt,"
     " q.last_error, q.due,"
     " x.attempts, x.error, a.failures, a.last, g.reason"
     " FROM p CROSS JOIN LATERAL (SELECT m.n, m.topic, m.headers FROM message m WHERE m.tx = $1::uuid OFFSET 0) m"
     " JOIN subscription s ON s.spec->>'topic' = m.topic AND s.state <> 'deleted'"
     " AND coalesce(m.headers, '{}')::jsonb @> coalesce(s.spec->'filter'->'headers', '{}')"
     " LEFT JOIN sub_vec v ON v.sub = s.id AND v.lane = p.lane"
     " LEFT JOIN c ON c.target = s.id"
     " LEFT JOIN LATERAL (SELECT q.attempt, q.last_error, q.due FROM delivery_due q"
     " WHERE q.sub = s.id AND q.tx = $1::uuid"
     " AND q.n = m.n OFFSET 0) q ON true"
     " LEFT JOIN LATERAL (SELECT x.attempts, x.error FROM dead_letter x"
     " WHERE x.sub = s.id AND x.tx = $1::uuid AND x.n = m.n OFFSET 0) x"
     " ON true"
     " LEFT JOIN LATERAL (SELECT g.reason FROM discarded g"
     " WHERE g.tx = $1::uuid AND g.sub = s.id AND g.n = m.n OFFSET 0) g ON true"
     " LEFT JOIN LATERAL (SELECT count(*)::int4 AS failures, (array_agg(a.error ORDER BY a.at DESC))[1] AS last"
     " FROM attempt a"
     " WHERE a.tx = $1::uuid AND a.sub = s.id AND a.n = m.n"
     " AND a.class IS DISTINCT FROM 'ok' OFFSET 0) a ON true"
     " WHERE v.sub IS NULL OR p.base IS NULL OR (v.from_seq, v.from_index) <= (p.seq, p.base + m.n)"
     " ORDER BY m.n, s.name"},
    {"view_checks",
     "SELECT c.tries, c.unknowns, c.at, c.error FROM (SELECT * FROM check_attempt c WHERE c.tx = $1::uuid"
     " ORDER BY c.at DESC LIMIT 100) c ORDER BY c.at, c.tries"},
    {"view_attempts",
     "SELECT a.sub, a.n, a.attempt, a.status, a.latency_ms, a.at, a.class, a.error, a.response, a.run::text"
     " FROM (SELECT * FROM attempt a WHERE a.tx = $1::uuid ORDER BY a.at DESC LIMIT 1000) a ORDER BY a.at, a.attempt"},
    {"view_list",
     "WITH h AS MATERIALIZED (SELECT m.tx FROM message m WHERE m.n = 0 AND m.tx >= $1::uuid AND m.tx < $2::uuid"
     " AND ($3::text IS NULL OR m.producer = $3::text) AND ($4::text IS NULL OR m.business_key = $4::text)"
     " AND " HAS_TOPIC("$5")
     " AND ($6::int2 = 0 OR (coalesce((SELECT d.verdict FROM decision d WHERE d.tx = m.tx), 0) = $6::int2 - 1"
     " AND ($6::int2 <> 1 OR (SELECT c.state FROM check_due c WHERE c.tx = m.tx) IS DISTINCT FROM 1)))"
     " ORDER BY m.tx DESC LIMIT $7::int8)" LISTED},
    {"view_stuck",
     "WITH h AS MATERIALIZED (SELECT c.tx FROM check_due c"
     " CROSS JOIN LATERAL (SELECT m.topic, m.total, m.business_key, m.tx"
     " FROM message m WHERE m.tx = c.tx AND m.n = 0 OFFSET 0) m"
     " WHERE c.state = 1 AND c.tx >= $1::uuid AND c.tx < $2::uuid AND ($3::text IS NULL OR c.producer = $3::text)"
     " AND ($4::text IS NULL OR m.business_key = $4::text) AND " HAS_TOPIC("$5")
     " AND (SELECT d.verdict FROM decision d WHERE d.tx = c.tx) IS NULL"
     " ORDER BY c.tx DESC LIMIT $6::int8)" LISTED},
    {NULL, NULL},
};
/* clang-format on */

/* --- requests --- */

static void on_result(struct pg_run *run, int i, PGresult *res) {
    struct view_req *q = CONTAINER_OF(run, struct view_req, run);
    if (q->code == 0)
        q->result(q, i, res);
}

static void on_done(struct pg_run *run, const struct pg_error *err) {
    struct view_req *q = CONTAINER_OF(run, struct view_req, run);
    if (err->cls != PG_OK)
        q->code = read_code(err);
    q->done(q);
}

void view_req_init(struct view_req *q) {
    arena_init(&q->arena, VIEW_BYTES_MAX);
    q->code = 0;
    q->run.on_result = on_result;
    q->run.on_done = on_done;
}

int view_begin(struct pg_conn *c, struct view_req *q) {
    if (pg_conn_under_way(c) >= READ_UNDER_WAY_MAX)
        return -EAGAIN;
    int r = pg_run_begin(c, &q->run);
    return r == -ENOTCONN ? -EAGAIN : r;
}

int view_send(struct view_req *q, const struct pg_stmt *table, const char *name, const struct pg_params *p) {
    for (const struct pg_stmt *s = table; s->name; s++)
        if (!strcmp(s->name, name))
            return pg_run_sql(&q->run, s->sql, p);
    UNREACHABLE();
}

int view_end(struct view_req *q) {
    return pg_run_end(&q->run);
}

int view_ask(struct pg_conn *c, struct view_req *q, const struct pg_stmt *table, const char *name,
             const struct pg_params *p) {
    int r = view_begin(c, q);
    if (r == 0)
        r = view_send(q, table, name, p);
    if (r == 0)
        r = view_end(q);
    return r;
}

const char *view_text(struct view_req *q, const PGresult *res, int row, int col) {
    struct bytes v = pg_get_bytes(res, row, col);
    if (v.n == 0)
        return "";
    const char *s = arena_strndup(&q->arena, v.p, v.n);
    if (!s)
        q->code = -ENOMEM;
    return s;
}

/* --- transactions from rows --- */

struct view_tx_req {
    struct view_req q;
    view_tx_fn *one;
    view_list_fn *list;
    void *arg;
    struct pg_conn *conn; /* of a list with deliveries; NULL when they are here */
    bool bodies;
    struct view_tx *txs;
    struct tx_content **contents;     /* messages and deliveries point into them */
    struct view_delivery *deliveries; /* of the one */
    size_t n;
};

static void tx_cleanup(struct view_tx_req **at) {
    struct view_tx_req *q = *at;
    if (!q)
        return;
    for (size_t i = 0; i < q->n; i++)
        tx_content_unref(q->contents[i]);
    arena_deinit(&q->q.arena);
    mem_free(q);
}

static enum tx_state state_of(enum tx_decision verdict, bool stuck) {
    return verdict == TX_COMMITTED     ? TX_CONFIRMED
           : verdict == TX_ROLLED_BACK ? TX_CANCELLED
           : stuck                     ? TX_STUCK
                                       : TX_PREPARED;
}

static int put_messages(struct view_tx_req *q, const PGresult *res, int from, int to, struct view_tx *t) {
    struct tx_content **content = &q->contents[q->n];
    int r = read_content(&t->id, res, from, to, COL_CONTENT, content);
    if (r < 0 || !*content)
        return r;
    const struct tx_content *c = *content;
    struct view_message *m = arena_zalloc(&q->q.arena, c->messages_n * sizeof(*m));
    if (!m)
        return -ENOMEM;
    for (uint32_t i = 0; i < c->messages_n; i++) {
        m[i].n = (int16_t)i;
        m[i].msg = c->messages[i];
        if (!q->bodies)
            m[i].msg.body = BYTES_NULL;
    }
    for (int row = from; row < to; row++) {
        struct view_message *v = &m[pg_get_int16(res, row, COL_CONTENT + RC_N)];
        v->body_size = pg_get_int32(res, row, COL_BODY_SIZE);
        v->msg.later = pg_get_bool(res, row, COL_LATER);
    }
    t->messages = m;
    t->messages_n = c->messages_n;
    return 0;
}

/* Rows [from, to) are one transaction, its header first. */
static int put_tx(struct view_tx_req *q, const PGresult *res, int from, int to) {
    struct view_tx *t = &q->txs[q->n];
    *t = (struct view_tx){0};
    pg_get_uuid(res, from, COL_TX, &t->id);
    int r = put_messages(q, res, from, to, t);
    q->n++;
    if (r < 0)
        return r;
    t->decision = (enum tx_decision)pg_get_int16(res, from, COL_VERDICT);
    t->origin = (enum tx_origin)pg_get_int16(res, from, COL_ORIGIN);
    t->state = state_of(t->decision, pg_get_int16(res, from, COL_CHECK_STATE) == 1);
    t->producer = view_text(&q->q, res, from, COL_CONTENT + RC_PRODUCER);
    t->business_key = view_text(&q->q, res, from, COL_CONTENT + RC_BUSINESS_KEY);
    t->actor = view_text(&q->q, res, from, COL_ACTOR);
    t->reason = view_text(&q->q, res, from, COL_REASON);
    t->check_error = view_text(&q->q, res, from, COL_CHECK_ERROR);
    t->prepare_us = t->messages_n ? pg_get_time_us(res, from, COL_AT) : 0; /* a tombstone was never prepared */
    t->decision_us = pg_get_time_us(res, from, COL_DECIDED);
    if (t->state == TX_PREPARED)
        t->next_check_us = pg_get_time_us(res, from, COL_DUE);
    else if (t->state == TX_STUCK)
        t->stuck_us = pg_get_time_us(res, from, COL_DUE);
    t->checks = pg_get_int32(res, from, COL_TRIES);
    t->unknowns = pg_get_int32(res, from, COL_UNKNOWNS);
    return q->q.code;
}

static void txs_result(struct view_tx_req *q, const PGresult *res) {
    int rows = PQntuples(res);
    size_t n = 0;
    for (int i = 0; i < rows; i++)
        n += pg_get_int16(res, i, COL_CONTENT + RC_N) == 0;
    q->txs = arena_zalloc(&q->q.arena, MAX(n, 1) * sizeof(*q->txs));
    q->contents = arena_zalloc(&q->q.arena, MAX(n, 1) * sizeof(struct tx_content *));
    if (!q->txs || !q->contents) {
        q->q.code = -ENOMEM;
        return;
    }
    for (int from = 0, to; from < rows && q->q.code == 0; from = to) {
        for (to = from + 1; to < rows && pg_get_int16(res, to, COL_CONTENT + RC_N) != 0;)
            to++;
        q->q.code = q->n < n ? put_tx(q, res, from, to) : -EINVAL;
    }
}

static void tx_request_init(struct view_tx_req *q, view_tx_fn *one, view_list_fn *list, void *arg) {
    view_req_init(&q->q);
    q->one = one;
    q->list = list;
    q->arg = arg;
}

/* --- one transaction --- */

static void put_delivery(struct view_tx_req *q, const PGresult *res, int row, struct view_delivery *d) {
    d->n = pg_get_int16(res, row, D_N);
    d->sub = pg_get_int32(res, row, D_SUB);
    d->sub_name = view_text(&q->q, res, row, D_NAME);
    int32_t failures = pg_get_int32(res, row, D_FAILURES);
    if (!pg_get_null(res, row, D_DEAD_ATTEMPTS)) {
        d->state = DELIVERY_STATE_DEAD;
        d->attempts = pg_get_int32(res, row, D_DEAD_ATTEMPTS);
        d->last_error = view_text(&q->q, res, row, D_DEAD_ERROR);
    } else if (!pg_get_null(res, row, D_ATTEMPT)) {
        d->attempts = pg_get_int32(res, row, D_ATTEMPT);
        d->state = d->attempts ? DELIVERY_STATE_RETRYING : DELIVERY_STATE_PENDING;
        d->next_attempt_us = pg_get_time_us(res, row, D_DUE);
        d->last_error = pg_get_null(res, row, D_ERROR) ? NULL : view_text(&q->q, res, row, D_ERROR);
    } else if (!pg_get_null(res, row, D_DISCARDED)) {
        d->state = DELIVERY_STATE_DISCARDED;
        d->attempts = failures;
        d->last_error = view_text(&q->q, res, row, failures ? D_LAST_FAILURE : D_DISCARDED);
    } else if (pg_get_bool(res, row, D_PASSED)) {
        d->state = DELIVERY_STATE_DELIVERED;
        d->attempts = failures ? failures + 1 : 0; /* one that succeeds at once leaves no row anywhere */
        d->last_error = failures ? view_text(&q->q, res, row, D_LAST_FAILURE) : NULL;
    } else {
        d->state = DELIVERY_STATE_PENDING;
    }
}

static void put_deliveries(struct view_tx_req *q, struct view_tx *t, const PGresult *res) {
    size_t n = (size_t)PQntuples(res);
    if (t->state != TX_CONFIRMED || n == 0)
        return;
    struct view_delivery *d = arena_zalloc(&q->q.arena, n * sizeof(*d));
    if (!d) {
        q->q.code = -ENOMEM;
        return;
    }
    for (size_t k = 0; k < n; k++)
        put_delivery(q, res, (int)k, &d[k]);
    t->deliveries = q->deliveries = d;
    t->deliveries_n = n;
}

static int ask_deliveries(struct view_tx_req *q, const struct uuid *id) {
    struct pg_params p;
    pg_params_init(&p);
    pg_param_uuid(&p, id);
    pg_param_int32(&p, READ_FOLD_ENTRIES);
    return view_send(&q->q, view_stmts, "view_deliveries", &p);
}

static void put_checks(struct view_tx_req *q, const PGresult *res) {
    size_t n = (size_t)PQntuples(res);
    struct view_check *c = q->n && n ? arena_alloc(&q->q.arena, n * sizeof(*c)) : NULL;
    if (q->n == 0 || n == 0)
        return;
    if (!c) {
        q->q.code = -ENOMEM;
        return;
    }
    for (int i = 0; i < (int)n; i++)
        c[i] = (struct view_check){.count = pg_get_int32(res, i, 0),
                                   .unknowns = pg_get_int32(res, i, 1),
                                   .at_us = pg_get_time_us(res, i, 2),
                                   .error = view_text(&q->q, res, i, 3)};
    q->txs[0].history = c;
    q->txs[0].history_n = n;
}

/* Those of one delivery: rows of the whole transaction are few, and this is for people. */
static void put_attempts(struct view_tx_req *q, const PGresult *res, struct view_delivery *d) {
    enum { SUB, N, ATTEMPT, STATUS, LATENCY, AT, CLASS, ERROR, RESPONSE, RUN };
    size_t n = 0;
    for (int i = 0; i < PQntuples(res); i++)
        n += pg_get_int32(res, i, SUB) == d->sub && pg_get_int16(res, i, N) == d->n;
    struct view_attempt *a = n ? arena_alloc(&q->q.arena, n * sizeof(*a)) : NULL;
    if (n && !a)
        q->q.code = -ENOMEM;
    for (int i = 0; a && i < PQntuples(res); i++) {
        if (pg_get_int32(res, i, SUB) != d->sub || pg_get_int16(res, i, N) != d->n)
            continue;
        a[d->history_n++] = (struct view_attempt){.attempt = pg_get_int32(res, i, ATTEMPT),
                                                  .status = pg_get_int32(res, i, STATUS),
                                                  .latency_ms = pg_get_int32(res, i, LATENCY),
                                                  .at_us = pg_get_time_us(res, i, AT),
                                                  .class = view_text(&q->q, res, i, CLASS),
                                                  .error = view_text(&q->q, res, i, ERROR),
                                                  .response = view_text(&q->q, res, i, RESPONSE),
                                                  .worker = view_text(&q->q, res, i, RUN)};
    }
    d->history = a;
}

static void get_result(struct view_req *req, int i, PGresult *res) {
    struct view_tx_req *q = CONTAINER_OF(req, struct view_tx_req, q);
    switch (i) {
    case 0:
        txs_result(q, res);
        break;
    case 1:
        if (q->n)
            put_deliveries(q, &q->txs[0], res);
        break;
    case 2:
        put_checks(q, res);
        break;
    default:
        for (size_t k = 0; q->n && q->deliveries && k < q->txs[0].deliveries_n && q->q.code == 0; k++)
            put_attempts(q, res, &q->deliveries[k]);
    }
}

static void get_done(struct view_req *req) {
    CLEANUP(tx_cleanup) struct view_tx_req *q = CONTAINER_OF(req, struct view_tx_req, q);
    q->one(q->arg, q->q.code, q->q.code == 0 && q->n ? &q->txs[0] : NULL);
}

int view_get(struct pg_conn *c, const struct uuid *id, bool bodies, bool history, view_tx_fn *fn, void *arg) {
    CLEANUP(tx_cleanup) struct view_tx_req *q = mem_zalloc(sizeof(*q));
    if (!q)
        return -ENOMEM;
    tx_request_init(q, fn, NULL, arg);
    q->bodies = bodies;
    q->q.result = get_result;
    q->q.done = get_done;
    struct pg_params tx, story;
    pg_params_init(&tx);
    pg_param_uuid(&tx, id);
    pg_param_bool(&tx, bodies);
    int r = view_begin(c, &q->q);
    if (r == 0)
        r = view_send(&q->q, view_stmts, "view_tx", &tx);
    if (r == 0)
        r = ask_deliveries(q, id);
    pg_params_init(&story);
    pg_param_uuid(&story, id);
    if (r == 0 && history)
        r = view_send(&q->q, view_stmts, "view_checks", &story);
    if (r == 0 && history)
        r = view_send(&q->q, view_stmts, "view_attempts", &story);
    if (r == 0)
        r = view_end(&q->q);
    if (r == 0)
        TAKE(q);
    return r;
}

/* --- lists --- */

static void list_result(struct view_req *req, int i, PGresult *res) {
    UNUSED(i);
    txs_result(CONTAINER_OF(req, struct view_tx_req, q), res);
}

/* The i-th of the transactions that have deliveries. */
static void list_delivery_result(struct view_req *req, int i, PGresult *res) {
    struct view_tx_req *q = CONTAINER_OF(req, struct view_tx_req, q);
    for (size_t k = 0; k < q->n; k++)
        if (q->txs[k].state == TX_CONFIRMED && i-- == 0)
            put_deliveries(q, &q->txs[k], res);
}

/* A second pipeline asks for the deliveries: 0 = it is under way, 1 = there is nothing to ask. */
static int list_deliveries(struct view_tx_req *q) {
    size_t n = 0;
    for (size_t k = 0; k < q->n; k++)
        n += q->txs[k].state == TX_CONFIRMED;
    if (n == 0)
        return 1;
    q->q.result = list_delivery_result;
    int r = view_begin(TAKE(q->conn), &q->q);
    for (size_t k = 0; k < q->n && r == 0; k++)
        if (q->txs[k].state == TX_CONFIRMED)
            r = ask_deliveries(q, &q->txs[k].id);
    return r < 0 ? r : view_end(&q->q);
}

static void list_done(struct view_req *req) {
    CLEANUP(tx_cleanup) struct view_tx_req *q = CONTAINER_OF(req, struct view_tx_req, q);
    if (q->q.code == 0 && q->conn) {
        int r = list_deliveries(q);
        if (r == 0)
            (void)TAKE(q);
        if (r == 0)
            return;
        if (r < 0)
            q->q.code = r;
    }
    bool ok = q->q.code == 0;
    q->list(q->arg, q->q.code, ok ? q->txs : NULL, ok ? q->n : 0);
}

void view_floor(int64_t us, struct uuid *ret) {
    uuid_v7_floor(MIN((MAX(us, 0) + 999) / 1000, (1ll << 48) - 1), ret);
}

static int ask_list(struct pg_conn *c, const struct view_filter *f, bool stuck, view_list_fn *fn, void *arg) {
    CLEANUP(tx_cleanup) struct view_tx_req *q = mem_zalloc(sizeof(*q));
    if (!q)
        return -ENOMEM;
    tx_request_init(q, NULL, fn, arg);
    q->q.result = list_result;
    q->q.done = list_done;
    q->conn = f->deliveries ? c : NULL;
    struct uuid lo = {{0}}, hi;
    memset(&hi, 0xff, sizeof(hi));
    if (f->start_us)
        view_floor(f->start_us, &lo);
    if (f->end_us)
        view_floor(f->end_us, &hi);
    if (f->has_before && uuid_cmp(&f->before, &hi) < 0)
        hi = f->before;
    struct pg_params p;
    pg_params_init(&p);
    pg_param_uuid(&p, &lo);
    pg_param_uuid(&p, &hi);
    pg_param_text(&p, f->producer);
    pg_param_text(&p, f->business_key);
    pg_param_text(&p, f->topic);
    if (!stuck)
        pg_param_int16(&p, (int16_t)f->state);
    pg_param_int64(&p, MAX(1, MIN(f->limit, VIEW_ROWS_MAX)));
    int r = view_ask(c, &q->q, view_stmts, stuck ? "view_stuck" : "view_list", &p);
    if (r == 0)
        TAKE(q);
    return r;
}

int view_list(struct pg_conn *c, const struct store *s, const struct view_filter *f, view_list_fn *fn, void *arg) {
    UNUSED(s);
    return ask_list(c, f, f->state == TX_STUCK, fn, arg);
}

int view_stuck(struct pg_conn *c, const struct view_filter *f, view_list_fn *fn, void *arg) {
    return ask_list(c, f, true, fn, arg);
}

/* --- one bit --- */

/* view_past_fn and view_undecided_fn are the same type. */
struct bit_req {
    view_past_fn *fn;
    void *arg;
};

static void on_bit(void *arg, PGresult *res, const struct pg_error *err) {
    CLEANUP_FREE struct bit_req *q = arg;
    int code = read_code(err);
    q->fn(q->arg, code, code == 0 && PQntuples(res) == 1 && pg_get_bool(res, 0, 0));
}

static int ask_bit(struct pg_conn *c, const char *sql, const struct pg_params *p, view_past_fn *fn, void *arg) {
    CLEANUP_FREE struct bit_req *q = mem_alloc(sizeof(*q));
    if (!q)
        return -ENOMEM;
    *q = (struct bit_req){fn, arg};
    int r = pg_query_sql(c, sql, p, on_bit, q);
    if (r == 0)
        (void)TAKE(q);
    return r;
}

int view_past(struct pg_conn *c, const struct uuid *id, view_past_fn *fn, void *arg) {
    struct pg_params p;
    pg_params_init(&p);
    pg_param_uuid(&p, id);
    return ask_bit(c, "SELECT $1::uuid < floor FROM cfg", &p, fn, arg);
}

int view_undecided(struct pg_conn *c, const char *producer, view_undecided_fn *fn, void *arg) {
    static const char sql[] =
        "SELECT EXISTS (SELECT FROM check_due c WHERE c.producer = $1::text"
        " AND NOT EXISTS (SELECT FROM decision d WHERE d.tx = c.tx OFFSET 0))"
        " OR EXISTS (SELECT FROM message m WHERE m.n = 0 AND m.total > 0 AND m.producer = $1::text"
        " AND m.tx >= (lpad(to_hex((extract(epoch FROM now()) * 1000)::int8 - 900000), 12, '0')"
        " || '00000000000000000000')::uuid"
        " AND NOT EXISTS (SELECT FROM decision d WHERE d.tx = m.tx OFFSET 0))";
    struct pg_params p;
    pg_params_init(&p);
    pg_param_text(&p, producer);
    return ask_bit(c, sql, &p, fn, arg);
}
