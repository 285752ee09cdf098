/* Sockets of the two proxies. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <libpq-fe.h>

struct place {
    char host[90]; /* a name, or the directory of a Unix socket */
    int port;
};
struct place place_of(PGconn *to);
int tcp_dial(const struct place *p); /* a descriptor, or -1 */
int tcp_listen(int *port);           /* on a free port of the loopback address; -1 = failed */
int tcp_accept(int listener);
bool tcp_send(int fd, const uint8_t *b, size_t n);
