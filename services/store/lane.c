/*
 * A lane: its states, its queue, and how it opens, closes and is fenced.
 *
 *   DOWN -> OPENING -> READY <-> COMMITTING (<-> READING)         one batch at a time
 *             ^          |            |
 *             |          |            +-> WAITING -> COMMITTING   the store refused; the batch is kept
 *             |          |            +-> UNKNOWN -> RESOLVING    the connection was lost; see lane_commit.c
 *             +- fenced -+------------+
 *   READY -> SEALING -> CLOSED
 *
 * Operations wait in `queue`; the one batch `b` owns those it took until they are answered or put back. An operation that waits longer
 * than the store's grace while nothing can be committed is answered UNAVAILABLE; one whose deadline passes inside a batch of
 * unknown outcome is answered OUTCOME_UNKNOWN and leaves the batch.
 */
#include "store/lane_private.h"

#include "base/clock.h"
#include "base/crypto.h"
#include "base/log.h"
#include "store/partition.h"
#include "store/stmts.h"

enum { SWEEP_MS = 100, STALL_MS = 1000, ARRAY_BYTES_MAX = 64 << 20, ARENA_BYTES_MAX = 4 << 20 };

#define LANE_SESSION                                                                                                   \
    READ_PINS " -c lock_timeout=1000 -c idle_in_transaction_session_timeout=5000"                                      \
              " -c default_transaction_isolation=read\\ committed -c synchronous_commit=on"

static void open_lane(struct lane *l);
static void closed(struct lane *l);

/* --- operations --- */

void lane_op_end(struct lane *l, struct lane_op *op, enum op_outcome o) {
    bool queued = op->queued;
    list_del(&op->link);
    if (queued) {
        l->queue_n--;
        l->queue_bytes -= lane_op_bytes(op);
    }
    op->queued = false;
    op->outcome = o;
    op->done(op);
}

int lane_submit(struct lane *l, struct lane_op *op) {
    if (l->closing || l->freed) {
        list_init(&op->link);
        op->queued = false;
        op->why[0] = 0;
        lane_op_end(l, op, OP_SHUTDOWN);
        return 0;
    }
    if (l->queue_n >= (size_t)l->store->o.lane_queue || l->queue_bytes >= (size_t)l->store->o.lane_queue_bytes)
        return 1;
    list_init(&op->link);
    op->why[0] = 0;
    op->exact = false;
    op->won_header = op->won_decision = false;
    op->prepare_us = op->decision_us = 0;
    op->decided_by = TX_ORIGIN_NONE;
    op->state = TX_PREPARED;
    op->queued_ns = loop_now_ns(l->loop);
    op->queued = true;
    list_add_tail(&l->queue, &op->link);
    l->queue_n++;
    l->queue_bytes += lane_op_bytes(op);
    return 0;
}

void lane_requeue(struct lane *l, uint32_t from, bool exact) {
    struct lane_batch *b = &l->b;
    struct list back = LIST_INIT(back);
    for (uint32_t i = from; i < b->ops_n; i++) {
        struct lane_op *op = b->ops[i];
        if (!op)
            continue;
        op->exact = exact;
        op->queued = true;
        list_add_tail(&back, &op->link);
        l->queue_n++;
        l->queue_bytes += lane_op_bytes(op);
    }
    list_splice_head(&l->queue, &back);
    b->ops_n = MIN(b->ops_n, from);
}

/* --- riders --- */

void lane_riders_end(struct lane *l, bool committed) {
    unsigned stale = l->b.stale;
    l->b.added = 0;
    l->b.check_adds_n = l->b.check_ends_n = l->b.spills_n = l->b.delivery_ends_n = l->b.prog_n = l->b.counts_n = 0;
    l->depth++;
    LIST_FOR_SAFE (e, &l->riders) {
        struct lane_rider *r = LIST_ENTRY(e, struct lane_rider, link);
        if (!r->added)
            continue;
        r->added = false;
        if (committed)
            r->committed(r->arg, stale);
        else
            r->lost(r->arg);
    }
    l->depth--;
}

void lane_add_rider(struct lane *l, struct lane_rider *r) {
    r->added = false;
    list_add_tail(&l->riders, &r->link);
}

void lane_remove_rider(struct lane *l, struct lane_rider *r) {
    UNUSED(l);
    r->added = false;
    list_del(&r->link);
}

/* --- turning --- */

static void seal(struct lane *l);

void lane_try(struct lane *l) {
    if (l->freed || l->state != LANE_READY || !l->allowed || l->depth)
        return;
    if (!pg_conn_ready(l->conn)) {
        l->state = LANE_DOWN;
        return;
    }
    uint64_t now = clock_mono_ns();
    bool due = l->kick_ns && l->kick_ns <= now;
    /* A closing lane takes its riders along once more; a batch of cursors only would go on for ever, as each is an entry to pass. */
    bool last = l->closing && !l->last_ride;
    if (list_empty(&l->queue) && !due && !last) {
        if (l->closing)
            seal(l);
        else if (l->kick_ns && !timer_armed(l->timer))
            timer_arm(l->timer, (l->kick_ns - now) / NS_PER_MS + 1);
        return;
    }
    l->last_ride = l->closing && list_empty(&l->queue);
    l->kick_ns = 0;
    l->depth++;
    bool formed = batch_form(l);
    l->depth--;
    if (formed) {
        commit_start(l);
    } else if (!list_empty(&l->queue)) {
        timer_arm(l->timer, 1); /* everything left waits for an id or period that is gone by now */
    } else if (l->closing) {
        seal(l);
    }
}

static void on_timer(void *arg) {
    struct lane *l = arg;
    if (l->state == LANE_WAITING)
        commit_again(l);
    else if (l->state == LANE_UNKNOWN && lane_connected(l))
        commit_resolve(l);
    else if (l->state == LANE_DOWN && l->number == 0 && pg_conn_ready(l->conn))
        open_lane(l);
    else
        lane_try(l);
}

void lane_kick(struct lane *l, uint64_t within_ms) {
    uint64_t at = clock_mono_ns() + within_ms * NS_PER_MS;
    bool sooner = !l->kick_ns || at < l->kick_ns;
    if (sooner)
        l->kick_ns = at;
    if (l->state != LANE_READY || l->depth)
        return;
    if (within_ms == 0)
        lane_try(l);
    else if (!timer_armed(l->timer) || (sooner && list_empty(&l->queue)))
        timer_arm(l->timer, within_ms);
}

void lane_pause(struct lane *l, uint64_t ms) {
    l->state = LANE_WAITING;
    timer_arm(l->timer, MAX(ms, 1u));
}

/*
 * May operations leave the batch? Not while statements of it are still to be formed: what of an operation is stored must
 * stand in the lane row too, or nobody would ever find it.
 */
static bool batch_settled(const struct lane *l) {
    if (l->state == LANE_COMMITTING)
        return !l->b.exact || l->b.trip >= TRIP_COMMIT;
    return l->state == LANE_UNKNOWN || l->state == LANE_RESOLVING || l->state == LANE_READING ||
           l->state == LANE_WAITING;
}

/* Those of the batch. While it waits for another try nothing of it is stored; else nobody can say. */
static void sweep_batch(struct lane *l, uint64_t now) {
    bool waiting = l->state == LANE_WAITING, settled = batch_settled(l);
    for (uint32_t i = 0; i < l->b.ops_n; i++) {
        struct lane_op *op = l->b.ops[i];
        bool past = op && op->deadline_ns && op->deadline_ns <= now;
        bool waited = op && waiting && now - op->queued_ns > STORE_GRACE_MS * NS_PER_MS;
        if (settled && (past || waited)) {
            l->b.ops[i] = NULL;
            lane_op_end(l, op, !waiting ? OP_OUTCOME_UNKNOWN : past ? OP_EXPIRED : OP_UNAVAILABLE);
        } else if (past && l->state == LANE_COMMITTING && now - op->deadline_ns > STALL_MS * NS_PER_MS &&
                   pg_conn_ready(l->conn)) {
            LOG_WARN("store", "lane %d: PostgreSQL does not answer", l->number);
            lane_reconnect(l);
        }
    }
}

/*
 * A server that owes an answer for as long as a worker may be silent is given up, whatever TCP thinks of it: the backend may be
 * stopped, or a proxy between holds a connection whose other end is gone. Seen at two sweeps, because after this process
 * itself stood still the answer may be waiting to be read.
 */
static void sweep_silence(struct lane *l) {
    int64_t limit = l->store->o.dead_after_ms > 0 ? l->store->o.dead_after_ms : 5000;
    bool silent = pg_conn_silent_ms(l->conn) > (uint64_t)limit;
    if (silent && l->silent && pg_conn_ready(l->conn)) {
        LOG_WARN("store", "lane %d: PostgreSQL has been silent for %lld ms, connecting again", l->number,
                 (long long)limit);
        lane_reconnect(l);
    }
    l->silent = silent;
}

/* Waiting too long for a store that is away, or past the deadline. */
static void on_sweep(void *arg) {
    struct lane *l = arg;
    uint64_t now = clock_mono_ns();
    bool moving = l->allowed && (l->state == LANE_READY || l->state == LANE_COMMITTING || l->state == LANE_READING);
    l->depth++;
    LIST_FOR_SAFE (e, &l->queue) {
        struct lane_op *op = LIST_ENTRY(e, struct lane_op, link);
        bool waited = now - op->queued_ns > STORE_GRACE_MS * NS_PER_MS;
        if (!moving && waited) {
            snprintf(op->why, sizeof(op->why), "%s", pg_conn_last_error(l->conn));
            lane_op_end(l, op, OP_UNAVAILABLE);
        } else if (op->deadline_ns && op->deadline_ns <= now) {
            lane_op_end(l, op, OP_EXPIRED);
        }
    }
    sweep_batch(l, now);
    sweep_silence(l);
    l->depth--;
    timer_arm(l->sweep, SWEEP_MS);
    if (l->closing && l->state == LANE_DOWN && l->number == 0 && list_empty(&l->queue))
        closed(l);
    else
        lane_try(l);
}

/* --- opening --- */

static void rename_connection(struct lane *l) {
    char name[64], set[128];
    uint32_t nonce;
    crypto_random(&nonce, sizeof(nonce));
    snprintf(name, sizeof(name), "txmsg-lane-%d-%08x", l->number, nonce);
    snprintf(set, sizeof(set), "SET application_name = '%s'", name);
    if (pg_conn_rename(l->conn, name, false) < 0)
        LOG_WARN("store", "lane %d: out of memory for the connection's name", l->number);
    snprintf(l->set_name, sizeof(l->set_name), "%s", set);
}

/* When the connection is there again, or after a pause. */
static void open_later(struct lane *l) {
    l->state = LANE_DOWN;
    l->number = 0;
    timer_arm(l->timer, 100);
}

static void on_opened(void *arg, PGresult *r, const struct pg_error *err) {
    struct lane *l = arg;
    if (l->freed)
        return;
    if (err->cls != PG_OK || PQntuples(r) != 1) {
        if (err->cls != PG_OK && err->cls != PG_CONFLICT && err->cls != PG_LOST)
            LOG_WARN("store", "cannot open a lane: %s %s", err->sqlstate, err->message);
        open_later(l);
        return;
    }
    l->number = pg_get_int32(r, 0, 0);
    l->next_seq = 1;
    lane_lost_begin(l, 0);
    rename_connection(l);
    /* A name that a survivor can find; the first batch follows in the same order on this connection. */
    l->state = LANE_OPENING;
    l->pg.on_result = NULL;
    l->pg.on_done = l->named;
    int e = pg_run_begin(l->conn, &l->pg);
    if (e == 0)
        e = pg_run_sql(&l->pg, l->set_name, NULL);
    if (e == 0)
        e = pg_run_end(&l->pg);
    if (e < 0)
        open_later(l); /* another one; an unused lane is sealed by its adopter */
}

static void on_named(struct pg_run *run, const struct pg_error *err) {
    struct lane *l = CONTAINER_OF(run, struct lane, pg);
    if (l->freed)
        return;
    if (err->cls != PG_OK) {
        open_later(l);
        return;
    }
    l->state = LANE_READY;
    LOG_INFO("store", "lane %d open", l->number);
    if (l->owner.opened)
        l->owner.opened(l->owner.arg, l->number);
    lane_try(l);
}

static void open_lane(struct lane *l) {
    struct pg_params p;
    pg_params_init(&p);
    pg_param_int32(&p, partition_lane_base(l->store, store_now_us(l->store)));
    pg_param_uuid(&p, &l->run);
    l->state = LANE_OPENING;
    if (pg_query(l->conn, "lane_open", &p, on_opened, l) < 0)
        open_later(l);
}

bool lane_connected(const struct lane *l) {
    return pg_conn_ready(l->conn) && l->checked;
}

static void on_ready(void *arg) {
    struct lane *l = arg;
    if (l->freed)
        return;
    if (l->number)
        lane_lost_look(l);
    else
        lane_go_on(l);
}

void lane_go_on(struct lane *l) {
    switch (l->state) {
    case LANE_UNKNOWN:
        commit_resolve(l);
        break;
    case LANE_WAITING:
        commit_again(l);
        break;
    case LANE_DOWN:
        if (l->number == 0) {
            open_lane(l);
            break;
        }
        l->state = LANE_READY;
        lane_try(l);
        break;
    case LANE_SEALING:
        l->state = LANE_READY;
        lane_try(l);
        break;
    default:
        break;
    }
}

static void on_lost(void *arg, const struct pg_error *why) {
    struct lane *l = arg;
    if (l->freed)
        return;
    LOG_WARN("store", "lane %d: connection lost: %s", l->number, why->message);
    if (l->state == LANE_READY || l->state == LANE_OPENING)
        l->state = LANE_DOWN;
}

/*
 * A warning that comes with a commit (a cancelled wait for a synchronous standby) leaves the outcome uncertain. Those of
 * earlier statements do not (each transaction brings one when the xids run out). libpq hands a notice over at most one result
 * too early.
 */
static bool may_be_of_commit(const struct lane *l) {
    if (l->state == LANE_COMMITTING && l->b.exact)
        return l->b.trip == TRIP_COMMIT;
    return (l->state == LANE_COMMITTING || l->state == LANE_RESOLVING) && l->pg.sent - l->pg.got <= 1;
}

static void on_notice(void *arg, const char *sqlstate, const char *message) {
    struct lane *l = arg;
    LOG_WARN("store", "lane %d: notice %s %s", l->number, sqlstate, message);
    if (may_be_of_commit(l))
        l->b.noticed = true;
}

void lane_reconnect(struct lane *l) {
    char name[64];
    uint32_t nonce;
    crypto_random(&nonce, sizeof(nonce));
    snprintf(name, sizeof(name), "txmsg-lane-%d-%08x", l->number, nonce);
    if (pg_conn_rename(l->conn, name, true) < 0)
        LOG_ERROR("store", "lane %d: out of memory", l->number);
}

/* --- fenced and closed --- */

void lane_fenced(struct lane *l) {
    int32_t old = l->number;
    LOG_WARN("store", "lane %d: fenced at seq %d", old, l->b.seq);
    lane_requeue(l, 0, true);
    lane_riders_end(l, false);
    batch_clear(&l->b);
    cache_clear(&l->cache);
    l->number = 0;
    l->state = l->adopted ? LANE_CLOSED : LANE_DOWN;
    l->depth++;
    if (l->owner.fenced)
        l->owner.fenced(l->owner.arg, old);
    l->depth--;
    if (!l->adopted && pg_conn_ready(l->conn))
        open_lane(l);
}

static void closed(struct lane *l) {
    l->state = LANE_CLOSED;
    if (l->closed)
        l->closed(l->closed_arg);
}

static void on_sealed(struct pg_run *run, const struct pg_error *err) {
    struct lane *l = CONTAINER_OF(run, struct lane, pg);
    if (l->freed)
        return;
    if (err->cls == PG_LOST) {
        l->state = LANE_SEALING; /* again when connected; if it was stored, the duplicate key ends it */
        return;
    }
    if (err->cls != PG_OK && err->cls != PG_CONFLICT)
        LOG_WARN("store", "lane %d: not sealed: %s; whoever adopts it will", l->number, err->message);
    else
        LOG_INFO("store", "lane %d sealed at seq %d", l->number, l->next_seq);
    closed(l);
}

static void seal(struct lane *l) {
    if (l->adopted || l->number == 0) {
        closed(l);
        return;
    }
    int64_t nonce;
    crypto_random(&nonce, sizeof(nonce));
    struct pg_params p;
    pg_params_init(&p);
    pg_param_int32(&p, l->number);
    pg_param_int32(&p, l->next_seq);
    pg_param_int64(&p, nonce);
    l->state = LANE_SEALING;
    l->pg.on_result = NULL;
    l->pg.on_done = on_sealed;
    int r = pg_run_begin(l->conn, &l->pg);
    if (r == 0)
        r = pg_run_send(&l->pg, "lane_seal", &p);
    pg_params_init(&p);
    pg_param_int32(&p, l->number);
    pg_param_uuid(&p, &l->run);
    if (r == 0)
        r = pg_run_send(&l->pg, "lane_sealed", &p);
    if (r == 0)
        r = pg_run_end(&l->pg);
}

void lane_close(struct lane *l, void (*fn)(void *arg), void *arg) {
    l->closing = true;
    l->closed = fn;
    l->closed_arg = arg;
    if (l->state == LANE_CLOSED)
        closed(l);
    else if (l->state == LANE_READY)
        lane_try(l);
    else if (l->state == LANE_DOWN && l->number == 0 && list_empty(&l->queue))
        closed(l);
}

/* --- life --- */

static int lane_make(struct loop *loop, struct store *s, const struct uuid *run, const struct lane_owner *owner,
                     struct lane **ret) {
    lane_metrics_init();
    struct lane *l = mem_zalloc(sizeof(*l));
    if (!l)
        return -ENOMEM;
    l->loop = loop;
    l->store = s;
    l->run = *run;
    l->owner = *owner;
    l->allowed = true;
    l->batch_max = BATCH_OPS_MAX;
    l->named = on_named;
    list_init(&l->queue);
    list_init(&l->riders);
    arena_init(&l->b.arena, ARENA_BYTES_MAX);
    for (size_t i = 0; i < ARRAYS; i++)
        buf_init(&l->arrays[i], ARRAY_BYTES_MAX);
    int r = cache_init(&l->cache, (size_t)s->o.cache_bytes); /* first: lane_free() empties it in any case */
    if (r == 0)
        r = hmap_init(&l->in_batch, 1024);
    if (r == 0)
        r = timer_new(loop, on_timer, l, &l->timer);
    if (r == 0)
        r = timer_new(loop, on_sweep, l, &l->sweep);
    if (r == 0 && !(l->sha = sha256_new()))
        r = -ENOMEM;
    if (r < 0) {
        lane_free(l);
        return r;
    }
    timer_arm(l->sweep, SWEEP_MS);
    *ret = l;
    return 0;
}

static int connect_lane(struct lane *l) {
    char name[64];
    uint32_t nonce;
    crypto_random(&nonce, sizeof(nonce));
    snprintf(name, sizeof(name), "txmsg-lane-%d-%08x", l->number, nonce);
    const struct pg_conn_options o = {.dsn = l->store->o.dsn,
                                      .application_name = name,
                                      .options = LANE_SESSION,
                                      .stmts = lane_all_stmts(),
                                      .on_ready = on_ready,
                                      .on_lost = on_lost,
                                      .on_notice = on_notice,
                                      .arg = l};
    return pg_conn_new(l->loop, &o, &l->conn);
}

int lane_new(struct loop *loop, struct store *s, const struct uuid *run, const struct lane_owner *owner,
             struct lane **ret) {
    struct lane *l;
    int r = lane_make(loop, s, run, owner, &l);
    if (r < 0)
        return r;
    r = lane_lost_init(l);
    if (r == 0)
        r = connect_lane(l);
    if (r < 0)
        lane_free(l);
    else
        *ret = l;
    return r;
}

int lane_adopt(struct loop *loop, struct store *s, const struct uuid *run, int32_t number, int32_t next_seq,
               const struct lane_owner *owner, struct lane **ret) {
    struct lane *l;
    int r = lane_make(loop, s, run, owner, &l);
    if (r < 0)
        return r;
    l->adopted = true;
    l->number = number;
    l->next_seq = next_seq;
    lane_lost_begin(l, next_seq - 1);
    r = connect_lane(l);
    if (r < 0)
        lane_free(l);
    else
        *ret = l;
    return r;
}

bool lane_ready(const struct lane *l) {
    return l->number != 0 && l->allowed &&
           (l->state == LANE_READY || l->state == LANE_COMMITTING || l->state == LANE_READING);
}

int32_t lane_number(const struct lane *l) {
    return l->number;
}

void lane_allow(struct lane *l, bool allowed) {
    l->allowed = allowed;
    if (allowed)
        lane_try(l);
}

void lane_free(struct lane *l) {
    if (!l)
        return;
    l->freed = true;
    pg_conn_free(l->conn);
    timer_free(l->timer);
    timer_free(l->sweep);
    bool sent = l->state == LANE_COMMITTING || l->state == LANE_UNKNOWN || l->state == LANE_RESOLVING ||
                l->state == LANE_READING;
    for (uint32_t i = 0; i < l->b.ops_n; i++)
        if (l->b.ops[i])
            lane_op_end(l, l->b.ops[i], sent ? OP_OUTCOME_UNKNOWN : OP_SHUTDOWN);
    l->b.ops_n = 0;
    while (!list_empty(&l->queue))
        lane_op_end(l, LIST_ENTRY(l->queue.next, struct lane_op, link), OP_SHUTDOWN);
    lane_riders_end(l, false);
    batch_clear(&l->b);
    arena_deinit(&l->b.arena);
    mem_free(l->b.check_adds);
    mem_free(l->b.check_ends);
    mem_free(l->b.spills);
    mem_free(l->b.delivery_ends);
    mem_free(l->b.replay_ends);
    mem_free(l->b.told);
    lane_lost_deinit(l);
    cache_deinit(&l->cache);
    sha256_free(l->sha);
    hmap_deinit(&l->in_batch);
    for (size_t i = 0; i < ARRAYS; i++)
        buf_deinit(&l->arrays[i]);
    mem_free(l);
}
