/* The audit log. Statements of people are sent unprepared, see view.c. */
#include "store/view.h"

enum { DETAIL_MAX = 16384 };

static const char list_sql[] =
    "SELECT id, at, actor, act, object, coalesce(reason, ''),"
    " CASE WHEN before IS NULL AND after IS NULL THEN '' ELSE"
    " left(jsonb_strip_nulls(jsonb_build_object('before', before, 'after', after))::text, $7::int4) END,"
    /* Bulk acts alone write a count; what they act on has no such member. */
    " CASE WHEN jsonb_typeof(after->'count') = 'number' THEN (after->>'count')::int8 ELSE 1 END"
    " FROM audit WHERE ($1::int8 = 0 OR id < $1::int8) AND ($2::text IS NULL OR actor = $2::text)"
    " AND ($3::text IS NULL OR act = $3::text) AND ($4::text IS NULL OR object = $4::text)"
    " AND ($5::timestamptz IS NULL OR at >= $5::timestamptz) AND ($6::timestamptz IS NULL OR at < $6::timestamptz)"
    " ORDER BY id DESC LIMIT $8::int8";

struct audit_list {
    view_audit_fn *fn;
    void *arg;
};

static const char *text(const PGresult *res, int row, int col) {
    return (const char *)pg_get_bytes(res, row, col).p;
}

static void on_listed(void *arg, PGresult *res, const struct pg_error *err) {
    CLEANUP_FREE struct audit_list *q = arg;
    CLEANUP_FREE struct view_audit *rows = NULL;
    size_t n = err->cls == PG_OK ? (size_t)PQntuples(res) : 0;
    int code = err->cls == PG_OK ? 0 : -EAGAIN;
    if (n && !(rows = mem_calloc(n, sizeof(*rows))))
        code = -ENOMEM;
    for (size_t i = 0; code == 0 && i < n; i++) {
        int row = (int)i;
        rows[i] = (struct view_audit){.id = pg_get_int64(res, row, 0),
                                      .at_us = pg_get_time_us(res, row, 1),
                                      .actor = text(res, row, 2),
                                      .act = text(res, row, 3),
                                      .object = text(res, row, 4),
                                      .reason = text(res, row, 5),
                                      .detail = text(res, row, 6),
                                      .count = pg_get_int64(res, row, 7)};
    }
    q->fn(q->arg, code, rows, code == 0 ? n : 0);
}

static void param_time(struct pg_params *p, int64_t us) {
    if (us)
        pg_param_time(p, us);
    else
        pg_param_null(p);
}

int view_audit(struct pg_conn *c, const struct view_audit_filter *f, view_audit_fn *fn, void *arg) {
    CLEANUP_FREE struct audit_list *q = mem_alloc(sizeof(*q));
    struct pg_params p;
    if (!q)
        return -ENOMEM;
    *q = (struct audit_list){fn, arg};
    pg_params_init(&p);
    pg_param_int64(&p, f->before_id);
    pg_param_text(&p, f->actor);
    pg_param_text(&p, f->act);
    pg_param_text(&p, f->object);
    param_time(&p, f->start_us);
    param_time(&p, f->end_us);
    pg_param_int32(&p, DETAIL_MAX);
    pg_param_int64(&p, f->limit);
    int r = pg_query_sql(c, list_sql, &p, on_listed, q);
    if (r == 0)
        (void)TAKE(q);
    return r;
}
