/* What applying topology would change, what it refuses, and what the audit may show. */
#include "store/topo_plan.h"

#include "base/mem.h"

#include <setjmp.h>
#include <cmocka.h>

#define TOPIC(name_)                                                                                                   \
    { .kind = TOPO_TOPIC, .name = name_, .spec = "{}" }
#define PRODUCER(name_, spec_)                                                                                         \
    { .kind = TOPO_PRODUCER, .name = name_, .spec = spec_ }
#define SUB(name_, spec_)                                                                                              \
    { .kind = TOPO_SUBSCRIPTION, .name = name_, .spec = spec_ }
#define ORDERS "{\"topic\":\"orders\",\"sink\":{\"discard\":{}}}"

static const struct topo_object stored[] = {
    TOPIC("orders"),     TOPIC("refunds"),     PRODUCER("shop", "{\"check\":{\"first_after\":\"5s\"}}"),
    SUB("mail", ORDERS), SUB("audit", ORDERS),
};

static struct topo_plan plan(const struct topo_object *o, size_t n, bool prune) {
    struct topo_plan p = {0};
    struct errmsg e = ERRMSG_NULL;
    int r = topo_plan_make(o, n, stored, ARRAY_LEN(stored), prune, &p, &e);
    if (r < 0)
        print_error("%s\n", e.text);
    assert_int_equal(r, 0);
    return p;
}

static void refused_as(int code, const struct topo_object *o, size_t n, bool prune, const char *word) {
    struct topo_plan p = {0};
    struct errmsg e = ERRMSG_NULL;
    assert_int_equal(topo_plan_make(o, n, stored, ARRAY_LEN(stored), prune, &p, &e), code);
    if (!strstr(e.text, word))
        print_error("\"%s\" does not speak of \"%s\"\n", e.text, word);
    assert_non_null(strstr(e.text, word));
    assert_null(p.items);
}

static void refused(const struct topo_object *o, size_t n, bool prune, const char *word) {
    refused_as(-EINVAL, o, n, prune, word);
}

static void differ(const json_t *want, const json_t *have, const char *text) {
    struct topo_difference *d = NULL;
    struct arena a;
    CLEANUP_BUF struct buf b;
    size_t n = 0;
    arena_init(&a, 65536);
    buf_init(&b, 65536);
    assert_int_equal(topo_json_differences(want, have, &a, &d, &n), 0);
    for (size_t i = 0; i < n; i++)
        buf_printf(&b, "%s %s>%s;", d[i].field, d[i].before, d[i].after);
    assert_string_equal(buf_str(&b), text);
    arena_deinit(&a);
}

static void test_differences(void **state) {
    CLEANUP_JSON json_t *a = json_pack("{s:{s:i,s:i},s:s,s:{}}", "retry", "max", 1, "initial", 2, "topic", "t", "sink");
    CLEANUP_JSON json_t *b = json_pack("{s:{s:i},s:s,s:i}", "retry", "max", 3, "topic", "t", "rate", 5);
    differ(a, b, "retry.max 3>1;retry.initial >2;sink >{};rate 5>;");
    differ(a, a, "");
    CLEANUP_JSON json_t *c = json_pack("{s:{s:s},s:s}", "http", "secret", "whsec_one", "url", "amqp://u:pw1@h");
    CLEANUP_JSON json_t *d = json_pack("{s:{s:s},s:s}", "http", "secret", "whsec_two", "url", "amqp://u:pw2@h");
    differ(c, d, "http.secret \"***\">\"***\";url \"amqp://u:***@h\">\"amqp://u:***@h\";"); /* said, not shown */
    char text[400];
    memset(text, 'x', sizeof(text) - 1);
    text[sizeof(text) - 1] = 0;
    memcpy(text + 254, "\xc3\xa4", 2); /* behind the quote it is cut in the middle */
    CLEANUP_JSON json_t *long_text = json_pack("{s:s}", "description", text), *none = json_object();
    struct topo_difference *list = NULL;
    struct arena arena;
    size_t n = 0;
    arena_init(&arena, 65536);
    assert_int_equal(topo_json_differences(long_text, none, &arena, &list, &n), 0);
    assert_int_equal(n, 1);
    assert_int_equal(strlen(list[0].after), 255);
    assert_true(text_valid(bytes_str(list[0].after)));
    arena_deinit(&arena);
}

static void test_acts(void **state) {
    const struct topo_object o[] = {
        /* Same meaning in another order and notation. */
        SUB("mail", "{ \"sink\": {\"discard\": {}}, \"topic\": \"orders\" }"),
        PRODUCER("shop", "{\"check\":{\"first_after\":\"6s\"}}"),
        SUB("new", "{\"topic\":\"late\",\"sink\":{\"discard\":{}}}"),
        TOPIC("late"), /* after the subscription that needs it */
    };
    struct topo_plan p = plan(o, ARRAY_LEN(o), false);
    const enum topo_act want[] = {TOPO_UNCHANGED, TOPO_UPDATE, TOPO_CREATE, TOPO_CREATE};
    assert_int_equal(p.n, ARRAY_LEN(o));
    for (size_t i = 0; i < p.n; i++) {
        assert_string_equal(p.items[i].name, o[i].name);
        assert_int_equal(p.items[i].act, want[i]);
    }
    assert_true(p.changed);
    topo_plan_deinit(&p);
}

static void test_reapplying_changes_nothing(void **state) {
    struct topo_plan p = plan(stored, ARRAY_LEN(stored), true);
    assert_int_equal(p.n, ARRAY_LEN(stored));
    assert_false(p.changed);
    topo_plan_deinit(&p);
    p = plan(NULL, 0, false);
    assert_int_equal(p.n, 0);
    assert_false(p.changed);
    topo_plan_deinit(&p);
}

static void test_prune_deletes_what_is_not_named(void **state) {
    const struct topo_object o[] = {TOPIC("orders"), SUB("mail", ORDERS)};
    struct topo_plan p = plan(o, ARRAY_LEN(o), true);
    size_t deleted = 0;
    for (size_t i = ARRAY_LEN(o); i < p.n; i++, deleted++)
        assert_int_equal(p.items[i].act, TOPO_DELETE);
    assert_int_equal(deleted, 3); /* refunds, shop, audit */
    topo_plan_deinit(&p);
    p = plan(NULL, 0, true);
    assert_int_equal(p.n, ARRAY_LEN(stored));
    topo_plan_deinit(&p);
}

static void test_refusals(void **state) {
    const struct topo_object unknown_topic = SUB("x", "{\"topic\":\"nowhere\",\"sink\":{\"discard\":{}}}");
    refused(&unknown_topic, 1, false, "nowhere");
    const struct topo_object moved = SUB("mail", "{\"topic\":\"refunds\",\"sink\":{\"discard\":{}}}");
    refused_as(-EPERM, &moved, 1, false, "cannot become");
    const struct topo_object orphan = SUB("mail", ORDERS);
    refused(&orphan, 1, true, "pruned");
    const struct topo_object twice[] = {TOPIC("a"), TOPIC("a")};
    refused(twice, 2, false, "twice");
    const struct topo_object name = TOPIC("Upper");
    refused(&name, 1, false, "Upper");
    const struct topo_object text = PRODUCER("p", "{");
    refused(&text, 1, false, "producer \"p\"");
    const struct topo_object array = PRODUCER("p", "[]");
    refused(&array, 1, false, "producer \"p\"");
    const struct topo_object no_sink = SUB("x", "{\"topic\":\"orders\"}");
    refused(&no_sink, 1, false, "subscription \"x\"");
}

static void test_removal(void **state) {
    const struct topo_object read = {.kind = TOPO_TOPIC, .name = "orders", .remove = true};
    const struct topo_object mail = {.kind = TOPO_SUBSCRIPTION, .name = "mail", .remove = true};
    const struct topo_object audit = {.kind = TOPO_SUBSCRIPTION, .name = "audit", .remove = true};
    const struct topo_object nothing = {.kind = TOPO_PRODUCER, .name = "orders", .remove = true};
    const struct topo_object one_reader_stays[] = {read, mail}, all[] = {read, mail, audit}, twice[] = {mail, mail};
    const struct topo_object gone_and_wanted[] = {mail, SUB("mail", ORDERS)};
    refused_as(-EBUSY, &read, 1, false, "\"mail\"");
    refused_as(-EBUSY, one_reader_stays, 2, false, "\"audit\"");
    refused_as(-ENOENT, &nothing, 1, false, "orders");
    refused_as(-ENOENT, twice, 2, false, "mail");
    refused(gone_and_wanted, 2, false, "twice");
    struct topo_plan p = plan(all, ARRAY_LEN(all), false);
    assert_int_equal(p.n, ARRAY_LEN(all));
    for (size_t i = 0; i < p.n; i++) {
        assert_int_equal(p.items[i].act, TOPO_DELETE);
        assert_null(p.items[i].want);
        assert_non_null(p.items[i].have);
    }
    assert_true(p.changed);
    topo_plan_deinit(&p);
    const struct topo_object new_reader[] = {SUB("new", "{\"topic\":\"refunds\",\"sink\":{\"discard\":{}}}"),
                                             {.kind = TOPO_TOPIC, .name = "refunds", .remove = true}};
    assert_true(topo_plan_make(new_reader, 2, stored, ARRAY_LEN(stored), false, &p, NULL) < 0);
}

/* Topics of outcome events are there, and stay. */
static void test_outcomes(void **state) {
    const struct topo_object nowhere = PRODUCER("shop", "{\"outcomes\":{\"delivered\":\"nowhere\"}}");
    refused(&nowhere, 1, false, "there is no topic of outcomes.delivered \"nowhere\"");
    const struct topo_object told = PRODUCER("shop", "{\"outcomes\":{\"dead\":\"refunds\"}}");
    refused(&told, 1, true, "\"refunds\" is not named and would be pruned");
    const struct topo_object taken[] = {told, {.kind = TOPO_TOPIC, .name = "refunds", .remove = true}};
    refused_as(-EBUSY, taken, 2, false, "outcomes of producer \"shop\"");
    struct topo_plan p = plan(&told, 1, false);
    topo_plan_deinit(&p);
    const struct topo_object has[] = {TOPIC("refunds"), told};
    const struct topo_object remove = {.kind = TOPO_TOPIC, .name = "refunds", .remove = true};
    struct errmsg e = ERRMSG_NULL;
    assert_int_equal(topo_plan_make(&remove, 1, has, ARRAY_LEN(has), false, &p, &e), -EBUSY);
    assert_non_null(strstr(e.text, "outcomes of producer \"shop\""));
}

/* The same name may stand for a topic and for a subscription. */
static void test_kinds_have_names_of_their_own(void **state) {
    const struct topo_object o[] = {SUB("orders", ORDERS), PRODUCER("orders", "{}")};
    struct topo_plan p = plan(o, ARRAY_LEN(o), false);
    assert_int_equal(p.items[0].act, TOPO_CREATE);
    assert_int_equal(p.items[1].act, TOPO_CREATE);
    topo_plan_deinit(&p);
}

/* What this version cannot read is replaced, not judged. */
static void test_stored_spec_of_another_version(void **state) {
    const struct topo_object strange[] = {TOPIC("orders"),
                                          SUB("mail", "{\"topic\":\"orders\",\"sink\":{\"pigeon\":{\"loft\":1}}}")};
    const struct topo_object o = SUB("mail", ORDERS);
    struct topo_plan p = {0};
    assert_int_equal(topo_plan_make(&o, 1, strange, 2, false, &p, NULL), 0);
    assert_int_equal(p.items[0].act, TOPO_UPDATE);
    topo_plan_deinit(&p);
}

static json_t *parse(const char *text) {
    json_t *j = json_parse(bytes_str(text), NULL);
    assert_non_null(j);
    return j;
}

static bool same(const char *a, const char *b) {
    CLEANUP_JSON json_t *ja = parse(a);
    CLEANUP_JSON json_t *jb = parse(b);
    return topo_json_same(ja, jb);
}

static void test_same_json(void **state) {
    assert_true(same("{\"a\":1,\"b\":[1,2]}", "{\"b\":[1,2],\"a\":1}"));
    assert_true(same("{\"a\":1000}", "{\"a\":1e3}"));
    assert_true(same("{\"a\":2.50}", "{\"a\":2.5}"));
    assert_false(same("{\"a\":[1,2]}", "{\"a\":[2,1]}"));
    assert_false(same("{\"a\":1}", "{\"a\":1,\"b\":2}"));
    assert_false(same("{\"a\":1,\"b\":2}", "{\"a\":1,\"c\":2}"));
    assert_false(same("{\"a\":\"1\"}", "{\"a\":1}"));
    assert_false(same("{\"a\":9007199254740993}", "{\"a\":9007199254740992}"));
}

static void redacts(const char *from, const char *to) {
    CLEANUP_JSON json_t *j = parse(from);
    CLEANUP_JSON json_t *hidden = topo_redact(j);
    CLEANUP_JSON json_t *want = parse(to);
    assert_non_null(hidden);
    assert_true(json_equal(hidden, want));
}

static void test_audit_shows_no_secret(void **state) {
    redacts("{\"check\":{\"secret\":\"whsec_x\",\"endpoints\":[\"https://u:p@h/c\",\"https://h/?a=b:c@d\"]}}",
            "{\"check\":{\"secret\":\"***\",\"endpoints\":[\"https://u:***@h/c\",\"https://h/?a=b:c@d\"]}}");
    redacts("{\"sink\":{\"rabbitmq\":{\"url\":\"amqp://guest:p%40ss@mq:5672/v\",\"exchange\":\"e\"}}}",
            "{\"sink\":{\"rabbitmq\":{\"url\":\"amqp://guest:***@mq:5672/v\",\"exchange\":\"e\"}}}");
    redacts("{\"sink\":{\"http\":{\"headers\":{\"authorization\":\"Bearer x\"},\"timeout\":\"3s\"}}}",
            "{\"sink\":{\"http\":{\"headers\":{\"authorization\":\"***\"},\"timeout\":\"3s\"}}}");
    redacts("{\"sink\":{\"redis\":{\"url\":\"redis://host:6379/0\"},\"grpc\":{\"token\":\"t\",\"tls\":true}}}",
            "{\"sink\":{\"redis\":{\"url\":\"redis://host:6379/0\"},\"grpc\":{\"token\":\"***\",\"tls\":true}}}");
}

/* Whichever allocation fails: an error or a whole plan, never half of one, and nothing leaks. */
static void test_out_of_memory(void **state) {
    const struct topo_object o[] = {
        TOPIC("orders"),
        TOPIC("late"),
        SUB("new", "{\"topic\":\"late\",\"sink\":{\"discard\":{}}}"),
        SUB("mail", ORDERS),
    };
    bool reached = true;
    for (uint64_t n = 1; reached; n++) {
        struct topo_plan p = {0};
        uint64_t before = mem_count();
        mem_fail_at(n);
        int r = topo_plan_make(o, ARRAY_LEN(o), stored, ARRAY_LEN(stored), true, &p, NULL);
        mem_fail_at(0);
        reached = mem_count() - before >= n;
        assert_true(r < 0 ? !p.items : p.n == ARRAY_LEN(o) + 3);
        if (!reached)
            assert_int_equal(r, 0);
        topo_plan_deinit(&p);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_differences),
        cmocka_unit_test(test_acts),
        cmocka_unit_test(test_reapplying_changes_nothing),
        cmocka_unit_test(test_prune_deletes_what_is_not_named),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_removal),
        cmocka_unit_test(test_outcomes),
        cmocka_unit_test(test_kinds_have_names_of_their_own),
        cmocka_unit_test(test_stored_spec_of_another_version),
        cmocka_unit_test(test_same_json),
        cmocka_unit_test(test_audit_shows_no_secret),
        cmocka_unit_test(test_out_of_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
