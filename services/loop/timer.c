/*
 * A one-shot timer whose owner may forget it at once: the memory stays until the loop has dropped the handle.
 *
 * Two traps of libuv 1.44 are closed here. A timer counts from the loop's cached time, so one that is armed at the end
 * of long work would fire too early: the time since the wake-up is added. And a timer armed with 0 by a timer's
 * function runs again within the same turn, for ever if it does so each time, and I/O would never be looked at: it gets
 * one millisecond.
 */
#include "base/mem.h"
#include "loop/loop_private.h"

struct timer {
    uv_timer_t uv;
    struct loop *loop;
    void (*fn)(void *arg);
    void *arg;
};

static void on_timer(uv_timer_t *handle) {
    struct timer *t = CONTAINER_OF(handle, struct timer, uv);
    struct loop *l = t->loop;

    l->in_timer = true;
    t->fn(t->arg);
    l->in_timer = false;
}

static void on_closed(uv_handle_t *handle) {
    mem_free(CONTAINER_OF((uv_timer_t *)handle, struct timer, uv));
}

int timer_new(struct loop *l, void (*fn)(void *arg), void *arg, struct timer **ret) {
    ASSERT(loop_is_mine(l));
    struct timer *t = mem_zalloc(sizeof(*t));
    if (!t)
        return -ENOMEM;
    int r = uv_timer_init(&l->uv, &t->uv);
    ASSERT(r == 0);
    t->loop = l;
    t->fn = fn;
    t->arg = arg;
    *ret = t;
    return 0;
}

void timer_arm(struct timer *t, uint64_t after_ms) {
    struct loop *l = t->loop;

    ASSERT(loop_is_mine(l) && !uv_is_closing((uv_handle_t *)&t->uv));
    if (after_ms == 0) {
        after_ms = l->in_timer ? 1 : 0;
    } else {
        uint64_t now = uv_hrtime() / 1000000u, cached = uv_now(&l->uv);
        uint64_t late = now > cached ? now - cached : 0;
        after_ms = after_ms > UINT64_MAX - late ? UINT64_MAX : after_ms + late;
    }
    int r = uv_timer_start(&t->uv, on_timer, after_ms, 0);
    ASSERT(r == 0);
}

void timer_stop(struct timer *t) {
    ASSERT(loop_is_mine(t->loop));
    uv_timer_stop(&t->uv);
}

bool timer_armed(const struct timer *t) {
    return uv_is_active((const uv_handle_t *)&t->uv);
}

void timer_free(struct timer *t) {
    if (!t)
        return;
    ASSERT(loop_is_mine(t->loop));
    uv_close((uv_handle_t *)&t->uv, on_closed);
}
