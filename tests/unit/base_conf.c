/* Which source wins, what is refused and in which words, and that secrets never show. */
#include "base/conf.h"

#include "base/log.h"

#include <setjmp.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

struct target {
    char *listen, *dsn, *token;
    int64_t workers, drain, body;
    bool insecure;
};

static const struct conf_option table[] = {
    {"grpc.listen", CONF_STR, "127.0.0.1:7400", .help = "Where gRPC | listens.",
     .offset = offsetof(struct target, listen)},
    {"dsn", CONF_STR, NULL, .secret = true, .help = "PostgreSQL.", .offset = offsetof(struct target, dsn)},
    {"http.admin_token", CONF_STR, NULL, .secret = true, .help = "Token.", .offset = offsetof(struct target, token)},
    {"workers", CONF_INT, "2", 1, 64, .help = "Threads.", .offset = offsetof(struct target, workers)},
    {"drain", CONF_DURATION_MS, "30s", 1000, 0, .help = "Drain.", .offset = offsetof(struct target, drain),
     .reloadable = true},
    {"grpc.body", CONF_SIZE, "1MiB", 1024, 8 << 20, .help = "Body.", .offset = offsetof(struct target, body)},
    {"insecure", CONF_BOOL, NULL, .help = "No credentials.", .offset = offsetof(struct target, insecure)},
    {0},
};

static char directory[] = "/tmp/base_conf.XXXXXX";

/* Writes a file of the test's directory; the path is good until the next call with that name. */
static char *file(const char *name, const char *text, size_t n) {
    static char path[200];
    snprintf(path, sizeof(path), "%s/%s", directory, name);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    assert_int_equal(fwrite(text, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
    return path;
}

static struct errmsg why;

/* argv and env are given without their ends and names: at most 8 words each. */
static struct conf *load(struct target *t, const char *const *words, const char *const *env) {
    char *argv[10] = {NULL}, *environment[10] = {NULL};
    int argc = 1;
    CLEANUP(mem_cleanup) char *self = mem_strdup("txmsgd");
    argv[0] = self;
    memset(t, 0xee, sizeof(*t)); /* every field must be set */
    for (size_t i = 0; words && words[i]; i++)
        argv[argc++] = mem_strdup(words[i]);
    for (size_t i = 0; env && env[i]; i++)
        environment[i] = mem_strdup(env[i]);
    why = ERRMSG_NULL;
    struct conf *c = conf_load(table, t, argc, argv, environment, &why);
    for (int i = 1; i < argc; i++)
        mem_free(argv[i]);
    for (size_t i = 0; environment[i]; i++)
        mem_free(environment[i]);
    return c;
}
#define WORDS(...) ((const char *const[]){__VA_ARGS__, NULL})

static void refused(const char *const *words, const char *const *env, const char *text) {
    struct target t;
    struct conf *c = load(&t, words, env);
    if (c)
        fail_msg("passed, but expected: %s", text);
    if (!strstr(why.text, text))
        fail_msg("\"%s\" lacks \"%s\"", why.text, text);
    assert_null(t.listen);
}

static void refused_yaml(const char *yaml, const char *text) {
    refused(WORDS("--config", file("bad.yaml", yaml, strlen(yaml))), NULL, text);
}

static void test_defaults(void **state) {
    struct target t;
    struct conf *c = load(&t, NULL, NULL);
    assert_non_null(c);
    assert_string_equal(t.listen, "127.0.0.1:7400");
    assert_string_equal(t.dsn, "");
    assert_int_equal(t.workers, 2);
    assert_int_equal(t.drain, 30000);
    assert_int_equal(t.body, 1048576);
    assert_false(t.insecure);
    assert_int_equal(conf_origin(c, "workers"), CONF_DEFAULT);
    conf_free(c);
    conf_free(NULL);
}

static void test_precedence(void **state) {
    static const char yaml[] = "grpc: {listen: 'f:1', body: 2MiB}\nworkers: 4\ndrain: 1.5\ninsecure: true\n";
    struct target t;
    char *path = file("conf.yaml", yaml, strlen(yaml));
    struct conf *c = load(&t, WORDS("--drain=5s", "--config", path, "--drain", "6s"),
                          WORDS("TXMSG_WORKERS=8", "TXMSG_DRAIN=9s", "PATH=/x", "TXMSG_CONFIG=/nowhere"));
    if (!c)
        fail_msg("%s", why.text);
    assert_string_equal(t.listen, "f:1");
    assert_int_equal(t.body, 2097152);
    assert_int_equal(t.workers, 8);
    assert_int_equal(t.drain, 6000); /* the last on the command line */
    assert_true(t.insecure);
    assert_int_equal(conf_origin(c, "grpc.listen"), CONF_FILE);
    assert_int_equal(conf_origin(c, "workers"), CONF_ENV);
    assert_int_equal(conf_origin(c, "drain"), CONF_FLAG);
    assert_int_equal(conf_origin(c, "dsn"), CONF_DEFAULT);
    conf_free(c);
}

static void test_yaml_forms(void **state) {
    static const char yaml[] = "grpc.body: 4096\ndrain: 90\ngrpc:\nhttp: {}\ndsn: ~\nworkers: '16'\n";
    struct target t;
    char env[300];
    snprintf(env, sizeof(env), "TXMSG_CONFIG=%s", file("conf.yaml", yaml, strlen(yaml)));
    struct conf *c = load(&t, NULL, WORDS(env));
    if (!c)
        fail_msg("%s", why.text);
    assert_int_equal(t.body, 4096);
    assert_int_equal(t.drain, 90000);
    assert_int_equal(t.workers, 16);
    conf_free(c);
    c = load(&t, WORDS("--config", file("empty.yaml", "# nothing\n", 10)), NULL);
    assert_non_null(c);
    conf_free(c);
}

static void test_unknown(void **state) {
    refused(WORDS("--grpc.lisen=x"), NULL, "unknown option \"grpc.lisen\"; the nearest is \"grpc.listen\"");
    refused(WORDS("--worker", "3"), NULL, "the nearest is \"workers\"");
    refused_yaml("grcp: {listen: x}\n", "bad.yaml: unknown option \"grcp.listen\"; the nearest is \"grpc.listen\"");
    refused_yaml("grpc: {listen: {deep: x}}\n", "unknown option \"grpc.listen.deep\"");
    refused_yaml("grpc: x\n", "unknown option \"grpc\"");
    refused_yaml("nothing:\n", "unknown option \"nothing\"");
    refused_yaml("nothing: {}\n", "unknown option \"nothing\"");
    refused(WORDS("--"), NULL, "unexpected argument \"--\"");
    refused(WORDS("start"), NULL, "unexpected argument \"start\"");
    refused(WORDS("-w", "3"), NULL, "unexpected argument");
    refused(WORDS("--workers"), NULL, "--workers needs a value");
    refused(WORDS("--config"), NULL, "--config needs a value");
    char word[3000] = "--";
    memset(word + 2, 'x', sizeof(word) - 3);
    refused(WORDS(word), NULL, "unknown option");
}

static void test_unknown_environment(void **state) {
    struct target t;
    log_set_level(LOG_LEVEL_ERROR);
    struct conf *c = load(&t, NULL, WORDS("TXMSG_PORT_7400_TCP=tcp://x", "TXMSG_=1", "TXMSG_GRPC_LISTEN_FILE=/x"));
    assert_non_null(c);
    conf_free(c);
}

static void test_values(void **state) {
    static const struct {
        const char *word, *text;
    } bad[] = {
        {"--workers=two", "command line: workers must be a whole number, not \"two\""},
        {"--workers=", "must be a whole number"},
        {"--workers= 3", "must be a whole number"},
        {"--workers=3x", "must be a whole number"},
        {"--workers=3-", "must be a whole number"},
        {"--workers=0", "workers = 0 is below the minimum 1"},
        {"--workers=65", "workers = 65 is above the maximum 64"},
        {"--workers=99999999999999999999", "must be a whole number"},
        {"--drain=999ms", "drain = 999ms is below the minimum 1s"},
        {"--drain=-1s", "must be a duration such as 10s"},
        {"--grpc.body=9MiB", "grpc.body = 9MiB is above the maximum 8MiB"},
        {"--grpc.body=1MB", "must be a size such as 64MiB"},
        {"--insecure=maybe", "must be true or false"},
    };
    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        refused(WORDS(bad[i].word), NULL, bad[i].text);
    refused(NULL, WORDS("TXMSG_WORKERS=x"), "TXMSG_WORKERS: workers must be");
    refused(NULL, WORDS("TXMSG_WORKERS="), "TXMSG_WORKERS: workers must be");
    refused(WORDS("--workers=3"), WORDS("TXMSG_WORKERS=0"), "TXMSG_WORKERS"); /* hidden, but still wrong */
    struct target t;
    struct conf *c = load(&t, WORDS("--workers=64", "--insecure", "--grpc.body", "1KiB", "--drain=400d"), NULL);
    assert_non_null(c);
    assert_true(t.insecure);
    assert_int_equal(t.workers, 64);
    assert_int_equal(t.drain, 400 * 86400000ll); /* max 0 = unbounded */
    conf_free(c);
    c = load(&t, WORDS("--insecure", "no", "--grpc.listen", "--x"), NULL);
    assert_non_null(c);
    assert_false(t.insecure);
    assert_string_equal(t.listen, "--x");
    conf_free(c);
}

static void test_bad_files(void **state) {
    refused_yaml("workers: [1]\n", "workers must be a single value");
    refused_yaml("workers: {}\n", "workers must be a single value");
    refused_yaml("workers: 1.5\n", "workers must be a whole number, not \"1.5\"");
    refused_yaml("workers: true\n", "workers must be a whole number");
    refused_yaml("dsn: 0123\n", "dsn must be a text: put it in quotes");
    refused_yaml("insecure: 'x'\n", "must be true or false");
    refused_yaml("grpc: {listen: x}\ngrpc.listen: y\n", "grpc.listen is given twice");
    refused_yaml("a: 1\na: 2\n", "bad.yaml: line 2 column 1: duplicate key");
    refused_yaml("- workers\n", "must be a mapping");
    refused_yaml("workers: &a 1\n", "anchors");
    refused(WORDS("--config=/nonexistent/x.yaml"), NULL, "/nonexistent/x.yaml: No such file");
    refused(WORDS("--config", directory), NULL, "Is a directory");
    static char big[(1 << 20) + 2];
    memset(big, '#', sizeof(big));
    refused(WORDS("--config", file("big.yaml", big, sizeof(big))), NULL, "larger than 1048576 bytes");
}

static void test_secret_file(void **state) {
    static const struct {
        const char *text, *want;
    } cases[] = {{"s3cret\n", "s3cret"},
                 {"s3cret", "s3cret"},
                 {"s3cret\r\n", "s3cret"},
                 {" two\nlines\n\n", " two\nlines\n"},
                 {"\n", ""},
                 {"", ""}};
    struct target t;
    char env[300];
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        char *path = file("token", cases[i].text, strlen(cases[i].text));
        snprintf(env, sizeof(env), "TXMSG_HTTP_ADMIN_TOKEN_FILE=%s", path);
        struct conf *c = load(&t, NULL, WORDS(env));
        if (!c)
            fail_msg("%s", why.text);
        assert_string_equal(t.token, cases[i].want);
        assert_int_equal(conf_origin(c, "http.admin_token"), CONF_ENV);
        conf_free(c);
    }
    refused(NULL, WORDS("TXMSG_DSN_FILE=/x", "TXMSG_DSN=y"), "TXMSG_DSN_FILE: /x: No such file");
    refused(NULL, WORDS("TXMSG_DSN=y", "TXMSG_DSN_FILE=/x"), "TXMSG_DSN and TXMSG_DSN_FILE are both set");
    snprintf(env, sizeof(env), "TXMSG_DSN_FILE=%s", file("nul", "a\0b", 3));
    refused(NULL, WORDS(env), "holds a NUL");
    static char big[(64 << 10) + 1];
    memset(big, 'x', sizeof(big));
    snprintf(env, sizeof(env), "TXMSG_DSN_FILE=%s", file("bigsecret", big, sizeof(big)));
    refused(NULL, WORDS(env), "larger than");
}

static void test_show(void **state) {
    struct target t;
    CLEANUP_BUF struct buf b;
    buf_init(&b, 65536);
    struct conf *c = load(&t, WORDS("--dsn=postgres://u:hunter2@h/d"), WORDS("TXMSG_WORKERS=3"));
    conf_show(c, &b);
    assert_string_equal(buf_str(&b), "grpc.listen = 127.0.0.1:7400  (default)\n"
                                     "dsn = ***  (command line)\n"
                                     "http.admin_token =   (default)\n"
                                     "workers = 3  (environment)\n"
                                     "drain = 30s  (default)\n"
                                     "grpc.body = 1MiB  (default)\n"
                                     "insecure = false  (default)\n");
    conf_free(c);
}

static void told(void *arg, const struct conf_option *o) {
    struct buf *b = arg;
    buf_printf(b, "%s%s ", o->name, o->reloadable ? "*" : "");
}

static void test_reload(void **state) {
    struct target t, u;
    CLEANUP_BUF struct buf b;
    buf_init(&b, 65536);
    struct conf *c = load(&t, WORDS("--drain=60s", "--workers=3", "--dsn=a"), NULL);
    struct conf *same = load(&u, WORDS("--drain=1m", "--workers=3", "--dsn=a", "--insecure=no"), NULL);
    conf_reload(c, same, told, &b);
    conf_free(same);
    assert_string_equal(buf_str(&b), "");
    struct conf *fresh = load(&u, WORDS("--drain=2s", "--workers=4", "--dsn=b"), NULL);
    conf_reload(c, fresh, told, &b);
    conf_free(fresh);
    assert_string_equal(buf_str(&b), "dsn workers drain* ");
    assert_int_equal(t.drain, 2000);
    assert_int_equal(t.workers, 3);
    assert_string_equal(t.dsn, "a");
    conf_free(c);
}

static void test_reference(void **state) {
    CLEANUP_BUF struct buf b;
    buf_init(&b, 65536);
    conf_reference(table, &b);
    static const char *const rows[] = {
        "\n## grpc\n",
        "| `grpc.listen` | text | `127.0.0.1:7400` |  | `TXMSG_GRPC_LISTEN` | Where gRPC \\| listens. |\n",
        "| `http.admin_token` | text, secret |  |  | `TXMSG_HTTP_ADMIN_TOKEN`, `.._FILE` | Token. |\n",
        "\n## general\n",
        "| `workers` | number | `2` | 1 to 64 | `TXMSG_WORKERS` | Threads. |\n",
        "| `drain` | duration, reload | `30s` | from 1s | `TXMSG_DRAIN` | Drain. |\n",
        "| `grpc.body` | size | `1MiB` | 1KiB to 8MiB | `TXMSG_GRPC_BODY` | Body. |\n",
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        if (!strstr(buf_str(&b), rows[i]))
            fail_msg("no row %s in\n%s", rows[i], buf_str(&b));
    }
}

static void test_out_of_memory(void **state) {
    static const char yaml[] = "grpc: {listen: 'f:1'}\nworkers: 4\n";
    char *argv[] = {directory, (char[]){"--config"}, file("conf.yaml", yaml, strlen(yaml)), NULL};
    char *env[] = {(char[]){"TXMSG_DSN=x"}, NULL};
    for (uint64_t n = 1;; n++) {
        struct target t;
        struct errmsg e = ERRMSG_NULL;
        uint64_t before = mem_count();
        mem_fail_at(n);
        struct conf *c = conf_load(table, &t, 3, argv, env, &e);
        mem_fail_at(0);
        if (mem_count() - before < n) {
            assert_non_null(c);
            conf_free(c);
            break;
        }
        assert_null(c);
        assert_true(*e.text);
    }
}

static int make_directory(void **state) {
    return mkdtemp(directory) ? 0 : -1;
}

static int remove_directory(void **state) {
    static const char *const names[] = {"bad.yaml", "conf.yaml", "empty.yaml", "big.yaml", "token", "nul", "bigsecret"};
    char path[200];
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        snprintf(path, sizeof(path), "%s/%s", directory, names[i]);
        unlink(path);
    }
    return rmdir(directory);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_defaults),   cmocka_unit_test(test_precedence),
        cmocka_unit_test(test_yaml_forms), cmocka_unit_test(test_unknown),
        cmocka_unit_test(test_values),     cmocka_unit_test(test_unknown_environment),
        cmocka_unit_test(test_bad_files),  cmocka_unit_test(test_secret_file),
        cmocka_unit_test(test_show),       cmocka_unit_test(test_reload),
        cmocka_unit_test(test_reference),  cmocka_unit_test(test_out_of_memory),
    };
    return cmocka_run_group_tests(tests, make_directory, remove_directory);
}
