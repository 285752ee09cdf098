/*
 * The inbox is one INSERT whose key is the message. Pruning announces before it deletes, as in local_tx.c, and a message from
 * the announced past is refused: whether it was done cannot be known any more.
 */
#include "txmsg/inbox.h"

#include "pq.h"

enum { CONSUMER_MAX = 128, KEY_MAX = 1024, STATE_MAX = 63, DIGITS_MAX = 9, ID_TEXT = 36 };

static const char schema[] = "CREATE TABLE IF NOT EXISTS txmsg_inbox (\n"
                             "    consumer text NOT NULL,\n"
                             "    transaction_id uuid NOT NULL,\n"
                             "    n int NOT NULL,\n"
                             "    PRIMARY KEY (consumer, transaction_id, n)\n"
                             ");\n"
                             "CREATE TABLE IF NOT EXISTS txmsg_inbox_pruned (\n"
                             "    consumer text PRIMARY KEY,\n"
                             "    before uuid NOT NULL\n"
                             ");\n"
                             "CREATE TABLE IF NOT EXISTS txmsg_guard (\n"
                             "    consumer text NOT NULL,\n"
                             "    key text NOT NULL,\n"
                             "    version bigint,\n"
                             "    state text,\n"
                             "    PRIMARY KEY (consumer, key)\n"
                             ");\n";

const char *txmsg_inbox_schema(void) {
    return schema;
}

int txmsg_inbox_create(PGconn *db, struct txmsg_pq_error *e) {
    if (!db)
        return pq_fail(e, TXMSG_ERROR_INVALID, "no connection was given");
    return pq_script(db, schema, e);
}

static bool text_fits(const char *s, size_t max) {
    size_t n = s ? strnlen(s, max + 1) : 0;

    return n > 0 && n <= max;
}

/* --- the inbox --- */

/* Splits "<uuid>.<n>" or "<uuid>-<n>". */
static bool split(const char *message_id, char tx[ID_TEXT + 1], const char **n) {
    if (!message_id || strnlen(message_id, ID_TEXT + 1) <= ID_TEXT || !strchr(".-", message_id[ID_TEXT]))
        return false;
    memcpy(tx, message_id, ID_TEXT);
    tx[ID_TEXT] = '\0';
    *n = message_id + ID_TEXT + 1;
    size_t digits = strspn(*n, "0123456789");
    return pq_id_valid(tx) && digits > 0 && digits <= DIGITS_MAX && !(*n)[digits];
}

/* It was not entered: it is there, or it is from the announced past. */
static int why_not(PGconn *db, const char *const *params, struct txmsg_pq_error *e) {
    PGresult *rows = NULL;
    int r = pq_run(db, "SELECT 1 FROM txmsg_inbox WHERE consumer = $1 AND transaction_id = $2::uuid AND n = $3::int", 3,
                   params, &rows, e);

    if (r == 0)
        r = PQntuples(rows) ? TXMSG_INBOX_DONE : TXMSG_INBOX_TOO_OLD;
    PQclear(rows);
    return r;
}

int txmsg_inbox_enter(PGconn *db, const char *consumer, const char *message_id, struct txmsg_pq_error *e) {
    char tx[ID_TEXT + 1];
    const char *n;
    PGresult *rows = NULL;
    int r = pq_must_be_in_transaction(db, e);

    if (r < 0)
        return r;
    if (!text_fits(consumer, CONSUMER_MAX) || !split(message_id, tx, &n))
        return pq_fail(e, TXMSG_ERROR_INVALID,
                       "a consumer of 1 to 128 bytes and an id <transaction id>.<n> are needed");
    const char *params[] = {consumer, tx, n};
    r = pq_run(
        db,
        "INSERT INTO txmsg_inbox (consumer, transaction_id, n) SELECT $1, $2::uuid, $3::int WHERE NOT EXISTS "
        "(SELECT FROM txmsg_inbox_pruned p WHERE p.consumer = $1 AND p.before > $2::uuid) ON CONFLICT DO NOTHING",
        3, params, &rows, e);
    if (r < 0)
        return r;
    bool entered = pq_rows(rows) == 1;
    PQclear(rows);
    return entered ? TXMSG_OK : why_not(db, params, e);
}

int txmsg_inbox_prune(PGconn *db, const char *consumer, int64_t keep_s, int limit, int *deleted,
                      struct txmsg_pq_error *e) {
    if (!text_fits(consumer, CONSUMER_MAX))
        return pq_fail(e, TXMSG_ERROR_INVALID, "a consumer of 1 to 128 bytes is needed");
    return pq_prune(
        db,
        "DELETE FROM txmsg_inbox WHERE consumer = $2 AND (transaction_id, n) IN (SELECT transaction_id, n FROM "
        "txmsg_inbox WHERE consumer = $2 AND transaction_id < (SELECT before FROM txmsg_inbox_pruned WHERE "
        "consumer = $2) ORDER BY transaction_id, n LIMIT $1::int)",
        "INSERT INTO txmsg_inbox_pruned (consumer, before) VALUES ($2, " PQ_ID_BEFORE ") ON CONFLICT (consumer) "
        "DO UPDATE SET before = greatest(txmsg_inbox_pruned.before, excluded.before)",
        consumer, keep_s, limit, deleted, e);
}

/* --- guards --- */

int txmsg_guard_version(PGconn *db, const char *consumer, const char *key, int64_t version, struct txmsg_pq_error *e) {
    char number[24];
    const char *params[] = {consumer, key, number};
    PGresult *rows = NULL;
    int r = pq_must_be_in_transaction(db, e);

    if (r < 0)
        return r;
    if (!text_fits(consumer, CONSUMER_MAX) || !text_fits(key, KEY_MAX))
        return pq_fail(e, TXMSG_ERROR_INVALID, "a consumer of 1 to 128 bytes and a key of 1 to 1,024 are needed");
    snprintf(number, sizeof(number), "%lld", (long long)version);
    r = pq_run(
        db,
        "INSERT INTO txmsg_guard AS g (consumer, key, version) VALUES ($1, $2, $3::bigint) ON CONFLICT (consumer, key) "
        "DO UPDATE SET version = excluded.version WHERE g.version IS NULL OR g.version < excluded.version",
        3, params, &rows, e);
    if (r == 0)
        r = pq_rows(rows) == 1 ? TXMSG_OK : TXMSG_GUARD_STALE;
    PQclear(rows);
    return r;
}

static int state_of(PGconn *db, const char *const *params, char is[64], struct txmsg_pq_error *e) {
    PGresult *rows = NULL;
    int r =
        pq_run(db, "SELECT coalesce(state, '') FROM txmsg_guard WHERE consumer = $1 AND key = $2", 2, params, &rows, e);

    if (r == 0)
        snprintf(is, 64, "%s", PQntuples(rows) ? PQgetvalue(rows, 0, 0) : "");
    PQclear(rows);
    return r;
}

int txmsg_guard_state(PGconn *db, const char *consumer, const char *key, const char *from, const char *to, char is[64],
                      struct txmsg_pq_error *e) {
    const char *params[] = {consumer, key, to, from};
    char own[64];
    PGresult *rows = NULL;
    int r = pq_must_be_in_transaction(db, e);

    if (r < 0)
        return r;
    if (!text_fits(consumer, CONSUMER_MAX) || !text_fits(key, KEY_MAX) || !text_fits(to, STATE_MAX) ||
        (from && !text_fits(from, STATE_MAX)))
        return pq_fail(e, TXMSG_ERROR_INVALID,
                       "a consumer of 1 to 128 bytes, a key of 1 to 1,024, states of 1 to 63 are needed");
    is = is ? is : own;
    r = from
            ? pq_run(db, "UPDATE txmsg_guard SET state = $3 WHERE consumer = $1 AND key = $2 AND state = $4", 4, params,
                     &rows, e)
            : pq_run(
                  db,
                  "INSERT INTO txmsg_guard AS g (consumer, key, state) VALUES ($1, $2, $3) ON CONFLICT (consumer, key) "
                  "DO UPDATE SET state = excluded.state WHERE g.state IS NULL",
                  3, params, &rows, e);
    if (r < 0)
        return r;
    bool moved = pq_rows(rows) == 1;
    PQclear(rows);
    snprintf(is, 64, "%s", to);
    if (moved)
        return TXMSG_OK;
    r = state_of(db, params, is, e);
    return r < 0 ? r : strcmp(is, to) == 0 ? TXMSG_GUARD_STALE : TXMSG_GUARD_REFUSED;
}
