/*
 * What a worker shares with the store: where the database is, how it is partitioned, and what the database clock says.
 *
 * One struct store per process; filled once by store_open() (blocking, at start) and read by every thread.
 */
#pragma once

#include "base/bytes.h"
#include "base/uuid.h"

#include <stdatomic.h>

struct store_options {
    const char *dsn;
    int64_t partitions_ahead;     /* periods to keep ready; default 3 */
    int64_t lane_batch;           /* operations of one group commit, at most 440 */
    int64_t lane_batch_bytes;     /* default 4 MiB */
    int64_t lane_queue;           /* operations waiting in a worker; default 8192 */
    int64_t lane_queue_bytes;     /* default 64 MiB */
    int64_t cache_bytes;          /* payloads of undecided transactions kept per worker; default 64 MiB */
    int64_t progress_ms;          /* a changed cursor is durable after at most this; default 50 */
    int64_t dead_after_ms;        /* a worker whose beat stands still is dead; default 5 s */
    int64_t statement_timeout_ms; /* of reads; default 5 s */
    int64_t retention_ms;         /* what is older and not alive is dropped; longer than ids may be old */
    int64_t audit_ms;             /* the same for audit rows */
    int64_t id_future_ms;         /* how far the time of an accepted id may be ahead */
};

struct store {
    struct store_options o;
    int32_t partition_seconds;
    int64_t origin_us; /* period 0 of lane numbers */
    /* Database clock minus CLOCK_BOOTTIME, microseconds; refreshed with every heartbeat. */
    _Atomic int64_t clock_offset_us;
    _Atomic int64_t clock_error_us; /* half of the round trip of that measure */
    /* Ids outside [lo, hi) have no partition: refused before they reach a batch. Milliseconds since 1970. */
    _Atomic int64_t window_lo_ms, window_hi_ms;
    _Atomic int64_t floor_ms; /* ids below are past retention; follows cfg.floor */
};

/*
 * Connects, checks the schema version against what this binary knows, makes partitions, reads the clock. -ENODATA: no schema or an older one;
 * -ENOTSUP: a newer one; -EPROTO: a broken one; -EROFS: a standby; -ENOTCONN, -EAGAIN: try again. o->dsn must outlive the store.
 */
int store_open(const struct store_options *o, struct store *ret, struct errmsg *e) MUSTCHECK;
/* The database's clock as this process knows it. @thread any */
int64_t store_now_us(const struct store *s);
/* Observations for store_now_us: the database said `db_us` in answer to a query sent at boot time `sent_ns`, received at `got_ns`. @thread any */
void store_clock_observe(struct store *s, int64_t db_us, uint64_t sent_ns, uint64_t got_ns);
