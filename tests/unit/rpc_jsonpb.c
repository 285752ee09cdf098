/* JSON and protobuf-c say the same, and every mistake in JSON is named by its path. */
#include "rpc/jsonpb.h"

#include "google/rpc/status.pb-c.h"
#include "rpc/rpc.h"
#include "txmsg/v1/admin_service.pb-c.h"
#include "txmsg/v1/message_service.pb-c.h"
#include "txmsg/v1/topology.pb-c.h"

#include <setjmp.h>
#include <cmocka.h>

static struct arena arena;
static struct errmsg error;

static int setup(void **state) {
    arena_init(&arena, 1 << 20);
    error = ERRMSG_NULL;
    return 0;
}

static int teardown(void **state) {
    arena_deinit(&arena);
    return 0;
}

static int parse(const ProtobufCMessageDescriptor *d, const char *text, ProtobufCMessage **ret) {
    json_t *j = json_loads(text, JSON_DECODE_ANY, NULL);
    int err;

    assert_non_null(j);
    err = jsonpb_parse(d, j, &arena, ret, &error);
    json_decref(j);
    return err;
}

/* Parses, packs, unpacks, prints: must be `want` again. */
static void round_trip(const ProtobufCMessageDescriptor *d, const char *text, const char *want) {
    ProtobufCMessage *m = NULL, *again;
    uint8_t packed[4096];
    json_t *j;
    char *out;
    size_t n;

    assert_int_equal(parse(d, text, &m), 0);
    assert_true(protobuf_c_message_check(m));
    n = protobuf_c_message_pack(m, packed);
    again = protobuf_c_message_unpack(d, NULL, n, packed);
    assert_non_null(again);
    j = jsonpb_print(again);
    assert_non_null(j);
    out = json_dumps(j, JSON_COMPACT);
    assert_string_equal(out, want);
    free(out);
    json_decref(j);
    protobuf_c_message_free_unpacked(again, NULL);
}

static void refused(const ProtobufCMessageDescriptor *d, const char *text, const char *path) {
    ProtobufCMessage *m = NULL;

    error = ERRMSG_NULL;
    assert_int_equal(parse(d, text, &m), -EINVAL);
    if (strncmp(error.text, path, strlen(path)) != 0)
        assert_string_equal(error.text, path);
    assert_null(m);
}

static void test_request(void **state) {
    const char *text =
        "{\"transaction_id\":\"t1\",\"producer\":\"orders\",\"messages\":[{\"topic\":\"a\",\"key\":\"AAH/\","
        "\"body\":\"aGVsbG8=\",\"headers\":{\"x\":\"1\",\"y\":\"\"},"
        "\"deliver_at\":\"2024-01-31T12:00:00.250000Z\",\"body_later\":true},{}],\"check_after\":\"1.500s\"}";

    round_trip(&txmsg__v1__prepare_request__descriptor, text, text);
    round_trip(&txmsg__v1__prepare_request__descriptor, "{}", "{}");
}

static void test_lenient(void **state) {
    round_trip(&txmsg__v1__prepare_request__descriptor,
               "{\"transactionId\":\"t1\",\"businessKey\":null,\"checkAfter\":\"10m\"}",
               "{\"transaction_id\":\"t1\",\"check_after\":\"600s\"}");
    round_trip(
        &txmsg__v1__subscription__descriptor,
        "{\"name\":\"s\",\"sink\":{\"http\":{\"url\":\"u\",\"ackMode\":\"body_success\"}},\"startFrom\":\"beginning\"}",
        "{\"name\":\"s\",\"sink\":{\"http\":{\"url\":\"u\",\"ack_mode\":\"HTTP_ACK_MODE_BODY_SUCCESS\"}},"
        "\"start_from\":\"START_FROM_BEGINNING\"}");
    round_trip(&txmsg__v1__http_sink__descriptor, "{\"ack_mode\":\"HTTP_ACK_MODE_STATUS_2XX\"}",
               "{\"ack_mode\":\"HTTP_ACK_MODE_STATUS_2XX\"}");
    round_trip(&txmsg__v1__http_sink__descriptor, "{\"ack_mode\":2}", "{\"ack_mode\":\"HTTP_ACK_MODE_BODY_SUCCESS\"}");
    /* 64-bit numbers also as text */
    round_trip(&txmsg__v1__redis_sink__descriptor, "{\"max_length\":\"9007199254740993\"}",
               "{\"max_length\":9007199254740993}");
}

static void test_numbers(void **state) {
    round_trip(&txmsg__v1__check_policy__descriptor, "{\"factor\":2,\"jitter\":0.5,\"max_unknowns\":-3}",
               "{\"factor\":2.0,\"jitter\":0.5,\"max_unknowns\":-3}");
    round_trip(&txmsg__v1__tagged_operation__descriptor, "{\"tag\":\"18446744073709551615\"}",
               "{\"tag\":\"18446744073709551615\"}");
    round_trip(&txmsg__v1__list_transactions_request__descriptor, "{\"page_size\":-2147483648}",
               "{\"page_size\":-2147483648}");
    refused(&txmsg__v1__list_transactions_request__descriptor, "{\"page_size\":2147483648}",
            "page_size: is out of range");
    refused(&txmsg__v1__message_body__descriptor, "{\"n\":-1}", "n: is out of range");
    refused(&txmsg__v1__message_body__descriptor, "{\"n\":1.5}", "n: expects an integer");
    refused(&txmsg__v1__message_body__descriptor, "{\"n\":\"1x\"}", "n: expects an integer");
    refused(&txmsg__v1__tagged_operation__descriptor, "{\"tag\":\"18446744073709551616\"}", "tag: ");
}

static void test_oneof(void **state) {
    /* An empty message and a default are still the choice that was made. */
    round_trip(&txmsg__v1__sink__descriptor, "{\"discard\":{}}", "{\"discard\":{}}");
    round_trip(&txmsg__v1__operation_result__descriptor, "{\"status\":{\"state\":\"confirmed\"}}",
               "{\"status\":{\"state\":\"TRANSACTION_STATE_CONFIRMED\"}}");
    refused(&txmsg__v1__sink__descriptor, "{\"discard\":{},\"log\":{}}", "log: cannot stand beside");
}

static void test_mistakes_are_named(void **state) {
    const ProtobufCMessageDescriptor *prepare = &txmsg__v1__prepare_request__descriptor;

    refused(prepare, "[]", "the value: expects an object");
    refused(prepare, "{\"colour\":1}", "colour: unknown member");
    refused(prepare, "{\"messages\":[{},{\"topic\":1}]}", "messages[1].topic: expects a string");
    refused(prepare, "{\"messages\":{}}", "messages: expects a list");
    refused(prepare, "{\"messages\":[{\"headers\":{\"a\":1}}]}", "messages[0].headers.a: expects a string");
    refused(prepare, "{\"messages\":[{\"headers\":[]}]}", "messages[0].headers: expects an object");
    refused(prepare, "{\"messages\":[{\"key\":\"a*\"}]}", "messages[0].key: expects base64");
    refused(prepare, "{\"messages\":[{\"body_later\":1}]}", "messages[0].body_later: expects true or false");
    refused(prepare, "{\"check_after\":\"soon\"}", "check_after: expects a duration");
    refused(prepare, "{\"messages\":[{\"deliver_at\":\"tomorrow\"}]}", "messages[0].deliver_at: expects a time");
    refused(prepare, "{\"business_key\":\"a\",\"businessKey\":\"b\"}", "businessKey: comes twice");
    refused(&txmsg__v1__http_sink__descriptor, "{\"ack_mode\":\"perhaps\"}", "ack_mode: is not a value");
    refused(&txmsg__v1__http_sink__descriptor, "{\"ack_mode\":99}", "ack_mode: is not a value");
}

static void test_nul_in_text(void **state) {
    json_t *j = json_pack("{s:s%}", "producer", "a\0b", (size_t)3);
    ProtobufCMessage *m;

    assert_non_null(j);
    assert_int_equal(jsonpb_parse(&txmsg__v1__prepare_request__descriptor, j, &arena, &m, &error), -EINVAL);
    json_decref(j);
}

static void test_out_of_memory(void **state) {
    const char *text = "{\"messages\":[{\"headers\":{\"x\":\"1\"}}],\"check_after\":\"1s\"}";
    json_t *j = json_loads(text, 0, NULL);
    ProtobufCMessage *m;
    struct arena small;
    int result = -ENOMEM;

    for (size_t max = 0; result == -ENOMEM && max < 65536; max += 16) {
        arena_init(&small, max);
        result = jsonpb_parse(&txmsg__v1__prepare_request__descriptor, j, &small, &m, &error);
        arena_deinit(&small);
    }
    assert_int_equal(result, 0);
    json_decref(j);
}

static void test_before_1970(void **state) {
    round_trip(&txmsg__v1__stuck_filter__descriptor, "{\"start_time\":\"1969-12-31T23:59:59.500000Z\"}",
               "{\"start_time\":\"1969-12-31T23:59:59.500000Z\"}");
}

static void test_error_details(void **state) {
    struct rpc_error err = {.code = RPC_INVALID_ARGUMENT,
                            .reason = "TOO_LONG",
                            .message = "no",
                            .field = "topic",
                            .field_description = "is too long",
                            .retry_after_ms = 1500,
                            .meta = {"limit", "255"}};
    struct Google__Rpc__Status *status;
    json_t *j;
    char *out;

    assert_int_equal(rpc_error_status(&err, &arena, &status), 0);
    j = jsonpb_print(&status->base);
    assert_non_null(j);
    out = json_dumps(j, JSON_COMPACT);
    assert_string_equal(out, "{\"code\":3,\"message\":\"no\",\"details\":["
                             "{\"reason\":\"TOO_LONG\",\"domain\":\"txmsg\",\"metadata\":{\"limit\":\"255\"},"
                             "\"@type\":\"type.googleapis.com/google.rpc.ErrorInfo\"},"
                             "{\"field_violations\":[{\"field\":\"topic\",\"description\":\"is too long\"}],"
                             "\"@type\":\"type.googleapis.com/google.rpc.BadRequest\"},"
                             "{\"retry_delay\":\"1.500s\",\"@type\":\"type.googleapis.com/google.rpc.RetryInfo\"}]}");
    free(out);
    json_decref(j);
}

#define TEST(name) cmocka_unit_test_setup_teardown(test_##name, setup, teardown)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(request),     TEST(lenient),       TEST(numbers),     TEST(oneof),         TEST(mistakes_are_named),
        TEST(nul_in_text), TEST(out_of_memory), TEST(before_1970), TEST(error_details),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
