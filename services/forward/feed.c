/*
 * One lane: where its cursors begin, what they record, and what becomes of that.
 *
 *     loading (start positions are being read) -> reading -> [a batch was lost] -> stopped -> loading
 *
 * A lane that lost a batch is normally dropped by its owner in the same breath. If it lives on (the store refused a
 * row), its cursors begin again at their durable positions after a pause: what was passed in that batch is delivered
 * again, never lost.
 *
 * Positions are asked for in a question sent after the cursor was made: a subscription that we know of is committed,
 * so its vector is in that answer; an earlier question may have missed it.
 */
#include "forward/cursor.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"

enum { LOAD_AGAIN_MS = 300, RESTART_MAX_MS = 30000, SCAN_ENTRIES = 32 };

struct feed_load {
    struct feed *feed; /* NULL = it is gone */
};

/* Where a subscription stands that has no cursor here. It is written again like the others, so that it is found. */
struct resting {
    struct list link;
    int32_t sub;
    struct lane_pos durable, staged;
    bool riding; /* staged is in the batch in flight */
    int32_t written_seq;
};

/* --- recording --- */

static bool rewrite_due(const struct feed *f, const struct sub_cursor *c) {
    return c->ready && f->last_seq + 1 - c->written_seq >= REWRITE_ENTRIES;
}

/* Readers of a log look back so many entries: who was not written for long is written again, changed or not. */
static void find_unwritten(struct feed *f) {
    if (f->last_seq - f->scanned_seq < SCAN_ENTRIES)
        return;
    f->scanned_seq = f->last_seq;
    LIST_FOR (e, &f->cursors) {
        struct sub_cursor *c = LIST_ENTRY(e, struct sub_cursor, in_feed);
        if (rewrite_due(f, c) && list_empty(&c->changed))
            list_add_tail(&f->changed, &c->changed);
    }
}

/* The same for those that rest; false: no room. */
static bool collect_resting(struct feed *f, struct lane_batch *b) {
    LIST_FOR (e, &f->resting) {
        struct resting *r = LIST_ENTRY(e, struct resting, link);
        if (r->riding || f->last_seq + 1 - r->written_seq < REWRITE_ENTRIES)
            continue;
        if (lane_add_progress(b, r->sub, r->durable) != 0)
            return false;
        r->staged = r->durable;
        r->riding = true;
        r->written_seq = f->last_seq + 1;
    }
    return true;
}

static void end_resting(struct feed *f, bool committed) {
    LIST_FOR (e, &f->resting) {
        struct resting *r = LIST_ENTRY(e, struct resting, link);
        if (r->riding && committed)
            r->durable = r->staged;
        else if (r->riding)
            r->written_seq = f->last_seq - REWRITE_ENTRIES;
        r->riding = false;
    }
}

static void find_all(struct feed *f) {
    LIST_FOR (e, &f->cursors) {
        struct sub_cursor *c = LIST_ENTRY(e, struct sub_cursor, in_feed);
        if (c->ready && list_empty(&c->changed))
            list_add_tail(&f->changed, &c->changed);
    }
}

static void rider_collect(void *arg, struct lane_batch *b) {
    struct feed *f = arg;

    f->kicked = false;
    find_unwritten(f);
    if (f->env->draining)
        find_all(f);
    struct list more = LIST_INIT(more);
    while (!list_empty(&f->changed)) {
        struct sub_cursor *c = LIST_ENTRY(f->changed.next, struct sub_cursor, changed);
        int r = cursor_collect(c, b, rewrite_due(f, c));
        if (r == LANE_FULL) /* it is the first next time */
            break;
        list_del(&c->changed);
        if (r == CURSOR_MORE)
            list_add_tail(&more, &c->changed);
    }
    list_splice_tail(&f->changed, &more);
    if (!collect_resting(f, b))
        f->scanned_seq = f->last_seq - SCAN_ENTRIES; /* goes on with the next batch */
    for (int k = 0; k < RETRY_KINDS; k++)
        if (f->retries[k])
            retry_collect(f->retries[k], b);
}

static void rider_committed(void *arg, unsigned stale) {
    struct feed *f = arg;

    f->restarts = 0;
    end_resting(f, true);
    while (!list_empty(&f->riding))
        cursor_committed(LIST_ENTRY(f->riding.next, struct sub_cursor, riding));
    for (int k = 0; k < RETRY_KINDS; k++)
        if (f->retries[k])
            retry_committed(f->retries[k], k == RETRY_DUE ? stale : 0);
    if (!list_empty(&f->changed))
        feed_kick(f, true);
}

static void rider_lost(void *arg) {
    struct feed *f = arg;

    for (int k = 0; k < RETRY_KINDS; k++)
        if (f->retries[k])
            retry_lost(f->retries[k]);
    end_resting(f, false);
    LIST_FOR (e, &f->cursors)
        cursor_abandon(LIST_ENTRY(e, struct sub_cursor, in_feed));
    int64_t pause_ms = MIN((int64_t)1000 << MIN(f->restarts, 5u), (int64_t)RESTART_MAX_MS);
    f->restarts++;
    timer_arm(f->timer, (uint64_t)pause_ms);
}

void feed_kick(struct feed *f, bool now) {
    if (f->kicked && !now)
        return;
    f->kicked = true;
    lane_kick(f->lane, now ? 0 : (uint64_t)f->env->store->o.progress_ms);
}

void feed_changed(struct feed *f, struct sub_cursor *c, bool now) {
    if (list_empty(&c->changed))
        list_add_tail(&f->changed, &c->changed);
    feed_kick(f, now);
}

/* --- start positions --- */

static void wake_all(void *arg) {
    struct feed *f = arg;

    LIST_FOR (e, &f->cursors) {
        struct sub_cursor *c = LIST_ENTRY(e, struct sub_cursor, in_feed);
        f->env->wake(f->env->wake_arg, c->outlet);
    }
}

static int by_target(const void *a, const void *b) {
    int32_t x = ((const struct cursor *)a)->target, y = ((const struct cursor *)b)->target;

    return x < y ? -1 : x > y;
}

static struct lane_pos start_of(const struct cursor *rows, size_t n, int32_t sub) {
    struct cursor key = {.target = sub};
    const struct cursor *found = n ? bsearch(&key, rows, n, sizeof(*rows), by_target) : NULL;

    return found ? found->pos : (struct lane_pos){0};
}

static struct resting *find_resting(const struct feed *f, int32_t sub) {
    LIST_FOR (e, &f->resting) {
        struct resting *r = LIST_ENTRY(e, struct resting, link);
        if (r->sub == sub)
            return r;
    }
    return NULL;
}

static int add_resting(struct feed *f, int32_t sub, struct lane_pos durable, int32_t written_seq,
                       struct resting **ret) {
    struct resting *r = mem_zalloc(sizeof(*r));

    if (!r)
        return -ENOMEM;
    r->sub = sub;
    r->durable = r->staged = durable;
    r->written_seq = written_seq;
    list_add_tail(&f->resting, &r->link);
    *ret = r;
    return 0;
}

static void drop_resting(struct resting *r) {
    list_del(&r->link);
    mem_free(r);
}

static struct sub_cursor *find_cursor(const struct feed *f, int32_t sub) {
    LIST_FOR (e, &f->cursors) {
        struct sub_cursor *c = LIST_ENTRY(e, struct sub_cursor, in_feed);
        if (c->outlet->conf->id == sub)
            return c;
    }
    return NULL;
}

/* Stored positions of an adopted lane that are nobody's here. */
static int keep_others(struct feed *f, const struct cursor *rows, size_t n) {
    struct resting *r;

    for (size_t i = 0; i < n; i++)
        if (rows[i].target > 0 && !find_cursor(f, rows[i].target) && !find_resting(f, rows[i].target) &&
            add_resting(f, rows[i].target, rows[i].pos, f->last_seq - REWRITE_ENTRIES, &r) < 0)
            return -ENOMEM;
    return 0;
}

static void start_asked(struct feed *f, const struct cursor *rows, size_t n) {
    /* In an adopted lane the rows stand somewhere within the last 1,000 entries: they are due. */
    int32_t written = f->adopted ? f->last_seq - REWRITE_ENTRIES : f->last_seq;

    LIST_FOR (e, &f->cursors) {
        struct sub_cursor *c = LIST_ENTRY(e, struct sub_cursor, in_feed);
        if (!c->asked)
            continue;
        c->asked = false;
        cursor_start(c, start_of(rows, n, c->outlet->conf->id), written);
    }
    f->scanned_seq = f->last_seq - SCAN_ENTRIES;
    wake_all(f);
}

static void on_load_timer(void *arg);

/* It did not work: again, later. */
static void forget_asked(struct feed *f) {
    LIST_FOR (e, &f->cursors)
        LIST_ENTRY(e, struct sub_cursor, in_feed)->asked = false;
    timer_arm(f->timer, LOAD_AGAIN_MS);
}

static void on_positions(void *arg, int code, const struct cursor *rows, size_t n, int32_t max_seq) {
    CLEANUP_FREE struct feed_load *load = arg;
    CLEANUP_FREE struct cursor *sorted = NULL;
    struct feed *f = load->feed;

    if (!f)
        return;
    f->load = NULL;
    if (code == 0)
        sorted = mem_calloc(MAX(n, 1u), sizeof(*sorted));
    if (!sorted) {
        forget_asked(f);
        return;
    }
    if (n)
        memcpy(sorted, rows, n * sizeof(*rows));
    qsort(sorted, n, sizeof(*sorted), by_target);
    if (f->adopted && f->end_seq < 0) {
        f->end_seq = f->last_seq + 1;
        if (max_seq >= f->end_seq)
            f->end_seq = max_seq + 1;
        f->last_seq = f->end_seq - 1;
        tail_begin(f->tail, f->end_seq);
    }
    if (f->adopted && keep_others(f, sorted, n) < 0) {
        forget_asked(f);
        return;
    }
    start_asked(f, sorted, n);
    on_load_timer(f); /* cursors that came meanwhile */
}

/* After a lost batch, or after a rest: on from what is durable. True if there are others that do not know where. */
static bool restart(struct feed *f) {
    bool unknown = false;

    LIST_FOR (e, &f->cursors) {
        struct sub_cursor *c = LIST_ENTRY(e, struct sub_cursor, in_feed);
        struct resting *r = c->ready ? NULL : find_resting(f, c->outlet->conf->id);
        if (r && r->riding) { /* where, is being decided */
            timer_arm(f->timer, LOAD_AGAIN_MS);
            continue;
        }
        if (r) {
            c->durable = r->durable;
            c->known = true;
            drop_resting(r);
        }
        if (c->known && !c->ready) {
            cursor_start(c, c->durable, f->last_seq - REWRITE_ENTRIES);
            f->env->wake(f->env->wake_arg, c->outlet);
        }
        unknown |= !c->known;
    }
    return unknown;
}

/* Asks where the cursors begin that do not know it yet. */
static void on_load_timer(void *arg) {
    struct feed *f = arg;

    if (f->load)
        return;
    if (!restart(f) && (!f->adopted || f->end_seq >= 0))
        return;
    struct feed_load *load = mem_zalloc(sizeof(*load));
    int r = -ENOMEM;
    if (load) {
        load->feed = f;
        r = f->adopted ? reader_cursors(f->env->reader, f->number, on_positions, load)
                       : reader_vector(f->env->reader, f->number, on_positions, load);
    }
    if (r != 0) {
        mem_free(load);
        timer_arm(f->timer, LOAD_AGAIN_MS);
        return;
    }
    f->load = load;
    LIST_FOR (e, &f->cursors) {
        struct sub_cursor *c = LIST_ENTRY(e, struct sub_cursor, in_feed);
        c->asked = !c->known && !find_resting(f, c->outlet->conf->id);
    }
}

/* --- life --- */

int feed_new(struct forward_env *env, struct lane *lane, int32_t number, bool adopted, uint32_t *holders,
             struct feed **ret) {
    struct feed *f = mem_zalloc(sizeof(*f));

    if (!f)
        return -ENOMEM;
    f->env = env;
    f->lane = lane;
    f->number = number;
    f->adopted = adopted;
    f->end_seq = -1;
    f->rider =
        (struct lane_rider){.collect = rider_collect, .committed = rider_committed, .lost = rider_lost, .arg = f};
    list_init(&f->link);
    list_init(&f->cursors);
    list_init(&f->changed);
    list_init(&f->riding);
    list_init(&f->resting);
    struct tail_options o = {.env = env, .lane = number, .holders = holders, .arrived = wake_all, .arg = f};
    int r = timer_new(env->loop, on_load_timer, f, &f->timer);
    if (r == 0)
        r = tail_new(&o, &f->tail);
    if (r < 0) {
        timer_free(f->timer);
        mem_free(f);
        return r;
    }
    lane_add_rider(lane, &f->rider);
    if (adopted)
        timer_arm(f->timer, 0);
    *ret = f;
    return 0;
}

void feed_free(struct feed *f) {
    if (!f)
        return;
    lane_remove_rider(f->lane, &f->rider);
    if (f->load)
        f->load->feed = NULL;
    while (!list_empty(&f->cursors)) {
        struct sub_cursor *c = LIST_ENTRY(f->cursors.next, struct sub_cursor, in_feed);
        cursor_abandon(c);
        cursor_free(c);
    }
    while (!list_empty(&f->resting))
        drop_resting(LIST_ENTRY(f->resting.next, struct resting, link));
    tail_free(f->tail);
    timer_free(f->timer);
    list_del(&f->link);
    mem_free(f);
}

void feed_remove(struct feed *f, struct sub_cursor *c) {
    struct resting *r;

    if (c->known && !find_resting(f, c->outlet->conf->id)) {
        if (add_resting(f, c->outlet->conf->id, c->durable, c->written_seq, &r) == 0) {
            r->riding = !list_empty(&c->riding);
            r->staged = c->staged;
        } else {
            LOG_ERROR("forward", "lane %d: out of memory: the position of a subscription is lost", f->number);
        }
    }
    cursor_free(c);
}

int feed_add(struct feed *f, struct outlet *o, bool at_start) {
    struct sub_cursor *c;
    int r = cursor_new(f, o, &c);

    if (r < 0)
        return r;
    if (at_start)
        cursor_start(c, (struct lane_pos){0}, f->last_seq);
    else
        timer_arm(f->timer, 0);
    return 0;
}

void feed_committed(struct feed *f, int32_t seq, int64_t at_us, const struct lane_confirmed *conf, uint32_t n) {
    f->last_seq = seq;
    tail_push(f->tail, seq, at_us, conf, n, !list_empty(&f->cursors));
    if (n)
        wake_all(f);
}

void feed_record(struct feed *f) {
    LIST_FOR (e, &f->cursors) {
        struct sub_cursor *c = LIST_ENTRY(e, struct sub_cursor, in_feed);
        if (cursor_unrecorded(c))
            feed_changed(f, c, false);
    }
}

/* Also looks for cursors of an adopted lane that have nothing left but to say so. */
void feed_trim(struct feed *f) {
    int32_t seq = tail_next_seq(f->tail);
    bool ended = f->adopted && f->end_seq >= 0;

    LIST_FOR (e, &f->cursors) {
        struct sub_cursor *c = LIST_ENTRY(e, struct sub_cursor, in_feed);
        if (!c->ready)
            continue;
        seq = MIN(seq, c->read.seq);
        if (ended && c->read.seq >= f->end_seq && !window_head(&c->window) && c->staged.seq < f->end_seq)
            feed_changed(f, c, false);
    }
    tail_trim(f->tail, seq);
}

bool feed_parked(const struct feed *f) {
    if (!f->adopted || f->end_seq < 0 || f->load || !list_empty(&f->riding))
        return false;
    LIST_FOR (e, &f->cursors) {
        const struct sub_cursor *c = LIST_ENTRY(e, struct sub_cursor, in_feed);
        if (!cursor_passed(c, (struct lane_pos){.seq = f->end_seq}) &&
            (window_count(&c->window) > 0 || !outlet_parked(c->outlet)))
            return false;
    }
    return true;
}

bool feed_settled(const struct feed *f) {
    if (!f->adopted || f->end_seq < 0 || f->load)
        return false;
    LIST_FOR (e, &f->cursors)
        if (!cursor_passed(LIST_ENTRY(e, struct sub_cursor, in_feed), (struct lane_pos){.seq = f->end_seq}))
            return false;
    return list_empty(&f->riding);
}
