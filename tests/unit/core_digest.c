/*
 * The digest is stored and compared across versions: golden vectors pin it. They were computed by an implementation of
 * the form written at the top of core/digest.c in another language. If one fails, the form has changed and old rows
 * would no longer compare: raise the version byte instead.
 */
#include "core/digest.h"

#include <pthread.h>
#include <setjmp.h>
#include <cmocka.h>

#define B(s) BYTES_LIT(s)
static const struct uuid ID = {{1}};
static const struct header HEADERS[] = {{B("zone"), B("eu")}, {B("Trace"), B("")}, {B("a"), B("\xc3\xa9")}};

static void assert_digest(const struct tx_content *c, const char *hex) {
    uint8_t again[32];
    char text[65];

    for (int i = 0; i < 32; i++)
        snprintf(text + 2 * i, 3, "%02x", c->digest[i]);
    assert_string_equal(text, hex);
    assert_int_equal(tx_digest(c, again), 0);
    assert_memory_equal(again, c->digest, 32);
}

/* Times make it the second version, for all messages of the transaction; without one it stays the first. */
static void test_golden_times(void **state) {
    const struct msg m[] = {{.topic = B("t"), .deliver_at_us = 1790000000000001},
                            {.topic = B("t"), .expire_at_us = 1790000060000000}};
    struct tx_content *c = tx_content_new(&ID, B("shop"), BYTES_NULL, BYTES_NULL, 0, m, 2);

    assert_digest(c, "d9c9baab94897a6cda11d090a2e15acab05a643198029ac0e2cebfdd1521cc1f");
    tx_content_unref(c);
}

static void test_golden(void **state) {
    static uint8_t big[5000];
    const struct msg m[] = {
        {.topic = B("orders"),
         .key = {(const uint8_t *)"k\0y", 3},
         .content_type = B("application/json"),
         .body = B("{\"n\":1}"),
         .headers = HEADERS,
         .headers_n = 3},
        {.topic = B("invoices"), .body = {big, sizeof(big)}},
    };
    const struct msg bare = {.topic = B("t")};
    struct tx_content *c;

    memset(big, 'x', sizeof(big));
    c = tx_content_new(&ID, B("shop"), B("order-17"), B("00-left-out"), 30000, m, 2);
    assert_digest(c, "1b22988e2b2012e9b69ec823cb39648a41754463d0daebc79d2855b4fcdfc307");
    tx_content_unref(c);
    c = tx_content_new(&ID, B("shop"), BYTES_NULL, BYTES_NULL, 0, &bare, 1);
    assert_digest(c, "b70e29bb789b0c13e59c2b397b9f6e28fd8babf61d160762f0a664f9b7431216");
    tx_content_unref(c);
    const struct msg later[] = {{.topic = B("orders"), .later = true}, {.topic = B("t")}};
    c = tx_content_new(&ID, B("shop"), BYTES_NULL, BYTES_NULL, 0, later, 2);
    assert_digest(c, "bd46e6e5915d844634943131a604ef5458e69e937d1cb6df5ca4cf11099e76d8");
    assert_int_equal(c->later_n, 1);
    assert_null(c->messages[0].body.p);
    assert_non_null(c->messages[1].body.p);
    tx_content_unref(c);
    c = tx_content_new(&ID, B("shop"), BYTES_NULL, BYTES_NULL, 0, NULL, 0);
    assert_digest(c, "032b0808baf97c90beb7c1bb62cf6f0190456ab928320b154625486c629c9410");
    tx_content_unref(c);
}

struct given {
    struct bytes producer, business_key, trace;
    int64_t check_after_ms;
    struct msg m[3];
    struct header h[3];
    uint32_t n;
};

static struct given base(void) {
    return (struct given){
        .producer = B("p"),
        .business_key = B("bk"),
        .trace = B("tr"),
        .check_after_ms = 1000,
        .m = {{.topic = B("t1"), .key = B("k"), .content_type = B("c"), .body = B("b")}, {.topic = B("t2")}},
        .h = {{B("n1"), B("v1")}, {B("n2"), B("v2")}},
        .n = 2};
}

static void digest_of(struct given *g, uint32_t headers_n, const struct uuid *id, uint8_t out[32]) {
    g->m[0].headers = g->h;
    g->m[0].headers_n = headers_n;
    struct tx_content *c = tx_content_new(id, g->producer, g->business_key, g->trace, g->check_after_ms, g->m, g->n);
    assert_non_null(c);
    memcpy(out, c->digest, 32);
    tx_content_unref(c);
}

/* Each field counts, and a byte that moves from one field to its neighbour counts. */
static void test_every_field_counts(void **state) {
    enum { VARIANTS = 22 };
    uint8_t digests[VARIANTS][32];

    for (int v = 0; v < VARIANTS; v++) {
        struct given g = base();
        uint32_t headers_n = 2;
        switch (v) {
        case 1:
            g.producer = B("pb"), g.business_key = B("k");
            break;
        case 2:
            g.business_key = BYTES_NULL;
            break;
        case 3:
            g.check_after_ms = 1001;
            break;
        case 4:
            g.check_after_ms = -1000;
            break;
        case 5:
            g.n = 1;
            break;
        case 6:
            g.n = 3, g.m[2].topic = B("t3");
            break;
        case 7:
            g.m[0].topic = B("t1k"), g.m[0].key = BYTES_NULL;
            break;
        case 8:
            g.m[0].key = B("kc"), g.m[0].content_type = BYTES_NULL;
            break;
        case 9:
            g.m[0].content_type = B("cb"), g.m[0].body = BYTES_NULL;
            break;
        case 10:
            g.m[0].body = B("B");
            break;
        case 11:
            headers_n = 1;
            break;
        case 12:
            headers_n = 0;
            break;
        case 13:
            g.h[0].value = B("v2"), g.h[1].value = B("v1");
            break;
        case 14:
            g.h[0].name = B("n1v"), g.h[0].value = B("1");
            break;
        case 15:
            g.h[0].name = B("N1");
            break;
        case 16:
            g.m[1] = g.m[0], g.m[0] = base().m[1];
            break;
        case 17:
            g.m[0].deliver_at_us = 1;
            break;
        case 18:
            g.m[0].expire_at_us = 1;
            break;
        case 19:
            g.m[1].deliver_at_us = 1;
            break;
        case 20:
            g.m[0].deliver_at_us = 2;
            break;
        case 21:
            g.m[0].deliver_at_us = 1, g.m[0].expire_at_us = 1;
            break;
        default:
            break;
        }
        digest_of(&g, headers_n, &ID, digests[v]);
        for (int w = 0; w < v; w++)
            assert_memory_not_equal(digests[v], digests[w], 32);
    }
}

static void test_left_out(void **state) {
    const struct uuid other = {{2}};
    struct given g = base();
    uint8_t a[32], b[32];

    digest_of(&g, 2, &ID, a);
    g.trace = B("another span");
    g.h[2] = g.h[0], g.h[0] = g.h[1], g.h[1] = g.h[2];
    digest_of(&g, 2, &other, b);
    assert_memory_equal(a, b, 32);
}

/* Sizes around the buffer that gathers small fields. */
static void test_sizes(void **state) {
    static uint8_t body[3000];
    uint8_t last[32] = {0};

    for (size_t n = 900; n < 1200; n++) {
        struct given g = base();
        uint8_t d[32];
        g.m[0].body = bytes_of(body, n);
        digest_of(&g, 2, &ID, d);
        assert_memory_not_equal(d, last, 32);
        memcpy(last, d, 32);
        /* The same content hashed with its fields laid out otherwise in memory. */
        g.m[0].body = bytes_of(body + 7, n);
        digest_of(&g, 2, &ID, d);
        assert_memory_equal(d, last, 32);
    }
}

static void *many(void *arg) {
    struct given g = base();

    for (int i = 0; i < 500; i++)
        digest_of(&g, 2, &ID, arg);
    return NULL;
}

static void test_threads_do_not_disturb_each_other(void **state) {
    uint8_t digests[3][32];
    pthread_t threads[2];

    for (int i = 0; i < 2; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, many, digests[i]), 0);
    many(digests[2]);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(pthread_join(threads[i], NULL), 0);
        assert_memory_equal(digests[i], digests[2], 32);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden),
        cmocka_unit_test(test_golden_times),
        cmocka_unit_test(test_every_field_counts),
        cmocka_unit_test(test_left_out),
        cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_threads_do_not_disturb_each_other),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
