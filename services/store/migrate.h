/*
 * Forward-only migrations, embedded in the binary from db/migrations/NNNN_name.sql. Blocking; for txmsgctl and start-up.
 * Applied one transaction each under an advisory lock and a lock_timeout, with their checksum in txmsg_migration.
 */
#pragma once

#include "base/bytes.h"

struct migration {
    int version; /* 1, 2, ... without gaps */
    const char *name;
    const char *sql;
};
extern const struct migration migrations[]; /* generated at build time; ends with version 0 */
int migrate_known(void);                    /* the last version of them */

/* What migrate_up would do, or did: one line each into out. -EPROTO: checksum differs or gap; -ENOTCONN; *e says what to do. */
int migrate_plan(const char *dsn, struct buf *out, struct errmsg *e) MUSTCHECK;
int migrate_status(const char *dsn, struct buf *out, struct errmsg *e) MUSTCHECK;
/* partition_seconds > 0 sets the partition width of a new schema (tests use 60); 0 = default. Also makes the partitions ahead. */
int migrate_up(const char *dsn, int partition_seconds, struct buf *out, struct errmsg *e) MUSTCHECK;
/*
 * For the daemon: 0 = the schema is the one this binary knows, or a newer one that still serves it (see migrate.c); 1 = none or older (run
 * migrate up); 2 = newer and not for this binary; -EPROTO: changed by hand or built from another text; -ENOTCONN. *e says what to do.
 */
int migrate_check(const char *dsn, struct errmsg *e) MUSTCHECK;
