/*
 * The age of what is undelivered, per subscription: the greatest over all workers of this process, each of which knows
 * only its own lanes. Called about once a second. @thread any
 */
#pragma once

#include "base/metric.h"

struct lag; /* one worker's share in one subscription */
/* NULL when out of memory: nothing is reported. */
struct lag *lag_new(const char *subscription) MUSTCHECK;
void lag_set(struct lag *l, double seconds);
void lag_free(struct lag *l); /* NULL allowed */
