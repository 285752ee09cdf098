/*
 * One question at a time is under way (claim, then payloads in pieces), so what is held is bounded by the slots asked
 * for: a quarter of an outlet's concurrency, at most SLOTS_MAX. A claim waits at its outlet until a delivery in flight
 * ends, which the sink's timeout bounds; the lease is twice that timeout and some.
 */
#include "forward/retry.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "forward/feed.h"

enum { ASKS_MAX = 64, SLOTS_MAX = 64, CONTENTS_MAX = 256, AGAIN_MS = 1000, SOON_MS = 1, STEP_MS = 1000 };

struct claim {
    struct parcel parcel; /* first; not of the pool */
    struct list link;     /* fetching, ended or riding */
    struct retry *retry;
    struct delivery_claim c;
    enum delivery_end end;
    int32_t attempt;
    int64_t due_in_ms;
    bool told; /* delivered, and its producer is to be told */
};

/* The question under way; outlives the retry if that goes first. */
struct question {
    struct retry *retry;
    int64_t lease_ms;
    uint64_t asked_ns;
    struct delivery_ask asks[ASKS_MAX];
    size_t asks_n;
    struct uuid ids[CONTENTS_MAX];
    size_t ids_n;
};

struct stepping {
    struct retry *retry;
};

struct retry {
    struct forward_env *env;
    enum retry_kind kind;
    struct list *outlets;
    struct feed *own;
    struct timer *timer;
    struct question *question;
    struct list fetching, ended, riding;
    int32_t last_asked;        /* subscription: the next question begins behind it */
    struct stepping *stepping; /* of replays: under way */
    uint64_t stepped_ns;
    int64_t running; /* replays, as the last step saw it */
};

static struct outlet *outlet_of(const struct retry *r, int32_t sub) {
    LIST_FOR (e, r->outlets) {
        struct outlet *o = LIST_ENTRY(e, struct outlet, link);
        if (o->conf->id == sub)
            return o;
    }
    return NULL;
}

static void next_poll(struct retry *r, bool soon) {
    timer_arm(r->timer, soon ? SOON_MS : (uint64_t)r->env->o.retry_poll_ms);
}

/* --- ends --- */

static void claim_free(struct claim *c) {
    tx_content_unref(c->parcel.d.content);
    attempt_end_reset(&c->parcel.d.end);
    list_del(&c->link);
    mem_free(c);
}

static void claim_end(struct claim *c, enum delivery_end end, int32_t attempt, int64_t due_in_ms) {
    struct retry *r = c->retry;
    struct outlet *o = c->parcel.outlet;

    c->end = end;
    c->attempt = attempt;
    c->due_in_ms = due_in_ms;
    tx_content_unref(TAKE(c->parcel.d.content));
    if (o && r->kind == RETRY_REPLAY) {
        o->replays--;
    } else if (o) {
        o->claims--;
        outlet_rows(o, (end == DELIVERY_RETRY && attempt > 0) - (c->c.attempt > 0), 0);
        if (end == DELIVERY_RETRY)
            o->rows_due_ms = MAX(o->rows_due_ms, (int64_t)(forward_now_ns(r->env) / NS_PER_MS) + due_in_ms);
    }
    c->parcel.outlet = NULL;
    list_del(&c->link);
    list_add_tail(&r->ended, &c->link);
    if (r->own)
        feed_kick(r->own, false);
}

/* Back to the table untried: somebody else may have it, soon. */
static void give_back(struct claim *c, int64_t due_in_ms) {
    snprintf(c->parcel.d.error, sizeof(c->parcel.d.error), "%s", "");
    claim_end(c, DELIVERY_RETRY, c->c.attempt, due_in_ms);
}

static void claim_untried(struct parcel *p) {
    struct claim *c = CONTAINER_OF(p, struct claim, parcel);

    give_back(c, c->retry->env->draining ? 0 : AGAIN_MS);
}

static bool too_old(const struct claim *c, const struct sub_conf *conf) {
    return store_now_us(c->retry->env->store) - c->c.since_us > conf->max_age_ms * 1000;
}

static void claim_done(struct parcel *p) {
    struct claim *c = CONTAINER_OF(p, struct claim, parcel);
    const struct sub_conf *conf = p->outlet->conf;
    int64_t due_in_ms = 0;
    enum delivery_end end = DELIVERY_DELIVERED;

    if (p->d.verdict == SINK_OK) {
        metric_add(c->retry->kind == RETRY_REPLAY ? c->retry->env->replayed : c->retry->env->from_log, 1);
        c->told = forward_tells(c->retry->env, p->d.content);
    } else if (p->d.verdict == SINK_REJECT || p->d.attempt >= conf->max_attempts || too_old(c, conf)) {
        end = DELIVERY_DEAD;
    } else {
        end = DELIVERY_RETRY;
        due_in_ms = MAX(backoff_delay_ms(&conf->backoff, p->d.attempt, backoff_random()), p->d.retry_after_ms);
        due_in_ms = parcel_due_ms(p, due_in_ms, store_now_us(c->retry->env->store));
    }
    claim_end(c, end, p->d.attempt, due_in_ms);
}

/* --- payloads --- */

static void fetch(struct retry *r);

/* Its payload is here: to its outlet. */
static void dispatch(struct retry *r, struct claim *c, struct tx_content *content) {
    struct outlet *o = c->parcel.outlet;
    struct question *q = r->question;

    if (!content || c->c.n >= (int32_t)content->messages_n) {
        LOG_ERROR("forward", "subscription %s: a message to retry is not stored any more", o->conf->name);
        claim_end(c, DELIVERY_DISCARDED, c->c.attempt, 0);
        return;
    }
    if (msg_expired(&content->messages[c->c.n], store_now_us(r->env->store))) {
        snprintf(c->parcel.d.error, sizeof(c->parcel.d.error), "expired");
        claim_end(c, DELIVERY_DISCARDED, c->c.attempt, 0);
        return;
    }
    const struct msg *m = &content->messages[c->c.n];
    bool first = c->c.attempt == 0 && c->c.token == 1 && c->c.since_us == m->deliver_at_us; /* it was only delayed */
    list_del(&c->link);
    c->parcel.d.again = !first;
    c->parcel.d.content = tx_content_ref(content);
    c->parcel.start_by_ns = q->asked_ns + (uint64_t)(q->lease_ms / 2) * NS_PER_MS;
    outlet_enqueue(o, &c->parcel);
}

static void end_question(struct retry *r, bool soon) {
    mem_free(TAKE(r->question));
    next_poll(r, soon);
    if (r->env->draining) /* whoever waits for us looks */
        r->env->wake(r->env->wake_arg, NULL);
}

/* All that wait for a payload: again later. */
static void give_back_all(struct retry *r) {
    while (!list_empty(&r->fetching))
        give_back(LIST_ENTRY(r->fetching.next, struct claim, link), AGAIN_MS);
}

/* Claims whose subscription went away meanwhile. */
static void drop_homeless(struct retry *r) {
    LIST_FOR_SAFE (e, &r->fetching) {
        struct claim *c = LIST_ENTRY(e, struct claim, link);
        c->parcel.outlet = outlet_of(r, c->c.sub);
        if (!c->parcel.outlet)
            claim_free(c);
    }
}

static void on_contents(void *arg, int code, struct tx_content *const *contents, size_t n) {
    struct question *q = arg;
    struct retry *r = q->retry;

    if (!r) {
        mem_free(q);
        return;
    }
    drop_homeless(r);
    if (code < 0 || n == 0 || r->env->draining) {
        give_back_all(r);
        end_question(r, false);
        return;
    }
    LIST_FOR_SAFE (e, &r->fetching) {
        struct claim *c = LIST_ENTRY(e, struct claim, link);
        for (size_t i = 0; i < n; i++) {
            if (uuid_eq(&q->ids[i], &c->c.tx)) {
                dispatch(r, c, contents[i]);
                break;
            }
        }
    }
    fetch(r);
}

/* The next piece of what waits for its payload; each transaction once. */
static void fetch(struct retry *r) {
    struct question *q = r->question;

    q->ids_n = 0;
    LIST_FOR (e, &r->fetching) {
        struct claim *c = LIST_ENTRY(e, struct claim, link);
        bool known = false;
        for (size_t i = 0; i < q->ids_n && !known; i++)
            known = uuid_eq(&q->ids[i], &c->c.tx);
        if (!known && q->ids_n < CONTENTS_MAX)
            q->ids[q->ids_n++] = c->c.tx;
    }
    if (q->ids_n == 0) {
        end_question(r, true);
        return;
    }
    int code = reader_contents(r->env->reader, q->ids, q->ids_n, (size_t)r->env->o.read_bytes, on_contents, q);
    if (code != 0) {
        give_back_all(r);
        end_question(r, false);
    }
}

/* --- claiming --- */

static int keep_claim(struct retry *r, const struct delivery_claim *row) {
    struct outlet *o = outlet_of(r, row->sub);
    struct claim *c = o ? mem_zalloc(sizeof(*c)) : NULL;

    if (!c)
        return o ? -ENOMEM : 0; /* its lease runs out */
    c->retry = r;
    c->c = *row;
    c->parcel = (struct parcel){
        .outlet = o, .tx = row->tx, .done = claim_done, .untried = claim_untried, .origin = c, .from_log = true};
    list_init(&c->parcel.d.link);
    c->parcel.d.n = (uint16_t)row->n;
    c->parcel.d.attempt = row->attempt + 1;
    if (r->kind == RETRY_REPLAY) {
        c->parcel.d.replay = &c->c.replay;
        o->replays++;
    } else {
        c->parcel.d.confirmed_us = row->since_us;
        o->claims++;
    }
    list_add_tail(&r->fetching, &c->link);
    return 0;
}

static void on_claimed(void *arg, int code, const struct delivery_claim *rows, size_t n) {
    struct question *q = arg;
    struct retry *r = q->retry;

    if (!r) {
        mem_free(q);
        return;
    }
    for (size_t i = 0; code == 0 && i < n; i++)
        code = keep_claim(r, &rows[i]);
    for (size_t i = 0; code == 0 && i < q->asks_n; i++) {
        struct outlet *o = outlet_of(r, q->asks[i].sub);
        bool any = false;
        for (size_t k = 0; k < n && !any; k++)
            any = rows[k].sub == q->asks[i].sub;
        if (o && !any && r->kind == RETRY_DUE)
            outlet_nothing_due(o);
    }
    if (code < 0 && list_empty(&r->fetching)) {
        end_question(r, false);
    } else if (r->env->draining) {
        give_back_all(r);
        end_question(r, false);
    } else if (list_empty(&r->fetching)) {
        end_question(r, false);
    } else {
        fetch(r);
    }
}

/* How many rows this outlet takes now. Its breaker open: one, and only when a probe may start. */
static int32_t slots_of(const struct outlet *o, enum retry_kind kind) {
    uint32_t claims = kind == RETRY_REPLAY ? o->replays : o->claims;

    const struct breaker *b = &o->breaker;
    uint32_t limit = MIN(MAX((uint32_t)o->conf->concurrency / 4, 1u), (uint32_t)SLOTS_MAX);

    if (!o->sink || o->busy || o->conf->paused || !breaker_allows(b, forward_now_ns(o->env)))
        return 0;
    if (b->open)
        return o->claims + o->replays == 0 ? 1 : 0;
    if (o->conf->rate) /* no more than go out within a second */
        limit = MIN(limit, MAX((uint32_t)(o->conf->rate / MAX(o->env->sharers, 1)), 1u));
    return claims < limit ? (int32_t)(limit - claims) : 0;
}

/* Round the outlets, beginning behind the last one asked for. */
static void fill_asks(struct retry *r, struct question *q) {
    struct outlet *last = outlet_of(r, r->last_asked);
    struct list *from = last ? &last->link : r->outlets, *e = from;

    do {
        e = e->next;
        if (e == r->outlets)
            continue;
        struct outlet *o = LIST_ENTRY(e, struct outlet, link);
        int32_t slots = slots_of(o, r->kind);
        if (slots == 0)
            continue;
        q->asks[q->asks_n++] = (struct delivery_ask){.sub = o->conf->id, .slots = slots};
        q->lease_ms = MAX(q->lease_ms, outlet_lease_ms(o));
        r->last_asked = o->conf->id;
    } while (e != from && q->asks_n < ASKS_MAX);
}

static int claim(struct retry *r, struct question *q) {
    return (r->kind == RETRY_REPLAY ? reader_claim_replays : reader_claim_deliveries)(
        r->env->reader, q->asks, q->asks_n, q->lease_ms, on_claimed, q);
}

static void on_timer(void *arg);

static void on_stepped(void *arg, int code, int64_t running, bool soon) {
    CLEANUP_FREE struct stepping *s = arg;
    struct retry *r = s->retry;

    if (!r)
        return;
    r->stepping = NULL;
    if (code < 0)
        return;
    if (running && !r->running)
        next_poll(r, true);
    r->running = running;
    if (soon) {
        r->stepped_ns = 0;
        next_poll(r, true);
    }
}

static void step(struct retry *r) {
    uint64_t now_ns = clock_mono_ns();

    if (r->stepping || (r->stepped_ns && now_ns - r->stepped_ns < STEP_MS * NS_PER_MS))
        return;
    struct stepping *s = mem_zalloc(sizeof(*s));
    r->stepped_ns = now_ns;
    if (!s)
        return;
    s->retry = r;
    if (reader_step_replay(r->env->reader, on_stepped, s) != 0)
        mem_free(s);
    else
        r->stepping = s;
}

static void on_timer(void *arg) {
    struct retry *r = arg;
    struct forward_env *env = r->env;

    next_poll(r, false);
    if (r->kind == RETRY_REPLAY && forward_may_start(env) && reader_ready(env->reader))
        step(r);
    if (r->kind == RETRY_REPLAY && !r->running)
        return;
    if (r->question || !forward_may_start(env) || !r->own || !lane_ready(r->own->lane) || !reader_ready(env->reader))
        return;
    struct question *q = mem_zalloc(sizeof(*q));
    if (!q)
        return;
    q->retry = r;
    q->asked_ns = clock_mono_ns();
    fill_asks(r, q);
    if (q->asks_n == 0 || claim(r, q) != 0) {
        mem_free(q);
        return;
    }
    r->question = q;
}

/* --- riding --- */

void retry_collect(struct retry *r, struct lane_batch *b) {
    while (!list_empty(&r->ended)) {
        struct claim *c = LIST_ENTRY(r->ended.next, struct claim, link);
        struct delivery_finish f = {
            .sub = c->c.sub,
            .tx = c->c.tx,
            .n = c->c.n,
            .token = c->c.token,
            .end = c->end,
            .due_in_ms = c->due_in_ms,
            .attempt = c->attempt,
            .error = c->parcel.d.error,
            .how = c->parcel.d.end,
            .told = c->told,
            .replay = c->c.replay,
        };
        int full = r->kind == RETRY_REPLAY ? lane_add_replay_finish(b, &f) : lane_add_delivery_finish(b, &f);
        if (full)
            return;
        list_del(&c->link);
        list_add_tail(&r->riding, &c->link);
    }
}

void retry_committed(struct retry *r, unsigned stale) {
    while (!list_empty(&r->riding))
        claim_free(LIST_ENTRY(r->riding.next, struct claim, link));
    if (stale)
        metric_add(r->env->stale, stale);
    if (!list_empty(&r->ended) && r->own)
        feed_kick(r->own, true);
}

void retry_lost(struct retry *r) {
    list_splice_head(&r->ended, &r->riding);
}

/* --- life --- */

int retry_new(struct forward_env *env, struct list *outlets, enum retry_kind kind, struct retry **ret) {
    struct retry *r = mem_zalloc(sizeof(*r));

    if (!r)
        return -ENOMEM;
    r->env = env;
    r->kind = kind;
    r->outlets = outlets;
    list_init(&r->fetching);
    list_init(&r->ended);
    list_init(&r->riding);
    int code = timer_new(env->loop, on_timer, r, &r->timer);
    if (code < 0) {
        mem_free(r);
        return code;
    }
    next_poll(r, false);
    *ret = r;
    return 0;
}

void retry_bind(struct retry *r, struct feed *own) {
    if (r->own && r->own != own) {
        retry_lost(r);
        r->own->retries[r->kind] = NULL;
    }
    r->own = own;
    if (own)
        own->retries[r->kind] = r;
    if (own && !list_empty(&r->ended))
        feed_kick(own, true);
}

bool retry_idle(const struct retry *r) {
    return !r->question;
}

static void free_all(struct list *l) {
    while (!list_empty(l))
        claim_free(LIST_ENTRY(l->next, struct claim, link));
}

void retry_free(struct retry *r) {
    if (!r)
        return;
    if (r->question)
        r->question->retry = NULL;
    if (r->stepping)
        r->stepping->retry = NULL;
    free_all(&r->fetching);
    free_all(&r->ended);
    free_all(&r->riding);
    timer_free(r->timer);
    mem_free(r);
}
