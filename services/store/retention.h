/*
 * Drops what nobody can need any more: partition pairs below the floor, partitions of lane_log whose lanes are finished
 * and folded into the counters, old attempts and audit rows; and settles deleted subscriptions. Also rolls the counters
 * of lanes up. One replica does it at a time, any replica can. db/README.md section 5 argues each step.
 */
#pragma once

#include "store/store.h"

struct loop;
struct retention;
/* Looks once a minute (or period / 4 if shorter) and rolls up once a second, on a connection of its own. @thread of the loop */
int retention_new(struct loop *l, struct store *s, struct retention **ret) MUSTCHECK;
void retention_free(struct retention *r); /* NULL allowed */
