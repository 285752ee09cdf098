/* The stored configuration in one statement, so that it is one snapshot: behind the watch, apply and export. */
#pragma once

#include "core/policy.h"
#include "store/pg.h"
#include "store/topo.h"

extern const char topo_load_sql[];

/* Every object that is not deleted, ordered by kind and name. Strings are borrowed from `res`; the array is the
 * caller's. */
int topo_load_objects(const PGresult *res, struct topo_object **ret, size_t *ret_n, int64_t *ret_epoch) MUSTCHECK;
/*
 * The snapshot for workers, paused subscriptions included. An object that this version cannot read is logged and left out;
 * if it was a subscription, the snapshot carries minus its epoch.
 */
int topo_load_snapshot(const PGresult *res, struct topology **ret) MUSTCHECK;
/* The epoch in `res`, or -1. */
int64_t topo_load_epoch(const PGresult *res);
/* The retention floor that goes with it, milliseconds since 1970. */
int64_t topo_load_floor_ms(const PGresult *res);
