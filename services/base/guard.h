/*
 * Which addresses a request may be connected to. Asked with the address of each connection as it is opened, so it does not matter
 * what a name meant before, or to somebody else. Pure; filled once and read by every thread.
 *
 * Never: link-local, metadata of clouds, "this network", multicast, reserved. Only if allowed: loopback, private and shared
 * networks. IPv4 inside IPv6 (mapped, compatible, NAT64) is judged as IPv4. Everything else is public and allowed.
 */
#pragma once

#include "base/lookup.h"

enum { GUARD_NETS_MAX = 64, GUARD_TEXT = 128 };
struct guard {
    struct guard_net {
        uint8_t address[16]; /* IPv4 as ::ffff:a.b.c.d */
        int bits;            /* of the 128 */
    } nets[GUARD_NETS_MAX];
    int n;
};

/* "10.0.0.0/8, fc00::/7, 127.0.0.1": networks and addresses; "" = none. -EINVAL and *e name the one that is wrong. */
int guard_parse(const char *list, struct guard *ret, struct errmsg *e) MUSTCHECK;
/* NULL = allowed; else why not, for people. */
const char *guard_refuses(const struct guard *g, const struct sockaddr *to);
/* False: *why says it, "address 127.0.0.1 is loopback: not allowed". */
bool guard_allows(const struct guard *g, const struct sockaddr *to, char why[GUARD_TEXT]) MUSTCHECK;
/* Leaves those that may be connected to, in their order. -EACCES: there is none; *e says it of the first. */
int guard_keep(const struct guard *g, struct lookup *l, struct errmsg *e) MUSTCHECK;
