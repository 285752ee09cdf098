/* The YAML that people write reads as they mean it; everything clever in YAML is refused with its place. */
#include "base/yaml.h"

#include <setjmp.h>
#include <cmocka.h>

static void reads(const char *yaml, const char *json) {
    struct errmsg e = ERRMSG_NULL;
    CLEANUP_BUF struct buf b;
    CLEANUP_JSON json_t *j = yaml_parse(bytes_str(yaml), &e);
    if (!j)
        fail_msg("%s: %s", yaml, e.text);
    buf_init(&b, 65536);
    assert_int_equal(json_write(&b, j), 0);
    assert_string_equal(buf_str(&b), json);
}

/* Written and read again it is the same value. */
static void writes(const char *json, const char *yaml) {
    CLEANUP_JSON json_t *j = json_parse(bytes_str(json), NULL);
    CLEANUP_BUF struct buf b;
    buf_init(&b, 65536);
    assert_int_equal(yaml_write(&b, j), 0);
    if (yaml)
        assert_string_equal(buf_str(&b), yaml);
    reads(buf_str(&b), json);
}

static void test_writing(void **state) {
    writes("{\"topics\":[{\"name\":\"a\",\"text\":\"b c\"},{\"name\":\"b\"}],\"none\":[],\"empty\":{}}",
           "topics:\n  - name: a\n    text: \"b c\"\n  - name: b\nnone: []\nempty: {}\n");
    writes("{\"a\":{\"b\":{\"c\":[1,[2,[3]],{\"d\":[{\"e\":true}]}]}}}", NULL);
    writes("[\"true\",\"No\",\"null\",\"1\",\"1.5\",\"\",\"- a\",\"a: "
           "b\",\"#\",\"~\",\"*a\",\"&a\",\"10s\",\"5m\",\"1e3\",\"0x1\"]",
           NULL);
    writes("[\"line\\nline\",\"\\\"q\\\"\",\"tab\\t\",\"\\u0001\",\"http://h:1/p?q\",\"\xc3\xa4\",\" \",\"a \"]", NULL);
    writes("{\"true\":1,\"a b\":2,\"\":3,\"x:\":-4,\"f\":1.5,\"z\":null}", NULL);
    writes("[10,\"10\",\"whsec_YWJj/+==\"]", "- 10\n- \"10\"\n- \"whsec_YWJj/+==\"\n");
}

static void test_structures(void **state) {
    reads("a:\n  b: 1\n  c: [x, 'y', \"z\"]\nd:\n  - 1\n  - e: 2\n    f: 3\n",
          "{\"a\":{\"b\":1,\"c\":[\"x\",\"y\",\"z\"]},\"d\":[1,{\"e\":2,\"f\":3}]}");
    reads("", "null");
    reads("# only a comment\n", "null");
    reads("---\na: {}\nb: []\nc:\n...\n", "{\"a\":{},\"b\":[],\"c\":null}");
    reads("text: |\n  two\n  lines\n", "{\"text\":\"two\\nlines\\n\"}");
    reads("{\"json\": [1, true, null, \"x\"]}", "{\"json\":[1,true,null,\"x\"]}");
    reads("1: a\ntrue: b\n", "{\"1\":\"a\",\"true\":\"b\"}");
    reads("plain", "\"plain\"");
}

static void test_scalars(void **state) {
    reads("[null, Null, NULL, ~, ]", "[null,null,null,null]");
    reads("[true, True, TRUE, false, False, FALSE]", "[true,true,true,false,false,false]");
    reads("[yes, no, on, off, y, n, nULL, tRUE]", "[\"yes\",\"no\",\"on\",\"off\",\"y\",\"n\",\"nULL\",\"tRUE\"]");
    reads("[0, -5, +7, 010, 0x1F, 0o17]", "[0,-5,7,10,31,15]");
    reads("[0x, 0o, 0xg, 0o8, 0b1, -0x1, 1_000, 12:30, 1.2.3]",
          "[\"0x\",\"0o\",\"0xg\",\"0o8\",\"0b1\",\"-0x1\",\"1_000\",\"12:30\",\"1.2.3\"]");
    reads("[1.5, -.5, 2., 1e3, 1E-2, +1.5e+1]", "[1.5,-0.5,2.0,1000.0,0.01,15.0]");
    reads("[., -, +, e3, 1e, 1e+, .e1, 10s, 64MiB, 127.0.0.1]",
          "[\".\",\"-\",\"+\",\"e3\",\"1e\",\"1e+\",\".e1\",\"10s\",\"64MiB\",\"127.0.0.1\"]");
    reads("['1', \"true\", 'null', \"\", '']", "[\"1\",\"true\",\"null\",\"\",\"\"]");
    reads("[9223372036854775807, -9223372036854775808]", "[9223372036854775807,-9223372036854775808]");
    reads("- \"\\u00fc \\x41\"\n- \xc3\xbc\n", "[\"\xc3\xbc \x41\",\"\xc3\xbc\"]");
}

static void refused(const char *text, size_t n, const char *why) {
    struct errmsg e = ERRMSG_NULL;
    CLEANUP_JSON json_t *j = yaml_parse(bytes_of(text, n), &e);
    if (j)
        fail_msg("\"%s\" passed", text);
    if (!strstr(e.text, why))
        fail_msg("\"%s\": \"%s\" lacks \"%s\"", text, e.text, why);
}
#define REFUSED(s, why) refused(s, sizeof(s) - 1, why)

static void test_refuses(void **state) {
    REFUSED("a: 1\nb: &x 2\n", "line 2 column 4: anchors and tags are not accepted");
    REFUSED("a: &x {}\n", "anchors and tags");
    REFUSED("a: &x []\n", "anchors and tags");
    REFUSED("&x a: 1\n", "anchors and tags");
    REFUSED("a: *x\n", "aliases are not accepted");
    REFUSED("*x : 1\n", "aliases are not accepted");
    REFUSED("a: [*x]\n", "aliases are not accepted");
    REFUSED("a: !!str 1\n", "anchors and tags");
    REFUSED("a: !x {}\n", "anchors and tags");
    REFUSED("a: ! x\n", "anchors and tags");
    REFUSED("a: !!python/object:os.system []\n", "anchors and tags");
    REFUSED("a: 1\nb: 2\na: 3\n", "line 3 column 1: duplicate key \"a\"");
    REFUSED("{a: 1, \"a\": 2}", "duplicate key");
    REFUSED("a: 1\n---\nb: 2\n", "a second document");
    REFUSED("a: 1\n...\n---\n", "a second document");
    REFUSED("? [a, b]\n: 1\n", "a key must be a text");
    REFUSED("? {a: b}\n: 1\n", "a key must be a text");
    REFUSED("a: .inf\n", "infinity");
    REFUSED("a: -.Inf\n", "infinity");
    REFUSED("a: .NaN\n", "infinity");
    REFUSED("a: 1e999\n", "out of range");
    REFUSED("a: 9223372036854775808\n", "beyond 64 bits");
    REFUSED("a: 0xffffffffffffffffff\n", "beyond 64 bits");
}

static void test_hostile(void **state) {
    REFUSED("a: \"x\\0y\"\n", "NUL");
    REFUSED("\"k\\0\": 1\n", "NUL");
    REFUSED("a: x\0y\n", "");
    REFUSED("a: \xff\n", "");
    REFUSED("a: \xc0\x80\n", "");
    REFUSED("\xff\xfe"
            "a\0:\0",
            "");
    REFUSED("a: [1, 2\n", "line");
    REFUSED("a: {b: 1\n", "line");
    REFUSED("a: 'x\n", "line");
    REFUSED("\ta: 1\n", "line");
    REFUSED("a: b: c\n", "line 1");
    REFUSED("a:\n  - 1\n b: 2\n", "line");
    REFUSED("%YAML 3.0\n---\na: 1\n", "line");
    REFUSED("a: \"\\ud800\"\n", "line");
    REFUSED("]", "line");
    REFUSED("a: |\n\t x\n y", "");
}

static void test_depth(void **state) {
    static char text[100001];
    memset(text, '[', 64);
    memset(text + 64, ']', 64);
    CLEANUP_JSON json_t *j = yaml_parse(bytes_of(text, 128), NULL);
    assert_non_null(j);
    memset(text, '[', 65);
    memset(text + 65, ']', 65);
    refused(text, 130, "nested deeper than 64 levels");
    memset(text, '[', 100000);
    refused(text, 100000, "nested deeper");
    memset(text, '{', 100000);
    refused(text, 100000, "");
    for (size_t i = 0; i < 100000; i += 2)
        memcpy(text + i, "- ", 2);
    refused(text, 100000, "nested deeper");
    for (size_t i = 0; i < 100000; i += 2)
        memcpy(text + i, "? ", 2);
    refused(text, 100000, "a key must be a text");
}

/* Any cut and any changed byte of a document ends in a value or a refusal with words; the sanitizers watch. */
static void test_mutations(void **state) {
    static const char doc[] = "a: {b: [1, 'x', \"\\u00fc\"], c: ~}\nd:\n  - |\n    text\n  - 0x1f\n? e\n: >-\n  f\n";
    for (size_t cut = 0; cut < sizeof(doc); cut++) {
        struct errmsg e = ERRMSG_NULL;
        CLEANUP_JSON json_t *j = yaml_parse(bytes_of(doc, cut), &e);
        assert_true(j || *e.text);
    }
    for (size_t at = 0; at < sizeof(doc) - 1; at++) {
        for (int c = 0; c < 256; c++) {
            struct errmsg e = ERRMSG_NULL;
            char changed[sizeof(doc)];
            memcpy(changed, doc, sizeof(doc));
            changed[at] = (char)c;
            CLEANUP_JSON json_t *j = yaml_parse(bytes_of(changed, sizeof(doc) - 1), &e);
            assert_true(j || *e.text);
        }
    }
}

static void test_out_of_memory(void **state) {
    for (uint64_t n = 1;; n++) {
        struct errmsg e = ERRMSG_NULL;
        uint64_t before = mem_count();
        mem_fail_at(n);
        CLEANUP_JSON json_t *j = yaml_parse(BYTES_LIT("{a: [1, 2.5, x], b: {c: ~}}"), &e);
        mem_fail_at(0);
        if (mem_count() - before < n) {
            assert_non_null(j);
            break;
        }
        assert_null(j);
        assert_string_equal(e.text, "out of memory");
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_structures), cmocka_unit_test(test_writing),       cmocka_unit_test(test_scalars),
        cmocka_unit_test(test_refuses),    cmocka_unit_test(test_hostile),       cmocka_unit_test(test_depth),
        cmocka_unit_test(test_mutations),  cmocka_unit_test(test_out_of_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
