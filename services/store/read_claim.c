/*
 * Who is undecided, and whose turn it is: the finder over a lane, and the claims of due checks and due deliveries.
 *
 * A claim moves `due` to the end of a lease and raises `token`, so that whoever held the row before changes nothing
 * any more. Rows that somebody else is claiming are skipped, never waited for. A transaction that was decided
 * meanwhile needs no check: its row goes in the claim that meets it, or in the walk (sweep) that goes through
 * check_due a few rows at a time and also finds STUCK ones.
 */
#include "store/read_private.h"
#include "store/replay.h"

#include "base/clock.h"
#include "base/log.h"

enum {
    CLAIM_PRODUCERS_MAX = 64,
    CLAIM_SUBS_MAX = 1024,
    LOW_MARGIN_US = 5 * 1000000, /* how far below the last pass the next begins */
    FULL_MIN_S = 1,
    FULL_MAX_S = 30,
    SWEEP_ROWS = 500,
    SWEEP_S = 10,
    TEXTS_BYTES_MAX = 4 << 20,
};

/* clang-format off */
const struct pg_stmt claim_stmts[] = {
    /*
     * Entries older than the class, and those that have nothing of it, whatever their age. The first one that has and
     * is not ends the page, so that the cursor never passes it; behind it nothing is read, else each look of the 10
     * minute class would read 10 minutes of entries.
     */
    {"finder_log",
     "SELECT e.seq, e.at, CASE WHEN e.fits THEN e.prep END, e.fits FROM ("
     "SELECT l.seq, l.at, l.prep, sum(coalesce(cardinality(l.prep), 0)) OVER (ORDER BY l.seq) <= $4::int8"
     " OR sum(coalesce(cardinality(l.prep), 0)) OVER (ORDER BY l.seq) = coalesce(cardinality(l.prep), 0) AS fits"
     " FROM (SELECT seq, at, CASE WHEN (classes & $3::int2) <> 0 THEN prep END AS prep FROM lane_log"
     " WHERE lane = $1::int4 AND seq >= $2::int4 AND seq < coalesce((SELECT y.seq FROM"
     " (SELECT seq, at, classes FROM lane_log WHERE lane = $1::int4 AND seq >= $2::int4 ORDER BY seq LIMIT $6::int8) y"
     " WHERE (y.classes & $3::int2) <> 0 AND y.at > now() - $5::int8 * interval '1 millisecond' ORDER BY y.seq LIMIT 1), 2147483647)"
     " ORDER BY seq LIMIT $6::int8) l) e ORDER BY e.seq"},
    /* Most are decided by now, so that is asked first; the header is read only for those that are not. */
    {"undecided",
     "SELECT v.ord, h.producer, h.check_after FROM (SELECT u.ord, u.tx"
     " FROM unnest($1::uuid[]) WITH ORDINALITY AS u(tx, ord)"
     " LEFT JOIN LATERAL (SELECT true AS found FROM decision d"
     " WHERE d.tx = u.tx AND d.tx BETWEEN $2::uuid AND $3::uuid OFFSET 0) d"
     " ON true WHERE d.found IS NULL OFFSET 0) v"
     " CROSS JOIN LATERAL (SELECT m.producer, m.check_after FROM message m WHERE m.tx = v.tx AND m.n = 0"
     " AND m.tx BETWEEN $2::uuid AND $3::uuid AND m.delay_class = $4::int2 OFFSET 0) h"},
    /*
     * The ids are not known beforehand, so partitions cannot be cut off by bounds here; each lookup goes to the one
     * partition of its id. No row is in `gone` and `mine` at once: one statement must not touch a row twice.
     */
    {"claim_checks",
     "WITH c AS MATERIALIZED (SELECT a.k, c.tx, c.due"
     " FROM unnest($1::text[], $2::int4[], $3::timestamptz[]) WITH ORDINALITY AS a(producer, slots, low, k)"
     " CROSS JOIN LATERAL (SELECT c.tx, c.due FROM check_due c WHERE c.producer = a.producer AND c.state = 0"
     " AND c.due <= now() AND c.due >= a.low ORDER BY c.due LIMIT a.slots FOR UPDATE SKIP LOCKED) c),"
     " v AS MATERIALIZED (SELECT c.k, c.tx, c.due, d.found, h.business_key, h.at FROM c"
     " LEFT JOIN LATERAL (SELECT true AS found FROM decision d WHERE d.tx = c.tx OFFSET 0) d ON true"
     " LEFT JOIN LATERAL (SELECT m.business_key, m.at FROM message m"
     " WHERE d.found IS NULL AND m.tx = c.tx AND m.n = 0 OFFSET 0) h ON true),"
     " gone AS (DELETE FROM check_due t USING v WHERE v.found AND t.tx = v.tx RETURNING v.k, v.due),"
     " mine AS (UPDATE check_due t SET due = now() + $4::int8 * interval '1 millisecond', token = t.token + 1,"
     " tries = t.tries + 1"
     " FROM v WHERE v.found IS NULL AND t.tx = v.tx"
     " RETURNING v.k, v.due, t.tx, t.token, t.tries, t.unknowns, t.failures, v.business_key, v.at)"
     " SELECT k, due, tx, token, tries, unknowns, failures, business_key, at FROM mine"
     " UNION ALL SELECT k, due, NULL, 0, 0, 0, 0, NULL, NULL FROM gone"},
    {"claim_deliveries",
     "WITH c AS MATERIALIZED (SELECT c.sub, c.tx, c.n, c.due"
     " FROM unnest($1::int4[], $2::int4[], $3::timestamptz[]) AS a(sub, slots, low)"
     " CROSS JOIN LATERAL (SELECT c.sub, c.tx, c.n, c.due FROM delivery_due c WHERE c.sub = a.sub"
     " AND c.due <= now() AND c.due >= a.low ORDER BY c.due LIMIT a.slots FOR UPDATE SKIP LOCKED) c)"
     " UPDATE delivery_due t SET due = now() + $4::int8 * interval '1 millisecond', token = t.token + 1 FROM c"
     " WHERE t.sub = c.sub AND t.tx = c.tx AND t.n = c.n"
     " RETURNING t.sub, c.due, t.tx, t.n, t.attempt, t.token, t.lane, t.seq, t.since"},
    {"claim_replays",
     "WITH c AS MATERIALIZED (SELECT c.replay, c.tx, c.n, c.due"
     " FROM unnest($1::int4[], $2::int4[], $3::timestamptz[]) AS a(sub, slots, low)"
     " CROSS JOIN LATERAL (SELECT c.replay, c.tx, c.n, c.due FROM replay_due c WHERE c.sub = a.sub"
     " AND c.due <= now() AND c.due >= a.low ORDER BY c.due LIMIT a.slots FOR UPDATE SKIP LOCKED) c)"
     " UPDATE replay_due t SET due = now() + $4::int8 * interval '1 millisecond', token = t.token + 1 FROM c"
     " WHERE t.replay = c.replay AND t.tx = c.tx AND t.n = c.n"
     " RETURNING t.sub, c.due, t.tx, t.n, t.attempt, t.token, 0, 0, t.since, t.replay"},
    {"sweep_checks",
     "WITH s AS MATERIALIZED (SELECT c.tx FROM check_due c WHERE c.tx > $1::uuid ORDER BY c.tx LIMIT $2::int8),"
     " d AS MATERIALIZED (SELECT s.tx FROM s CROSS JOIN LATERAL (SELECT d.tx FROM decision d"
     " WHERE d.tx = s.tx OFFSET 0) d),"
     " k AS MATERIALIZED (SELECT c.tx FROM d CROSS JOIN LATERAL"
     " (SELECT c.tx FROM check_due c WHERE c.tx = d.tx FOR UPDATE SKIP LOCKED) c),"
     " gone AS (DELETE FROM check_due t USING k WHERE t.tx = k.tx RETURNING 1)"
     " SELECT (SELECT tx FROM s ORDER BY tx DESC LIMIT 1), (SELECT count(*) FROM s), (SELECT count(*) FROM gone)"},
    {NULL, NULL},
};
/* clang-format on */

/* --- the finder --- */

struct undecided_req {
    struct read_req q;
    reader_undecided_fn *fn;
    void *arg;
    int delay_class;
    struct lane_pos next;
    struct uuid *ids; /* what the entries say was prepared, and when */
    int64_t *at_us;
    size_t ids_n;
    struct undecided *found;
    size_t found_n;
    struct arena texts;
};

static void undecided_end(struct read_req *req) {
    struct undecided_req *q = CONTAINER_OF(req, struct undecided_req, q);
    bool ok = q->q.code == 0;
    q->fn(q->arg, q->q.code, ok ? q->found : NULL, ok ? q->found_n : 0, q->next);
    arena_deinit(&q->texts);
    mem_free(q->found);
    mem_free(q->at_us);
    mem_free(q->ids);
    mem_free(q);
}

static void undecided_result(struct read_req *req, PGresult *res) {
    struct undecided_req *q = CONTAINER_OF(req, struct undecided_req, q);
    int rows = PQntuples(res);
    const char *name = NULL;
    q->found = mem_calloc((size_t)MAX(rows, 1), sizeof(*q->found));
    if (!q->found) {
        q->q.code = -ENOMEM;
        return;
    }
    for (int i = 0; i < rows; i++) {
        int64_t ord = pg_get_int64(res, i, 0);
        struct bytes producer = pg_get_bytes(res, i, 1);
        if (ord < 1 || ord > (int64_t)q->ids_n) {
            q->q.code = -EINVAL;
            return;
        }
        if (!name || !bytes_eq_str(producer, name))
            name = arena_strndup(&q->texts, producer.p, producer.n);
        if (!name) {
            q->q.code = -ENOMEM;
            return;
        }
        q->found[q->found_n++] = (struct undecided){
            .tx = q->ids[ord - 1],
            .producer = name,
            .due_us = q->at_us[ord - 1] + (int64_t)pg_get_int32(res, i, 2) * 1000,
        };
    }
}

static void finder_log_result(struct read_req *req, PGresult *res) {
    struct undecided_req *q = CONTAINER_OF(req, struct undecided_req, q);
    int rows = PQntuples(res);
    size_t n = 0;
    struct pgarr_view v;
    for (int i = 0; i < rows; i++) {
        if (pgarr_read(pg_get_bytes(res, i, 2), OID_UUID, &v) < 0) {
            q->q.code = -EINVAL;
            return;
        }
        n += v.n;
    }
    q->ids = mem_calloc(MAX(n, 1), sizeof(*q->ids));
    q->at_us = mem_calloc(MAX(n, 1), sizeof(*q->at_us));
    if (!q->ids || !q->at_us) {
        q->q.code = -ENOMEM;
        return;
    }
    for (int i = 0; i < rows && pg_get_bool(res, i, 3); i++) {
        q->next = (struct lane_pos){pg_get_int32(res, i, 0) + 1, 0};
        int e = pgarr_read(pg_get_bytes(res, i, 2), OID_UUID, &v);
        for (uint32_t k = 0; e == 0 && k < v.n; k++) {
            memcpy(q->ids[q->ids_n].b, pgarr_next(&v).p, sizeof(q->ids->b));
            q->at_us[q->ids_n++] = pg_get_time_us(res, i, 1);
        }
    }
}

/*
 * The entries are known: which of their ids are undecided? A statement of its own, so that partitions can be cut off
 * by bounds.
 */
static void finder_log_done(struct read_req *req) {
    struct undecided_req *q = CONTAINER_OF(req, struct undecided_req, q);
    if (q->q.code < 0 || q->ids_n == 0) {
        undecided_end(req);
        return;
    }
    struct reader *r = q->q.reader;
    struct buf *a = &r->arrays[0];
    const struct uuid *lo = q->ids, *hi = q->ids;
    pgarr_begin(a, OID_UUID);
    for (size_t i = 0; i < q->ids_n; i++) {
        const struct uuid *id = &q->ids[i];
        pgarr_uuid(a, id);
        lo = uuid_cmp(id, lo) < 0 ? id : lo;
        hi = uuid_cmp(id, hi) > 0 ? id : hi;
    }
    struct pg_params p;
    pg_params_init(&p);
    pg_param_array(&p, a);
    pg_param_uuid(&p, lo);
    pg_param_uuid(&p, hi);
    pg_param_int16(&p, (int16_t)q->delay_class);
    q->q.result = undecided_result;
    q->q.done = undecided_end;
    int e = pgarr_end(a);
    if (e == 0)
        e = read_send(r, &q->q, "undecided", &p);
    if (e < 0) {
        q->q.code = e;
        undecided_end(req);
    }
}

int reader_undecided(struct reader *r, int32_t lane, int delay_class, struct lane_pos pos, size_t max_ids,
                     reader_undecided_fn *fn, void *arg) {
    if (delay_class < 0 || delay_class >= DELAY_CLASSES)
        return -EINVAL;
    CLEANUP_FREE struct undecided_req *q = mem_zalloc(sizeof(*q));
    if (!q)
        return -ENOMEM;
    q->q.result = finder_log_result;
    q->q.done = finder_log_done;
    q->fn = fn;
    q->arg = arg;
    q->delay_class = delay_class;
    q->next = pos;
    arena_init(&q->texts, TEXTS_BYTES_MAX);
    struct pg_params p;
    pg_params_init(&p);
    pg_param_int32(&p, lane);
    pg_param_int32(&p, pos.seq);
    pg_param_int16(&p, (int16_t)(1 << delay_class));
    pg_param_int64(&p, (int64_t)MIN(max_ids, (size_t)READ_CONTENTS_MAX * 64));
    pg_param_int64(&p, delay_class_ms[delay_class]);
    pg_param_int64(&p, READ_PAGE_ENTRIES);
    int e = read_send(r, &q->q, "finder_log", &p);
    if (e == 0)
        TAKE(q);
    return e;
}

/* --- where a claim begins to look --- */

/* True: look from the beginning this time. */
static bool lows_full(struct claim_lows *l, uint64_t now) {
    uint64_t wait = MAX(l->cost_ns * 20, FULL_MIN_S * NS_PER_S);
    return !l->full_ns || now - l->full_ns >= MIN(wait, FULL_MAX_S * NS_PER_S);
}

static int64_t lows_get(const struct claim_lows *l, uint64_t key) {
    size_t i = key % READ_LOWS;
    return l->slot[i].key == key ? l->slot[i].due_us : 0;
}

static void lows_put(struct claim_lows *l, uint64_t key, int64_t met_us) {
    size_t i = key % READ_LOWS;
    l->slot[i].key = key;
    l->slot[i].due_us = MAX(met_us - LOW_MARGIN_US, 0);
}

/* --- due checks --- */

/* What a claim of either kind asked for, and the smallest due that it met of each. */
struct claim_req {
    struct read_req q;
    struct claim_lows *lows;
    uint64_t began_ns;
    bool full;
    size_t asks_n;
    struct claim_ask {
        uint64_t key;
        const char *producer;
        int32_t slots;
        int64_t met_us;
    } * asks;
    size_t gone; /* rows of decided transactions */
    void *claims;
    size_t claims_n;
    struct arena texts;
    union {
        reader_checks_fn *checks;
        reader_deliveries_fn *deliveries;
    } fn;
    void *arg;
};

static void claim_free(struct claim_req *q) {
    mem_free(q->claims);
    arena_deinit(&q->texts);
    mem_free(q);
}
static void claim_cleanup(struct claim_req **q) {
    if (*q)
        claim_free(*q);
}

static struct claim_req *claim_new(struct claim_lows *lows, size_t n) {
    struct claim_req *q = mem_zalloc(sizeof(*q) + n * sizeof(*q->asks));
    if (!q)
        return NULL;
    q->lows = lows;
    q->asks = (struct claim_ask *)(q + 1);
    q->asks_n = n;
    q->began_ns = clock_mono_ns();
    q->full = lows_full(lows, q->began_ns);
    arena_init(&q->texts, TEXTS_BYTES_MAX);
    return q;
}

static void claim_met(struct claim_req *q, size_t i, int64_t due_us) {
    struct claim_ask *a = &q->asks[i];
    if (!a->met_us || due_us < a->met_us)
        a->met_us = due_us;
}

/* Remembers for the next claim; only what was committed counts. */
static void claim_learn(struct claim_req *q) {
    if (q->full) {
        q->lows->full_ns = q->began_ns;
        q->lows->cost_ns = clock_mono_ns() - q->began_ns;
    }
    for (size_t i = 0; i < q->asks_n; i++)
        if (q->asks[i].met_us)
            lows_put(q->lows, q->asks[i].key, q->asks[i].met_us);
}

static int claim_send(struct reader *r, struct claim_req *q, const char *stmt, int64_t lease_ms) {
    struct pg_params p;
    pg_params_init(&p);
    pgarr_begin(&r->arrays[1], OID_INT4);
    pgarr_begin(&r->arrays[2], OID_TIMESTAMPTZ);
    for (size_t i = 0; i < q->asks_n; i++) {
        pgarr_int32(&r->arrays[1], MAX(q->asks[i].slots, 0));
        pgarr_time(&r->arrays[2], q->full ? 0 : lows_get(q->lows, q->asks[i].key));
    }
    for (int i = 0; i < READ_ARRAYS; i++) {
        int e = pgarr_end(&r->arrays[i]);
        if (e < 0)
            return e;
        pg_param_array(&p, &r->arrays[i]);
    }
    pg_param_int64(&p, lease_ms);
    return read_send(r, &q->q, stmt, &p);
}

static void checks_result(struct read_req *req, PGresult *res) {
    struct claim_req *q = CONTAINER_OF(req, struct claim_req, q);
    int rows = PQntuples(res);
    struct check_claim *claims = q->claims = mem_calloc((size_t)MAX(rows, 1), sizeof(*claims));
    if (!claims) {
        q->q.code = -ENOMEM;
        return;
    }
    for (int i = 0; i < rows; i++) {
        int64_t k = pg_get_int64(res, i, 0);
        if (k < 1 || k > (int64_t)q->asks_n) {
            q->q.code = -EINVAL;
            return;
        }
        claim_met(q, (size_t)k - 1, pg_get_time_us(res, i, 1));
        if (pg_get_null(res, i, 2)) {
            q->gone++;
            continue;
        }
        struct check_claim *c = &claims[q->claims_n++];
        struct bytes key = pg_get_bytes(res, i, 7);
        c->producer = q->asks[k - 1].producer;
        c->business_key = key.n ? arena_strndup(&q->texts, key.p, key.n) : "";
        if (!c->business_key) {
            q->q.code = -ENOMEM; /* claimed and not done: they come due again when the lease ends */
            return;
        }
        pg_get_uuid(res, i, 2, &c->tx);
        c->token = pg_get_int32(res, i, 3);
        c->tries = pg_get_int32(res, i, 4);
        c->unknowns = pg_get_int32(res, i, 5);
        c->failures = pg_get_int32(res, i, 6);
        c->prepared_us = uuid_v7_ms(&c->tx) * 1000;
        c->stored_us = pg_get_time_us(res, i, 8);
    }
}

static void checks_done(struct read_req *req) {
    struct claim_req *q = CONTAINER_OF(req, struct claim_req, q);
    bool ok = q->q.code == 0;
    if (ok) {
        claim_learn(q);
        q->q.reader->sweep.more |= q->gone > 0;
    }
    q->fn.checks(q->arg, q->q.code, ok ? q->claims : NULL, ok ? q->claims_n : 0);
    claim_free(q);
}

static void sweep(struct reader *r);

int reader_claim_checks(struct reader *r, const struct check_ask *asks, size_t n, int64_t lease_ms,
                        reader_checks_fn *fn, void *arg) {
    if (n == 0 || n > CLAIM_PRODUCERS_MAX)
        return -EINVAL;
    CLEANUP(claim_cleanup) struct claim_req *q = claim_new(&r->checks, n);
    if (!q)
        return -ENOMEM;
    q->q.result = checks_result;
    q->q.done = checks_done;
    q->fn.checks = fn;
    q->arg = arg;
    pgarr_begin(&r->arrays[0], OID_TEXT);
    for (size_t i = 0; i < n; i++) {
        size_t len = strlen(asks[i].producer);
        const char *name = arena_strndup(&q->texts, asks[i].producer, len);
        if (!name)
            return -ENOMEM;
        q->asks[i] = (struct claim_ask){.key = hash_bytes(name, len, 1), .producer = name, .slots = asks[i].slots};
        pgarr_bytes(&r->arrays[0], bytes_of(name, len));
    }
    int e = claim_send(r, q, "claim_checks", lease_ms);
    if (e < 0)
        return e;
    TAKE(q);
    sweep(r);
    return 0;
}

/* --- due deliveries --- */

static void deliveries_result(struct read_req *req, PGresult *res) {
    struct claim_req *q = CONTAINER_OF(req, struct claim_req, q);
    int rows = PQntuples(res);
    struct delivery_claim *claims = q->claims = mem_calloc((size_t)MAX(rows, 1), sizeof(*claims));
    if (!claims) {
        q->q.code = -ENOMEM;
        return;
    }
    for (int i = 0; i < rows; i++) {
        struct delivery_claim *c = &claims[q->claims_n++];
        c->sub = pg_get_int32(res, i, 0);
        for (size_t k = 0; k < q->asks_n; k++)
            if (q->asks[k].key == (uint64_t)(uint32_t)c->sub)
                claim_met(q, k, pg_get_time_us(res, i, 1));
        pg_get_uuid(res, i, 2, &c->tx);
        c->n = pg_get_int16(res, i, 3);
        c->attempt = pg_get_int32(res, i, 4);
        c->token = pg_get_int32(res, i, 5);
        c->lane = pg_get_int32(res, i, 6);
        c->seq = pg_get_int32(res, i, 7);
        c->since_us = pg_get_time_us(res, i, 8);
        if (PQnfields(res) > 9)
            pg_get_uuid(res, i, 9, &c->replay);
    }
}

static void deliveries_done(struct read_req *req) {
    struct claim_req *q = CONTAINER_OF(req, struct claim_req, q);
    bool ok = q->q.code == 0;
    if (ok)
        claim_learn(q);
    q->fn.deliveries(q->arg, q->q.code, ok ? q->claims : NULL, ok ? q->claims_n : 0);
    claim_free(q);
}

static int claim_for_subs(struct reader *r, struct claim_lows *lows, const char *stmt, const struct delivery_ask *asks,
                          size_t n, int64_t lease_ms, reader_deliveries_fn *fn, void *arg) {
    if (n == 0 || n > CLAIM_SUBS_MAX)
        return -EINVAL;
    CLEANUP(claim_cleanup) struct claim_req *q = claim_new(lows, n);
    if (!q)
        return -ENOMEM;
    q->q.result = deliveries_result;
    q->q.done = deliveries_done;
    q->fn.deliveries = fn;
    q->arg = arg;
    pgarr_begin(&r->arrays[0], OID_INT4);
    for (size_t i = 0; i < n; i++) {
        q->asks[i] = (struct claim_ask){.key = (uint32_t)asks[i].sub, .slots = asks[i].slots};
        pgarr_int32(&r->arrays[0], asks[i].sub);
    }
    int e = claim_send(r, q, stmt, lease_ms);
    if (e == 0)
        TAKE(q);
    return e;
}

int reader_claim_deliveries(struct reader *r, const struct delivery_ask *asks, size_t n, int64_t lease_ms,
                            reader_deliveries_fn *fn, void *arg) {
    return claim_for_subs(r, &r->deliveries, "claim_deliveries", asks, n, lease_ms, fn, arg);
}

int reader_claim_replays(struct reader *r, const struct delivery_ask *asks, size_t n, int64_t lease_ms,
                         reader_deliveries_fn *fn, void *arg) {
    return claim_for_subs(r, &r->replays, "claim_replays", asks, n, lease_ms, fn, arg);
}

int reader_step_replay(struct reader *r, reader_step_fn *fn, void *arg) {
    return replay_step(r->people, fn, arg);
}

/* --- rows of decided transactions --- */

struct sweep_req {
    struct read_req q;
    struct uuid last;
    int64_t seen, gone;
};

static void sweep_result(struct read_req *req, PGresult *res) {
    struct sweep_req *q = CONTAINER_OF(req, struct sweep_req, q);
    pg_get_uuid(res, 0, 0, &q->last);
    q->seen = pg_get_int64(res, 0, 1);
    q->gone = pg_get_int64(res, 0, 2);
}

static void sweep_done(struct read_req *req) {
    struct sweep_req *q = CONTAINER_OF(req, struct sweep_req, q);
    if (q->q.code != -ECANCELED) {
        struct reader *r = q->q.reader;
        r->sweep.under_way = false;
        if (q->q.code == 0) {
            bool last_page = q->seen < SWEEP_ROWS;
            r->sweep.after = last_page ? (struct uuid){{0}} : q->last;
            r->sweep.more = !last_page && q->gone > SWEEP_ROWS / 10;
        }
    }
    mem_free(q);
}

/*
 * One step, if one is due: with each claim while there is something to remove, else every 10 s. Failures do not
 * matter.
 */
static void sweep(struct reader *r) {
    uint64_t now = clock_mono_ns();
    if (r->sweep.under_way || (!r->sweep.more && r->sweep.last_ns && now - r->sweep.last_ns < SWEEP_S * NS_PER_S))
        return;
    CLEANUP_FREE struct sweep_req *q = mem_zalloc(sizeof(*q));
    if (!q)
        return;
    q->q.result = sweep_result;
    q->q.done = sweep_done;
    struct pg_params p;
    pg_params_init(&p);
    pg_param_uuid(&p, &r->sweep.after);
    pg_param_int64(&p, SWEEP_ROWS);
    r->sweep.last_ns = now;
    if (read_send(r, &q->q, "sweep_checks", &p) < 0)
        return;
    r->sweep.under_way = true;
    TAKE(q);
}
