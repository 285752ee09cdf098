/*
 * A lane, a reader and a web client whose every answer the test gives by hand. Included by one .c file per executable:
 * these definitions stand in for those of the libraries.
 */
#pragma once

#include "base/clock.h"
#include "store/lane.h"
#include "store/read.h"
#include "webclient/webclient.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

/* --- lane --- */

enum { FAKE_MAX = 4096 };

struct lane_batch {
    int room; /* rows that still fit */
    int added;
    struct fake_check {
        struct uuid tx;
        char producer[64];
        int64_t due_us;
    } checks[FAKE_MAX];
    int checks_n;
    struct check_finish ends[FAKE_MAX];
    int ends_n;
    struct fake_progress {
        int32_t target;
        struct lane_pos pos;
    } progress[16];
    int progress_n;
};

struct lane {
    int32_t number;
    struct list riders, ops;
    bool full; /* takes no operation */
    int kicks;
    struct lane_batch b;
};

void lane_add_rider(struct lane *l, struct lane_rider *r) {
    r->added = false;
    list_add_tail(&l->riders, &r->link);
}
void lane_remove_rider(struct lane *l, struct lane_rider *r) {
    list_del(&r->link);
}
int lane_submit(struct lane *l, struct lane_op *op) {
    if (l->full)
        return 1;
    list_add_tail(&l->ops, &op->link);
    return 0;
}
void lane_kick(struct lane *l, uint64_t within_ms) {
    l->kicks++;
}
int32_t lane_number(const struct lane *l) {
    return l->number;
}
int lane_add_check(struct lane_batch *b, const struct uuid *tx, const char *producer, int64_t due_us) {
    if (b->room == 0)
        return LANE_FULL;
    struct fake_check *c = &b->checks[b->checks_n++];
    *c = (struct fake_check){.tx = *tx, .due_us = due_us};
    snprintf(c->producer, sizeof(c->producer), "%s", producer);
    b->room--;
    b->added++;
    return 0;
}
int lane_add_check_finish(struct lane_batch *b, const struct check_finish *f) {
    if (b->room == 0)
        return LANE_FULL;
    b->ends[b->ends_n++] = *f;
    b->room--;
    b->added++;
    return 0;
}
int lane_add_progress(struct lane_batch *b, int32_t target, struct lane_pos pos) {
    if (b->progress_n == (int)ARRAY_LEN(b->progress))
        return LANE_FULL;
    b->progress[b->progress_n++] = (struct fake_progress){target, pos};
    b->added++;
    return 0;
}

static void fake_lane_init(struct lane *l, int32_t number) {
    memset(l, 0, sizeof(*l));
    l->number = number;
    list_init(&l->riders);
    list_init(&l->ops);
}

/* Forms a batch with room for so many rows; true if somebody added something. */
static bool fake_collect(struct lane *l, int room) {
    l->b.added = l->b.checks_n = l->b.ends_n = l->b.progress_n = 0;
    l->b.room = room;
    LIST_FOR (e, &l->riders) {
        struct lane_rider *r = LIST_ENTRY(e, struct lane_rider, link);
        int before = l->b.added;
        r->collect(r->arg, &l->b);
        r->added = l->b.added > before;
    }
    return l->b.added > 0;
}

static void fake_end(struct lane *l, bool committed) {
    LIST_FOR_SAFE (e, &l->riders) {
        struct lane_rider *r = LIST_ENTRY(e, struct lane_rider, link);
        if (!r->added)
            continue;
        r->added = false;
        if (committed)
            r->committed(r->arg, 0);
        else
            r->lost(r->arg);
    }
}

/* The cursor that the batch writes for a target, or -1. */
static inline int32_t fake_progress(const struct lane *l, int32_t target) {
    for (int i = 0; i < l->b.progress_n; i++) {
        if (l->b.progress[i].target == target)
            return l->b.progress[i].pos.seq;
    }
    return -1;
}

/* --- reader: one request of each kind at a time --- */

struct reader {
    struct {
        reader_undecided_fn *fn;
        void *arg;
        int32_t lane;
        int cls;
        struct lane_pos pos;
    } undecided;
    struct {
        reader_cursors_fn *fn;
        void *arg;
        int32_t lane;
    } cursors;
    struct {
        reader_checks_fn *fn;
        void *arg;
        struct check_ask asks[64];
        char names[64][64];
        size_t n;
        int64_t lease_ms;
    } claim;
    struct {
        reader_contents_fn *fn;
        void *arg;
        struct uuid ids[256];
        size_t n;
    } contents;
};

bool reader_ready(const struct reader *r) {
    return true;
}
int reader_undecided(struct reader *r, int32_t lane, int delay_class, struct lane_pos pos, size_t max_ids,
                     reader_undecided_fn *fn, void *arg) {
    assert_null(r->undecided.fn);
    r->undecided.fn = fn;
    r->undecided.arg = arg;
    r->undecided.lane = lane;
    r->undecided.cls = delay_class;
    r->undecided.pos = pos;
    return 0;
}
int reader_cursors(struct reader *r, int32_t lane, reader_cursors_fn *fn, void *arg) {
    assert_null(r->cursors.fn);
    r->cursors.fn = fn;
    r->cursors.arg = arg;
    r->cursors.lane = lane;
    return 0;
}
int reader_claim_checks(struct reader *r, const struct check_ask *asks, size_t n, int64_t lease_ms,
                        reader_checks_fn *fn, void *arg) {
    assert_null(r->claim.fn);
    assert_in_range(n, 1, 64);
    r->claim.fn = fn;
    r->claim.arg = arg;
    r->claim.n = n;
    r->claim.lease_ms = lease_ms;
    for (size_t i = 0; i < n; i++) {
        assert_true(asks[i].slots > 0);
        snprintf(r->claim.names[i], sizeof(r->claim.names[i]), "%s", asks[i].producer);
        r->claim.asks[i] = (struct check_ask){r->claim.names[i], asks[i].slots};
    }
    return 0;
}
int reader_contents(struct reader *r, const struct uuid *ids, size_t n, size_t max_bytes, reader_contents_fn *fn,
                    void *arg) {
    assert_null(r->contents.fn);
    assert_in_range(n, 1, ARRAY_LEN(r->contents.ids));
    r->contents.fn = fn;
    r->contents.arg = arg;
    r->contents.n = n;
    memcpy(r->contents.ids, ids, n * sizeof(*ids));
    return 0;
}

/* As reader_free() does: what is under way ends. */
static void fake_reader_end(struct reader *r) {
    if (r->undecided.fn)
        TAKE(r->undecided.fn)(r->undecided.arg, -ECANCELED, NULL, 0, (struct lane_pos){0, 0});
    if (r->cursors.fn)
        TAKE(r->cursors.fn)(r->cursors.arg, -ECANCELED, NULL, 0, 0);
    if (r->claim.fn)
        TAKE(r->claim.fn)(r->claim.arg, -ECANCELED, NULL, 0);
    if (r->contents.fn)
        TAKE(r->contents.fn)(r->contents.arg, -ECANCELED, NULL, 0);
}

/* --- web client --- */

struct web_call {
    struct list link;
    struct webclient *client;
    void (*done)(void *arg, const struct web_response *resp);
    void *arg;
    char url[128], id[UUID_TEXT];
    bool is_signed;
};
struct webclient {
    struct list calls;
    int posts, in_flight, max;
};

int webclient_post(struct webclient *w, const struct web_request *r,
                   void (*done)(void *arg, const struct web_response *resp), void *arg, struct web_call **ret) {
    if (strncmp(r->url, "http", 4) != 0)
        return -EINVAL;
    if (w->in_flight == w->max)
        return 1;
    struct web_call *c = mem_zalloc(sizeof(*c));
    assert_non_null(c);
    c->client = w;
    c->done = done;
    c->arg = arg;
    snprintf(c->url, sizeof(c->url), "%s", r->url);
    for (const char *const *h = r->headers; *h; h++) {
        sscanf(*h, "webhook-id: %36s", c->id);
        c->is_signed |= !strncmp(*h, "webhook-signature: v1,", 22);
    }
    list_add_tail(&w->calls, &c->link);
    w->posts++;
    w->in_flight++;
    *ret = c;
    return 0;
}

static void fake_respond(struct web_call *c, const struct web_response *resp) {
    void (*done)(void *arg, const struct web_response *resp) = c->done;
    void *arg = c->arg;

    list_del(&c->link);
    c->client->in_flight--;
    mem_free(c);
    done(arg, resp);
}

void webclient_cancel(struct web_call *c) {
    fake_respond(c, &(struct web_response){.result = WEB_CANCELLED, .error = "cancelled"});
}

/* --- store --- */

int64_t store_now_us(const struct store *s) {
    return clock_real_us();
}
