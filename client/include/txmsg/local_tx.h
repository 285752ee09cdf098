/*
 * The record of local transactions: answers checks without a line of business code (library libtxmsg-pq).
 *
 * The producer's database has a table txmsg_local_tx with one row per transaction id. The local transaction inserts
 * COMMITTED as a part of itself. The check inserts ROLLED_BACK where there is no row. Both want the same key, so only one
 * of them can be, and whatever was answered stays true: a local transaction that comes late cannot commit any more.
 *
 *     PQexec(db, "BEGIN");
 *     if (txmsg_local_tx_commit_record(db, id, NULL) != 0) ... ROLLBACK, and Cancel
 *     ... the orders ...
 *     PQexec(db, "COMMIT");                                      then Confirm
 *
 * client/local-transaction-record.md has the orders of events that this closes, and the same for MySQL and SQLite. The
 * common rules of these functions, and their errors, stand in txmsg/pq.h.
 */
#ifndef TXMSG_LOCAL_TX_H
#define TXMSG_LOCAL_TX_H

#include "txmsg/pq.h"

#ifdef __cplusplus
extern "C" {
#endif

/* SQL of the two tables; it may run again where they are there. For a migration of your own. Never NULL. @thread any */
TXMSG_API const char *txmsg_local_tx_schema(void);

/* Runs it, in the transaction of the connection or in one of its own. */
TXMSG_API int txmsg_local_tx_create(PGconn *db, struct txmsg_pq_error *e);

/* The transaction id has its outcome already. */
#define TXMSG_LOCAL_TX_TAKEN 32

/*
 * Records, inside the transaction that `db` is in, that it will have committed. Best as its first statement: a check then waits
 * for the transaction instead of forbidding it. One INSERT; it is durable when the COMMIT is (synchronous_commit must be on).
 *
 * TXMSG_LOCAL_TX_TAKEN: a check was answered ROLLED_BACK, or the id was used before. The database transaction is aborted:
 * roll back, and send Cancel. TXMSG_ERROR_INVALID: not in a transaction, or in one that failed. After any failure: roll back. What
 * then becomes of the message is found out by the check, or say Cancel.
 */
TXMSG_API int txmsg_local_tx_commit_record(PGconn *db, const char *id, struct txmsg_pq_error *e);

/*
 * The answer to a check. In a database transaction of its own: `db` must not be in one, and must not be the connection that
 * the local transaction runs on. Waits up to `lock_ms` (1 to 60,000) for a local transaction that has recorded and still runs.
 *
 * TXMSG_OK and *ret: TXMSG_COMMITTED or TXMSG_ROLLED_BACK for good, the latter once it is durable; TXMSG_UNDECIDED if the local
 * transaction still runs, or the id is older than what was pruned. An error is no answer (*ret is TXMSG_UNDECIDED):
 * answer the check with an error (TXMSG_NO_ANSWER of a listener), so that it counts as a failure and is asked again.
 */
TXMSG_API int txmsg_local_tx_check(PGconn *db, const char *id, int lock_ms, enum txmsg_decision *ret,
                                   struct txmsg_pq_error *e);

/*
 * Forgets old rows, at most `limit` of them (from 1), in short transactions of its own; to be called now and then, by any
 * number of processes. *deleted: how many. It deletes what the call before has announced, and announces what is older than
 * `keep_s` seconds (at least 86,400) by the time in the ids and the clock of the database. Keep more than the longest local
 * transaction, and more than txmsg may go on asking. A check of what was announced and has no row is answered UNKNOWN.
 */
TXMSG_API int txmsg_local_tx_prune(PGconn *db, int64_t keep_s, int limit, int *deleted, struct txmsg_pq_error *e);

#ifdef __cplusplus
}
#endif
#endif
