/*
 * What a living worker does for the dead: it looks, takes over lanes, drains them, and removes forgotten worker rows.
 *
 * A run is dead when its beat stood still for `dead_after_ms` of this machine's CLOCK_BOOTTIME, counted over looks
 * that followed each other closely (after a gap, our own or the database's, everybody gets the full time again). The
 * conclusion is checked once more by the take itself, which compares the owner and the beat that were seen.
 *
 * Take, in one transaction: end the old owner's connection by its name (it may hold locks), compare-and-set the owner,
 * write the seal behind the last entry. The seal is a plain insert: where the old owner commits in between, the key
 * refuses it, everything is undone and tried again. Only a committed seal makes the lane ours. @thread of the loop
 */
#include "store/run_private.h"

#include "base/crypto.h"

enum {
    TAKE_TRIES = 5,
    BURY_S = 60,      /* a worker row of which nothing was heard for so long goes, if it owns nothing */
    DROPPED_MAX = 64, /* lanes that rest after they were dropped */
};

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

/* --- the look --- */

int run_live(const struct run *r) {
    uint64_t now = clock_boot_ns();
    int n = 0;
    for (int i = 0; i < r->peers_n; i++)
        n += r->peers[i].here && r->peers[i].beat != RUN_NO_BEAT && now - r->peers[i].changed_ns < r->dead_ns;
    return MAX(n, 1);
}

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
    *p = (struct peer){.run = *run, .beat = RUN_NO_BEAT};
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
        struct offer o = {.lane = pg_get_int32(res, i, 2), .beat = RUN_NO_BEAT};
        pg_get_uuid(res, i, 0, &o.run);
        bool mine = uuid_eq(&o.run, &r->id), take;
        struct peer *p = peer_find(r, &o.run);
        if (p) {
            p->owns = true;
            o.beat = p->beat;
        }
        if (mine) {
            /*
             * A lane that its owner is just sealing has not been let go yet: so only if it was sealed last time as
             * well.
             */
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
        run_complain(r, "cannot see the other workers", err);
    else
        timer_arm(r->timer, 0);
}

void run_look(struct run *r) {
    r->look.on_result = look_result;
    r->look.on_done = look_done;
    r->look_sent_ns = clock_boot_ns();
    r->looking = run_send_one(r->conn, &r->look, "run_look", NULL) == 0;
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
        run_complain(r, "a lane could not be taken over, later again", err);
    }
    if (!r->freed)
        timer_arm(r->timer, 0);
    run_release(r);
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
        run_complain(r, "the row of a dead worker stays", err);
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
        r->burying = run_send_one(r->work, &r->bury, "run_bury", &params) == 0;
        p->changed_ns = now; /* if it stays, not again at once */
        return;
    }
}

/* --- draining --- */

struct drain {
    struct pg_run pg;
    struct run *run;
    int32_t lane;
    bool drained, ours;
    void (*fn)(void *arg, int code);
    void *arg;
};

static void drain_result(struct pg_run *job, int i, PGresult *res) {
    struct drain *d = CONTAINER_OF(job, struct drain, pg);
    d->drained |= i == 1 && PQntuples(res) == 1;
    d->ours |= i == 2 && PQntuples(res) == 1;
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
    } else if (err->cls == PG_OK && !d->ours) {
        code = 2;
        set_del(&d->run->adopted, d->lane);
        LOG_INFO("store", "lane %d is not ours any more", d->lane);
    } else if (err->cls == PG_LOST || err->cls == PG_UNAVAILABLE) {
        code = -EAGAIN;
    } else if (err->cls != PG_OK && err->cls != PG_RETRY) {
        run_complain(d->run, "a lane could not be drained", err);
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
    pg_params_init(&p);
    pg_param_int32(&p, lane);
    pg_param_uuid(&p, &r->id);
    if (e == 0)
        e = pg_run_send(&d->pg, "run_owns", &p);
    if (e == 0)
        e = pg_run_end(&d->pg);
    if (e < 0)
        return e == -ENOTCONN ? -EAGAIN : e;
    TAKE(d);
    return 0;
}

bool run_crowded(const struct run *r) {
    return r->offers_n > 0 && r->adopted.n >= r->adopted.max;
}

void run_dropped(struct run *r, int32_t lane) {
    if (!set_del(&r->adopted, lane))
        return;
    /* If it is still ours it comes again, but not as fast as it can fail. */
    if (!set_add(&r->resting, lane, clock_boot_ns() + r->dead_ns))
        LOG_DEBUG("store", "lane %d is offered again at once", lane);
    timer_arm(r->timer, 0);
}

/* --- the clockwork --- */

static void rest_over(struct run *r, uint64_t now) {
    for (int i = r->resting.n; i-- > 0;)
        if (r->resting.until_ns[i] <= now)
            set_del(&r->resting, r->resting.lanes[i]);
}

void run_take_tick(struct run *r, uint64_t now) {
    if (!pg_conn_ready(r->work))
        return;
    rest_over(r, now);
    take_next(r);
    if (!r->burying)
        bury_one(r, now);
}

int run_take_init(struct run *r, int max_adopted) {
    int e = set_init(&r->adopted, MAX(max_adopted, 1));
    if (e == 0)
        e = set_init(&r->resting, DROPPED_MAX);
    if (e == 0)
        e = set_init(&r->own_sealed, DROPPED_MAX);
    return e;
}

void run_take_deinit(struct run *r) {
    mem_free(r->peers);
    mem_free(r->offers);
    struct lane_set *sets[] = {&r->adopted, &r->resting, &r->own_sealed};
    for (size_t i = 0; i < ARRAY_LEN(sets); i++) {
        mem_free(sets[i]->lanes);
        mem_free(sets[i]->until_ns);
    }
}
