/*
 * Counters, gauges and histograms in one process-wide registry, printed in Prometheus text format.
 *
 * A metric family is declared once with its help; a series is found by its label values and then updated with one atomic
 * add, so hot paths keep the series pointer. Label sets are bounded: past `max_series` every new value becomes "other".
 * All functions are @thread any. Series live as long as the process.
 */
#pragma once

#include "base/bytes.h"

enum metric_kind { METRIC_COUNTER, METRIC_GAUGE, METRIC_HISTOGRAM };

struct metric_family;
struct metric; /* one series */

/* `labels`: comma-separated label names, "" for none. Same name again returns the same family. Ends the process when out of memory. */
struct metric_family *metric_family(enum metric_kind kind, const char *name, const char *labels, const char *help,
                                    unsigned max_series);
/* Label values in the order of the family's labels; as many const char * as there are labels. Never NULL. */
struct metric *metric_get(struct metric_family *f, ...);

void metric_add(struct metric *m, int64_t v);     /* counters, gauges */
void metric_set(struct metric *m, double v);      /* gauges */
void metric_observe(struct metric *m, double v);  /* histograms: seconds, or a size (buckets are powers of two from 0.0001 s or 1) */
int64_t metric_value(const struct metric *m);     /* counters: for tests */
/* A gauge read at print time: fn runs on the printing thread. */
void metric_gauge_fn(struct metric_family *f, double (*fn)(void *arg), void *arg);
void metric_print(struct buf *out);
