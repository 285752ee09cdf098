/*
 * Why: core has no bound on connections, and its listener never accepts again once accept4() failed for want of a file
 * descriptor. Core can be handed connections that somebody else accepted, but then without TLS and outside its resource
 * quota. So the gate stands where core accepts: this file defines accept4(), which the dynamic linker gives to core in
 * place of libc's. A socket that is not behind a gate gets the plain system call.
 *
 * Core polls edge-triggered: it must be told EAGAIN only when nothing waits, or what waits stays until another one
 * comes. So refusing goes on until the queue is empty, or ROUNDS were refused, which a flood alone can reach: it brings
 * the next edge itself.
 *
 * Nobody tells when core closes a connection. The gate remembers the inode of each and looks which descriptors still
 * show it, when the bound is reached or somebody asks for the number.
 *
 * One descriptor is kept in reserve. When none is left it is given up for a moment, so that what waits can be accepted
 * and reset instead of waiting for ever.
 */
#include "rpc/gate.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/metric.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <pthread.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

enum {
    GATES_MAX = 8,
    ROUNDS = 1024,   /* refused in one go */
    SPARE = 4,       /* places for the process's own connections */
    SWEEP_MS = 100,  /* no more often than that while the bound stands */
    COMPLAIN_S = 10, /* no more often than that in the log */
};

struct place {
    int fd;
    ino_t inode;
};

/* A TCP address in one form: core listens on IPv6 sockets for IPv4, too. */
struct endpoint {
    struct in6_addr ip;
    in_port_t port; /* network order; 0 = none */
};

struct gate {
    in_port_t port; /* of the listening sockets, network order; 0 = the path tells */
    char path[sizeof(((struct sockaddr_un *)NULL)->sun_path)];
    int reserve; /* descriptor, -1 = lost */
    int max;
    struct log_limit limit, files;
    struct metric *refused;
    pthread_mutex_t lock; /* for what follows, and the reserve */
    struct endpoint expected;
    uint64_t swept_ns;
    int n;
    struct place places[]; /* max + SPARE */
};

static pthread_rwlock_t gates_lock = PTHREAD_RWLOCK_INITIALIZER;
static struct gate *gates[GATES_MAX];

static int plain_accept(int fd, struct sockaddr *addr, socklen_t *n, int flags) {
    return (int)syscall(SYS_accept4, fd, addr, n, flags);
}

/* For sockets that are not core's. The thread sanitizer has to see who owns a descriptor from now on. */
#ifdef __SANITIZE_THREAD__
int __interceptor_accept4(int fd, struct sockaddr *addr, socklen_t *n, int flags);
#define foreign_accept __interceptor_accept4
#else
#define foreign_accept plain_accept
#endif

/* The number may be anybody's by now, which is why the inode is asked for: fstat() would count as a use of it. */
static int stat_number(int fd, struct stat *ret) {
    return fstatat(fd, "", ret, AT_EMPTY_PATH);
}

static struct endpoint endpoint_of(const struct sockaddr_storage *a) {
    const struct sockaddr_in *v4 = (const struct sockaddr_in *)a;
    const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)a;
    struct endpoint e = {0};

    if (a->ss_family == AF_INET6)
        return (struct endpoint){v6->sin6_addr, v6->sin6_port};
    if (a->ss_family == AF_INET) {
        e.port = v4->sin_port;
        e.ip.s6_addr[10] = e.ip.s6_addr[11] = 0xff;
        memcpy(&e.ip.s6_addr[12], &v4->sin_addr, sizeof(v4->sin_addr));
    }
    return e;
}

static bool is_behind(const struct gate *g, const struct sockaddr_storage *mine) {
    if (mine->ss_family == AF_UNIX)
        return !g->port && !strncmp(((const struct sockaddr_un *)mine)->sun_path, g->path, sizeof(g->path));
    return g->port && endpoint_of(mine).port == g->port;
}

/* With the gates locked for reading if there is one. */
static struct gate *gate_of(int fd) {
    struct sockaddr_storage mine = {0};
    socklen_t n = sizeof(mine);

    if (getsockname(fd, (struct sockaddr *)&mine, &n))
        return NULL;
    pthread_rwlock_rdlock(&gates_lock);
    for (int i = 0; i < GATES_MAX; i++)
        if (gates[i] && is_behind(gates[i], &mine))
            return gates[i];
    pthread_rwlock_unlock(&gates_lock);
    return NULL;
}

/* --- places. @locks gate->lock --- */

static bool still_there(const struct place *p) {
    struct stat st;

    return !stat_number(p->fd, &st) && S_ISSOCK(st.st_mode) && st.st_ino == p->inode;
}

static void sweep(struct gate *g) {
    int kept = 0;

    for (int i = 0; i < g->n; i++)
        if (still_there(&g->places[i]))
            g->places[kept++] = g->places[i];
    g->n = kept;
    g->swept_ns = clock_mono_ns();
}

static bool is_expected(const struct gate *g, const struct sockaddr_storage *peer, int fd) {
    struct endpoint e = endpoint_of(peer);
    struct ucred who = {0};
    socklen_t n = sizeof(who);

    if (peer->ss_family == AF_UNIX) /* it has no address; the kernel knows whose it is */
        return !getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &n) && who.pid == getpid();
    return e.port && e.port == g->expected.port && !memcmp(&e.ip, &g->expected.ip, sizeof(e.ip));
}

/* False: there is no place for it. */
static bool take_place(struct gate *g, int fd, const struct sockaddr_storage *peer) {
    struct stat st;
    int max = g->max;
    bool taken = false;

    pthread_mutex_lock(&g->lock);
    if (g->n >= max && clock_mono_ns() - g->swept_ns >= SWEEP_MS * NS_PER_MS)
        sweep(g);
    if (g->n >= max && is_expected(g, peer, fd))
        max += SPARE;
    if (g->n < max && !stat_number(fd, &st)) {
        g->places[g->n++] = (struct place){fd, st.st_ino};
        taken = true;
    }
    pthread_mutex_unlock(&g->lock);
    return taken;
}

/* --- refusing --- */

static void reset(struct gate *g, int fd) {
    const struct linger at_once = {.l_onoff = 1};

    setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once));
    close(fd);
    metric_add(g->refused, 1);
}

static void complain(struct gate *g, struct log_limit *limit, const char *why) {
    if (log_limit_pass(limit, COMPLAIN_S * NS_PER_S))
        LOG_WARN("rpc", "connections are refused: %s; %lld refused until now", why,
                 (long long)metric_value(g->refused));
}

/* No descriptor is left. True: the one that waited was reset; false: nothing can be done now, or nothing waits. */
static bool refuse_with_reserve(struct gate *g, int listener) {
    bool done = false;

    pthread_mutex_lock(&g->lock);
    if (g->reserve >= 0)
        close(g->reserve);
    int fd = plain_accept(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd >= 0) {
        reset(g, fd);
        done = true;
    }
    g->reserve = open("/dev/null", O_RDONLY | O_CLOEXEC);
    pthread_mutex_unlock(&g->lock);
    complain(g, &g->files, "no file descriptor is left (raise LimitNOFILE, or lower grpc.connections)");
    return done;
}

/* What a connection that is gone again leaves behind; Linux hands on errors of the network here. */
static bool is_of_the_peer(int err) {
    switch (err) {
    case ECONNABORTED:
    case EPROTO:
    case ENETDOWN:
    case ENOPROTOOPT:
    case EHOSTDOWN:
    case ENONET:
    case EHOSTUNREACH:
    case EOPNOTSUPP:
    case ENETUNREACH:
    case EPERM:
        return true;
    default:
        return false;
    }
}

/* A connection, or -1 with errno: EAGAIN, EINTR, or what ends the listener for good. */
static int accept_one(struct gate *g, int listener, struct sockaddr_storage *peer, socklen_t *n, int flags) {
    for (int i = 0; i < ROUNDS; i++) {
        *n = sizeof(*peer);
        memset(peer, 0, sizeof(*peer));
        int fd = plain_accept(listener, (struct sockaddr *)peer, n, flags);
        if (fd >= 0) {
            if (take_place(g, fd, peer))
                return fd;
            reset(g, fd);
            complain(g, &g->limit, "grpc.connections is reached");
        } else if (errno == EMFILE || errno == ENFILE) {
            if (!refuse_with_reserve(g, listener))
                break;
        } else if (errno == ENOMEM || errno == ENOBUFS) {
            break;
        } else if (!is_of_the_peer(errno)) {
            return -1;
        }
    }
    errno = EAGAIN;
    return -1;
}

/* In place of libc's; see above. Core calls it on any of its threads. */
__attribute__((visibility("default"))) int accept4(int fd, __SOCKADDR_ARG addr, socklen_t *restrict n, int flags) {
    struct gate *g = gate_of(fd);
    struct sockaddr_storage peer;
    socklen_t peer_n;
    int r;

    if (!g)
        return foreign_accept(fd, addr.__sockaddr__, n, flags);
    r = accept_one(g, fd, &peer, &peer_n, flags);
    int err = errno;
    pthread_rwlock_unlock(&gates_lock);
    if (r >= 0 && addr.__sockaddr__ && n) {
        memcpy(addr.__sockaddr__, &peer, MIN(*n, peer_n));
        *n = peer_n;
    }
    errno = err;
    return r;
}

/* --- life --- */

static double print_connections(void *arg) {
    return gate_connections(arg);
}

static struct metric_family *connections_family(void) {
    return metric_family(METRIC_GAUGE, "txmsg_grpc_connections", "", "Connections to the gRPC port.", 0);
}

int gate_open(const char *listen, int port, int max, struct gate **ret) {
    struct gate *g = mem_zalloc(sizeof(*g) + ((size_t)max + SPARE) * sizeof(g->places[0]));
    int err = -ENOSPC;

    if (!g)
        return -ENOMEM;
    if (!strncmp(listen, "unix:", 5))
        snprintf(g->path, sizeof(g->path), "%s", listen + 5);
    else
        g->port = htons((uint16_t)port);
    g->max = max;
    g->refused = metric_get(metric_family(METRIC_COUNTER, "txmsg_grpc_connections_refused_total", "",
                                          "Connections that were reset for want of room or file descriptors.", 0));
    g->reserve = open("/dev/null", O_RDONLY | O_CLOEXEC);
    pthread_mutex_init(&g->lock, NULL);
    pthread_rwlock_wrlock(&gates_lock);
    for (int i = 0; err && i < GATES_MAX; i++)
        if (!gates[i]) {
            gates[i] = g;
            err = 0;
        }
    pthread_rwlock_unlock(&gates_lock);
    if (err) {
        gate_close(g);
        return err;
    }
    metric_gauge_fn(connections_family(), print_connections, g);
    *ret = g;
    return 0;
}

void gate_close(struct gate *g) {
    if (!g)
        return;
    metric_gauge_fn(connections_family(), NULL, NULL);
    pthread_rwlock_wrlock(&gates_lock);
    for (int i = 0; i < GATES_MAX; i++)
        if (gates[i] == g)
            gates[i] = NULL;
    pthread_rwlock_unlock(&gates_lock);
    if (g->reserve >= 0)
        close(g->reserve);
    pthread_mutex_destroy(&g->lock);
    mem_free(g);
}

void gate_expect(struct gate *g, const struct sockaddr_storage *from) {
    pthread_mutex_lock(&g->lock);
    g->expected = endpoint_of(from);
    pthread_mutex_unlock(&g->lock);
}

int gate_connections(struct gate *g) {
    pthread_mutex_lock(&g->lock);
    sweep(g);
    int n = g->n;
    pthread_mutex_unlock(&g->lock);
    return n;
}
