/* The operations address: what it answers, what it refuses, and where it listens. */
#include "http/http.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

static _Atomic bool is_ready;

static bool ready(void *arg, char *why, size_t n) {
    UNUSED(arg);
    bool r = atomic_load(&is_ready);
    snprintf(why, n, "%s", r ? "ready" : "the store is away");
    return r;
}

static struct http_server *start(void) {
    const struct http_options o = {.listen = "127.0.0.1:0", .max_connections = 4, .ready = ready};
    struct http_server *s = NULL;
    struct errmsg e;
    assert_int_equal(http_server_new(&o, &s, &e), 0);
    assert_true(http_server_port(s) > 0);
    return s;
}

/* The whole answer to one request. */
static const char *ask(const struct http_server *s, const char *request) {
    static char answer[65536];
    struct sockaddr_in to = {.sin_family = AF_INET,
                             .sin_port = htons((uint16_t)http_server_port(s)),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&to, sizeof(to)), 0);
    assert_int_equal(write(fd, request, strlen(request)), strlen(request));
    size_t n = 0;
    for (ssize_t r; (r = read(fd, answer + n, sizeof(answer) - 1 - n)) > 0;)
        n += (size_t)r;
    answer[n] = 0;
    close(fd);
    return answer;
}

static void test_paths(void **state) {
    UNUSED(state);
    struct http_server *s = start();
    assert_non_null(strstr(ask(s, "GET /healthz HTTP/1.0\r\n\r\n"), "200"));
    atomic_store(&is_ready, false);
    const char *a = ask(s, "GET /readyz HTTP/1.0\r\n\r\n");
    assert_non_null(strstr(a, " 503 "));
    assert_non_null(strstr(a, "the store is away"));
    atomic_store(&is_ready, true);
    assert_non_null(strstr(ask(s, "GET /readyz HTTP/1.0\r\n\r\n"), " 200 "));
    assert_non_null(strstr(ask(s, "GET /metrics HTTP/1.0\r\n\r\n"), "text/plain; version=0.0.4"));
    assert_non_null(strstr(ask(s, "GET /nothing HTTP/1.0\r\n\r\n"), " 404 "));
    assert_non_null(strstr(ask(s, "POST /metrics HTTP/1.0\r\nContent-Length: 3\r\n\r\nabc"), " 405 "));
    http_server_free(s);
}

static void test_bad_addresses(void **state) {
    UNUSED(state);
    static const char *const bad[] = {
        "", "7401", "127.0.0.1", "127.0.0.1:", "127.0.0.1:99999", "127.0.0.1:7x", "example.org:80"};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        const struct http_options o = {.listen = bad[i], .max_connections = 1, .ready = ready};
        struct http_server *s = NULL;
        struct errmsg e = ERRMSG_NULL;
        assert_int_equal(http_server_new(&o, &s, &e), -EINVAL);
        assert_true(e.text[0]);
    }
}

static void test_a_taken_port_is_an_error(void **state) {
    UNUSED(state);
    struct http_server *s = start(), *other = NULL;
    char listen[32];
    struct errmsg e;
    snprintf(listen, sizeof(listen), "127.0.0.1:%d", http_server_port(s));
    const struct http_options o = {.listen = listen, .max_connections = 1, .ready = ready};
    assert_int_equal(http_server_new(&o, &other, &e), -EADDRINUSE);
    http_server_free(s);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_paths),
        cmocka_unit_test(test_bad_addresses),
        cmocka_unit_test(test_a_taken_port_is_an_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
