/* The content of a transaction: a faithful copy in one block, sorted headers, and the way back from stored rows. */
#include "core/tx.h"

#include "core/digest.h"

#include <pthread.h>
#include <setjmp.h>
#include <cmocka.h>

static const struct uuid ID = {{0x01, 0x8f, 0x3c, 0x2a, 0x10, 0x00, 0x70, 0x01, 0x80, 0x02, 3, 4, 5, 6, 7, 8}};

#define B(s) BYTES_LIT(s)
static const struct header HEADERS[] = {
    {B("zone"), B("eu")}, {B("Trace-Id"), B("")}, {B("a\"b"), B("line\n\\ \xc3\xa9")},
    {B("zon"), B("x")},   {B("a"), B("1")},
};
static const struct msg MESSAGES[] = {
    {.topic = B("orders"),
     .key = {(const uint8_t *)"k\0y", 3},
     .body = {(const uint8_t *)"\0\xff body", 7},
     .content_type = B("application/json"),
     .headers = HEADERS,
     .headers_n = ARRAY_LEN(HEADERS)},
    {.topic = B("invoices")},
};

static struct tx_content *make(const struct msg *m, uint32_t n) {
    return tx_content_new(&ID, B("shop"), B("order-17"), B("00-trace"), 30000, m, n);
}

static void assert_text(struct bytes v, const char *want) {
    assert_int_equal(v.n, strlen(want));
    assert_memory_equal(v.p, want, v.n + 1); /* with the NUL */
}

static bool inside(const struct tx_content *c, const void *p) {
    return (const char *)p >= (const char *)c && (const char *)p < (const char *)c + c->bytes;
}

static void test_names(void **state) {
    assert_string_equal(tx_state_name(TX_PREPARED), "PREPARED");
    assert_string_equal(tx_state_name(TX_STUCK), "STUCK");
    assert_string_equal(tx_decision_name(TX_UNDECIDED), "UNDECIDED");
    assert_string_equal(tx_decision_name(TX_COMMITTED), "COMMITTED");
    assert_string_equal(tx_decision_name(TX_ROLLED_BACK), "ROLLED_BACK");
    assert_string_equal(tx_origin_name(TX_ORIGIN_NONE), "none");
    assert_string_equal(tx_origin_name(TX_ORIGIN_RPC), "rpc");
    assert_string_equal(tx_origin_name(TX_ORIGIN_CHECK), "check");
    assert_string_equal(tx_origin_name(TX_ORIGIN_ADMIN), "admin");
    assert_non_null(tx_state_name((enum tx_state)99));
}

static void test_moves(void **state) {
    static const char *const allowed[5] = {
        [TX_PREPARED] = " CXS", [TX_CONFIRMED] = "", [TX_CANCELLED] = "", [TX_STUCK] = "CX"};
    const char letters[5] = {'0', 'P', 'C', 'X', 'S'};

    for (int from = TX_PREPARED; from <= TX_STUCK; from++)
        for (int to = TX_PREPARED; to <= TX_STUCK; to++)
            assert_int_equal(tx_may_move((enum tx_state)from, (enum tx_state)to),
                             strchr(allowed[from], letters[to]) != NULL);
    assert_false(tx_may_move((enum tx_state)0, TX_CONFIRMED));
    assert_false(tx_may_move(TX_PREPARED, (enum tx_state)0));
    assert_false(tx_may_move((enum tx_state)9, (enum tx_state)9));
    assert_false(tx_may_move((enum tx_state) - 1, TX_CONFIRMED));
    assert_false(tx_may_move(TX_PREPARED, (enum tx_state)40));
}

static void test_delay_classes(void **state) {
    const struct {
        int64_t ms;
        int class;
    } rows[] = {{0, 0},     {999, 0},    {1000, 0},   {9999, 0},     {10000, 1},     {59999, 1},
                {60000, 2}, {599999, 2}, {600000, 3}, {86400000, 3}, {INT64_MAX, 3}, {-1, 0}};

    for (size_t i = 0; i < ARRAY_LEN(rows); i++)
        assert_int_equal(delay_class_of(rows[i].ms), rows[i].class);
}

static void test_copy(void **state) {
    struct tx_content *c = make(MESSAGES, 2);

    assert_non_null(c);
    assert_true(uuid_eq(&c->id, &ID));
    assert_text(c->producer, "shop");
    assert_text(c->business_key, "order-17");
    assert_text(c->trace, "00-trace");
    assert_int_equal(c->check_after_ms, 30000);
    assert_int_equal(c->messages_n, 2);
    const struct msg *m = &c->messages[0];
    assert_text(m->topic, "orders");
    assert_int_equal(m->key.n, 3);
    assert_memory_equal(m->key.p, "k\0y\0", 4);
    assert_int_equal(m->body.n, 7);
    assert_memory_equal(m->body.p, "\0\xff body\0", 8);
    assert_text(m->content_type, "application/json");
    assert_int_equal(m->headers_n, 5);
    /* Byte order: capitals first, the shorter of two with one beginning first. */
    assert_text(m->headers[0].name, "Trace-Id");
    assert_text(m->headers[0].value, "");
    assert_non_null(m->headers[0].value.p);
    assert_text(m->headers[1].name, "a");
    assert_text(m->headers[2].name, "a\"b");
    assert_text(m->headers[2].value, "line\n\\ \xc3\xa9");
    assert_text(m->headers[3].name, "zon");
    assert_text(m->headers[4].name, "zone");
    assert_text(m->headers_json,
                "{\"Trace-Id\":\"\",\"a\":\"1\",\"a\\\"b\":\"line\\n\\\\ \xc3\xa9\",\"zon\":\"x\",\"zone\":\"eu\"}");
    /* Absent is NULL; an empty body is a body. */
    m = &c->messages[1];
    assert_null(m->key.p);
    assert_null(m->content_type.p);
    assert_null(m->headers);
    assert_int_equal(m->headers_n, 0);
    assert_null(m->headers_json.p);
    assert_int_equal(m->headers_json.n, 0);
    assert_int_equal(m->body.n, 0);
    assert_non_null(m->body.p);
    tx_content_unref(c);
}

static void test_one_block(void **state) {
    struct tx_content *c = make(MESSAGES, 2); /* whatever the thread needs once is there now */
    uint64_t before = mem_count();

    tx_content_unref(c);
    c = make(MESSAGES, 2);
    assert_non_null(c);
    assert_int_equal(mem_count() - before, 1);
    for (uint32_t i = 0; i < c->messages_n; i++) {
        const struct msg *m = &c->messages[i];
        assert_true(inside(c, m->topic.p) && inside(c, m->body.p));
        for (uint32_t h = 0; h < m->headers_n; h++)
            assert_true(inside(c, m->headers[h].name.p) && inside(c, m->headers[h].value.p));
    }
    assert_true(inside(c, c->messages[0].headers_json.p) && inside(c, c->messages[0].headers));
    tx_content_unref(c);
}

static void test_order_of_headers_is_irrelevant(void **state) {
    struct header turned[ARRAY_LEN(HEADERS)];
    struct msg m = MESSAGES[0];
    struct tx_content *a = make(MESSAGES, 1), *b;

    for (size_t i = 0; i < ARRAY_LEN(HEADERS); i++)
        turned[i] = HEADERS[ARRAY_LEN(HEADERS) - 1 - i];
    m.headers = turned;
    b = make(&m, 1);
    assert_memory_equal(a->digest, b->digest, 32);
    assert_true(bytes_eq(a->messages[0].headers_json, b->messages[0].headers_json));
    assert_true(bytes_eq_str(turned[4].name, "zone")); /* the caller's array is left alone */
    tx_content_unref(a);
    tx_content_unref(b);
}

static void test_without_messages(void **state) {
    struct tx_content *c = tx_content_new(&ID, B("shop"), BYTES_NULL, BYTES_NULL, 0, NULL, 0);

    assert_non_null(c);
    assert_int_equal(c->messages_n, 0);
    assert_null(c->business_key.p);
    assert_null(c->trace.p);
    tx_content_unref(c);
    tx_content_unref(NULL);
}

/* Large content, most messages and headers: the thread's scratch grows and shrinks again. */
static void test_largest(void **state) {
    enum { HEADERS_N = 64 };
    struct msg m[LIMIT_MESSAGES_HARD];
    struct header h[HEADERS_N];
    static char names[HEADERS_N][8];
    static uint8_t body[1 << 20], value[8000];

    memset(body, 'b', sizeof(body));
    memset(value, 1, sizeof(value)); /* each byte becomes \u0001 */
    for (int i = 0; i < HEADERS_N; i++) {
        snprintf(names[i], sizeof(names[i]), "h%02d", (i * 37) % HEADERS_N);
        h[i] = (struct header){bytes_str(names[i]), bytes_of(value, sizeof(value))};
    }
    for (int i = 0; i < LIMIT_MESSAGES_HARD; i++)
        m[i] = (struct msg){.topic = B("t"),
                            .body = bytes_of(body, i == 3 ? sizeof(body) : 10),
                            .headers = h,
                            .headers_n = i < 4 ? HEADERS_N : 1};
    for (int round = 0; round < 2; round++) {
        struct tx_content *c = make(m, LIMIT_MESSAGES_HARD);
        assert_non_null(c);
        assert_int_equal(c->messages[3].body.n, sizeof(body));
        for (int i = 0; i < HEADERS_N; i++) {
            char want[8];
            snprintf(want, sizeof(want), "h%02d", i);
            assert_text(c->messages[3].headers[i].name, want);
        }
        assert_true(c->messages[3].headers_json.n > 6 * HEADERS_N * sizeof(value));
        assert_int_equal(c->messages[127].headers_n, 1);
        tx_content_unref(c);
    }
}

static void test_restore(void **state) {
    struct tx_content *a = make(MESSAGES, 2), *b = NULL;
    struct msg rows[2];

    for (int i = 0; i < 2; i++) {
        rows[i] = a->messages[i];
        rows[i].headers = NULL;
        rows[i].headers_n = 77; /* ignored */
    }
    assert_int_equal(tx_content_restore(&ID, a->producer, a->business_key, a->trace, a->digest, rows, 2, &b), 0);
    assert_int_equal(b->check_after_ms, 0);
    assert_memory_equal(a->digest, b->digest, 32);
    assert_int_equal(b->messages_n, 2);
    for (int i = 0; i < 2; i++) {
        const struct msg *x = &a->messages[i], *y = &b->messages[i];
        assert_true(bytes_eq(x->topic, y->topic) && bytes_eq(x->key, y->key) && bytes_eq(x->body, y->body));
        assert_true(bytes_eq(x->headers_json, y->headers_json));
        assert_int_equal(x->headers_n, y->headers_n);
        for (uint32_t h = 0; h < x->headers_n; h++)
            assert_true(bytes_eq(x->headers[h].name, y->headers[h].name) &&
                        bytes_eq(x->headers[h].value, y->headers[h].value));
    }
    /* Only check_after_ms is missing: with it the digest computed anew is the stored one. */
    uint8_t digest[32];
    b->check_after_ms = 30000;
    assert_int_equal(tx_digest(b, digest), 0);
    assert_memory_equal(digest, a->digest, 32);
    tx_content_unref(a);
    tx_content_unref(b);
}

static void test_restore_rewrites(void **state) {
    const struct msg row = {.topic = B("t"), .headers_json = B("{ \"b\" : \"2\", \"a\" : \"\\u0041\" }")};
    const struct msg empty = {.topic = B("t"), .headers_json = B("{}")};
    const uint8_t digest[32] = {9};
    struct tx_content *c = NULL;

    assert_int_equal(tx_content_restore(&ID, B("p"), BYTES_NULL, BYTES_NULL, digest, &row, 1, &c), 0);
    assert_text(c->messages[0].headers_json, "{\"a\":\"A\",\"b\":\"2\"}");
    assert_text(c->messages[0].headers[0].name, "a");
    assert_memory_equal(c->digest, digest, 32);
    tx_content_unref(c);
    assert_int_equal(tx_content_restore(&ID, B("p"), BYTES_NULL, BYTES_NULL, digest, &empty, 1, &c), 0);
    assert_int_equal(c->messages[0].headers_n, 0);
    assert_null(c->messages[0].headers_json.p);
    tx_content_unref(c);
}

static void test_restore_refuses(void **state) {
    static const char *const bad[] = {"nonsense",           "[]",           "{\"a\":1}", "{\"a\":null}",
                                      "{\"a\":{}}",         "{\"a\":\"x\"", "\"a\"",     "{\"a\":\"1\",\"a\":\"2\"}",
                                      "{\"a\":\"\\u0000\"}"};
    const uint8_t digest[32] = {0};
    struct tx_content *c = NULL;

    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        const struct msg rows[2] = {{.topic = B("t"), .headers_json = B("{\"fine\":\"1\"}")},
                                    {.topic = B("t"), .headers_json = bytes_str(bad[i])}};
        assert_int_equal(tx_content_restore(&ID, B("p"), BYTES_NULL, BYTES_NULL, digest, rows, 2, &c), -EINVAL);
        assert_null(c);
    }
    static const struct msg many[LIMIT_MESSAGES_HARD + 1];
    assert_int_equal(tx_content_restore(&ID, B("p"), BYTES_NULL, BYTES_NULL, digest, many, ARRAY_LEN(many), &c),
                     -EINVAL);
}

/* Fails each allocation in turn, on a fresh thread so that the thread's own memory is among them. */
static void *no_memory(void *arg) {
    struct tx_content *c = NULL, *d = NULL;
    int failed = 0;

    for (uint64_t n = 1; !d; n++) {
        mem_fail_at(n);
        c = make(MESSAGES, 2);
        if (c) {
            int r = tx_content_restore(&ID, c->producer, c->business_key, c->trace, c->digest, c->messages, 2, &d);
            if (r < 0 && r != -ENOMEM && r != -EINVAL)
                break;
            tx_content_unref(c);
        }
        mem_fail_at(0);
        failed += !d;
    }
    tx_content_unref(d);
    *(int *)arg = failed;
    return NULL;
}

static void test_no_memory(void **state) {
    pthread_t thread;
    int failed = 0;

    assert_int_equal(pthread_create(&thread, NULL, no_memory, &failed), 0);
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_true(failed >= 4);
}

static void *drop_references(void *arg) {
    struct tx_content *c = arg;

    for (int i = 0; i < 10000; i++)
        tx_content_unref(tx_content_ref(c));
    tx_content_unref(c);
    return NULL;
}

static void test_references(void **state) {
    struct tx_content *c = make(MESSAGES, 2);
    pthread_t threads[2];

    for (int i = 0; i < 2; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, drop_references, tx_content_ref(c)), 0);
    tx_content_unref(c);
    for (int i = 0; i < 2; i++)
        assert_int_equal(pthread_join(threads[i], NULL), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_moves),
        cmocka_unit_test(test_delay_classes),
        cmocka_unit_test(test_copy),
        cmocka_unit_test(test_one_block),
        cmocka_unit_test(test_order_of_headers_is_irrelevant),
        cmocka_unit_test(test_without_messages),
        cmocka_unit_test(test_largest),
        cmocka_unit_test(test_restore),
        cmocka_unit_test(test_restore_rewrites),
        cmocka_unit_test(test_restore_refuses),
        cmocka_unit_test(test_no_memory),
        cmocka_unit_test(test_references),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
