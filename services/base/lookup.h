/* Names of hosts to addresses, by the system's resolver. @thread any */
#pragma once

#include "base/bytes.h"

#include <netinet/in.h>

enum { LOOKUP_MAX = 16, LOOKUP_TEXT = 64 };
struct lookup {
    struct sockaddr_in6 list[LOOKUP_MAX]; /* in the resolver's order, with the port; IPv4 as ::ffff:a.b.c.d */
    int n;
};
/*
 * "host:port", "[::1]:port": 0, then there is at least one address; -EHOSTUNREACH: there is none; -EINVAL: not of that form; *e says it for
 * people. Blocks for as long as the resolver does, which may be many seconds. Without `wait` only an address is taken, which never
 * blocks; 1 = it is a name.
 */
int lookup_host(const char *host_port, bool wait, struct lookup *ret, struct errmsg *e) MUSTCHECK;
/* "127.0.0.1", "::1": the address as text, without the port. */
void lookup_print(const struct sockaddr *a, char out[LOOKUP_TEXT]);
