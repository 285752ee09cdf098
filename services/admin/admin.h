/*
 * The admin service: topology, its objects and their states, dead letters, stuck transactions, audit,
 * counters.
 * Handlers run on an rpc thread, the work on one worker's loop and its connection for people; answers go back to the rpc thread.
 * A decision of a person passes through the lane like any other.
 */
#pragma once

#include "rpc/rpc.h"
#include "store/lane.h"
#include "store/read.h"

struct admin_service;
/* `l`, of bodies that come with a decision, is copied; `applied` is called after a change was stored, on the worker's thread: the daemon looks at the configuration at once. */
int admin_service_new(struct store *s, const struct limits *l, void (*applied)(void *arg), void *arg,
                      struct admin_service **ret) MUSTCHECK;
void admin_service_free(struct admin_service *a);
const struct rpc_method *admin_service_methods(struct admin_service *a, size_t *n);
void admin_service_rpc(struct admin_service *a, struct rpc_server *rpc);
/*
 * How endpoints are tried for ApplyTopology: 0 and `done` comes once, not from inside (error NULL = reached), or as reach_start() in
 * forward/reach.h. Without it nothing is tried. Before the rpc server starts
 */
typedef int admin_reach_fn(void *arg, const char *url, const char *exchange, int64_t timeout_ms,
                           void (*done)(void *arg, const char *error), void *done_arg);
void admin_service_reach(struct admin_service *a, admin_reach_fn *fn, void *arg);
/* The worker that does the work; calls wait in a bounded mailbox (64). Before the rpc server starts; @thread of the loop or before it runs */
int admin_service_attach(struct admin_service *a, struct loop *l, struct reader *r) MUSTCHECK;
void admin_service_lane(struct admin_service *a, struct lane *lane);
void admin_service_detach(struct admin_service *a); /* what waits is answered SHUTTING_DOWN */
