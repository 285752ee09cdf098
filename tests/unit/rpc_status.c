/* Errors keep all their parts on the way through google.rpc.Status, and never outgrow a client's header limit. */
#include "rpc/status.h"

#include "google/rpc/status.pb-c.h"

#include <setjmp.h>
#include <cmocka.h>

static struct arena arena;

static int setup(void **state) {
    arena_init(&arena, 1 << 20);
    return 0;
}

static int teardown(void **state) {
    arena_deinit(&arena);
    return 0;
}

static void test_names(void **state) {
    assert_string_equal(rpc_code_name(RPC_OK), "OK");
    assert_string_equal(rpc_code_name(RPC_INVALID_ARGUMENT), "INVALID_ARGUMENT");
    assert_string_equal(rpc_code_name(RPC_UNAUTHENTICATED), "UNAUTHENTICATED");
    assert_string_equal(rpc_code_name(99), "UNKNOWN");
    assert_string_equal(rpc_code_name(-1), "UNKNOWN");
}

static void test_round_trip(void **state) {
    struct rpc_error err = {
        .code = RPC_RESOURCE_EXHAUSTED,
        .reason = "LANE_FULL",
        .message = "too much at once",
        .field = "messages[2].topic",
        .field_description = "is too long",
        .retry_after_ms = 1250,
        .precondition_subject = "lane/3",
        .meta = {"lane", "3", "limit", "100"},
    };
    struct Google__Rpc__Status *status;
    struct status_details d;
    struct bytes packed;

    assert_int_equal(rpc_error_status(&err, &arena, &status), 0);
    assert_int_equal(status->code, RPC_RESOURCE_EXHAUSTED);
    assert_string_equal(status->message, "too much at once");
    assert_int_equal(status->n_details, 4);
    assert_string_equal(status->details[0]->type_url, "type.googleapis.com/google.rpc.ErrorInfo");
    assert_int_equal(status_pack(&err, &arena, &packed), 0);
    assert_int_equal(status_unpack(packed, &arena, &d), 0);
    assert_string_equal(d.message, "too much at once");
    assert_string_equal(d.reason, "LANE_FULL");
    assert_string_equal(d.field, "messages[2].topic");
    assert_string_equal(d.field_description, "is too long");
    assert_int_equal(d.retry_after_ms, 1250);
}

static void test_only_what_applies(void **state) {
    struct rpc_error err = {.code = RPC_NOT_FOUND, .reason = "UNKNOWN_ID", .message = "no such transaction"};
    struct Google__Rpc__Status *status;

    assert_int_equal(rpc_error_status(&err, &arena, &status), 0);
    assert_int_equal(status->n_details, 1);
}

static void test_bounded(void **state) {
    char *huge = malloc(100001);
    struct rpc_error err = {.code = RPC_INVALID_ARGUMENT, .reason = "BAD", .retry_after_ms = 1};
    struct status_details d;
    struct bytes packed;

    assert_non_null(huge);
    for (int i = 0; i < 100000; i += 2)
        memcpy(huge + i, "\xc3\xa4", 2);
    huge[100000] = '\0';
    err.message = err.field = err.field_description = err.precondition_subject = huge + 2;
    for (size_t i = 0; i < ARRAY_LEN(err.meta); i++)
        err.meta[i] = huge;
    assert_int_equal(status_pack(&err, &arena, &packed), 0);
    assert_true(packed.n < 6000); /* base64 makes 8 KiB of it */
    assert_int_equal(status_unpack(packed, &arena, &d), 0);
    assert_true(text_valid(bytes_str(d.message))); /* not cut inside a character */
    free(huge);
}

static void test_out_of_memory(void **state) {
    struct rpc_error err = {.code = RPC_NOT_FOUND, .reason = "R", .message = "m", .field = "f", .retry_after_ms = 1};
    struct bytes packed;
    struct arena small;
    int result = -ENOMEM;

    for (size_t max = 0; result == -ENOMEM && max < 4096; max += 16) {
        arena_init(&small, max);
        result = status_pack(&err, &small, &packed);
        arena_deinit(&small);
    }
    assert_int_equal(result, 0);
}

static void test_hostile(void **state) {
    struct status_details d;

    assert_int_equal(status_unpack(BYTES_LIT("\xff"), &arena, &d), -EINVAL);
    assert_int_equal(status_unpack(BYTES_LIT(""), &arena, &d), 0);
    assert_null(d.reason);
    /* details { type_url: "x" }; details { type_url: "/google.rpc.ErrorInfo" value: "\xff" } */
    assert_int_equal(status_unpack(BYTES_LIT("\x1a\x03\x0a\x01x"
                                             "\x1a\x1a\x0a\x15/google.rpc.ErrorInfo\x12\x01\xff"),
                                   &arena, &d),
                     0);
    assert_null(d.reason);
    /* RetryInfo { retry_delay { seconds: INT64_MAX } } */
    assert_int_equal(status_unpack(BYTES_LIT("\x1a\x25\x0a\x15/google.rpc.RetryInfo"
                                             "\x12\x0c\x0a\x0a\x08\xff\xff\xff\xff\xff\xff\xff\xff\x7f"),
                                   &arena, &d),
                     0);
    assert_int_equal(d.retry_after_ms, 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names),
        cmocka_unit_test_setup_teardown(test_round_trip, setup, teardown),
        cmocka_unit_test_setup_teardown(test_only_what_applies, setup, teardown),
        cmocka_unit_test_setup_teardown(test_bounded, setup, teardown),
        cmocka_unit_test_setup_teardown(test_out_of_memory, setup, teardown),
        cmocka_unit_test_setup_teardown(test_hostile, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
