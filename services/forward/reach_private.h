/* Inside of reach: what comes back from other threads. */
#pragma once

#include "forward/reach.h"
#include "forward/way_home.h"

/* Belongs to whoever tries; the way home is held by a reference. */
struct reach_result {
    struct list link;
    struct way_home *way;
    struct reaching *of; /* the loop's */
    bool reached;
    char error[200];
};
/* Gives the result back, and is the end of it. @thread any */
void reach_home(struct reach_result *x);
/* Blocks a thread of its own; the result comes home. As reach_start() returns. */
int reach_rabbitmq(const char *url, const char *exchange, const struct guard *guard, int64_t timeout_ms,
                   struct reach_result *x) MUSTCHECK;
