/*
 * Reading back what is not in memory: first which transactions (from the ring, or a stretch of the log), then their
 * payloads.
 *
 * A refill belongs to the reader callback that is under way and frees itself there; the tail only knows it, and
 * forgets it (tail = NULL) when it goes away first. Readers at the same place wait for the same refill and share the
 * chunk.
 */
#include "forward/tail_private.h"

#include "base/log.h"
#include "base/mem.h"

enum {
    SHARE_MIN = 64 << 10,
    IDS_MIN = 16,
    IDS_MAX = 440,       /* as many as one question for payloads takes */
    BYTES_PER_ID = 1024, /* a guess: how many ids are worth asking for */
    AGAIN_MS = 300,
};

struct refill {
    struct list link;    /* of the tail */
    struct list readers; /* tail_reader.waiting */
    struct tail *tail;   /* NULL = nobody waits any more */
    struct lane_pos begin;
    int32_t ring_seq; /* where the ring began when the log was asked */
    size_t max_bytes;
    struct chunk *chunk; /* being made */
    struct uuid *ids;
};

static void chunk_unref(struct chunk *c) {
    if (!c || --c->refs > 0)
        return;
    for (size_t i = 0; i < c->n; i++)
        tx_content_unref(c->items[i].content);
    mem_free(c);
}

static void refill_free(struct refill *f) {
    list_del(&f->link);
    chunk_unref(f->chunk);
    mem_free(f->ids);
    mem_free(f);
}

void refill_orphan_all(struct tail *t) {
    struct list *e;

    while ((e = list_pop(&t->refills))) {
        struct refill *f = LIST_ENTRY(e, struct refill, link);
        ASSERT(list_empty(&f->readers));
        f->tail = NULL;
    }
}

void tail_release(struct tail *t, struct tail_reader *r) {
    if (!r->chunk && !r->refill)
        return;
    --*t->o.holders;
    chunk_unref(TAKE(r->chunk));
    if (TAKE(r->refill))
        list_del(&r->waiting);
}

static size_t share_of(const struct tail *t) {
    size_t all = (size_t)t->o.env->o.read_bytes;

    return MAX(all / MAX(*t->o.holders, 1u), (size_t)SHARE_MIN);
}

static size_t ids_of(size_t max_bytes) {
    return MAX(MIN(max_bytes / BYTES_PER_ID, (size_t)IDS_MAX), (size_t)IDS_MIN);
}

/* Over, well or not: whoever waits looks again, at once or after a pause. */
static void finish(struct refill *f, int code) {
    struct tail *t = f->tail;
    struct list *e;
    static struct log_limit limit;

    if (!t) {
        refill_free(f);
        return;
    }
    if (code < 0) {
        if (code != -EAGAIN && log_limit_pass(&limit, 5000000000ull))
            LOG_ERROR("forward", "lane %d: entries from %d on cannot be read: %s", t->o.lane, f->begin.seq,
                      err_text(code));
        timer_arm(t->again, AGAIN_MS);
    }
    while ((e = list_pop(&f->readers))) {
        struct tail_reader *r = LIST_ENTRY(e, struct tail_reader, waiting);
        r->refill = NULL;
        if (code == 0) {
            r->chunk = f->chunk;
            f->chunk->refs++;
        } else {
            --*t->o.holders;
        }
    }
    refill_free(f);
    if (code == 0)
        t->o.arrived(t->o.arg);
}

static void on_contents(void *arg, int code, struct tx_content *const *contents, size_t n) {
    struct refill *f = arg;
    struct chunk *c = f->chunk;

    if (code == 0 && n == 0)
        code = -EIO;
    if (code == 0 && f->tail) {
        for (size_t i = 0; i < n; i++)
            c->items[i].content = contents[i] ? tx_content_ref(contents[i]) : NULL;
        if (n < c->n) { /* no more fitted */
            c->end = c->items[n].pos;
            c->n = n;
        }
    }
    finish(f, code);
}

/* The chunk's items are known, their contents are not. */
static int read_contents(struct refill *f) {
    struct chunk *c = f->chunk;

    f->ids = mem_calloc(c->n, sizeof(*f->ids));
    if (!f->ids)
        return -ENOMEM;
    for (size_t i = 0; i < c->n; i++)
        f->ids[i] = c->items[i].tx;
    return reader_contents(f->tail->o.env->reader, f->ids, c->n, f->max_bytes, on_contents, f);
}

static struct chunk *chunk_new(struct lane_pos begin, size_t max_items) {
    struct chunk *c = mem_zalloc(offsetof(struct chunk, items) + max_items * sizeof(struct chunk_item));

    if (c) {
        c->refs = 1;
        c->begin = c->end = begin;
    }
    return c;
}

static void chunk_add(struct chunk *c, int32_t seq, uint32_t ordinal, int64_t at_us, const struct uuid *tx) {
    c->items[c->n++] =
        (struct chunk_item){.pos = {seq, (int32_t)ordinal * LIMIT_MESSAGES_HARD}, .at_us = at_us, .tx = *tx};
}

static void on_log(void *arg, int code, const struct log_entry *entries, size_t n, int32_t next_seq, bool at_end) {
    struct refill *f = arg;
    size_t items = 0;

    if (code < 0 || !f->tail) {
        finish(f, code);
        return;
    }
    for (size_t i = 0; i < n; i++)
        items += entries[i].conf_n;
    struct chunk *c = f->chunk = chunk_new(f->begin, items);
    if (!c) {
        finish(f, -ENOMEM);
        return;
    }
    uint32_t first = (uint32_t)f->begin.index / LIMIT_MESSAGES_HARD;
    for (size_t i = 0; i < n; i++)
        for (uint32_t k = entries[i].seq == f->begin.seq ? first : 0; k < entries[i].conf_n; k++)
            chunk_add(c, entries[i].seq, k, entries[i].at_us, &entries[i].conf[k]);
    c->complete = true;
    /* Everything before the ring was committed when the log was asked: its end leads there, whatever is missing. */
    c->end = (struct lane_pos){.seq = at_end ? MAX(next_seq, f->ring_seq) : next_seq};
    if (lane_pos_cmp(c->end, c->begin) <= 0)
        code = -EIO;
    else if (c->n)
        code = read_contents(f);
    if (code < 0 || c->n == 0)
        finish(f, code);
}

/* What the ring lacks from `begin` on. Payloads that it has are not taken over: they may leave it meanwhile. */
static int from_ring(struct refill *f, size_t max_ids) {
    struct tail *t = f->tail;
    uint64_t id;
    uint32_t k = (uint32_t)f->begin.index / LIMIT_MESSAGES_HARD;
    struct tail_entry *e = ring_find(t, f->begin.seq, &id);
    struct chunk *c = f->chunk = chunk_new(f->begin, max_ids);

    if (!c)
        return -ENOMEM;
    for (; e && c->n < max_ids; e = ring_next(t, &id), k = 0) {
        if (e->seq != f->begin.seq)
            k = 0;
        for (; k < e->n && c->n < max_ids; k++)
            if (!e->conf[k].content)
                chunk_add(c, e->seq, k, e->at_us, &e->conf[k].tx);
    }
    ASSERT(c->n > 0);
    c->end = c->items[c->n - 1].pos;
    c->end.index += LIMIT_MESSAGES_HARD;
    return read_contents(f);
}

static int refill_start(struct tail *t, struct lane_pos pos, struct refill **ret) {
    struct refill *f = mem_zalloc(sizeof(*f));

    if (!f)
        return -ENOMEM;
    list_init(&f->link);
    list_init(&f->readers);
    f->tail = t;
    f->begin = pos;
    f->ring_seq = t->first_seq;
    f->max_bytes = share_of(t);
    size_t max_ids = ids_of(f->max_bytes);
    int r = pos.seq >= t->first_seq ? from_ring(f, max_ids)
                                    : reader_log(t->o.env->reader, t->o.lane, pos.seq, max_ids, on_log, f);
    if (r != 0) {
        refill_free(f);
        return r < 0 ? r : -EAGAIN;
    }
    list_add_tail(&t->refills, &f->link);
    *ret = f;
    return 0;
}

void refill_want(struct tail *t, struct tail_reader *r, struct lane_pos pos) {
    struct refill *found = NULL;

    if (timer_armed(t->again))
        return;
    LIST_FOR (e, &t->refills) {
        struct refill *f = LIST_ENTRY(e, struct refill, link);
        if (lane_pos_cmp(f->begin, pos) == 0)
            found = f;
    }
    ++*t->o.holders;
    if (!found && refill_start(t, pos, &found) < 0) {
        --*t->o.holders;
        timer_arm(t->again, AGAIN_MS);
        return;
    }
    r->refill = found;
    list_add_tail(&found->readers, &r->waiting);
}

void refill_again(void *arg) {
    struct tail *t = arg;

    t->o.arrived(t->o.arg);
}
