/* libtxmsg: options and their bounds, and clients that cannot be made. */
#include "options.h"

#include "txmsg/client.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

static void test_bounds(void **state) {
    txmsg_options *o = txmsg_options_new();

    assert_int_equal(txmsg_options_set_timeout_ms(o, 0), TXMSG_ERROR_INVALID);
    assert_int_equal(txmsg_options_set_timeout_ms(o, 86400001), TXMSG_ERROR_INVALID);
    assert_int_equal(txmsg_options_set_timeout_ms(o, 1), TXMSG_OK);
    assert_int_equal(txmsg_options_set_max_in_flight(o, 0), TXMSG_ERROR_INVALID);
    assert_int_equal(txmsg_options_set_max_in_flight(o, 65537), TXMSG_ERROR_INVALID);
    assert_int_equal(txmsg_options_set_max_bytes(o, 65535), TXMSG_ERROR_INVALID);
    assert_int_equal(txmsg_options_set_channels(o, 17), TXMSG_ERROR_INVALID);
    assert_int_equal(txmsg_options_set_unary(o, 2), TXMSG_ERROR_INVALID);
    assert_int_equal(txmsg_options_set_dispatch(o, -1), TXMSG_ERROR_INVALID);
    assert_int_equal(txmsg_options_set_producer(o, ""), TXMSG_ERROR_INVALID);
    assert_int_equal(txmsg_options_set_producer(NULL, "shop"), TXMSG_ERROR_INVALID);
    for (int i = 0; i < ADDRESSES_MAX; i++)
        assert_int_equal(txmsg_options_add_address(o, "127.0.0.1:1"), TXMSG_OK);
    assert_int_equal(txmsg_options_add_address(o, "127.0.0.1:1"), TXMSG_ERROR_INVALID);
    assert_int_equal(o->addresses_n, ADDRESSES_MAX);
    assert_int_equal(o->max_in_flight, 4096);
    txmsg_options_free(o);
    txmsg_options_free(NULL);
}

static void test_call_options(void **state) {
    txmsg_call_options *o = txmsg_call_options_new();

    assert_int_equal(txmsg_call_options_set_timeout_ms(o, -1), TXMSG_ERROR_INVALID);
    assert_int_equal(txmsg_call_options_set_check_after_ms(o, -1), TXMSG_ERROR_INVALID);
    assert_int_equal(txmsg_call_options_set_business_key(o, "\xff"), TXMSG_ERROR_INVALID);
    assert_int_equal(txmsg_call_options_set_business_key(o, "order 1"), TXMSG_OK);
    assert_string_equal(o->business_key, "order 1");
    assert_int_equal(txmsg_call_options_set_business_key(o, NULL), TXMSG_OK);
    assert_null(o->business_key);
    assert_int_equal(txmsg_call_options_set_reason(o, "why"), TXMSG_OK);
    assert_int_equal(txmsg_call_options_set_reason(NULL, "why"), TXMSG_ERROR_INVALID);
    txmsg_call_options_free(o);
}

static void test_clients(void **state) {
    txmsg_options *o = txmsg_options_new();
    txmsg_client *c = NULL;

    assert_int_equal(txmsg_client_new(NULL, &c), TXMSG_ERROR_INVALID);
    assert_int_equal(txmsg_client_new(o, &c), TXMSG_ERROR_INVALID); /* no producer */
    assert_int_equal(txmsg_options_set_producer(o, "shop"), TXMSG_OK);
    assert_int_equal(txmsg_client_new(o, NULL), TXMSG_ERROR_INVALID);
    assert_null(c);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(txmsg_client_new(o, &c), TXMSG_OK);
        assert_int_equal(txmsg_client_in_flight(c), 0);
        assert_int_equal(txmsg_client_flush(c, 0), TXMSG_OK);
        assert_int_equal(txmsg_client_fd(c), TXMSG_ERROR_INVALID); /* not made for it */
        assert_int_equal(txmsg_client_dispatch(c, 0), TXMSG_ERROR_INVALID);
        assert_int_equal(txmsg_client_free(c), TXMSG_OK);
        assert_int_equal(txmsg_client_free(c), TXMSG_ERROR_CLOSED);
        assert_int_equal(txmsg_client_in_flight(c), TXMSG_ERROR_CLOSED);
    }
    assert_int_equal(txmsg_client_free(NULL), TXMSG_OK);
    txmsg_options_free(o);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_bounds), cmocka_unit_test(test_call_options),
                                       cmocka_unit_test(test_clients)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
