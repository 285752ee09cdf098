/* The defaults that the documents promise. */
#include "core/limits.h"

#include <setjmp.h>
#include <cmocka.h>

static void test_defaults(void **state) {
    struct limits l;

    limits_default(&l);
    assert_int_equal(l.body_bytes, 1048576);
    assert_int_equal(l.messages, 64);
    assert_int_equal(l.transaction_bytes, 4194304);
    assert_int_equal(l.headers, 64);
    assert_int_equal(l.header_bytes, 16384);
    assert_int_equal(l.id_past_ms, 86400000);
    assert_int_equal(l.id_future_ms, 300000);
    assert_int_equal(l.check_after_max_ms, 86400000);
    assert_true(l.messages <= LIMIT_MESSAGES_HARD);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_defaults),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
