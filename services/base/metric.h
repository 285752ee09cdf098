/*
 * Counters, gauges and histograms in one process-wide registry, printed in Prometheus text format.
 *
 * A metric family is declared once with its help; a series is found by its label values and then updated with one
 * atomic add, so hot paths keep the series pointer. Label sets are bounded: past `max_series` (0 = 100) every new value
 * becomes "other"; known values may still meet in new sets up to twice the bound, beyond it all is "other".
 * All functions are @thread any. Series live as long as the process.
 */
#pragma once

#include "base/bytes.h"

enum metric_kind { METRIC_COUNTER, METRIC_GAUGE, METRIC_HISTOGRAM };

struct metric_family;
struct metric; /* one series */

/*
 * `labels`: comma-separated label names, "" for none; the strings are copied. The same name again returns the same
 * family and must agree in kind and labels. Ends the process when out of memory.
 */
struct metric_family *metric_family(enum metric_kind kind, const char *name, const char *labels, const char *help,
                                    unsigned max_series);
/* Label values in the order of the family's labels; as many const char * as there are labels. Never NULL. */
struct metric *metric_get(struct metric_family *f, ...);

void metric_add(struct metric *m, int64_t v); /* counters, gauges */
void metric_set(struct metric *m, double v);  /* gauges */
/* Histograms: 24 buckets that double, from 0.0001 if the name ends in "_seconds" (v is seconds), else from 1. */
void metric_observe(struct metric *m, double v);
int64_t metric_value(const struct metric *m); /* for tests: the counter or gauge, or how often was observed */
/*
 * A gauge without labels that is read at print time: fn runs on the printing thread, must be quick and must not touch
 * its own family. Setting it again replaces it, NULL takes it away; then the old fn is not running any more.
 */
void metric_gauge_fn(struct metric_family *f, double (*fn)(void *arg), void *arg);
/* Everything in Prometheus text format 0.0.4; families in the order of their birth. */
void metric_print(struct buf *out);
