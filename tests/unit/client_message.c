/* libtxmsg: what a message takes and refuses. */
#include "message.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

static const char not_utf8[] = "\xff";

static void test_content(void **state) {
    txmsg_message *m = txmsg_message_new("orders");

    assert_non_null(m);
    assert_int_equal(txmsg_message_set_body(m, "one", 3), TXMSG_OK);
    assert_int_equal(txmsg_message_set_body(m, "a\0b", 3), TXMSG_OK);
    assert_int_equal(txmsg_message_set_key(m, NULL, 0), TXMSG_OK);
    assert_int_equal(txmsg_message_set_content_type(m, "text/plain"), TXMSG_OK);
    assert_int_equal(txmsg_message_set_content_type(m, "application/json"), TXMSG_OK);
    assert_int_equal(txmsg_message_set_deliver_at(m, 17), TXMSG_OK);
    assert_int_equal(txmsg_message_set_expire_at(m, 18), TXMSG_OK);
    for (int i = 0; i < 100; i++)
        assert_int_equal(txmsg_message_add_header(m, "name", "value"), TXMSG_OK);
    assert_true(bytes_eq_str(m->topic, "orders"));
    assert_true(bytes_eq(m->body, bytes_of("a\0b", 3)));
    assert_int_equal(m->key.n, 0);
    assert_true(bytes_eq_str(m->content_type, "application/json"));
    assert_int_equal(m->headers_n, 100);
    assert_int_equal(m->deliver_at_us, 17);
    assert_int_equal(m->expire_at_us, 18);
    txmsg_message_free(m);
}

/* Refused, and the message is as it was. */
static void test_misuse(void **state) {
    txmsg_message *m = txmsg_message_new("orders");

    assert_null(txmsg_message_new(NULL));
    assert_null(txmsg_message_new(not_utf8));
    assert_int_equal(txmsg_message_set_body(NULL, "x", 1), TXMSG_ERROR_INVALID);
    assert_int_equal(txmsg_message_set_body(m, NULL, 1), TXMSG_ERROR_INVALID);
    assert_int_equal(txmsg_message_set_body(m, "x", (size_t)MESSAGE_BYTES_MAX + 1), TXMSG_ERROR_INVALID);
    assert_int_equal(txmsg_message_set_key(m, NULL, 1), TXMSG_ERROR_INVALID);
    assert_int_equal(txmsg_message_set_content_type(m, NULL), TXMSG_ERROR_INVALID);
    assert_int_equal(txmsg_message_set_content_type(m, not_utf8), TXMSG_ERROR_INVALID);
    assert_int_equal(txmsg_message_add_header(m, NULL, "v"), TXMSG_ERROR_INVALID);
    assert_int_equal(txmsg_message_add_header(m, "n", NULL), TXMSG_ERROR_INVALID);
    assert_int_equal(txmsg_message_add_header(m, "n", not_utf8), TXMSG_ERROR_INVALID);
    assert_int_equal(txmsg_message_set_deliver_at(m, -1), TXMSG_ERROR_INVALID);
    assert_int_equal(txmsg_message_set_expire_at(NULL, 1), TXMSG_ERROR_INVALID);
    assert_int_equal(m->body.n + m->key.n + m->headers_n, 0);
    assert_int_equal(m->content_type.n, 0);
    assert_int_equal(m->deliver_at_us, 0);
    txmsg_message_free(m);
    txmsg_message_free(NULL);
}

/* Any allocation may fail: an answer, nothing lost, nothing leaked. */
static void test_memory(void **state) {
    for (uint64_t n = 1; n <= 12; n++) {
        mem_fail_at(n);
        txmsg_message *m = txmsg_message_new("orders");
        if (m) {
            int e = txmsg_message_set_body(m, "x", 1);
            assert_true(e == TXMSG_OK || e == TXMSG_ERROR_MEMORY);
            e = txmsg_message_set_content_type(m, "text/plain");
            assert_true(e == TXMSG_OK || e == TXMSG_ERROR_MEMORY);
            for (int i = 0; i < 3; i++) {
                e = txmsg_message_add_header(m, "n", "v");
                assert_true(e == TXMSG_OK || e == TXMSG_ERROR_MEMORY);
            }
        }
        mem_fail_at(0);
        txmsg_message_free(m);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_content), cmocka_unit_test(test_misuse),
                                       cmocka_unit_test(test_memory)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
