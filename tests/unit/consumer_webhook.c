/* Who may have signed a request, and when: the published example of Standard Webhooks, and everything that is not it. */
#include "txmsg/consumer.h"
#include "webclient/signature.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#define SECRET "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
#define OTHER  "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
#define ID     "msg_p5jXN8AQM9LWM0D4loKWxJek"
#define STAMP  "1614265330"
#define SIGNED "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
enum { NOW = 1614265330 };

static const char example[] = "{\"test\": 2432232314}";
static const struct txmsg_webhook keys = {.secret = SECRET};

static struct txmsg_header header(const char *name, const char *value) {
    return (struct txmsg_header){name, strlen(name), value, strlen(value)};
}

static int verify_at(const struct txmsg_webhook *k, const char *id, const char *stamp, const char *signature,
                     const char *body, int64_t now_s) {
    struct txmsg_header h[] = {header("Host", "a"), header("Webhook-Id", id), header("WEBHOOK-TIMESTAMP", stamp),
                               header("webhook-signature", signature)};
    struct txmsg_why why = {""};
    int r = txmsg_webhook_verify(k, h, ARRAY_LEN(h), body, strlen(body), now_s, &why);

    assert_int_equal(r != TXMSG_OK, why.text[0] != 0);
    assert_null(strstr(why.text, "MfKQ")); /* nothing secret */
    assert_int_equal(txmsg_webhook_verify(k, h, ARRAY_LEN(h), body, strlen(body), now_s, NULL), r);
    return r;
}

static int verify(const char *id, const char *stamp, const char *signature, const char *body) {
    return verify_at(&keys, id, stamp, signature, body, NOW);
}

static void test_known(void **state) {
    assert_int_equal(verify(ID, STAMP, SIGNED, example), TXMSG_OK);
}

static void test_changed(void **state) {
    char body[sizeof(example)], signature[] = SIGNED;

    memcpy(body, example, sizeof(body));
    for (size_t i = 0; i < sizeof(example) - 1; i++) {
        body[i] ^= 1;
        assert_int_equal(verify(ID, STAMP, SIGNED, body), TXMSG_BAD_SIGNATURE);
        body[i] ^= 1;
    }
    for (size_t i = 0; i < sizeof(signature) - 1; i++) {
        signature[i] ^= 1;
        assert_int_equal(verify(ID, STAMP, signature, example), TXMSG_BAD_SIGNATURE);
        signature[i] ^= 1;
    }
    assert_int_equal(verify(ID "x", STAMP, SIGNED, example), TXMSG_BAD_SIGNATURE);
    assert_int_equal(verify(ID, "1614265331", SIGNED, example), TXMSG_BAD_SIGNATURE);
    assert_int_equal(verify(ID, "01614265330", SIGNED, example), TXMSG_BAD_SIGNATURE); /* the text was signed */
    /* What is signed is one text: another cut of it at the dots must not pass. */
    assert_int_equal(verify("msg." STAMP, STAMP, SIGNED, example), TXMSG_BAD_SIGNATURE);
}

static void test_lists(void **state) {
    assert_int_equal(verify(ID, STAMP, "v1,AAAA " SIGNED, example), TXMSG_OK);
    assert_int_equal(verify(ID, STAMP, SIGNED " v1,AAAA", example), TXMSG_OK);
    assert_int_equal(verify(ID, STAMP, "v1a,AAAA  v2," SIGNED " " SIGNED " ", example), TXMSG_OK);
    assert_int_equal(verify(ID, STAMP, "", example), TXMSG_BAD_SIGNATURE);
    assert_int_equal(verify(ID, STAMP, "v1,", example), TXMSG_BAD_SIGNATURE);
    assert_int_equal(verify(ID, STAMP, " ", example), TXMSG_BAD_SIGNATURE);
    assert_int_equal(verify(ID, STAMP, "v2,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=", example),
                     TXMSG_BAD_SIGNATURE);
    assert_int_equal(verify(ID, STAMP, "g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=", example), TXMSG_BAD_SIGNATURE);
    /* A list has an end. */
    char many[17 * 3 + sizeof(SIGNED)] = "";
    for (size_t i = 0; i < 16 * 3; i += 3)
        memcpy(many + i, "v1 ", 3);
    memcpy(many + 16 * 3, SIGNED, sizeof(SIGNED));
    assert_int_equal(verify(ID, STAMP, many, example), TXMSG_BAD_SIGNATURE);
}

/* Secrets are changed with both sides knowing two for a while. */
static void test_two_secrets(void **state) {
    struct txmsg_webhook both = {.secret = OTHER, .previous_secret = SECRET}, only = {.secret = OTHER};
    CLEANUP_BUF struct buf b;

    assert_int_equal(verify_at(&both, ID, STAMP, SIGNED, example, NOW), TXMSG_OK);
    assert_int_equal(verify_at(&only, ID, STAMP, SIGNED, example, NOW), TXMSG_BAD_SIGNATURE);
    buf_init(&b, 1024);
    assert_int_equal(webhook_sign(&b, OTHER, ID, NOW, bytes_str(example)), 0);
    assert_int_equal(verify_at(&both, ID, STAMP, buf_str(&b), example, NOW), TXMSG_OK);
    assert_int_equal(verify(ID, STAMP, buf_str(&b), example), TXMSG_BAD_SIGNATURE);
}

static void test_time(void **state) {
    struct txmsg_webhook narrow = {.secret = SECRET, .tolerance_s = 5};

    assert_int_equal(verify_at(&keys, ID, STAMP, SIGNED, example, NOW + 300), TXMSG_OK);
    assert_int_equal(verify_at(&keys, ID, STAMP, SIGNED, example, NOW - 300), TXMSG_OK);
    assert_int_equal(verify_at(&keys, ID, STAMP, SIGNED, example, NOW + 301), TXMSG_BAD_TIMESTAMP);
    assert_int_equal(verify_at(&keys, ID, STAMP, SIGNED, example, NOW - 301), TXMSG_BAD_TIMESTAMP);
    assert_int_equal(verify_at(&narrow, ID, STAMP, SIGNED, example, NOW + 5), TXMSG_OK);
    assert_int_equal(verify_at(&narrow, ID, STAMP, SIGNED, example, NOW + 6), TXMSG_BAD_TIMESTAMP);
    assert_int_equal(verify_at(&keys, ID, STAMP, SIGNED, example, 0), TXMSG_BAD_TIMESTAMP); /* the clock's */
    static const char *const bad[] = {
        "", "-1", "+1614265330", " 1614265330", "1614265330.0", "0x10", "9999999999999999999"};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        assert_int_equal(verify(ID, bad[i], SIGNED, example), TXMSG_BAD_SIGNATURE);
}

static void test_headers(void **state) {
    struct txmsg_header h[] = {header("webhook-id", ID), header("webhook-timestamp", STAMP),
                               header("webhook-signature", SIGNED), header("webhook-id", ID)};

    assert_int_equal(txmsg_webhook_verify(&keys, h, 3, example, strlen(example), NOW, NULL), TXMSG_OK);
    assert_int_equal(txmsg_webhook_verify(&keys, h, 4, example, strlen(example), NOW, NULL), TXMSG_BAD_SIGNATURE);
    assert_int_equal(txmsg_webhook_verify(&keys, h, 2, example, strlen(example), NOW, NULL), TXMSG_BAD_SIGNATURE);
    assert_int_equal(txmsg_webhook_verify(&keys, h + 1, 2, example, strlen(example), NOW, NULL), TXMSG_BAD_SIGNATURE);
    assert_int_equal(txmsg_webhook_verify(&keys, NULL, 0, NULL, 0, NOW, NULL), TXMSG_BAD_SIGNATURE);
}

static void test_misuse(void **state) {
    static const char *const bad[] = {"", "whsec_", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_***", "WHSEC_MfKQ9r8G"};
    struct txmsg_header h = header("a", "b");

    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        struct txmsg_webhook first = {.secret = bad[i]}, second = {.secret = SECRET, .previous_secret = bad[i]};
        assert_int_equal(verify_at(&first, ID, STAMP, SIGNED, example, NOW), TXMSG_ERROR_INVALID);
        assert_int_equal(verify_at(&second, ID, STAMP, SIGNED, example, NOW), TXMSG_ERROR_INVALID);
    }
    struct txmsg_webhook none = {.secret = NULL}, below = {.secret = SECRET, .tolerance_s = -1};
    assert_int_equal(txmsg_webhook_verify(NULL, &h, 1, "", 0, NOW, NULL), TXMSG_ERROR_INVALID);
    assert_int_equal(txmsg_webhook_verify(&none, &h, 1, "", 0, NOW, NULL), TXMSG_ERROR_INVALID);
    assert_int_equal(txmsg_webhook_verify(&below, &h, 1, "", 0, NOW, NULL), TXMSG_ERROR_INVALID);
    assert_int_equal(txmsg_webhook_verify(&keys, NULL, 1, "", 0, NOW, NULL), TXMSG_ERROR_INVALID);
    assert_int_equal(txmsg_webhook_verify(&keys, &h, 1, NULL, 1, NOW, NULL), TXMSG_ERROR_INVALID);
}

/* Want of memory is no forgery. */
static void test_memory(void **state) {
    struct txmsg_header h[] = {header("webhook-id", ID), header("webhook-timestamp", STAMP),
                               header("webhook-signature", "v1,AAAA " SIGNED)};
    int failures = 0;

    for (uint64_t n = 1;; n++) {
        mem_fail_at(n);
        int r = txmsg_webhook_verify(&keys, h, ARRAY_LEN(h), example, strlen(example), NOW, NULL);
        mem_fail_at(0);
        if (r == TXMSG_OK)
            break;
        assert_int_equal(r, TXMSG_ERROR_MEMORY);
        failures++;
    }
    assert_true(failures > 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_known),  cmocka_unit_test(test_changed),     cmocka_unit_test(test_lists),
        cmocka_unit_test(test_time),   cmocka_unit_test(test_two_secrets), cmocka_unit_test(test_headers),
        cmocka_unit_test(test_misuse), cmocka_unit_test(test_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
