/* Every outcome of a lane says what happened and what to do. */
#include "message/outcome.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

static const char *meta(const struct rpc_error *e, const char *key) {
    for (size_t i = 0; i + 1 < ARRAY_LEN(e->meta) && e->meta[i]; i += 2)
        if (!strcmp(e->meta[i], key))
            return e->meta[i + 1];
    return NULL;
}

static struct lane_op op_of(enum op_outcome o) {
    struct lane_op op = {.kind = OP_CONFIRM, .outcome = o};
    uuid_v7_make(1700000000000, &op.id);
    return op;
}

static void test_each_outcome(void **state) {
    UNUSED(state);
    static const struct {
        enum op_outcome outcome;
        int code;
        const char *reason;
        bool retry;
    } rows[] = {
        {OP_NOT_FOUND, RPC_NOT_FOUND, "TRANSACTION_NOT_FOUND", false},
        {OP_CONTENT_DIFFERS, RPC_ALREADY_EXISTS, "CONTENT_DIFFERS", false},
        {OP_BODIES_DIFFER, RPC_INVALID_ARGUMENT, "BODIES_MISMATCH", false},
        {OP_PRODUCER_DIFFERS, RPC_FAILED_PRECONDITION, "PRODUCER_MISMATCH", false},
        {OP_PAST_RETENTION, RPC_FAILED_PRECONDITION, "PAST_RETENTION", false},
        {OP_REFUSED, RPC_INVALID_ARGUMENT, "REFUSED_BY_STORE", false},
        {OP_UNAVAILABLE, RPC_UNAVAILABLE, "STORE_UNAVAILABLE", true},
        {OP_OUTCOME_UNKNOWN, RPC_UNAVAILABLE, "OUTCOME_UNKNOWN", true},
        {OP_EXPIRED, RPC_DEADLINE_EXCEEDED, "EXPIRED_IN_QUEUE", false},
        {OP_SHUTDOWN, RPC_UNAVAILABLE, "SHUTTING_DOWN", true},
    };
    struct arena a;
    arena_init(&a, 1 << 16);
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct lane_op op = op_of(rows[i].outcome);
        struct rpc_error e;
        char id[UUID_TEXT];
        uuid_format(&op.id, id);
        assert_int_equal(outcome_error(&op, &a, &e), 1);
        assert_int_equal(e.code, rows[i].code);
        assert_string_equal(e.reason, rows[i].reason);
        assert_int_equal(e.retry_after_ms > 0, rows[i].retry);
        assert_string_equal(meta(&e, "transaction_id"), id);
        assert_true(strlen(e.message) > 10);
    }
    arena_deinit(&a);
}

static void test_decided_otherwise_names_decision_and_origin(void **state) {
    UNUSED(state);
    struct arena a;
    struct rpc_error e;
    arena_init(&a, 1 << 16);
    struct lane_op op = op_of(OP_DECIDED_OTHERWISE);
    op.state = TX_CANCELLED;
    op.decided_by = TX_ORIGIN_CHECK;
    op.decision_us = 1700000000000000;
    assert_int_equal(outcome_error(&op, &a, &e), 1);
    assert_int_equal(e.code, RPC_FAILED_PRECONDITION);
    assert_string_equal(e.reason, "DECIDED_OTHERWISE");
    assert_string_equal(meta(&e, "decision"), "ROLLED_BACK");
    assert_string_equal(meta(&e, "origin"), "CHECK");
    assert_string_equal(meta(&e, "decision_time"), "2023-11-14T22:13:20.000000Z");
    assert_non_null(meta(&e, "transaction_id"));
    assert_non_null(e.precondition_subject);
    arena_deinit(&a);
}

static void test_ok_has_a_status(void **state) {
    UNUSED(state);
    struct arena a;
    struct rpc_error e;
    arena_init(&a, 1 << 16);
    struct lane_op op = op_of(OP_OK);
    op.state = TX_CONFIRMED;
    op.decided_by = TX_ORIGIN_RPC;
    op.decision_us = 1700000000123456;
    assert_int_equal(outcome_error(&op, &a, &e), 0);
    const Txmsg__V1__TransactionStatus *s = outcome_status(&op, &a);
    assert_non_null(s);
    assert_int_equal(s->state, TXMSG__V1__TRANSACTION_STATE__TRANSACTION_STATE_CONFIRMED);
    assert_int_equal(s->decision_time->seconds, 1700000000);
    assert_int_equal(s->decision_time->nanos, 123456000);
    assert_null(s->prepare_time);
    arena_deinit(&a);
}

static void test_a_full_arena_still_answers(void **state) {
    UNUSED(state);
    struct arena a;
    struct rpc_error e;
    arena_init(&a, 0);
    struct lane_op op = op_of(OP_DECIDED_OTHERWISE);
    op.state = TX_CONFIRMED;
    assert_int_equal(outcome_error(&op, &a, &e), 1);
    assert_non_null(e.message);
    op.outcome = OP_OK;
    assert_null(outcome_status(&op, &a));
    arena_deinit(&a);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_each_outcome),
        cmocka_unit_test(test_decided_otherwise_names_decision_and_origin),
        cmocka_unit_test(test_ok_has_a_status),
        cmocka_unit_test(test_a_full_arena_still_answers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
