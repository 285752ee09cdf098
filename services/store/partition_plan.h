/* Which partitions there should be, and the statement that makes one: pure rules behind partition.c. */
#pragma once

#include "base/err.h"

enum partition_kind { PARTITION_MESSAGE, PARTITION_DECISION, PARTITION_LANE_LOG, PARTITION_KINDS };
enum {
    PARTITION_AHEAD_MAX = 64,
    PARTITION_PAST_MAX = 16,     /* periods behind now that are made, however narrow they are */
    PARTITION_ID_PAST_S = 86400, /* ids may be this old */
    PARTITION_NEEDS_MAX = 256,
    PARTITION_SQL_MAX = 1536,
    LANE_PERIODS = 1 << 17, /* periods of 1 << 14 lanes until the numbers run out */
};

/* What the database has. Periods of message and decision count from 1970, those of lane_log from cfg.origin. */
struct partition_layout {
    int32_t seconds;
    int64_t origin_us, now_us;
    int64_t floor_ms;               /* nothing is made below the retention floor */
    int64_t *have[PARTITION_KINDS]; /* attached, ascending; one allocation each */
    size_t have_n[PARTITION_KINDS];
};
void partition_layout_deinit(struct partition_layout *l);

struct partition_need {
    enum partition_kind kind;
    int64_t period;
};
/* The period that `now` lies in. */
int64_t partition_now(const struct partition_layout *l, enum partition_kind kind);
/* First lane number of the period of `now_us`; never 0, which means "no lane", and never past the last period. */
int32_t partition_lane_first(int32_t seconds, int64_t origin_us, int64_t now_us);
/* What is missing, the present period first, then the future, then the past. -ERANGE: the lane numbers run out within
 * `ahead` periods. */
int partition_missing(const struct partition_layout *l, int ahead, struct partition_need out[PARTITION_NEEDS_MAX],
                      size_t *ret_n, struct errmsg *e) MUSTCHECK;
/* [lo, hi) around now in which message and decision are both attached without a gap, milliseconds since 1970; both 0 if
 * now has none. */
void partition_window(const struct partition_layout *l, int64_t *ret_lo_ms, int64_t *ret_hi_ms);
/* Periods after the present one that are ready in all three tables. */
int64_t partition_ready_ahead(const struct partition_layout *l);
/* One statement that makes and attaches it unless somebody else has: safe to run anywhere at any time. */
void partition_sql(const struct partition_layout *l, const struct partition_need *need, char out[PARTITION_SQL_MAX]);
