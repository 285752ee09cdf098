/* The gate by itself: accept4() of this program is the gate's, as it is for core. */
#include "rpc/gate.h"

#include "base/metric.h"

#include <netinet/in.h>
#include <poll.h>
#include <setjmp.h>
#include <sys/resource.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

enum { MAX = 4 };

static int listener;
static struct sockaddr_storage address;
static socklen_t address_n;
static struct gate *gate;

static void listen_on(const struct sockaddr *a, socklen_t n, const char *name) {
    address_n = sizeof(address);
    listener = socket(a->sa_family, SOCK_STREAM | SOCK_NONBLOCK, 0);
    assert_int_equal(bind(listener, a, n), 0);
    assert_int_equal(listen(listener, 64), 0);
    assert_int_equal(getsockname(listener, (struct sockaddr *)&address, &address_n), 0);
    assert_int_equal(gate_open(name, ntohs(((struct sockaddr_in *)&address)->sin_port), MAX, &gate), 0);
}

static int setup(void **state) {
    const struct sockaddr_in any = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};

    UNUSED(state);
    listen_on((const struct sockaddr *)&any, sizeof(any), "127.0.0.1:0");
    return 0;
}

static int teardown(void **state) {
    UNUSED(state);
    gate_close(gate);
    close(listener);
    return 0;
}

static int64_t refused(void) {
    return metric_value(metric_get(metric_family(METRIC_COUNTER, "txmsg_grpc_connections_refused_total", "", "", 0)));
}

static int come(void) {
    int fd = socket(address.ss_family, SOCK_STREAM, 0);

    assert_int_equal(connect(fd, (struct sockaddr *)&address, address_n), 0);
    return fd;
}

static int take(void) {
    struct sockaddr_storage peer;
    socklen_t n = sizeof(peer);
    int fd = accept4(listener, (struct sockaddr *)&peer, &n, SOCK_NONBLOCK | SOCK_CLOEXEC);

    if (fd >= 0)
        assert_int_equal(peer.ss_family, address.ss_family);
    return fd;
}

/* The other side has ended it. */
static bool is_gone(int fd) {
    struct pollfd p = {.fd = fd, .events = POLLIN};
    char c;

    return poll(&p, 1, 0) == 1 && read(fd, &c, 1) <= 0;
}

static void close_all(const int *fds, int n) {
    for (int i = 0; i < n; i++)
        close(fds[i]);
}

static void test_bound(void **state) {
    int outside[MAX + 3], inside[MAX + 1];
    int64_t before = refused();

    UNUSED(state);
    for (int i = 0; i < MAX; i++) {
        outside[i] = come();
        inside[i] = take();
        assert_true(inside[i] >= 0);
    }
    for (int i = MAX; i < MAX + 3; i++)
        outside[i] = come();
    assert_int_equal(take(), -1); /* one call refuses all that wait */
    assert_int_equal(errno, EAGAIN);
    for (int i = 0; i < MAX + 3; i++)
        assert_int_equal(is_gone(outside[i]), i >= MAX);
    assert_int_equal(refused(), before + 3);
    assert_int_equal(gate_connections(gate), MAX);

    close(inside[1]); /* the place of one that was closed is free, also when its number is in use again */
    int other = dup(listener);
    assert_int_equal(other, inside[1]);
    assert_int_equal(gate_connections(gate), MAX - 1);
    close(outside[1]);
    outside[1] = come();
    inside[1] = take();
    assert_true(inside[1] >= 0);
    close(other);
    close_all(inside, MAX);
    close_all(outside, MAX + 3);
    assert_int_equal(gate_connections(gate), 0);
}

static void test_expected(void **state) {
    struct sockaddr_in mine = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct sockaddr_storage from = {0};
    socklen_t n = sizeof(from);
    int outside[MAX], inside[MAX], fd;

    UNUSED(state);
    for (int i = 0; i < MAX; i++) {
        outside[i] = come();
        inside[i] = take();
    }
    fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&mine, sizeof(mine)), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&from, &n), 0);
    gate_expect(gate, &from);
    assert_int_equal(connect(fd, (struct sockaddr *)&address, address_n), 0);
    int stranger = come(), let_in = take();
    assert_true(let_in >= 0);
    assert_int_equal(take(), -1);
    assert_true(is_gone(stranger) && !is_gone(fd));
    close(let_in);
    close(fd);
    close(stranger);
    close_all(inside, MAX);
    close_all(outside, MAX);
}

/* No descriptor is left: those who wait are reset, and the one in reserve is there again. */
static void test_no_descriptors(void **state) {
    struct rlimit before, none;
    int64_t count = refused();
    int outside[3], fd;

    UNUSED(state);
    for (int i = 0; i < 3; i++)
        outside[i] = come();
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
    none = before;
    none.rlim_cur = (rlim_t)outside[2] + 1; /* all numbers below are taken */
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
    assert_int_equal(take(), -1);
    assert_int_equal(errno, EAGAIN);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
    for (int i = 0; i < 3; i++)
        assert_true(is_gone(outside[i]));
    assert_int_equal(refused(), count + 3);
    close_all(outside, 3);
    outside[0] = come();
    fd = take();
    assert_true(fd >= 0);
    close(fd);
    close(outside[0]);
}

/* Errors that end a listener reach core; without a gate nothing is changed. */
static void test_others(void **state) {
    int outside[MAX + 1], inside[MAX + 1];

    UNUSED(state);
    assert_int_equal(take(), -1);
    assert_int_equal(errno, EAGAIN);
    gate_close(gate);
    gate = NULL;
    for (int i = 0; i <= MAX; i++) {
        outside[i] = come();
        inside[i] = take();
        assert_true(inside[i] >= 0);
    }
    close_all(inside, MAX + 1);
    close_all(outside, MAX + 1);
    assert_int_equal(gate_open("127.0.0.1:0", 1, MAX, &gate), 0);
    assert_int_equal(accept4(-1, NULL, NULL, 0), -1);
    assert_int_equal(errno, EBADF);
}

static int setup_unix(void **state) {
    struct sockaddr_un un = {.sun_family = AF_UNIX};
    char name[80];

    UNUSED(state);
    snprintf(un.sun_path, sizeof(un.sun_path), "/tmp/txmsg-gate-%d", getpid());
    snprintf(name, sizeof(name), "unix:%s", un.sun_path);
    unlink(un.sun_path);
    listen_on((struct sockaddr *)&un, sizeof(un), name);
    return 0;
}

static int teardown_unix(void **state) {
    unlink(((struct sockaddr_un *)&address)->sun_path);
    return teardown(state);
}

/* All of them are the process's own here, so the spare places are taken, too. */
static void test_unix(void **state) {
    int outside[MAX * 2 + 1], inside[MAX * 2 + 1];

    UNUSED(state);
    for (int i = 0; i <= MAX * 2; i++) {
        outside[i] = come();
        inside[i] = take();
        assert_int_equal(inside[i] >= 0, i < MAX * 2);
    }
    close_all(inside, MAX * 2);
    close_all(outside, MAX * 2 + 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_bound, setup, teardown),
        cmocka_unit_test_setup_teardown(test_expected, setup, teardown),
        cmocka_unit_test_setup_teardown(test_no_descriptors, setup, teardown),
        cmocka_unit_test_setup_teardown(test_others, setup, teardown),
        cmocka_unit_test_setup_teardown(test_unix, setup_unix, teardown_unix),
    };

    return cmocka_run_group_tests_name("rpc_gate", tests, NULL, NULL);
}
