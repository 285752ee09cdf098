/*
 * What the helpers over libpq have in common (library libtxmsg-pq).
 *
 * They use a connection of the caller's, block while the database works, and keep nothing. A connection may be used by one
 * thread at a time; with different connections they may run at once. Ids are text of 36 characters, UUIDs of version 7.
 *
 * Every function that returns `int` answers TXMSG_OK when it is done, a positive outcome that is named at the function and must be
 * handled, or an error below 0: TXMSG_ERROR_INVALID (an argument, or the connection is inside a transaction where it must not
 * be, or the other way round; nothing was sent to the database), TXMSG_ERROR_MEMORY, or one of those below.
 */
#ifndef TXMSG_PQ_H
#define TXMSG_PQ_H

#include <libpq-fe.h>

#include "txmsg/types.h"

#ifdef __cplusplus
extern "C" {
#endif

enum txmsg_pq_status {
    /* The connection is lost: what was asked may or may not have been done. */
    TXMSG_ERROR_CONNECTION = -32,
    /* A serialization failure, a deadlock, or a wait for a lock that took too long: roll back and begin again. */
    TXMSG_ERROR_AGAIN = -33,
    /* The database is read-only: a standby, perhaps. */
    TXMSG_ERROR_READ_ONLY = -34,
    /* Any other error of the database. */
    TXMSG_ERROR_DATABASE = -35
};

/* What the database said. Given NULL, nobody is told. */
struct txmsg_pq_error {
    char sqlstate[6]; /* "" if it was not the database that refused */
    char text[250];   /* one line for people, cut off where it is longer */
};

#ifdef __cplusplus
}
#endif

#endif
