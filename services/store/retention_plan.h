/* What retention does next, and its statements: pure rules behind retention.c. */
#pragma once

#include "store/partition_plan.h"

enum { RETENTION_TABLES_MAX = 1024, RETENTION_SQL_MAX = 8192, RETENTION_IDS_MAX = 512 };

enum table_state { TABLE_ATTACHED, TABLE_PENDING, TABLE_LOOSE }; /* pending: a detach was cut off; loose: detached */
struct retention_table {
    enum partition_kind kind;
    int64_t period;
    enum table_state state;
};

/* What the database has, as the look found it. Tables by kind and period. */
struct retention_view {
    int32_t seconds;
    int64_t origin_us, now_us, floor_ms, epoch;
    struct retention_table tables[RETENTION_TABLES_MAX];
    size_t tables_n;
};

enum retention_act {
    RETENTION_REST,     /* nothing is old enough */
    RETENTION_FINALIZE, /* a detach was cut off: end it */
    RETENTION_REMOVE,   /* a detached table is left over */
    RETENTION_DETACH,   /* one of a pair is left: what must hold was found before its other half went */
    RETENTION_DROP,     /* the pair of `period` lies below the floor: drop it once nothing in it is alive */
    RETENTION_RAISE,    /* the pair of `period` is old enough: raise the floor over it, if nothing in it is alive */
    RETENTION_LANES,    /* the lanes of `period` may be finished */
};
struct retention_task {
    enum retention_act act;
    enum partition_kind kind;
    int64_t period;
};
/* Of message and decision. */
struct retention_task retention_next(const struct retention_view *v, int64_t retention_ms);
/* The oldest partition of lane_log after period `after` whose lanes may be finished; RETENTION_REST = none. */
struct retention_task retention_next_lanes(const struct retention_view *v, int64_t retention_ms, int64_t after);
/* Where the oldest pair begins, milliseconds since 1970: ids below it are gone. INT64_MAX = there is none. */
int64_t retention_oldest_ms(const struct retention_view *v);
/* End of a period of ids, milliseconds since 1970. */
int64_t retention_end_ms(const struct retention_view *v, int64_t period);

/* Statements. `out` has RETENTION_SQL_MAX bytes. */
extern const char retention_look_sql[];
extern const char retention_roll_sql[];    /* lanes that are 1,000 entries behind */
extern const char retention_compact_sql[]; /* many rows of stat to one for each subscription */
void retention_raise_sql(int64_t floor_ms, char *out);
void retention_lower_sql(int64_t from_ms, int64_t to_ms, char *out);
void retention_sweep_sql(int64_t floor_ms, char *out);   /* rows of checks that are over */
void retention_blocked_sql(int64_t floor_ms, char *out); /* reason, who, what; no row = nothing blocks */
void retention_undecided_sql(int64_t period, char *out); /* the same, by the whole pair; only `undecided` */
void retention_detach_sql(enum partition_kind k, int64_t period, bool finalize, char *out);
void retention_drop_sql(int64_t period, char *out); /* a detached pair */
void retention_remove_sql(enum partition_kind k, int64_t period, char *out);
void retention_lanes_sql(int64_t period,
                         char *out); /* lanes in use, sealed ones, one of these, time of the last entry */
void retention_fold_sql(int64_t period, char *out);    /* finished lanes to stat, and away */
void retention_settle_sql(const char *ids, char *out); /* deleted subscriptions: what is open is discarded */
void retention_chunk_sql(const char *table, int64_t keep_ms, int rows, char *out); /* old rows of a table */
/* Entries of lanes in use that are rolled up, older than this and far behind the end: nobody reads them any more. */
void retention_prune_sql(int64_t before_ms, int rows, char *out);
