/*
 * Start: run registers -> lane opens -> checks, deliveries and operations begin.
 * Stop:  deliveries drain -> the lane commits and seals -> the run retires -> everything is freed -> the loop ends.
 * A fenced lane is forgotten by everybody and `opened` comes again with a new one.
 */
#include "txmsgd/worker.h"

#include "admin/alert.h"

#include "base/clock.h"
#include "base/log.h"
#include "checkback/checkback.h"
#include "forward/forward.h"
#include "forward/reach.h"
#include "store/gauges.h"
#include "store/outbox.h"
#include "store/run.h"
#include "webclient/webclient.h"

enum { LOOK_MS = 200, DRAIN_STEP_MS = 10000 };

struct adopted {
    struct list link;
    struct worker *worker;
    struct lane *lane;
    int32_t number;
    uint64_t since_ns;
    bool draining, gone; /* gone: fenced; freed at the next look */
};

struct worker {
    const struct config *conf;
    struct store *store;
    struct message_service *messages;
    struct admin_service *admin;
    struct loop *loop;
    struct reader *reader;
    struct webclient *web;
    struct message_worker *message;
    struct run *run;
    struct lane *lane;
    struct forward *forward;
    struct checkback *check;
    struct worker_peers peers;
    struct guard guard;
    struct gauges *gauges;   /* of the first worker */
    struct alerter *alerter; /* likewise */
    struct reach *reach;     /* likewise */
    struct outbox *outbox;
    struct timer *look, *limit;
    struct list adopted;
    struct topology *topology;
    int64_t epoch;
    int closing; /* 0 no, then the step */
    _Atomic bool ready;
};

/* --- own lane --- */

static void on_opened(void *arg, int32_t number) {
    struct worker *w = arg;
    int r = forward_lane(w->forward, w->lane, number, false);
    if (r == 0)
        r = checkback_lane(w->check, w->lane, number, false);
    if (r < 0)
        LOG_ERROR("txmsgd", "lane %d: %s", number, err_text(r));
    message_worker_lane(w->message, w->lane);
    if (w->admin)
        admin_service_lane(w->admin, w->lane);
    if (w->outbox)
        outbox_lane(w->outbox, w->lane);
}

static void on_committed(void *arg, int32_t lane, int32_t seq, int64_t at_us, const struct lane_confirmed *conf,
                         uint32_t n) {
    struct worker *w = arg;
    forward_committed(w->forward, lane, seq, at_us, conf, n);
}

static void forget_lane(struct worker *w, int32_t number) {
    forward_drop_lane(w->forward, number);
    checkback_drop_lane(w->check, number);
}

static void on_fenced(void *arg, int32_t number) {
    forget_lane(arg, number);
}

static void on_telling_late(void *arg, bool late) {
    struct worker *w = arg;
    LOG_WARN("txmsgd", "messages of the service itself are published %s",
             late ? "late: deliveries that producers are told of wait" : "in time again");
    forward_telling_late(w->forward, late);
}

/* --- adopted lanes --- */

static void adopted_free(struct adopted *a) {
    forget_lane(a->worker, a->number);
    list_del(&a->link);
    lane_free(a->lane);
    mem_free(a);
}

static void on_adopted_fenced(void *arg, int32_t number) {
    struct adopted *a = arg;
    UNUSED(number);
    a->gone = true; /* inside a callback of the lane: the next look frees it */
}

/* Entries behind the seal: cursors are written again every so many of them. */
static void on_adopted_committed(void *arg, int32_t lane, int32_t seq, int64_t at_us, const struct lane_confirmed *conf,
                                 uint32_t n) {
    struct adopted *a = arg;
    forward_committed(a->worker->forward, lane, seq, at_us, conf, n);
}

static void on_adopted(void *arg, int32_t number, int32_t next_seq) {
    struct worker *w = arg;
    struct adopted *a = mem_zalloc(sizeof(*a));
    if (!a || w->closing) {
        mem_free(a);
        run_dropped(w->run, number);
        return;
    }
    *a = (struct adopted){.worker = w, .number = number, .since_ns = loop_now_ns(w->loop)};
    list_add_tail(&w->adopted, &a->link);
    const struct lane_owner owner = {.committed = on_adopted_committed, .fenced = on_adopted_fenced, .arg = a};
    static const struct uuid none;
    int r = lane_adopt(w->loop, w->store, &none, number, next_seq, &owner, &a->lane);
    if (r == 0)
        r = forward_lane(w->forward, a->lane, number, true);
    if (r == 0)
        r = checkback_lane(w->check, a->lane, number, true);
    if (r < 0) {
        LOG_ERROR("txmsgd", "cannot adopt lane %d: %s", number, err_text(r));
        adopted_free(a);
        run_dropped(w->run, number);
    } else {
        LOG_INFO("txmsgd", "lane %d adopted at seq %d", number, next_seq);
    }
}

struct draining {
    struct worker *worker;
    int32_t number;
};

static struct adopted *adopted_of(struct worker *w, int32_t number) {
    LIST_FOR (e, &w->adopted) {
        struct adopted *a = LIST_ENTRY(e, struct adopted, link);
        if (a->number == number)
            return a;
    }
    return NULL;
}

static void on_drained(void *arg, int code) {
    struct draining *d = arg;
    struct adopted *a = adopted_of(d->worker, d->number);
    mem_free(d);
    if (!a)
        return;
    a->draining = false;
    if (code == 0)
        LOG_INFO("txmsgd", "lane %d drained", a->number);
    if (code == 0 || code == 2)
        adopted_free(a);
}

static void look_at_adopted(struct worker *w, struct adopted *a) {
    if (a->gone) {
        int32_t number = a->number;
        adopted_free(a);
        run_dropped(w->run, number);
        return;
    }
    if (a->draining || !forward_lane_settled(w->forward, a->number) || !checkback_lane_settled(w->check, a->number))
        return;
    struct draining *d = mem_alloc(sizeof(*d));
    if (!d)
        return;
    *d = (struct draining){w, a->number};
    a->draining = true;
    if (run_drain(w->run, a->number, w->epoch, on_drained, d) < 0) {
        a->draining = false;
        mem_free(d);
    }
}

/*
 * One dead consumer keeps every lane open that has something for it. When others wait for a place, the lane that was here longest and
 * has nothing but that left goes, to come again when its turn comes: so no subscription waits for another one's sink.
 */
static void make_room(struct worker *w) {
    struct adopted *oldest = NULL;
    uint64_t now = loop_now_ns(w->loop), stay_ns = (uint64_t)w->conf->dead_after_ms * NS_PER_MS;
    if (!run_crowded(w->run))
        return;
    LIST_FOR (e, &w->adopted) {
        struct adopted *a = LIST_ENTRY(e, struct adopted, link);
        if (!a->gone && !a->draining && now - a->since_ns > stay_ns && (!oldest || a->since_ns < oldest->since_ns) &&
            forward_lane_parked(w->forward, a->number))
            oldest = a;
    }
    if (!oldest)
        return;
    int32_t number = oldest->number;
    LOG_INFO("txmsgd", "lane %d waits for a parked subscription and makes room for others", number);
    adopted_free(oldest);
    run_dropped(w->run, number);
}

static void on_look(void *arg) {
    struct worker *w = arg;
    atomic_store(&w->ready, w->lane && lane_ready(w->lane) && reader_ready(w->reader) && !w->closing);
    forward_sharers(w->forward, run_live(w->run));
    if (w->check)
        checkback_sharers(w->check, run_live(w->run));
    if (!w->closing)
        LIST_FOR_SAFE (e, &w->adopted)
            look_at_adopted(w, LIST_ENTRY(e, struct adopted, link));
    if (!w->closing)
        make_room(w);
    timer_arm(w->look, LOOK_MS);
}

/* --- run --- */

static void on_registered(void *arg, const struct uuid *run) {
    struct worker *w = arg;
    const struct lane_owner owner = {.opened = on_opened, .committed = on_committed, .fenced = on_fenced, .arg = w};
    struct limits limits;
    config_limits(w->conf, &limits);
    const struct checkback_options o = {.poll_ms = w->conf->check_poll_ms,
                                        .find_poll_ms = w->conf->check_find_poll_ms,
                                        .in_flight = (int)w->conf->check_in_flight,
                                        .desk = w->peers.desk,
                                        .caller = w->peers.caller,
                                        .limits = &limits};
    if (w->closing || w->lane)
        return;
    int r = lane_new(w->loop, w->store, run, &owner, &w->lane);
    if (r == 0)
        r = checkback_new(w->loop, w->store, w->reader, w->web, w->lane, &o, &w->check);
    if (r < 0) {
        LOG_ERROR("txmsgd", "cannot start a worker: %s", err_text(r));
        abort();
    }
    if (w->topology)
        checkback_topology(w->check, w->topology);
}

static void on_alive(void *arg, bool alive) {
    struct worker *w = arg;
    if (!alive)
        LOG_WARN("txmsgd", "no heartbeat got through: nothing is committed or dispatched until one does");
    if (w->lane)
        lane_allow(w->lane, alive);
    LIST_FOR (e, &w->adopted)
        lane_allow(LIST_ENTRY(e, struct adopted, link)->lane, alive);
    forward_allow(w->forward, alive);
    if (w->check)
        checkback_allow(w->check, alive);
}

/* --- configuration --- */

struct new_topology {
    struct worker *worker;
    struct topology *topology;
};

static void apply_topology(void *arg) {
    struct new_topology *n = arg;
    struct worker *w = n->worker;
    if (w->closing < 2) {
        topology_unref(w->topology);
        w->topology = topology_ref(n->topology);
        w->epoch = n->topology->epoch;
        forward_topology(w->forward, n->topology);
        if (w->check)
            checkback_topology(w->check, n->topology);
        run_applied_epoch(w->run, w->epoch);
    }
    topology_unref(n->topology);
    mem_free(n);
}

void worker_topology(struct worker *w, struct topology *t) {
    struct new_topology *n = mem_alloc(sizeof(*n));
    if (!n)
        return;
    *n = (struct new_topology){w, topology_ref(t)};
    if (loop_post(w->loop, apply_topology, n) < 0) {
        topology_unref(n->topology);
        mem_free(n);
    }
}

bool worker_ready(const struct worker *w) {
    return atomic_load(&w->ready);
}

/* --- life --- */

static int on_reach(void *arg, const char *url, const char *exchange, int64_t timeout_ms,
                    void (*done)(void *arg, const char *error), void *done_arg) {
    return reach_start(arg, url, exchange, timeout_ms, done, done_arg);
}

int worker_new(const struct config *c, struct store *s, struct message_service *messages, struct admin_service *admin,
               const struct worker_peers *peers, int index, struct worker **ret) {
    struct worker *w = mem_must(mem_zalloc(sizeof(*w)));
    *w = (struct worker){.conf = c, .store = s, .messages = messages, .admin = admin, .peers = *peers};
    list_init(&w->adopted);
    char name[16];
    snprintf(name, sizeof(name), "worker-%d", index);
    struct webclient_options web = {
        .max_in_flight = (int)c->web_in_flight, .max_idle = (int)c->web_idle, .response_bytes = c->web_response};
    config_guard(c, &w->guard);
    web.guard = w->guard;
    const struct forward_options fwd = {.tail_bytes = c->forward_tail,
                                        .read_bytes = c->forward_read,
                                        .window = (int)c->forward_window,
                                        .retry_poll_ms = c->forward_retry_poll_ms,
                                        .spill_limit = (int)c->forward_spill_limit,
                                        .caller = peers->deliverer,
                                        .guard = &w->guard};
    const struct run_owner owner = {.registered = on_registered, .alive = on_alive, .adopted = on_adopted, .arg = w};
    int r = loop_new(name, &w->loop);
    if (r == 0)
        r = reader_new(w->loop, s, &w->reader);
    if (r == 0)
        r = webclient_new(w->loop, &web, &w->web);
    if (r == 0)
        r = forward_new(w->loop, s, w->reader, w->web, &fwd, &w->forward);
    if (r == 0)
        r = message_worker_new(messages, index, w->loop, w->reader, &w->message);
    if (r == 0 && admin)
        r = admin_service_attach(admin, w->loop, w->reader);
    if (r == 0 && admin)
        r = reach_new(w->loop, w->web, peers->deliverer, &w->guard, &w->reach);
    if (r == 0 && admin)
        admin_service_reach(admin, on_reach, w->reach);
    if (r == 0 && index == 0)
        r = gauges_new(w->loop, reader_people(w->reader), &w->gauges);
    if (r == 0)
        r = outbox_new(w->loop, reader_people(w->reader), on_telling_late, w, &w->outbox);
    const struct alert_options alerts = {c->alert_url, c->alert_secret, c->alert_digest_ms, c->alert_poll_ms};
    if (r == 0 && index == 0)
        r = alerter_new(w->loop, reader_people(w->reader), w->web, s, &alerts, &w->alerter);
    if (r == 0)
        r = run_new(w->loop, s, (int)c->adopted_max, &owner, &w->run);
    if (r == 0)
        r = timer_new(w->loop, on_look, w, &w->look);
    if (r == 0)
        timer_arm(w->look, LOOK_MS);
    *ret = w;
    return r;
}

int worker_start(struct worker *w) {
    return loop_start(w->loop);
}

enum { CLOSE_DRAIN = 1, CLOSE_LANE, CLOSE_RUN, CLOSE_END };
static void close_step(struct worker *w, int step);

static void end(struct worker *w) {
    timer_free(w->limit);
    timer_free(w->look);
    message_worker_lane(w->message, NULL);
    checkback_free(w->check);
    LIST_FOR_SAFE (e, &w->adopted) {
        struct adopted *a = LIST_ENTRY(e, struct adopted, link);
        forward_drop_lane(w->forward, a->number);
        list_del(&a->link);
        lane_free(a->lane);
        mem_free(a);
    }
    forward_free(w->forward);
    outbox_free(w->outbox);
    alerter_free(w->alerter);
    lane_free(w->lane);
    reach_free(w->reach);
    if (w->admin)
        admin_service_detach(w->admin);
    message_worker_free(w->message);
    run_free(w->run);
    gauges_free(w->gauges);
    reader_free(w->reader);
    webclient_free(w->web);
    topology_unref(w->topology);
    loop_stop(w->loop);
}

/* Goes on once: a step that ends after its time was over is not counted again. */
static void step_over(struct worker *w, int step) {
    if (w->closing == step)
        close_step(w, step + 1);
}
static void drained(void *arg) {
    step_over(arg, CLOSE_DRAIN);
}
static void lane_closed(void *arg) {
    step_over(arg, CLOSE_LANE);
}
static void run_retired(void *arg) {
    step_over(arg, CLOSE_RUN);
}

/* Every step is bounded: what does not end in time is left to whoever adopts the lane. */
static void step_late(void *arg) {
    struct worker *w = arg;
    LOG_WARN("txmsgd", "closing: step %d took too long, going on", w->closing);
    step_over(w, w->closing);
}

static void close_now(void *arg) {
    end(arg);
}

static void close_step(struct worker *w, int step) {
    w->closing = step;
    timer_arm(w->limit, DRAIN_STEP_MS);
    switch (step) {
    case CLOSE_DRAIN:
        message_worker_close(w->message);
        forward_drain(w->forward, drained, w);
        break;
    case CLOSE_LANE:
        if (w->lane)
            lane_close(w->lane, lane_closed, w);
        else
            step_over(w, CLOSE_LANE);
        break;
    case CLOSE_RUN:
        run_retire(w->run, run_retired, w);
        break;
    default: /* not from inside a callback of what is freed */
        timer_stop(w->limit);
        if (loop_post(w->loop, close_now, w) < 0)
            abort();
    }
}

static void close_begin(void *arg) {
    struct worker *w = arg;
    atomic_store(&w->ready, false);
    int r = timer_new(w->loop, step_late, w, &w->limit);
    if (r < 0)
        abort();
    close_step(w, CLOSE_DRAIN);
}

void worker_close(struct worker *w) {
    if (loop_post(w->loop, close_begin, w) < 0)
        abort();
}

void worker_join(struct worker *w) {
    loop_join(w->loop);
}

void worker_free(struct worker *w) {
    loop_free(w->loop);
    mem_free(w);
}
