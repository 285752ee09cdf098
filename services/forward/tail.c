/*
 * The ring, and the search of a place in ring and chunks. Reading back is in refill.c.
 *
 * Entries of the ring stand in order of seq and cover everything from first_seq on: an entry without confirmed
 * transactions is not kept, a missing seq has none. Out of memory is treated as "too much": the ring is emptied and
 * the log is read.
 */
#include "forward/tail_private.h"

#include "base/mem.h"

enum { RING_FIRST = 64, RING_MAX = 8192 };

static inline int32_t ordinal_of(struct lane_pos p) {
    return p.index / LIMIT_MESSAGES_HARD;
}

static struct tail_entry *ring_at(const struct tail *t, uint64_t id) {
    return t->ring[id & t->mask];
}

static void drop_oldest(struct tail *t) {
    struct tail_entry *e = ring_at(t, t->head++);

    t->first_seq = e->seq + 1;
    t->bytes -= e->bytes;
    for (uint32_t i = 0; i < e->n; i++)
        tx_content_unref(e->conf[i].content);
    mem_free(e);
}

static void ring_clear(struct tail *t) {
    while (t->head != t->end)
        drop_oldest(t);
}

/* Room for one more, or the oldest one has to go. */
static int ring_room(struct tail *t) {
    size_t count = (size_t)(t->end - t->head), cap = t->ring ? t->mask + 1 : 0;

    if (count < cap)
        return 0;
    if (cap == RING_MAX) {
        drop_oldest(t);
        return 0;
    }
    size_t new_cap = cap ? cap * 2 : RING_FIRST;
    struct tail_entry **ring = mem_calloc(new_cap, sizeof(struct tail_entry *));
    if (!ring)
        return -ENOMEM;
    for (uint64_t id = t->head; id != t->end; id++)
        ring[id & (new_cap - 1)] = ring_at(t, id);
    mem_free(t->ring);
    t->ring = ring;
    t->mask = new_cap - 1;
    return 0;
}

int tail_new(const struct tail_options *o, struct tail **ret) {
    struct tail *t = mem_zalloc(sizeof(*t));

    if (!t)
        return -ENOMEM;
    t->o = *o;
    t->max_bytes = (size_t)o->env->o.tail_bytes;
    list_init(&t->refills);
    int r = timer_new(o->env->loop, refill_again, t, &t->again);
    if (r < 0) {
        mem_free(t);
        return r;
    }
    *ret = t;
    return 0;
}

void tail_free(struct tail *t) {
    if (!t)
        return;
    refill_orphan_all(t);
    ring_clear(t);
    mem_free(t->ring);
    timer_free(t->again);
    mem_free(t);
}

void tail_begin(struct tail *t, int32_t seq) {
    ASSERT(t->head == t->end);
    t->first_seq = t->next_seq = seq;
}

int32_t tail_next_seq(const struct tail *t) {
    return t->next_seq;
}

void tail_push(struct tail *t, int32_t seq, int64_t at_us, const struct lane_confirmed *conf, uint32_t n, bool keep) {
    t->next_seq = seq + 1;
    if (n == 0)
        return;
    size_t size = offsetof(struct tail_entry, conf) + n * sizeof(conf[0]);
    struct tail_entry *e = keep && ring_room(t) == 0 ? mem_alloc(size) : NULL;
    if (!e) {
        ring_clear(t);
        t->first_seq = seq + 1;
        return;
    }
    *e = (struct tail_entry){.seq = seq, .n = n, .at_us = at_us, .bytes = size};
    for (uint32_t i = 0; i < n; i++) {
        e->conf[i] = conf[i];
        if (conf[i].content)
            e->bytes += tx_content_ref(conf[i].content)->bytes;
    }
    t->ring[t->end++ & t->mask] = e;
    t->bytes += e->bytes;
    while (t->bytes > t->max_bytes)
        drop_oldest(t); /* the new one too, if it alone is too large */
}

void tail_trim(struct tail *t, int32_t seq) {
    while (t->head != t->end && ring_at(t, t->head)->seq < seq)
        drop_oldest(t);
    if (t->head == t->end && seq > t->first_seq)
        t->first_seq = MIN(seq, t->next_seq);
}

/* --- search --- */

/* The first entry whose seq is not below; NULL = none. */
struct tail_entry *ring_find(const struct tail *t, int32_t seq, uint64_t *ret_id) {
    uint64_t lo = t->head, hi = t->end;

    while (lo < hi) {
        uint64_t mid = lo + (hi - lo) / 2;
        if (ring_at(t, mid)->seq < seq)
            lo = mid + 1;
        else
            hi = mid;
    }
    *ret_id = lo;
    return lo == t->end ? NULL : ring_at(t, lo);
}

struct tail_entry *ring_next(const struct tail *t, uint64_t *id) {
    return ++*id >= t->end ? NULL : ring_at(t, *id);
}

/* Moves *pos to the first transaction at or after it in the ring; NULL = none. */
static struct tail_entry *ring_seek(const struct tail *t, struct lane_pos *pos) {
    uint64_t id;
    struct tail_entry *e = ring_find(t, pos->seq, &id);

    if (e && e->seq == pos->seq && (uint32_t)ordinal_of(*pos) >= e->n)
        e = ring_next(t, &id);
    if (e && e->seq != pos->seq)
        *pos = (struct lane_pos){.seq = e->seq};
    return e;
}

static struct chunk_item *chunk_find(struct chunk *c, struct lane_pos pos) {
    size_t lo = 0, hi = c->n;

    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        if (lane_pos_cmp(c->items[mid].pos, pos) < 0)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo == c->n ? NULL : &c->items[lo];
}

static enum tail_found give(struct tail_item *ret, struct chunk_item *i) {
    *ret = (struct tail_item){.pos = i->pos, .at_us = i->at_us, .tx = &i->tx, .content = i->content, .from_log = true};
    return TAIL_ITEM;
}

static struct lane_pos whole(struct lane_pos p) {
    return (struct lane_pos){p.seq, ordinal_of(p) * LIMIT_MESSAGES_HARD};
}

bool tail_skip(struct tail *t, struct lane_pos *pos) {
    struct lane_pos p = *pos;

    if (p.seq < t->first_seq || ring_seek(t, &p))
        return false;
    if (pos->seq < t->next_seq)
        *pos = (struct lane_pos){.seq = t->next_seq};
    return true;
}

enum tail_found tail_next(struct tail *t, struct tail_reader *r, struct lane_pos *pos, struct tail_item *ret) {
    if (r->refill)
        return TAIL_WAIT;
    if (pos->seq >= t->first_seq) {
        struct tail_entry *e = ring_seek(t, pos);
        if (!e) {
            tail_release(t, r);
            tail_skip(t, pos);
            return TAIL_END;
        }
        struct lane_confirmed *c = &e->conf[ordinal_of(*pos)];
        if (c->content) {
            if (r->chunk && lane_pos_cmp(r->chunk->end, *pos) <= 0)
                tail_release(t, r);
            *ret = (struct tail_item){.pos = whole(*pos), .at_us = e->at_us, .tx = &c->tx, .content = c->content};
            return TAIL_ITEM;
        }
        struct chunk_item *i = r->chunk ? chunk_find(r->chunk, whole(*pos)) : NULL;
        if (i && lane_pos_cmp(i->pos, whole(*pos)) == 0)
            return give(ret, i);
    } else if (r->chunk && r->chunk->complete && lane_pos_cmp(*pos, r->chunk->begin) >= 0) {
        struct chunk_item *i = chunk_find(r->chunk, whole(*pos));
        if (i) {
            if (lane_pos_cmp(i->pos, whole(*pos)) != 0)
                *pos = i->pos;
            return give(ret, i);
        }
        if (lane_pos_cmp(*pos, r->chunk->end) < 0)
            *pos = r->chunk->end;
        if (pos->seq >= t->first_seq) { /* caught up with the ring */
            tail_release(t, r);
            return tail_next(t, r, pos, ret);
        }
    }
    tail_release(t, r);
    refill_want(t, r, whole(*pos));
    return TAIL_WAIT;
}
