/* libtxmsg: what an answer comes to. Nothing but a verdict of the service is one, and only some of them speak of the attempts before. */
#include "result.h"

#include "rpc/rpc.h"
#include "rpc/status.h"
#include "txmsg/v1/transaction.pb-c.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#define ID      "01a1fda4-3e4e-7a28-aa69-48f54cbe73eb"
#define TEXT(s) ((char *)(uintptr_t)(s))

static void test_outcomes(void **state) {
    static const struct {
        int code;
        const char *reason;
        enum outcome outcome;
    } cases[] = {
        {RPC_OK, "", OUTCOME_DONE},
        {RPC_UNAVAILABLE, "", OUTCOME_UNKNOWN},
        {RPC_UNAVAILABLE, "OUTCOME_UNKNOWN", OUTCOME_UNKNOWN},
        {RPC_UNAVAILABLE, "SOMETHING_NEW", OUTCOME_UNKNOWN},
        {RPC_UNAVAILABLE, "STORE_UNAVAILABLE", OUTCOME_NOT_STORED},
        {RPC_UNAVAILABLE, "SHUTTING_DOWN", OUTCOME_NOT_STORED},
        {RPC_RESOURCE_EXHAUSTED, "OVERLOADED", OUTCOME_NOT_STORED},
        {RPC_RESOURCE_EXHAUSTED, "TOO_MANY_STREAMS", OUTCOME_NOT_STORED},
        {RPC_RESOURCE_EXHAUSTED, "REQUEST_TOO_LARGE", OUTCOME_REFUSED},
        {RPC_RESOURCE_EXHAUSTED, "", OUTCOME_REFUSED},
        {RPC_DEADLINE_EXCEEDED, "", OUTCOME_UNKNOWN},
        {RPC_DEADLINE_EXCEEDED, "EXPIRED_IN_QUEUE", OUTCOME_NOT_STORED},
        {RPC_DEADLINE_EXCEEDED, "DEADLINE_PASSED", OUTCOME_NOT_STORED},
        {RPC_CANCELLED, "", OUTCOME_UNKNOWN},
        {RPC_INTERNAL, "", OUTCOME_UNKNOWN},
        {RPC_UNKNOWN, "", OUTCOME_UNKNOWN},
        {RPC_ABORTED, "ANY", OUTCOME_UNKNOWN},
        {99, "", OUTCOME_UNKNOWN},
        {RPC_INVALID_ARGUMENT, "INVALID_FIELD", OUTCOME_REFUSED},
        {RPC_INVALID_ARGUMENT, "", OUTCOME_UNKNOWN},
        {RPC_NOT_FOUND, "TRANSACTION_NOT_FOUND", OUTCOME_REFUSED},
        {RPC_NOT_FOUND, "", OUTCOME_UNKNOWN}, /* a proxy's 404 */
        {RPC_ALREADY_EXISTS, "CONTENT_DIFFERS", OUTCOME_REFUSED},
        {RPC_FAILED_PRECONDITION, "DECIDED_OTHERWISE", OUTCOME_REFUSED},
        {RPC_UNIMPLEMENTED, "", OUTCOME_REFUSED},
        {RPC_UNAUTHENTICATED, "", OUTCOME_REFUSED},
        {RPC_PERMISSION_DENIED, "", OUTCOME_REFUSED},
    };

    for (size_t i = 0; i < ARRAY_LEN(cases); i++)
        assert_int_equal(outcome_of(cases[i].code, cases[i].reason), cases[i].outcome);
    assert_true(outcome_settles(RPC_ALREADY_EXISTS, "CONTENT_DIFFERS"));
    assert_true(outcome_settles(RPC_FAILED_PRECONDITION, "DECIDED_OTHERWISE"));
    assert_false(outcome_settles(RPC_FAILED_PRECONDITION, "PAST_RETENTION"));
    assert_false(outcome_settles(RPC_NOT_FOUND, "TOPIC_NOT_FOUND"));
    assert_false(outcome_settles(RPC_INVALID_ARGUMENT, "ID_TIME_OUT_OF_WINDOW"));
}

static void test_status(void **state) {
    Txmsg__V1__TransactionStatus st = TXMSG__V1__TRANSACTION_STATUS__INIT;
    Google__Protobuf__Timestamp prepared = GOOGLE__PROTOBUF__TIMESTAMP__INIT, decided = prepared;
    uint8_t bytes[256];
    txmsg_result r;

    prepared.seconds = 1700000000;
    prepared.nanos = 5000;
    decided.seconds = 1700000001;
    st.transaction_id = TEXT(ID);
    st.state = TXMSG__V1__TRANSACTION_STATE__TRANSACTION_STATE_CONFIRMED;
    st.origin = TXMSG__V1__DECISION_ORIGIN__DECISION_ORIGIN_CHECK;
    st.prepare_time = &prepared;
    st.decision_time = &decided;
    result_init(&r);
    struct bytes packed = bytes_of(bytes, txmsg__v1__transaction_status__pack(&st, bytes));
    assert_int_equal(result_take_status(&r, packed, ID), OUTCOME_DONE);
    assert_int_equal(txmsg_result_state(&r), TXMSG_STATE_CONFIRMED);
    assert_int_equal(txmsg_result_origin(&r), TXMSG_ORIGIN_CHECK);
    assert_int_equal(txmsg_result_prepare_time_us(&r), 1700000000000005);
    assert_int_equal(txmsg_result_decision_time_us(&r), 1700000001000000);
    assert_int_equal(txmsg_result_code(&r), RPC_OK);
    /* Of another transaction, or cut off: no answer. */
    assert_int_equal(result_take_status(&r, packed, "01a1fda4-3e4e-7a28-aa69-48f54cbe73ec"), OUTCOME_UNKNOWN);
    assert_int_equal(txmsg_result_state(&r), TXMSG_STATE_NONE);
    for (size_t n = 0; n < packed.n; n++) {
        enum outcome o = result_take_status(&r, bytes_of(bytes, n), ID);
        assert_true(o == OUTCOME_UNKNOWN || (o == OUTCOME_DONE && n >= 38));
    }
    result_deinit(&r);
}

/* Fields in another order, twice, unknown ones between, numbers and lengths in more bytes than they need: all of it is protobuf. */
static void test_status_otherwise(void **state) {
    static const uint8_t other[] = "\x2a\x02\x08\x07"     /* decided */
                                   "\xfa\x07\x03new"      /* unknown, with a key of two bytes */
                                   "\x18\x81\x80\x00"     /* origin */
                                   "\x22\x82\x00\x08\x05" /* prepared */
                                   "\x10\x01\x10\x02"     /* state, twice */
                                   "\x0a\x24" ID "\x39"
                                   "fixed64!";
    const struct bytes status = bytes_of(other, sizeof(other) - 1);
    txmsg_result r;

    result_init(&r);
    assert_int_equal(result_take_status(&r, status, ID), OUTCOME_DONE);
    assert_int_equal(txmsg_result_state(&r), 2);
    assert_int_equal(txmsg_result_origin(&r), 1);
    assert_int_equal(txmsg_result_prepare_time_us(&r), 5000000);
    assert_int_equal(txmsg_result_decision_time_us(&r), 7000000);
    assert_int_equal(result_take_status(&r, bytes_of(other, status.n - 1), ID), OUTCOME_UNKNOWN);
    result_deinit(&r);
}

static void test_error(void **state) {
    const struct rpc_error error = {.code = RPC_FAILED_PRECONDITION,
                                    .reason = "DECIDED_OTHERWISE",
                                    .message = "it was cancelled",
                                    .retry_after_ms = 1500,
                                    .meta = {"decision", "ROLLED_BACK", "origin", "ADMIN"}};
    struct bytes packed;
    struct arena a;
    txmsg_result r, copy;

    arena_init(&a, 1 << 16);
    result_init(&r);
    result_init(&copy);
    assert_int_equal(status_pack(&error, &a, &packed), 0);
    assert_int_equal(result_take_error(&r, RPC_UNKNOWN, BYTES_NULL, packed), OUTCOME_REFUSED);
    result_move(&copy, &r);
    assert_string_equal(txmsg_result_reason(&copy), "DECIDED_OTHERWISE");
    assert_string_equal(txmsg_result_message(&copy), "it was cancelled");
    assert_string_equal(txmsg_result_code_name(&copy), "FAILED_PRECONDITION");
    assert_int_equal(txmsg_result_state(&copy), TXMSG_STATE_CANCELLED);
    assert_int_equal(txmsg_result_origin(&copy), TXMSG_ORIGIN_ADMIN);
    assert_int_equal(txmsg_result_retry_after_ms(&copy), 1500);
    assert_string_equal(txmsg_result_reason(&r), "");
    /* Without details, or with bytes that are none: the words of the connection, and nobody knows. */
    assert_int_equal(result_take_error(&r, RPC_UNAVAILABLE, bytes_str("reset"), bytes_str("\xff\xff")),
                     OUTCOME_UNKNOWN);
    assert_string_equal(txmsg_result_message(&r), "reset");
    assert_string_equal(txmsg_result_reason(&r), "");
    result_deinit(&r);
    result_deinit(&copy);
    arena_deinit(&a);
}

static void test_misuse(void **state) {
    assert_int_equal(txmsg_result_status(NULL), TXMSG_ERROR_INVALID);
    assert_string_equal(txmsg_result_id(NULL)->text, "");
    assert_string_equal(txmsg_result_reason(NULL), "");
    assert_string_equal(txmsg_result_message(NULL), "");
    assert_string_equal(txmsg_result_code_name(NULL), "UNKNOWN");
    assert_int_equal(txmsg_result_executed(NULL), 0);
    txmsg_result_free(NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_outcomes), cmocka_unit_test(test_status),
                                       cmocka_unit_test(test_status_otherwise), cmocka_unit_test(test_error),
                                       cmocka_unit_test(test_misuse)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
