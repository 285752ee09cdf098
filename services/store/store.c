/*
 * Opening the store, and the database's clock.
 *
 * The clock is kept as the difference to CLOCK_BOOTTIME, so that a step of this machine's wall clock changes nothing.
 * Every answer of the database that carries its time is an observation with an error of half a round trip. A better
 * observation replaces a worse one; one that contradicts what is held replaces it at once, because then one of the
 * clocks has been set.
 */
#include "store/store.h"

#include "base/clock.h"
#include "base/log.h"
#include "store/migrate.h"
#include "store/partition.h"
#include "store/pg.h"
#include "store/sync.h"

enum { CLOCK_PROBES = 3 };

int64_t store_now_us(const struct store *s) {
    return (int64_t)(clock_boot_ns() / 1000) + atomic_load_explicit(&s->clock_offset_us, memory_order_relaxed);
}

void store_clock_observe(struct store *s, int64_t db_us, uint64_t sent_ns, uint64_t got_ns) {
    if (got_ns < sent_ns)
        return;
    int64_t error = (int64_t)((got_ns - sent_ns) / 2000) + 1;
    int64_t offset = db_us - (int64_t)((sent_ns + (got_ns - sent_ns) / 2) / 1000);
    int64_t held = atomic_load_explicit(&s->clock_offset_us, memory_order_relaxed);
    int64_t held_error = atomic_load_explicit(&s->clock_error_us, memory_order_relaxed);
    int64_t apart = offset > held ? offset - held : held - offset;
    if (held_error == 0 || error <= held_error || apart > error + held_error) {
        atomic_store_explicit(&s->clock_offset_us, offset, memory_order_relaxed);
        atomic_store_explicit(&s->clock_error_us, error, memory_order_relaxed);
    } else {
        /* Clocks drift: trust the old one a little less each time, until a new one is taken. */
        atomic_store_explicit(&s->clock_error_us, held_error + held_error / 8 + 1, memory_order_relaxed);
    }
}

/* Settings under which an OK would promise more than the server keeps. */
static int warn_settings(PGconn *c, struct errmsg *e) {
    CLEANUP(sync_result_cleanup) PGresult *res = NULL;
    int r = sync_query(
        c, "SELECT current_setting('fsync') = 'on', current_setting('full_page_writes') = 'on', pg_is_in_recovery()", 0,
        NULL, &res, e);
    if (r < 0)
        return r;
    if (!pg_get_bool(res, 0, 0))
        LOG_WARN("store",
                 "PostgreSQL runs with fsync = off: what was answered OK does not survive a crash of its machine");
    if (!pg_get_bool(res, 0, 1))
        LOG_WARN("store", "PostgreSQL runs with full_page_writes = off: a crash of its machine may damage pages");
    if (pg_get_bool(res, 0, 2))
        return err_set(e, -EROFS, "the DSN leads to a standby: use the primary (target_session_attrs=read-write)");
    return 0;
}

static int read_layout(PGconn *c, struct store *s, struct errmsg *e) {
    CLEANUP(sync_result_cleanup) PGresult *res = NULL;
    int r = sync_query(c, "SELECT partition_seconds, origin FROM cfg", 0, NULL, &res, e);
    if (r < 0)
        return r;
    if (PQntuples(res) != 1)
        return err_set(e, -EPROTO,
                       "the table cfg has lost its row: restore it (epoch, floor, partition_seconds, origin)");
    s->partition_seconds = pg_get_int32(res, 0, 0);
    s->origin_us = pg_get_time_us(res, 0, 1);
    int64_t lo = 0, hi = 0;
    r = partition_window_blocking(c, &lo, &hi, e);
    if (r < 0)
        return r;
    if (hi == 0)
        return err_set(e, -EPROTO, "no partition for the present time: somebody detached or dropped it");
    atomic_store(&s->window_lo_ms, lo);
    atomic_store(&s->window_hi_ms, hi);
    return 0;
}

static int read_clock(PGconn *c, struct store *s, struct errmsg *e) {
    for (int i = 0; i < CLOCK_PROBES; i++) {
        CLEANUP(sync_result_cleanup) PGresult *res = NULL;
        uint64_t sent = clock_boot_ns();
        int r = sync_query(c, "SELECT clock_timestamp()", 0, NULL, &res, e);
        if (r < 0)
            return r;
        store_clock_observe(s, pg_get_time_us(res, 0, 0), sent, clock_boot_ns());
    }
    return 0;
}

int store_open(const struct store_options *o, struct store *ret, struct errmsg *e) {
    CLEANUP(sync_conn_cleanup) PGconn *c = NULL;
    int r = migrate_check(o->dsn, e);
    if (r != 0)
        return r == 1 ? -ENODATA : r == 2 ? -ENOTSUP : r;
    memset(ret, 0, sizeof(*ret));
    ret->o = *o;
    r = sync_connect(o->dsn, "txmsg start", &c, e);
    if (r == 0)
        r = warn_settings(c, e);
    if (r == 0)
        r = partition_ensure_blocking(c, (int)MAX(1, MIN(o->partitions_ahead, 64)), e);
    if (r == 0)
        r = read_layout(c, ret, e);
    if (r == 0)
        r = read_clock(c, ret, e);
    return r;
}
