/*
 * Counters, exact at one moment: what lanes have logged and not rolled up yet, and the table `stat`. On
 * reader_people(). @thread of the loop
 */
#pragma once

#include "store/pg.h"

struct stat_sub {
    const char *name; /* "" = the sum of the deleted ones */
    int64_t delivered, dead, discarded, in_flight;
    int64_t oldest_us; /* when the oldest of in_flight was confirmed; 0 = none */
    bool more;         /* in_flight is a lower bound */
};
struct stat_totals {
    int64_t at_us; /* the moment, database clock */
    int64_t prepared, confirmed, cancelled, tombstones, stuck;
    int64_t oldest_us; /* of the oldest undecided one that checks know of; 0 = none */
    const struct stat_sub *subs;
    size_t subs_n;
};
/* Valid during the callback. code: 0, -EAGAIN, -EINVAL *bug*, -ENOMEM. */
typedef void stat_fn(void *arg, int code, const struct stat_totals *t);
/* subscription: only this one and no deleted ones; NULL = all, by name. */
int stat_get(struct pg_conn *c, const char *subscription, stat_fn *fn, void *arg) MUSTCHECK;
