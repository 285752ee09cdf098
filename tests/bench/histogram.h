/* A log-linear histogram of durations, as HdrHistogram has it: every value is kept within 1 % of itself. One thread. */
#pragma once

#include "base/err.h"

enum { HISTOGRAM_STEPS = 128, HISTOGRAM_BUCKETS = (64 - 7 + 1) * HISTOGRAM_STEPS }; /* steps in each doubling */

struct histogram {
    uint64_t count, max;
    double sum;
    uint64_t buckets[HISTOGRAM_BUCKETS];
};
/* Begins as all zeros. */
void histogram_add(struct histogram *h, uint64_t ns);
/* The duration in ns that `share` (0..1) of the values do not exceed: the end of its bucket, at most the maximum. */
uint64_t histogram_at(const struct histogram *h, double share);
/* Prints {"p50": ..., "p90": ..., "p99": ..., "p99.9": ..., "max": ..., "mean": ...} in milliseconds on stdout. */
void histogram_print_json(const struct histogram *h);
