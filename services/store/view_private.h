/*
 * Shared by view.c, view_dead.c and view_dead_act.c: a question on a connection that belongs to somebody else, planned for its
 * parameters.
 */
#pragma once

#include "base/arena.h"
#include "store/pgarr.h"
#include "store/read_private.h"
#include "store/view.h"

enum { VIEW_BYTES_MAX = 64 << 20, VIEW_ROWS_MAX = 1000 };

/*
 * `result` (i-th statement) keeps what it needs in the arena and sets `code`; `done` hands it over, after the Sync,
 * and frees.
 */
struct view_req {
    struct pg_run run;
    int code;
    struct arena arena;
    void (*result)(struct view_req *q, int i, PGresult *res);
    void (*done)(struct view_req *q);
};
void view_req_init(struct view_req *q);
/* -EAGAIN: not connected; -ENOMEM. Statements come from view_stmts and view_dead_stmts by name. */
int view_begin(struct pg_conn *c, struct view_req *q) MUSTCHECK;
int view_send(struct view_req *q, const struct pg_stmt *table, const char *name, const struct pg_params *p) MUSTCHECK;
int view_end(struct view_req *q) MUSTCHECK;
/* The three for one statement. */
int view_ask(struct pg_conn *c, struct view_req *q, const struct pg_stmt *table, const char *name,
             const struct pg_params *p) MUSTCHECK;
/* The first id that is not before `us`: ids carry whole milliseconds. */
void view_floor(int64_t us, struct uuid *ret);
/* A copy that lives as long as the request; "" for NULL. NULL and code -ENOMEM when out of memory. */
const char *view_text(struct view_req *q, const PGresult *res, int row, int col);

/* The filter of dead letters: $1 to $6 of its statement, on x and its subscription s. */
#define VIEW_LETTER_FILTER                                                                                             \
    " ($1::text IS NULL OR (s.name = $1::text AND s.state <> 'deleted')) AND ($2::text IS NULL OR x.topic = $2::text)" \
    " AND ($3::timestamptz IS NULL OR x.at >= $3::timestamptz) AND ($4::timestamptz IS NULL OR x.at < "                \
    "$4::timestamptz) AND ($5::text IS NULL OR x.producer = $5::text) AND ($6::text IS NULL OR x.class = $6::text)"
void view_dead_params(struct pg_params *p, const struct view_dead_filter *f);
