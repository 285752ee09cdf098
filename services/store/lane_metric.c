/* What lanes count. Made once for all lanes of the process, so that every series is there from the start. */
#include "store/lane_private.h"

#include "base/metric.h"

#include <pthread.h>

static struct metric_family *errors;
static struct metric *size, *decided[2][4]; /* by verdict - 1 and origin */
static struct metric *unknown[UNKNOWN_ENDS], *lost_commits, *lost_operations;

static void make(void) {
    errors = metric_family(METRIC_COUNTER, "txmsg_store_errors_total", "class",
                           "Failed group commits by class of error.", 16);
    for (int c = PG_CONFLICT; c <= PG_BUG; c++)
        metric_get(errors, pg_class_name((enum pg_class)c));
    struct metric_family *u =
        metric_family(METRIC_COUNTER, "txmsg_unknown_commits_total", "resolution",
                      "Commits whose answer was lost, and what they turned out to be.", UNKNOWN_ENDS);
    static const char *const ends[] = {"lost", "dead", "dead_earlier", "committed", "fenced", "foreign"};
    for (size_t i = 0; i < UNKNOWN_ENDS; i++)
        unknown[i] = metric_get(u, ends[i]);
    lost_commits =
        metric_get(metric_family(METRIC_COUNTER, "txmsg_lost_commits_total", "",
                                 "Acknowledged entries of lanes that the database does not have any more.", 1));
    lost_operations = metric_get(metric_family(METRIC_COUNTER, "txmsg_lost_operations_total", "",
                                               "Operations answered OK in lost entries, as far as remembered.", 1));
    size = metric_get(
        metric_family(METRIC_HISTOGRAM, "txmsg_group_commit_size", "", "Operations in one group commit.", 1));
    struct metric_family *f = metric_family(METRIC_COUNTER, "txmsg_decisions_total", "decision,origin",
                                            "Decisions made durable by this replica.", 8);
    for (int v = TX_COMMITTED; v <= TX_ROLLED_BACK; v++)
        for (int o = TX_ORIGIN_RPC; o <= TX_ORIGIN_ADMIN; o++)
            decided[v - 1][o] = metric_get(f, tx_decision_name((enum tx_decision)v), tx_origin_name((enum tx_origin)o));
}

void lane_metrics_init(void) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, make);
}

void lane_count_error(enum pg_class c) {
    metric_add(metric_get(errors, pg_class_name(c)), 1);
}

void lane_count_commit(uint32_t ops) {
    metric_observe(size, ops);
}

void lane_count_decision(const struct lane_op *op) {
    metric_add(decided[op->kind == OP_CANCEL ? TX_ROLLED_BACK - 1 : TX_COMMITTED - 1][op->origin], 1);
}

void lane_count_unknown(enum unknown_end e) {
    metric_add(unknown[e], 1);
}

void lane_count_lost(uint32_t entries, uint64_t operations) {
    metric_add(lost_commits, entries);
    metric_add(lost_operations, (int64_t)operations);
}
