/* Partitions of message, decision (by the time inside the id) and lane_log (by the day in the lane number), made ahead by LIKE + ATTACH. */
#pragma once

#include "store/pg.h"
#include "store/store.h"

/* Blocking form, at start and by migrate up: makes what is missing from (now - id window) to `ahead` periods from now. */
int partition_ensure_blocking(PGconn *conn, int ahead, struct errmsg *e) MUSTCHECK;
/* The stored window [lo, hi) in which every id has a partition, milliseconds since 1970. */
int partition_window_blocking(PGconn *conn, int64_t *ret_lo_ms, int64_t *ret_hi_ms, struct errmsg *e) MUSTCHECK;

/* Keeps partitions ahead for as long as it lives: looks once a minute (or period / 4 if shorter); any replica may do it, an advisory lock orders them. */
struct partition_keeper;
int partition_keeper_new(struct loop *l, struct store *s, struct partition_keeper **ret) MUSTCHECK;
void partition_keeper_free(struct partition_keeper *k);

/* First lane number of a period; LANES_PER_PERIOD numbers each. Lane 0 is left out: it means "no lane". */
enum { LANES_PER_PERIOD = 1 << 14 };
int32_t partition_lane_base(const struct store *s, int64_t now_us);
