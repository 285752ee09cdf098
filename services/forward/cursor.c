/*
 * The way of a message of this lane: read -> parcel at the outlet, slot in the window -> settled (delivered, or to be
 * spilled) -> passed by W in a batch, together with the row of a spilled one -> durable.
 *
 * A message that is not due yet (deliver_at) or that expired is settled without an attempt, as a spilled one whose row
 * waits for its time, or says that it was discarded.
 *
 * A spilled message keeps its parcel, without the payload, until its row is in a batch; so does a delivered one whose producer is to
 * be told of it, for the row of the outbox. The window bounds what is
 * under way; UNRECORDED_MAX bounds what would be delivered again if this process died, also while the store cannot
 * commit.
 */
#include "forward/cursor.h"

#include "base/log.h"
#include "base/mem.h"

enum { CLOCK_MARGIN_US = 1000000 }; /* the database's clock may be so much behind what we take it for */

int cursor_new(struct feed *feed, struct outlet *o, struct sub_cursor **ret) {
    struct sub_cursor *c = mem_zalloc(sizeof(*c));

    if (!c)
        return -ENOMEM;
    c->feed = feed;
    c->outlet = o;
    window_init(&c->window, (uint32_t)feed->env->o.window);
    list_init(&c->changed);
    list_init(&c->riding);
    list_init(&c->reader.waiting);
    list_add_tail(&feed->cursors, &c->in_feed);
    list_add_tail(&o->cursors, &c->in_outlet);
    *ret = c;
    return 0;
}

void cursor_stop(struct sub_cursor *c) {
    struct window_slot *s;

    tail_release(c->feed->tail, &c->reader);
    while ((s = window_head(&c->window))) {
        if (s->state == WINDOW_FLIGHT) {
            outlet_orphan(c->outlet, s->item);
            window_settle(&c->window, c->window.head, WINDOW_DONE);
        } else if (s->state == WINDOW_SPILL) {
            parcel_put(&c->outlet->env->pool, s->item);
        }
        window_pop(&c->window);
    }
    list_del(&c->changed);
    list_del(&c->riding);
    c->staged_n = c->staged_done = 0;
    c->delivered = c->spilled = 0;
    c->staged = c->read = c->durable;
    c->ready = c->asked = c->blocked = c->passed = false;
}

void cursor_abandon(struct sub_cursor *c) {
    uint32_t n = c->staged_done;

    for (uint64_t id = c->window.head; id < c->window.tail; id++) {
        const struct window_slot *s = window_slot(&c->window, id);
        const struct parcel *p = s->item; /* none of a DONE one */
        n += s->state == WINDOW_DONE || (s->state == WINDOW_SPILL && p->told) ||
             (s->state == WINDOW_FLIGHT && !p->queued);
    }
    if (n)
        metric_add(c->feed->env->duplicates, n);
    cursor_stop(c);
}

void cursor_free(struct sub_cursor *c) {
    cursor_stop(c);
    window_deinit(&c->window);
    list_del(&c->in_feed);
    list_del(&c->in_outlet);
    mem_free(c);
}

void cursor_start(struct sub_cursor *c, struct lane_pos pos, int32_t written_seq) {
    ASSERT(!c->ready && !window_head(&c->window));
    c->read = c->staged = c->durable = pos;
    c->written_seq = written_seq;
    c->known = c->ready = true;
}

/* --- coming back --- */

static void spill_due(struct parcel *p, const struct sub_conf *conf) {
    p->dead = p->d.verdict == SINK_REJECT || p->d.attempt >= conf->max_attempts;
    p->due_in_ms = MAX(backoff_delay_ms(&conf->backoff, p->d.attempt, backoff_random()), p->d.retry_after_ms);
    p->due_in_ms = parcel_due_ms(p, p->due_in_ms, store_now_us(p->outlet->env->store));
    if (!p->dead)
        outlet_rows(p->outlet, 1, p->due_in_ms);
}

static void parcel_done(struct parcel *p) {
    struct sub_cursor *c = p->origin;
    struct forward_env *env = c->feed->env;
    uint64_t slot = p->slot;

    if (p->d.verdict == SINK_OK) {
        metric_add(p->from_log ? env->from_log : env->from_memory, 1);
        p->told = forward_tells(env, p->d.content);
        window_settle(&c->window, slot, p->told ? WINDOW_SPILL : WINDOW_DONE);
        if (p->told)
            tx_content_unref(TAKE(p->d.content));
        else
            parcel_put(&env->pool, p);
    } else {
        spill_due(p, c->outlet->conf);
        tx_content_unref(TAKE(p->d.content));
        window_settle(&c->window, slot, WINDOW_SPILL);
    }
    if (slot == c->window.head)
        feed_changed(c->feed, c, window_settled(&c->window) > UNRECORDED_MAX / 2);
}

/* --- reading --- */

/* Too much that is not recorded? */
static bool may_go_on(const struct sub_cursor *c) {
    return c->staged_n + window_settled(&c->window) < UNRECORDED_MAX;
}

static bool may_start(const struct sub_cursor *c) {
    return may_go_on(c) && window_count(&c->window) < c->window.max && outlet_may_start_new(c->outlet);
}

/*
 * Is this message not to be sent by us? Before its deliver_at it becomes a row that comes due then; the claim compares
 * by the database's own clock. What was due when it was confirmed is never such a row.
 */
static bool hold_back(struct parcel *p, int64_t confirmed_us) {
    const struct msg *m = parcel_msg(p);
    int64_t now_us = store_now_us(p->outlet->env->store);

    p->expired = msg_expired(m, now_us);
    if (!p->expired && m->deliver_at_us > confirmed_us && m->deliver_at_us > now_us - CLOCK_MARGIN_US)
        p->due_us = m->deliver_at_us;
    return p->expired || p->due_us;
}

/* Settled without an attempt. */
static void pass_untried(struct sub_cursor *c, struct parcel *p, struct lane_pos pos) {
    p->d.attempt = 0;
    p->d.confirmed_us = 0; /* it is not late */
    tx_content_unref(TAKE(p->d.content));
    window_settle(&c->window, window_push(&c->window, pos, p), WINDOW_SPILL);
    if (p->slot == c->window.head)
        feed_changed(c->feed, c, window_settled(&c->window) > UNRECORDED_MAX / 2);
}

/* 0 = on its way, or held back; 1 = not now. */
static int start(struct sub_cursor *c, const struct tail_item *item, uint16_t n) {
    struct outlet *o = c->outlet;
    struct forward_env *env = o->env;

    if (!may_start(c) || window_room(&c->window) != 0)
        return 1;
    if (env->telling_late && forward_tells(env, item->content))
        return 1;
    struct parcel *p = parcel_get(&env->pool);
    if (!p)
        return 1;
    p->d.content = tx_content_ref(item->content);
    p->d.n = n;
    p->d.attempt = 1;
    p->d.confirmed_us = p->d.decided_us = item->at_us;
    p->d.again = c->feed->adopted; /* who had the lane may have sent it */
    p->outlet = o;
    p->tx = item->content->id;
    p->done = parcel_done;
    p->origin = c;
    p->from_log = item->from_log;
    p->slot = c->window.tail;
    struct lane_pos pos = {item->pos.seq, item->pos.index + n};
    if (msg_has_times(parcel_msg(p)) && hold_back(p, item->at_us)) {
        pass_untried(c, p, pos);
        return 0;
    }
    if (outlet_send(o, p) != SINK_TAKEN) {
        parcel_put(&env->pool, p);
        return 1;
    }
    uint64_t slot = window_push(&c->window, pos, p);
    ASSERT(slot == p->slot);
    return 0;
}

static bool has_header(const struct msg *m, const char *name, const char *value) {
    for (uint32_t i = 0; i < m->headers_n; i++)
        if (bytes_eq_str(m->headers[i].name, name))
            return bytes_eq_str(m->headers[i].value, value);
    return false;
}

static bool passes(const struct sub_conf *conf, const struct msg *m) {
    for (int i = 0; i < conf->filter_n; i++)
        if (!has_header(m, conf->filter[i].name, conf->filter[i].value))
            return false;
    return true;
}

/* The messages of a transaction from `first` on that are ours. 0 = all handled; 1 = not now, go on at c->read. */
static int start_all(struct sub_cursor *c, const struct tail_item *item, uint32_t first) {
    const char *topic = c->outlet->conf->topic;
    size_t topic_n = strlen(topic);

    for (uint32_t n = first; n < item->content->messages_n; n++) {
        const struct msg *m = &item->content->messages[n];
        if (m->topic.n != topic_n || memcmp(m->topic.p, topic, topic_n) != 0 || !passes(c->outlet->conf, m))
            continue;
        if (start(c, item, (uint16_t)n) != 0) {
            c->read = (struct lane_pos){item->pos.seq, item->pos.index + (int32_t)n};
            return 1;
        }
    }
    return 0;
}

void cursor_pump(struct sub_cursor *c) {
    static struct log_limit limit;
    struct tail_item item;

    if (c->blocked && !may_start(c))
        return;
    while (c->ready) {
        enum tail_found found = tail_next(c->feed->tail, &c->reader, &c->read, &item);
        if (found == TAIL_END)
            c->stands_at_us = 0;
        if (found != TAIL_ITEM)
            return;
        bool past = !item.content && uuid_v7_ms(item.tx) < atomic_load(&c->feed->env->store->floor_ms);
        if (!item.content && !past && log_limit_pass(&limit, 5000000000ull))
            LOG_ERROR("forward", "lane %d seq %d: a confirmed transaction is not stored any more", c->feed->number,
                      item.pos.seq);
        uint32_t first = lane_pos_cmp(c->read, item.pos) > 0 ? (uint32_t)(c->read.index - item.pos.index) : 0;
        c->stands_at_us = item.at_us;
        c->blocked = item.content && start_all(c, &item, first) != 0;
        if (c->blocked) {
            if (c->outlet->breaker.open ||
                c->outlet->conf->paused) /* it may stand here for long: its memory is for others */
                tail_release(c->feed->tail, &c->reader);
            return;
        }
        c->read = (struct lane_pos){item.pos.seq, item.pos.index + LIMIT_MESSAGES_HARD};
        c->passed = true;
    }
}

/* --- recording --- */

/* Adds the row of a spilled message. */
static int add_spill(struct sub_cursor *c, struct lane_batch *b, const struct window_slot *s) {
    const struct parcel *p = s->item;
    struct spill row = {
        .sub = c->outlet->conf->id,
        .tx = p->tx,
        .n = (int16_t)p->d.n,
        .due_in_ms = p->due_in_ms,
        .due_us = p->due_us,
        .lane = c->feed->number,
        .seq = s->pos.seq,
        .attempt = p->d.attempt,
        .error = p->d.error,
        .how = p->d.end,
        .dead = p->dead,
        .expired = p->expired,
    };

    return lane_add_spill(b, &row);
}

static uint32_t pop_done(struct sub_cursor *c) {
    uint32_t n = window_leading_done(&c->window);

    for (uint32_t i = 0; i < n; i++)
        window_pop(&c->window);
    return n;
}

/* The batch has room for this cursor and its counts; passes what is settled. LANE_FULL: a row to retry had to wait. */
static int pass(struct sub_cursor *c, struct lane_batch *b) {
    struct window_slot *s;
    int r = 0;

    uint32_t n = pop_done(c);
    c->delivered += (int32_t)n;
    c->staged_n += n;
    c->staged_done += n;
    while ((s = window_head(&c->window)) && s->state == WINDOW_SPILL) {
        struct parcel *p = s->item;
        r = p->told ? lane_add_told(b, c->outlet->conf->id, &p->tx, (int16_t)p->d.n) : add_spill(c, b, s);
        if (r != 0)
            break;
        c->delivered += p->told;
        c->staged_done += p->told;
        c->spilled += p->told || p->dead || p->expired ? 0 : 1; /* the lane counts dead and discarded ones itself */
        parcel_put(&c->outlet->env->pool, p);
        window_pop(&c->window);
        n = pop_done(c);
        c->delivered += (int32_t)n;
        c->staged_n += n + 1;
        c->staged_done += n;
    }
    return r;
}

int cursor_collect(struct sub_cursor *c, struct lane_batch *b, bool must) {
    int32_t sub = c->outlet->conf->id;
    struct window_slot *head = window_head(&c->window);
    bool settled = (head && head->state != WINDOW_FLIGHT) || c->delivered || c->spilled;

    if (!c->ready)
        return 0;
    if (!head)
        tail_skip(c->feed->tail, &c->read);
    struct lane_pos mark = window_mark(&c->window, c->read);
    if (!settled && !must && lane_pos_cmp(mark, c->staged) == 0)
        return 0;
    /* The room first: what is passed must not be without its record. */
    int r = lane_add_progress(b, sub, c->staged);
    if (r == 0 && settled)
        r = lane_add_counts(b, sub, 0, 0, 0, 0);
    if (r != 0)
        return LANE_FULL;
    if (list_empty(&c->riding))
        list_add_tail(&c->feed->riding, &c->riding);
    if (settled)
        r = pass(c, b);
    c->staged = window_mark(&c->window, c->read);
    c->passed = c->passed && window_head(&c->window);
    c->written_seq = c->feed->last_seq + 1;
    if (settled && lane_add_counts(b, sub, c->delivered, 0, 0, c->spilled) == 0)
        c->delivered = c->spilled = 0;
    if (lane_add_progress(b, sub, c->staged) != 0)
        r = CURSOR_MORE;
    return r != 0 ? CURSOR_MORE : 0;
}

void cursor_committed(struct sub_cursor *c) {
    bool waited = !may_go_on(c);

    list_del(&c->riding);
    c->durable = c->staged;
    c->staged_n = c->staged_done = 0;
    if (waited)
        c->outlet->env->wake(c->outlet->env->wake_arg, c->outlet);
}

bool cursor_unrecorded(const struct sub_cursor *c) {
    return c->ready && c->passed && list_empty(&c->changed) && window_count(&c->window) == 0;
}

int64_t cursor_oldest_us(struct sub_cursor *c) {
    struct window_slot *s = window_head(&c->window);

    if (!s)
        return c->stands_at_us;
    const struct parcel *p = s->item;
    return s->state == WINDOW_DONE || p->told ? 0 : p->d.confirmed_us;
}

bool cursor_passed(const struct sub_cursor *c, struct lane_pos pos) {
    return c->ready && lane_pos_cmp(c->durable, pos) >= 0;
}
