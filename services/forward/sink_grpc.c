/*
 * gRPC: a call of ConsumerService.Deliver for each message, on the process's asynchronous client.
 *
 * A call belongs to the client's thread from rpc_caller_call() until it stands in the mailbox; it brings back what the
 * answer means, and the loop decides. The way back is counted by the sink and by every call, so a closed sink forgets
 * its calls: they are cancelled, find no mailbox any more and free themselves, whenever that is.
 *
 * `current` is the endpoint that new attempts begin with. One that gives no answer loses that place to the next. Only
 * what was surely not sent goes to the next endpoint within the same attempt, for that cannot make a duplicate.
 */
#include "base/clock.h"
#include "base/mem.h"
#include "forward/event.h"
#include "forward/grpc_message.h"
#include "forward/way_home.h"

enum {
    CALLS_MAX = 1024,      /* of one sink */
    BYTES_MAX = 16 << 20,  /* that they hold; a single one may be larger */
    CALL_BYTES = 4096,     /* what a call costs beside its message, about */
    ARENA_BYTES = 1 << 20, /* pointers and headers of one request, without its body */
    READY_AGAIN_MS = 20,
};

struct grpc_call {
    struct list link; /* in the mailbox, or failed */
    struct way_home *way;
    struct delivery *delivery; /* of the loop's side only */
    size_t bytes;
    uint64_t deadline_ns;
    int endpoint, tried;
    struct grpc_answer answer;
};

struct grpc_sink {
    struct sink sink;
    const struct sub_conf *sub;
    struct rpc_caller *caller;
    struct way_home *way;
    struct list out;    /* deliveries of calls that are not back */
    struct list failed; /* calls that could not be started */
    size_t out_n, out_bytes;
    int current;
    bool refused, closing;
    struct timer *timer; /* failed calls, or `ready` without a call under way */
};

/* --- calls --- */

/* @thread of the caller */
static void on_outcome(void *arg, const struct rpc_outcome *o) {
    struct grpc_call *c = arg;

    grpc_answer_judge(o, &c->answer);
    way_home_bring(c->way, &c->link, c);
}

/* As rpc_caller_call(). */
static int call_start(struct grpc_sink *s, struct grpc_call *c) {
    uint64_t now_ns = clock_mono_ns();
    struct arena a;
    struct event ev;
    int r = -ENOMEM;

    event_of(c->delivery, &ev);
    arena_init(&a, ARENA_BYTES);
    const Txmsg__V1__DeliverRequest *m = grpc_request(&a, c->delivery, s->sub->name);
    if (m) {
        struct rpc_call_request q = {.target = s->sub->sink.grpc.endpoints[c->endpoint] + strlen(POLICY_GRPC),
                                     .path = "/txmsg.v1.ConsumerService/Deliver",
                                     .request = &m->base,
                                     .response = &txmsg__v1__deliver_response__descriptor,
                                     .group = s->way,
                                     .done = on_outcome,
                                     .arg = c};
        q.timeout_ms = c->deadline_ns > now_ns ? (int64_t)((c->deadline_ns - now_ns) / NS_PER_MS) : 0;
        if (ev.traceparent.n)
            q.metadata[0] = (struct rpc_pair){"traceparent", ev.traceparent};
        if (ev.tracestate.n)
            q.metadata[1] = (struct rpc_pair){"tracestate", ev.tracestate};
        way_home_ref(s->way);
        r = rpc_caller_call(s->caller, &q);
        if (r != 0)
            way_home_unref(s->way);
    }
    arena_deinit(&a);
    return r;
}

static void leave(struct grpc_sink *s, const struct grpc_call *c) {
    list_del(&c->delivery->link);
    s->out_n--;
    s->out_bytes -= c->bytes;
}

/* True: on its way to the next endpoint. */
static bool next_endpoint(struct grpc_sink *s, struct grpc_call *c) {
    int n = s->sub->sink.grpc.endpoints_n;

    if (c->answer.elsewhere && s->current == c->endpoint)
        s->current = (c->endpoint + 1) % n;
    if (!c->answer.unsent || s->closing || c->tried >= n || clock_mono_ns() >= c->deadline_ns)
        return false;
    c->endpoint = (c->endpoint + 1) % n;
    c->tried++;
    return call_start(s, c) == 0;
}

static void come_home(struct grpc_sink *s, struct grpc_call *c) {
    struct grpc_answer answer = c->answer;
    struct delivery *d = c->delivery;

    if (next_endpoint(s, c))
        return;
    leave(s, c);
    mem_free(c);
    sink_says(d, answer.class, 0);
    sink_done(&s->sink, d, answer.verdict, answer.unknown, answer.retry_after_ms, answer.why);
}

static void tell_ready(struct grpc_sink *s) {
    if (!s->refused || s->closing)
        return;
    s->refused = false;
    s->sink.owner.ready(s->sink.owner.arg);
}

static void on_back(void *arg, struct list *items) {
    struct grpc_sink *s = arg;
    struct list *e;

    while ((e = list_pop(items)))
        come_home(s, LIST_ENTRY(e, struct grpc_call, link));
    tell_ready(s);
}

static void fail_all(struct grpc_sink *s) {
    struct list failed = LIST_INIT(failed), *e;

    list_splice_tail(&failed, &s->failed);
    while ((e = list_pop(&failed))) {
        struct grpc_call *c = LIST_ENTRY(e, struct grpc_call, link);
        struct delivery *d = c->delivery;
        leave(s, c);
        mem_free(c);
        sink_done(&s->sink, d, SINK_RETRY, false, -1, "the call could not be made: out of memory");
    }
}

static void on_timer(void *arg) {
    struct grpc_sink *s = arg;

    fail_all(s);
    tell_ready(s);
}

static int refuse(struct grpc_sink *s) {
    s->refused = true;
    if (s->out_n == 0 && !timer_armed(s->timer))
        timer_arm(s->timer, READY_AGAIN_MS);
    return SINK_BUSY;
}

static struct grpc_call *call_new(struct grpc_sink *s, struct delivery *d) {
    const struct msg *m = &d->content->messages[d->n];
    struct grpc_call *c = mem_zalloc(sizeof(*c));

    if (!c)
        return NULL;
    *c = (struct grpc_call){.way = s->way,
                            .delivery = d,
                            .bytes = CALL_BYTES + m->body.n + m->headers_json.n,
                            .deadline_ns = clock_mono_ns() + (uint64_t)s->sub->sink.grpc.timeout_ms * NS_PER_MS,
                            .endpoint = s->current,
                            .tried = 1};
    list_init(&c->link);
    return c;
}

static int grpc_deliver(struct sink *sink, struct delivery *d) {
    struct grpc_sink *s = CONTAINER_OF(sink, struct grpc_sink, sink);

    if (s->out_n == CALLS_MAX || s->out_bytes >= BYTES_MAX)
        return refuse(s);
    struct grpc_call *c = call_new(s, d);
    if (!c)
        return refuse(s);
    int r = call_start(s, c);
    if (r > 0) {
        mem_free(c);
        return refuse(s);
    }
    list_add_tail(&s->out, &d->link);
    s->out_n++;
    s->out_bytes += c->bytes;
    if (r < 0) {
        list_add_tail(&s->failed, &c->link);
        timer_arm(s->timer, 0);
    }
    return SINK_TAKEN;
}

/* --- life --- */

static void grpc_close(struct sink *sink) {
    struct grpc_sink *s = CONTAINER_OF(sink, struct grpc_sink, sink);

    s->closing = true;
    rpc_caller_cancel(s->caller, s->way);
    way_home_close(s->way);
    fail_all(s);
    timer_free(s->timer);
    while (!list_empty(&s->out)) {
        struct delivery *d = LIST_ENTRY(list_pop(&s->out), struct delivery, link);
        sink_done(&s->sink, d, SINK_RETRY, true, -1, "the sink was closed");
    }
    way_home_unref(s->way);
    mem_free(s);
}

static const struct sink_ops grpc_ops = {.deliver = grpc_deliver, .close = grpc_close};

int sink_grpc_new(const struct sink_env *env, const struct sink_owner *o, struct sink **ret, struct errmsg *e) {
    struct grpc_sink *s = env->caller ? mem_zalloc(sizeof(*s)) : NULL;
    int r = s ? timer_new(env->loop, on_timer, s, &s->timer) : -ENOMEM;

    if (!env->caller)
        return err_set(e, -ENOTSUP, "there is no gRPC client");
    if (r == 0)
        r = way_home_new(env->loop, CALLS_MAX, on_back, s, &s->way);
    if (r < 0) {
        if (s)
            timer_free(s->timer);
        mem_free(s);
        return err_set(e, r, "%s", err_text(r));
    }
    s->sink = (struct sink){.ops = &grpc_ops, .owner = *o};
    s->sub = env->sub;
    s->caller = env->caller;
    list_init(&s->out);
    list_init(&s->failed);
    *ret = &s->sink;
    return 0;
}
