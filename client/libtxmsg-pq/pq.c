#include "pq.h"

int pq_fail(struct txmsg_pq_error *e, int code, const char *text) {
    if (e) {
        e->sqlstate[0] = '\0';
        snprintf(e->text, sizeof(e->text), "%s", text);
    }
    return code;
}

/* Class 40 and waits for locks are worth a repeat; a standby says 25006. */
static int code_of(PGconn *db, const char *state) {
    if (PQstatus(db) != CONNECTION_OK)
        return TXMSG_ERROR_CONNECTION;
    if (strncmp(state, "40", 2) == 0 || strcmp(state, "55P03") == 0)
        return TXMSG_ERROR_AGAIN;
    if (strcmp(state, "25006") == 0)
        return TXMSG_ERROR_READ_ONLY;
    return strcmp(state, "53200") == 0 ? TXMSG_ERROR_MEMORY : TXMSG_ERROR_DATABASE;
}

static int fail_result(PGconn *db, const PGresult *r, struct txmsg_pq_error *e) {
    const char *state = r ? PQresultErrorField(r, PG_DIAG_SQLSTATE) : NULL;
    const char *text = r ? PQresultErrorField(r, PG_DIAG_MESSAGE_PRIMARY) : NULL;
    int code = r                               ? code_of(db, state ? state : "")
               : PQstatus(db) == CONNECTION_OK ? TXMSG_ERROR_MEMORY
                                               : TXMSG_ERROR_CONNECTION;

    pq_fail(e, code, text ? text : PQerrorMessage(db));
    if (e) {
        snprintf(e->sqlstate, sizeof(e->sqlstate), "%s", state ? state : "");
        e->text[strcspn(e->text, "\n")] = '\0';
    }
    return code;
}

static int judge(PGconn *db, PGresult *r, PGresult **ret, struct txmsg_pq_error *e) {
    ExecStatusType status = PQresultStatus(r);
    int code = status == PGRES_COMMAND_OK || status == PGRES_TUPLES_OK ? 0 : fail_result(db, r, e);

    if (code < 0 || !ret)
        PQclear(r);
    else
        *ret = r;
    return code;
}

int pq_run(PGconn *db, const char *sql, int n, const char *const *params, PGresult **ret, struct txmsg_pq_error *e) {
    return judge(db, PQexecParams(db, sql, n, NULL, params, NULL, NULL, 0), ret, e);
}

int pq_script(PGconn *db, const char *sql, struct txmsg_pq_error *e) {
    return judge(db, PQexec(db, sql), NULL, e);
}

void pq_rollback(PGconn *db) {
    if (PQstatus(db) == CONNECTION_OK && PQtransactionStatus(db) != PQTRANS_IDLE)
        PQclear(PQexec(db, "ROLLBACK"));
}

int pq_rows(PGresult *r) {
    return *PQcmdTuples(r) ? (int)strtol(PQcmdTuples(r), NULL, 10) : 0;
}

static int no_connection(PGconn *db, struct txmsg_pq_error *e) {
    if (!db)
        return pq_fail(e, TXMSG_ERROR_INVALID, "no connection was given");
    if (PQstatus(db) != CONNECTION_OK)
        return pq_fail(e, TXMSG_ERROR_CONNECTION, "the connection is lost");
    return 0;
}

int pq_must_be_idle(PGconn *db, struct txmsg_pq_error *e) {
    int r = no_connection(db, e);

    if (r == 0 && PQtransactionStatus(db) != PQTRANS_IDLE)
        r = pq_fail(e, TXMSG_ERROR_INVALID, "the connection is in a transaction, or busy");
    return r;
}

int pq_must_be_in_transaction(PGconn *db, struct txmsg_pq_error *e) {
    int r = no_connection(db, e);

    if (r == 0 && PQtransactionStatus(db) != PQTRANS_INTRANS)
        r = pq_fail(e, TXMSG_ERROR_INVALID, "the connection is not in a transaction, or in one that failed");
    return r;
}

bool pq_id_valid(const char *id) {
    if (!id || strnlen(id, 37) != 36 || id[14] != '7')
        return false;
    for (int i = 0; i < 36; i++) {
        bool dash = i == 8 || i == 13 || i == 18 || i == 23;
        if (dash ? id[i] != '-' : !isxdigit((unsigned char)id[i]))
            return false;
    }
    return true;
}

int pq_prune(PGconn *db, const char *erase, const char *announce, const char *consumer, int64_t keep_s, int limit,
             int *deleted, struct txmsg_pq_error *e) {
    char number[24];
    const char *params[] = {number, consumer};
    int n = consumer ? 2 : 1;
    PGresult *rows = NULL;
    int r = pq_must_be_idle(db, e);

    if (r < 0)
        return r;
    if (!deleted || limit < 1 || keep_s < PQ_KEEP_MIN_S || keep_s > INT64_MAX / 1000000)
        return pq_fail(e, TXMSG_ERROR_INVALID, "keep less than a day, a limit below 1, or no place for the count");
    *deleted = 0;
    snprintf(number, sizeof(number), "%d", limit);
    r = pq_run(db, erase, n, params, &rows, e);
    if (r < 0)
        return r;
    *deleted = pq_rows(rows);
    PQclear(rows);
    snprintf(number, sizeof(number), "%lld", (long long)keep_s);
    return pq_run(db, announce, n, params, NULL, e);
}
