/*
 * The check-back of one worker: finds undecided transactions of its lanes, claims due checks of any lane, asks the producers over the
 * streams that they opened (desk.h) or at their endpoints, and hands the verdicts to the lane. Never a guess: anything but a well-formed answer for that very id is unreachable.
 * @thread of the worker's loop
 */
#pragma once

#include "checkback/desk.h"
#include "core/policy.h"
#include "loop/loop.h"
#include "store/lane.h"
#include "store/read.h"

struct rpc_caller;
struct webclient;
struct checkback;
struct checkback_options {
    int64_t poll_ms;             /* how often due checks are looked for; default 250 */
    int64_t find_poll_ms;        /* how often the finder walks; default 250 */
    int in_flight;               /* checks under way in this worker; default 256 */
    struct desk *desk;           /* of the process; outlives the check-back. NULL = no pull mode */
    struct rpc_caller *caller;   /* stopped before the loop ends. NULL = no gRPC check */
    const struct limits *limits; /* of bodies that answers bring; copied. NULL = the defaults */
};
/* `own` takes the verdicts as operations: the worker's own lane. It, the reader and the web client are freed after checkback_free(). */
int checkback_new(struct loop *l, struct store *s, struct reader *r, struct webclient *w, struct lane *own,
                  const struct checkback_options *o, struct checkback **ret) MUSTCHECK;
void checkback_topology(struct checkback *c, struct topology *t);
/* A lane to walk (own or adopted); cursors of an adopted lane are read from its log. */
int checkback_lane(struct checkback *c, struct lane *lane, int32_t number, bool adopted) MUSTCHECK;
/* Fenced or closed, and in any case before the lane is freed. */
void checkback_drop_lane(struct checkback *c, int32_t lane);
void checkback_allow(struct checkback *c, bool allowed);
void checkback_sharers(struct checkback *c, int workers); /* live workers of all replicas: they share the rates */
/* For an adopted lane: every finder cursor has passed its last entry, durably. */
bool checkback_lane_settled(const struct checkback *c, int32_t lane);
void checkback_free(struct checkback *c); /* requests under way are cancelled; their rows come due again */
