/*
 * Nobody tells when core closes a connection. So the inode of each is kept, and whether its descriptor still shows it is looked at when the bound is
 * reached. Beyond the bound, and without descriptors, who connects waits in the backlog.
 */
#include "port.h"

#include "base/bytes.h"
#include "rpc/credentials.h"

#include <grpc/grpc_posix.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { BACKLOG = 128, PAUSE_MS = 100, HOST_MAX = 256 };

struct place {
    int fd;
    ino_t inode;
};
struct port {
    int listener, stop; /* < 0: none */
    int number;
    grpc_server *to;
    pthread_t thread;
    bool started;
    size_t n;
    struct place places[PORT_CONNECTIONS_MAX];
};

/* --- the thread --- */

static bool still_there(const struct place *p) {
    struct stat st;

    return fstat(p->fd, &st) == 0 && st.st_ino == p->inode;
}

static bool has_room(struct port *p) {
    size_t kept = 0;

    if (p->n < PORT_CONNECTIONS_MAX)
        return true;
    for (size_t i = 0; i < p->n; i++)
        if (still_there(&p->places[i]))
            p->places[kept++] = p->places[i];
    p->n = kept;
    return p->n < PORT_CONNECTIONS_MAX;
}

static void hand_over(struct port *p, int fd) {
    grpc_server_credentials *credentials;
    int one = 1;
    struct stat st;

    if (fstat(fd, &st) != 0) {
        close(fd);
        return;
    }
    p->places[p->n++] = (struct place){fd, st.st_ino};
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    credentials = credentials_server();
    grpc_server_add_channel_from_fd(p->to, fd, credentials);
    grpc_server_credentials_release(credentials);
}

/* All that wait. False: not now; look again after a pause. The call by its number, because services/rpc has an accept4() that is not for here. */
static bool accept_all(struct port *p) {
    while (has_room(p)) {
        int fd = (int)syscall(SYS_accept4, p->listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

        if (fd >= 0)
            hand_over(p, fd);
        else if (errno == EAGAIN)
            return true;
        else if (errno != EINTR && errno != ECONNABORTED)
            return false;
    }
    return false;
}

static void *accept_main(void *arg) {
    struct port *p = arg;
    bool wait = true;

    pthread_setname_np(pthread_self(), "txmsg-accept");
    for (;;) {
        struct pollfd fds[] = {{.fd = p->stop, .events = POLLIN}, {.fd = p->listener, .events = POLLIN}};

        if (poll(fds, wait ? 2 : 1, wait ? -1 : PAUSE_MS) > 0 && fds[0].revents)
            return NULL;
        wait = accept_all(p);
    }
}

/* --- life --- */

/* The library's own idea of a number wraps: 70000 would be 4464. */
static bool is_port(const char *s) {
    return s[0] && strlen(s) <= 5 && s[strspn(s, "0123456789")] == '\0' && strtol(s, NULL, 10) <= UINT16_MAX;
}

/* The host without its brackets; NULL: there is none, or no port. */
static char *host_of(const char *address, const char **service) {
    const char *colon = strrchr(address, ':');
    size_t n = colon ? (size_t)(colon - address) : 0;
    bool brackets = n > 2 && address[0] == '[' && colon[-1] == ']';

    if (!colon || n == 0 || n > HOST_MAX || !is_port(colon + 1))
        return NULL;
    *service = colon + 1;
    return brackets ? mem_strndup(address + 1, n - 2) : mem_strndup(address, n);
}

static int look_up(const char *address, struct addrinfo **ret) {
    const struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV};
    const char *service = NULL;
    CLEANUP_FREE char *host = host_of(address, &service);
    int e;

    if (!host) {
        errno = EINVAL;
        return TXMSG_ERROR_ADDRESS;
    }
    e = getaddrinfo(host, service, &hints, ret);
    if (e == EAI_MEMORY)
        return TXMSG_ERROR_MEMORY;
    if (e && e != EAI_SYSTEM)
        errno = EADDRNOTAVAIL;
    return e ? TXMSG_ERROR_ADDRESS : TXMSG_OK;
}

static bool listen_at(struct port *p, const struct addrinfo *a) {
    int one = 1;

    p->listener = socket(a->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (p->listener < 0)
        return false;
    if (setsockopt(p->listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) == 0 &&
        bind(p->listener, a->ai_addr, a->ai_addrlen) == 0 && listen(p->listener, BACKLOG) == 0)
        return true;
    int why = errno;
    close(p->listener);
    p->listener = -1;
    errno = why;
    return false;
}

static int read_number(struct port *p) {
    struct sockaddr_storage mine = {0};
    socklen_t n = sizeof(mine);

    if (getsockname(p->listener, (struct sockaddr *)&mine, &n) != 0)
        return TXMSG_ERROR_SYSTEM;
    p->number = ntohs(mine.ss_family == AF_INET6 ? ((const struct sockaddr_in6 *)&mine)->sin6_port
                                                 : ((const struct sockaddr_in *)&mine)->sin_port);
    return TXMSG_OK;
}

static int open_listener(struct port *p, const char *address) {
    struct addrinfo *found = NULL;
    int e = look_up(address, &found);

    if (e)
        return e;
    for (const struct addrinfo *a = found; a && p->listener < 0; a = a->ai_next)
        e = listen_at(p, a) ? read_number(p) : TXMSG_ERROR_ADDRESS;
    int why = errno;
    freeaddrinfo(found);
    errno = why;
    return e;
}

int port_open(const char *address, struct port **ret) {
    struct port *p = mem_zalloc(sizeof(*p));
    int e;

    if (!p)
        return TXMSG_ERROR_MEMORY;
    p->listener = -1;
    p->stop = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    e = p->stop < 0 ? TXMSG_ERROR_SYSTEM : open_listener(p, address);
    if (!e) {
        *ret = p;
        return TXMSG_OK;
    }
    int why = errno;
    port_free(p);
    errno = why;
    return e;
}

int port_number(const struct port *p) {
    return p->number;
}

int port_start(struct port *p, grpc_server *to) {
    sigset_t all, before;
    int e;

    p->to = to;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    e = pthread_create(&p->thread, NULL, accept_main, p);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    p->started = e == 0;
    return e ? TXMSG_ERROR_SYSTEM : TXMSG_OK;
}

void port_stop(struct port *p) {
    uint64_t one = 1;

    if (p->started) {
        ASSERT(write(p->stop, &one, sizeof(one)) == sizeof(one));
        pthread_join(p->thread, NULL);
    }
    p->started = false;
    if (p->listener >= 0)
        close(p->listener);
    p->listener = -1;
}

void port_free(struct port *p) {
    if (!p)
        return;
    port_stop(p);
    if (p->stop >= 0)
        close(p->stop);
    mem_free(p);
}
