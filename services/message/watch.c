/*
 * Watch: a stream that tells what becomes of one transaction, until nothing more can.
 *
 * Nobody is told when something happens to a transaction: that would cost every transaction something, and it may happen at another
 * replica. So those that are watched are looked at, as GetTransaction does: one at a time, each at most five times a second, in turn, and
 * one look serves all who watch the same. What has changed for a watch becomes events, which its rpc thread sends; while some are not
 * sent yet it is left out, so that a slow reader has one set of events at most and then gets the newest.
 *
 *     rpc thread    opened, message -> registered     signalled, sendable -> an event, or the end     closed -> gone
 *     first worker  tick -> look -> note -> signal
 *
 * A watch is in the registry from its message to `closed`, so under the lock its stream may be signalled.
 */
#include "message/message_private.h"

#include "base/clock.h"

enum { TICK_MS = 50, LOOK_MS = 200, LOOKS = 10, EVENTS_BYTES_MAX = 16 << 20 };

struct event {
    struct list link;
    size_t n;
    uint8_t bytes[]; /* a WatchResponse */
};

/* What a watch was told about a delivery. */
struct told {
    int16_t n;
    int32_t sub;
    enum delivery_state state;
    int32_t attempts;
};

/* A transaction that somebody watches. @locks lock */
struct watched {
    struct hnode by_id;
    struct list turn; /* of watches->turns, the next first */
    struct uuid id;
    struct list all; /* struct watch */
    uint64_t next_ns;
};

struct watch {
    struct list link; /* of watched->all */
    struct watched *of;
    struct rpc_stream *stream;
    char id[UUID_TEXT];
    struct list events;
    bool over; /* after the events: `err`, or OK */
    struct rpc_error err;
    enum tx_state state; /* told; 0 = nothing yet */
    struct told *told;
    size_t told_n;
};

struct watches {
    struct message_service *service;
    pthread_mutex_t lock;
    struct hmap by_id; /* @locks lock */
    struct list turns; /* @locks lock */
    /* @thread of the first worker's loop */
    struct reader *reader;
    struct timer *timer;
    struct arena arena;
    struct uuid looked; /* at whom; it may be gone when the answer comes */
    bool looking;
    int looks; /* of this tick */
};

static struct watched *find(struct watches *ws, const struct uuid *id) {
    for (struct hnode *h = hmap_first(&ws->by_id, uuid_hash(id)); h; h = hmap_next(h, uuid_hash(id)))
        if (uuid_cmp(&CONTAINER_OF(h, struct watched, by_id)->id, id) == 0)
            return CONTAINER_OF(h, struct watched, by_id);
    return NULL;
}

/* --- what is to be told. @locks lock --- */

static void end_watch(struct watch *w, int code, const char *reason, const char *message) {
    w->over = true;
    w->err = (struct rpc_error){.code = code,
                                .reason = reason,
                                .message = message,
                                .meta = {"transaction_id", w->id},
                                .retry_after_ms = code == RPC_UNAVAILABLE || code == RPC_RESOURCE_EXHAUSTED ? 200 : 0};
}

static int put_event(struct watches *ws, struct watch *w, Txmsg__V1__WatchResponse *r) {
    if (!codec_timestamp(&ws->arena, store_now_us(ws->service->store), &r->event_time))
        return -ENOMEM;
    size_t n = protobuf_c_message_get_packed_size(&r->base);
    struct event *e = mem_alloc(sizeof(*e) + n);
    if (!e)
        return -ENOMEM;
    e->n = protobuf_c_message_pack(&r->base, e->bytes);
    list_init(&e->link);
    list_add_tail(&w->events, &e->link);
    return 0;
}

static int put_status(struct watches *ws, struct watch *w, const struct view_tx *t) {
    Txmsg__V1__WatchResponse r = TXMSG__V1__WATCH_RESPONSE__INIT;
    r.event_case = TXMSG__V1__WATCH_RESPONSE__EVENT_STATUS;
    r.status = codec_status(&ws->arena, &t->id, t->state, t->origin, t->prepare_us, t->decision_us);
    w->state = t->state;
    return r.status ? put_event(ws, w, &r) : -ENOMEM;
}

static int put_delivery(struct watches *ws, struct watch *w, const struct view_delivery *d) {
    Txmsg__V1__WatchResponse r = TXMSG__V1__WATCH_RESPONSE__INIT;
    Txmsg__V1__DeliveryEvent event = TXMSG__V1__DELIVERY_EVENT__INIT;
    event.n = (uint32_t)d->n;
    event.delivery = codec_delivery(&ws->arena, d);
    r.event_case = TXMSG__V1__WATCH_RESPONSE__EVENT_DELIVERY;
    r.delivery = &event;
    return event.delivery ? put_event(ws, w, &r) : -ENOMEM;
}

/* They come in the same order each time, so it is mostly where it was. */
static bool was_told(const struct watch *w, size_t at, const struct view_delivery *d) {
    for (size_t i = 0; i < w->told_n; i++) {
        const struct told *o = &w->told[(at + i) % w->told_n];
        if (o->n == d->n && o->sub == d->sub)
            return o->state == d->state && o->attempts == d->attempts;
    }
    return false;
}

static bool ended(enum delivery_state s) {
    return s == DELIVERY_STATE_DELIVERED || s == DELIVERY_STATE_DEAD || s == DELIVERY_STATE_DISCARDED;
}

static int put_deliveries(struct watches *ws, struct watch *w, const struct view_tx *t, bool *ret_ended) {
    struct told *told = mem_calloc(t->deliveries_n + 1, sizeof(*told));
    int r = told ? 0 : -ENOMEM;
    *ret_ended = true;
    for (size_t i = 0; r == 0 && i < t->deliveries_n; i++) {
        const struct view_delivery *d = &t->deliveries[i];
        *ret_ended = *ret_ended && ended(d->state);
        told[i] = (struct told){d->n, d->sub, d->state, d->attempts};
        if (!was_told(w, i, d))
            r = put_delivery(ws, w, d);
    }
    if (r < 0) {
        mem_free(told);
        return r;
    }
    mem_free(w->told);
    w->told = told;
    w->told_n = t->deliveries_n;
    return 0;
}

static void note(struct watches *ws, struct watch *w, const struct view_tx *t) {
    bool last = t->state == TX_CANCELLED;
    int r = 0;
    if (w->over || !list_empty(&w->events))
        return;
    if (w->state != t->state)
        r = put_status(ws, w, t);
    if (r == 0 && t->state == TX_CONFIRMED)
        r = put_deliveries(ws, w, t, &last);
    arena_reset(&ws->arena);
    if (r < 0)
        end_watch(w, RPC_RESOURCE_EXHAUSTED, "OVERLOADED", "out of memory for the events: watch again");
    else
        w->over = last;
    if (w->over || !list_empty(&w->events))
        rpc_stream_signal(w->stream);
}

/* --- looking. @thread of the first worker's loop --- */

static void look(struct watches *ws);

/* Whose look has ended goes behind the others. */
static struct watched *looked_at(struct watches *ws) {
    struct watched *x = find(ws, &ws->looked);
    if (!x)
        return NULL;
    list_del(&x->turn);
    list_add_tail(&ws->turns, &x->turn);
    x->next_ns = clock_mono_ns() + LOOK_MS * NS_PER_MS;
    return x;
}

static void end_all(struct watches *ws, bool untold_only, int code, const char *reason, const char *message) {
    pthread_mutex_lock(&ws->lock);
    struct watched *x = looked_at(ws);
    bool any = false;
    if (x)
        LIST_FOR (l, &x->all) {
            struct watch *w = LIST_ENTRY(l, struct watch, link);
            if (w->over || (untold_only && w->state))
                continue;
            any = true;
            end_watch(w, code, reason, message);
            rpc_stream_signal(w->stream);
        }
    pthread_mutex_unlock(&ws->lock);
    if (any)
        rpc_wake(ws->service->rpc);
}

/* Who has been told something already waits for better times. */
static void unavailable(struct watches *ws) {
    end_all(ws, true, RPC_UNAVAILABLE, "STORE_UNAVAILABLE", "the store is away or busy");
}

static void on_past(void *arg, int code, bool past) {
    struct watches *ws = arg;
    ws->looking = false;
    if (code < 0)
        unavailable(ws);
    else if (past)
        end_all(ws, false, RPC_FAILED_PRECONDITION, "PAST_RETENTION", "the transaction_id lies past retention");
    else
        end_all(ws, false, RPC_NOT_FOUND, "TRANSACTION_NOT_FOUND", "no such transaction");
    look(ws);
}

static void on_look(void *arg, int code, const struct view_tx *t) {
    struct watches *ws = arg;
    ws->looking = false;
    if (code == 0 && !t && view_past(reader_people(ws->reader), &ws->looked, on_past, ws) == 0) {
        ws->looking = true;
        return;
    }
    if (code < 0 || !t) {
        unavailable(ws);
    } else {
        pthread_mutex_lock(&ws->lock);
        struct watched *x = looked_at(ws);
        if (x)
            LIST_FOR (l, &x->all)
                note(ws, LIST_ENTRY(l, struct watch, link), t);
        pthread_mutex_unlock(&ws->lock);
        if (x)
            rpc_wake(ws->service->rpc);
    }
    look(ws);
}

/* At the next whose time has come, unless this tick has seen enough. */
static void look(struct watches *ws) {
    if (!ws->timer || ws->looking || ws->looks >= LOOKS)
        return;
    pthread_mutex_lock(&ws->lock);
    struct watched *x = list_empty(&ws->turns) ? NULL : LIST_ENTRY(ws->turns.next, struct watched, turn);
    bool now = x && x->next_ns <= clock_mono_ns();
    if (now)
        ws->looked = x->id;
    pthread_mutex_unlock(&ws->lock);
    if (!now)
        return;
    ws->looks++;
    ws->looking = view_get(reader_people(ws->reader), &ws->looked, false, false, on_look, ws) == 0;
    if (!ws->looking)
        unavailable(ws);
}

static void on_tick(void *arg) {
    struct watches *ws = arg;
    timer_arm(ws->timer, TICK_MS);
    ws->looks = 0;
    look(ws);
}

int watches_attach(struct watches *ws, struct loop *l, struct reader *r) {
    ws->reader = r;
    int e = timer_new(l, on_tick, ws, &ws->timer);
    if (e == 0)
        timer_arm(ws->timer, TICK_MS);
    return e;
}

void watches_detach(struct watches *ws) {
    timer_free(TAKE(ws->timer));
}

/* --- streams. @thread rpc --- */

static void turn(struct rpc_stream *s) {
    struct watches *ws = rpc_stream_user(s);
    struct watch *w = rpc_stream_data(s);
    if (!w || !rpc_stream_may_send(s))
        return;
    pthread_mutex_lock(&ws->lock);
    struct list *e = list_pop(&w->events);
    bool over = !e && w->over;
    pthread_mutex_unlock(&ws->lock);
    if (e) {
        struct event *event = LIST_ENTRY(e, struct event, link);
        rpc_stream_send_bytes(s, bytes_of(event->bytes, event->n));
        mem_free(event);
    } else if (over && w->err.code) {
        rpc_stream_fail(s, &w->err);
    } else if (over) {
        rpc_stream_end(s);
    }
}

/* @locks lock */
static struct watched *find_or_add(struct watches *ws, const struct uuid *id) {
    struct watched *x = find(ws, id);
    if (x || !(x = mem_zalloc(sizeof(*x))))
        return x;
    x->id = *id;
    list_init(&x->all);
    list_init(&x->turn);
    list_add_head(&ws->turns, &x->turn); /* before the first: it has waited for no look yet */
    hmap_add(&ws->by_id, &x->by_id, uuid_hash(id));
    return x;
}

static void on_message(struct rpc_stream *s, const ProtobufCMessage *message) {
    const Txmsg__V1__WatchRequest *q = (const Txmsg__V1__WatchRequest *)message;
    struct watches *ws = rpc_stream_user(s);
    struct rpc_error err;
    struct uuid id;
    rpc_stream_pause(s, true); /* one message is all that is asked; its half-close is no end either */
    if (service_parse_id(q->transaction_id, rpc_stream_arena(s), &id, &err)) {
        rpc_stream_fail(s, &err);
        return;
    }
    struct watch *w = mem_zalloc(sizeof(*w));
    pthread_mutex_lock(&ws->lock);
    struct watched *x = w ? find_or_add(ws, &id) : NULL;
    if (x) {
        w->of = x;
        w->stream = s;
        uuid_format(&id, w->id);
        list_init(&w->events);
        list_init(&w->link);
        list_add_tail(&x->all, &w->link);
        rpc_stream_set_data(s, w);
    }
    pthread_mutex_unlock(&ws->lock);
    if (!x) {
        mem_free(w);
        rpc_stream_fail(s, &service_no_memory);
    }
}

static void on_closed(struct rpc_stream *s) {
    struct watches *ws = rpc_stream_user(s);
    struct watch *w = rpc_stream_data(s);
    if (!w)
        return;
    rpc_stream_set_data(s, NULL);
    pthread_mutex_lock(&ws->lock);
    struct watched *x = w->of;
    list_del(&w->link);
    if (list_empty(&x->all)) {
        hmap_del(&ws->by_id, &x->by_id);
        list_del(&x->turn);
        mem_free(x);
    }
    pthread_mutex_unlock(&ws->lock);
    for (struct list *e; (e = list_pop(&w->events));)
        mem_free(LIST_ENTRY(e, struct event, link));
    mem_free(w->told);
    mem_free(w);
}

struct rpc_stream_method watch_method(struct watches *ws) {
    return (struct rpc_stream_method){
        .path = "/txmsg.v1.MessageService/Watch",
        .request = &txmsg__v1__watch_request__descriptor,
        .name = "Watch",
        .asks = true,
        .max = (int)ws->service->o.watches,
        .user = ws,
        .message = on_message,
        .sendable = turn,
        .signalled = turn,
        .closed = on_closed,
    };
}

/* --- life --- */

int watches_new(struct message_service *m, struct watches **ret) {
    struct watches *ws = mem_zalloc(sizeof(*ws));
    if (!ws || hmap_init(&ws->by_id, 16) < 0) {
        mem_free(ws);
        return -ENOMEM;
    }
    ws->service = m;
    list_init(&ws->turns);
    arena_init(&ws->arena, EVENTS_BYTES_MAX);
    pthread_mutex_init(&ws->lock, NULL);
    *ret = ws;
    return 0;
}

void watches_free(struct watches *ws) {
    if (!ws)
        return;
    ASSERT(ws->by_id.count == 0);
    hmap_deinit(&ws->by_id);
    arena_deinit(&ws->arena);
    pthread_mutex_destroy(&ws->lock);
    mem_free(ws);
}
