/* See tcp.h. */
#include "tcp.h"

#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

struct place place_of(PGconn *to) {
    struct place p = {.port = (int)strtol(PQport(to), NULL, 10)};
    snprintf(p.host, sizeof(p.host), "%s", PQhost(to));
    return p;
}

static int connected(int fd, const struct sockaddr *a, socklen_t n) {
    if (fd >= 0 && connect(fd, a, n) == 0)
        return fd;
    if (fd >= 0)
        close(fd);
    return -1;
}

int tcp_dial(const struct place *p) {
    if (p->host[0] == '/') {
        struct sockaddr_un a = {.sun_family = AF_UNIX};
        snprintf(a.sun_path, sizeof(a.sun_path), "%s/.s.PGSQL.%d", p->host, p->port);
        return connected(socket(AF_UNIX, SOCK_STREAM, 0), (struct sockaddr *)&a, sizeof(a));
    }
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)p->port)};
    inet_pton(AF_INET, strcmp(p->host, "localhost") ? p->host : "127.0.0.1", &a.sin_addr);
    return connected(socket(AF_INET, SOCK_STREAM, 0), (struct sockaddr *)&a, sizeof(a));
}

int tcp_listen(int *port) {
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t n = sizeof(a);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&a, sizeof(a)) || listen(fd, 64) ||
        getsockname(fd, (struct sockaddr *)&a, &n))
        return -1;
    *port = ntohs(a.sin_port);
    return fd;
}

int tcp_accept(int listener) {
    int one = 1, fd = accept(listener, NULL, NULL);
    if (fd >= 0)
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    return fd;
}

bool tcp_send(int fd, const uint8_t *b, size_t n) {
    while (n) {
        ssize_t k = send(fd, b, n, MSG_NOSIGNAL);
        if (k <= 0)
            return false;
        b += k;
        n -= (size_t)k;
    }
    return true;
}
