/*
 * The forwarder of one worker: who there is (lanes x subscriptions), and whose turn it is.
 *
 *     lane -> feed (tail, rider) --- cursor --- outlet (breaker, queue) -> sink
 *                                              retry -> outlet
 *
 * Nothing is started from inside a callback of the lane, the store or a sink: they mark an outlet, and one timer
 * serves all marked ones at the next turn of the loop, so that bursts are handed over together and no call comes back
 * into its caller.
 */
#include "forward/forward.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "forward/cursor.h"
#include "forward/feed.h"
#include "forward/lag.h"
#include "forward/outlet.h"
#include "forward/retry.h"

enum { TICK_MS = 1000, TRIM_EVERY_MS = 5, SERIES_MAX = 1000, RECORD_TICKS = 5 };

struct forward {
    struct forward_env env;
    struct topology *topology; /* NULL until the first one */
    struct list feeds, outlets;
    struct list dirty;  /* outlets to serve */
    struct timer *turn; /* armed when something is dirty, or someone waits for the end of a drain */
    struct timer *tick;
    unsigned ticks;
    struct retry *retries[RETRY_KINDS];
    uint32_t holders; /* of chunks */
    uint64_t trimmed_ms;
    void (*drained)(void *arg);
    void *drained_arg;
};

/* --- turns --- */

static void wake(void *arg, struct outlet *o) {
    struct forward *f = arg;

    if (o && list_empty(&o->dirty))
        list_add_tail(&f->dirty, &o->dirty);
    if (!timer_armed(f->turn))
        timer_arm(f->turn, 0);
}

static void serve(struct outlet *o) {
    struct list *first = o->cursors.next;

    outlet_serve_queue(o);
    LIST_FOR (e, &o->cursors)
        cursor_pump(LIST_ENTRY(e, struct sub_cursor, in_outlet));
    if (first != &o->cursors) { /* another lane is the first one next time */
        list_del(first);
        list_add_tail(&o->cursors, first);
    }
    outlet_flush(o);
}

static void trim(struct forward *f, bool now) {
    uint64_t now_ms = loop_now_ns(f->env.loop) / NS_PER_MS;

    if (!now && now_ms < f->trimmed_ms + TRIM_EVERY_MS)
        return;
    f->trimmed_ms = now_ms;
    LIST_FOR (e, &f->feeds)
        feed_trim(LIST_ENTRY(e, struct feed, link));
}

static void on_turn(void *arg) {
    struct forward *f = arg;
    struct list dirty = LIST_INIT(dirty), *e;

    list_splice_tail(&dirty, &f->dirty);
    while ((e = list_pop(&dirty)))
        serve(LIST_ENTRY(e, struct outlet, dirty));
    trim(f, false);
    bool idle = retry_idle(f->retries[RETRY_DUE]) && retry_idle(f->retries[RETRY_REPLAY]);
    if (f->drained && f->env.in_flight == 0 && idle) {
        void (*fn)(void *) = TAKE(f->drained);
        fn(f->drained_arg);
    }
}

static double oldest_seconds(const struct forward *f, const struct outlet *o) {
    int64_t oldest_us = 0, age_us;

    LIST_FOR (e, &o->cursors) {
        int64_t us = cursor_oldest_us(LIST_ENTRY(e, struct sub_cursor, in_outlet));
        if (us && (!oldest_us || us < oldest_us))
            oldest_us = us;
    }
    age_us = oldest_us ? store_now_us(f->env.store) - oldest_us : 0;
    return age_us > 0 ? (double)age_us / 1e6 : 0;
}

/* Numbers, and a second look at everything: what could not go on for want of memory has no other event. */
static void on_tick(void *arg) {
    struct forward *f = arg;

    timer_arm(f->tick, TICK_MS);
    LIST_FOR (e, &f->outlets) {
        struct outlet *o = LIST_ENTRY(e, struct outlet, link);
        if (o->lag)
            lag_set(o->lag, oldest_seconds(f, o));
        wake(f, o);
    }
    if (++f->ticks % RECORD_TICKS == 0)
        LIST_FOR (e, &f->feeds)
            feed_record(LIST_ENTRY(e, struct feed, link));
    trim(f, true);
}

/* --- subscriptions --- */

static struct outlet *find_outlet(const struct forward *f, int32_t id) {
    LIST_FOR (e, &f->outlets) {
        struct outlet *o = LIST_ENTRY(e, struct outlet, link);
        if (o->conf->id == id)
            return o;
    }
    return NULL;
}

static void drop_outlet(struct outlet *o) {
    while (!list_empty(&o->cursors)) {
        struct sub_cursor *c = LIST_ENTRY(o->cursors.next, struct sub_cursor, in_outlet);
        feed_remove(c->feed, c);
    }
    outlet_free(o);
}

static void add_outlet(struct forward *f, struct topology *t, const struct sub_conf *conf) {
    struct outlet *o;
    int r = outlet_new(&f->env, t, conf, &o);

    if (r < 0) {
        LOG_ERROR("forward", "subscription %s: %s", conf->name, err_text(r));
        return;
    }
    list_add_tail(&f->outlets, &o->link);
    LIST_FOR (e, &f->feeds) {
        struct feed *feed = LIST_ENTRY(e, struct feed, link);
        r = feed_add(feed, o, false);
        if (r < 0) { /* all lanes or none: the next snapshot tries again */
            LOG_ERROR("forward", "subscription %s: %s", conf->name, err_text(r));
            drop_outlet(o);
            return;
        }
    }
}

void forward_topology(struct forward *f, struct topology *t) {
    struct topology *old = f->topology;

    f->topology = topology_ref(t);
    f->env.topology = t;
    LIST_FOR_SAFE (e, &f->outlets) {
        struct outlet *o = LIST_ENTRY(e, struct outlet, link);
        const struct sub_conf *conf = topology_sub(t, o->conf->id);
        if (conf)
            outlet_update(o, t, conf);
        else
            drop_outlet(o);
    }
    for (int i = 0; i < t->subs_n; i++)
        if (!find_outlet(f, t->subs[i].id))
            add_outlet(f, t, &t->subs[i]);
    topology_unref(old);
    trim(f, true);
}

/* --- lanes --- */

static struct feed *find_feed(const struct forward *f, int32_t lane) {
    LIST_FOR (e, &f->feeds) {
        struct feed *feed = LIST_ENTRY(e, struct feed, link);
        if (feed->number == lane)
            return feed;
    }
    return NULL;
}

int forward_lane(struct forward *f, struct lane *lane, int32_t number, bool adopted) {
    struct feed *feed;
    int r = feed_new(&f->env, lane, number, adopted, &f->holders, &feed);

    if (r < 0)
        return r;
    list_add_tail(&f->feeds, &feed->link);
    LIST_FOR (e, &f->outlets) {
        r = feed_add(feed, LIST_ENTRY(e, struct outlet, link), !adopted);
        if (r < 0) {
            feed_free(feed);
            return r;
        }
    }
    for (int k = 0; k < RETRY_KINDS && !adopted; k++)
        retry_bind(f->retries[k], feed);
    return 0;
}

void forward_committed(struct forward *f, int32_t lane, int32_t seq, int64_t at_us, const struct lane_confirmed *conf,
                       uint32_t n) {
    struct feed *feed = find_feed(f, lane);

    if (feed)
        feed_committed(feed, seq, at_us, conf, n);
}

void forward_drop_lane(struct forward *f, int32_t lane) {
    struct feed *feed = find_feed(f, lane);

    if (!feed)
        return;
    for (int k = 0; k < RETRY_KINDS; k++)
        if (feed->retries[k])
            retry_bind(f->retries[k], NULL);
    feed_free(feed);
}

bool forward_lane_settled(const struct forward *f, int32_t lane) {
    const struct feed *feed = find_feed(f, lane);

    return f->topology && feed && feed_settled(feed);
}

bool forward_lane_parked(const struct forward *f, int32_t lane) {
    const struct feed *feed = find_feed(f, lane);

    return feed && feed_parked(feed);
}

/* --- the room --- */

void forward_allow(struct forward *f, bool allowed) {
    f->env.allowed = allowed;
    LIST_FOR (e, &f->outlets)
        wake(f, LIST_ENTRY(e, struct outlet, link));
}

void forward_sharers(struct forward *f, int workers) {
    f->env.sharers = workers;
}

void forward_telling_late(struct forward *f, bool late) {
    f->env.telling_late = late;
    LIST_FOR (e, &f->outlets)
        wake(f, LIST_ENTRY(e, struct outlet, link));
}

void forward_drain(struct forward *f, void (*fn)(void *arg), void *arg) {
    f->env.draining = true;
    f->drained = fn;
    f->drained_arg = arg;
    LIST_FOR (e, &f->outlets)
        outlet_release(LIST_ENTRY(e, struct outlet, link));
    wake(f, NULL);
}

static struct forward_options with_defaults(const struct forward_options *o) {
    struct forward_options r = o ? *o : (struct forward_options){0};

    r.tail_bytes = r.tail_bytes > 0 ? r.tail_bytes : 64 << 20;
    r.read_bytes = r.read_bytes > 0 ? r.read_bytes : 8 << 20;
    r.window = r.window > 0 ? MIN(r.window, (int)WINDOW_HARD_MAX) : 1024;
    r.retry_poll_ms = r.retry_poll_ms > 0 ? r.retry_poll_ms : 200;
    r.spill_limit = r.spill_limit > 0 ? r.spill_limit : 10000;
    return r;
}

static void take_metrics(struct forward_env *env) {
    struct metric_family *f;

    env->attempts =
        metric_family(METRIC_COUNTER, "txmsg_attempts_total", "subscription,result",
                      "Attempts to deliver: ok, retry (failed), reject (refused for good).", 3 * SERIES_MAX);
    env->seconds = metric_family(METRIC_HISTOGRAM, "txmsg_delivery_seconds", "subscription",
                                 "From the confirmation of a message to its delivery.", SERIES_MAX);
    f = metric_family(
        METRIC_COUNTER, "txmsg_possible_duplicates_total", "",
        "Deliveries that may arrive twice: their outcome is unknown, or their lane was lost before it was "
        "recorded.",
        1);
    env->duplicates = metric_get(f);
    f = metric_family(METRIC_COUNTER, "txmsg_delivered_from_total", "source",
                      "Deliveries by where their payload came from: memory or log.", 2);
    env->from_memory = metric_get(f, "memory");
    env->from_log = metric_get(f, "log");
    f = metric_family(METRIC_COUNTER, "txmsg_stale_deliveries_total", "",
                      "Ends of retried deliveries that met another token: somebody else had taken them over.", 1);
    env->stale = metric_get(f);
    f = metric_family(METRIC_COUNTER, "txmsg_replayed_total", "", "Messages delivered again by a replay.", 1);
    env->replayed = metric_get(f);
}

int forward_new(struct loop *l, struct store *s, struct reader *r, struct webclient *w, const struct forward_options *o,
                struct forward **ret) {
    struct forward *f = mem_zalloc(sizeof(*f));

    if (!f)
        return -ENOMEM;
    f->env = (struct forward_env){.loop = l, .store = s, .reader = r, .web = w, .o = with_defaults(o), .allowed = true};
    f->env.wake = wake;
    f->env.wake_arg = f;
    parcel_pool_init(&f->env.pool);
    list_init(&f->feeds);
    list_init(&f->outlets);
    list_init(&f->dirty);
    take_metrics(&f->env);
    int code = timer_new(l, on_turn, f, &f->turn);
    if (code == 0)
        code = timer_new(l, on_tick, f, &f->tick);
    for (int k = 0; k < RETRY_KINDS && code == 0; k++)
        code = retry_new(&f->env, &f->outlets, (enum retry_kind)k, &f->retries[k]);
    if (code < 0) {
        forward_free(f);
        return code;
    }
    timer_arm(f->tick, TICK_MS);
    *ret = f;
    return 0;
}

void forward_free(struct forward *f) {
    if (!f)
        return;
    f->env.draining = true;
    while (!list_empty(&f->feeds))
        forward_drop_lane(f, LIST_ENTRY(f->feeds.next, struct feed, link)->number);
    while (!list_empty(&f->outlets))
        drop_outlet(LIST_ENTRY(f->outlets.next, struct outlet, link));
    for (int k = 0; k < RETRY_KINDS; k++)
        retry_free(f->retries[k]);
    timer_free(f->turn);
    timer_free(f->tick);
    parcel_pool_deinit(&f->env.pool);
    topology_unref(f->topology);
    mem_free(f);
}
