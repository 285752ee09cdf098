/*
 * A store in memory for the forwarder's tests: lanes that commit one batch at a time, readers that answer later, and a
 * sink whose verdicts are scripted. It checks what a database cannot: that no committed cursor ever passes a message
 * that was neither delivered nor written as a row.
 */
#pragma once

#include "base/clock.h"
#include "base/mem.h"
#include "forward/forward.h"
#include "forward/sink.h"

#include <setjmp.h>
#include <cmocka.h>

enum {
    FAKE_TX = 8192,
    FAKE_N = 4,     /* messages of a transaction at most */
    FAKE_SUBS = 16, /* ids 1..15 */
    FAKE_LANES = 8,
    FAKE_ENTRIES = 8192,
    FAKE_IDS = 32, /* of one entry */
};

enum fake_fate { FATE_NONE, FATE_ROW, FATE_DEAD, FATE_DISCARDED, FATE_ENDED };

struct fake_row { /* delivery_due */
    bool there, claimed;
    uint64_t due_ms;
    int32_t attempt, token, lane, seq;
};

struct fake_entry {
    int32_t seq;
    uint32_t n;
    uint32_t tx[FAKE_IDS];
};

/* A stored lane. */
struct fake_log {
    int32_t number, next_seq;
    struct fake_entry entries[FAKE_ENTRIES];
    uint32_t entries_n;
    struct lane_pos pos[FAKE_SUBS], vector[FAKE_SUBS];
    int32_t written[FAKE_SUBS]; /* seq of the newest entry that holds the cursor, 0 = none */
};

/* How a subscription's sink behaves. */
struct fake_sub {
    unsigned fail_percent, reject_percent, unknown_percent, busy_percent;
    bool down;         /* everything fails */
    unsigned delay_ms; /* at most */
    bool vanished;     /* deleted: its messages are nobody's */
    uint32_t in_flight, most, sends, oks, starts_at_tx;
    int64_t delivered, dead, discarded, spilled, told;
};

struct world {
    struct loop *loop;
    struct store store;
    struct tx_content *tx[FAKE_TX];
    int64_t at_us[FAKE_TX];
    uint32_t tx_n;
    struct fake_log log[FAKE_LANES];
    struct fake_sub sub[FAKE_SUBS];
    struct fake_row row[FAKE_SUBS][FAKE_TX][FAKE_N];
    uint8_t fate[FAKE_SUBS][FAKE_TX][FAKE_N];
    uint16_t oks[FAKE_SUBS][FAKE_TX][FAKE_N];
    uint16_t told[FAKE_SUBS][FAKE_TX][FAKE_N]; /* outcome events of its being delivered */
    uint64_t x;                                /* random */
    unsigned full_after;                       /* rider rows of one kind in a batch */
    unsigned forget_percent;                   /* payloads not in memory at the commit */
    unsigned refuse_percent;                   /* questions that fail */
    unsigned timed_percent;                    /* messages with a deliver_at or an expire_at, soon */
    unsigned timed_ms;                         /* the latter so much later */
    uint32_t log_reads, content_reads, claims, batches;
    bool store_away; /* batches are not committed */
};
extern struct world *world;

static inline unsigned fake_random(unsigned below) {
    world->x ^= world->x << 13, world->x ^= world->x >> 7, world->x ^= world->x << 17;
    return (unsigned)(world->x >> 33) % below;
}
static inline bool fake_chance(unsigned percent) {
    return percent && fake_random(100) < percent;
}
static inline uint64_t fake_now_ms(void) {
    return clock_mono_ns() / NS_PER_MS;
}
/* The number of a transaction stands in its id. */
static inline uint32_t fake_tx_of(const struct uuid *id) {
    return (uint32_t)id->b[14] << 8 | id->b[15];
}

struct fake_log *fake_log_of(int32_t number);
/* A confirmed transaction of the lane's next batch. topics: one name per message. */
void fake_confirm(struct lane *l, const char *const *topics, uint32_t n);
struct lane *fake_lane_open(struct forward *f, int32_t number);  /* new, the worker's own */
struct lane *fake_lane_adopt(struct forward *f, int32_t number); /* stored */
void fake_lane_fence(struct lane *l); /* the batch in flight is lost; the forwarder drops the lane */
void fake_lane_lose(struct lane *l);  /* the batch in flight is lost, the lane goes on */
void fake_lane_free(struct lane *l);
bool fake_lane_idle(const struct lane *l);
/* Claims of a dead worker come due at once. */
void fake_leases_end(void);
/* Nothing of this subscription is open: every message that it should get has ended. */
bool fake_settled(int32_t sub, const char *topic);

/* --- the part that is code: included by one test each --- */

struct fake_add {
    enum { ADD_PROGRESS, ADD_COUNTS, ADD_SPILL, ADD_FINISH, ADD_TOLD } kind;
    int32_t sub;
    struct lane_pos pos;
    int32_t n[4];
    struct spill spill;
    struct delivery_finish finish;
    struct uuid told;
    int16_t told_n;
};
struct lane_batch {
    struct fake_add adds[512];
    unsigned adds_n, of_kind[5];
};
struct lane {
    struct forward *f;
    struct fake_log *log;
    struct list riders;
    struct timer *timer;
    struct lane_batch b;
    uint32_t queue[FAKE_TX], queue_n; /* confirmed, for the next batches */
    uint32_t conf[FAKE_IDS], conf_n;  /* of the batch in flight */
    bool in_flight, kicked, adopted;
};
struct world *world;

struct fake_log *fake_log_of(int32_t number) {
    for (int i = 0; i < FAKE_LANES; i++)
        if (world->log[i].number == number || world->log[i].number == 0) {
            if (world->log[i].number == 0)
                world->log[i].next_seq = 1;
            world->log[i].number = number;
            return &world->log[i];
        }
    fail_msg("too many lanes");
    return NULL;
}

/* --- adders --- */

static int fake_room(struct lane_batch *b, int kind) {
    if (b->of_kind[kind] == world->full_after || b->adds_n == ARRAY_LEN(b->adds))
        return LANE_FULL;
    b->of_kind[kind]++;
    return 0;
}

int lane_add_progress(struct lane_batch *b, int32_t target, struct lane_pos pos) {
    for (unsigned i = 0; i < b->adds_n; i++)
        if (b->adds[i].kind == ADD_PROGRESS && b->adds[i].sub == target) {
            b->adds[i].pos = pos;
            return 0;
        }
    if (fake_room(b, ADD_PROGRESS))
        return LANE_FULL;
    b->adds[b->adds_n++] = (struct fake_add){.kind = ADD_PROGRESS, .sub = target, .pos = pos};
    return 0;
}

int lane_add_counts(struct lane_batch *b, int32_t sub, int32_t delivered, int32_t dead, int32_t discarded,
                    int32_t spilled) {
    if (b->adds_n == ARRAY_LEN(b->adds))
        return LANE_FULL;
    b->adds[b->adds_n++] =
        (struct fake_add){.kind = ADD_COUNTS, .sub = sub, .n = {delivered, dead, discarded, spilled}};
    return 0;
}

int lane_add_spill(struct lane_batch *b, const struct spill *s) {
    if (fake_room(b, ADD_SPILL))
        return LANE_FULL;
    assert_true(s->dead || s->expired || s->due_us || s->due_in_ms > 0);
    assert_true(s->attempt == 0 || strlen(s->error) > 0);
    b->adds[b->adds_n++] = (struct fake_add){.kind = ADD_SPILL, .sub = s->sub, .spill = *s};
    return 0;
}

int lane_add_delivery_finish(struct lane_batch *b, const struct delivery_finish *f) {
    if (fake_room(b, ADD_FINISH))
        return LANE_FULL;
    b->adds[b->adds_n++] = (struct fake_add){.kind = ADD_FINISH, .sub = f->sub, .finish = *f};
    return 0;
}

int lane_add_told(struct lane_batch *b, int32_t sub, const struct uuid *tx, int16_t n) {
    if (fake_room(b, ADD_TOLD))
        return LANE_FULL;
    b->adds[b->adds_n++] = (struct fake_add){.kind = ADD_TOLD, .sub = sub, .told = *tx, .told_n = n};
    return 0;
}

int lane_add_replay_finish(struct lane_batch *b, const struct delivery_finish *f) {
    UNUSED(b);
    UNUSED(f);
    fail();
    return LANE_FULL;
}

/* --- a commit --- */

/* Every message of the subscription before `pos` must have ended or be in a row. *passed: how many from `from` on. */
static void fake_check_passed(struct fake_log *log, int32_t sub, struct lane_pos from, struct lane_pos pos,
                              const char *topic, int *passed) {
    *passed = 0;
    for (uint32_t i = log->entries_n; i-- > 0;) {
        const struct fake_entry *e = &log->entries[i];
        if (e->seq < from.seq)
            break;
        for (uint32_t k = 0; k < e->n; k++) {
            const struct tx_content *c = world->tx[e->tx[k]];
            for (uint32_t n = 0; n < c->messages_n; n++) {
                struct lane_pos p = {e->seq, (int32_t)(k * 128 + n)};
                if (lane_pos_cmp(p, pos) >= 0 || lane_pos_cmp(p, from) < 0 ||
                    !bytes_eq_str(c->messages[n].topic, topic))
                    continue;
                ++*passed;
                if (world->fate[sub][e->tx[k]][n] == FATE_NONE)
                    fail_msg("sub %d: a cursor of lane %d passed %d/%d, which is nowhere", sub, log->number, e->seq,
                             p.index);
            }
        }
    }
}

extern const char *fake_topic_of(int32_t sub);

static void fake_spill(struct fake_add *a) {
    uint32_t t = fake_tx_of(&a->spill.tx);
    uint8_t *fate = &world->fate[a->sub][t][a->spill.n];

    if (*fate != FATE_NONE && *fate != FATE_ENDED) /* DO NOTHING */
        return;
    if (a->spill.expired)
        world->sub[a->sub].discarded++;
    else if (a->spill.dead)
        world->sub[a->sub].dead++;
    *fate = a->spill.expired ? FATE_DISCARDED : a->spill.dead ? FATE_DEAD : FATE_ROW;
    int64_t wait_ms = a->spill.due_in_ms;
    if (a->spill.due_us)
        wait_ms = MAX((a->spill.due_us - store_now_us(&world->store)) / 1000 + 1, 0);
    if (*fate == FATE_ROW)
        world->row[a->sub][t][a->spill.n] = (struct fake_row){.there = true,
                                                              .due_ms = fake_now_ms() + (uint64_t)wait_ms,
                                                              .attempt = a->spill.attempt,
                                                              .lane = a->spill.lane,
                                                              .seq = a->spill.seq};
}

/* Never before its time, and not after it expired. */
static inline void fake_check_times(const struct msg *m) {
    int64_t now_us = store_now_us(&world->store);

    assert_true(m->deliver_at_us <= now_us);
    assert_true(!m->expire_at_us || now_us < m->expire_at_us + 1000000); /* it expires while it waits in a queue */
}

static void fake_times(struct msg *m) {
    int64_t now_us = store_now_us(&world->store) + world->timed_ms * 1000;

    if (fake_chance(world->timed_percent))
        m->deliver_at_us = now_us + (int64_t)fake_random(200) * 1000 - 20000;
    if (fake_chance(world->timed_percent))
        m->expire_at_us = MAX(m->deliver_at_us, now_us) + (int64_t)fake_random(100) * 1000;
}

static void fake_told(int32_t sub, const struct uuid *tx, int16_t n) {
    uint32_t t = fake_tx_of(tx);

    assert_true(world->oks[sub][t][n] > 0);
    world->told[sub][t][n]++;
    world->sub[sub].told++;
}

/* True = the token held. */
static bool fake_finish(const struct delivery_finish *f) {
    uint32_t t = fake_tx_of(&f->tx);
    struct fake_row *r = &world->row[f->sub][t][f->n];

    if (!r->there || r->token != f->token)
        return false;
    if (f->end == DELIVERY_RETRY) {
        r->attempt = f->attempt;
        r->due_ms = fake_now_ms() + (uint64_t)f->due_in_ms;
        r->claimed = false;
        return true;
    }
    r->there = false;
    world->fate[f->sub][t][f->n] = f->end == DELIVERY_DEAD        ? FATE_DEAD
                                   : f->end == DELIVERY_DISCARDED ? FATE_DISCARDED
                                                                  : FATE_ENDED;
    if (f->end == DELIVERY_DELIVERED) {
        assert_true(world->oks[f->sub][t][f->n] > 0);
        world->sub[f->sub].delivered++;
        if (f->told)
            fake_told(f->sub, &f->tx, f->n);
    } else if (f->end == DELIVERY_DEAD) {
        world->sub[f->sub].dead++;
    } else {
        world->sub[f->sub].discarded++;
    }
    return true;
}

static void fake_apply(struct lane *l, int32_t seq, unsigned *stale) {
    struct fake_log *log = l->log;
    int counted[FAKE_SUBS] = {0}, dead_here[FAKE_SUBS] = {0}, passed;

    for (unsigned i = 0; i < l->b.adds_n; i++) {
        struct fake_add *a = &l->b.adds[i];
        if (a->kind == ADD_SPILL) {
            dead_here[a->sub] += a->spill.dead || a->spill.expired;
            fake_spill(a);
        } else if (a->kind == ADD_FINISH) {
            *stale += !fake_finish(&a->finish);
        } else if (a->kind == ADD_TOLD) {
            fake_told(a->sub, &a->told, a->told_n);
        } else if (a->kind == ADD_COUNTS) {
            world->sub[a->sub].delivered += a->n[0];
            world->sub[a->sub].spilled += a->n[3];
            assert_int_equal(a->n[1], 0); /* the lane counts what is dead */
            counted[a->sub] += a->n[0] + a->n[3];
        }
    }
    for (unsigned i = 0; i < l->b.adds_n; i++) {
        struct fake_add *a = &l->b.adds[i];
        if (a->kind != ADD_PROGRESS)
            continue;
        assert_true(lane_pos_cmp(log->pos[a->sub], a->pos) <= 0);
        fake_check_passed(log, a->sub, log->pos[a->sub], a->pos, fake_topic_of(a->sub), &passed);
        assert_int_equal(passed, counted[a->sub] + dead_here[a->sub]); /* counts are exact */
        log->pos[a->sub] = a->pos;
        log->written[a->sub] = seq;
    }
    for (int s = 1; s < FAKE_SUBS; s++) /* nobody looks back further */
        assert_true(!log->written[s] || world->sub[s].vanished || seq - log->written[s] < 1000);
}

static void fake_form(struct lane *l) {
    unsigned most = 1 + fake_random(FAKE_IDS);

    l->kicked = false;
    l->b.adds_n = 0;
    memset(l->b.of_kind, 0, sizeof(l->b.of_kind));
    LIST_FOR (e, &l->riders) {
        struct lane_rider *r = LIST_ENTRY(e, struct lane_rider, link);
        unsigned before = l->b.adds_n;
        r->collect(r->arg, &l->b);
        r->added = l->b.adds_n != before;
    }
    l->conf_n = MIN(l->queue_n, most);
    memcpy(l->conf, l->queue, l->conf_n * sizeof(l->conf[0]));
    memmove(l->queue, l->queue + l->conf_n, (l->queue_n - l->conf_n) * sizeof(l->queue[0]));
    l->queue_n -= l->conf_n;
    l->in_flight = l->conf_n || l->b.adds_n;
}

static void fake_riders_end(struct lane *l, bool committed, unsigned stale) {
    LIST_FOR_SAFE (e, &l->riders) {
        struct lane_rider *r = LIST_ENTRY(e, struct lane_rider, link);
        if (!r->added)
            continue;
        r->added = false;
        if (committed)
            r->committed(r->arg, stale);
        else
            r->lost(r->arg);
    }
}

static void fake_commit(struct lane *l) {
    struct fake_log *log = l->log;
    struct lane_confirmed conf[FAKE_IDS];
    int32_t seq = log->next_seq++;
    unsigned stale = 0;

    world->batches++;
    l->in_flight = false;
    fake_apply(l, seq, &stale);
    if (l->conf_n) {
        assert_true(log->entries_n < FAKE_ENTRIES);
        struct fake_entry *e = &log->entries[log->entries_n++];
        *e = (struct fake_entry){.seq = seq, .n = l->conf_n};
        memcpy(e->tx, l->conf, l->conf_n * sizeof(l->conf[0]));
    }
    for (uint32_t i = 0; i < l->conf_n; i++) {
        struct tx_content *c = world->tx[l->conf[i]];
        conf[i] = (struct lane_confirmed){.tx = c->id, .content = fake_chance(world->forget_percent) ? NULL : c};
        world->at_us[l->conf[i]] = store_now_us(&world->store);
    }
    forward_committed(l->f, log->number, seq, store_now_us(&world->store), conf, l->conf_n);
    fake_riders_end(l, true, stale);
}

static void fake_on_timer(void *arg) {
    struct lane *l = arg;

    timer_arm(l->timer, 1);
    if (world->store_away)
        return;
    if (l->in_flight)
        fake_commit(l);
    else if (l->queue_n || l->kicked)
        fake_form(l);
}

/* --- a lane --- */

void lane_add_rider(struct lane *l, struct lane_rider *r) {
    list_add_tail(&l->riders, &r->link);
}
void lane_remove_rider(struct lane *l, struct lane_rider *r) {
    UNUSED(l);
    list_del(&r->link);
}
void lane_kick(struct lane *l, uint64_t within_ms) {
    UNUSED(within_ms);
    l->kicked = true;
}
bool lane_ready(const struct lane *l) {
    return !world->store_away && l->log;
}

static struct lane *fake_lane_new(struct forward *f, int32_t number, bool adopted) {
    struct lane *l = mem_zalloc(sizeof(*l));

    l->f = f;
    l->log = fake_log_of(number);
    l->adopted = adopted;
    list_init(&l->riders);
    assert_int_equal(timer_new(world->loop, fake_on_timer, l, &l->timer), 0);
    timer_arm(l->timer, 1);
    assert_int_equal(forward_lane(f, l, number, adopted), 0);
    return l;
}
struct lane *fake_lane_open(struct forward *f, int32_t number) {
    return fake_lane_new(f, number, false);
}
struct lane *fake_lane_adopt(struct forward *f, int32_t number) {
    fake_log_of(number)->next_seq++; /* the seal */
    return fake_lane_new(f, number, true);
}
static void fake_lane_take_back(struct lane *l) {
    if (!l->in_flight)
        return;
    memmove(l->queue + l->conf_n, l->queue, l->queue_n * sizeof(l->queue[0]));
    memcpy(l->queue, l->conf, l->conf_n * sizeof(l->conf[0]));
    l->queue_n += l->conf_n;
    l->conf_n = 0;
    l->in_flight = false;
}
void fake_lane_lose(struct lane *l) {
    fake_lane_take_back(l);
    fake_riders_end(l, false, 0);
}
void fake_lane_fence(struct lane *l) {
    fake_lane_lose(l);
    forward_drop_lane(l->f, l->log->number);
}
void fake_lane_free(struct lane *l) {
    timer_free(l->timer);
    mem_free(l);
}
bool fake_lane_idle(const struct lane *l) {
    return !l->in_flight && !l->queue_n && !l->kicked;
}

void fake_confirm(struct lane *l, const char *const *topics, uint32_t n) {
    struct msg m[FAKE_N] = {0};
    struct uuid id;
    uint32_t t = world->tx_n++;
    static const uint8_t body[1500];

    assert_true(t < FAKE_TX);
    uuid_v7_make(1700000000000, &id);
    id.b[14] = (uint8_t)(t >> 8), id.b[15] = (uint8_t)t;
    for (uint32_t i = 0; i < n; i++)
        m[i] = (struct msg){.topic = bytes_str(topics[i]), .body = bytes_of(body, fake_random(sizeof(body)))};
    for (uint32_t i = 0; i < n; i++)
        fake_times(&m[i]);
    world->tx[t] = tx_content_new(&id, BYTES_LIT("p"), BYTES_NULL, BYTES_NULL, 0, m, n);
    assert_non_null(world->tx[t]);
    l->queue[l->queue_n++] = t;
}

void fake_leases_end(void) {
    for (int s = 1; s < FAKE_SUBS; s++)
        for (uint32_t t = 0; t < world->tx_n; t++)
            for (int n = 0; n < FAKE_N; n++)
                world->row[s][t][n].claimed = false;
}

bool fake_settled(int32_t sub, const char *topic) {
    for (uint32_t t = world->sub[sub].starts_at_tx; t < world->tx_n; t++)
        for (uint32_t n = 0; n < world->tx[t]->messages_n; n++)
            if (bytes_eq_str(world->tx[t]->messages[n].topic, topic) &&
                (world->fate[sub][t][n] == FATE_NONE || world->fate[sub][t][n] == FATE_ROW))
                return false;
    return true;
}

#include "forward_fakes_io.h"
