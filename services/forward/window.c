/* A ring of slots addressed by ever-growing ids: a delivery finds its slot without a search. @thread of the loop */
#include "forward/window.h"

#include "base/mem.h"

enum { FIRST_CAP = 64 };

void window_init(struct window *w, uint32_t max) {
    *w = (struct window){.max = MAX(MIN(max, (uint32_t)WINDOW_HARD_MAX), 1u)};
}

void window_deinit(struct window *w) {
    mem_free(w->slots);
    *w = (struct window){.max = w->max};
}

static int grow(struct window *w) {
    uint32_t cap = w->slots ? (w->mask + 1) * 2 : FIRST_CAP;
    struct window_slot *slots = mem_calloc(cap, sizeof(*slots));

    if (!slots)
        return -ENOMEM;
    for (uint64_t id = w->head; id != w->tail; id++)
        slots[id & (cap - 1)] = w->slots[id & w->mask];
    mem_free(w->slots);
    w->slots = slots;
    w->mask = cap - 1;
    return 0;
}

int window_room(struct window *w) {
    if (window_count(w) >= w->max)
        return 1;
    if (!w->slots || window_count(w) > w->mask)
        return grow(w);
    return 0;
}

uint64_t window_push(struct window *w, struct lane_pos pos, void *item) {
    ASSERT(w->slots && window_count(w) <= w->mask);
    ASSERT(w->head == w->tail || lane_pos_cmp(w->slots[(w->tail - 1) & w->mask].pos, pos) < 0);
    w->slots[w->tail & w->mask] = (struct window_slot){.pos = pos, .state = WINDOW_FLIGHT, .item = item};
    w->in_flight++;
    return w->tail++;
}

struct window_slot *window_slot(struct window *w, uint64_t id) {
    ASSERT(id - w->head < w->tail - w->head);
    return &w->slots[id & w->mask];
}

void window_settle(struct window *w, uint64_t id, enum window_state state) {
    struct window_slot *s = window_slot(w, id);

    ASSERT(s->state == WINDOW_FLIGHT && state != WINDOW_FLIGHT);
    s->state = state;
    w->in_flight--;
}

struct window_slot *window_head(struct window *w) {
    return w->head == w->tail ? NULL : &w->slots[w->head & w->mask];
}

uint32_t window_leading_done(struct window *w) {
    uint32_t n = 0;

    while (w->head + n != w->tail && w->slots[(w->head + n) & w->mask].state == WINDOW_DONE)
        n++;
    return n;
}

void window_pop(struct window *w) {
    ASSERT(w->head != w->tail && w->slots[w->head & w->mask].state != WINDOW_FLIGHT);
    w->head++;
}

struct lane_pos window_mark(struct window *w, struct lane_pos read) {
    struct window_slot *s = window_head(w);

    return s ? s->pos : read;
}
