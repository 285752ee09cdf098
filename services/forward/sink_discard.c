/*
 * The sink that acknowledges everything, for benches: all that was taken in one turn of the loop ends in the next.
 * One timer, no allocation for a delivery.
 */
#include "base/mem.h"
#include "forward/sink.h"

enum { TAKEN_MAX = 4096 };

struct discard {
    struct sink sink;
    struct list taken;
    uint32_t taken_n;
    bool refused; /* the owner waits for `ready` */
    struct timer *timer;
};

static void on_timer(void *arg) {
    struct discard *s = arg;
    struct list done = LIST_INIT(done), *e;

    list_splice_tail(&done, &s->taken);
    s->taken_n = 0;
    while ((e = list_pop(&done)))
        sink_done(&s->sink, LIST_ENTRY(e, struct delivery, link), SINK_OK, false, -1, NULL);
    if (s->refused) {
        s->refused = false;
        s->sink.owner.ready(s->sink.owner.arg);
    }
}

static int discard_deliver(struct sink *sink, struct delivery *d) {
    struct discard *s = CONTAINER_OF(sink, struct discard, sink);

    if (s->taken_n == TAKEN_MAX) {
        s->refused = true;
        return SINK_BUSY;
    }
    list_add_tail(&s->taken, &d->link);
    if (s->taken_n++ == 0)
        timer_arm(s->timer, 0);
    return SINK_TAKEN;
}

static void discard_close(struct sink *sink) {
    struct discard *s = CONTAINER_OF(sink, struct discard, sink);
    struct list *e;

    timer_free(s->timer);
    while ((e = list_pop(&s->taken)))
        sink_done(&s->sink, LIST_ENTRY(e, struct delivery, link), SINK_RETRY, false, -1, "the sink was closed");
    mem_free(s);
}

static const struct sink_ops discard_ops = {.deliver = discard_deliver, .close = discard_close};

int sink_discard_new(const struct sink_env *env, const struct sink_owner *o, struct sink **ret, struct errmsg *e) {
    struct discard *s = mem_zalloc(sizeof(*s));
    int r = s ? timer_new(env->loop, on_timer, s, &s->timer) : -ENOMEM;

    if (r < 0) {
        mem_free(s);
        return err_set(e, r, "%s", err_text(r));
    }
    s->sink = (struct sink){.ops = &discard_ops, .owner = *o};
    list_init(&s->taken);
    *ret = &s->sink;
    return 0;
}
