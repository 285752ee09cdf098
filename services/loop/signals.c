/*
 * SIGTERM, SIGINT and SIGHUP as ordinary callbacks of one loop. libuv's handler only writes to a pipe, so it does not
 * matter which thread the kernel picks. The memory goes when the last of the three handles is closed.
 */
#include "base/mem.h"
#include "loop/loop_private.h"

#include <signal.h>

enum { SIGNALS = 3 };
static const int numbers[SIGNALS] = {SIGTERM, SIGINT, SIGHUP};

struct signals {
    struct loop *loop;
    uv_signal_t handles[SIGNALS];
    int open;
    void (*fn)(void *arg, int signum);
    void *arg;
};

static void on_signal(uv_signal_t *handle, int signum) {
    struct signals *s = handle->data;
    s->fn(s->arg, signum);
}

static void on_closed(uv_handle_t *handle) {
    struct signals *s = handle->data;
    if (--s->open == 0)
        mem_free(s);
}

/* Closes the handles that were initialised, which is not all of them when signals_new() failed half-way. */
static void close_handles(struct signals *s) {
    int open = s->open;

    if (open == 0)
        mem_free(s);
    for (int i = 0; i < open; i++)
        uv_close((uv_handle_t *)&s->handles[i], on_closed);
}

int signals_new(struct loop *l, void (*fn)(void *arg, int signum), void *arg, struct signals **ret) {
    ASSERT(loop_is_mine(l));
    struct signals *s = mem_zalloc(sizeof(*s));
    if (!s)
        return -ENOMEM;
    s->loop = l;
    s->fn = fn;
    s->arg = arg;
    for (int i = 0; i < SIGNALS; i++) {
        int r = uv_signal_init(&l->uv, &s->handles[i]);
        if (r == 0) {
            s->handles[i].data = s;
            s->open++;
            r = uv_signal_start(&s->handles[i], on_signal, numbers[i]);
        }
        if (r < 0) {
            close_handles(s);
            return r;
        }
    }
    *ret = s;
    return 0;
}

void signals_free(struct signals *s) {
    if (!s)
        return;
    ASSERT(loop_is_mine(s->loop));
    close_handles(s);
}
