/* The published vectors: FIPS 180 for SHA-256, RFC 4231 for HMAC, RFC 4648 for base64. */
#include "base/crypto.h"

#include <setjmp.h>
#include <cmocka.h>

static void check_hex(const uint8_t digest[32], const char *want) {
    char hex[65];
    for (int i = 0; i < 32; i++)
        snprintf(hex + 2 * i, 3, "%02x", digest[i]);
    assert_string_equal(hex, want);
}

static void test_sha256(void **state) {
    static const struct {
        const char *text, *digest;
    } vectors[] = {
        {"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},
        {"", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
        {"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
         "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"},
        {"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},
    };
    struct sha256 *s = sha256_new();
    uint8_t out[32];
    assert_non_null(s);
    for (size_t i = 0; i < ARRAY_LEN(vectors); i++) { /* one digest reused for all */
        sha256_reset(s);
        sha256_add(s, vectors[i].text, strlen(vectors[i].text));
        sha256_end(s, out);
        check_hex(out, vectors[i].digest);
    }
    sha256_reset(s);
    sha256_add(s, "dropped by the reset", 20);
    sha256_reset(s);
    char block[1000];
    memset(block, 'a', sizeof(block));
    for (int i = 0; i < 1000; i++)
        sha256_add(s, block, sizeof(block));
    sha256_add(s, NULL, 0);
    sha256_end(s, out);
    check_hex(out, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
    sha256_free(s);
    sha256_free(NULL);
}

/* A fresh digest needs no reset. */
static void test_sha256_fresh(void **state) {
    struct sha256 *s = sha256_new();
    uint8_t out[32];
    sha256_add(s, "a", 1);
    sha256_add(s, "bc", 2);
    sha256_end(s, out);
    check_hex(out, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    sha256_free(s);
    mem_fail_at(1);
    assert_null(sha256_new());
}

static void check_hmac(struct bytes key, struct bytes data, const char *want) {
    uint8_t out[32];
    assert_int_equal(hmac_sha256(key, data, out), 0);
    check_hex(out, want);
}

static void test_hmac(void **state) {
    uint8_t key[131], data[50];
    memset(key, 0x0b, 20);
    check_hmac(bytes_of(key, 20), BYTES_LIT("Hi There"),
               "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7");
    check_hmac(BYTES_LIT("Jefe"), BYTES_LIT("what do ya want for nothing?"),
               "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
    memset(key, 0xaa, sizeof(key));
    memset(data, 0xdd, sizeof(data));
    check_hmac(bytes_of(key, 20), bytes_of(data, 50),
               "773ea91e36800e46854db8ebd09181a72959098b3ef8c122d9635514ced565fe");
    for (int i = 0; i < 25; i++)
        key[i] = (uint8_t)(i + 1);
    memset(data, 0xcd, sizeof(data));
    check_hmac(bytes_of(key, 25), bytes_of(data, 50),
               "82558a389a443c0ea4cc819899f2083a85f0faa3e578f8077a2e3ff46729665b");
    memset(key, 0xaa, sizeof(key));
    check_hmac(bytes_of(key, 131), BYTES_LIT("Test Using Larger Than Block-Size Key - Hash Key First"),
               "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54");
    check_hmac(BYTES_NULL, BYTES_NULL, "b613679a0814d9ec772f95d778c35fc5ff1697c493715653c6c712144292c5ad");
}

static void test_base64(void **state) {
    static const char *const vectors[][2] = {{"", ""},
                                             {"f", "Zg=="},
                                             {"fo", "Zm8="},
                                             {"foo", "Zm9v"},
                                             {"foob", "Zm9vYg=="},
                                             {"fooba", "Zm9vYmE="},
                                             {"foobar", "Zm9vYmFy"}};
    CLEANUP_BUF struct buf b;
    buf_init(&b, 100);
    for (size_t i = 0; i < ARRAY_LEN(vectors); i++) {
        struct bytes text = bytes_str(vectors[i][1]);
        buf_reset(&b);
        base64_put(&b, bytes_str(vectors[i][0]));
        assert_string_equal(buf_str(&b), vectors[i][1]);
        buf_reset(&b);
        assert_int_equal(base64_get(&b, text), 0);
        assert_string_equal(buf_str(&b), vectors[i][0]);
        while (text.n > 0 && text.p[text.n - 1] == '=') /* padding is optional */
            text.n--;
        buf_reset(&b);
        assert_int_equal(base64_get(&b, text), 0);
        assert_string_equal(buf_str(&b), vectors[i][0]);
    }
    buf_reset(&b);
    assert_int_equal(base64_get(&b, BYTES_LIT("-_+/")), 0); /* both alphabets */
    assert_memory_equal(b.p, "\xfb\xff\xbf", 3);
}

static void test_base64_refuses(void **state) {
    static const char *const bad[] = {"A",      "AAAAA", "A===", "====", "=",         "Zg=",        "Zg=a",    "Zm 9v",
                                      "Zm9v\n", "Zh==",  "Zm9=", "Z*==", "Zm9vZg===", "\xc3\xbc==", "Zg==Zg=="};
    CLEANUP_BUF struct buf b;
    buf_init(&b, 100);
    buf_put_str(&b, "kept");
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        if (base64_get(&b, bytes_str(bad[i])) != -EINVAL)
            fail_msg("\"%s\" passed", bad[i]);
        assert_string_equal(buf_str(&b), "kept");
    }
    CLEANUP_BUF struct buf small;
    buf_init(&small, 2);
    assert_int_equal(base64_get(&small, BYTES_LIT("AAAA")), -E2BIG);
    base64_put(&small, BYTES_LIT("abc"));
    assert_int_equal(buf_error(&small), -E2BIG);
}

static void test_base64_round_trip(void **state) {
    CLEANUP_BUF struct buf text;
    CLEANUP_BUF struct buf back;
    uint8_t bytes[300];
    buf_init(&text, 1000);
    buf_init(&back, 300);
    crypto_random(bytes, sizeof(bytes));
    for (size_t n = 0; n <= sizeof(bytes); n++) {
        buf_reset(&text);
        buf_reset(&back);
        base64_put(&text, bytes_of(bytes, n));
        assert_int_equal(base64_get(&back, buf_bytes(&text)), 0);
        assert_true(bytes_eq(buf_bytes(&back), bytes_of(bytes, n)));
    }
}

static void test_equal(void **state) {
    assert_true(crypto_equal("abc", "abc", 3));
    assert_false(crypto_equal("abc", "abd", 3));
    assert_true(crypto_equal(NULL, NULL, 0));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sha256), cmocka_unit_test(test_sha256_fresh),   cmocka_unit_test(test_hmac),
        cmocka_unit_test(test_base64), cmocka_unit_test(test_base64_refuses), cmocka_unit_test(test_base64_round_trip),
        cmocka_unit_test(test_equal),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
