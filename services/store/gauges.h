/*
 * Gauges that only the tables know: txmsg_stuck and txmsg_dead_letters{subscription}. Read every 5 s; every replica shows the same
 * numbers, so take the maximum over replicas, not the sum. @thread of the loop
 */
#pragma once

#include "store/pg.h"

struct gauges;
/* `people` must outlive it: reader_people() of the worker. */
int gauges_new(struct loop *l, struct pg_conn *people, struct gauges **ret) MUSTCHECK;
void gauges_free(struct gauges *g); /* NULL allowed */
