/* One blocking connection, for migrations and start-up only. Never on a loop's thread once that loop serves. */
#pragma once

#include "base/bytes.h"

#include <libpq-fe.h>

enum { SYNC_SERVER_MIN = 150000 }; /* PostgreSQL 15 */

DEFINE_CLEANUP(PGconn *, sync_conn, PQfinish);
DEFINE_CLEANUP(PGresult *, sync_result, PQclear);

/* Connects within 10 s unless the DSN says otherwise. -ENOTCONN; -EPROTO: the server is too old. */
int sync_connect(const char *dsn, const char *application_name, PGconn **ret, struct errmsg *e) MUSTCHECK;
/*
 * One statement, parameters as text (may be NULL values), results in binary form for pg_get_int32() and its kin. `ret`
 * may be NULL. -ENOTCONN: connection lost; -EAGAIN: locked, cancelled, or the server cannot write now; -EEXIST: a
 * duplicate; -EIO: anything else.
 */
int sync_query(PGconn *c, const char *sql, int n, const char *const *values, PGresult **ret, struct errmsg *e)
    MUSTCHECK;
/* Any number of statements, without results. Errors as above. */
int sync_exec(PGconn *c, const char *sql, struct errmsg *e) MUSTCHECK;
