/* Each limit holds exactly at its edge, and each refusal names the field and the limit. */
#include "core/validate.h"

#include <setjmp.h>
#include <cmocka.h>

#define B(s) BYTES_LIT(s)
static uint8_t filler[2048];
static struct limits limits;
static struct violation v;

static int setup(void **state) {
    limits_default(&limits);
    memset(filler, 'x', sizeof(filler));
    memset(&v, 0, sizeof(v));
    return 0;
}

static struct bytes xs(size_t n) {
    return bytes_of(filler, n);
}

static void assert_refused(const struct msg *m, uint32_t n, const char *field, const char *description) {
    memset(&v, 0, sizeof(v));
    assert_int_equal(validate_messages(&limits, m, n, &v), 1);
    assert_string_equal(v.field, field);
    assert_string_equal(v.description, description);
}

static void assert_valid(const struct msg *m, uint32_t n) {
    memset(&v, 0, sizeof(v));
    if (validate_messages(&limits, m, n, &v))
        fail_msg("%s %s", v.field, v.description);
    assert_string_equal(v.field, "");
}

static void test_id_window(void **state) {
    const int64_t now = 1700000000000;
    const struct {
        int64_t at;
        int want;
    } rows[] = {{now, 0}, {now - 86400000, 0}, {now - 86400001, 1}, {now + 300000, 0}, {now + 300001, 1},
                {0, 1},   {(1ll << 48) - 1, 1}};
    struct uuid id;

    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        uuid_v7_make(rows[i].at, &id);
        assert_int_equal(validate_id_window(&limits, &id, now, &v), rows[i].want);
        if (rows[i].want)
            assert_string_equal(v.field, "transaction_id");
    }
    uuid_v7_make(now - 86400001, &id);
    assert_int_equal(validate_id_window(&limits, &id, now, &v), 1);
    assert_string_equal(v.description, "its time lies 86400001 ms behind the database clock, the limit is 86400000");
    uuid_v7_make(now + 300001, &id);
    assert_int_equal(validate_id_window(&limits, &id, now, &v), 1);
    assert_string_equal(v.description, "its time lies 300001 ms ahead of the database clock, the limit is 300000");
    uuid_v7_make(now, &id);
    id.b[6] = (uint8_t)(0x40 | (id.b[6] & 0x0f));
    assert_int_equal(validate_id_window(&limits, &id, now, &v), 1);
    assert_string_equal(v.description, "must be a UUID of version 7");
}

static void test_count(void **state) {
    struct msg m[LIMIT_MESSAGES_HARD + 1];

    for (size_t i = 0; i < ARRAY_LEN(m); i++)
        m[i] = (struct msg){.topic = B("t")};
    assert_refused(m, 0, "messages", "are required");
    assert_valid(m, 64);
    assert_refused(m, 65, "messages", "are 65, the limit is 64");
    limits.messages = 1000;
    assert_valid(m, 128);
    assert_refused(m, 129, "messages", "are 129, the limit is 128");
}

static void test_topic(void **state) {
    struct msg m[3] = {{.topic = B("a")}, {.topic = B("orders.eu_1-b")}, {.topic = B("9")}};

    assert_valid(m, 3);
    m[2].topic = xs(128);
    assert_valid(m, 3);
    m[2].topic = xs(300);
    assert_refused(m, 3, "messages[2].topic", "is 300 bytes, the limit is 128");
    m[2].topic = BYTES_NULL;
    assert_refused(m, 3, "messages[2].topic", "is required");
    static const char *const bad[] = {"Orders", "a b", "-a", ".a", "_a", "a/b", "\xc3\xa9", "a\n"};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        m[2].topic = bytes_str(bad[i]);
        assert_refused(m, 3, "messages[2].topic",
                       "may hold a-z, 0-9, '.', '_' and '-' only and begins with a letter or digit");
    }
}

static void test_sizes(void **state) {
    struct msg m = {.topic = B("t"), .key = xs(255), .content_type = xs(255)};

    assert_valid(&m, 1);
    m.key = xs(256);
    assert_refused(&m, 1, "messages[0].key", "is 256 bytes, the limit is 255");
    m.key = bytes_of("\0\n\xff", 3); /* keys are bytes */
    assert_valid(&m, 1);
    m.content_type = xs(256);
    assert_refused(&m, 1, "messages[0].content_type", "is 256 bytes, the limit is 255");
    m.content_type = B("text/plain\r\nx: y");
    assert_refused(&m, 1, "messages[0].content_type", "holds a control character");
    m.content_type = BYTES_NULL;
    limits.body_bytes = 100;
    m.body = xs(100);
    assert_valid(&m, 1);
    m.body = xs(101);
    assert_refused(&m, 1, "messages[0].body", "is 101 bytes, the limit is 100");
}

static void test_transaction_bytes(void **state) {
    const struct header h = {B("abc"), B("de")};
    struct msg m[2] = {{.topic = B("t"), .body = xs(40), .key = xs(5), .headers = &h, .headers_n = 1},
                       {.topic = B("t"), .body = xs(50)}};

    limits.transaction_bytes = 100;
    assert_valid(m, 2);
    m[1].body = xs(51);
    assert_refused(m, 2, "messages", "are 101 bytes together (bodies, headers, keys), the limit is 100");
}

static void test_header_names(void **state) {
    struct header h[2] = {{B("first"), B("1")}, {BYTES_NULL, B("2")}};
    struct msg m[3] = {{.topic = B("t")}, {.topic = B("t")}, {.topic = B("t"), .headers = h, .headers_n = 2}};
    static const struct {
        const char *name, *field, *description;
    } rows[] = {
        {"a b", "messages[2].headers[\"a b\"]",
         "has a name with characters other than letters, digits and !#$%&'*+.^_`|~-"},
        {"a:", "messages[2].headers[\"a:\"]", NULL},
        {"a\"\\", "messages[2].headers[\"a\\\"\\\\\"]", NULL},
        {"a\r\n\x7f", "messages[2].headers[\"a\\x0d\\x0a\\x7f\"]", NULL},
        {"\xc3\xa9", "messages[2].headers[\"\\xc3\\xa9\"]", NULL},
        {"", "messages[2].headers[\"\"]", "has an empty name"},
        {"txmsg-id", "messages[2].headers[\"txmsg-id\"]", "has a reserved name: it begins with \"txmsg-\""},
        {"TxMsg-", "messages[2].headers[\"TxMsg-\"]", "has a reserved name: it begins with \"txmsg-\""},
        {"CE-type", "messages[2].headers[\"CE-type\"]", "has a reserved name: it begins with \"ce-\""},
        {"Webhook-Id", "messages[2].headers[\"Webhook-Id\"]", "has a reserved name: it begins with \"webhook-\""},
        {"FIRST", "messages[2].headers[\"FIRST\"]", "is there twice, names are compared regardless of case"},
        {"first", "messages[2].headers[\"first\"]", "is there twice, names are compared regardless of case"},
    };

    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        h[1].name = bytes_str(rows[i].name);
        assert_refused(m, 3, rows[i].field, rows[i].description ? rows[i].description : rows[0].description);
    }
    static const char *const good[] = {"a",  "firs",   "firstx",   "!#$%&'*+.^_`|~-", "txmsg",
                                       "ce", "cent-x", "webhooks", "x-txmsg-id"};
    for (size_t i = 0; i < ARRAY_LEN(good); i++) {
        h[1].name = bytes_str(good[i]);
        assert_valid(m, 3);
    }
    h[1].name = xs(128);
    assert_valid(m, 3);
    h[1].name = xs(129);
    assert_refused(m, 3, "messages[2].headers[\"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx...\"]",
                   "has a name of 129 bytes, the limit is 128");
}

static void test_header_values(void **state) {
    struct header h = {B("n"), B("tab\there")};
    const struct msg m = {.topic = B("t"), .headers = &h, .headers_n = 1};

    assert_refused(&m, 1, "messages[0].headers[\"n\"]", "has a value with a control character");
    h.value = B("\x7f");
    assert_refused(&m, 1, "messages[0].headers[\"n\"]", "has a value with a control character");
    h.value = B("gr\xc3\xbc\xc3\x9f \"dich\"");
    assert_valid(&m, 1);
    h.value = BYTES_NULL;
    assert_valid(&m, 1);
}

static void test_header_limits(void **state) {
    struct header h[65];
    char names[65][8];
    struct msg m = {.topic = B("t"), .headers = h, .headers_n = 64};

    for (int i = 0; i < 65; i++) {
        snprintf(names[i], sizeof(names[i]), "n%d", i);
        h[i] = (struct header){bytes_str(names[i]), B("")};
    }
    assert_valid(&m, 1);
    m.headers_n = 65;
    assert_refused(&m, 1, "messages[0].headers", "are 65, the limit is 64");
    m.headers_n = 2;
    limits.header_bytes = 100;
    h[1].value = xs(96);
    assert_valid(&m, 1);
    h[1].value = xs(97);
    assert_refused(&m, 1, "messages[0].headers", "are 101 bytes together, the limit is 100");
}

static void test_name_and_text(void **state) {
    assert_int_equal(validate_name("producer", B("shop"), &v), 0);
    assert_int_equal(validate_name("producer", BYTES_NULL, &v), 1);
    assert_string_equal(v.field, "producer");
    assert_int_equal(validate_text("business_key", B("Order 17 \xc3\xa9"), 255, &v), 0);
    assert_int_equal(validate_text("business_key", BYTES_NULL, 255, &v), 0);
    assert_int_equal(validate_text("reason", xs(1024), LIMIT_REASON, &v), 0);
    assert_int_equal(validate_text("reason", xs(1025), LIMIT_REASON, &v), 1);
    assert_string_equal(v.field, "reason");
    assert_string_equal(v.description, "is 1025 bytes, the limit is 1024");
    assert_int_equal(validate_text("reason", bytes_of("a\0b", 3), LIMIT_REASON, &v), 1);
    assert_string_equal(v.description, "holds a control character");
    const struct header h = {B("x"), B("\n")};
    assert_int_equal(validate_header("sink.http.headers", &h, 0, &v), 1);
    assert_string_equal(v.field, "sink.http.headers[\"x\"]");
}

static void refused_time(const struct msg *m, const char *field, const char *why) {
    const int64_t id_ms = 1790000000000;

    assert_int_equal(validate_times(&limits, id_ms, m, 2, &v), 1);
    assert_string_equal(v.field, field);
    assert_non_null(strstr(v.description, why));
}

/* Against the time in the id, so that a repeat is judged like the first call. */
static void test_times(void **state) {
    const int64_t id_us = 1790000000000000, week_us = limits.deliver_ahead_ms * 1000;
    struct msg m[2] = {{.deliver_at_us = 1}, {.deliver_at_us = id_us + week_us, .expire_at_us = id_us + week_us + 1}};

    assert_int_equal(validate_times(&limits, id_us / 1000, m, 2, &v), 0);
    m[1].deliver_at_us = id_us + week_us + 1000;
    refused_time(m, "messages[1].deliver_at", "the limit is 604800");
    m[1] = (struct msg){.expire_at_us = id_us};
    refused_time(m, "messages[1].expire_at", "later than the time in transaction_id");
    m[1] = (struct msg){.deliver_at_us = id_us + 2, .expire_at_us = id_us + 2};
    refused_time(m, "messages[1].expire_at", "later than deliver_at");
    m[1].expire_at_us++;
    assert_int_equal(validate_times(&limits, id_us / 1000, m, 2, &v), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_id_window, setup),
        cmocka_unit_test_setup(test_count, setup),
        cmocka_unit_test_setup(test_topic, setup),
        cmocka_unit_test_setup(test_sizes, setup),
        cmocka_unit_test_setup(test_transaction_bytes, setup),
        cmocka_unit_test_setup(test_header_names, setup),
        cmocka_unit_test_setup(test_header_values, setup),
        cmocka_unit_test_setup(test_header_limits, setup),
        cmocka_unit_test_setup(test_name_and_text, setup),
        cmocka_unit_test_setup(test_times, setup),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
