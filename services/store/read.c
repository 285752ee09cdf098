/*
 * A worker's reads: payloads, the log of a lane, its cursors; claims and the finder are in read_claim.c.
 *
 * Two connections, so that a person's slow question never stands before a delivery: `hot` with prepared statements and
 * pinned plans, `people` with neither but a statement_timeout. Requests are answered in order. Each is one statement
 * for many ids; a partitioned table is only ever joined by a lateral subquery with `tx = u.tx` that the planner cannot
 * turn around.
 *
 * Rows are read when they come, the caller hears of them after the Sync. @thread of the loop
 */
#include "store/read_private.h"

#include "base/log.h"

/* clang-format off */
const struct pg_stmt reader_stmts[] = {
    /*
     * Payloads in the order asked for, cut where the sum of their sizes passes the bound, never inside a transaction.
     * The size of a body or header text is known without reading it. ord stays a bigint: then its order is known and
     * nothing is sorted.
     */
    {"contents",
     "SELECT q.ord, " READ_CONTENT_COLUMNS " FROM ("
     "SELECT u.ord, m.*, sum(coalesce(octet_length(m.body), 0) + coalesce(octet_length(m.headers), 0)"
     " + CASE WHEN m.amend IS NULL THEN 0 ELSE (SELECT sum(octet_length(b))::int4 FROM unnest(m.amend) b) END)"
     " OVER (ORDER BY u.ord) AS bytes"
     " FROM unnest($1::uuid[]) WITH ORDINALITY AS u(tx, ord)"
     " LEFT JOIN LATERAL (SELECT m.n, m.total, m.producer, m.business_key, m.trace, m.digest, m.topic, m.okey,"
     " m.content_type, m.deliver_at, m.expire_at,"
     " m.headers, m.body, CASE WHEN m.n = 0 AND m.later > 0 THEN (SELECT d.amend FROM decision d WHERE d.tx = u.tx"
     " AND d.tx BETWEEN $2::uuid AND $3::uuid) END AS amend"
     " FROM message m WHERE m.tx = u.tx AND m.tx BETWEEN $2::uuid AND $3::uuid OFFSET 0) m ON true) q"
     " WHERE q.ord = 1 OR q.bytes <= $4::int8 ORDER BY q.ord"},
    /* A page of entries; `fits` is false from the first on with which there would be more than $3 ids. */
    {"log",
     "SELECT e.seq, e.at, CASE WHEN e.fits THEN e.conf END, e.fits FROM ("
     "SELECT l.seq, l.at, l.conf, sum(coalesce(cardinality(l.conf), 0)) OVER (ORDER BY l.seq) <= $3::int8"
     " OR sum(coalesce(cardinality(l.conf), 0)) OVER (ORDER BY l.seq) = cardinality(l.conf) AS fits"
     " FROM (SELECT seq, at, conf FROM lane_log WHERE lane = $1::int4 AND seq >= $2::int4"
     " ORDER BY seq LIMIT $4::int8) l) e"
     " ORDER BY e.seq"},
    /* What the entries say, newest first, and where subscriptions begin of which they say nothing. */
    {"cursors",
     "SELECT t.seq, e.prog, e.begin FROM (SELECT seq FROM lane_log WHERE lane = $1::int4 ORDER BY seq DESC LIMIT 1) t"
     " LEFT JOIN LATERAL ((SELECT prog, false AS begin FROM lane_log WHERE lane = $1::int4 AND seq > t.seq - $2::int4"
     " AND prog IS NOT NULL"
     " ORDER BY seq DESC) UNION ALL SELECT ARRAY[v.sub, v.from_seq, v.from_index], true FROM sub_vec v"
     " WHERE v.lane = $1::int4 AND EXISTS (SELECT FROM subscription s WHERE s.id = v.sub AND s.state <> 'deleted')"
     " OFFSET 0) e ON true"},
    {"vector", "SELECT sub, from_seq, from_index FROM sub_vec WHERE lane = $1::int4"},
    {NULL, NULL},
};
/* clang-format on */

/* --- requests --- */

int read_code(const struct pg_error *err) {
    switch (err->cls) {
    case PG_OK:
        return 0;
    case PG_LOST:
    case PG_RETRY:
    case PG_UNAVAILABLE:
        return -EAGAIN;
    default:
        LOG_ERROR("store", "a read failed: %s %s", err->sqlstate, err->message);
        return -EINVAL;
    }
}

static void on_result(struct pg_run *run, int i, PGresult *res) {
    struct read_req *q = CONTAINER_OF(run, struct read_req, run);
    UNUSED(i);
    q->result(q, res);
}

static void on_done(struct pg_run *run, const struct pg_error *err) {
    struct read_req *q = CONTAINER_OF(run, struct read_req, run);
    if (q->reader->freed)
        q->code = -ECANCELED;
    else if (err->cls != PG_OK)
        q->code = read_code(err);
    q->done(q);
}

int read_send(struct reader *r, struct read_req *q, const char *stmt, const struct pg_params *p) {
    if (pg_conn_under_way(r->hot) >= READ_UNDER_WAY_MAX)
        return -EAGAIN;
    q->reader = r;
    q->code = 0;
    q->run.on_result = on_result;
    q->run.on_done = on_done;
    int e = pg_run_begin(r->hot, &q->run);
    if (e == 0)
        e = pg_run_send(&q->run, stmt, p);
    if (e == 0)
        e = pg_run_end(&q->run);
    return e == -ENOTCONN ? -EAGAIN : e;
}

/* --- payloads --- */

struct contents_req {
    struct read_req q;
    reader_contents_fn *fn;
    void *arg;
    struct uuid *ids;
    size_t asked, got;
    struct tx_content *contents[];
};

static struct bytes text_of(const PGresult *res, int row, int col) {
    struct bytes v = pg_get_bytes(res, row, col);
    return v.n > 0 ? v : BYTES_NULL;
}

/* The bodies that came with the decision go, in order, where the Prepare left them out; without them they are to come. */
static int put_amend(struct bytes amend, struct msg *msgs, const bool *absent, int n) {
    struct pgarr_view v;
    if (amend.n == 0)
        v.n = 0;
    else if (pgarr_read(amend, OID_BYTEA, &v) < 0)
        return -EINVAL;
    for (int i = 0; i < n; i++) {
        msgs[i].later = absent[i] && v.n == 0;
        if (absent[i] && v.n > 0) {
            msgs[i].body = pgarr_next(&v);
            v.n--;
        }
    }
    return v.n == 0 ? 0 : -EINVAL;
}

int read_content(const struct uuid *id, const PGresult *res, int from, int to, int col, struct tx_content **ret) {
    static const uint8_t no_digest[32];
    struct msg msgs[LIMIT_MESSAGES_HARD];
    bool seen[LIMIT_MESSAGES_HARD] = {0}, absent[LIMIT_MESSAGES_HARD];
    int n = to - from, head = -1;

    *ret = NULL;
    if (n == 1 && pg_get_int16(res, from, col + RC_TOTAL) == 0)
        return 0;
    if (n > LIMIT_MESSAGES_HARD)
        return -EINVAL;
    for (int row = from; row < to; row++) {
        int i = pg_get_int16(res, row, col + RC_N);
        if (i < 0 || i >= n || seen[i])
            return -EINVAL;
        seen[i] = true;
        if (i == 0)
            head = row;
        absent[i] = pg_get_null(res, row, col + RC_BODY);
        msgs[i] = (struct msg){
            .topic = text_of(res, row, col + RC_TOPIC),
            .key = text_of(res, row, col + RC_OKEY),
            .body = pg_get_bytes(res, row, col + RC_BODY),
            .content_type = text_of(res, row, col + RC_CONTENT_TYPE),
            .headers_json = text_of(res, row, col + RC_HEADERS),
            .deliver_at_us = pg_get_time_us(res, row, col + RC_DELIVER_AT),
            .expire_at_us = pg_get_time_us(res, row, col + RC_EXPIRE_AT),
        };
    }
    if (head < 0 || pg_get_int16(res, head, col + RC_TOTAL) != n ||
        put_amend(pg_get_bytes(res, head, col + RC_AMEND), msgs, absent, n) < 0)
        return -EINVAL;
    struct bytes digest = pg_get_bytes(res, head, col + RC_DIGEST);
    return tx_content_restore(id, text_of(res, head, col + RC_PRODUCER), text_of(res, head, col + RC_BUSINESS_KEY),
                              text_of(res, head, col + RC_TRACE), digest.n == 32 ? digest.p : no_digest, msgs,
                              (uint32_t)n, ret);
}

static void contents_result(struct read_req *req, PGresult *res) {
    struct contents_req *q = CONTAINER_OF(req, struct contents_req, q);
    int rows = PQntuples(res);
    for (int from = 0, to; from < rows && q->q.code == 0; from = to) {
        int64_t ord = pg_get_int64(res, from, 0);
        for (to = from + 1; to < rows && pg_get_int64(res, to, 0) == ord;)
            to++;
        if (ord != (int64_t)q->got + 1 || q->got == q->asked) {
            q->q.code = -EINVAL;
            break;
        }
        const struct uuid *id = &q->ids[q->got];
        struct tx_content **c = &q->contents[q->got++];
        if (pg_get_null(res, from, 1 + RC_N))
            continue;
        int e = read_content(id, res, from, to, 1, c);
        if (e == -EINVAL) { /* better to stop here, loudly, than to pass over a message */
            char text[UUID_TEXT];
            uuid_format(id, text);
            LOG_ERROR("store", "the rows of transaction %s are not what this service stores", text);
        }
        q->q.code = e;
    }
}

static void contents_done(struct read_req *req) {
    struct contents_req *q = CONTAINER_OF(req, struct contents_req, q);
    q->fn(q->arg, q->q.code, q->contents, q->q.code == 0 ? q->got : 0);
    for (size_t i = 0; i < q->asked; i++)
        tx_content_unref(q->contents[i]);
    mem_free(q);
}

int reader_contents(struct reader *r, const struct uuid *ids, size_t n, size_t max_bytes, reader_contents_fn *fn,
                    void *arg) {
    if (n == 0)
        return -EINVAL;
    n = MIN(n, (size_t)READ_CONTENTS_MAX);
    CLEANUP_FREE struct contents_req *q = mem_zalloc(sizeof(*q) + n * (sizeof(q->contents[0]) + sizeof(*ids)));
    if (!q)
        return -ENOMEM;
    q->q.result = contents_result;
    q->q.done = contents_done;
    q->fn = fn;
    q->arg = arg;
    q->asked = n;
    q->ids = (struct uuid *)&q->contents[n];
    memcpy(q->ids, ids, n * sizeof(*ids));

    const struct uuid *lo = ids, *hi = ids;
    struct buf *a = &r->arrays[0];
    pgarr_begin(a, OID_UUID);
    for (size_t i = 0; i < n; i++) {
        pgarr_uuid(a, &ids[i]);
        lo = uuid_cmp(&ids[i], lo) < 0 ? &ids[i] : lo;
        hi = uuid_cmp(&ids[i], hi) > 0 ? &ids[i] : hi;
    }
    int e = pgarr_end(a);
    if (e < 0)
        return e;
    struct pg_params p;
    pg_params_init(&p);
    pg_param_array(&p, a);
    pg_param_uuid(&p, lo);
    pg_param_uuid(&p, hi);
    pg_param_int64(&p, (int64_t)MIN(max_bytes, (size_t)INT32_MAX));
    e = read_send(r, &q->q, "contents", &p);
    if (e == 0)
        TAKE(q);
    return e;
}

/* --- the log of a lane --- */

struct log_req {
    struct read_req q;
    reader_log_fn *fn;
    void *arg;
    struct log_entry *entries;
    struct uuid *ids;
    size_t n;
    int32_t next_seq;
    bool at_end;
};

static void log_result(struct read_req *req, PGresult *res) {
    struct log_req *q = CONTAINER_OF(req, struct log_req, q);
    int rows = PQntuples(res);
    size_t ids_n = 0;
    struct pgarr_view v;
    for (int i = 0; i < rows; i++) {
        if (pgarr_read(pg_get_bytes(res, i, 2), OID_UUID, &v) < 0) {
            q->q.code = -EINVAL;
            return;
        }
        ids_n += v.n;
    }
    q->entries = mem_calloc((size_t)MAX(rows, 1), sizeof(*q->entries));
    q->ids = mem_calloc(MAX(ids_n, 1), sizeof(*q->ids));
    if (!q->entries || !q->ids) {
        q->q.code = -ENOMEM;
        return;
    }
    struct uuid *at = q->ids;
    q->at_end = rows < READ_PAGE_ENTRIES;
    for (int i = 0; i < rows; i++) {
        if (!pg_get_bool(res, i, 3)) {
            q->at_end = false;
            break;
        }
        int32_t seq = pg_get_int32(res, i, 0);
        q->next_seq = seq + 1;
        int e = pgarr_read(pg_get_bytes(res, i, 2), OID_UUID, &v);
        if (e < 0 || v.n == 0)
            continue;
        q->entries[q->n++] =
            (struct log_entry){.seq = seq, .at_us = pg_get_time_us(res, i, 1), .conf = at, .conf_n = v.n};
        for (uint32_t k = 0; k < v.n; k++)
            memcpy((at++)->b, pgarr_next(&v).p, sizeof(at->b));
    }
}

static void log_done(struct read_req *req) {
    struct log_req *q = CONTAINER_OF(req, struct log_req, q);
    bool ok = q->q.code == 0;
    q->fn(q->arg, q->q.code, ok ? q->entries : NULL, ok ? q->n : 0, q->next_seq, ok && q->at_end);
    mem_free(q->entries);
    mem_free(q->ids);
    mem_free(q);
}

int reader_log(struct reader *r, int32_t lane, int32_t from_seq, size_t max_ids, reader_log_fn *fn, void *arg) {
    CLEANUP_FREE struct log_req *q = mem_zalloc(sizeof(*q));
    if (!q)
        return -ENOMEM;
    q->q.result = log_result;
    q->q.done = log_done;
    q->fn = fn;
    q->arg = arg;
    q->next_seq = from_seq;
    struct pg_params p;
    pg_params_init(&p);
    pg_param_int32(&p, lane);
    pg_param_int32(&p, from_seq);
    pg_param_int64(&p, (int64_t)MIN(max_ids, (size_t)INT32_MAX));
    pg_param_int64(&p, READ_PAGE_ENTRIES);
    int e = read_send(r, &q->q, "log", &p);
    if (e == 0)
        TAKE(q);
    return e;
}

/* --- cursors --- */

struct cursors_req {
    struct read_req q;
    reader_cursors_fn *fn;
    void *arg;
    struct cursor *cursors;
    size_t n, cap;
    int32_t max_seq;
};

/* Rows come newest first: what is there already is newer. */
static int cursor_add(struct cursors_req *q, int32_t target, struct lane_pos pos) {
    for (size_t i = 0; i < q->n; i++)
        if (q->cursors[i].target == target)
            return 0;
    if (q->n == q->cap) {
        size_t cap = MAX(q->cap * 2, 16);
        struct cursor *more = mem_realloc(q->cursors, cap * sizeof(*more));
        if (!more)
            return -ENOMEM;
        q->cursors = more;
        q->cap = cap;
    }
    q->cursors[q->n++] = (struct cursor){target, pos};
    return 0;
}

static int cursors_of_row(struct cursors_req *q, const PGresult *res, int row) {
    struct pgarr_view v;
    int e = pgarr_read(pg_get_bytes(res, row, 1), OID_INT4, &v);
    if (e == 0 && v.n % 3 != 0)
        e = -EINVAL;
    for (uint32_t k = 0; k < v.n / 3 && e == 0; k++) {
        int32_t target = pgarr_next_int32(&v), seq = pgarr_next_int32(&v), index = pgarr_next_int32(&v);
        e = cursor_add(q, target, (struct lane_pos){seq, index});
    }
    return e;
}

static void cursors_result(struct read_req *req, PGresult *res) {
    struct cursors_req *q = CONTAINER_OF(req, struct cursors_req, q);
    int rows = PQntuples(res);
    if (rows)
        q->max_seq = pg_get_int32(res, 0, 0);
    for (int begin = 0; begin < 2; begin++) /* where they begin comes last: entries are newer */
        for (int i = 0; i < rows && q->q.code == 0; i++)
            if (pg_get_bool(res, i, 2) == begin)
                q->q.code = cursors_of_row(q, res, i);
}

static void vector_result(struct read_req *req, PGresult *res) {
    struct cursors_req *q = CONTAINER_OF(req, struct cursors_req, q);
    for (int i = 0; i < PQntuples(res) && q->q.code == 0; i++)
        q->q.code =
            cursor_add(q, pg_get_int32(res, i, 0), (struct lane_pos){pg_get_int32(res, i, 1), pg_get_int32(res, i, 2)});
}

static void cursors_done(struct read_req *req) {
    struct cursors_req *q = CONTAINER_OF(req, struct cursors_req, q);
    bool ok = q->q.code == 0;
    q->fn(q->arg, q->q.code, ok ? q->cursors : NULL, ok ? q->n : 0, ok ? q->max_seq : 0);
    mem_free(q->cursors);
    mem_free(q);
}

static int cursors_start(struct reader *r, const char *stmt, void (*result)(struct read_req *, PGresult *),
                         const struct pg_params *p, reader_cursors_fn *fn, void *arg) {
    CLEANUP_FREE struct cursors_req *q = mem_zalloc(sizeof(*q));
    if (!q)
        return -ENOMEM;
    q->q.result = result;
    q->q.done = cursors_done;
    q->fn = fn;
    q->arg = arg;
    int e = read_send(r, &q->q, stmt, p);
    if (e == 0)
        TAKE(q);
    return e;
}

int reader_cursors(struct reader *r, int32_t lane, reader_cursors_fn *fn, void *arg) {
    struct pg_params p;
    pg_params_init(&p);
    pg_param_int32(&p, lane);
    pg_param_int32(&p, READ_FOLD_ENTRIES);
    return cursors_start(r, "cursors", cursors_result, &p, fn, arg);
}

int reader_vector(struct reader *r, int32_t lane, reader_cursors_fn *fn, void *arg) {
    struct pg_params p;
    pg_params_init(&p);
    pg_param_int32(&p, lane);
    return cursors_start(r, "vector", vector_result, &p, fn, arg);
}

/* --- life --- */

static int connections_new(struct reader *r) {
    char hot[512], people[256];
    char common[200];
    snprintf(common, sizeof(common),
             "-c statement_timeout=%lld -c lock_timeout=1000 -c idle_in_transaction_session_timeout=5000"
             " -c default_transaction_isolation=read\\ committed",
             (long long)(r->store->o.statement_timeout_ms > 0 ? r->store->o.statement_timeout_ms : 5000));
    snprintf(hot, sizeof(hot), READ_PINS " %s", common);
    snprintf(people, sizeof(people), "-c jit=off %s", common);
    struct pg_conn_options o = {
        .dsn = r->store->o.dsn, .application_name = "txmsg-read", .options = hot, .stmts = r->stmts};
    int e = pg_conn_new(r->loop, &o, &r->hot);
    if (e < 0)
        return e;
    o = (struct pg_conn_options){.dsn = r->store->o.dsn, .application_name = "txmsg-people", .options = people};
    return pg_conn_new(r->loop, &o, &r->people);
}

int reader_new(struct loop *l, struct store *s, struct reader **ret) {
    struct reader *r = mem_zalloc(sizeof(*r));
    if (!r)
        return -ENOMEM;
    r->loop = l;
    r->store = s;
    for (int i = 0; i < READ_ARRAYS; i++)
        buf_init(&r->arrays[i], READ_ARRAY_BYTES_MAX);
    size_t n = 0;
    for (const struct pg_stmt *t = reader_stmts; t->name; t++)
        r->stmts[n++] = *t;
    for (const struct pg_stmt *t = claim_stmts; t->name; t++)
        r->stmts[n++] = *t;
    ASSERT(n < ARRAY_LEN(r->stmts));
    int e = connections_new(r);
    if (e < 0) {
        reader_free(r);
        return e;
    }
    *ret = r;
    return 0;
}

void reader_free(struct reader *r) {
    if (!r || r->freed)
        return;
    r->freed = true;
    pg_conn_free(r->hot);
    pg_conn_free(r->people);
    for (int i = 0; i < READ_ARRAYS; i++)
        buf_deinit(&r->arrays[i]);
    mem_free(r);
}

struct pg_conn *reader_people(struct reader *r) {
    return r->people;
}

bool reader_ready(const struct reader *r) {
    return pg_conn_ready(r->hot) && pg_conn_ready(r->people);
}
