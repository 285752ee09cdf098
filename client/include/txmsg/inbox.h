/*
 * Doing a message once, though it may come twice (library libtxmsg-pq): an inbox and guards, in the consumer's own database
 * transaction, so that the work and the memory of it become one outcome.
 *
 *     PQexec(db, "BEGIN");
 *     int r = txmsg_inbox_enter(db, "points", txmsg_event_id(ev), NULL);
 *     TXMSG_OK: do the work, COMMIT, acknowledge. TXMSG_INBOX_DONE: ROLLBACK, acknowledge.
 *     TXMSG_INBOX_TOO_OLD: ROLLBACK, refuse for good. An error: ROLLBACK, let it be tried again.
 *
 * `consumer` is a name of 1 to 128 bytes: each has its own memory, so several may share a database. The functions are for a
 * connection that is inside a transaction, as the common rules in txmsg/pq.h say; nothing is remembered unless it commits.
 * client/consumers.md has the same in SQL for MySQL and SQLite.
 */
#ifndef TXMSG_INBOX_H
#define TXMSG_INBOX_H

#include "txmsg/pq.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Outcomes beside TXMSG_OK. */
enum txmsg_inbox_status {
    /* It was done before, and committed. */
    TXMSG_INBOX_DONE = 40,
    /* It is older than what was pruned, so nobody knows whether it was done. It must not be done now. */
    TXMSG_INBOX_TOO_OLD = 41,
    /* The guard knows this version, or a newer one: what the message says is past. */
    TXMSG_GUARD_STALE = 42,
    /* The guard's state allows no such step. */
    TXMSG_GUARD_REFUSED = 43
};

/* SQL of the tables; it may run again where they are there. For a migration of your own. Never NULL. @thread any */
TXMSG_API const char *txmsg_inbox_schema(void);

/* Runs it, in the transaction of the connection or in one of its own. */
TXMSG_API int txmsg_inbox_create(PGconn *db, struct txmsg_pq_error *e);

/*
 * Remembers a message ("<transaction id>.<n>", or with '-' for the dot as in webhook-id). If it is just being done on another
 * connection, this waits for the end of that, by lock_timeout at most (then TXMSG_ERROR_AGAIN).
 * TXMSG_OK: for the first time. TXMSG_INBOX_DONE, TXMSG_INBOX_TOO_OLD, or an error.
 */
TXMSG_API int txmsg_inbox_enter(PGconn *db, const char *consumer, const char *message_id, struct txmsg_pq_error *e);

/*
 * Forgets what `consumer` did long ago, as txmsg_local_tx_prune() does: a call deletes what the one before has announced, and
 * announces what is older than `keep_s` seconds (at least 86,400). Here `db` must not be in a transaction. Keep more than txmsg
 * keeps messages (its retention): until then a dead letter may be redriven, or a replay begin.
 */
TXMSG_API int txmsg_inbox_prune(PGconn *db, const char *consumer, int64_t keep_s, int limit, int *deleted,
                                struct txmsg_pq_error *e);

/*
 * Messages overtake each other. The version guard lets each thing (`key`, 1 to 1,024 bytes) go forwards only: TXMSG_OK and
 * remembered, if `version` is above all before it; else TXMSG_GUARD_STALE. The first of a key may have any version.
 */
TXMSG_API int txmsg_guard_version(PGconn *db, const char *consumer, const char *key, int64_t version,
                                  struct txmsg_pq_error *e);

/*
 * The state guard lets a thing go from one state to the next and nowhere else: TXMSG_OK if `key` is in `from`, and now in `to`;
 * TXMSG_GUARD_STALE if it is in `to` already; else TXMSG_GUARD_REFUSED, and *is (NULL allowed) says where it is, "" if nowhere.
 * `from` NULL: it must not be there yet. States are 1 to 63 bytes.
 */
TXMSG_API int txmsg_guard_state(PGconn *db, const char *consumer, const char *key, const char *from, const char *to,
                                char is[64], struct txmsg_pq_error *e);

#ifdef __cplusplus
}
#endif

#endif
