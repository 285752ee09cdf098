/*
 * Rules of partitioning.
 *
 * message and decision are cut by the time inside the id: period p holds the ids of [p * seconds, (p + 1) * seconds)
 * since 1970. lane_log is cut by lane number: a lane opened in period k (counted from cfg.origin) has a number of [k <<
 * 14, (k + 1) << 14), so that the key (lane, seq) alone decides the partition and stays a fence for ever.
 */
#include "store/partition_plan.h"

#include "base/mem.h"
#include "base/uuid.h"
#include "store/partition.h"

static const char *const parents[PARTITION_KINDS] = {"message", "decision", "lane_log"};

void partition_layout_deinit(struct partition_layout *l) {
    for (int k = 0; k < PARTITION_KINDS; k++) {
        mem_free(l->have[k]);
        l->have[k] = NULL;
        l->have_n[k] = 0;
    }
}

static int64_t floor_div(int64_t a, int64_t b) {
    return a / b - (a % b < 0);
}

int64_t partition_now(const struct partition_layout *l, enum partition_kind kind) {
    int64_t since = kind == PARTITION_LANE_LOG ? l->now_us - l->origin_us : l->now_us;
    return floor_div(since, (int64_t)l->seconds * 1000000);
}

int32_t partition_lane_first(int32_t seconds, int64_t origin_us, int64_t now_us) {
    int64_t k = floor_div(now_us - origin_us, (int64_t)seconds * 1000000);
    k = MAX(0, MIN(k, (int64_t)LANE_PERIODS - 1));
    return (int32_t)MAX(1, k * LANES_PER_PERIOD);
}

static bool has(const struct partition_layout *l, enum partition_kind kind, int64_t period) {
    size_t lo = 0, hi = l->have_n[kind];
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        if (l->have[kind][mid] == period)
            return true;
        if (l->have[kind][mid] < period)
            lo = mid + 1;
        else
            hi = mid;
    }
    return false;
}

/* Everything of this period is past retention. */
static bool past(const struct partition_layout *l, enum partition_kind kind, int64_t period) {
    return kind != PARTITION_LANE_LOG && (period + 1) * l->seconds * 1000 <= l->floor_ms;
}

/* How far back: ids may be a day old; a lane may be opened just behind the change of the period. */
static int64_t past_periods(const struct partition_layout *l, enum partition_kind kind) {
    if (kind == PARTITION_LANE_LOG)
        return 1;
    int64_t n = (PARTITION_ID_PAST_S + l->seconds - 1) / l->seconds;
    return MIN(n, (int64_t)PARTITION_PAST_MAX);
}

int partition_missing(const struct partition_layout *l, int ahead, struct partition_need out[PARTITION_NEEDS_MAX],
                      size_t *ret_n, struct errmsg *e) {
    size_t n = 0;
    ahead = MAX(1, MIN(ahead, (int)PARTITION_AHEAD_MAX));
    if (partition_now(l, PARTITION_LANE_LOG) + ahead >= LANE_PERIODS)
        return err_set(e, -ERANGE,
                       "lane numbers run out: partitions of %d s are too narrow for a schema that lives this long",
                       l->seconds);
    for (int64_t step = 0; step <= ahead; step++)
        for (int k = 0; k < PARTITION_KINDS; k++) {
            int64_t p = MAX(0, partition_now(l, k) + step);
            if (!has(l, k, p) && n < PARTITION_NEEDS_MAX)
                out[n++] = (struct partition_need){k, p};
        }
    for (int64_t step = 1; step <= PARTITION_PAST_MAX; step++)
        for (int k = 0; k < PARTITION_KINDS; k++) {
            int64_t p = partition_now(l, k) - step;
            if (step <= past_periods(l, k) && p >= 0 && !past(l, k, p) && !has(l, k, p) && n < PARTITION_NEEDS_MAX)
                out[n++] = (struct partition_need){k, p};
        }
    *ret_n = n;
    return 0;
}

static bool pair(const struct partition_layout *l, int64_t period) {
    return has(l, PARTITION_MESSAGE, period) && has(l, PARTITION_DECISION, period);
}

void partition_window(const struct partition_layout *l, int64_t *ret_lo_ms, int64_t *ret_hi_ms) {
    int64_t now = partition_now(l, PARTITION_MESSAGE), lo = now, hi = now;
    while (pair(l, hi))
        hi++;
    while (hi > now && pair(l, lo - 1))
        lo--;
    *ret_lo_ms = hi > now ? lo * l->seconds * 1000 : 0;
    *ret_hi_ms = hi > now ? hi * l->seconds * 1000 : 0;
}

int64_t partition_ready_ahead(const struct partition_layout *l) {
    int64_t ids = partition_now(l, PARTITION_MESSAGE), lanes = partition_now(l, PARTITION_LANE_LOG), n = 0;
    while (pair(l, ids + n) && has(l, PARTITION_LANE_LOG, MAX(0, lanes + n)))
        n++;
    return n > 0 ? n - 1 : 0;
}

static void bounds_of(const struct partition_layout *l, const struct partition_need *need, char from[64], char to[64]) {
    if (need->kind == PARTITION_LANE_LOG) {
        int64_t lo = need->period * LANES_PER_PERIOD;
        snprintf(from, 64, "%lld", (long long)lo);
        /* One past the greatest int4 cannot be written as one. */
        if (need->period >= LANE_PERIODS - 1)
            snprintf(to, 64, "MAXVALUE");
        else
            snprintf(to, 64, "%lld", (long long)lo + LANES_PER_PERIOD);
        return;
    }
    struct uuid id;
    char text[UUID_TEXT];
    int64_t ms = (int64_t)l->seconds * 1000;
    uuid_v7_floor(need->period * ms, &id);
    uuid_format(&id, text);
    snprintf(from, 64, "'%s'", text);
    uuid_v7_floor((need->period + 1) * ms, &id);
    uuid_format(&id, text);
    snprintf(to, 64, "'%s'", text);
}

/* Rows are only ever inserted: full pages, and a vacuum after every tenth of the table so that index-only scans find
 * pages all visible. */
static const char insert_only[] =
    "fillfactor = 100, autovacuum_vacuum_insert_threshold = 10000, autovacuum_vacuum_insert_scale_factor = 0.1";
/* A lane row of 440 ids must stay in line. */
static const char insert_only_wide[] =
    "fillfactor = 100, toast_tuple_target = 8160, autovacuum_vacuum_insert_threshold = 10000, "
    "autovacuum_vacuum_insert_scale_factor = 0.1";

/*
 * LIKE and ATTACH rather than PARTITION OF: that would lock the parent against readers and writers. The advisory lock
 * orders those who make partitions; the look behind it makes the second one find nothing to do.
 */
void partition_sql(const struct partition_layout *l, const struct partition_need *need, char out[PARTITION_SQL_MAX]) {
    const char *parent = parents[need->kind];
    char from[64], to[64], name[64];
    bounds_of(l, need, from, to);
    snprintf(name, sizeof(name), "%s_p%lld", parent, (long long)need->period);
    int n = snprintf(out, PARTITION_SQL_MAX,
                     "DO $$ BEGIN\n"
                     "  SET LOCAL lock_timeout = '2s';\n"
                     "  PERFORM pg_advisory_xact_lock(1954049395, 2);\n" /* "txms", 2; migrations use 1 */
                     "  IF NOT EXISTS (SELECT FROM pg_inherits"
                     " WHERE inhparent = '%s'::regclass AND inhrelid = to_regclass('%s')) THEN\n"
                     "    CREATE TABLE IF NOT EXISTS %s (LIKE %s INCLUDING ALL) WITH (%s);\n"
                     "    ALTER TABLE %s ATTACH PARTITION %s FOR VALUES FROM (%s) TO (%s);\n"
                     "  END IF;\n"
                     "END $$",
                     parent, name, name, parent, need->kind == PARTITION_LANE_LOG ? insert_only_wide : insert_only,
                     parent, name, from, to);
    ASSERT(n > 0 && n < PARTITION_SQL_MAX);
}
