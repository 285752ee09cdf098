/* Dead letters: lists, and one with its payload and its attempts. What is done with them: view_dead_act.c. */
#include "store/view_private.h"

#include "base/json.h"

/* clang-format off */
#define LETTER(headers, body, history)                                                                                 \
    "SELECT x.sub, s.name, x.tx, x.n, x.at, x.attempts, x.error, x.class, " history ", x.producer, x.business_key, x.trace, x.topic,"        \
    " x.okey,"                                                                                                         \
    " x.content_type, " headers ", " body ", octet_length(x.body) FROM dead_letter x"                                  \
    " JOIN subscription s ON s.id = x.sub"
enum { COL_SUB, COL_NAME, COL_TX, COL_N, COL_AT, COL_ATTEMPTS, COL_ERROR, COL_CLASS, COL_HISTORY, COL_PRODUCER, COL_BUSINESS_KEY, COL_TRACE,
       COL_TOPIC, COL_KEY, COL_CONTENT_TYPE, COL_HEADERS, COL_BODY, COL_BODY_SIZE };
const struct pg_stmt view_dead_stmts[] = {
    {"dead_list", LETTER("x.headers", "NULL::bytea", "NULL::text") " WHERE" VIEW_LETTER_FILTER
                  " AND ($7::timestamptz IS NULL OR (x.at, x.tx, x.n, x.sub) < ($7::timestamptz, $8::uuid, $9::int2,"
                  " $10::int4)) ORDER BY x.at DESC, x.tx DESC, x.n DESC, x.sub DESC LIMIT $11::int8"},
    {"dead_get", LETTER("x.headers", "x.body", "x.history::text") " WHERE s.name = $1::text AND s.state <> 'deleted'"
        " AND x.tx = $2::uuid AND x.n = $3::int2"},
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

void view_dead_params(struct pg_params *p, const struct view_dead_filter *f) {
    pg_params_init(p);
    pg_param_text(p, f->subscription);
    pg_param_text(p, f->topic);
    param_time(p, f->start_us);
    param_time(p, f->end_us);
    pg_param_text(p, f->producer);
    pg_param_text(p, f->class);
}

int view_dead_list(struct pg_conn *c, const struct view_dead_filter *f, view_dead_fn *fn, void *arg) {
    struct pg_params p;
    view_dead_params(&p, f);
    param_time(&p, f->before_at_us);
    pg_param_uuid(&p, &f->before_tx);
    pg_param_int16(&p, f->before_n);
    pg_param_int32(&p, f->before_sub);
    pg_param_int64(&p, MAX(1, MIN(f->limit, VIEW_ROWS_MAX)));
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
