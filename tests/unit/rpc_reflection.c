/* The embedded descriptors are found by file and by symbol, with all they import, over both versions. */
#include "rpc/reflection.h"

#include "grpc/reflection/v1/reflection.pb-c.h"
#include "proto_descriptor_set.h"
#include "rpc_stream.h"
#include "txmsg/v1/message_service.pb-c.h"

typedef Grpc__Reflection__V1__ServerReflectionRequest Request;
typedef Grpc__Reflection__V1__ServerReflectionResponse Response;
/* protobuf-c has no const; it does not write. */
#define TEXT(s)   ((char *)(uintptr_t)(s))
#define ASK(x)    GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_##x
#define ANSWER(x) GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__MESSAGE_RESPONSE_##x

static void test_index(void **state) {
    struct reflection *r;
    int service, transaction, out[256], n;
    bool found = false;

    assert_int_equal(reflection_new(bytes_of(proto_descriptor_set, proto_descriptor_set_size), &r), 0);
    service = reflection_file(r, "txmsg/v1/message_service.proto");
    transaction = reflection_file(r, "txmsg/v1/transaction.proto");
    assert_true(service >= 0 && transaction >= 0);
    assert_int_equal(reflection_file_of_symbol(r, "txmsg.v1.MessageService"), service);
    assert_int_equal(reflection_file_of_symbol(r, "txmsg.v1.MessageService.Prepare"), service);
    assert_int_equal(reflection_file_of_symbol(r, "txmsg.v1.PrepareRequest.producer"), service);
    assert_int_equal(reflection_file_of_symbol(r, "txmsg.v1.Operation.operation"), service); /* a oneof */
    assert_int_equal(reflection_file_of_symbol(r, "txmsg.v1.Message.HeadersEntry"), transaction);
    assert_int_equal(reflection_file_of_symbol(r, "txmsg.v1.TransactionState"), transaction);
    assert_int_equal(reflection_file_of_symbol(r, "txmsg.v1.TRANSACTION_STATE_STUCK"), transaction);
    assert_int_equal(reflection_file_of_symbol(r, "txmsg.v1.Nothing"), -1);
    assert_int_equal(reflection_file_of_symbol(r, ""), -1);
    assert_int_equal(reflection_file(r, "nothing.proto"), -1);
    n = reflection_closure(r, service, out);
    assert_int_equal(out[0], service);
    for (int i = 1; i < n; i++) {
        assert_int_not_equal(out[i], service);
        found = found || out[i] == reflection_file(r, "google/protobuf/any.proto"); /* through google.rpc.Status */
    }
    assert_true(found);
    reflection_free(r);
}

static void test_hostile_set(void **state) {
    struct reflection *r;

    assert_int_equal(reflection_new(BYTES_LIT("\xff"), &r), -EINVAL);
    assert_int_equal(reflection_new(BYTES_LIT("\x0a\x02\x22\x05"), &r), -EINVAL);
    assert_int_equal(reflection_new(BYTES_LIT(""), &r), 0);
    assert_int_equal(reflection_files(r), 0);
    reflection_free(r);
}

/* --- over the wire --- */

static struct rpc_server *server;

static void never_called(struct rpc_call *c, void *user) {
    fail();
}

static int setup(void **state) {
    struct rpc_server_options o = {.listen = "127.0.0.1:0", .threads = 1, .slots = 2};
    struct rpc_method m = {.path = "/txmsg.v1.MessageService/Prepare",
                           .request = &txmsg__v1__prepare_request__descriptor,
                           .response = &txmsg__v1__prepare_response__descriptor,
                           .handle = never_called};

    assert_int_equal(rpc_server_new(&o, &m, 1, &server, NULL), 0);
    assert_int_equal(rpc_server_start(server, NULL), 0);
    return 0;
}

static int teardown(void **state) {
    rpc_server_stop(server, 10000);
    rpc_server_free(server);
    return 0;
}

static Response *ask(struct test_stream *s, const Request *request) {
    Response *response;

    test_stream_send(s, &request->base);
    response = (Response *)test_stream_receive(s, &grpc__reflection__v1__server_reflection_response__descriptor);
    assert_non_null(response);
    assert_int_equal(response->original_request->message_request_case, request->message_request_case);
    return response;
}

static void free_response(Response *response) {
    protobuf_c_message_free_unpacked(&response->base, NULL);
}

static void talk(const char *path) {
    Request request = GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__INIT;
    struct test_stream s;
    Response *response;

    test_stream_open(&s, rpc_server_port(server), path);
    request.message_request_case = ASK(LIST_SERVICES);
    request.list_services = TEXT("");
    response = ask(&s, &request);
    assert_int_equal(response->message_response_case, ANSWER(LIST_SERVICES_RESPONSE));
    assert_int_equal(response->list_services_response->n_service, 4);
    assert_string_equal(response->list_services_response->service[3]->name, "txmsg.v1.MessageService");
    free_response(response);

    request.message_request_case = ASK(FILE_CONTAINING_SYMBOL);
    request.file_containing_symbol = TEXT("txmsg.v1.MessageService");
    response = ask(&s, &request);
    assert_int_equal(response->message_response_case, ANSWER(FILE_DESCRIPTOR_RESPONSE));
    assert_true(response->file_descriptor_response->n_file_descriptor_proto > 3);
    free_response(response);

    request.message_request_case = ASK(FILE_BY_FILENAME);
    request.file_by_filename = TEXT("google/protobuf/any.proto");
    response = ask(&s, &request);
    assert_int_equal(response->file_descriptor_response->n_file_descriptor_proto, 1);
    free_response(response);

    request.message_request_case = ASK(FILE_CONTAINING_SYMBOL);
    request.file_containing_symbol = TEXT("no.such.Symbol");
    response = ask(&s, &request);
    assert_int_equal(response->message_response_case, ANSWER(ERROR_RESPONSE));
    assert_int_equal(response->error_response->error_code, RPC_NOT_FOUND);
    free_response(response);

    request.message_request_case = ASK(ALL_EXTENSION_NUMBERS_OF_TYPE);
    request.all_extension_numbers_of_type = TEXT("txmsg.v1.Message");
    response = ask(&s, &request);
    assert_int_equal(response->message_response_case, ANSWER(ALL_EXTENSION_NUMBERS_RESPONSE));
    free_response(response);

    test_stream_half_close(&s);
    assert_null(test_stream_receive(&s, &grpc__reflection__v1__server_reflection_response__descriptor));
    assert_int_equal(test_stream_close(&s, false), RPC_OK);
}

static void test_v1(void **state) {
    talk("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo");
}

static void test_v1alpha(void **state) {
    talk("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo");
}

static void test_invalid_request(void **state) {
    Request request = GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__INIT;
    struct test_stream s;

    test_stream_open(&s, rpc_server_port(server), "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo");
    request.host = TEXT("\xff");
    test_stream_send(&s, &request.base);
    assert_null(test_stream_receive(&s, &grpc__reflection__v1__server_reflection_response__descriptor));
    assert_int_equal(test_stream_close(&s, false), RPC_INVALID_ARGUMENT);
}

#define TEST(name) cmocka_unit_test_setup_teardown(test_##name, setup, teardown)

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_index), cmocka_unit_test(test_hostile_set), TEST(v1), TEST(v1alpha),
        TEST(invalid_request),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
