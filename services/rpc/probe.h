/*
 * Is the port of this process still served? A real health call over a fresh connection to it, again and again, on a
 * thread of its own. What the answer says does not matter, that one comes does.
 */
#pragma once

#include "rpc/rpc.h"

struct rpc_probe;
struct rpc_probe_options {
    int64_t every_ms;                         /* between two calls */
    int64_t timeout_ms;                       /* of one */
    int failures;                             /* so many in a row: `lost` */
    void (*lost)(void *arg, const char *why); /* once, then no more calls are made. @thread probe */
    void *arg;
};
int rpc_probe_new(struct rpc_server *s, const struct rpc_probe_options *o, struct rpc_probe **ret) MUSTCHECK;
/* False: the last call failed, and *ret tells why. @thread any */
bool rpc_probe_good(struct rpc_probe *p, char *why, size_t why_n);
void rpc_probe_stop(
    struct rpc_probe *p); /* waits for a call under way. Before the server is stopped; not from `lost` */
void rpc_probe_free(struct rpc_probe *p); /* stops it if that was not done. NULL allowed */
