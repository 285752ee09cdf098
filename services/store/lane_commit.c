/*
 * What becomes of a batch.
 *
 *                     +-- conflict, header missing, stale token --> exact form, same seq
 *   batch -> COMMITTING -- ok --> answers of winners; losers are READ back, then answered or queued again
 *                     |-- 23505 on the lane row --> fenced: the operations run again on a new lane
 *                     |-- refused data --> bisected under the same seq until the one operation is found
 *                     |-- lock timeout, deadlock --> again after a pause, then halved
 *                     |-- cannot write --> UNAVAILABLE, riders wait
 *                     +-- connection lost or a warning at the commit --> UNKNOWN
 *   UNKNOWN -> RESOLVING at seq s on a new connection: the old backend is terminated, then N (noop) is inserted at (lane, s). The
 *   unique index waits for the old attempt. Inserted: the old attempt is dead for ever, the batch runs again at s + 1. Conflict:
 *   the row that stands there tells: ours = it committed, S = fenced, an earlier N of ours = dead. Never a plain SELECT first: the
 *   old attempt could still commit after it.
 *
 * A batch found committed is answered from what is known of it instead of running it again: in both forms the winners were
 * known before COMMIT was sent, and (lane, s) with our nonce proves exactly that transaction. The transaction that asks
 * writes something in any case (lane_flush): its own commit stands behind the one it found, so the answer has waited for
 * the synchronous standby even when the old wait was cancelled.
 */
#include "store/lane_private.h"

#include "base/clock.h"
#include "base/crypto.h"
#include "base/log.h"

enum {
    EXACT_FOR_MS = 3000,
    RETRIES_BEFORE_HALVING = 3,
    RETRY_PAUSE_MS = 20,
    RETRY_PAUSE_MAX_MS = 500,
    UNAVAILABLE_PAUSE_MS = 250,
    RESOLVE_PAUSE_MS = 200,
};

static void on_result(struct pg_run *run, int i, PGresult *r);
static void on_done(struct pg_run *run, const struct pg_error *err);

/* --- answers --- */

static void answer_winner(struct lane *l, struct lane_op *op) {
    const struct lane_batch *b = &l->b;
    op->prepare_us = op->won_header && op->kind != OP_CANCEL ? b->at_us : 0;
    op->decision_us = op->won_decision ? b->at_us : 0;
    op->decided_by = op->won_decision ? op->origin : TX_ORIGIN_NONE;
    op->state = !op->won_decision ? TX_PREPARED : op->kind == OP_CANCEL ? TX_CANCELLED : TX_CONFIRMED;
    if (op->won_decision)
        lane_count_decision(op);
    lane_lost_remember(l, op);
    lane_op_end(l, op, OP_OK);
}

/* Caches what was prepared, finds what was confirmed in the cache, and tells the owner. */
static void publish_entry(struct lane *l) {
    struct lane_batch *b = &l->b;
    for (uint32_t i = 0; i < b->ops_n; i++) {
        const struct lane_op *op = b->ops[i];
        if (op && op->kind == OP_PREPARE && op->won_header)
            cache_put(&l->cache, op->content);
        else if (op && op->kind == OP_CANCEL && op->won_decision)
            tx_content_unref(cache_take(&l->cache, &op->id));
    }
    for (uint32_t i = 0; i < b->confirmed_n; i++) {
        struct tx_content *cached = cache_take(&l->cache, &b->confirmed[i].tx);
        if (b->confirmed[i].content)
            tx_content_unref(cached);
        else
            b->confirmed[i].content = cached;
    }
    if (l->owner.committed)
        l->owner.committed(l->owner.arg, l->number, b->seq, b->at_us, b->confirmed, b->confirmed_n);
    batch_drop_confirmed(b);
}

/* The losers are still in ops, everybody else was answered. */
static void batch_end(struct lane *l) {
    l->b.ops_n = 0;
    l->state = LANE_READY;
    l->batch_max = MIN(l->batch_max * 2, (uint32_t)BATCH_OPS_MAX);
    lane_try(l);
}

static void committed(struct lane *l) {
    struct lane_batch *b = &l->b;
    lane_count_commit(b->ops_n);
    lane_lost_acknowledged(l, b->seq, b->nonce);
    l->next_seq = b->seq + 1;
    l->failures = 0;
    l->depth++;
    publish_entry(l);
    lane_riders_end(l, true);
    bool losers = false;
    for (uint32_t i = 0; i < b->ops_n; i++) {
        struct lane_op *op = b->ops[i];
        if (op && batch_op_won(op)) {
            b->ops[i] = NULL;
            answer_winner(l, op);
        } else if (op) {
            losers = true;
        }
    }
    l->depth--;
    if (!losers) {
        batch_end(l);
        return;
    }
    l->state = LANE_READING;
    l->pg.on_result = on_result; /* a resolution may have used the run before */
    l->pg.on_done = on_done;
    int r = batch_send_readback(l);
    if (r < 0) { /* not answered yet, so they simply run again */
        lane_requeue(l, 0, true);
        l->state = LANE_DOWN;
        lane_reconnect(l);
    }
}

/* Are these the bodies of the declared messages, one each? */
static bool same_places(const struct tx_bodies *b, struct bytes declared) {
    struct pgarr_view v = {.n = 0};
    if (declared.n && pgarr_read(declared, OID_INT4, &v) < 0)
        return false;
    if (v.n != (b ? b->n : 0))
        return false;
    for (uint32_t i = 0; i < v.n; i++)
        if (pgarr_next_int32(&v) != (int32_t)b->list[i].n)
            return false;
    return true;
}

/* `sums`: SHA-256 of each stored one. */
static bool same_bodies(struct sha256 *sha, const struct tx_bodies *b, struct bytes sums) {
    size_t n = b ? b->n : 0;
    if (sums.n != n * 32)
        return false;
    for (size_t i = 0; i < n; i++) {
        uint8_t sum[32];
        sha256_reset(sha);
        sha256_add(sha, b->list[i].body.p, b->list[i].body.n);
        sha256_end(sha, sum);
        if (memcmp(sum, sums.p + 32 * i, 32) != 0)
            return false;
    }
    return true;
}

/*
 * What a loser met, as one row of the readback: total, producer, digest, at, verdict, origin, at, state of check_due,
 * which messages are declared body_later, and the sums of the bodies that the decision brought.
 */
static void judge(struct lane *l, struct lane_op *op, const PGresult *r, int row) {
    enum { TOTAL = 1, PRODUCER, DIGEST, AT, VERDICT, ORIGIN, DECIDED, CHECK, LATER, SUMS };
    if (pg_get_null(r, row, TOTAL)) {
        lane_op_end(l, op, OP_NOT_FOUND);
        return;
    }
    bool tombstone = pg_get_int16(r, row, TOTAL) == 0;
    enum tx_decision stored =
        pg_get_null(r, row, VERDICT) ? TX_UNDECIDED : (enum tx_decision)pg_get_int16(r, row, VERDICT);
    op->prepare_us = tombstone ? 0 : pg_get_time_us(r, row, AT);
    op->decision_us = pg_get_time_us(r, row, DECIDED);
    op->decided_by = (enum tx_origin)pg_get_int16(r, row, ORIGIN);
    op->state = stored == TX_COMMITTED ? TX_CONFIRMED : stored == TX_ROLLED_BACK ? TX_CANCELLED : TX_PREPARED;
    if (stored == TX_UNDECIDED && pg_get_int16(r, row, CHECK) == 1)
        op->state = TX_STUCK;
    bool brings_content = op->kind == OP_PREPARE || op->kind == OP_PUBLISH;
    struct bytes want = brings_content ? op->content->producer : op->producer;
    if (want.n && !bytes_eq(want, pg_get_bytes(r, row, PRODUCER))) {
        lane_op_end(l, op, brings_content ? OP_CONTENT_DIFFERS : OP_PRODUCER_DIFFERS);
        return;
    }
    if (tombstone) {
        lane_op_end(l, op, op->kind == OP_CANCEL ? OP_OK : OP_DECIDED_OTHERWISE);
        return;
    }
    if (brings_content && !bytes_eq(pg_get_bytes(r, row, DIGEST), bytes_of(op->content->digest, 32))) {
        lane_op_end(l, op, OP_CONTENT_DIFFERS);
        return;
    }
    if (op->kind == OP_PREPARE) {
        lane_op_end(l, op, OP_OK);
        return;
    }
    enum tx_decision mine = op->kind == OP_CANCEL ? TX_ROLLED_BACK : TX_COMMITTED;
    if (op->kind == OP_CONFIRM && stored != TX_ROLLED_BACK) {
        if (!same_places(op->bodies, pg_get_bytes(r, row, LATER))) {
            lane_op_end(l, op, OP_BODIES_DIFFER);
            return;
        }
        if (stored == TX_COMMITTED && !same_bodies(l->sha, op->bodies, pg_get_bytes(r, row, SUMS))) {
            lane_op_end(l, op, OP_CONTENT_DIFFERS);
            return;
        }
    }
    if (stored == TX_UNDECIDED) /* its header arrived after we looked: decide in the next batch, answer then */
        return;
    lane_op_end(l, op, stored == mine ? OP_OK : OP_DECIDED_OTHERWISE);
}

static void judge_losers(struct lane *l, const PGresult *r) {
    struct lane_batch *b = &l->b;
    int rows = PQntuples(r);
    l->depth++;
    for (int row = 0; row < rows; row++) {
        struct uuid id;
        pg_get_uuid(r, row, 0, &id);
        int i = batch_find(b, &id);
        struct lane_op *op = i >= 0 ? b->ops[i] : NULL;
        if (!op)
            continue;
        op->outcome = (enum op_outcome) - 1;
        b->ops[i] = NULL; /* judge() may end it, and its owner may free it */
        list_init(&op->link);
        struct list still = LIST_INIT(still);
        list_add_tail(&still, &op->link);
        judge(l, op, r, row);
        if (!list_empty(&still)) {
            list_del(&op->link);
            b->ops[i] = op;
        }
    }
    l->depth--;
}

/* --- failures --- */

/* Keeps the first half in the batch; a batch of one operation gives it up with this outcome. */
static void bisect(struct lane *l, enum op_outcome single, const struct pg_error *err) {
    struct lane_batch *b = &l->b;
    if (b->ops_n > 1) {
        uint32_t keep = b->ops_n / 2;
        l->batch_max = keep;
        lane_requeue(l, keep, true);
    } else if (b->ops_n == 1) {
        struct lane_op *op = b->ops[0];
        b->ops_n = 0;
        if (op) {
            snprintf(op->why, sizeof(op->why), "%.150s", err->message);
            lane_op_end(l, op, single);
        }
    } else {
        LOG_ERROR("store", "lane %d: PostgreSQL refuses rows of a rider: %s %s", l->number, err->sqlstate,
                  err->message);
        lane_riders_end(l, false);
        batch_clear(b);
    }
}

static void fail_ops(struct lane *l, const struct pg_error *err) {
    struct lane_batch *b = &l->b;
    uint32_t n = b->ops_n;
    b->ops_n = 0;
    l->depth++;
    for (uint32_t i = 0; i < n; i++)
        if (b->ops[i]) {
            snprintf(b->ops[i]->why, sizeof(b->ops[i]->why), "%.150s", err->message);
            lane_op_end(l, b->ops[i], OP_UNAVAILABLE);
        }
    l->depth--;
}

static bool is_lane_row(const struct pg_error *err) {
    return !strncmp(err->table, "lane_log", 8);
}

/* The transaction was aborted for certain: nothing of the batch is stored. */
static void aborted(struct lane *l, const struct pg_error *err) {
    struct lane_batch *b = &l->b;
    static struct log_limit limit;
    lane_count_error(err->cls);
    if (err->cls == PG_CONFLICT && is_lane_row(err)) {
        lane_fenced(l);
        return;
    }
    bool expected =
        err->cls == PG_CONFLICT || err->cls == PG_DIVISION || (err->cls == PG_NOT_NULL && !is_lane_row(err));
    if (!b->exact && expected) {
        b->exact = true;
        l->exact_until_ns = clock_mono_ns() + EXACT_FOR_MS * NS_PER_MS;
        commit_again(l);
        return;
    }
    /* No partition for lane rows: nobody's data is wrong, the keeper of partitions is behind. */
    switch (err->cls == PG_DATA && is_lane_row(err) ? PG_UNAVAILABLE : err->cls) {
    case PG_RETRY:
        if (++b->attempts >= RETRIES_BEFORE_HALVING && b->ops_n > 1)
            bisect(l, OP_UNAVAILABLE, err);
        lane_pause(l, MIN(RETRY_PAUSE_MS * b->attempts, (unsigned)RETRY_PAUSE_MAX_MS));
        return;
    case PG_UNAVAILABLE:
        if (log_limit_pass(&limit, 5 * NS_PER_S))
            LOG_WARN("store", "lane %d: cannot write: %s %s", l->number, err->sqlstate, err->message);
        fail_ops(l, err);
        l->failures++;
        lane_pause(l, UNAVAILABLE_PAUSE_MS);
        return;
    case PG_NOT_NULL:
        bisect(l, is_lane_row(err) ? OP_PAST_RETENTION : OP_REFUSED, err);
        break;
    case PG_BUG:
        LOG_ERROR("store", "lane %d: statement failed: %s %s", l->number, err->sqlstate, err->message);
        bisect(l, OP_UNAVAILABLE, err);
        break;
    default:
        bisect(l, OP_REFUSED, err);
    }
    commit_again(l);
}

/* --- one trip --- */

static void mark(struct lane_batch *b, const PGresult *r, bool header) {
    for (int row = 0; row < PQntuples(r); row++) {
        struct uuid id;
        pg_get_uuid(r, row, 0, &id);
        int i = batch_find(b, &id);
        if (i < 0 || !b->ops[i])
            continue;
        if (header)
            b->ops[i]->won_header = true;
        else
            b->ops[i]->won_decision = true;
    }
}

static void on_result(struct pg_run *run, int i, PGresult *r) {
    struct lane *l = CONTAINER_OF(run, struct lane, pg);
    struct lane_batch *b = &l->b;
    if (i >= b->steps_n)
        return;
    switch ((enum batch_step)b->steps[i]) {
    case STEP_LANE:
        b->at_us = PQntuples(r) ? pg_get_time_us(r, 0, 0) : 0;
        break;
    case STEP_HEADERS:
        mark(b, r, true);
        break;
    case STEP_DECISIONS:
        mark(b, r, false);
        break;
    case STEP_CHECK_ENDS:
        b->stale += b->check_ends_n - (uint32_t)pg_get_int64(r, 0, 0);
        break;
    case STEP_DELIVERY_ENDS:
        if (b->exact)
            rider_count_ended(b, r);
        break;
    case STEP_COMMIT:
        b->committed = !strcmp(PQcmdStatus(r), "COMMIT");
        break;
    case STEP_READBACK:
        judge_losers(l, r);
        break;
    case STEP_OTHER:
        break;
    }
}

static void become_unknown(struct lane *l) {
    if (l->state != LANE_UNKNOWN && l->state != LANE_RESOLVING)
        lane_count_unknown(UNKNOWN_LOST);
    l->state = LANE_UNKNOWN;
}

static void trip_failed(struct lane *l) {
    /* Nothing certain is known about what was sent: let the noop decide. */
    become_unknown(l);
    lane_reconnect(l);
}

static void next_trip(struct lane *l) {
    struct lane_batch *b = &l->b;
    int r;
    if (!b->exact)
        r = batch_send_optimistic(l);
    else if (b->trip == 1)
        r = batch_send_headers(l);
    else if (b->trip == 2)
        r = batch_send_decisions(l);
    else
        r = batch_send_commit(l);
    if (r < 0)
        trip_failed(l);
}

static void on_done(struct pg_run *run, const struct pg_error *err) {
    struct lane *l = CONTAINER_OF(run, struct lane, pg);
    struct lane_batch *b = &l->b;
    if (l->freed)
        return;
    if (l->state == LANE_READING) {
        if (err->cls != PG_OK)
            lane_count_error(err->cls);
        lane_requeue(l, 0, true); /* those not answered */
        if (err->cls == PG_LOST)
            l->state = LANE_DOWN;
        else
            batch_end(l);
        return;
    }
    if (err->cls == PG_LOST) {
        lane_count_error(PG_LOST);
        become_unknown(l);
        return;
    }
    if (b->trip == TRIP_ROLLBACK) {
        struct pg_error why = b->error;
        aborted(l, &why);
        return;
    }
    if (err->cls != PG_OK) {
        if (!b->exact) {
            aborted(l, err);
            return;
        }
        b->error = *err;
        b->trip = TRIP_ROLLBACK;
        if (batch_send_rollback(l) < 0)
            trip_failed(l);
        return;
    }
    if (b->exact && b->trip < 3) {
        b->trip++;
        next_trip(l);
        return;
    }
    if (b->noticed || (b->exact && !b->committed)) {
        trip_failed(l);
        return;
    }
    committed(l);
}

static void send_batch(struct lane *l) {
    struct lane_batch *b = &l->b;
    b->seq = l->next_seq;
    crypto_random(&b->nonce, sizeof(b->nonce));
    b->noticed = b->committed = false;
    b->trip = b->exact ? 1 : 0;
    rider_count_presumed(b);
    l->pg.on_result = on_result;
    l->pg.on_done = on_done;
    l->state = LANE_COMMITTING;
    next_trip(l);
}

void commit_start(struct lane *l) {
    send_batch(l);
}

static bool ops_left(const struct lane_batch *b) {
    for (uint32_t i = 0; i < b->ops_n; i++)
        if (b->ops[i])
            return true;
    return false;
}

/* Drops the operations whose callers were answered while the outcome was unknown; keeps the order by id. */
static void compact(struct lane_batch *b) {
    uint16_t to[BATCH_OPS_MAX];
    uint32_t n = 0;
    for (uint32_t i = 0; i < b->ops_n; i++) {
        to[i] = (uint16_t)n;
        if (b->ops[i]) {
            b->ids[n] = b->ids[i];
            b->ops[n++] = b->ops[i];
        } else {
            to[i] = UINT16_MAX;
        }
    }
    uint32_t k = 0;
    for (uint32_t i = 0; i < b->ordered_n; i++)
        if (b->order[i] < b->ops_n && to[b->order[i]] != UINT16_MAX)
            b->order[k++] = to[b->order[i]];
    b->ops_n = b->ordered_n = n;
}

void commit_again(struct lane *l) {
    struct lane_batch *b = &l->b;
    compact(b);
    if (!ops_left(b) && b->added == 0) {
        batch_end(l);
        return;
    }
    if (!lane_connected(l)) { /* nothing of it is stored; it goes on with the next connection */
        l->state = LANE_WAITING;
        return;
    }
    send_batch(l);
}

/* --- unknown outcome --- */

static void resolved_dead(struct lane *l, enum unknown_end how) {
    lane_count_unknown(how);
    LOG_WARN("store", "lane %d seq %d: the commit of unknown outcome is dead, running it again", l->number, l->b.seq);
    l->next_seq = l->b.seq + 1;
    l->b.exact = true;
    commit_again(l);
}

/* On this connection after a pause, or on the next one, whichever comes first. */
static void resolve_later(struct lane *l, const struct pg_error *err) {
    static struct log_limit limit;
    if (err->cls != PG_LOST && log_limit_pass(&limit, 5 * NS_PER_S))
        LOG_WARN("store", "lane %d seq %d: the outcome is still unknown: %s %s", l->number, l->b.seq, err->sqlstate,
                 err->message);
    l->state = LANE_UNKNOWN;
    timer_arm(l->timer, RESOLVE_PAUSE_MS);
}

static void on_look(void *arg, PGresult *r, const struct pg_error *err) {
    struct lane *l = arg;
    if (l->freed)
        return;
    if (err->cls != PG_OK || PQntuples(r) != 1) {
        resolve_later(l, err);
        return;
    }
    char kind = *PQgetvalue(r, 0, 0);
    if (kind == 'S') {
        lane_count_unknown(UNKNOWN_FENCED);
        lane_fenced(l);
    } else if ((kind == 'D' || kind == 'P') && pg_get_int64(r, 0, 1) == l->b.nonce) {
        LOG_WARN("store", "lane %d seq %d: the commit of unknown outcome is stored", l->number, l->b.seq);
        lane_count_unknown(UNKNOWN_COMMITTED);
        l->b.at_us = pg_get_time_us(r, 0, 2);
        committed(l);
    } else if (kind == 'N') {
        resolved_dead(l, UNKNOWN_DEAD_EARLIER);
    } else {
        LOG_ERROR("store", "lane %d seq %d: a foreign entry (kind %c) stands here", l->number, l->b.seq, kind);
        lane_count_unknown(UNKNOWN_FOREIGN);
        lane_fenced(l);
    }
}

static void noop_result(struct pg_run *run, int i, PGresult *r) {
    struct lane *l = CONTAINER_OF(run, struct lane, pg);
    if (i == 1)
        l->noop_written = PQntuples(r) == 1;
}

static void noop_done(struct pg_run *run, const struct pg_error *err) {
    struct lane *l = CONTAINER_OF(run, struct lane, pg);
    if (l->freed)
        return;
    if (err->cls != PG_OK || l->b.noticed) { /* also a lock timeout while the old attempt still stands */
        resolve_later(l, err);
        return;
    }
    if (l->noop_written) {
        resolved_dead(l, UNKNOWN_DEAD);
        return;
    }
    struct pg_params p;
    pg_params_init(&p);
    pg_param_int32(&p, l->number);
    pg_param_int32(&p, l->b.seq);
    if (pg_query(l->conn, "lane_look", &p, on_look, l) < 0)
        trip_failed(l);
}

void commit_resolve(struct lane *l) {
    char prefix[48];
    snprintf(prefix, sizeof(prefix), "txmsg-lane-%d-", l->number);
    int64_t nonce;
    crypto_random(&nonce, sizeof(nonce));
    struct pg_params p;
    l->state = LANE_RESOLVING;
    l->noop_written = l->b.noticed = false;
    l->pg.on_result = noop_result;
    l->pg.on_done = noop_done;
    pg_params_init(&p);
    pg_param_text(&p, prefix);
    int r = pg_run_begin(l->conn, &l->pg);
    if (r == 0)
        r = pg_run_send(&l->pg, "lane_end_old", &p);
    pg_params_init(&p);
    pg_param_int32(&p, l->number);
    pg_param_int32(&p, l->b.seq);
    pg_param_int64(&p, nonce);
    if (r == 0)
        r = pg_run_send(&l->pg, "lane_noop", &p);
    if (r == 0)
        r = pg_run_send(&l->pg, "lane_flush", NULL);
    if (r == 0)
        r = pg_run_end(&l->pg);
    if (r < 0)
        trip_failed(l);
}
