/*
 * Why: one bound over all callers. A connection is bounded by core (its streams, the size of a message), but thousands
 * of connections times thousands of calls are not; and a caller that opens no window for the answer would keep the call
 * with all it holds for as long as it likes.
 *
 * A call holds its message while it is checked, then its arena, then arena and answer. What the handlers made of it and
 * passed on (contents in queues, caches, tails) is bounded where it is. Only an arrival is refused: a call that is
 * inside may grow up to the bound of its arena, so the sum may pass the bound by what the calls inside add.
 *
 * The answer that refuses has no message, so that no window can hold it up. Some calls for health are answered when
 * others are refused, or a full server would be taken for a dead one.
 */
#include "rpc/budget.h"

#include "base/clock.h"

enum {
    VITAL_BYTES = 4096,   /* a call for health has no more, */
    VITAL_CALLS = 64,     /* and so many at a time need no room */
    CALL_COST = 20 << 10, /* what a call takes beside its message and answer, in core and here; measured */
};

void budget_init(struct rpc_thread *t) {
    const struct rpc_server_options *o = &t->server->options;

    list_init(&t->replying);
    t->held_max = o->memory_bytes / o->threads;
    t->live_max = MAX(o->max_calls / o->threads, 1);
}

/* The call holds so much now, whatever it held before. */
static void hold(struct rpc_call *c, size_t bytes) {
    c->thread->held += (int64_t)bytes - (int64_t)c->held;
    c->held = bytes;
}

static void refuse(struct rpc_call *c, const char *why) {
    grpc_byte_buffer_destroy(TAKE(c->payload));
    hold(c, 0);
    rpc_fail(c, &(struct rpc_error){
                    .code = RPC_RESOURCE_EXHAUSTED, .reason = "OVERLOADED", .message = why, .retry_after_ms = 200});
}

bool budget_admit(struct rpc_call *c) {
    struct rpc_thread *t = c->thread;
    size_t n = c->payload ? grpc_byte_buffer_length(c->payload) : 0;

    hold(c, CALL_COST + n);
    c->vital = c->method->vital && n <= VITAL_BYTES && t->vital < VITAL_CALLS;
    t->vital += c->vital;
    if (c->vital)
        return true;
    if (t->live > t->live_max)
        refuse(c, "too many calls are under way; nothing was stored");
    else if (t->held > t->held_max)
        refuse(c, "the calls under way hold all the memory they may; nothing was stored");
    else
        return true;
    return false;
}

void budget_unpacked(struct rpc_call *c) {
    hold(c, CALL_COST + c->arena.used);
}

void budget_replying(struct rpc_call *c) {
    hold(c, CALL_COST + c->arena.used + (c->response ? grpc_byte_buffer_length(c->response) : 0));
    c->replying_ns = clock_mono_ns();
    list_add_tail(&c->thread->replying, &c->link);
}

void budget_release(struct rpc_call *c) {
    list_del(&c->link);
    hold(c, 0);
    c->thread->vital -= c->vital;
    c->vital = false;
}

void budget_sweep(struct rpc_thread *t) {
    uint64_t now = clock_mono_ns(), max = (uint64_t)t->server->options.reply_ms * NS_PER_MS;

    while (!list_empty(&t->replying)) {
        struct rpc_call *c = LIST_ENTRY(t->replying.next, struct rpc_call, link);

        if (now - c->replying_ns < max)
            return;
        list_del(&c->link); /* its tag comes back soon */
        grpc_call_cancel_with_status(c->core, GRPC_STATUS_DEADLINE_EXCEEDED, "the answer was not read in time", NULL);
    }
}
