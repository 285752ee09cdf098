/* Signatures: the published example of Standard Webhooks, and what is not a secret or an id. */
#include "webclient/signature.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#define SECRET "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

static const char example[] = "{\"test\": 2432232314}";

static void test_known(void **state) {
    CLEANUP_BUF struct buf b;

    buf_init(&b, 1024);
    assert_int_equal(webhook_sign(&b, SECRET, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, bytes_str(example)), 0);
    assert_string_equal(buf_str(&b), "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
}

static void test_appends(void **state) {
    CLEANUP_BUF struct buf b;

    buf_init(&b, 1024);
    buf_put_str(&b, "webhook-signature: ");
    assert_int_equal(webhook_sign(&b, SECRET, "0197a3b4-0000-7000-8000-000000000001", 1, BYTES_NULL), 0);
    /* Computed with Python's hmac over "<id>.1.". */
    assert_string_equal(buf_str(&b), "webhook-signature: v1,/gaqKP/w0XWWPD3KHyHty7WsEiGABomvCiY8sBg+GEE=");
}

static void test_refused(void **state) {
    static const char *const secrets[] = {"", "whsec_", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_***",
                                          "WHSEC_MfKQ9r8G"};
    CLEANUP_BUF struct buf b;

    buf_init(&b, 1024);
    for (size_t i = 0; i < ARRAY_LEN(secrets); i++)
        assert_int_equal(webhook_sign(&b, secrets[i], "a", 1, BYTES_LIT("x")), -EINVAL);
    assert_int_equal(webhook_sign(&b, NULL, "a", 1, BYTES_LIT("x")), -EINVAL);
    assert_int_equal(webhook_sign(&b, SECRET, "a.b", 1, BYTES_LIT("x")), -EINVAL);
    assert_int_equal(webhook_sign(&b, SECRET, "", 1, BYTES_LIT("x")), -EINVAL);
    assert_int_equal(b.n, 0);
}

static void test_full(void **state) {
    CLEANUP_BUF struct buf b;

    buf_init(&b, 10);
    assert_int_equal(webhook_sign(&b, SECRET, "a", 1, BYTES_LIT("x")), -E2BIG);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_known),
        cmocka_unit_test(test_appends),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_full),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
