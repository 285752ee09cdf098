/*
 * Values below HISTOGRAM_STEPS have a bucket each. Above, the highest bits of a value choose the bucket, so a bucket is
 * never wider than 1/128 of what it holds, and adding is a few instructions without a table.
 */
#include "histogram.h"

#include <math.h>
#include <stdio.h>

#define NS_PER_MS_D 1e6

static size_t bucket_of(uint64_t v) {
    if (v < HISTOGRAM_STEPS)
        return (size_t)v;
    unsigned shift = 56 - (unsigned)__builtin_clzll(v); /* leaves 8 bits, the highest of them set */
    return (size_t)shift * HISTOGRAM_STEPS + (size_t)(v >> shift);
}

static uint64_t bucket_end(size_t bucket) {
    if (bucket < 2 * HISTOGRAM_STEPS)
        return bucket;
    unsigned shift = (unsigned)(bucket / HISTOGRAM_STEPS) - 1;
    uint64_t high = bucket % HISTOGRAM_STEPS + HISTOGRAM_STEPS;
    return ((high + 1) << shift) - 1;
}

void histogram_add(struct histogram *h, uint64_t ns) {
    h->buckets[bucket_of(ns)]++;
    h->count++;
    h->sum += (double)ns;
    h->max = MAX(h->max, ns);
}

uint64_t histogram_at(const struct histogram *h, double share) {
    uint64_t wanted = (uint64_t)ceil(share * (double)h->count), seen = 0;
    for (size_t i = 0; i < HISTOGRAM_BUCKETS && h->count; i++) {
        seen += h->buckets[i];
        if (seen >= MAX(wanted, 1))
            return MIN(bucket_end(i), h->max);
    }
    return h->max;
}

void histogram_print_json(const struct histogram *h) {
    static const struct {
        const char *name;
        double share;
    } points[] = {{"p50", 0.5}, {"p90", 0.9}, {"p99", 0.99}, {"p99.9", 0.999}};
    printf("{");
    for (size_t i = 0; i < ARRAY_LEN(points); i++)
        printf("\"%s\": %.4f, ", points[i].name, (double)histogram_at(h, points[i].share) / NS_PER_MS_D);
    printf("\"max\": %.4f, \"mean\": %.4f}", (double)h->max / NS_PER_MS_D,
           h->count ? h->sum / (double)h->count / NS_PER_MS_D : 0.0);
}
