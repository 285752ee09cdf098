/* A proxy of the wire: one thread for each connection; now and then it cuts, or holds what it has. */
#include "attack.h"

#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

struct proxy {
    char host[90];
    int port, listener;
    _Atomic int permille, threads;
    _Atomic bool stop;
    _Atomic uint64_t seed;
    pthread_t acceptor;
};

struct pipe_of {
    struct proxy *p;
    int client;
};

static int dial(const struct proxy *p) {
    if (p->host[0] == '/') {
        struct sockaddr_un a = {.sun_family = AF_UNIX};
        snprintf(a.sun_path, sizeof(a.sun_path), "%s/.s.PGSQL.%d", p->host, p->port);
        int fd = socket(AF_UNIX, SOCK_STREAM, 0);
        return connect(fd, (struct sockaddr *)&a, sizeof(a)) == 0 ? fd : -1;
    }
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)p->port)};
    inet_pton(AF_INET, strcmp(p->host, "localhost") ? p->host : "127.0.0.1", &a.sin_addr);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    return connect(fd, (struct sockaddr *)&a, sizeof(a)) == 0 ? fd : -1;
}

static bool send_all(int fd, const uint8_t *b, size_t n) {
    while (n) {
        ssize_t k = send(fd, b, n, MSG_NOSIGNAL);
        if (k <= 0)
            return false;
        b += k;
        n -= (size_t)k;
    }
    return true;
}

static void nap(unsigned ms) {
    struct timespec t = {.tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * 1000000};
    nanosleep(&t, NULL);
}

/* What happens to a piece on its way. False = the connection is to be cut. */
static bool carry(struct proxy *p, uint64_t *rng, const uint8_t *b, size_t n, int to, bool to_server) {
    if ((int)(attack_random(rng) % 1000) >= atomic_load(&p->permille))
        return send_all(to, b, n);
    switch (attack_random(rng) % (to_server ? 4 : 3)) {
    case 0: /* nothing of it arrives */
        return false;
    case 1: /* all of it arrives, and nothing after it */
        send_all(to, b, n);
        return false;
    case 2: /* it comes late */
        nap((unsigned)(attack_random(rng) % 1500));
        return send_all(to, b, n);
    default: /* everything but the Sync */
        if (n > 5 && b[n - 5] == 'S')
            send_all(to, b, n - 5);
        return false;
    }
}

static void *serve(void *arg) {
    struct pipe_of *o = arg;
    struct proxy *p = o->p;
    uint64_t rng = atomic_fetch_add(&p->seed, 7919);
    int client = o->client, server = dial(p);
    free(o);
    static __thread uint8_t b[65536];
    bool up = server >= 0;
    while (up && !atomic_load(&p->stop)) {
        struct pollfd f[2] = {{.fd = client, .events = POLLIN}, {.fd = server, .events = POLLIN}};
        if (poll(f, 2, 100) < 0)
            break;
        for (int i = 0; up && i < 2; i++) {
            if (!f[i].revents)
                continue;
            ssize_t n = recv(f[i].fd, b, sizeof(b), 0);
            up = n > 0 && carry(p, &rng, b, (size_t)n, f[1 - i].fd, i == 0);
        }
    }
    close(client);
    if (server >= 0)
        close(server);
    atomic_fetch_sub(&p->threads, 1);
    return NULL;
}

static void *accept_all(void *arg) {
    struct proxy *p = arg;
    while (!atomic_load(&p->stop)) {
        struct pollfd f = {.fd = p->listener, .events = POLLIN};
        if (poll(&f, 1, 100) <= 0)
            continue;
        int one = 1, fd = accept(p->listener, NULL, NULL);
        struct pipe_of *o = fd >= 0 ? malloc(sizeof(*o)) : NULL;
        if (!o)
            continue;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
        *o = (struct pipe_of){p, fd};
        atomic_fetch_add(&p->threads, 1);
        pthread_t t;
        if (pthread_create(&t, NULL, serve, o) == 0)
            pthread_detach(t);
    }
    return NULL;
}

int proxy_start(PGconn *to, struct proxy **ret, int *port) {
    struct proxy *p = calloc(1, sizeof(*p));
    snprintf(p->host, sizeof(p->host), "%s", PQhost(to));
    p->port = (int)strtol(PQport(to), NULL, 10);
    atomic_store(&p->seed, 17);
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t n = sizeof(a);
    p->listener = socket(AF_INET, SOCK_STREAM, 0);
    if (bind(p->listener, (struct sockaddr *)&a, sizeof(a)) || listen(p->listener, 64) ||
        getsockname(p->listener, (struct sockaddr *)&a, &n) || pthread_create(&p->acceptor, NULL, accept_all, p))
        return -1;
    *port = ntohs(a.sin_port);
    *ret = p;
    return 0;
}

void proxy_set(struct proxy *p, int permille) {
    atomic_store(&p->permille, permille);
}

void proxy_stop(struct proxy *p) {
    atomic_store(&p->stop, true);
    pthread_join(p->acceptor, NULL);
    while (atomic_load(&p->threads))
        nap(10);
    close(p->listener);
    free(p);
}
