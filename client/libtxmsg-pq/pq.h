/* What the files of libtxmsg-pq share: statements with text parameters, and errors as values. */
#pragma once

#include "txmsg/pq.h"

#include <stdbool.h>

/* Rows of one statement; negative: failed, *e filled. With `ret` the result is the caller's to PQclear. */
int pq_run(PGconn *db, const char *sql, int n, const char *const *params, PGresult **ret, struct txmsg_pq_error *e);
/* Several statements in one text, without parameters. */
int pq_script(PGconn *db, const char *sql, struct txmsg_pq_error *e);
/* ROLLBACK, keeping what *e says. */
void pq_rollback(PGconn *db);
/* Fills *e (NULL allowed) and returns `code`. */
int pq_fail(struct txmsg_pq_error *e, int code, const char *text);

/* The state that a function needs its connection in; TXMSG_ERROR_INVALID or TXMSG_ERROR_CONNECTION. */
int pq_must_be_idle(PGconn *db, struct txmsg_pq_error *e);
int pq_must_be_in_transaction(PGconn *db, struct txmsg_pq_error *e);

/* 36 characters, version 7. */
bool pq_id_valid(const char *id);
/* Rows that a statement changed. */
int pq_rows(PGresult *r);

/* The SQLSTATE of a failure. */
static inline bool pq_state_is(const struct txmsg_pq_error *e, const char *state) {
    return __builtin_strcmp(e->sqlstate, state) == 0;
}

/* The smallest id of that many seconds ($1) ago, as a parameter of SQL. */
#define PQ_ID_BEFORE                                                                                                   \
    "(lpad(to_hex((extract(epoch FROM now()) * 1000)::bigint - $1::bigint * 1000), 12, '0') || "                       \
    "'00000000000000000000')::uuid"
enum { PQ_KEEP_MIN_S = 86400 };
/*
 * The part that both prunes share: `erase` deletes at most $1 rows of what was announced, `announce` takes $1 seconds; $2 is
 * `consumer`, if it is not NULL.
 */
int pq_prune(PGconn *db, const char *erase, const char *announce, const char *consumer, int64_t keep_s, int limit,
             int *deleted, struct txmsg_pq_error *e);
