/* Text both ways, the version 7 layout, and ids that never repeat across threads. */
#include "base/uuid.h"

#include <pthread.h>
#include <setjmp.h>
#include <cmocka.h>

static void test_text(void **state) {
    struct uuid u, v;
    char s[UUID_TEXT];
    assert_int_equal(uuid_parse(BYTES_LIT("017F22E2-79B0-7CC3-98C4-DC0C0C07398F"), &u), 0); /* RFC 9562, A.6 */
    uuid_format(&u, s);
    assert_string_equal(s, "017f22e2-79b0-7cc3-98c4-dc0c0c07398f");
    assert_true(uuid_is_v7(&u));
    assert_int_equal(uuid_v7_ms(&u), 1645557742000);
    assert_int_equal(uuid_parse(bytes_str(s), &v), 0);
    assert_true(uuid_eq(&u, &v));
    v.b[15]++;
    assert_false(uuid_eq(&u, &v));
    assert_true(uuid_cmp(&u, &v) < 0);
}

static void test_refuses(void **state) {
    static const char *const bad[] = {
        "",
        "017f22e279b07cc398c4dc0c0c07398f",
        "017f22e2-79b0-7cc3-98c4-dc0c0c07398",
        "017f22e2-79b0-7cc3-98c4-dc0c0c07398f0",
        "017f22e2-79b0-7cc3-98c4-dc0c0c07398g",
        "017f22e2-79b0-7cc3-98c4_dc0c0c07398f",
        "017f22e27-9b0-7cc3-98c4-dc0c0c07398f",
        "{17f22e2-79b0-7cc3-98c4-dc0c0c07398}",
        " 17f22e2-79b0-7cc3-98c4-dc0c0c07398f",
        "017f22e2-79b0-7cc3-98c4-dc0c0c0739\xc3\xbc",
    };
    struct uuid u;
    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        assert_int_equal(uuid_parse(bytes_str(bad[i]), &u), -EINVAL);
    assert_int_equal(uuid_parse(BYTES_LIT("017f22e2-79b0-7cc3-98c4-dc0c0c0739\0\0"), &u), -EINVAL);
}

static void test_version(void **state) {
    struct uuid u;
    assert_int_equal(uuid_parse(BYTES_LIT("017f22e2-79b0-4cc3-98c4-dc0c0c07398f"), &u), 0);
    assert_false(uuid_is_v7(&u));
    assert_int_equal(uuid_parse(BYTES_LIT("017f22e2-79b0-7cc3-c8c4-dc0c0c07398f"), &u), 0);
    assert_false(uuid_is_v7(&u));
}

static void test_floor(void **state) {
    struct uuid low, u, next;
    uuid_v7_floor(1645557742000, &low);
    uuid_v7_floor(1645557742001, &next);
    for (int i = 0; i < 1000; i++) {
        uuid_v7_make(1645557742000, &u);
        assert_true(uuid_is_v7(&u));
        assert_int_equal(uuid_v7_ms(&u), 1645557742000);
        assert_true(uuid_cmp(&low, &u) < 0 && uuid_cmp(&u, &next) < 0);
    }
    uuid_v7_make(-5, &u);
    assert_int_equal(uuid_v7_ms(&u), 0);
    uuid_v7_make(INT64_MAX, &u);
    assert_int_equal(uuid_v7_ms(&u), (1ll << 48) - 1);
    assert_true(uuid_is_v7(&u));
}

#define EACH    20000
#define THREADS 3

static void *make_many(void *arg) {
    struct uuid *out = arg;
    for (int i = 0; i < EACH; i++)
        uuid_v7_make(1, &out[i]);
    return NULL;
}

static int compare(const void *a, const void *b) {
    return uuid_cmp(a, b);
}

static void test_unique(void **state) {
    static struct uuid all[THREADS * EACH];
    pthread_t t[THREADS];
    for (int i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&t[i], NULL, make_many, all + i * EACH), 0);
    for (int i = 0; i < THREADS; i++)
        pthread_join(t[i], NULL);
    qsort(all, ARRAY_LEN(all), sizeof(all[0]), compare);
    for (size_t i = 1; i < ARRAY_LEN(all); i++)
        assert_false(uuid_eq(&all[i - 1], &all[i]));
    /* Each of the 74 random bits is about evenly set. */
    for (size_t bit = 52; bit < 128; bit++) {
        size_t set = 0;
        if (bit == 64 || bit == 65)
            continue;
        for (size_t i = 0; i < ARRAY_LEN(all); i++)
            set += all[i].b[bit / 8] >> (7 - bit % 8) & 1;
        assert_in_range(set, ARRAY_LEN(all) * 47 / 100, ARRAY_LEN(all) * 53 / 100);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_text),  cmocka_unit_test(test_refuses), cmocka_unit_test(test_version),
        cmocka_unit_test(test_floor), cmocka_unit_test(test_unique),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
