/* Sockets that libcurl lets go of: nothing may wait for their numbers any more. */
#include "webclient/webclient.h"

#include <arpa/inet.h>
#include <setjmp.h>
#include <stdarg.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

enum { QUEUE = 4, CONNECTING_MS = 50 };

static struct loop *loop;
static struct webclient *web;
static struct web_call *call;
static enum web_result result;
static int next_poll;

static int tcp_socket(void) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

    assert_true(fd >= 0);
    return fd;
}

/* Listens, but its queue is full: who comes waits. */
static int listen_full(int queue[QUEUE], struct sockaddr_in *a) {
    socklen_t n = sizeof(*a);
    int fd = tcp_socket();

    *a = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    assert_true(bind(fd, (struct sockaddr *)a, n) == 0 && listen(fd, 0) == 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)a, &n), 0);
    for (int i = 0; i < QUEUE; i++) {
        queue[i] = tcp_socket();
        (void)!connect(queue[i], (struct sockaddr *)a, sizeof(*a));
    }
    return fd;
}

/* The number of the socket that was connecting is the lowest free one: whoever gets it can wait for it. */
static void on_done(void *arg, const struct web_response *resp) {
    static uv_poll_t poll;
    int next = tcp_socket();

    result = resp->result;
    next_poll = uv_poll_init(loop_uv(loop), &poll, next);
    if (next_poll == 0)
        uv_close((uv_handle_t *)&poll, NULL);
    close(next);
    webclient_free(web);
    loop_stop(loop);
}

static void on_timer(uv_timer_t *timer) {
    uv_close((uv_handle_t *)timer, NULL);
    webclient_cancel(call);
}

static void test_cancel_connecting(void **state) {
    struct webclient_options o = {.max_in_flight = 4};
    struct sockaddr_in a;
    char url[64];
    uv_timer_t timer;
    int queue[QUEUE], fd = listen_full(queue, &a);

    snprintf(url, sizeof(url), "http://127.0.0.1:%d/", ntohs(a.sin_port));
    assert_int_equal(guard_parse("127.0.0.0/8", &o.guard, NULL), 0);
    assert_int_equal(loop_new("test", &loop), 0);
    assert_int_equal(webclient_new(loop, &o, &web), 0);
    assert_int_equal(webclient_post(web, &(struct web_request){.url = url, .timeout_ms = 60000}, on_done, NULL, &call),
                     0);
    assert_int_equal(uv_timer_init(loop_uv(loop), &timer), 0);
    uv_timer_start(&timer, on_timer, CONNECTING_MS, 0);
    assert_int_equal(loop_run(loop), 0);
    assert_int_equal(result, WEB_CANCELLED);
    assert_int_equal(next_poll, 0);
    loop_free(loop);
    for (int i = 0; i < QUEUE; i++)
        close(queue[i]);
    close(fd);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_cancel_connecting)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
