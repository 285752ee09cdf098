/*
 * One PostgreSQL connection on a worker's loop: asynchronous, pipelined, reconnecting by itself.
 *
 * Work is a `struct pg_run`: one or more statements up to one Sync, which is the transaction unless the statements say BEGIN.
 * Runs of a connection end in the order in which they began. Everything here is @thread of the loop.
 */
#pragma once

#include "base/bytes.h"
#include "base/uuid.h"
#include "loop/loop.h"

#include <libpq-fe.h>

/* What an error means for the caller (STORAGE.md 3.9). */
enum pg_class {
    PG_OK,
    PG_CONFLICT,    /* 23505; see `table` and `constraint` */
    PG_NOT_NULL,    /* 23502; see `table` and `column` */
    PG_DIVISION,    /* 22012: a count check failed on purpose */
    PG_DATA,        /* other 22xxx, 23xxx, 54xxx: PostgreSQL refuses a value */
    PG_RETRY,       /* 40xxx, 55P03, 57014: aborted, may be tried again */
    PG_UNAVAILABLE, /* 53xxx, 58xxx, 25006, 57P03: aborted, the server cannot write now; 25006 also ends the connection */
    PG_LOST, /* 08xxx, 57P01, 57P02, 57P05, 25P03, 26000, broken connection: the outcome of what was sent is unknown */
    PG_BUG,  /* anything else: our statement is wrong */
};

struct pg_error {
    enum pg_class cls;
    char sqlstate[6];
    char table[64], constraint[64], column[64];
    char message[256];
};

/* A statement that a connection prepares when it connects. Tables end with name NULL. */
struct pg_stmt {
    const char *name; /* also the prepared statement's name */
    const char *sql;
};

/* Parameters of one statement; values are copied by libpq when the statement is sent. */
enum { PG_PARAMS_MAX = 32, PG_SCRATCH = 512 };
struct pg_params {
    int n;
    const char *values[PG_PARAMS_MAX];
    int lengths[PG_PARAMS_MAX], formats[PG_PARAMS_MAX];
    uint8_t scratch[PG_SCRATCH]; /* big-endian numbers */
    size_t scratch_n;
};
void pg_params_init(struct pg_params *p);
void pg_param_null(struct pg_params *p);
void pg_param_bool(struct pg_params *p, bool v);
void pg_param_int16(struct pg_params *p, int16_t v);
void pg_param_int32(struct pg_params *p, int32_t v);
void pg_param_int64(struct pg_params *p, int64_t v);
void pg_param_uuid(struct pg_params *p, const struct uuid *v);  /* v must live until the statement is sent */
void pg_param_text(struct pg_params *p, const char *v);         /* NULL = SQL NULL; NUL-terminated */
void pg_param_bytes(struct pg_params *p, struct bytes v);       /* bytea, or text in binary form; p NULL = SQL NULL */
void pg_param_time(struct pg_params *p, int64_t us_since_1970); /* timestamptz */
void pg_param_array(struct pg_params *p, const struct buf *array); /* see pgarr.h */

struct pg_conn;
struct pg_conn_options {
    const char *dsn;
    const char *application_name; /* <= 63 bytes */
    const char *options;          /* "-c statement_timeout=5000 ..." or NULL */
    const struct pg_stmt *stmts;  /* may be NULL */
    void (*on_ready)(void *arg);  /* connected and prepared; each time */
    void (*on_lost)(void *arg,
                    const struct pg_error *why); /* after all runs got their PG_LOST; a reconnect is under way */
    void (*on_notice)(void *arg, const char *sqlstate, const char *message); /* NULL = logged at debug level */
    void *arg;
};
/* Starts connecting; strings are copied, `stmts` must outlive the connection. */
int pg_conn_new(struct loop *l, const struct pg_conn_options *o, struct pg_conn **ret) MUSTCHECK;
/* Runs under way get on_done with PG_LOST; no callback of options comes any more. NULL allowed. */
void pg_conn_free(struct pg_conn *c);
bool pg_conn_ready(const struct pg_conn *c);
/* Takes effect at the next connect; `now` = drop the present connection (runs get PG_LOST) and connect again. */
int pg_conn_rename(struct pg_conn *c, const char *application_name, bool now) MUSTCHECK;
/* For people: why the last attempt to connect failed, "" if none did. */
const char *pg_conn_last_error(const struct pg_conn *c);
int pg_conn_backend_pid(const struct pg_conn *c);

struct pg_run {
    struct list link;
    /* The result of the i-th statement, in order; borrowed unless the callback sets `kept`. For statements that succeeded; may be NULL. */
    void (*on_result)(struct pg_run *r, int i, PGresult *res);
    /* Exactly once for each pg_run_end() that returned 0: after the Sync. err->cls is PG_OK, or the first error. */
    void (*on_done)(struct pg_run *r, const struct pg_error *err);
    /* private */
    struct pg_conn *conn;
    int sent, got;
    bool ended, kept;
    struct pg_error error;
};
/*
 * pg_run_begin, pg_run_send..., pg_run_end: send the statements and the Sync. -ENOTCONN when not ready, and then or on -ENOMEM
 * nothing counts as sent, on_done never comes, and the connection is dropped if something had been sent.
 */
int pg_run_begin(struct pg_conn *c, struct pg_run *r) MUSTCHECK;
int pg_run_send(struct pg_run *r, const char *stmt, const struct pg_params *p)
    MUSTCHECK; /* a prepared statement's name */
int pg_run_sql(struct pg_run *r, const char *sql, const struct pg_params *p) MUSTCHECK; /* unprepared: rare things */
int pg_run_end(struct pg_run *r) MUSTCHECK;
/* Runs of this connection whose end has not come yet. */
unsigned pg_conn_under_way(const struct pg_conn *c);
/* For how long the server has owed a result; 0 = nothing is under way. Its end of TCP may well be alive. */
uint64_t pg_conn_silent_ms(const struct pg_conn *c);

/* One statement, one result, after its Sync: `done` comes exactly once if 0 was returned; res is NULL unless err->cls is PG_OK. */
typedef void pg_done_fn(void *arg, PGresult *res, const struct pg_error *err);
int pg_query(struct pg_conn *c, const char *stmt, const struct pg_params *p, pg_done_fn *done, void *arg) MUSTCHECK;
int pg_query_sql(struct pg_conn *c, const char *sql, const struct pg_params *p, pg_done_fn *done, void *arg) MUSTCHECK;

/* Binary results. Columns must be of the named type; NULL gives 0 / empty. */
bool pg_get_null(const PGresult *r, int row, int col);
bool pg_get_bool(const PGresult *r, int row, int col);
int16_t pg_get_int16(const PGresult *r, int row, int col);
int32_t pg_get_int32(const PGresult *r, int row, int col);
int64_t pg_get_int64(const PGresult *r, int row, int col);
void pg_get_uuid(const PGresult *r, int row, int col, struct uuid *ret);
struct bytes pg_get_bytes(const PGresult *r, int row,
                          int col); /* text and bytea; borrowed from r; text is NUL-terminated */
int64_t pg_get_time_us(const PGresult *r, int row, int col); /* timestamptz -> microseconds since 1970 */
/* Fills the class and texts from a failed result; also for synchronous connections. */
void pg_error_of(const PGresult *r, struct pg_error *ret);
const char *pg_class_name(enum pg_class c);
