/*
 * Why: a process can look well and serve nobody: a listener that core gave up after an error of accept(), an rpc thread
 * that hangs. Nothing inside notices; a caller from outside does, so this is one.
 *
 * The connection is made here and handed to core, since its address must be known to the gate before it arrives: a
 * port full of other people's connections is not a dead one. Each call has a channel, a connection and a queue of its
 * own. While calls fail they follow each other at once, at most every RETRY_MS.
 */
#include "rpc/probe.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/metric.h"
#include "grpc/health/v1/health.pb-c.h"
#include "rpc/client.h"
#include "rpc/gate.h"
#include "rpc/server.h"

#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <sys/un.h>
#include <unistd.h>

enum { RETRY_MS = 1000, ARENA_MAX = 64 << 10 };

struct rpc_probe {
    struct rpc_server *server;
    struct rpc_probe_options o;
    pthread_t thread;
    struct arena arena;
    struct metric *calls, *failed;

    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool closing;      /* @locks lock */
    int failures;      /* in a row. @locks lock */
    struct errmsg why; /* of the last one. @locks lock */
};

/* The address that the server listens on; an unspecified one leads to this machine, too. */
static int address_of(const struct rpc_server *s, struct sockaddr_storage *ret, socklen_t *n) {
    const char *listen = s->options.listen, *colon = strrchr(listen, ':');
    struct sockaddr_un *un = (struct sockaddr_un *)ret;
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found = NULL;
    char port[16];

    *ret = (struct sockaddr_storage){0};
    if (!strncmp(listen, "unix:", 5)) {
        un->sun_family = AF_UNIX;
        snprintf(un->sun_path, sizeof(un->sun_path), "%s", listen + 5);
        *n = sizeof(*un);
        return 0;
    }
    bool brackets = colon - listen >= 2 && listen[0] == '[' && colon[-1] == ']';
    CLEANUP_FREE char *host = mem_strndup(listen + brackets, (size_t)(colon - listen) - (brackets ? 2 : 0));
    snprintf(port, sizeof(port), "%d", s->port);
    if (!host)
        return -ENOMEM;
    if (getaddrinfo(host, port, &hints, &found))
        return -EHOSTUNREACH;
    memcpy(ret, found->ai_addr, found->ai_addrlen);
    *n = found->ai_addrlen;
    freeaddrinfo(found);
    return 0;
}

/* Binds the socket to an address of its own and tells the gate. */
static int announce(struct rpc_server *s, int fd, const struct sockaddr_storage *to, socklen_t to_n) {
    struct sockaddr_storage from = *to;
    socklen_t n = sizeof(from);

    if (to->ss_family == AF_UNIX)
        return 0;
    if (to->ss_family == AF_INET6)
        ((struct sockaddr_in6 *)&from)->sin6_port = 0;
    else
        ((struct sockaddr_in *)&from)->sin_port = 0;
    /* Bound to what it connects to: both ends are this machine. An unspecified address becomes the loopback one. */
    if (to->ss_family == AF_INET && ((struct sockaddr_in *)&from)->sin_addr.s_addr == htonl(INADDR_ANY))
        ((struct sockaddr_in *)&from)->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (to->ss_family == AF_INET6 && IN6_IS_ADDR_UNSPECIFIED(&((struct sockaddr_in6 *)&from)->sin6_addr))
        ((struct sockaddr_in6 *)&from)->sin6_addr = in6addr_loopback;
    if (bind(fd, (struct sockaddr *)&from, to_n) || getsockname(fd, (struct sockaddr *)&from, &n))
        return -errno;
    gate_expect(s->gate, &from);
    return 0;
}

static int wait_connected(int fd, int64_t timeout_ms) {
    struct pollfd p = {.fd = fd, .events = POLLOUT};
    int err = 0;
    socklen_t n = sizeof(err);
    int r = poll(&p, 1, (int)timeout_ms);

    if (r <= 0)
        return r ? -errno : -ETIMEDOUT;
    getsockopt(fd, SOL_SOCKET, SO_ERROR, &err, &n);
    return -err;
}

/* A connected socket, or negative. */
static int connect_self(struct rpc_server *s, int64_t timeout_ms, struct errmsg *e) {
    struct sockaddr_storage to;
    socklen_t n;
    int err = address_of(s, &to, &n), fd = -1;

    if (!err) {
        fd = socket(to.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        err = fd < 0 ? -errno : announce(s, fd, &to, n);
    }
    if (!err && connect(fd, (struct sockaddr *)&to, n))
        err = errno == EINPROGRESS || errno == EINTR ? wait_connected(fd, timeout_ms) : -errno;
    if (!err)
        return fd;
    if (fd >= 0)
        close(fd);
    return err_set(e, err, "cannot connect to %s: %s", s->options.listen, err_text(err));
}

/* 0 = an answer came. */
static int call_self(struct rpc_probe *p, struct errmsg *e) {
    const Grpc__Health__V1__HealthCheckRequest request = GRPC__HEALTH__V1__HEALTH_CHECK_REQUEST__INIT;
    uint64_t end_ns = clock_mono_ns() + (uint64_t)p->o.timeout_ms * NS_PER_MS, now;
    struct rpc_client *c;
    struct rpc_result r;
    int fd = connect_self(p->server, p->o.timeout_ms, e);
    int err = fd < 0 ? fd : rpc_client_of_socket(fd, &c, e);

    if (err < 0)
        return err;
    now = clock_mono_ns();
    arena_reset(&p->arena);
    err = rpc_client_call(c, "/grpc.health.v1.Health/Check", &request.base,
                          &grpc__health__v1__health_check_response__descriptor,
                          end_ns > now ? (int64_t)((end_ns - now) / NS_PER_MS) : 0, &p->arena, &r);
    if (err)
        err_set(e, err, "cannot call: %s", err_text(err));
    else if (r.code != RPC_OK && !r.reason) /* a reason comes from the server only: that is an answer, too */
        err = err_set(e, -EPROTO, "a health call ended with %s: %s", rpc_code_name(r.code), r.message);
    rpc_client_free(c);
    return err;
}

/* False: it is to end. */
static bool pause_for(struct rpc_probe *p, int64_t ms) {
    uint64_t until = clock_mono_ns() + (uint64_t)ms * NS_PER_MS;
    struct timespec ts = {.tv_sec = (time_t)(until / NS_PER_S), .tv_nsec = (long)(until % NS_PER_S)};
    int err = 0;

    pthread_mutex_lock(&p->lock);
    while (!p->closing && err != ETIMEDOUT)
        err = pthread_cond_timedwait(&p->changed, &p->lock, &ts);
    bool on = !p->closing;
    pthread_mutex_unlock(&p->lock);
    return on;
}

static int note(struct rpc_probe *p, int err, const struct errmsg *why) {
    pthread_mutex_lock(&p->lock);
    p->failures = err ? p->failures + 1 : 0;
    if (err)
        p->why = *why;
    int n = p->failures;
    pthread_mutex_unlock(&p->lock);
    metric_add(err ? p->failed : p->calls, 1);
    return n;
}

static void *probe_main(void *arg) {
    struct rpc_probe *p = arg;
    int64_t wait_ms = p->o.every_ms;

    pthread_setname_np(pthread_self(), "probe");
    while (pause_for(p, wait_ms)) {
        struct errmsg why = ERRMSG_NULL;
        int n = note(p, call_self(p, &why), &why);

        if (n)
            LOG_WARN("rpc", "the gRPC port did not answer this process (%d of %d): %s", n, p->o.failures, why.text);
        if (n >= p->o.failures) {
            p->o.lost(p->o.arg, why.text);
            return NULL;
        }
        wait_ms = n ? MIN(p->o.every_ms, RETRY_MS) : p->o.every_ms;
    }
    return NULL;
}

int rpc_probe_new(struct rpc_server *s, const struct rpc_probe_options *o, struct rpc_probe **ret) {
    struct metric_family *f = metric_family(METRIC_COUNTER, "txmsg_grpc_probes_total", "result",
                                            "Health calls of the process to its own gRPC port.", 0);
    struct rpc_probe *p = mem_zalloc(sizeof(*p));
    pthread_condattr_t attr;
    sigset_t all, before;
    int err;

    if (!p)
        return -ENOMEM;
    p->server = s;
    p->o = *o;
    p->calls = metric_get(f, "answered");
    p->failed = metric_get(f, "failed");
    arena_init(&p->arena, ARENA_MAX);
    pthread_mutex_init(&p->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&p->changed, &attr);
    pthread_condattr_destroy(&attr);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    err = pthread_create(&p->thread, NULL, probe_main, p);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (err) {
        mem_free(p);
        return -err;
    }
    *ret = p;
    return 0;
}

bool rpc_probe_good(struct rpc_probe *p, char *why, size_t why_n) {
    pthread_mutex_lock(&p->lock);
    bool good = p->failures == 0;
    if (!good)
        snprintf(why, why_n, "the gRPC port did not answer: %s", p->why.text);
    pthread_mutex_unlock(&p->lock);
    return good;
}

void rpc_probe_stop(struct rpc_probe *p) {
    pthread_mutex_lock(&p->lock);
    bool stopped = p->closing;
    p->closing = true;
    pthread_cond_broadcast(&p->changed);
    pthread_mutex_unlock(&p->lock);
    if (!stopped)
        pthread_join(p->thread, NULL);
}

void rpc_probe_free(struct rpc_probe *p) {
    if (!p)
        return;
    rpc_probe_stop(p);
    arena_deinit(&p->arena);
    pthread_cond_destroy(&p->changed);
    pthread_mutex_destroy(&p->lock);
    mem_free(p);
}
