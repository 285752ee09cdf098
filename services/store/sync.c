/*
 * Blocking PostgreSQL for the moments when there is nothing else to do: migrations and start-up. A thin layer that
 * turns libpq's results into this project's errors; the caller owns connection and results.
 */
#include "store/sync.h"

#include "store/pg.h"

/* libpq ends its messages with a newline and may put several lines into one. */
static const char *one_line(const char *text, char *to, size_t n) {
    snprintf(to, n, "%s", text && *text ? text : "no reason given");
    for (size_t i = strlen(to); i > 0 && isspace((unsigned char)to[i - 1]);)
        to[--i] = 0;
    for (char *p = to; *p; p++)
        if (*p == '\n' || *p == '\t')
            *p = ' ';
    return to;
}

static void quiet(void *arg, const PGresult *res) {
    UNUSED(arg);
    UNUSED(res);
}

int sync_connect(const char *dsn, const char *application_name, PGconn **ret, struct errmsg *e) {
    /* What stands in the DSN is stronger than what comes before it here, and weaker than what comes after. */
    const char *keys[] = {"connect_timeout", "application_name", "dbname", "client_encoding", NULL};
    const char *values[] = {"10", application_name, dsn, "UTF8", NULL};
    char text[400];
    CLEANUP(sync_conn_cleanup) PGconn *c = PQconnectdbParams(keys, values, 1);
    if (!c)
        return -ENOMEM;
    if (PQstatus(c) != CONNECTION_OK)
        return err_set(e, -ENOTCONN, "PostgreSQL cannot be reached: %s",
                       one_line(PQerrorMessage(c), text, sizeof(text)));
    if (PQserverVersion(c) < SYNC_SERVER_MIN)
        return err_set(e, -EPROTO, "PostgreSQL %d is too old: %d or newer is needed", PQserverVersion(c) / 10000,
                       SYNC_SERVER_MIN / 10000);
    PQsetNoticeReceiver(c, quiet, NULL);
    *ret = TAKE(c);
    return 0;
}

static int code_of(enum pg_class cls) {
    switch (cls) {
    case PG_LOST:
        return -ENOTCONN;
    case PG_RETRY:
    case PG_UNAVAILABLE:
        return -EAGAIN;
    case PG_CONFLICT:
        return -EEXIST;
    default:
        return -EIO;
    }
}

static int check(PGconn *c, const PGresult *res, struct errmsg *e) {
    ExecStatusType status = res ? PQresultStatus(res) : PGRES_FATAL_ERROR;
    if (status == PGRES_TUPLES_OK || status == PGRES_COMMAND_OK || status == PGRES_EMPTY_QUERY)
        return 0;
    char text[400];
    if (!res)
        return err_set(e, PQstatus(c) == CONNECTION_OK ? -ENOMEM : -ENOTCONN, "%s",
                       one_line(PQerrorMessage(c), text, sizeof(text)));
    struct pg_error err;
    pg_error_of(res, &err);
    return err_set(e, code_of(err.cls), "%s%s%s", one_line(err.message, text, sizeof(text)),
                   err.sqlstate[0] ? ", SQLSTATE " : "", err.sqlstate);
}

int sync_query(PGconn *c, const char *sql, int n, const char *const *values, PGresult **ret, struct errmsg *e) {
    CLEANUP(sync_result_cleanup) PGresult *res = PQexecParams(c, sql, n, NULL, values, NULL, NULL, 1);
    int r = check(c, res, e);
    if (r < 0)
        return r;
    if (ret)
        *ret = TAKE(res);
    return 0;
}

int sync_exec(PGconn *c, const char *sql, struct errmsg *e) {
    CLEANUP(sync_result_cleanup) PGresult *res = PQexec(c, sql);
    return check(c, res, e);
}
