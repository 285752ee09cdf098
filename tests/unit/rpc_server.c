/* Server and client in one process: what a handler sees, what a caller gets back, and an end without leftovers. */
#include "rpc/client.h"

#include "base/clock.h"
#include "base/metric.h"
#include "txmsg/v1/message_service.pb-c.h"

#include <netinet/in.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdatomic.h>
#include <sys/socket.h>
#include <unistd.h>
#include <cmocka.h>

/* protobuf-c has no const; it does not write. */
#define TEXT(s) ((char *)(uintptr_t)(s))
#define SERVICE "/txmsg.v1.MessageService/"

typedef Txmsg__V1__PrepareRequest Request;
typedef Txmsg__V1__PrepareResponse Response;

static struct rpc_server *server;
static struct rpc_client *client;
static struct arena arena;
static struct errmsg error;

/* Calls that a handler kept, for the test to finish. */
static pthread_mutex_t kept_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t kept_changed = PTHREAD_COND_INITIALIZER;
static struct rpc_call *kept[64];
static int kept_n;

static void answer(struct rpc_call *c, void *arg) {
    const Request *request = (const void *)rpc_call_request(c);
    Txmsg__V1__TransactionStatus status = TXMSG__V1__TRANSACTION_STATUS__INIT;
    Response response = TXMSG__V1__PREPARE_RESPONSE__INIT;

    status.transaction_id = request->transaction_id;
    status.state = TXMSG__V1__TRANSACTION_STATE__TRANSACTION_STATE_PREPARED;
    response.status = &status;
    rpc_reply(c, &response.base);
}

static void handle_echo(struct rpc_call *c, void *user) {
    assert_ptr_equal(user, &server);
    assert_string_equal(rpc_call_method(c), SERVICE "Prepare");
    assert_non_null(strstr(rpc_call_peer(c), "127.0.0.1"));
    assert_non_null(rpc_call_metadata(c, "user-agent"));
    assert_null(rpc_call_metadata(c, "x-none"));
    answer(c, NULL);
}

static void handle_fail(struct rpc_call *c, void *user) {
    rpc_fail(c, &(struct rpc_error){
                    .code = RPC_FAILED_PRECONDITION,
                    .reason = "DECIDED_OTHERWISE",
                    .message = "decided \xc3\xa4nders",
                    .field = "transaction_id",
                    .field_description = "is decided",
                    .retry_after_ms = 1500,
                    .precondition_subject = "transaction/1",
                    .meta = {"decision", "COMMITTED", "origin", "rpc"},
                });
}

static void handle_keep(struct rpc_call *c, void *user) {
    pthread_mutex_lock(&kept_lock);
    kept[kept_n++] = c;
    pthread_cond_broadcast(&kept_changed);
    pthread_mutex_unlock(&kept_lock);
}

/* How many kept calls the last flush saw. */
static int flushed;

static void flush(void *user) {
    assert_ptr_equal(user, kept);
    pthread_mutex_lock(&kept_lock);
    flushed = kept_n;
    pthread_cond_broadcast(&kept_changed);
    pthread_mutex_unlock(&kept_lock);
}

/* Tells the deadline it sees, in milliseconds from now. */
static void handle_deadline(struct rpc_call *c, void *user) {
    Response response = TXMSG__V1__PREPARE_RESPONSE__INIT;
    Txmsg__V1__TransactionStatus status = TXMSG__V1__TRANSACTION_STATUS__INIT;

    status.transaction_id =
        arena_printf(rpc_call_arena(c), "%lld", (long long)(rpc_call_deadline_ns(c) - clock_mono_ns()) / 1000000);
    response.status = &status;
    rpc_reply(c, &response.base);
}

#define METHOD(name, fn)                                                                                               \
    {                                                                                                                  \
        .path = SERVICE name, .request = &txmsg__v1__prepare_request__descriptor,                                      \
        .response = &txmsg__v1__prepare_response__descriptor, .handle = (fn), .user = &server                          \
    }
static const struct rpc_method methods[] = {
    METHOD("Prepare", handle_echo),
    METHOD("Confirm", handle_fail),
    METHOD("Cancel", handle_keep),
    METHOD("Publish", handle_deadline),
};

static int setup(void **state) {
    struct rpc_server_options o = {.listen = "127.0.0.1:0",
                                   .threads = 2,
                                   .slots = 4,
                                   .receive_bytes = 100000,
                                   .deadline_max_ms = 60000,
                                   .flush = flush,
                                   .flush_user = kept};
    char target[32];

    kept_n = flushed = 0;
    arena_init(&arena, 1 << 20);
    assert_int_equal(rpc_server_new(&o, methods, ARRAY_LEN(methods), &server, &error), 0);
    assert_int_equal(rpc_server_start(server, &error), 0);
    assert_true(rpc_server_port(server) > 0);
    snprintf(target, sizeof(target), "127.0.0.1:%d", rpc_server_port(server));
    assert_int_equal(rpc_client_new(target, &client, &error), 0);
    return 0;
}

static int teardown(void **state) {
    rpc_client_free(client);
    rpc_server_stop(server, 10000);
    rpc_server_free(server);
    arena_deinit(&arena);
    return 0;
}

static struct rpc_result call(const char *method, const Request *request, int64_t timeout_ms) {
    struct rpc_result r;

    assert_int_equal(rpc_client_call(client, method, &request->base, &txmsg__v1__prepare_response__descriptor,
                                     timeout_ms, &arena, &r),
                     0);
    return r;
}

static Request request_of(const char *id) {
    Request request = TXMSG__V1__PREPARE_REQUEST__INIT;

    request.transaction_id = TEXT(id);
    return request;
}

static const char *id_of(const struct rpc_result *r) {
    return ((const Response *)r->response)->status->transaction_id;
}

static void wait_kept(int n) {
    pthread_mutex_lock(&kept_lock);
    while (kept_n < n)
        pthread_cond_wait(&kept_changed, &kept_lock);
    pthread_mutex_unlock(&kept_lock);
}

static void test_echo(void **state) {
    char id[16];

    for (int i = 0; i < 100; i++) { /* more than there are slots */
        Request request = request_of(id);
        struct rpc_result r;

        snprintf(id, sizeof(id), "id-%d", i);
        r = call(SERVICE "Prepare", &request, 10000);
        assert_int_equal(r.code, RPC_OK);
        assert_string_equal(id_of(&r), id);
    }
}

static void test_many_slices(void **state) {
    uint8_t *body = calloc(1, 90000);
    Txmsg__V1__Message message = TXMSG__V1__MESSAGE__INIT, *messages[] = {&message};
    Request request = request_of("large");
    struct rpc_result r;

    assert_non_null(body);
    message.body = (ProtobufCBinaryData){.len = 90000, .data = body};
    request.messages = messages;
    request.n_messages = 1;
    r = call(SERVICE "Prepare", &request, 10000);
    assert_int_equal(r.code, RPC_OK);
    assert_string_equal(id_of(&r), "large");
    free(body);
}

static void test_too_large(void **state) {
    uint8_t *body = calloc(1, 200000);
    Txmsg__V1__Message message = TXMSG__V1__MESSAGE__INIT, *messages[] = {&message};
    Request request = request_of("large");

    assert_non_null(body);
    message.body = (ProtobufCBinaryData){.len = 200000, .data = body};
    request.messages = messages;
    request.n_messages = 1;
    assert_int_equal(call(SERVICE "Prepare", &request, 10000).code, RPC_RESOURCE_EXHAUSTED);
    free(body);
    request = request_of("small");
    assert_int_equal(call(SERVICE "Prepare", &request, 10000).code, RPC_OK);
}

/* Small on the wire, large in memory: refused by the bound of the call's arena, with its reason. */
static void test_too_large_in_memory(void **state) {
    enum { N = 4000 };
    Txmsg__V1__Message message = TXMSG__V1__MESSAGE__INIT, **messages = calloc(N, sizeof(*messages));
    Request request = request_of("many");
    struct rpc_result r;

    assert_non_null(messages);
    for (int i = 0; i < N; i++)
        messages[i] = &message;
    request.messages = messages;
    request.n_messages = N;
    r = call(SERVICE "Prepare", &request, 10000);
    assert_int_equal(r.code, RPC_RESOURCE_EXHAUSTED);
    assert_string_equal(r.reason, "REQUEST_TOO_LARGE");
    free(messages);
}

static void test_error_details(void **state) {
    Request request = request_of("x");
    struct rpc_result r = call(SERVICE "Confirm", &request, 10000);

    assert_int_equal(r.code, RPC_FAILED_PRECONDITION);
    assert_string_equal(r.message, "decided \xc3\xa4nders");
    assert_string_equal(r.reason, "DECIDED_OTHERWISE");
    assert_string_equal(r.field, "transaction_id");
    assert_string_equal(r.field_description, "is decided");
    assert_int_equal(r.retry_after_ms, 1500);
    assert_null(r.response);
}

static void test_unknown_method(void **state) {
    Request request = request_of("x");
    struct rpc_result r = call(SERVICE "Frobnicate", &request, 20000);

    /* At once: at the deadline the code would be another. */
    assert_int_equal(r.code, RPC_UNIMPLEMENTED);
    assert_string_equal(r.reason, "METHOD_UNKNOWN");
}

static void test_hostile_request(void **state) {
    Txmsg__V1__ListTransactionsRequest list = TXMSG__V1__LIST_TRANSACTIONS_REQUEST__INIT;
    Txmsg__V1__Message message = TXMSG__V1__MESSAGE__INIT, *messages[] = {&message};
    Request request = request_of("\xff");
    struct rpc_result r = call(SERVICE "Prepare", &request, 10000);

    assert_int_equal(r.code, RPC_INVALID_ARGUMENT);
    assert_string_equal(r.reason, "INVALID_TEXT");
    assert_string_equal(r.field, "transaction_id");
    request = request_of("x");
    message.topic = TEXT("\xc0");
    request.messages = messages;
    request.n_messages = 1;
    r = call(SERVICE "Prepare", &request, 10000);
    assert_string_equal(r.field, "messages[0].topic");
    list.page_size = 7; /* field 1 is a number here, and text there */
    assert_int_equal(rpc_client_call(client, SERVICE "Prepare", &list.base, &txmsg__v1__prepare_response__descriptor,
                                     10000, &arena, &r),
                     0);
    assert_int_equal(r.code, RPC_INVALID_ARGUMENT);
    assert_string_equal(r.reason, "MALFORMED_REQUEST");
}

/* --- calls from several threads at once --- */

struct caller {
    pthread_t thread;
    const char *method;
    int64_t timeout_ms;
    int code;
};

static void *caller_main(void *arg) {
    struct caller *me = arg;
    Txmsg__V1__PrepareRequest request = TXMSG__V1__PREPARE_REQUEST__INIT;
    struct rpc_client *mine;
    struct rpc_result r;
    struct arena a;
    char target[32];

    arena_init(&a, 1 << 20);
    request.transaction_id = TEXT("caller");
    snprintf(target, sizeof(target), "127.0.0.1:%d", rpc_server_port(server));
    me->code = -1;
    if (rpc_client_new(target, &mine, NULL) == 0) {
        if (rpc_client_call(mine, me->method, &request.base, &txmsg__v1__prepare_response__descriptor, me->timeout_ms,
                            &a, &r) == 0)
            me->code = r.code;
        rpc_client_free(mine);
    }
    arena_deinit(&a);
    return NULL;
}

static void start_callers(struct caller *callers, int n, const char *method, int64_t timeout_ms) {
    for (int i = 0; i < n; i++) {
        callers[i] = (struct caller){.method = method, .timeout_ms = timeout_ms};
        assert_int_equal(pthread_create(&callers[i].thread, NULL, caller_main, &callers[i]), 0);
    }
}

static void test_finished_late(void **state) {
    struct caller callers[16];

    start_callers(callers, 16, SERVICE "Cancel", 30000);
    wait_kept(16);
    for (int i = 0; i < 16; i++)
        rpc_call_finish(kept[i], answer, NULL); /* this thread owns none of them */
    rpc_wake(server);
    for (int i = 0; i < 16; i++) {
        pthread_join(callers[i].thread, NULL);
        assert_int_equal(callers[i].code, RPC_OK);
    }
}

/* What a handler held back is flushed before its thread waits. */
static void test_flush(void **state) {
    struct caller callers[3];

    start_callers(callers, 3, SERVICE "Cancel", 30000);
    wait_kept(3);
    pthread_mutex_lock(&kept_lock);
    while (flushed < 3)
        pthread_cond_wait(&kept_changed, &kept_lock);
    pthread_mutex_unlock(&kept_lock);
    for (int i = 0; i < 3; i++)
        rpc_call_finish(kept[i], answer, NULL);
    rpc_wake(server);
    for (int i = 0; i < 3; i++)
        pthread_join(callers[i].thread, NULL);
}

static void test_deadline(void **state) {
    Request request = request_of("x");
    struct rpc_result r = call(SERVICE "Publish", &request, 5000);
    struct caller slow;

    assert_int_equal(r.code, RPC_OK);
    assert_in_range(strtoll(id_of(&r), NULL, 10), 1, 6000); /* the wire rounds it up */
    r = call(SERVICE "Publish", &request, 3600000);         /* cut to the server's bound */
    assert_in_range(strtoll(id_of(&r), NULL, 10), 6001, 60000);
    /* The caller gives up; replying afterwards is harmless. */
    start_callers(&slow, 1, SERVICE "Cancel", 200);
    pthread_join(slow.thread, NULL);
    assert_int_equal(slow.code, RPC_DEADLINE_EXCEEDED);
    wait_kept(1);
    rpc_call_finish(kept[0], answer, NULL);
    rpc_wake(server);
}

static void *finish_when_stopped(void *arg) {
    struct caller *callers = arg;

    for (int i = 0; i < 4; i++) /* their callers hear of the cancellation first */
        pthread_join(callers[i].thread, NULL);
    for (int i = 0; i < 4; i++)
        rpc_call_finish(kept[i], answer, NULL);
    rpc_wake(server);
    return NULL;
}

static void test_stop_with_calls_in_flight(void **state) {
    struct caller callers[4];
    pthread_t finisher;

    start_callers(callers, 4, SERVICE "Cancel", 30000);
    wait_kept(4);
    assert_int_equal(pthread_create(&finisher, NULL, finish_when_stopped, callers), 0);
    rpc_server_stop(server, 50);
    pthread_join(finisher, NULL);
    for (int i = 0; i < 4; i++)
        assert_in_set(callers[i].code, ((unsigned long[]){RPC_UNAVAILABLE, RPC_CANCELLED, RPC_UNKNOWN}), 3);
    rpc_wake(server); /* a worker may still say so */
}

static void *finish_soon(void *arg) {
    for (int i = 0; i < 4; i++)
        rpc_call_finish(kept[i], answer, NULL);
    rpc_wake(server);
    return NULL;
}

static void test_graceful_stop(void **state) {
    struct caller callers[4];
    pthread_t finisher;

    start_callers(callers, 4, SERVICE "Cancel", 30000);
    wait_kept(4);
    assert_int_equal(pthread_create(&finisher, NULL, finish_soon, NULL), 0);
    rpc_server_stop(server, 20000);
    pthread_join(finisher, NULL);
    for (int i = 0; i < 4; i++) {
        pthread_join(callers[i].thread, NULL);
        assert_int_equal(callers[i].code, RPC_OK); /* answered within the grace time */
    }
}

static void test_stop_refuses_new_calls(void **state) {
    Request request = request_of("x");

    assert_int_equal(call(SERVICE "Prepare", &request, 10000).code, RPC_OK);
    rpc_server_stop(server, 10000);
    assert_int_equal(call(SERVICE "Prepare", &request, 10000).code, RPC_UNAVAILABLE);
    rpc_server_stop(server, 0); /* again: nothing */
}

static void test_port_in_use(void **state) {
    struct rpc_server_options o = {.threads = 1};
    struct errmsg e = ERRMSG_NULL;
    struct rpc_server *second;
    char listen[32];

    snprintf(listen, sizeof(listen), "127.0.0.1:%d", rpc_server_port(server));
    o.listen = listen;
    assert_int_equal(rpc_server_new(&o, methods, ARRAY_LEN(methods), &second, &e), 0);
    assert_int_equal(rpc_server_start(second, &e), -EADDRINUSE);
    assert_non_null(strstr(e.text, listen));
    rpc_server_free(second);
}

static void test_never_started(void **state) {
    struct rpc_server_options o = {.listen = "nonsense"};
    struct rpc_method twice[] = {methods[0], methods[0]};
    struct rpc_method bad = {.path = "Prepare"};
    struct errmsg e = ERRMSG_NULL;
    struct rpc_server *other;

    assert_int_equal(rpc_server_new(&o, methods, ARRAY_LEN(methods), &other, &e), 0);
    rpc_server_health(other, true);
    rpc_wake(other);
    rpc_server_free(other);
    assert_int_equal(rpc_server_new(&o, methods, ARRAY_LEN(methods), &other, &e), 0);
    assert_true(rpc_server_start(other, &e) < 0);
    rpc_server_free(other);
    assert_int_equal(rpc_server_new(&o, twice, 2, &other, &e), 0);
    assert_int_equal(rpc_server_start(other, &e), -EEXIST);
    rpc_server_free(other);
    assert_int_equal(rpc_server_new(&o, &bad, 1, &other, &e), -EINVAL);
}

static void test_metrics(void **state) {
    struct metric *ok =
        metric_get(metric_family(METRIC_COUNTER, "txmsg_requests_total", "method,code", "", 0), "Prepare", "OK");
    int64_t before = metric_value(ok);
    Request request = request_of("x");

    assert_int_equal(call(SERVICE "Prepare", &request, 10000).code, RPC_OK);
    assert_int_equal(metric_value(ok), before + 1);
}

#define TEST(name) cmocka_unit_test_setup_teardown(test_##name, setup, teardown)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(echo),
        TEST(many_slices),
        TEST(too_large),
        TEST(too_large_in_memory),
        TEST(error_details),
        TEST(unknown_method),
        TEST(hostile_request),
        TEST(finished_late),
        TEST(flush),
        TEST(deadline),
        TEST(stop_with_calls_in_flight),
        TEST(graceful_stop),
        TEST(stop_refuses_new_calls),
        TEST(port_in_use),
        TEST(never_started),
        TEST(metrics),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
