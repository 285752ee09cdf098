/*
 * One subscription's way out.
 *
 * A parcel is with its origin (cursor or claim), in the queue, or at the sink. outlet_send() moves it to the sink; the
 * sink's `done` brings it back here, where breaker and metrics see it, and then to its origin. What a sink gives back
 * because it is replaced was not refused by anybody: it is queued for the new sink instead.
 *
 * Parked is an outlet whose breaker is open, or that has too many rows waiting for a retry (then only untried messages
 * wait). Its cursors then stand still; other outlets do not notice.
 */
#include "forward/outlet.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "forward/lag.h"

enum { SINK_AGAIN_MS = 10000 };

static void on_done(void *arg, struct delivery *d);

static void on_ready(void *arg) {
    struct outlet *o = arg;

    o->busy = false;
    o->env->wake(o->env->wake_arg, o);
}

/* --- the sink --- */

static void make_sink(struct outlet *o, struct topology *t, const struct sub_conf *conf) {
    struct forward_env *env = o->env;
    struct sink_env se = {.loop = env->loop,
                          .web = env->web,
                          .caller = env->o.caller,
                          .guard = env->o.guard,
                          .store = env->store,
                          .sub = conf};
    struct sink_owner owner = {.done = on_done, .ready = on_ready, .arg = o};
    struct errmsg e = ERRMSG_NULL;

    topology_ref(t); /* first: another try comes with the one that is held */
    topology_unref(o->sink_snapshot);
    o->sink_snapshot = t;
    o->busy = false;
    int r = sink_new(&se, &owner, &o->sink, &e);
    if (r < 0) {
        o->sink = NULL;
        LOG_ERROR("forward", "subscription %s: no sink: %s", conf->name, e.text[0] ? e.text : err_text(r));
        timer_arm(o->timer, SINK_AGAIN_MS);
    }
}

static void close_sink(struct outlet *o) {
    struct sink *s = TAKE(o->sink);

    if (s)
        sink_close(s);
    ASSERT(o->in_flight == 0);
}

static void on_timer(void *arg) {
    struct outlet *o = arg;

    if (!o->sink)
        make_sink(o, o->sink_snapshot, topology_sub(o->sink_snapshot, o->conf->id));
    o->env->wake(o->env->wake_arg, o);
}

/* --- life --- */

static void take_metrics(struct outlet *o) {
    const char *name = o->conf->name;

    o->ok = metric_get(o->env->attempts, name, "ok");
    o->retry = metric_get(o->env->attempts, name, "retry");
    o->reject = metric_get(o->env->attempts, name, "reject");
    o->seconds = metric_get(o->env->seconds, name);
    o->lag = lag_new(name);
}

int outlet_new(struct forward_env *env, struct topology *t, const struct sub_conf *conf, struct outlet **ret) {
    struct outlet *o = mem_zalloc(sizeof(*o));

    if (!o)
        return -ENOMEM;
    o->env = env;
    o->conf = conf;
    list_init(&o->link);
    list_init(&o->dirty);
    list_init(&o->cursors);
    list_init(&o->queue);
    int r = timer_new(env->loop, on_timer, o, &o->timer);
    if (r < 0) {
        mem_free(o);
        return r;
    }
    take_metrics(o);
    make_sink(o, t, conf);
    *ret = o;
    return 0;
}

void outlet_update(struct outlet *o, struct topology *t, const struct sub_conf *conf) {
    const struct sub_conf *old = topology_sub(o->sink_snapshot, conf->id);

    if (o->conf->paused != conf->paused)
        LOG_INFO("forward", "subscription %s: %s", conf->name, conf->paused ? "paused" : "resumed");
    o->conf = conf;
    if (conf->paused) {
        outlet_release(o);
        o->env->wake(o->env->wake_arg, o);
    }
    if (strcmp(old->sink.text, conf->sink.text) == 0)
        return;
    LOG_INFO("forward", "subscription %s: its sink changed", conf->name);
    o->replacing = true;
    close_sink(o);
    o->replacing = false;
    o->breaker = (struct breaker){.failures = 0};
    make_sink(o, t, conf);
    o->env->wake(o->env->wake_arg, o);
}

void outlet_free(struct outlet *o) {
    if (!o)
        return;
    close_sink(o);
    outlet_release(o);
    ASSERT(list_empty(&o->queue) && list_empty(&o->cursors));
    timer_free(o->timer);
    lag_free(o->lag);
    list_del(&o->link);
    list_del(&o->dirty);
    topology_unref(o->sink_snapshot);
    mem_free(o);
}

/* --- sending --- */

int64_t outlet_lease_ms(const struct outlet *o) {
    const struct sink_conf *s = &o->conf->sink;
    int64_t timeout_ms = s->kind == SINK_HTTP       ? s->http.timeout_ms
                         : s->kind == SINK_RABBITMQ ? s->rabbitmq.timeout_ms
                         : s->kind == SINK_GRPC     ? s->grpc.timeout_ms
                                                    : 0;

    return 2 * timeout_ms + RETRY_LEASE_EXTRA_MS;
}

static double share(const struct outlet *o) {
    return (double)o->conf->rate / MAX(o->env->sharers, 1);
}

/* In time for the next token, unless the timer comes earlier. */
static bool rate_or_wait(struct outlet *o) {
    if (rate_allows(&o->rate, share(o), forward_now_ns(o->env)))
        return true;
    if (!timer_armed(o->timer))
        timer_arm(o->timer, rate_wait_ms(&o->rate, share(o)));
    return false;
}

bool outlet_may_start(struct outlet *o) {
    return o->sink && !o->busy && !o->conf->paused && o->in_flight < (uint32_t)o->conf->concurrency &&
           forward_may_start(o->env) && breaker_allows(&o->breaker, forward_now_ns(o->env)) && rate_or_wait(o);
}

bool outlet_may_start_new(struct outlet *o) {
    return o->queued == 0 && o->rows < o->env->o.spill_limit && outlet_may_start(o);
}

bool outlet_parked(const struct outlet *o) {
    return o->breaker.open || o->conf->paused || o->rows >= o->env->o.spill_limit;
}

int outlet_send(struct outlet *o, struct parcel *p) {
    attempt_end_reset(&p->d.end);
    p->d.started_ns = forward_now_ns(o->env);
    int r = sink_deliver(o->sink, &p->d);

    if (r != SINK_TAKEN) {
        o->busy = true;
        return r;
    }
    rate_take(&o->rate, share(o));
    p->probe = breaker_started(&o->breaker);
    o->in_flight++;
    o->env->in_flight++;
    o->sent = true;
    return SINK_TAKEN;
}

void outlet_flush(struct outlet *o) {
    if (o->sent && o->sink)
        sink_flush(o->sink);
    o->sent = false;
}

static void queue_add(struct outlet *o, struct parcel *p) {
    list_add_tail(&o->queue, &p->d.link);
    p->queued = true;
    o->queued++;
}

static struct parcel *queue_entry(struct list *e) {
    return CONTAINER_OF(LIST_ENTRY(e, struct delivery, link), struct parcel, d);
}

static void queue_del(struct outlet *o, struct parcel *p) {
    list_del(&p->d.link);
    p->queued = false;
    o->queued--;
}

void outlet_enqueue(struct outlet *o, struct parcel *p) {
    queue_add(o, p);
    o->env->wake(o->env->wake_arg, o);
}

void outlet_serve_queue(struct outlet *o) {
    while (!list_empty(&o->queue)) {
        struct parcel *p = queue_entry(o->queue.next);
        if (p->start_by_ns && forward_now_ns(o->env) > p->start_by_ns && p->untried) {
            queue_del(o, p);
            p->untried(p);
            continue;
        }
        if (!outlet_may_start(o))
            return;
        queue_del(o, p);
        if (outlet_send(o, p) != SINK_TAKEN) {
            list_add_head(&o->queue, &p->d.link);
            p->queued = true;
            o->queued++;
            return;
        }
    }
}

void outlet_release(struct outlet *o) {
    LIST_FOR_SAFE (e, &o->queue) {
        struct parcel *p = queue_entry(e);
        if (p->untried) {
            queue_del(o, p);
            p->untried(p);
        }
    }
}

static void orphan_done(struct parcel *p) {
    parcel_put(&p->outlet->env->pool, p);
}

void outlet_orphan(struct outlet *o, struct parcel *p) {
    if (p->queued) {
        queue_del(o, p);
        parcel_put(&o->env->pool, p);
        return;
    }
    p->origin = NULL;
    p->done = orphan_done;
}

/* --- coming back --- */

static void count(struct outlet *o, const struct parcel *p) {
    const struct delivery *d = &p->d;
    metric_add(d->verdict == SINK_OK ? o->ok : d->verdict == SINK_RETRY ? o->retry : o->reject, 1);
    if (d->verdict == SINK_RETRY && d->unknown && p->origin) /* an orphan was counted when it became one */
        metric_add(o->env->duplicates, 1);
    if (d->verdict == SINK_OK && d->confirmed_us) {
        int64_t us = store_now_us(o->env->store) - d->confirmed_us;
        metric_observe(o->seconds, us > 0 ? (double)us / 1e6 : 0);
    }
}

/* A refusal for good is an answer too: the other side works. */
static void judge(struct outlet *o, const struct parcel *p) {
    uint64_t now_ns = forward_now_ns(o->env);

    if (p->d.verdict != SINK_RETRY) {
        if (breaker_success(&o->breaker))
            LOG_INFO("forward", "subscription %s: delivers again", o->conf->name);
        return;
    }
    if (breaker_failure(&o->breaker, &o->conf->breaker, p->probe, now_ns))
        LOG_WARN("forward", "subscription %s: parked after %d failures in a row: %s", o->conf->name,
                 o->conf->breaker.failures, p->d.error);
    if (o->breaker.open && !o->breaker.probing && o->breaker.probe_at_ns > now_ns)
        timer_arm(o->timer, (o->breaker.probe_at_ns - now_ns) / NS_PER_MS + 1);
}

static void on_done(void *arg, struct delivery *d) {
    struct outlet *o = arg;
    struct parcel *p = CONTAINER_OF(d, struct parcel, d);

    ASSERT(o->in_flight > 0 && o->env->in_flight > 0);
    d->end.latency_ms = (int32_t)MIN((forward_now_ns(o->env) - d->started_ns) / NS_PER_MS, (uint64_t)INT32_MAX);
    o->in_flight--;
    o->env->in_flight--;
    o->env->wake(o->env->wake_arg, o);
    if (o->replacing && d->verdict == SINK_RETRY && p->origin) {
        if (d->unknown) {
            metric_add(o->env->duplicates, 1);
            d->attempt++;
            d->again = true;
        }
        queue_add(o, p);
        return;
    }
    count(o, p);
    judge(o, p);
    p->done(p);
}

/* --- rows --- */

void outlet_rows(struct outlet *o, int by, int64_t due_in_ms) {
    int64_t due_ms = (int64_t)(forward_now_ns(o->env) / NS_PER_MS) + due_in_ms;

    o->rows = MAX(o->rows + by, -(int64_t)o->env->o.spill_limit);
    if (by > 0)
        o->rows_due_ms = MAX(o->rows_due_ms, due_ms);
}

/*
 * Any worker may finish our rows, and we theirs, so `rows` drifts. But when everything that we know of has come due,
 * and more than a lease has passed, and nothing is due, then no row of ours is left.
 */
void outlet_nothing_due(struct outlet *o) {
    int64_t now_ms = (int64_t)(forward_now_ns(o->env) / NS_PER_MS);

    if (o->rows != 0 && o->claims == 0 && now_ms > o->rows_due_ms + outlet_lease_ms(o)) {
        o->rows = 0;
        o->env->wake(o->env->wake_arg, o);
    }
}
