/*
 * The sink for development: one line for each message in the daemon's log, never its body. What was taken in one turn
 * of the loop is written and acknowledged in the next.
 */
#include "base/log.h"
#include "base/mem.h"
#include "forward/sink.h"

enum { TAKEN_MAX = 1024 };

struct log_sink {
    struct sink sink;
    const char *subscription;
    struct list taken;
    uint32_t taken_n;
    bool refused; /* the owner waits for `ready` */
    struct timer *timer;
};

static const char *text_or_dash(struct bytes b) {
    return b.n ? (const char *)b.p : "-";
}

static void write_line(const struct log_sink *s, const struct delivery *d) {
    const struct msg *m = &d->content->messages[d->n];
    char id[MESSAGE_ID_TEXT];

    delivery_message_id(d, '.', id);
    LOG_INFO(
        "forward",
        "message %s subscription=%s producer=%s topic=%s key=%s business_key=%s content_type=%s bytes=%zu attempt=%d",
        id, s->subscription, text_or_dash(d->content->producer), text_or_dash(m->topic), text_or_dash(m->key),
        text_or_dash(d->content->business_key), text_or_dash(m->content_type), m->body.n, (int)d->attempt);
}

static void on_timer(void *arg) {
    struct log_sink *s = arg;
    struct list done = LIST_INIT(done), *e;

    list_splice_tail(&done, &s->taken);
    s->taken_n = 0;
    while ((e = list_pop(&done))) {
        struct delivery *d = LIST_ENTRY(e, struct delivery, link);
        write_line(s, d);
        sink_done(&s->sink, d, SINK_OK, false, -1, NULL);
    }
    if (s->refused) {
        s->refused = false;
        s->sink.owner.ready(s->sink.owner.arg);
    }
}

static int log_deliver(struct sink *sink, struct delivery *d) {
    struct log_sink *s = CONTAINER_OF(sink, struct log_sink, sink);

    if (s->taken_n == TAKEN_MAX) {
        s->refused = true;
        return SINK_BUSY;
    }
    list_add_tail(&s->taken, &d->link);
    if (s->taken_n++ == 0)
        timer_arm(s->timer, 0);
    return SINK_TAKEN;
}

static void log_close(struct sink *sink) {
    struct log_sink *s = CONTAINER_OF(sink, struct log_sink, sink);
    struct list *e;

    timer_free(s->timer);
    while ((e = list_pop(&s->taken)))
        sink_done(&s->sink, LIST_ENTRY(e, struct delivery, link), SINK_RETRY, false, -1, "the sink was closed");
    mem_free(s);
}

static const struct sink_ops log_ops = {.deliver = log_deliver, .close = log_close};

int sink_log_new(const struct sink_env *env, const struct sink_owner *o, struct sink **ret, struct errmsg *e) {
    struct log_sink *s = mem_zalloc(sizeof(*s));
    int r = s ? timer_new(env->loop, on_timer, s, &s->timer) : -ENOMEM;

    if (r < 0) {
        mem_free(s);
        return err_set(e, r, "%s", err_text(r));
    }
    s->sink = (struct sink){.ops = &log_ops, .owner = *o};
    s->subscription = env->sub->name;
    list_init(&s->taken);
    *ret = &s->sink;
    return 0;
}
