/* The blocking client tells what happened, also when the server is not there or answers nonsense. */
#include "rpc/client.h"

#include "txmsg/v1/message_service.pb-c.h"

#include <setjmp.h>
#include <cmocka.h>

static struct errmsg error;

static struct rpc_result call(struct rpc_client *c, const char *path, const ProtobufCMessageDescriptor *response,
                              struct arena *a) {
    Txmsg__V1__PrepareRequest request = TXMSG__V1__PREPARE_REQUEST__INIT;
    struct rpc_result r;

    assert_int_equal(rpc_client_call(c, path, &request.base, response, 10000, a, &r), 0);
    return r;
}

static void test_nobody_listens(void **state) {
    struct rpc_client *c;
    struct rpc_result r;
    struct arena a;

    arena_init(&a, 1 << 20);
    assert_int_equal(rpc_client_new("127.0.0.1:1", &c, &error), 0);
    r = call(c, "/txmsg.v1.MessageService/Prepare", &txmsg__v1__prepare_response__descriptor, &a);
    assert_int_equal(r.code, RPC_UNAVAILABLE);
    assert_true(*r.message);
    assert_null(r.reason);
    assert_null(r.response);
    rpc_client_free(c);
    arena_deinit(&a);
}

static void handle(struct rpc_call *c, void *user) {
    Txmsg__V1__MessageBody odd = TXMSG__V1__MESSAGE_BODY__INIT;

    odd.n = 5; /* field 1 as a number: no PrepareResponse */
    rpc_reply(c, &odd.base);
}

static void test_odd_answer(void **state) {
    struct rpc_server_options o = {.listen = "127.0.0.1:0"};
    struct rpc_method m = {.path = "/a.B/C",
                           .request = &txmsg__v1__prepare_request__descriptor,
                           .response = &txmsg__v1__message_body__descriptor,
                           .handle = handle};
    Txmsg__V1__PrepareRequest request = TXMSG__V1__PREPARE_REQUEST__INIT;
    struct rpc_server *server;
    struct rpc_client *c;
    struct rpc_result r;
    struct arena a, tiny;
    char target[32];

    arena_init(&a, 1 << 20);
    arena_init(&tiny, 16);
    assert_int_equal(rpc_server_new(&o, &m, 1, &server, &error), 0);
    assert_int_equal(rpc_server_start(server, &error), 0);
    snprintf(target, sizeof(target), "127.0.0.1:%d", rpc_server_port(server));
    assert_int_equal(rpc_client_new(target, &c, &error), 0);
    r = call(c, "/a.B/C", &txmsg__v1__message_body__descriptor, &a);
    assert_int_equal(r.code, RPC_OK);
    assert_int_equal(((const Txmsg__V1__MessageBody *)r.response)->n, 5);
    r = call(c, "/a.B/C", &txmsg__v1__prepare_response__descriptor, &a);
    assert_int_equal(r.code, RPC_INTERNAL);
    assert_null(r.response);
    assert_int_equal(
        rpc_client_call(c, "/a.B/C", &request.base, &txmsg__v1__message_body__descriptor, 10000, &tiny, &r), -ENOMEM);
    rpc_client_free(c);
    rpc_server_stop(server, 10000);
    rpc_server_free(server);
    arena_deinit(&a);
    arena_deinit(&tiny);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_nobody_listens), cmocka_unit_test(test_odd_answer)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
