/*
 * Every statement of the readers, by name, so that a test can list and EXPLAIN them. Tables end with name NULL.
 * The statements of reader_stmts and claim_stmts are hot: they run on connections with pinned plans (see READ_PINS).
 */
#pragma once

#include "store/pg.h"

/*
 * Settings of a connection whose plans must not depend on statistics: without them a partition that was never
 * analyzed, which is every new one, gets plans that read all of it. See db/README.md.
 */
#define READ_PINS                                                                                                      \
    "-c plan_cache_mode=force_generic_plan -c enable_seqscan=off -c enable_hashjoin=off -c enable_mergejoin=off"       \
    " -c enable_bitmapscan=off -c enable_material=off -c enable_memoize=off -c jit=off"

extern const struct pg_stmt reader_stmts[];    /* read.c: payloads, log, cursors */
extern const struct pg_stmt claim_stmts[];     /* read_claim.c: finder and claims */
extern const struct pg_stmt run_stmts[];       /* run.c: heartbeat and takeover */
extern const struct pg_stmt view_stmts[];      /* view.c: what people ask; planned for each question */
extern const struct pg_stmt view_dead_stmts[]; /* view_dead.c, view_dead_act.c */
extern const struct pg_stmt view_dead_act_stmts[];

/* "name<TAB>sql" of every statement of the hot paths, one per line. */
void stmts_print(struct buf *out);
