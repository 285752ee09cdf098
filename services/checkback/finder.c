/*
 * One walk per (lane, delay class). A step reads on from the cursor; what it brings rides with the next batches of that
 * very lane, and the cursor goes past it only in the batch that carries its last row, or later. So a crash at any point
 * repeats a step and loses none; rows that are there already are left alone by the store. A step that brought nothing
 * costs no write at all: its cursor rides along when it has moved far, when it has not been written for long (folding a
 * lane's cursors looks back a bounded number of entries), and at the end of an adopted lane, which is drained only when
 * all its cursors are durably past it.
 *
 * One read is under way at a time, over all lanes. A class is looked at as often as suits its age; when a step shows
 * that there is more, soon again.
 */
#include "checkback/finder.h"

#include "base/clock.h"
#include "base/log.h"

enum {
    SCAN_IDS = 4096,     /* of one step */
    ENTRY_IDS = 440,     /* most ids of an entry: fewer entries than SCAN_IDS / ENTRY_IDS are surely all there were */
    WRITE_ENTRIES = 500, /* a cursor is written at least once in so many batches, and entries passed */
    AGAIN_MS = 5,
};

struct found {
    struct uuid tx;
    int64_t due_us;
    const char *producer;
};

struct walk {
    struct lane_pos read, durable, sent; /* read up to; written; in the batch under way */
    struct lane_pos before;              /* `read` before the step whose rows are held */
    bool sending;                        /* `sent` counts */
    unsigned batches;                    /* since the cursor was written */
    uint64_t due_ns;                     /* of the next step */
    struct found *rows;                  /* held until they are durable; one allocation with their names. NULL = none */
    size_t n, base, given; /* rows[base..base+given) are in the batch under way, those before are durable */
};

struct finder_lane {
    struct list link;
    struct finder *finder;
    struct lane *lane;
    int32_t number;
    bool adopted;
    bool known;      /* cursors are; own lanes begin at 0 */
    bool lost;       /* fenced or closed: nothing more is done with it */
    int32_t max_seq; /* adopted: of its last entry when we came */
    uint64_t due_ns; /* of reading its cursors */
    struct lane_rider rider;
    struct walk walks[DELAY_CLASSES];
};

/* A read under way; outlives lane and finder if they go first. */
struct find_call {
    struct finder *finder;
    struct finder_lane *lane;
    int cls;
};

struct finder {
    struct loop *loop;
    struct reader *reader;
    struct age *age;
    int64_t poll_ms;
    struct timer *timer;
    struct list lanes;
    struct find_call *call; /* NULL = none under way */
    bool allowed;
};

static uint64_t in_ms(const struct finder *f, int64_t ms) {
    return loop_now_ns(f->loop) + (uint64_t)ms * NS_PER_MS;
}

static bool walk_at_end(const struct finder_lane *l, const struct walk *w) {
    return l->adopted && w->read.seq > l->max_seq;
}

/* --- what a step brought --- */

static void rows_drop(struct walk *w) {
    mem_free(TAKE(w->rows));
    w->n = w->base = w->given = 0;
}

static bool same_name(const struct undecided *u, size_t i) {
    return i > 0 && strcmp(u[i].producer, u[i - 1].producer) == 0;
}

static int rows_copy(struct walk *w, const struct undecided *u, size_t n) {
    size_t names = 0;

    for (size_t i = 0; i < n; i++)
        names += same_name(u, i) ? 0 : strlen(u[i].producer) + 1;
    w->rows = mem_alloc(n * sizeof(*w->rows) + names);
    if (!w->rows)
        return -ENOMEM;
    char *name = (char *)&w->rows[n];
    for (size_t i = 0; i < n; i++) {
        w->rows[i] = (struct found){.tx = u[i].tx, .due_us = u[i].due_us};
        if (same_name(u, i)) {
            w->rows[i].producer = w->rows[i - 1].producer;
            continue;
        }
        size_t size = strlen(u[i].producer) + 1;
        memcpy(name, u[i].producer, size);
        w->rows[i].producer = name;
        name += size;
    }
    w->n = n;
    w->base = w->given = 0;
    return 0;
}

/* For the metric: the first is the oldest, or nearly. */
static void note_age(struct finder *f, const struct found *first) {
    int64_t since_us = uuid_v7_ms(&first->tx) * 1000;

    age_seen(f->age, &first->tx, since_us, MAX(first->due_us - since_us, 0) / 1000);
}

static int64_t interval_ms(const struct finder *f, int cls) {
    return MAX(f->poll_ms, delay_class_ms[cls] / 20);
}

static void step_done(struct finder *f, struct finder_lane *l, int cls, const struct undecided *u, size_t n,
                      struct lane_pos next) {
    struct walk *w = &l->walks[cls];
    int32_t passed = next.seq - w->read.seq;

    if (n > 0 && rows_copy(w, u, n) < 0) {
        w->due_ns = in_ms(f, interval_ms(f, cls));
        return;
    }
    w->before = w->read;
    if (lane_pos_cmp(next, w->read) > 0)
        w->read = next;
    w->due_ns = in_ms(f, passed >= SCAN_IDS / ENTRY_IDS ? AGAIN_MS : interval_ms(f, cls));
    if (n > 0) {
        note_age(f, &w->rows[0]);
        lane_kick(l->lane, 0);
    } else if (walk_at_end(l, w)) {
        lane_kick(l->lane, 50);
    }
}

/* --- the batch --- */

/* How far the cursor may go in a batch that holds the rows given so far. */
static struct lane_pos walk_safe(const struct walk *w) {
    return w->rows && w->base + w->given < w->n ? w->before : w->read;
}

static bool walk_worth_writing(const struct finder_lane *l, const struct walk *w, struct lane_pos safe) {
    if (w->batches >= WRITE_ENTRIES)
        return true;
    if (lane_pos_cmp(safe, w->durable) <= 0)
        return false;
    return w->given > 0 || safe.seq - w->durable.seq >= WRITE_ENTRIES || (l->adopted && safe.seq > l->max_seq);
}

static void walk_collect(struct finder_lane *l, int cls, struct lane_batch *b) {
    struct walk *w = &l->walks[cls];

    w->given = 0;
    w->sending = false;
    w->batches++;
    while (w->base + w->given < w->n) {
        const struct found *r = &w->rows[w->base + w->given];
        if (lane_add_check(b, &r->tx, r->producer, r->due_us) != 0) /* full: the rest with the next batch */
            break;
        w->given++;
    }
    struct lane_pos safe = walk_safe(w);
    if (walk_worth_writing(l, w, safe) && lane_add_progress(b, LANE_TARGET_FINDER(cls), safe) == 0) {
        w->sent = safe;
        w->sending = true;
    }
}

static void on_collect(void *arg, struct lane_batch *b) {
    struct finder_lane *l = arg;

    /* After a fence the same lane object goes on under another number: these cursors are none of its own. */
    if (!l->known || l->lost || lane_number(l->lane) != l->number)
        return;
    for (int cls = 0; cls < DELAY_CLASSES; cls++)
        walk_collect(l, cls, b);
}

/* True if the next batch must come soon: rows are left, or the last cursor of a lane that waits to be drained. */
static bool walk_committed(const struct finder_lane *l, struct walk *w) {
    if (w->sending) {
        w->durable = w->sent;
        w->batches = 0;
        w->sending = false;
    }
    w->base += w->given;
    w->given = 0;
    if (w->rows && w->base == w->n)
        rows_drop(w);
    return w->rows || (walk_at_end(l, w) && lane_pos_cmp(w->durable, w->read) < 0);
}

static void run(struct finder *f);

static void on_committed(void *arg, unsigned stale) {
    struct finder_lane *l = arg;
    bool more = false;

    UNUSED(stale);
    for (int cls = 0; cls < DELAY_CLASSES; cls++)
        more |= walk_committed(l, &l->walks[cls]);
    if (more)
        lane_kick(l->lane, 0);
    run(l->finder); /* walks that held rows may go on */
}

/* Whoever has the lane now begins with its stored cursors. */
static void on_lost(void *arg) {
    struct finder_lane *l = arg;

    l->lost = true;
    for (int cls = 0; cls < DELAY_CLASSES; cls++)
        rows_drop(&l->walks[cls]);
}

/* --- reads --- */

/* Ends a call: its lane, or NULL if that is gone. */
static struct finder_lane *call_end(struct find_call *call) {
    struct finder_lane *l = call->lane;

    if (call->finder)
        call->finder->call = NULL;
    mem_free(call);
    return l;
}

static void on_undecided(void *arg, int code, const struct undecided *u, size_t n, struct lane_pos next) {
    struct find_call *call = arg;
    struct finder *f = call->finder;
    int cls = call->cls;
    struct finder_lane *l = call_end(call);

    if (!f)
        return;
    if (l && !l->lost) {
        if (code == 0)
            step_done(f, l, cls, u, n, next);
        else
            l->walks[cls].due_ns = in_ms(f, interval_ms(f, cls));
    }
    run(f);
}

static void cursors_take(struct finder_lane *l, const struct cursor *c, size_t n, int32_t max_seq) {
    for (size_t i = 0; i < n; i++) {
        int cls = -1 - c[i].target;
        if (c[i].target < 0 && cls < DELAY_CLASSES)
            l->walks[cls].read = l->walks[cls].durable = c[i].pos;
    }
    l->max_seq = max_seq;
    l->known = true;
}

static void on_cursors(void *arg, int code, const struct cursor *c, size_t n, int32_t max_seq) {
    struct find_call *call = arg;
    struct finder *f = call->finder;
    struct finder_lane *l = call_end(call);

    if (!f)
        return;
    if (l && code == 0)
        cursors_take(l, c, n, max_seq);
    else if (l)
        l->due_ns = in_ms(f, f->poll_ms);
    run(f);
}

/* The most urgent read; cls < 0: the cursors of the lane. NULL = nothing to read, or nothing before *due_ns. */
static struct finder_lane *most_urgent(struct finder *f, int *cls, uint64_t *due_ns) {
    struct finder_lane *best = NULL;

    *due_ns = UINT64_MAX;
    LIST_FOR (e, &f->lanes) {
        struct finder_lane *l = LIST_ENTRY(e, struct finder_lane, link);
        if (l->lost)
            continue;
        for (int i = l->known ? 0 : -1; i < (l->known ? DELAY_CLASSES : 0); i++) {
            const struct walk *w = i < 0 ? NULL : &l->walks[i];
            uint64_t due = w ? w->due_ns : l->due_ns;
            if ((w && (w->rows || walk_at_end(l, w))) || due >= *due_ns)
                continue;
            *due_ns = due;
            *cls = i;
            best = l;
        }
    }
    return best;
}

static int read_begin(struct finder *f, struct finder_lane *l, int cls) {
    struct find_call *call = mem_zalloc(sizeof(*call));
    int r;

    if (!call)
        return -ENOMEM;
    *call = (struct find_call){.finder = f, .lane = l, .cls = cls};
    f->call = call;
    r = cls < 0 ? reader_cursors(f->reader, l->number, on_cursors, call)
                : reader_undecided(f->reader, l->number, cls, l->walks[cls].read, SCAN_IDS, on_undecided, call);
    if (r != 0) {
        f->call = NULL;
        mem_free(call);
    }
    return r;
}

/* Begins the next read, or arms the timer for it. */
static void run(struct finder *f) {
    uint64_t now = loop_now_ns(f->loop), due;
    int cls;

    if (f->call || !f->allowed)
        return;
    struct finder_lane *l = most_urgent(f, &cls, &due);
    if (!l) /* until a batch is committed or a lane comes */
        return;
    if (due > now) {
        timer_arm(f->timer, (due - now) / NS_PER_MS + 1);
        return;
    }
    if (!reader_ready(f->reader) || read_begin(f, l, cls) != 0)
        timer_arm(f->timer, (uint64_t)f->poll_ms);
}

static void on_timer(void *arg) {
    run(arg);
}

/* --- lanes --- */

static struct finder_lane *lane_find(const struct finder *f, int32_t number) {
    LIST_FOR (e, &f->lanes) {
        struct finder_lane *l = LIST_ENTRY(e, struct finder_lane, link);
        if (l->number == number)
            return l;
    }
    return NULL;
}

static void lane_drop(struct finder_lane *l) {
    struct finder *f = l->finder;

    if (f->call && f->call->lane == l)
        f->call->lane = NULL;
    lane_remove_rider(l->lane, &l->rider);
    list_del(&l->link);
    for (int cls = 0; cls < DELAY_CLASSES; cls++)
        rows_drop(&l->walks[cls]);
    mem_free(l);
}

int finder_lane(struct finder *f, struct lane *lane, int32_t number, bool adopted) {
    finder_drop_lane(f, number);
    struct finder_lane *l = mem_zalloc(sizeof(*l));
    if (!l)
        return -ENOMEM;
    l->finder = f;
    l->lane = lane;
    l->number = number;
    l->adopted = adopted;
    l->known = !adopted;
    l->rider = (struct lane_rider){.collect = on_collect, .committed = on_committed, .lost = on_lost, .arg = l};
    list_add_tail(&f->lanes, &l->link);
    lane_add_rider(lane, &l->rider);
    run(f);
    return 0;
}

void finder_drop_lane(struct finder *f, int32_t number) {
    struct finder_lane *l = lane_find(f, number);

    if (l)
        lane_drop(l);
}

bool finder_lane_settled(const struct finder *f, int32_t number) {
    const struct finder_lane *l = lane_find(f, number);

    if (!l || !l->known || !l->adopted || l->lost)
        return false;
    for (int cls = 0; cls < DELAY_CLASSES; cls++) {
        if (l->walks[cls].durable.seq <= l->max_seq)
            return false;
    }
    return true;
}

void finder_allow(struct finder *f, bool allowed) {
    f->allowed = allowed;
    run(f);
}

/* --- the finder --- */

int finder_new(struct loop *l, struct reader *r, struct age *age, int64_t poll_ms, struct finder **ret) {
    struct finder *f = mem_zalloc(sizeof(*f));

    if (!f)
        return -ENOMEM;
    *f = (struct finder){.loop = l, .reader = r, .age = age, .poll_ms = poll_ms, .allowed = true};
    list_init(&f->lanes);
    int code = timer_new(l, on_timer, f, &f->timer);
    if (code < 0) {
        mem_free(f);
        return code;
    }
    *ret = f;
    return 0;
}

void finder_free(struct finder *f) {
    if (!f)
        return;
    while (!list_empty(&f->lanes))
        lane_drop(LIST_ENTRY(f->lanes.next, struct finder_lane, link));
    if (f->call)
        f->call->finder = NULL;
    timer_free(f->timer);
    mem_free(f);
}
