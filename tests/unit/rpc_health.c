/* Health follows rpc_server_health(), for those who ask and for those who watch. */
#include "rpc/client.h"

#include "grpc/health/v1/health.pb-c.h"
#include "rpc_stream.h"
#include "txmsg/v1/message_service.pb-c.h"

typedef Grpc__Health__V1__HealthCheckRequest Request;
typedef Grpc__Health__V1__HealthCheckResponse Response;

enum {
    SERVING = GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVING,
    NOT_SERVING = GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__NOT_SERVING,
    SERVICE_UNKNOWN = GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVICE_UNKNOWN,
};

static struct rpc_server *server;
static struct errmsg error;

static void never_called(struct rpc_call *c, void *user) {
    fail();
}

static int setup(void **state) {
    struct rpc_server_options o = {.listen = "127.0.0.1:0", .threads = 2, .slots = 2};
    struct rpc_method m = {.path = "/txmsg.v1.MessageService/Prepare",
                           .request = &txmsg__v1__prepare_request__descriptor,
                           .response = &txmsg__v1__prepare_response__descriptor,
                           .handle = never_called};

    assert_int_equal(rpc_server_new(&o, &m, 1, &server, &error), 0);
    assert_int_equal(rpc_server_start(server, &error), 0);
    return 0;
}

static int teardown(void **state) {
    rpc_server_stop(server, 10000);
    rpc_server_free(server);
    return 0;
}

static struct rpc_client *connect_client(void) {
    struct rpc_client *c;
    char target[32];

    snprintf(target, sizeof(target), "127.0.0.1:%d", rpc_server_port(server));
    assert_int_equal(rpc_client_new(target, &c, &error), 0);
    return c;
}

/* The status, or minus the code. */
static int check(struct rpc_client *c, const char *service) {
    Request request = GRPC__HEALTH__V1__HEALTH_CHECK_REQUEST__INIT;
    struct rpc_result r;
    struct arena a;
    int result;

    arena_init(&a, 1 << 20);
    request.service = (char *)(uintptr_t)service;
    assert_int_equal(rpc_client_call(c, "/grpc.health.v1.Health/Check", &request.base,
                                     &grpc__health__v1__health_check_response__descriptor, 10000, &a, &r),
                     0);
    result = r.code ? -r.code : (int)((const Response *)r.response)->status;
    arena_deinit(&a);
    return result;
}

static void test_check(void **state) {
    struct rpc_client *c = connect_client();

    assert_int_equal(check(c, ""), NOT_SERVING);
    rpc_server_health(server, true);
    assert_int_equal(check(c, ""), SERVING);
    assert_int_equal(check(c, "txmsg.v1.MessageService"), SERVING);
    assert_int_equal(check(c, "grpc.health.v1.Health"), SERVING);
    assert_int_equal(check(c, "no.such.Service"), -RPC_NOT_FOUND);
    rpc_server_health(server, false);
    assert_int_equal(check(c, "txmsg.v1.MessageService"), NOT_SERVING);
    rpc_client_free(c);
}

static void test_list(void **state) {
    Grpc__Health__V1__HealthListRequest request = GRPC__HEALTH__V1__HEALTH_LIST_REQUEST__INIT;
    const Grpc__Health__V1__HealthListResponse *list;
    struct rpc_client *c = connect_client();
    struct rpc_result r;
    struct arena a;

    arena_init(&a, 1 << 20);
    rpc_server_health(server, true);
    assert_int_equal(rpc_client_call(c, "/grpc.health.v1.Health/List", &request.base,
                                     &grpc__health__v1__health_list_response__descriptor, 10000, &a, &r),
                     0);
    assert_int_equal(r.code, RPC_OK);
    list = (const void *)r.response;
    assert_int_equal(list->n_statuses, 5); /* "", ours, health, two of reflection */
    for (size_t i = 0; i < list->n_statuses; i++)
        assert_int_equal(list->statuses[i]->value->status, SERVING);
    arena_deinit(&a);
    rpc_client_free(c);
}

static void watch(struct test_stream *s, const char *service) {
    Request request = GRPC__HEALTH__V1__HEALTH_CHECK_REQUEST__INIT;

    test_stream_open(s, rpc_server_port(server), "/grpc.health.v1.Health/Watch");
    request.service = (char *)(uintptr_t)service;
    test_stream_send(s, &request.base);
    test_stream_half_close(s);
}

/* The next status, -1 = the stream has ended. */
static int next(struct test_stream *s) {
    ProtobufCMessage *m = test_stream_receive(s, &grpc__health__v1__health_check_response__descriptor);
    int status = m ? (int)((Response *)m)->status : -1;

    if (m)
        protobuf_c_message_free_unpacked(m, NULL);
    return status;
}

static void test_watch(void **state) {
    struct test_stream s;

    watch(&s, "txmsg.v1.MessageService");
    assert_int_equal(next(&s), NOT_SERVING);
    rpc_server_health(server, true);
    assert_int_equal(next(&s), SERVING);
    rpc_server_health(server, true); /* no news */
    rpc_server_health(server, false);
    assert_int_equal(next(&s), NOT_SERVING);
    assert_int_equal(test_stream_close(&s, true), RPC_CANCELLED);
}

static void test_watch_unknown_service(void **state) {
    struct test_stream s;

    watch(&s, "no.such.Service");
    assert_int_equal(next(&s), SERVICE_UNKNOWN);
    rpc_server_health(server, true);
    assert_int_equal(test_stream_close(&s, true), RPC_CANCELLED);
}

static void test_stop_ends_watches(void **state) {
    struct test_stream s[8];

    for (int i = 0; i < 8; i++) {
        watch(&s[i], "");
        assert_int_equal(next(&s[i]), NOT_SERVING);
    }
    rpc_server_stop(server, 20000);
    for (int i = 0; i < 8; i++) {
        assert_int_equal(next(&s[i]), -1);
        assert_int_equal(test_stream_close(&s[i], false), RPC_UNAVAILABLE);
    }
}

static void test_watch_without_request(void **state) {
    struct test_stream s;

    test_stream_open(&s, rpc_server_port(server), "/grpc.health.v1.Health/Watch");
    test_stream_half_close(&s);
    assert_int_equal(next(&s), -1);
    assert_int_equal(test_stream_close(&s, false), RPC_INVALID_ARGUMENT);
}

static void test_many_watches_come_and_go(void **state) {
    struct test_stream s;

    for (int i = 0; i < 50; i++) {
        watch(&s, "");
        if (i % 2)
            next(&s);
        test_stream_close(&s, true);
    }
}

#define TEST(name) cmocka_unit_test_setup_teardown(test_##name, setup, teardown)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(check),
        TEST(list),
        TEST(watch),
        TEST(watch_unknown_service),
        TEST(stop_ends_watches),
        TEST(watch_without_request),
        TEST(many_watches_come_and_go),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
