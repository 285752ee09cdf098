/*
 * Dead letters: lists, one with its payload, and redrive.
 *
 * A redrive moves rows from dead_letter to delivery_due, both and its audit row in one transaction, in chunks that the
 * statement timeout cannot hit. The payload of a delivery comes from `message`, so a letter whose message is past
 * retention stays where it is: its own copy is then the only one.
 */
#include "store/view_private.h"

#include "base/json.h"
#include "base/log.h"

enum { CHUNK = 1000, REDRIVE_MAX = 10000 };

/* clang-format off */
#define LETTER(headers, body, history)                                                                                 \
    "SELECT x.sub, s.name, x.tx, x.n, x.at, x.attempts, x.error, x.class, " history ", x.producer, x.business_key, x.trace, x.topic,"        \
    " x.okey,"                                                                                                         \
    " x.content_type, " headers ", " body ", octet_length(x.body) FROM dead_letter x"                                  \
    " JOIN subscription s ON s.id = x.sub"
enum { COL_SUB, COL_NAME, COL_TX, COL_N, COL_AT, COL_ATTEMPTS, COL_ERROR, COL_CLASS, COL_HISTORY, COL_PRODUCER, COL_BUSINESS_KEY, COL_TRACE,
       COL_TOPIC, COL_KEY, COL_CONTENT_TYPE, COL_HEADERS, COL_BODY, COL_BODY_SIZE };
#define LETTER_FILTER(producer, class)                                                                                        \
    " ($1::text IS NULL OR (s.name = $1::text AND s.state <> 'deleted')) AND ($2::text IS NULL"                        \
    " OR x.topic = $2::text)"                                                                                          \
    " AND ($3::timestamptz IS NULL OR x.at >= $3::timestamptz)"                                                        \
    " AND (" producer "::text IS NULL OR x.producer = " producer "::text)"                                             \
    " AND (" class "::text IS NULL OR x.class = " class "::text)"
/*
 * What can be sent again: the decision says where it stands, the message is the payload. Below the floor partitions may
 * be going; the share lock keeps the floor where it is until the new rows are there for retention to see.
 */
#define FLOOR "WITH f AS MATERIALIZED (SELECT floor FROM cfg FOR SHARE)"
#define REDRIVABLE                                                                                                     \
    " CROSS JOIN LATERAL (SELECT d.lane, d.seq FROM decision d WHERE d.tx = x.tx AND d.verdict = 1"                    \
    " AND x.tx >= (SELECT floor FROM f) OFFSET 0) d"                                                                   \
    " CROSS JOIN LATERAL (SELECT m.n FROM message m WHERE m.tx = x.tx AND m.n = x.n OFFSET 0) m"
#define REDRIVE                                                                                                        \
    " gone AS (DELETE FROM dead_letter t USING y WHERE t.sub = y.sub AND t.tx = y.tx AND t.n = y.n"                    \
    " RETURNING t.sub, t.tx, t.n, y.lane, y.seq, y.name),"                                                             \
    " due AS (INSERT INTO delivery_due (sub, tx, n, due, attempt, lane, seq)"                                          \
    " SELECT sub, tx, n, now(), 0, lane, seq FROM gone ORDER BY sub, tx, n ON CONFLICT (sub, tx, n) DO NOTHING),"       \
    " counted AS (INSERT INTO stat (sub, dead) SELECT sub, -count(*) FROM gone GROUP BY sub)"
#define BY_FILTER(producer, class)                                                                                                      \
    " FROM dead_letter x JOIN subscription s ON s.id = x.sub"                                                          \
    " AND s.state <> 'deleted'" REDRIVABLE " WHERE" LETTER_FILTER(producer, class)                                                      \
    " AND x.at < coalesce($4::timestamptz, now())"
#define BY_KEY                                                                                                         \
    " FROM unnest($1::text[], $2::uuid[], $3::int2[]) k(name, tx, n) JOIN subscription s ON s.name = k.name"           \
    " AND s.state <> 'deleted' JOIN dead_letter x ON x.sub = s.id AND x.tx = k.tx AND x.n = k.n" REDRIVABLE

const struct pg_stmt view_dead_stmts[] = {
    {"dead_list", LETTER("x.headers", "NULL::bytea", "NULL::text") " WHERE" LETTER_FILTER("$10", "$11")
                  " AND ($4::timestamptz IS NULL OR x.at < $4::timestamptz) AND ($5::timestamptz IS NULL"
                  " OR (x.at, x.tx, x.n, x.sub) < ($5::timestamptz, $6::uuid, $7::int2, $8::int4))"
                  " ORDER BY x.at DESC, x.tx DESC, x.n DESC, x.sub DESC LIMIT $9::int8"},
    {"dead_get", LETTER("x.headers", "x.body", "x.history::text") " WHERE s.name = $1::text AND s.state <> 'deleted'"
        " AND x.tx = $2::uuid AND x.n = $3::int2"},
    {"dead_redrive",
     FLOOR ", y AS MATERIALIZED (SELECT x.sub, x.tx, x.n, s.name, d.lane, d.seq" BY_FILTER("$8", "$9")
     " LIMIT $5::int8 FOR UPDATE OF x SKIP LOCKED)," REDRIVE
     ", noted AS (INSERT INTO audit (actor, act, object, reason, after) SELECT $6::text, 'dead.redrive',"
     " coalesce($1::text, '*') || coalesce(' topic ' || $2::text, ''), $7::text, jsonb_build_object('count',"
     " count(*)) FROM gone"
     " HAVING count(*) > 0)"
     " SELECT count(*), now() FROM gone"},
    {"dead_redrive_keys",
     FLOOR ", y AS MATERIALIZED (SELECT x.sub, x.tx, x.n, s.name, d.lane, d.seq" BY_KEY
     " FOR UPDATE OF x SKIP LOCKED)," REDRIVE
     ", noted AS (INSERT INTO audit (actor, act, object, reason) SELECT $4::text, 'dead.redrive',"
     " name || '/' || tx || '.' || n, $5::text FROM gone)"
     " SELECT count(*), now() FROM gone"},
    {"dead_count", FLOOR " SELECT count(*), now() FROM (SELECT 1" BY_FILTER("$6", "$7") " LIMIT $5::int8) c"},
    {"dead_count_keys", FLOOR " SELECT count(*), now() FROM (SELECT 1" BY_KEY ") c"},
    {NULL, NULL},
};
/* clang-format on */

/* --- letters --- */

struct dead_req {
    struct view_req q;
    view_dead_fn *fn;
    void *arg;
    struct view_dead *letters;
    struct tx_content **contents; /* what msg of each points into */
    size_t n;
};

static void dead_cleanup(struct dead_req **at) {
    struct dead_req *q = *at;
    if (!q)
        return;
    for (size_t i = 0; i < q->n; i++)
        tx_content_unref(q->contents[i]);
    arena_deinit(&q->q.arena);
    mem_free(q);
}

static struct bytes some(const PGresult *res, int row, int col) {
    struct bytes v = pg_get_bytes(res, row, col);
    return v.n ? v : BYTES_NULL;
}

static const char *story_text(struct dead_req *q, const json_t *j, const char *key) {
    const char *s = json_string_value(json_object_get(j, key));
    const char *copy = s ? arena_strndup(&q->q.arena, s, strlen(s)) : "";
    if (!copy)
        q->q.code = -ENOMEM;
    return copy;
}

static int32_t story_int(const json_t *j, const char *key) {
    return (int32_t)json_integer_value(json_object_get(j, key));
}

static void put_history(struct dead_req *q, struct bytes text, struct view_dead *d) {
    CLEANUP_JSON json_t *story = text.n ? json_parse(text, NULL) : NULL;
    size_t n = json_array_size(story);
    struct view_attempt *a = n ? arena_zalloc(&q->q.arena, n * sizeof(*a)) : NULL;
    if ((text.n && !story) || (n && !a))
        q->q.code = -ENOMEM;
    for (size_t i = 0; a && i < n; i++) {
        const json_t *j = json_array_get(story, i);
        a[i] = (struct view_attempt){
            .attempt = story_int(j, "attempt"),
            .status = story_int(j, "status"),
            .latency_ms = story_int(j, "latency_ms"),
            .at_us = json_integer_value(json_object_get(j, "at")),
            .class = story_text(q, j, "class"),
            .error = story_text(q, j, "error"),
            .response = story_text(q, j, "response"),
            .worker = story_text(q, j, "run"),
        };
    }
    d->history = a;
    d->history_n = a ? n : 0;
}

static int put_letter(struct dead_req *q, const PGresult *res, int row) {
    static const uint8_t no_digest[32];
    struct view_dead *d = &q->letters[q->n];
    struct msg m = {
        .topic = some(res, row, COL_TOPIC),
        .key = some(res, row, COL_KEY),
        .body = pg_get_bytes(res, row, COL_BODY),
        .content_type = some(res, row, COL_CONTENT_TYPE),
        .headers_json = some(res, row, COL_HEADERS),
    };
    d->sub = pg_get_int32(res, row, COL_SUB);
    d->n = pg_get_int16(res, row, COL_N);
    pg_get_uuid(res, row, COL_TX, &d->tx);
    int r = tx_content_restore(&d->tx, some(res, row, COL_PRODUCER), some(res, row, COL_BUSINESS_KEY),
                               some(res, row, COL_TRACE), no_digest, &m, 1, &q->contents[q->n]);
    if (r < 0)
        return r;
    d->msg = q->contents[q->n++]->messages[0];
    if (pg_get_null(res, row, COL_BODY))
        d->msg.body = BYTES_NULL;
    d->body_size = pg_get_int32(res, row, COL_BODY_SIZE);
    d->sub_name = view_text(&q->q, res, row, COL_NAME);
    d->at_us = pg_get_time_us(res, row, COL_AT);
    d->attempts = pg_get_int32(res, row, COL_ATTEMPTS);
    d->error = view_text(&q->q, res, row, COL_ERROR);
    d->class = view_text(&q->q, res, row, COL_CLASS);
    put_history(q, pg_get_bytes(res, row, COL_HISTORY), d);
    d->producer = view_text(&q->q, res, row, COL_PRODUCER);
    d->business_key = view_text(&q->q, res, row, COL_BUSINESS_KEY);
    return q->q.code;
}

static void dead_result(struct view_req *req, int i, PGresult *res) {
    struct dead_req *q = CONTAINER_OF(req, struct dead_req, q);
    int rows = PQntuples(res);
    UNUSED(i);
    q->letters = arena_zalloc(&q->q.arena, (size_t)MAX(rows, 1) * sizeof(*q->letters));
    q->contents = arena_zalloc(&q->q.arena, (size_t)MAX(rows, 1) * sizeof(struct tx_content *));
    if (!q->letters || !q->contents)
        q->q.code = -ENOMEM;
    for (int row = 0; row < rows && q->q.code == 0; row++)
        q->q.code = put_letter(q, res, row);
}

static void dead_done(struct view_req *req) {
    CLEANUP(dead_cleanup) struct dead_req *q = CONTAINER_OF(req, struct dead_req, q);
    bool ok = q->q.code == 0;
    q->fn(q->arg, q->q.code, ok ? q->letters : NULL, ok ? q->n : 0);
}

static int dead_ask(struct pg_conn *c, const char *stmt, const struct pg_params *p, view_dead_fn *fn, void *arg) {
    CLEANUP(dead_cleanup) struct dead_req *q = mem_zalloc(sizeof(*q));
    if (!q)
        return -ENOMEM;
    view_req_init(&q->q);
    q->q.result = dead_result;
    q->q.done = dead_done;
    q->fn = fn;
    q->arg = arg;
    int r = view_ask(c, &q->q, view_dead_stmts, stmt, p);
    if (r == 0)
        TAKE(q);
    return r;
}

static void param_time(struct pg_params *p, int64_t us) {
    if (us)
        pg_param_time(p, us);
    else
        pg_param_null(p);
}

/* $1 to $4 */
static void params_filter(struct pg_params *p, const struct view_dead_filter *f) {
    pg_params_init(p);
    pg_param_text(p, f->subscription);
    pg_param_text(p, f->topic);
    param_time(p, f->start_us);
    param_time(p, f->end_us);
}

int view_dead_list(struct pg_conn *c, const struct view_dead_filter *f, view_dead_fn *fn, void *arg) {
    struct pg_params p;
    params_filter(&p, f);
    param_time(&p, f->before_at_us);
    pg_param_uuid(&p, &f->before_tx);
    pg_param_int16(&p, f->before_n);
    pg_param_int32(&p, f->before_sub);
    pg_param_int64(&p, MAX(1, MIN(f->limit, VIEW_ROWS_MAX)));
    pg_param_text(&p, f->producer);
    pg_param_text(&p, f->class);
    return dead_ask(c, "dead_list", &p, fn, arg);
}

int view_dead_get(struct pg_conn *c, const char *subscription, const struct uuid *tx, int16_t n, view_dead_fn *fn,
                  void *arg) {
    struct pg_params p;
    pg_params_init(&p);
    pg_param_text(&p, subscription);
    pg_param_uuid(&p, tx);
    pg_param_int16(&p, n);
    return dead_ask(c, "dead_get", &p, fn, arg);
}

/* --- redrive --- */

struct redrive_req {
    struct view_req q;
    struct pg_conn *conn;
    view_count_fn *fn;
    void *arg;
    struct view_dead_filter filter; /* texts in the arena */
    const char *actor, *reason;
    bool one_statement; /* keys, or a count */
    int64_t limit, asked, moved, chunk_moved;
};

static void redrive_cleanup(struct redrive_req **at) {
    struct redrive_req *q = *at;
    if (!q)
        return;
    arena_deinit(&q->q.arena);
    mem_free(q);
}

static void redrive_result(struct view_req *req, int i, PGresult *res) {
    struct redrive_req *q = CONTAINER_OF(req, struct redrive_req, q);
    UNUSED(i);
    q->chunk_moved = pg_get_int64(res, 0, 0);
    /* What dies again while this goes on is not moved twice. */
    if (!q->filter.end_us)
        q->filter.end_us = pg_get_time_us(res, 0, 1);
}

static int redrive_chunk(struct redrive_req *q) {
    struct pg_params p;
    q->asked = MIN(q->limit - q->moved, (int64_t)CHUNK);
    q->chunk_moved = 0;
    params_filter(&p, &q->filter);
    pg_param_int64(&p, q->asked);
    pg_param_text(&p, q->actor);
    pg_param_text(&p, q->reason);
    pg_param_text(&p, q->filter.producer);
    pg_param_text(&p, q->filter.class);
    return view_ask(q->conn, &q->q, view_dead_stmts, "dead_redrive", &p);
}

static void redrive_done(struct view_req *req) {
    CLEANUP(redrive_cleanup) struct redrive_req *q = CONTAINER_OF(req, struct redrive_req, q);
    if (q->q.code == 0) {
        q->moved += q->chunk_moved;
        if (!q->one_statement && q->chunk_moved == q->asked && q->moved < q->limit) {
            q->q.code = redrive_chunk(q);
            if (q->q.code == 0) {
                TAKE(q);
                return;
            }
        }
    }
    q->fn(q->arg, q->q.code, q->moved);
}

static const char *kept(struct redrive_req *q, const char *s) {
    if (!s)
        return NULL;
    const char *copy = arena_strndup(&q->q.arena, s, strlen(s));
    if (!copy)
        q->q.code = -ENOMEM;
    return copy;
}

static int ask_keys(struct redrive_req *q, const struct dead_key *keys, size_t n, bool count_only) {
    CLEANUP_BUF struct buf names, txs, ns;
    struct pg_params p;
    buf_init(&names, 1 << 20);
    buf_init(&txs, 1 << 20);
    buf_init(&ns, 1 << 20);
    pgarr_begin(&names, OID_TEXT);
    pgarr_begin(&txs, OID_UUID);
    pgarr_begin(&ns, OID_INT2);
    for (size_t i = 0; i < n; i++) {
        pgarr_bytes(&names, bytes_str(keys[i].subscription));
        pgarr_uuid(&txs, &keys[i].tx);
        pgarr_int16(&ns, keys[i].n);
    }
    int r = pgarr_end(&names);
    if (r == 0)
        r = pgarr_end(&txs);
    if (r == 0)
        r = pgarr_end(&ns);
    if (r < 0)
        return r;
    pg_params_init(&p);
    pg_param_array(&p, &names);
    pg_param_array(&p, &txs);
    pg_param_array(&p, &ns);
    if (!count_only) {
        pg_param_text(&p, q->actor);
        pg_param_text(&p, q->reason);
    }
    return view_ask(q->conn, &q->q, view_dead_stmts, count_only ? "dead_count_keys" : "dead_redrive_keys", &p);
}

static int ask_count(struct redrive_req *q) {
    struct pg_params p;
    params_filter(&p, &q->filter);
    pg_param_int64(&p, q->limit + 1);
    pg_param_text(&p, q->filter.producer);
    pg_param_text(&p, q->filter.class);
    return view_ask(q->conn, &q->q, view_dead_stmts, "dead_count", &p);
}

int view_dead_redrive(struct pg_conn *c, const struct view_dead_filter *f, const struct dead_key *keys, size_t keys_n,
                      bool count_only, const char *actor, const char *reason, view_count_fn *fn, void *arg) {
    if (keys_n > CHUNK || (keys_n == 0 && !f))
        return -EINVAL;
    CLEANUP(redrive_cleanup) struct redrive_req *q = mem_zalloc(sizeof(*q));
    if (!q)
        return -ENOMEM;
    view_req_init(&q->q);
    q->q.result = redrive_result;
    q->q.done = redrive_done;
    q->conn = c;
    q->fn = fn;
    q->arg = arg;
    q->one_statement = keys_n > 0 || count_only;
    q->limit = REDRIVE_MAX;
    if (keys_n == 0) {
        q->filter = (struct view_dead_filter){.start_us = f->start_us, .end_us = f->end_us};
        q->filter.subscription = kept(q, f->subscription);
        q->filter.topic = kept(q, f->topic);
        q->filter.producer = kept(q, f->producer);
        q->filter.class = kept(q, f->class);
        if (f->limit > 0)
            q->limit = MIN(f->limit, REDRIVE_MAX);
    }
    q->actor = kept(q, actor ? actor : "");
    q->reason = kept(q, reason);
    int r = q->q.code;
    if (r == 0)
        r = keys_n ? ask_keys(q, keys, keys_n, count_only) : count_only ? ask_count(q) : redrive_chunk(q);
    if (r == 0)
        TAKE(q);
    return r;
}
