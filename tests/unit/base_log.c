/* One line per event, whatever the text holds; the level filters; floods are limited. */
#include "base/log.h"

#include "base/clock.h"

#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <unistd.h>
#include <cmocka.h>

static int saved_stderr, capture[2];

static void begin(void) {
    assert_int_equal(pipe2(capture, O_CLOEXEC), 0);
    saved_stderr = dup(STDERR_FILENO);
    dup2(capture[1], STDERR_FILENO);
}

/* What was written since begin(); fits the pipe. */
static size_t end(char *out, size_t size) {
    dup2(saved_stderr, STDERR_FILENO);
    close(saved_stderr);
    close(capture[1]);
    size_t at = 0;
    ssize_t n;
    while (at < size - 1 && (n = read(capture[0], out + at, size - 1 - at)) > 0)
        at += (size_t)n;
    close(capture[0]);
    out[at] = '\0';
    return at;
}

static void test_line(void **state) {
    char out[8192];
    log_set_level(LOG_LEVEL_INFO);
    begin();
    errno = ENOENT;
    LOG_WARN("store", "lost: %m id=%d", 7);
    int kept = errno;
    LOG_DEBUG("store", "not shown");
    end(out, sizeof(out));
    assert_int_equal(kept, ENOENT);
    assert_string_equal(out + 27, " warn  store: lost: No such file or directory id=7\n");
    int64_t us;
    out[27] = '\0';
    assert_int_equal(clock_parse(out, &us), 0);
}

static void test_forged(void **state) {
    char out[8192];
    begin();
    LOG_ERROR("rpc", "peer says \"x\n2026 error fake: y\x1b[31m\r\"");
    end(out, sizeof(out));
    assert_string_equal(out + 27, " error rpc: peer says \"x 2026 error fake: y?[31m?\"\n");
}

static void test_long(void **state) {
    char out[8192], big[5000];
    memset(big, 'x', sizeof(big) - 1);
    big[sizeof(big) - 1] = '\0';
    begin();
    LOG_ERROR("rpc", "%s", big);
    size_t n = end(out, sizeof(out));
    assert_int_equal(n, 2048);
    assert_string_equal(out + n - 5, "x...\n");
}

static void *write_lines(void *arg) {
    for (int i = 0; i < 100; i++)
        LOG_INFO("t", "thread %s line %02d end", (char *)arg, i);
    return NULL;
}

static void test_threads(void **state) {
    static char out[40000];
    char names[2][2] = {"a", "b"};
    pthread_t a, b;
    log_set_level(LOG_LEVEL_INFO);
    begin();
    pthread_create(&a, NULL, write_lines, names[0]);
    pthread_create(&b, NULL, write_lines, names[1]);
    pthread_join(a, NULL);
    pthread_join(b, NULL);
    size_t n = end(out, sizeof(out));
    size_t each = strlen("2026-01-01T00:00:00.000000Z info  t: thread a line 00 end\n");
    assert_int_equal(n, 200 * each);
    for (size_t i = 0; i < n; i += each)
        assert_memory_equal(out + i + each - 5, " end\n", 5);
}

static void test_levels(void **state) {
    enum log_level level;
    assert_int_equal(log_level_parse("debug", &level), 0);
    assert_int_equal(level, LOG_LEVEL_DEBUG);
    assert_int_equal(log_level_parse("loud", &level), -EINVAL);
}

static void test_rooms(void **state) {
    char out[8192];
    struct errmsg e = ERRMSG_NULL;
    assert_int_equal(log_set_levels("warn, store=debug,rpc=error", &e), 0);
    assert_int_equal(log_level_now, LOG_LEVEL_DEBUG);
    assert_int_equal(log_level_of("store"), LOG_LEVEL_DEBUG);
    assert_int_equal(log_level_of("rpc"), LOG_LEVEL_ERROR);
    assert_int_equal(log_level_of("forward"), LOG_LEVEL_WARN);
    begin();
    LOG_DEBUG("store", "a");
    LOG_WARN("rpc", "not shown");
    LOG_INFO("forward", "not shown");
    LOG_WARN("forward", "b");
    end(out, sizeof(out));
    assert_non_null(strstr(out, "debug store: a\n"));
    assert_non_null(strstr(out, "warn  forward: b\n"));
    assert_null(strstr(out, "not shown"));
    assert_int_equal(log_set_levels("store=warn", &e), 0); /* the others: info */
    assert_int_equal(log_level_of("rpc"), LOG_LEVEL_INFO);
    assert_int_equal(log_level_now, LOG_LEVEL_INFO);
}

static void test_bad_rooms(void **state) {
    static const char *const bad[][2] = {
        {"", "\"\" is no level"},          {"loud", "\"loud\" is no level"},   {"info,store=", "\"\" is no level"},
        {"info,stor=debug", "is no room"}, {"store=info,store=warn", "twice"}, {"info,warn", "twice"},
        {"info,", "is no level"},          {"store=info=warn", "is no level"},
    };
    struct errmsg e;
    log_set_level(LOG_LEVEL_WARN);
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        e = ERRMSG_NULL;
        assert_int_equal(log_set_levels(bad[i][0], &e), -EINVAL);
        assert_int_equal(log_check_levels(bad[i][0], &e), -EINVAL);
        if (!strstr(e.text, bad[i][1]))
            fail_msg("\"%s\" is told as %s", bad[i][0], e.text);
        assert_int_equal(log_level_of("store"), LOG_LEVEL_WARN); /* all or nothing */
    }
    log_set_level(LOG_LEVEL_INFO);
}

static void test_limit(void **state) {
    struct log_limit l = {0};
    assert_true(log_limit_pass(&l, UINT64_MAX / 2));
    assert_false(log_limit_pass(&l, UINT64_MAX / 2));
    assert_false(log_limit_pass(&l, UINT64_MAX / 2));
    assert_int_equal(l.suppressed, 2);
    l.last_ns -= 1000;
    assert_true(log_limit_pass(&l, 1000));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_line),    cmocka_unit_test(test_forged),    cmocka_unit_test(test_long),
        cmocka_unit_test(test_threads), cmocka_unit_test(test_levels),    cmocka_unit_test(test_limit),
        cmocka_unit_test(test_rooms),   cmocka_unit_test(test_bad_rooms),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
