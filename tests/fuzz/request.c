/*
 * Requests of the message service from their wire bytes to a lane: the check on the wire, protobuf-c, the real handlers with
 * their validation, and the answer. The call, the worker and the store are stand-ins defined here, so that the real ones
 * are not linked: the worker ends each operation at once, with an outcome that the input chooses.
 *
 * Input: method, outcome, request.
 */
#include "message/message_private.h"

#include "base/clock.h"
#include "fuzz.h"
#include "rpc/payload.h"
#include "rpc/status.h"
#include "rpc/wire.h"

#define NOW_MS 1767225600000ll /* 2026-01-01; ids of the corpus lie around it */

struct rpc_call {
    struct arena arena;
    ProtobufCAllocator allocator;
    const ProtobufCMessage *request;
    const struct rpc_method *method;
    int replies;
};

static enum op_outcome outcome;
static unsigned choice;

/* --- the call --- */

const ProtobufCMessage *rpc_call_request(const struct rpc_call *c) {
    return c->request;
}
struct arena *rpc_call_arena(struct rpc_call *c) {
    return &c->arena;
}
uint64_t rpc_call_deadline_ns(const struct rpc_call *c) {
    UNUSED(c);
    return clock_mono_ns() + NS_PER_S;
}
const char *rpc_call_metadata(const struct rpc_call *c, const char *key) {
    UNUSED(c);
    UNUSED(key);
    return NULL;
}
void rpc_reply(struct rpc_call *c, const ProtobufCMessage *response) {
    c->replies++;
    FUZZ_CHECK(response->descriptor == c->method->response);
    size_t n = protobuf_c_message_get_packed_size(response);
    CLEANUP_FREE uint8_t *p = mem_alloc(n);
    FUZZ_CHECK(p && protobuf_c_message_pack(response, p) == n);
    struct wire_fault f; /* what we send, stock clients must be able to read */
    FUZZ_CHECK(wire_check(response->descriptor, bytes_of(p, n), WIRE_FROM_CLIENT, &f) == 0);
}
void rpc_fail(struct rpc_call *c, const struct rpc_error *err) {
    struct bytes packed;
    struct status_details d;
    c->replies++;
    FUZZ_CHECK(err->code != RPC_OK && err->reason && err->message);
    FUZZ_CHECK(status_pack(err, &c->arena, &packed) == 0 && status_unpack(packed, &c->arena, &d) == 0);
}
void rpc_call_finish(struct rpc_call *c, void (*fn)(struct rpc_call *c, void *arg), void *arg) {
    fn(c, arg);
}

void rpc_wake(struct rpc_server *s) {
    UNUSED(s);
}

/* Nothing here opens a stream; without these the linker would bring the real room. */
#define NEVER(type, name, ...)                                                                                         \
    type name(__VA_ARGS__) {                                                                                           \
        UNREACHABLE();                                                                                                 \
    }
#pragma GCC diagnostic ignored "-Wunused-parameter"
NEVER(void *, rpc_stream_user, const struct rpc_stream *s)
NEVER(void *, rpc_stream_data, const struct rpc_stream *s)
NEVER(void, rpc_stream_set_data, struct rpc_stream *s, void *data)
NEVER(struct arena *, rpc_stream_arena, struct rpc_stream *s)
NEVER(const char *, rpc_stream_metadata, struct rpc_stream *s, const char *key)
NEVER(uint64_t, rpc_stream_deadline_ns, const struct rpc_stream *s)
NEVER(void, rpc_stream_pause, struct rpc_stream *s, bool paused)
NEVER(bool, rpc_stream_may_send, const struct rpc_stream *s)
NEVER(void, rpc_stream_send_bytes, struct rpc_stream *s, struct bytes message)
NEVER(void, rpc_stream_fail, struct rpc_stream *s, const struct rpc_error *err)
NEVER(void, rpc_stream_end, struct rpc_stream *s)
NEVER(void, rpc_stream_hold, struct rpc_stream *s)
NEVER(void, rpc_stream_release, struct rpc_stream *s)
NEVER(void, rpc_stream_signal, struct rpc_stream *s)

/* --- the worker and what it reads --- */

struct message_worker *worker_of(const struct message_service *m, const struct uuid *id) {
    UNUSED(m);
    UNUSED(id);
    return NULL;
}
int worker_index(const struct message_worker *w) {
    UNUSED(w);
    return 0;
}
static void settle(struct item *i) {
    FUZZ_CHECK((i->op.kind == OP_PREPARE || i->op.kind == OP_PUBLISH) == (i->op.content != NULL));
    FUZZ_CHECK(!i->op.content || (i->op.content->messages_n >= 1 && i->op.content->messages_n <= LIMIT_MESSAGES_HARD));
    FUZZ_CHECK(uuid_is_v7(&i->op.id));
    i->op.outcome = outcome;
    i->op.state = choice & 1 ? TX_CONFIRMED : TX_CANCELLED;
    i->op.decided_by = TX_ORIGIN_CHECK;
    snprintf(i->op.why, sizeof(i->op.why), "refused");
    i->done(i);
}
void worker_put(struct message_worker *w, struct list *items) {
    UNUSED(w);
    for (struct list *e; (e = list_pop(items));)
        settle(LIST_ENTRY(e, struct item, link));
}
void worker_flush(struct message_worker *w) {
    UNUSED(w);
}
void outbox_put(struct outbox *o, struct item *i) {
    UNUSED(o);
    UNUSED(i);
    UNREACHABLE();
}
void item_overloaded(struct rpc_error *err) {
    *err = (struct rpc_error){.code = RPC_RESOURCE_EXHAUSTED, .reason = "OVERLOADED", .message = "overloaded"};
}
int worker_query(struct message_worker *w, struct list *query) {
    if (choice & 0x40)
        return 1;
    query_run(query, NULL, w);
    return 0;
}
void worker_wake(struct message_worker *w) {
    UNUSED(w);
}
struct pg_conn *reader_people(struct reader *r) {
    UNUSED(r);
    return NULL;
}
int view_get(struct pg_conn *c, const struct uuid *id, bool bodies, bool history, view_tx_fn *fn, void *arg) {
    UNUSED(history);
    UNUSED(c);
    UNUSED(id);
    UNUSED(bodies);
    if (choice & 0x20)
        return -ENOMEM;
    fn(arg, choice & 0x10 ? -EIO : 0, NULL);
    return 0;
}
int view_past(struct pg_conn *c, const struct uuid *id, view_past_fn *fn, void *arg) {
    UNUSED(c);
    UNUSED(id);
    fn(arg, choice & 0x10 ? -EIO : 0, choice & 1);
    return 0;
}
int view_list(struct pg_conn *c, const struct store *s, const struct view_filter *f, view_list_fn *fn, void *arg) {
    UNUSED(c);
    UNUSED(s);
    FUZZ_CHECK(f->limit >= 1 && f->limit <= 1000 && f->start_us >= 0 && f->end_us >= f->start_us);
    if (choice & 0x20)
        return -ENOMEM;
    fn(arg, choice & 0x10 ? -EIO : 0, NULL, 0);
    return 0;
}

/* --- the service --- */

static const struct rpc_method *methods(size_t *n) {
    static struct message_service *m;
    static struct store s;
    if (!m) {
        struct message_options o = {0};
        struct errmsg e;
        limits_default(&o.limits);
        store_clock_observe(&s, NOW_MS * 1000, clock_boot_ns(), clock_boot_ns());
        s.partition_seconds = 86400;
        atomic_store(&s.window_lo_ms, NOW_MS - 8 * 86400000ll);
        atomic_store(&s.window_hi_ms, NOW_MS + 3 * 86400000ll);
        struct topology *t = topology_new(1);
        FUZZ_CHECK(message_service_new(&s, &o, 1, &m) == 0 && t);
        FUZZ_CHECK(topology_add_topic(t, "t", NULL, &e) == 0 && topology_add_producer(t, "p", NULL, &e) == 0);
        message_service_topology(m, t);
        topology_unref(t);
    }
    return message_service_methods(m, n);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    size_t n;
    const struct rpc_method *m = methods(&n);
    struct rpc_call c = {.method = &m[fuzz_choice(&data, &size) % n]};
    struct wire_fault fault;
    choice = fuzz_choice(&data, &size);
    outcome = (enum op_outcome)(choice % (OP_SHUTDOWN + 1));
    struct bytes in = bytes_of(data, size);
    if (wire_check(c.method->request, in, WIRE_FROM_CLIENT, &fault)) {
        FUZZ_CHECK(fault.reason && fault.description && text_valid(bytes_str(fault.field)));
        return 0;
    }
    arena_init(&c.arena, 64 << 20);
    c.allocator = payload_allocator(&c.arena);
    c.request = protobuf_c_message_unpack(c.method->request, &c.allocator, in.n, in.p);
    FUZZ_CHECK(c.request);
    c.method->handle(&c, c.method->user);
    FUZZ_CHECK(c.replies == 1);
    arena_deinit(&c.arena);
    return 0;
}
