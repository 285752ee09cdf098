/*
 * One key, two writers: the local transaction (COMMITTED) and the check (ROLLED_BACK). The unique index decides between
 * them, and the second to come waits for the end of the first.
 *
 * Pruning must not make a decided id look undecided, so what will be deleted is announced before: by then a check that
 * finds no row answers UNKNOWN. It deletes only what an earlier run announced, because a statement that began before the
 * announcement may not see it.
 */
#include "txmsg/local_tx.h"

#include "pq.h"

static const char schema[] =
    "CREATE TABLE IF NOT EXISTS txmsg_local_tx (\n"
    "    id uuid PRIMARY KEY,\n"
    "    decision text NOT NULL CHECK (decision IN ('COMMITTED', 'ROLLED_BACK'))\n"
    ");\n"
    "CREATE TABLE IF NOT EXISTS txmsg_local_tx_pruned (\n"
    "    one boolean PRIMARY KEY DEFAULT true CHECK (one),\n"
    "    before uuid NOT NULL\n"
    ");\n"
    "INSERT INTO txmsg_local_tx_pruned (before) VALUES ('00000000-0000-0000-0000-000000000000')\n"
    "    ON CONFLICT DO NOTHING;\n";

const char *txmsg_local_tx_schema(void) {
    return schema;
}

int txmsg_local_tx_create(PGconn *db, struct txmsg_pq_error *e) {
    if (!db)
        return pq_fail(e, TXMSG_ERROR_INVALID, "no connection was given");
    return pq_script(db, schema, e);
}

int txmsg_local_tx_commit_record(PGconn *db, const char *id, struct txmsg_pq_error *e) {
    struct txmsg_pq_error own;
    const char *params[] = {id};
    int r = pq_must_be_in_transaction(db, e);

    if (r < 0)
        return r;
    if (!pq_id_valid(id))
        return pq_fail(e, TXMSG_ERROR_INVALID, "the id is not a UUID of version 7");
    e = e ? e : &own;
    r = pq_run(db, "INSERT INTO txmsg_local_tx (id, decision) VALUES ($1, 'COMMITTED')", 1, params, NULL, e);
    return r == TXMSG_ERROR_DATABASE && pq_state_is(e, "23505") ? TXMSG_LOCAL_TX_TAKEN : r;
}

/* --- the check --- */

/* The snapshot of each statement is its own, so the later ones see what the first one waited for. */
static int begin(PGconn *db, int lock_ms, struct txmsg_pq_error *e) {
    char sql[200];

    snprintf(sql, sizeof(sql),
             "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; SET LOCAL lock_timeout = %d; "
             "SET LOCAL synchronous_commit = on",
             lock_ms);
    return pq_script(db, sql, e);
}

/* 1 and *ret: the statement gave a row, its first column; 0: none. */
static int ask(PGconn *db, const char *sql, const char *id, char ret[16], struct txmsg_pq_error *e) {
    PGresult *rows = NULL;
    int r = pq_run(db, sql, 1, (const char *const[]){id}, &rows, e);

    if (r < 0)
        return r;
    r = PQntuples(rows) > 0;
    if (r)
        snprintf(ret, 16, "%s", PQgetvalue(rows, 0, 0));
    PQclear(rows);
    return r;
}

/* Nobody has decided: forbid the local transaction. UNKNOWN if its row may have been pruned. */
static int forbid(PGconn *db, const char *id, enum txmsg_decision *ret, struct txmsg_pq_error *e) {
    char word[16];
    int r = ask(db, "SELECT 'pruned' FROM txmsg_local_tx_pruned WHERE before > $1", id, word, e);

    if (r != 0)
        return r < 0 ? r : 0;
    r = pq_script(db, "COMMIT", e);
    if (r == 0)
        *ret = TXMSG_ROLLED_BACK;
    return r;
}

static int find(PGconn *db, const char *id, enum txmsg_decision *ret, struct txmsg_pq_error *e) {
    char word[16];
    int r = ask(db, "SELECT decision FROM txmsg_local_tx WHERE id = $1", id, word, e);

    if (r > 0)
        *ret = strcmp(word, "COMMITTED") == 0 ? TXMSG_COMMITTED : TXMSG_ROLLED_BACK;
    return r < 0 ? r : 0; /* none: pruned this very moment */
}

static int check(PGconn *db, const char *id, enum txmsg_decision *ret, struct txmsg_pq_error *e) {
    PGresult *rows = NULL;
    int r =
        pq_run(db, "INSERT INTO txmsg_local_tx (id, decision) VALUES ($1, 'ROLLED_BACK') ON CONFLICT (id) DO NOTHING",
               1, (const char *const[]){id}, &rows, e);

    if (r == TXMSG_ERROR_AGAIN && pq_state_is(e, "55P03"))
        return 0; /* the local transaction still runs */
    if (r < 0)
        return r;
    bool inserted = pq_rows(rows) == 1;
    PQclear(rows);
    return inserted ? forbid(db, id, ret, e) : find(db, id, ret, e);
}

int txmsg_local_tx_check(PGconn *db, const char *id, int lock_ms, enum txmsg_decision *ret, struct txmsg_pq_error *e) {
    struct txmsg_pq_error own;

    if (ret)
        *ret = TXMSG_UNDECIDED;
    int r = pq_must_be_idle(db, e);
    if (r < 0)
        return r;
    if (!ret || !pq_id_valid(id) || lock_ms < 1 || lock_ms > 60000)
        return pq_fail(e, TXMSG_ERROR_INVALID,
                       "the id is not a UUID of version 7, the wait is not 1 to 60,000 ms, or no place for the answer");
    e = e ? e : &own;
    r = begin(db, lock_ms, e);
    if (r == 0)
        r = check(db, id, ret, e);
    pq_rollback(db);
    return r;
}

/* --- pruning --- */

int txmsg_local_tx_prune(PGconn *db, int64_t keep_s, int limit, int *deleted, struct txmsg_pq_error *e) {
    return pq_prune(db,
                    "DELETE FROM txmsg_local_tx WHERE id IN (SELECT id FROM txmsg_local_tx WHERE id < "
                    "(SELECT before FROM txmsg_local_tx_pruned) ORDER BY id LIMIT $1::int)",
                    "UPDATE txmsg_local_tx_pruned SET before = greatest(before, " PQ_ID_BEFORE ")", NULL, keep_s, limit,
                    deleted, e);
}
