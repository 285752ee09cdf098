/*
 * The two sinks that acknowledge everything: `discard` for benches, and `log` for development, which writes one line for each
 * message into the daemon's log, never its body. What was taken in one turn of the loop ends in the next: one timer, and no
 * allocation for a delivery.
 */
#include "base/log.h"
#include "base/mem.h"
#include "forward/sink.h"

struct accept_sink {
    struct sink sink;
    const char *log; /* the subscription's name; NULL: no lines */
    struct list taken;
    uint32_t taken_n, taken_max;
    bool refused; /* the owner waits for `ready` */
    struct timer *timer;
};

static const char *text_or_dash(struct bytes b) {
    return b.n ? (const char *)b.p : "-";
}

static void write_line(const struct accept_sink *s, const struct delivery *d) {
    const struct msg *m = &d->content->messages[d->n];
    char id[MESSAGE_ID_TEXT];

    delivery_message_id(d, '.', id);
    LOG_INFO(
        "forward",
        "message %s subscription=%s producer=%s topic=%s key=%s business_key=%s content_type=%s bytes=%zu attempt=%d",
        id, s->log, text_or_dash(d->content->producer), text_or_dash(m->topic), text_or_dash(m->key),
        text_or_dash(d->content->business_key), text_or_dash(m->content_type), m->body.n, (int)d->attempt);
}

static void on_timer(void *arg) {
    struct accept_sink *s = arg;
    struct list done = LIST_INIT(done), *e;

    list_splice_tail(&done, &s->taken);
    s->taken_n = 0;
    while ((e = list_pop(&done))) {
        struct delivery *d = LIST_ENTRY(e, struct delivery, link);
        if (s->log)
            write_line(s, d);
        sink_done(&s->sink, d, SINK_OK, false, -1, NULL);
    }
    if (s->refused) {
        s->refused = false;
        s->sink.owner.ready(s->sink.owner.arg);
    }
}

static int accept_deliver(struct sink *sink, struct delivery *d) {
    struct accept_sink *s = CONTAINER_OF(sink, struct accept_sink, sink);

    if (s->taken_n == s->taken_max) {
        s->refused = true;
        return SINK_BUSY;
    }
    list_add_tail(&s->taken, &d->link);
    if (s->taken_n++ == 0)
        timer_arm(s->timer, 0);
    return SINK_TAKEN;
}

static void accept_close(struct sink *sink) {
    struct accept_sink *s = CONTAINER_OF(sink, struct accept_sink, sink);
    struct list *e;

    timer_free(s->timer);
    while ((e = list_pop(&s->taken)))
        sink_done(&s->sink, LIST_ENTRY(e, struct delivery, link), SINK_RETRY, false, -1, "the sink was closed");
    mem_free(s);
}

static const struct sink_ops accept_ops = {.deliver = accept_deliver, .close = accept_close};

static int accept_new(const struct sink_env *env, const struct sink_owner *o, const char *log, uint32_t taken_max,
                      struct sink **ret, struct errmsg *e) {
    struct accept_sink *s = mem_zalloc(sizeof(*s));
    int r = s ? timer_new(env->loop, on_timer, s, &s->timer) : -ENOMEM;

    if (r < 0) {
        mem_free(s);
        return err_set(e, r, "%s", err_text(r));
    }
    s->sink = (struct sink){.ops = &accept_ops, .owner = *o};
    s->log = log;
    s->taken_max = taken_max;
    list_init(&s->taken);
    *ret = &s->sink;
    return 0;
}

int sink_discard_new(const struct sink_env *env, const struct sink_owner *o, struct sink **ret, struct errmsg *e) {
    return accept_new(env, o, NULL, 4096, ret, e);
}

int sink_log_new(const struct sink_env *env, const struct sink_owner *o, struct sink **ret, struct errmsg *e) {
    return accept_new(env, o, env->sub->name, 1024, ret, e);
}
