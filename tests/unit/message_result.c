/* Results of a Pipeline, written by hand, are to the byte what protobuf-c writes. */
#include "message/result.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

static struct arena arena;
static struct buf out;

static int setup(void **state) {
    arena_init(&arena, 1 << 20);
    buf_init(&out, 1 << 20);
    return 0;
}

static int teardown(void **state) {
    arena_deinit(&arena);
    buf_deinit(&out);
    return 0;
}

/* What protobuf-c makes of one result, behind what `wanted` holds already. */
static void put_wanted(struct buf *wanted, uint64_t tag, Txmsg__V1__OperationResult *result) {
    Txmsg__V1__PipelineResponse response = TXMSG__V1__PIPELINE_RESPONSE__INIT;
    Txmsg__V1__TaggedResult row = TXMSG__V1__TAGGED_RESULT__INIT, *rows[] = {&row};
    uint8_t b[4096];

    row.tag = tag;
    row.result = result;
    response.results = rows;
    response.n_results = 1;
    assert_true(txmsg__v1__pipeline_response__get_packed_size(&response) <= sizeof(b));
    buf_put(wanted, b, txmsg__v1__pipeline_response__pack(&response, b));
}

static void same(struct buf *wanted) {
    assert_int_equal(out.n, wanted->n);
    assert_memory_equal(out.p, wanted->p, wanted->n);
    buf_deinit(wanted);
}

static void test_status(void **state) {
    static const struct {
        uint64_t tag;
        enum tx_state state;
        enum tx_origin by;
        int64_t prepare_us, decision_us;
    } rows[] = {
        {1, TX_PREPARED, TX_ORIGIN_NONE, 1790000000000001, 0},
        {0, TX_CONFIRMED, TX_ORIGIN_RPC, 0, 1790000000000000},
        {127, TX_CANCELLED, TX_ORIGIN_CHECK, 1, 999999},
        {128, TX_CONFIRMED, TX_ORIGIN_ADMIN, 1790000000999999, 1790000000999999},
        {UINT64_MAX, TX_CONFIRMED, TX_ORIGIN_ADMIN, INT64_MAX, INT64_MAX},
    };
    struct buf wanted;

    buf_init(&wanted, 1 << 20);
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct lane_op op = {.state = rows[i].state,
                             .decided_by = rows[i].by,
                             .prepare_us = rows[i].prepare_us,
                             .decision_us = rows[i].decision_us};
        Txmsg__V1__OperationResult result = TXMSG__V1__OPERATION_RESULT__INIT;

        uuid_v7_make(1790000000000, &op.id);
        result.result_case = TXMSG__V1__OPERATION_RESULT__RESULT_STATUS;
        result.status = outcome_status(&op, &arena);
        put_wanted(&wanted, rows[i].tag, &result);
        assert_int_equal(result_put_status(&out, rows[i].tag, &op), 0);
    }
    same(&wanted);
}

static void test_error(void **state) {
    static char text[700];
    const uint64_t tags[] = {0, 5, 300, UINT64_MAX};
    struct buf wanted;

    buf_init(&wanted, 1 << 20);
    memset(text, 'x', sizeof(text) - 1);
    for (size_t i = 0; i < 2 * ARRAY_LEN(tags); i++) {
        const struct rpc_error err = {.code = RPC_NOT_FOUND,
                                      .reason = "TRANSACTION_NOT_FOUND",
                                      .message = i % 2 ? text : "short",
                                      .meta = {"transaction_id", "x"}};
        Txmsg__V1__OperationResult result = TXMSG__V1__OPERATION_RESULT__INIT;

        result.result_case = TXMSG__V1__OPERATION_RESULT__RESULT_ERROR;
        assert_int_equal(rpc_error_status(&err, &arena, &result.error), 0);
        put_wanted(&wanted, tags[i / 2], &result);
        assert_int_equal(result_put_error(&out, tags[i / 2], &err, &arena), 0);
    }
    same(&wanted);
}

static void test_credit(void **state) {
    struct buf wanted;
    uint8_t b[16];

    buf_init(&wanted, 1 << 10);
    for (uint64_t credit = 0; credit <= UINT32_MAX; credit = credit * 131 + 1) {
        Txmsg__V1__PipelineResponse response = TXMSG__V1__PIPELINE_RESPONSE__INIT;

        response.credit = (uint32_t)credit;
        buf_put(&wanted, b, txmsg__v1__pipeline_response__pack(&response, b));
        assert_int_equal(result_put_credit(&out, (uint32_t)credit), 0);
    }
    same(&wanted);
}

/* A full buffer, or no memory: nothing half of a result is left in it. */
static void test_no_room(void **state) {
    const struct rpc_error err = {.code = RPC_NOT_FOUND, .reason = "X", .message = "a message of some length"};
    struct lane_op op = {.state = TX_PREPARED};
    struct arena none;

    uuid_v7_make(1790000000000, &op.id);
    buf_deinit(&out);
    buf_init(&out, 40);
    assert_int_equal(result_put_status(&out, 1, &op), -E2BIG);
    assert_int_equal(out.n, 0);
    buf_reset(&out);
    assert_int_equal(result_put_error(&out, 1, &err, &arena), -E2BIG);
    assert_int_equal(out.n, 0);
    buf_reset(&out);
    arena_init(&none, 16);
    assert_int_equal(result_put_error(&out, 1, &err, &none), -ENOMEM);
    assert_int_equal(out.n, 0);
    arena_deinit(&none);
}

int main(void) {
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {T(test_status), T(test_error), T(test_credit), T(test_no_room)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
