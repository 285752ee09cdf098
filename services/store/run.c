/*
 * A worker's life as others see it: it registers a run, raises its beat, and leaves. What it does for the dead is in
 * run_take.c.
 *
 * Two connections: `conn` carries the beat and the look at everybody's beats and lanes, which never wait for a lock;
 * `work` what may wait: the take of one lane at a time, drains, the removal of a forgotten worker row. No clock on a
 * wall is believed, neither this machine's nor the database's. @thread of the loop
 *
 * A beat says that this worker lives, not that the disk does, so it does not wait for the disk nor for a standby: a disk that stood
 * still for seconds made every worker take itself for dead, and each other. What a crash of the server takes back is made good by
 * the next beat: any other number is a change. The row itself is durable before it matters, since the lane that is opened
 * under it commits behind it in the same log. Takes, seals and drains wait.
 */
#include "store/run_private.h"

#include "store/stmts.h"

#include <unistd.h>

enum { BEAT_MS = 1000, RETIRE_MS = 2000 };

/* clang-format off */
const struct pg_stmt run_stmts[] = {
    {"run_register", "INSERT INTO worker (run, host, epoch) VALUES ($1::uuid, $2::text, $3::int8)"
        " ON CONFLICT (run) DO NOTHING"},
    {"run_beat", "UPDATE worker SET beat = beat + 1, epoch = $2::int8 WHERE run = $1::uuid"
        " RETURNING clock_timestamp()"},
    /* One statement, one moment: a worker that registers between two would look like one without a row. */
    {"run_look", "SELECT run, beat, NULL::int4 AS lane, NULL::bool AS sealed FROM worker"
                 " UNION ALL SELECT run, NULL, lane, state = 'sealed' FROM lane WHERE state <> 'drained'"},
    {"run_end_owner", "SELECT count(pg_terminate_backend(a.pid)) FROM pg_stat_activity a"
                      " WHERE starts_with(a.application_name, 'txmsg-lane-' || $1::int4 || '-')"
                      " AND a.pid <> pg_backend_pid() AND a.datname = current_database()"
                      " AND pg_has_role(a.usesysid, 'USAGE')"
                      " AND EXISTS (SELECT 1 FROM lane l"
                      " WHERE l.lane = $1::int4 AND l.run = $2::uuid AND l.state <> 'drained')"
                      " AND ($2::uuid = $3::uuid OR coalesce((SELECT w.beat FROM worker w"
                      " WHERE w.run = $2::uuid), -1) = $4::int8)"},
    /* In the audit too, but for what a worker takes from itself and for lanes that belong to nobody. */
    {"run_take",
     "WITH t AS (UPDATE lane l SET run = $3::uuid, state = 'sealed'"
     " WHERE l.lane = $1::int4 AND l.run = $2::uuid AND l.state <> 'drained'"
     " AND ($2::uuid = $3::uuid OR coalesce((SELECT w.beat FROM worker w WHERE w.run = $2::uuid), -1) = $4::int8)"
     " RETURNING l.lane)"
     " INSERT INTO audit (actor, act, object, reason) SELECT 'txmsgd', 'lane.takeover', 'lane/' || t.lane,"
     " CASE WHEN EXISTS (SELECT FROM worker w WHERE w.run = $2::uuid) THEN 'the heartbeat of its worker stood still'"
     " ELSE 'its worker has ended' END FROM t"
     " WHERE $2::uuid <> $3::uuid AND $2::uuid <> '00000000-0000-0000-0000-000000000000'"},
    /* Only if the row was written by this transaction, that is, if run_take hit it. */
    {"run_seal", "INSERT INTO lane_log (lane, seq, kind, nonce)"
                 " SELECT l.lane, coalesce((SELECT g.seq FROM lane_log g WHERE g.lane = $1::int4"
                 " ORDER BY g.seq DESC LIMIT 1), 0) + 1,"
                 " 'S', $3::int8 FROM lane l WHERE l.lane = $1::int4 AND l.run = $2::uuid"
                 " AND l.xmin = pg_current_xact_id()::xid"
                 " RETURNING seq"},
    /* The share lock keeps the epoch where it is until the drain is committed. */
    {"run_epoch", "SELECT epoch FROM cfg FOR SHARE"},
    {"run_drain", "UPDATE lane SET state = 'drained' WHERE lane = $1::int4 AND run = $2::uuid AND state = 'sealed'"
                  " AND (SELECT epoch FROM cfg) = $3::int8 RETURNING lane"},
    {"run_owns", "SELECT 1 FROM lane WHERE lane = $1::int4 AND run = $2::uuid"},
    {"run_bury", "DELETE FROM worker w WHERE w.run = $1::uuid AND w.beat = $2::int8"
                 " AND NOT EXISTS (SELECT 1 FROM lane l WHERE l.run = $1::uuid AND l.state <> 'drained')"},
    {"run_retire", "DELETE FROM worker WHERE run = $1::uuid"},
    {NULL, NULL},
};
/* clang-format on */

void run_release(struct run *r) {
    if (!r->freed || r->depth)
        return;
    run_take_deinit(r);
    mem_free(r);
}

/* --- one statement, one transaction --- */

int run_send_one(struct pg_conn *c, struct pg_run *job, const char *stmt, const struct pg_params *p) {
    int e = pg_run_begin(c, job);
    if (e == 0)
        e = pg_run_send(job, stmt, p);
    if (e == 0)
        e = pg_run_end(job);
    return e;
}

void run_complain(struct run *r, const char *what, const struct pg_error *err) {
    if (err->cls != PG_LOST && log_limit_pass(&r->limit, 10 * NS_PER_S))
        LOG_WARN("store", "run: %s: %s %s", what, err->sqlstate, err->message);
}

/* --- the beat --- */

static void set_alive(struct run *r, bool alive) {
    if (r->alive == alive)
        return;
    r->alive = alive;
    if (r->owner.alive)
        r->owner.alive(r->owner.arg, alive);
}

static void register_done(struct pg_run *job, const struct pg_error *err) {
    struct run *r = CONTAINER_OF(job, struct run, beat);
    r->beating = false;
    if (r->freed)
        return;
    if (err->cls != PG_OK) {
        run_complain(r, "not registered", err);
        return;
    }
    r->known = true;
    r->beat_ok_ns = r->beat_sent_ns;
    r->depth++;
    if (!r->registered) {
        r->registered = r->alive = true;
        if (r->owner.registered)
            r->owner.registered(r->owner.arg, &r->id);
    } else if (!r->retiring) {
        set_alive(r, true);
    }
    r->depth--;
    run_release(r);
}

static void beat_result(struct pg_run *job, int i, PGresult *res) {
    struct run *r = CONTAINER_OF(job, struct run, beat);
    UNUSED(i);
    r->beat_hit = PQntuples(res) == 1;
    if (r->beat_hit)
        store_clock_observe(r->store, pg_get_time_us(res, 0, 0), r->beat_sent_ns, clock_boot_ns());
}

static void beat_done(struct pg_run *job, const struct pg_error *err) {
    struct run *r = CONTAINER_OF(job, struct run, beat);
    r->beating = false;
    if (r->freed)
        return;
    if (err->cls != PG_OK) {
        run_complain(r, "no heartbeat", err);
        return;
    }
    if (!r->beat_hit) { /* we seemed dead for so long that somebody has removed the row: begin again */
        r->known = false;
        timer_arm(r->timer, 0);
        return;
    }
    r->beat_ok_ns = r->beat_sent_ns;
    r->depth++;
    if (!r->retiring)
        set_alive(r, true);
    r->depth--;
    run_release(r);
}

static void send_beat(struct run *r) {
    char host[128] = "?", text[160];
    struct pg_params p;
    pg_params_init(&p);
    pg_param_uuid(&p, &r->id);
    if (!r->known) {
        if (gethostname(host, sizeof(host)) == 0)
            host[sizeof(host) - 1] = 0;
        snprintf(text, sizeof(text), "%s:%d", host, (int)getpid());
        pg_param_text(&p, text);
    }
    pg_param_int64(&p, r->epoch);
    r->beat.on_result = r->known ? beat_result : NULL;
    r->beat.on_done = r->known ? beat_done : register_done;
    r->beat_hit = false;
    r->beat_sent_ns = clock_boot_ns();
    r->epoch_sent = r->epoch;
    r->beating = run_send_one(r->conn, &r->beat, r->known ? "run_beat" : "run_register", &p) == 0;
}

/* --- leaving --- */

static void retire_end(struct run *r) {
    void (*fn)(void *arg) = r->retired;
    r->retired = NULL;
    timer_stop(r->timer);
    if (fn)
        fn(r->retired_arg);
}

static void retire_done(struct pg_run *job, const struct pg_error *err) {
    struct run *r = CONTAINER_OF(job, struct run, retire);
    if (r->freed)
        return;
    if (err->cls != PG_OK)
        LOG_WARN("store", "run: the worker row stays until others find it dead: %s", err->message);
    retire_end(r);
}

static void retire_tick(struct run *r) {
    if (!r->retired)
        return;
    if (clock_boot_ns() >= r->retire_by_ns) {
        retire_end(r);
        return;
    }
    if (!r->retire_sent && pg_conn_ready(r->conn)) {
        struct pg_params p;
        pg_params_init(&p);
        pg_param_uuid(&p, &r->id);
        r->retire.on_result = NULL;
        r->retire.on_done = retire_done;
        r->retire_sent = run_send_one(r->conn, &r->retire, "run_retire", &p) == 0;
    }
    timer_arm(r->timer, 50);
}

void run_retire(struct run *r, void (*fn)(void *arg), void *arg) {
    r->retiring = true;
    r->retired = fn;
    r->retired_arg = arg;
    r->retire_by_ns = clock_boot_ns() + RETIRE_MS * NS_PER_MS;
    r->offers_n = 0;
    timer_arm(r->timer, 0);
}

void run_applied_epoch(struct run *r, int64_t epoch) {
    r->epoch = epoch;
    if (!r->retiring)
        timer_arm(r->timer, 0);
}

/* --- the clockwork --- */

static void run_tick(void *arg) {
    struct run *r = arg;
    if (r->retiring) {
        retire_tick(r);
        return;
    }
    uint64_t now = clock_boot_ns();
    timer_arm(r->timer, MAX(r->beat_ns / 4 / NS_PER_MS, 5));
    r->depth++;
    if (r->registered && now - r->beat_ok_ns > r->dead_ns / 10 * 7)
        set_alive(r, false);
    if (!r->freed && pg_conn_ready(r->conn)) {
        if (!r->beating && (!r->known || r->epoch != r->epoch_sent || now - r->beat_sent_ns >= r->beat_ns))
            send_beat(r);
        if (r->known && !r->looking && now - r->look_sent_ns >= r->beat_ns)
            run_look(r);
    }
    if (!r->freed && r->alive && r->known)
        run_take_tick(r, now);
    /* A connection that says nothing at all may be one whose other end is gone. */
    if (!r->freed && r->beating && now > r->beat_sent_ns && now - r->beat_sent_ns > r->dead_ns &&
        pg_conn_ready(r->conn) && pg_conn_rename(r->conn, r->name, true) < 0)
        LOG_ERROR("store", "run: out of memory");
    r->depth--;
    run_release(r);
}

static void on_ready(void *arg) {
    struct run *r = arg;
    timer_arm(r->timer, 0);
}

static int run_start(struct run *r, int max_adopted) {
    char options[256], beat_options[300], id[UUID_TEXT];
    int64_t timeout = r->store->o.statement_timeout_ms > 0 ? r->store->o.statement_timeout_ms : 5000;
    uuid_format(&r->id, id);
    snprintf(r->name, sizeof(r->name), "txmsg-run-%s", id);
    snprintf(options, sizeof(options),
             "-c statement_timeout=%lld -c lock_timeout=1000 -c idle_in_transaction_session_timeout=5000"
             " -c default_transaction_isolation=read\\ committed -c jit=off -c synchronous_commit=on",
             (long long)timeout);
    snprintf(beat_options, sizeof(beat_options), "%s -c synchronous_commit=off", options);
    int e = run_take_init(r, max_adopted);
    if (e == 0)
        e = timer_new(r->loop, run_tick, r, &r->timer);
    struct pg_conn_options o = {.dsn = r->store->o.dsn,
                                .application_name = r->name,
                                .options = beat_options,
                                .stmts = run_stmts,
                                .on_ready = on_ready,
                                .arg = r};
    if (e == 0)
        e = pg_conn_new(r->loop, &o, &r->conn);
    o.application_name = "txmsg-take";
    o.options = options;
    o.on_ready = NULL;
    if (e == 0)
        e = pg_conn_new(r->loop, &o, &r->work);
    if (e == 0)
        timer_arm(r->timer, 0);
    return e;
}

int run_new(struct loop *l, struct store *s, int max_adopted, const struct run_owner *owner, struct run **ret) {
    struct run *r = mem_zalloc(sizeof(*r));
    if (!r)
        return -ENOMEM;
    r->loop = l;
    r->store = s;
    r->owner = *owner;
    int64_t dead_ms = s->o.dead_after_ms > 0 ? s->o.dead_after_ms : 5000;
    r->dead_ns = (uint64_t)dead_ms * NS_PER_MS;
    r->beat_ns = MIN((uint64_t)BEAT_MS * NS_PER_MS, r->dead_ns / 5);
    r->takeovers = metric_get(
        metric_family(METRIC_COUNTER, "txmsg_lane_takeovers_total", "", "Lanes taken over from dead workers.", 1));
    uuid_v7_make(clock_real_us() / 1000, &r->id);
    int e = run_start(r, max_adopted);
    if (e < 0) {
        run_free(r);
        return e;
    }
    *ret = r;
    return 0;
}

void run_free(struct run *r) {
    if (!r || r->freed)
        return;
    r->freed = true;
    timer_free(r->timer);
    pg_conn_free(r->conn);
    pg_conn_free(r->work);
    run_release(r);
}
