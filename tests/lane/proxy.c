/* A proxy of the wire: one thread for each connection; now and then it cuts, or holds what it has. */
#include "attack.h"

#include "tcp.h"

#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/socket.h>
#include <unistd.h>

struct proxy {
    struct place to;
    int listener;
    _Atomic int permille, threads;
    _Atomic bool stop;
    _Atomic uint64_t seed;
    pthread_t acceptor;
};

struct pipe_of {
    struct proxy *p;
    int client;
};

static void nap(unsigned ms) {
    struct timespec t = {.tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * 1000000};
    nanosleep(&t, NULL);
}

/* What happens to a piece on its way. False = the connection is to be cut. */
static bool carry(struct proxy *p, uint64_t *rng, const uint8_t *b, size_t n, int to, bool to_server) {
    if ((int)(attack_random(rng) % 1000) >= atomic_load(&p->permille))
        return tcp_send(to, b, n);
    switch (attack_random(rng) % (to_server ? 4 : 3)) {
    case 0: /* nothing of it arrives */
        return false;
    case 1: /* all of it arrives, and nothing after it */
        tcp_send(to, b, n);
        return false;
    case 2: /* it comes late */
        nap((unsigned)(attack_random(rng) % 1500));
        return tcp_send(to, b, n);
    default: /* everything but the Sync */
        if (n > 5 && b[n - 5] == 'S')
            tcp_send(to, b, n - 5);
        return false;
    }
}

static void *serve(void *arg) {
    struct pipe_of *o = arg;
    struct proxy *p = o->p;
    uint64_t rng = atomic_fetch_add(&p->seed, 7919);
    int client = o->client, server = tcp_dial(&p->to);
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
        int fd = tcp_accept(p->listener);
        struct pipe_of *o = fd >= 0 ? malloc(sizeof(*o)) : NULL;
        if (!o)
            continue;
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
    p->to = place_of(to);
    atomic_store(&p->seed, 17);
    p->listener = tcp_listen(port);
    if (p->listener < 0 || pthread_create(&p->acceptor, NULL, accept_all, p))
        return -1;
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
