/*
 * The gRPC sink against a consumer in this process, by the contract of sink.h: each delivery ends once and on the loop, the bounds hold,
 * and closing does not wait for calls that nobody answers. And what the answers mean.
 */
#include "base/json.h"
#include "base/mem.h"
#include "forward/grpc_message.h"

#include <setjmp.h>
#include <cmocka.h>

enum { MANY = 1100, CALLS = 1024 };

static struct rpc_server *server;
static struct rpc_caller *caller;
static struct loop *loop;
static struct topology *topology;
static struct sink *sink;
static struct errmsg error;
static struct delivery d[MANY];
static size_t n, ended[4], unknown, ready;
static bool inside;

/* Of the rpc thread. */
static _Atomic bool keep;
static struct rpc_call *kept[MANY];
static _Atomic int kept_n;

static void ack(struct rpc_call *c, void *arg) {
    Txmsg__V1__DeliverResponse r = TXMSG__V1__DELIVER_RESPONSE__INIT;

    r.outcome = TXMSG__V1__DELIVER_RESPONSE__OUTCOME__OUTCOME_ACK;
    rpc_reply(c, &r.base);
}

static void handle(struct rpc_call *c, void *user) {
    if (atomic_load(&keep)) {
        kept[atomic_load(&kept_n)] = c; /* there before it counts */
        atomic_fetch_add(&kept_n, 1);
    } else {
        ack(c, NULL);
    }
}

static void on_done(void *arg, struct delivery *x) {
    assert_false(inside);
    assert_true(loop_is_mine(loop));
    assert_int_equal(x->attempt, 1); /* for the first time */
    x->attempt = -1;
    ended[x->verdict]++;
    unknown += x->unknown;
}

static void on_ready(void *arg) {
    assert_false(inside);
    ready++;
}

static int setup(void **state) {
    static const struct rpc_method methods[] = {{.path = "/txmsg.v1.ConsumerService/Deliver",
                                                 .request = &txmsg__v1__deliver_request__descriptor,
                                                 .response = &txmsg__v1__deliver_response__descriptor,
                                                 .handle = handle}};
    const struct rpc_server_options o = {.listen = "127.0.0.1:0"};

    assert_int_equal(rpc_server_new(&o, methods, 1, &server, &error), 0);
    assert_int_equal(rpc_server_start(server, &error), 0);
    struct rpc_caller_options co = {.in_flight = 4096};
    assert_int_equal(guard_parse("127.0.0.0/8", &co.guard, &error), 0);
    assert_int_equal(rpc_caller_new(&co, &caller, &error), 0);
    assert_int_equal(loop_new("t", &loop), 0);
    n = unknown = ready = 0;
    memset(ended, 0, sizeof(ended));
    atomic_store(&keep, false);
    atomic_store(&kept_n, 0);
    return 0;
}

static int teardown(void **state) {
    for (int i = 0; i < atomic_load(&kept_n); i++)
        rpc_call_finish(kept[i], ack, NULL);
    rpc_wake(server);
    for (size_t i = 0; i < n; i++)
        tx_content_unref(d[i].content);
    topology_unref(topology);
    loop_free(loop);
    rpc_caller_free(caller);
    rpc_server_stop(server, 1000);
    rpc_server_free(server);
    return 0;
}

/* A sink to this consumer behind an endpoint where nobody is, and `count` deliveries of so many bytes. */
static void make(size_t count, size_t bytes) {
    char spec[256];
    struct errmsg e = ERRMSG_NULL;
    struct uuid id;
    uint8_t *body = mem_zalloc(bytes);
    const struct msg m = {.topic = BYTES_LIT("orders"), .body = bytes_of(body, bytes)};

    snprintf(
        spec, sizeof(spec),
        "{\"topic\":\"orders\",\"sink\":{\"grpc\":{\"endpoints\":[\"grpc://127.0.0.1:1\",\"grpc://127.0.0.1:%d\"]}}}",
        rpc_server_port(server));
    CLEANUP_JSON json_t *j = json_parse(bytes_str(spec), NULL), *topic = json_object();
    topology = topology_new(1);
    assert_int_equal(topology_add_topic(topology, "orders", topic, &e), 0);
    if (topology_add_sub(topology, 7, "grpc", j, &e) != 0)
        fail_msg("%s", e.text);
    const struct sink_env env = {.loop = loop, .caller = caller, .sub = topology_sub(topology, 7)};
    assert_int_equal(sink_new(&env, &(struct sink_owner){.done = on_done, .ready = on_ready}, &sink, &e), 0);
    uuid_v7_make(1700000000123, &id);
    struct tx_content *c = tx_content_new(&id, BYTES_LIT("shop"), BYTES_NULL, BYTES_NULL, 0, &m, 1);
    for (n = 0; n < count; n++)
        d[n] = (struct delivery){.content = tx_content_ref(c), .attempt = 1};
    tx_content_unref(c);
    mem_free(body);
}

/* From the i-th on; where it was refused. */
static size_t send_from(size_t i) {
    int r = SINK_TAKEN;

    inside = true;
    for (; i < n && (r = sink_deliver(sink, &d[i])) == SINK_TAKEN; i++)
        ;
    inside = false;
    sink_flush(sink);
    return i;
}

static void test_flows(void **state) {
    make(MANY, 10);
    size_t sent = send_from(0), refused = 0;

    while (ended[SINK_OK] < n) {
        size_t before = ready;
        uv_run(loop_uv(loop), UV_RUN_ONCE);
        assert_true(ready <= before + 1);
        if (sent < n && ready > before) {
            refused++;
            sent = send_from(sent);
        }
    }
    assert_true(refused > 0);
    assert_int_equal(ended[SINK_OK], n);
    assert_int_equal(unknown, 0);
    sink_close(sink);
    assert_int_equal(ended[SINK_RETRY], 0);
}

/* Bounded by number and, sooner, by bytes; one may always be under way. */
static void test_bounds(void **state) {
    atomic_store(&keep, true);
    make(MANY, 10);
    assert_int_equal(send_from(0), CALLS);
    sink_close(sink);
    assert_int_equal(ended[SINK_RETRY], CALLS);
    assert_int_equal(ready, 0);
}

static void test_bounds_of_bytes(void **state) {
    atomic_store(&keep, true);
    make(40, 1 << 20);
    size_t sent = send_from(0);
    assert_true(sent >= 15 && sent <= 17);
    sink_close(sink);
    assert_int_equal(ended[SINK_RETRY], sent);
}

/* Calls under way are given up at once, as unknown; what they bring later meets nobody. */
static void test_close(void **state) {
    atomic_store(&keep, true);
    make(20, 10);
    assert_int_equal(send_from(0), 20);
    while (atomic_load(&kept_n) < 20)
        uv_run(loop_uv(loop), UV_RUN_NOWAIT);
    sink_close(sink);
    assert_int_equal(ended[SINK_RETRY], 20);
    assert_int_equal(unknown, 20);
    assert_int_equal(ready, 0);
}

/* A client that takes no more: refused, and told when to come again. */
static void test_client_is_full(void **state) {
    make(1, 10);
    rpc_caller_stop(caller);
    assert_int_equal(send_from(0), 0);
    while (ready == 0)
        uv_run(loop_uv(loop), UV_RUN_ONCE);
    sink_close(sink);
    assert_int_equal(ended[SINK_OK] + ended[SINK_RETRY] + ended[SINK_REJECT], 0);
}

/* --- answers --- */

static struct grpc_answer status(int code, bool unsent) {
    struct grpc_answer a;

    grpc_answer_judge(&(struct rpc_outcome){.code = code, .message = "m", .unsent = unsent}, &a);
    assert_int_equal(a.verdict, SINK_RETRY);
    assert_int_equal(a.retry_after_ms, -1);
    return a;
}

static void test_statuses(void **state) {
    static const int answers[] = {RPC_INVALID_ARGUMENT,  RPC_NOT_FOUND,           RPC_ALREADY_EXISTS,
                                  RPC_PERMISSION_DENIED, RPC_FAILED_PRECONDITION, RPC_ABORTED,
                                  RPC_OUT_OF_RANGE,      RPC_UNIMPLEMENTED,       RPC_UNAUTHENTICATED};
    static const int doubtful[] = {RPC_CANCELLED, RPC_UNKNOWN,     RPC_DEADLINE_EXCEEDED, RPC_RESOURCE_EXHAUSTED,
                                   RPC_INTERNAL,  RPC_UNAVAILABLE, RPC_DATA_LOSS,         99};

    for (size_t i = 0; i < ARRAY_LEN(answers); i++)
        assert_false(status(answers[i], false).unknown);
    for (size_t i = 0; i < ARRAY_LEN(doubtful); i++)
        assert_true(status(doubtful[i], false).unknown);
    const struct grpc_answer unsent = status(RPC_UNAVAILABLE, true);
    assert_true(unsent.unsent && unsent.elsewhere && !unsent.unknown);
    assert_true(status(RPC_UNIMPLEMENTED, false).elsewhere && status(RPC_UNAVAILABLE, false).elsewhere);
    assert_true(status(RPC_DEADLINE_EXCEEDED, false).elsewhere);
    assert_false(status(RPC_INTERNAL, false).elsewhere || status(RPC_INTERNAL, false).unsent);
    assert_string_equal(unsent.why, "gRPC UNAVAILABLE: m");
}

static struct grpc_answer answer(int outcome, Google__Protobuf__Duration *after) {
    Txmsg__V1__DeliverResponse r = TXMSG__V1__DELIVER_RESPONSE__INIT;
    struct grpc_answer a;

    r.outcome = (Txmsg__V1__DeliverResponse__Outcome)outcome;
    r.retry_after = after;
    r.reason = (char *)(uintptr_t) "why";
    grpc_answer_judge(&(struct rpc_outcome){.code = RPC_OK, .message = "", .response = &r.base}, &a);
    assert_false(a.elsewhere || a.unsent);
    return a;
}

static void test_outcomes(void **state) {
    static const struct {
        int64_t s;
        int32_t nanos;
        int64_t ms;
    } wishes[] = {{0, 0, 0},         {1, 500000000, 1500}, {-1, 0, -1},
                  {0, -1, -1},       {0, 1000000000, -1},  {INT64_MAX, 0, 30 * 86400000ll},
                  {INT64_MIN, 0, -1}};

    assert_int_equal(answer(1, NULL).verdict, SINK_OK);
    assert_string_equal(answer(2, NULL).why, "not now: why");
    assert_int_equal(answer(2, NULL).retry_after_ms, -1);
    assert_int_equal(answer(3, NULL).verdict, SINK_REJECT);
    assert_string_equal(answer(3, NULL).why, "rejected: why");
    for (int i = 0; i <= 4; i += 4) {
        assert_int_equal(answer(i, NULL).verdict, SINK_RETRY);
        assert_true(answer(i, NULL).unknown);
    }
    for (size_t i = 0; i < ARRAY_LEN(wishes); i++) {
        Google__Protobuf__Duration w = GOOGLE__PROTOBUF__DURATION__INIT;
        w.seconds = wishes[i].s;
        w.nanos = wishes[i].nanos;
        assert_int_equal(answer(2, &w).retry_after_ms, wishes[i].ms);
        assert_false(answer(2, &w).unknown);
    }
}

int main(void) {
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(test_flows),
        T(test_bounds),
        T(test_bounds_of_bytes),
        T(test_close),
        T(test_client_is_full),
        cmocka_unit_test(test_statuses),
        cmocka_unit_test(test_outcomes),
    };
    return cmocka_run_group_tests_name("forward_grpc", tests, NULL, NULL);
}
