/*
 * A worker's life as others see it, and what it does for those that have died.
 *
 * Two connections: `conn` carries the beat and the look at everybody's beats and lanes, which never wait for a lock; `work` what may: the
 * take of one lane at a time, drains, the removal of a forgotten worker row. Nothing here believes a wall clock: a run is dead when its beat stood still for
 * `dead_after_ms` of this machine's CLOCK_BOOTTIME, counted over looks that followed each other closely (after a gap, our own or the
 * database's, everybody gets the full time again). What was concluded is checked once more by the take itself, which compares
 * the owner and the beat it saw.
 *
 * Take, in one transaction: end the old owner's connection by its name (it may hold locks), compare-and-set the owner, write the seal
 * behind the last entry. The seal is a plain insert: where the old owner commits in between, the key refuses it, everything is undone and
 * tried again. Only a committed seal makes the lane ours. @thread of the loop
 */
#include "store/run.h"

#include "base/clock.h"
#include "base/crypto.h"
#include "base/log.h"
#include "base/metric.h"
#include "store/pg.h"
#include "store/stmts.h"

#include <unistd.h>

enum {
    BEAT_MS = 1000,
    TAKE_TRIES = 5,
    RETIRE_MS = 2000,
    BURY_S = 60,      /* a worker row of which nothing was heard for so long goes, if it owns nothing */
    DROPPED_MAX = 64, /* lanes that rest after they were dropped */
    NO_BEAT = -1,     /* the owner has no worker row */
};

const struct pg_stmt run_stmts[] = {
    {"run_register", "INSERT INTO worker (run, host, epoch) VALUES ($1::uuid, $2::text, $3::int8) ON CONFLICT (run) DO NOTHING"},
    {"run_beat", "UPDATE worker SET beat = beat + 1, epoch = $2::int8 WHERE run = $1::uuid RETURNING clock_timestamp()"},
    /* One statement, one moment: a worker that registers between two would look like one without a row. */
    {"run_look", "SELECT run, beat, NULL::int4 AS lane, NULL::bool AS sealed FROM worker"
                 " UNION ALL SELECT run, NULL, lane, state = 'sealed' FROM lane WHERE state <> 'drained'"},
    {"run_end_owner", "SELECT count(pg_terminate_backend(a.pid)) FROM pg_stat_activity a"
                      " WHERE starts_with(a.application_name, 'txmsg-lane-' || $1::int4 || '-') AND a.pid <> pg_backend_pid()"
                      " AND pg_has_role(a.usesysid, 'USAGE')"
                      " AND EXISTS (SELECT 1 FROM lane l WHERE l.lane = $1::int4 AND l.run = $2::uuid AND l.state <> 'drained')"
                      " AND ($2::uuid = $3::uuid OR coalesce((SELECT w.beat FROM worker w WHERE w.run = $2::uuid), -1) = $4::int8)"},
    {"run_take", "UPDATE lane l SET run = $3::uuid, state = 'sealed'"
                 " WHERE l.lane = $1::int4 AND l.run = $2::uuid AND l.state <> 'drained'"
                 " AND ($2::uuid = $3::uuid OR coalesce((SELECT w.beat FROM worker w WHERE w.run = $2::uuid), -1) = $4::int8)"},
    /* Only if the row was written by this transaction, that is, if run_take hit it. */
    {"run_seal", "INSERT INTO lane_log (lane, seq, kind, nonce)"
                 " SELECT l.lane, coalesce((SELECT g.seq FROM lane_log g WHERE g.lane = $1::int4 ORDER BY g.seq DESC LIMIT 1), 0) + 1,"
                 " 'S', $3::int8 FROM lane l WHERE l.lane = $1::int4 AND l.run = $2::uuid AND l.xmin = pg_current_xact_id()::xid"
                 " RETURNING seq"},
    /* The share lock keeps the epoch where it is until the drain is committed. */
    {"run_epoch", "SELECT epoch FROM cfg FOR SHARE"},
    {"run_drain", "UPDATE lane SET state = 'drained' WHERE lane = $1::int4 AND run = $2::uuid AND state = 'sealed'"
                  " AND (SELECT epoch FROM cfg) = $3::int8 RETURNING lane"},
    {"run_bury", "DELETE FROM worker w WHERE w.run = $1::uuid AND w.beat = $2::int8"
                 " AND NOT EXISTS (SELECT 1 FROM lane l WHERE l.run = $1::uuid AND l.state <> 'drained')"},
    {"run_retire", "DELETE FROM worker WHERE run = $1::uuid"},
    {NULL, NULL},
};

/* Another run, as the looks saw it. */
struct peer {
    struct uuid run;
    int64_t beat;
    uint64_t changed_ns; /* CLOCK_BOOTTIME of the look that first saw this beat */
    bool here, owns;     /* in the latest look: has a row; owns a lane */
};

/* A lane that may be taken. */
struct offer {
    int32_t lane;
    struct uuid run;
    int64_t beat;
};

/* Lanes by number, small. */
struct lane_set {
    int32_t *lanes;
    uint64_t *until_ns; /* of `resting` */
    int n, max;
};

struct run {
    struct loop *loop;
    struct store *store;
    struct run_owner owner;
    struct uuid id;
    char name[64];
    struct pg_conn *conn, *work;
    struct timer *timer;
    uint64_t beat_ns, dead_ns;
    bool registered, known, alive, freed; /* registered: ever; known: has its row, as far as we know */
    int depth;
    int64_t epoch, epoch_sent;

    struct pg_run beat;
    bool beating, beat_hit;
    uint64_t beat_sent_ns, beat_ok_ns; /* CLOCK_BOOTTIME: the last one sent; sending time of the last that got through */

    struct pg_run look;
    bool looking;
    uint64_t look_sent_ns, looked_ns;
    struct peer *peers;
    int peers_n, peers_cap;
    struct offer *offers; /* of the latest look, next one last */
    int offers_n;

    struct pg_run take;
    bool taking;
    struct offer taken;
    bool took;
    int32_t seal_seq;
    int tries;

    struct lane_set adopted, resting, own_sealed;

    struct pg_run bury;
    bool burying;

    struct pg_run retire;
    bool retiring, retire_sent;
    uint64_t retire_by_ns;
    void (*retired)(void *arg);
    void *retired_arg;

    struct log_limit limit;
    struct metric *takeovers;
};

static void run_tick(void *arg);

static void release(struct run *r) {
    if (!r->freed || r->depth)
        return;
    mem_free(r->peers);
    mem_free(r->offers);
    struct lane_set *sets[] = {&r->adopted, &r->resting, &r->own_sealed};
    for (size_t i = 0; i < ARRAY_LEN(sets); i++) {
        mem_free(sets[i]->lanes);
        mem_free(sets[i]->until_ns);
    }
    mem_free(r);
}

/* --- sets of lanes --- */

static int set_init(struct lane_set *s, int max) {
    s->lanes = mem_calloc((size_t)max, sizeof(*s->lanes));
    s->until_ns = mem_calloc((size_t)max, sizeof(*s->until_ns));
    s->max = max;
    return s->lanes && s->until_ns ? 0 : -ENOMEM;
}

static int set_find(const struct lane_set *s, int32_t lane) {
    for (int i = 0; i < s->n; i++)
        if (s->lanes[i] == lane)
            return i;
    return -1;
}

static bool set_add(struct lane_set *s, int32_t lane, uint64_t until_ns) {
    int i = set_find(s, lane);
    if (i < 0 && s->n == s->max)
        return false;
    if (i < 0)
        i = s->n++;
    s->lanes[i] = lane;
    s->until_ns[i] = until_ns;
    return true;
}

static bool set_del(struct lane_set *s, int32_t lane) {
    int i = set_find(s, lane);
    if (i < 0)
        return false;
    s->n--;
    s->lanes[i] = s->lanes[s->n];
    s->until_ns[i] = s->until_ns[s->n];
    return true;
}

/* --- one statement, one transaction --- */

static int send_one(struct pg_conn *c, struct pg_run *job, const char *stmt, const struct pg_params *p) {
    int e = pg_run_begin(c, job);
    if (e == 0)
        e = pg_run_send(job, stmt, p);
    if (e == 0)
        e = pg_run_end(job);
    return e;
}

static void complain(struct run *r, const char *what, const struct pg_error *err) {
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
        complain(r, "not registered", err);
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
    release(r);
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
        complain(r, "no heartbeat", err);
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
    release(r);
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
    r->beating = send_one(r->conn, &r->beat, r->known ? "run_beat" : "run_register", &p) == 0;
}

/* --- the look --- */

static struct peer *peer_find(struct run *r, const struct uuid *run) {
    for (int i = 0; i < r->peers_n; i++)
        if (uuid_eq(&r->peers[i].run, run))
            return &r->peers[i];
    return NULL;
}

static struct peer *peer_add(struct run *r, const struct uuid *run) {
    if (r->peers_n == r->peers_cap) {
        int cap = MAX(r->peers_cap * 2, 16);
        struct peer *more = mem_realloc(r->peers, (size_t)cap * sizeof(*more));
        if (!more)
            return NULL;
        r->peers = more;
        r->peers_cap = cap;
    }
    struct peer *p = &r->peers[r->peers_n++];
    *p = (struct peer){.run = *run, .beat = NO_BEAT};
    return p;
}

static void look_at_workers(struct run *r, const PGresult *res, uint64_t now) {
    /* Nobody looked for a while, so nothing is known about that while. */
    bool gap = r->looked_ns && now - r->looked_ns > r->dead_ns / 2;
    for (int i = 0; i < r->peers_n; i++)
        r->peers[i].here = r->peers[i].owns = false;
    for (int i = 0; i < PQntuples(res); i++) {
        struct uuid run;
        if (!pg_get_null(res, i, 2))
            continue;
        pg_get_uuid(res, i, 0, &run);
        int64_t beat = pg_get_int64(res, i, 1);
        struct peer *p = peer_find(r, &run);
        if (!p && !(p = peer_add(r, &run)))
            continue; /* out of memory: at the next look */
        if (p->beat != beat || gap) {
            p->beat = beat;
            p->changed_ns = now;
        }
        p->here = true;
    }
    for (int i = r->peers_n; i-- > 0;)
        if (!r->peers[i].here)
            r->peers[i] = r->peers[--r->peers_n];
}

/* Lanes without a living owner, and sealed ones of ours that nobody works on. */
static void look_at_lanes(struct run *r, const PGresult *res, uint64_t now) {
    struct lane_set before = r->own_sealed; /* of the look before this one */
    int32_t was[DROPPED_MAX];
    int was_n = before.n;
    memcpy(was, before.lanes, (size_t)was_n * sizeof(*was));
    r->own_sealed.n = 0;
    r->offers_n = 0;
    struct offer *offers = mem_realloc(r->offers, (size_t)MAX(PQntuples(res), 1) * sizeof(*offers));
    if (!offers)
        return;
    r->offers = offers;
    for (int i = 0; i < PQntuples(res); i++) {
        if (pg_get_null(res, i, 2))
            continue;
        struct offer o = {.lane = pg_get_int32(res, i, 2), .beat = NO_BEAT};
        pg_get_uuid(res, i, 0, &o.run);
        bool mine = uuid_eq(&o.run, &r->id), take;
        struct peer *p = peer_find(r, &o.run);
        if (p) {
            p->owns = true;
            o.beat = p->beat;
        }
        if (mine) {
            /* A lane that its owner is just sealing has not been let go yet: so only if it was sealed last time as well. */
            take = false;
            if (pg_get_bool(res, i, 3) && set_add(&r->own_sealed, o.lane, 0))
                for (int k = 0; k < was_n; k++)
                    take |= was[k] == o.lane;
        } else {
            take = !p || now - p->changed_ns >= r->dead_ns;
        }
        if (take && set_find(&r->adopted, o.lane) < 0)
            r->offers[r->offers_n++] = o;
    }
    /* Survivors see the same list: each begins elsewhere. */
    for (int i = r->offers_n - 1; i > 0; i--) {
        uint32_t k;
        crypto_random(&k, sizeof(k));
        k %= (uint32_t)i + 1;
        struct offer t = r->offers[i];
        r->offers[i] = r->offers[k];
        r->offers[k] = t;
    }
}

static void look_result(struct pg_run *job, int i, PGresult *res) {
    struct run *r = CONTAINER_OF(job, struct run, look);
    uint64_t now = clock_boot_ns();
    UNUSED(i);
    look_at_workers(r, res, now);
    look_at_lanes(r, res, now);
    r->looked_ns = now;
}

static void look_done(struct pg_run *job, const struct pg_error *err) {
    struct run *r = CONTAINER_OF(job, struct run, look);
    r->looking = false;
    if (r->freed)
        return;
    if (err->cls != PG_OK)
        complain(r, "cannot see the other workers", err);
    else
        timer_arm(r->timer, 0);
}

static void send_look(struct run *r) {
    r->look.on_result = look_result;
    r->look.on_done = look_done;
    r->look_sent_ns = clock_boot_ns();
    r->looking = send_one(r->conn, &r->look, "run_look", NULL) == 0;
}

/* --- the take --- */

static void send_take(struct run *r);

static void take_result(struct pg_run *job, int i, PGresult *res) {
    struct run *r = CONTAINER_OF(job, struct run, take);
    if (i == 2 && PQntuples(res) == 1) {
        r->took = true;
        r->seal_seq = pg_get_int32(res, 0, 0);
    }
}

static void adopt(struct run *r) {
    bool mine = uuid_eq(&r->taken.run, &r->id);
    char owner[UUID_TEXT];
    uuid_format(&r->taken.run, owner);
    if (mine)
        LOG_INFO("store", "lane %d, sealed by ourselves, is continued behind seq %d", r->taken.lane, r->seal_seq);
    else
        LOG_WARN("store", "lane %d of run %s taken over, sealed at seq %d", r->taken.lane, owner, r->seal_seq);
    if (!mine)
        metric_add(r->takeovers, 1);
    bool room = set_add(&r->adopted, r->taken.lane, 0);
    ASSERT(room);
    r->depth++;
    r->owner.adopted(r->owner.arg, r->taken.lane, r->seal_seq + 1);
    r->depth--;
}

static void take_done(struct pg_run *job, const struct pg_error *err) {
    struct run *r = CONTAINER_OF(job, struct run, take);
    r->taking = false;
    if (r->freed)
        return;
    if (r->retiring) {
        /* whatever became of it: with our row gone it is free */
    } else if (err->cls == PG_OK && r->took) {
        adopt(r);
    } else if (err->cls == PG_CONFLICT && r->tries < TAKE_TRIES) {
        send_take(r); /* the old owner committed just now: behind that */
        return;
    } else if (err->cls == PG_LOST) {
        r->offers_n = 0; /* it may be ours: the next look says */
    } else if (err->cls != PG_OK) {
        complain(r, "a lane could not be taken over, later again", err);
    }
    if (!r->freed)
        timer_arm(r->timer, 0);
    release(r);
}

static void send_take(struct run *r) {
    struct offer *o = &r->taken;
    int64_t nonce;
    crypto_random(&nonce, sizeof(nonce));
    r->took = false;
    r->tries++;
    r->take.on_result = take_result;
    r->take.on_done = take_done;
    struct pg_params p;
    pg_params_init(&p);
    pg_param_int32(&p, o->lane);
    pg_param_uuid(&p, &o->run);
    pg_param_uuid(&p, &r->id);
    pg_param_int64(&p, o->beat);
    int e = pg_run_begin(r->work, &r->take);
    if (e == 0)
        e = pg_run_send(&r->take, "run_end_owner", &p);
    if (e == 0)
        e = pg_run_send(&r->take, "run_take", &p);
    pg_params_init(&p);
    pg_param_int32(&p, o->lane);
    pg_param_uuid(&p, &r->id);
    pg_param_int64(&p, nonce);
    if (e == 0)
        e = pg_run_send(&r->take, "run_seal", &p);
    if (e == 0)
        e = pg_run_end(&r->take);
    r->taking = e == 0;
}

static void take_next(struct run *r) {
    while (r->offers_n && !r->taking && r->adopted.n < r->adopted.max) {
        r->taken = r->offers[--r->offers_n];
        if (set_find(&r->adopted, r->taken.lane) >= 0 || set_find(&r->resting, r->taken.lane) >= 0)
            continue;
        r->tries = 0;
        send_take(r);
    }
}

/* --- worker rows that nobody needs --- */

static void bury_done(struct pg_run *job, const struct pg_error *err) {
    struct run *r = CONTAINER_OF(job, struct run, bury);
    r->burying = false;
    if (!r->freed && err->cls != PG_OK)
        complain(r, "the row of a dead worker stays", err);
}

static void bury_one(struct run *r, uint64_t now) {
    for (int i = 0; i < r->peers_n; i++) {
        struct peer *p = &r->peers[i];
        uint64_t still = now - p->changed_ns;
        if (p->owns || still < MAX(BURY_S * NS_PER_S, 4 * r->dead_ns) || uuid_eq(&p->run, &r->id))
            continue;
        struct pg_params params;
        pg_params_init(&params);
        pg_param_uuid(&params, &p->run);
        pg_param_int64(&params, p->beat);
        r->bury.on_result = NULL;
        r->bury.on_done = bury_done;
        r->burying = send_one(r->work, &r->bury, "run_bury", &params) == 0;
        p->changed_ns = now; /* if it stays, not again at once */
        return;
    }
}

/* --- draining and leaving --- */

struct drain {
    struct pg_run pg;
    struct run *run;
    int32_t lane;
    bool drained;
    void (*fn)(void *arg, int code);
    void *arg;
};

static void drain_result(struct pg_run *job, int i, PGresult *res) {
    struct drain *d = CONTAINER_OF(job, struct drain, pg);
    d->drained |= i == 1 && PQntuples(res) == 1;
}

static void drain_done(struct pg_run *job, const struct pg_error *err) {
    CLEANUP_FREE struct drain *d = CONTAINER_OF(job, struct drain, pg);
    int code = 1;
    if (d->run->freed) {
        code = -ECANCELED;
    } else if (err->cls == PG_OK && d->drained) {
        code = 0;
        set_del(&d->run->adopted, d->lane);
        LOG_INFO("store", "lane %d drained", d->lane);
    } else if (err->cls == PG_LOST || err->cls == PG_UNAVAILABLE) {
        code = -EAGAIN;
    } else if (err->cls != PG_OK && err->cls != PG_RETRY) {
        complain(d->run, "a lane could not be drained", err);
        code = -EINVAL;
    }
    d->fn(d->arg, code);
}

int run_drain(struct run *r, int32_t lane, int64_t epoch, void (*fn)(void *arg, int code), void *arg) {
    CLEANUP_FREE struct drain *d = mem_zalloc(sizeof(*d));
    if (!d)
        return -ENOMEM;
    *d = (struct drain){.run = r, .lane = lane, .fn = fn, .arg = arg};
    d->pg.on_result = drain_result;
    d->pg.on_done = drain_done;
    struct pg_params p;
    pg_params_init(&p);
    pg_param_int32(&p, lane);
    pg_param_uuid(&p, &r->id);
    pg_param_int64(&p, epoch);
    int e = pg_run_begin(r->work, &d->pg);
    if (e == 0)
        e = pg_run_send(&d->pg, "run_epoch", NULL);
    if (e == 0)
        e = pg_run_send(&d->pg, "run_drain", &p);
    if (e == 0)
        e = pg_run_end(&d->pg);
    if (e < 0)
        return e == -ENOTCONN ? -EAGAIN : e;
    TAKE(d);
    return 0;
}

void run_dropped(struct run *r, int32_t lane) {
    if (!set_del(&r->adopted, lane))
        return;
    /* If it is still ours it comes again, but not as fast as it can fail. */
    if (!set_add(&r->resting, lane, clock_boot_ns() + r->dead_ns))
        LOG_DEBUG("store", "lane %d is offered again at once", lane);
    timer_arm(r->timer, 0);
}

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
        r->retire_sent = send_one(r->conn, &r->retire, "run_retire", &p) == 0;
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

static void rest_over(struct run *r, uint64_t now) {
    for (int i = r->resting.n; i-- > 0;)
        if (r->resting.until_ns[i] <= now)
            set_del(&r->resting, r->resting.lanes[i]);
}

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
            send_look(r);
    }
    if (!r->freed && r->alive && r->known && pg_conn_ready(r->work)) {
        rest_over(r, now);
        take_next(r);
        if (!r->burying)
            bury_one(r, now);
    }
    /* A connection that says nothing at all may be one whose other end is gone. */
    if (!r->freed && r->beating && now > r->beat_sent_ns && now - r->beat_sent_ns > r->dead_ns && pg_conn_ready(r->conn) &&
        pg_conn_rename(r->conn, r->name, true) < 0)
        LOG_ERROR("store", "run: out of memory");
    r->depth--;
    release(r);
}

static void on_ready(void *arg) {
    struct run *r = arg;
    timer_arm(r->timer, 0);
}

static int run_start(struct run *r, int max_adopted) {
    char options[256], id[UUID_TEXT];
    int64_t timeout = r->store->o.statement_timeout_ms > 0 ? r->store->o.statement_timeout_ms : 5000;
    uuid_format(&r->id, id);
    snprintf(r->name, sizeof(r->name), "txmsg-run-%s", id);
    snprintf(options, sizeof(options),
             "-c statement_timeout=%lld -c lock_timeout=1000 -c idle_in_transaction_session_timeout=5000"
             " -c default_transaction_isolation=read\\ committed -c jit=off",
             (long long)timeout);
    int e = set_init(&r->adopted, MAX(max_adopted, 1));
    if (e == 0)
        e = set_init(&r->resting, DROPPED_MAX);
    if (e == 0)
        e = set_init(&r->own_sealed, DROPPED_MAX);
    if (e == 0)
        e = timer_new(r->loop, run_tick, r, &r->timer);
    struct pg_conn_options o = {
        .dsn = r->store->o.dsn, .application_name = r->name, .options = options, .stmts = run_stmts, .on_ready = on_ready, .arg = r};
    if (e == 0)
        e = pg_conn_new(r->loop, &o, &r->conn);
    o.application_name = "txmsg-take";
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
    r->takeovers = metric_get(metric_family(METRIC_COUNTER, "txmsg_lane_takeovers_total", "", "Lanes taken over from dead workers.", 1));
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
    release(r);
}
