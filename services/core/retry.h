/* Delays between attempts and between checks: pure functions of attempt number and a random number. */
#pragma once

#include "base/err.h"

struct backoff {
    int64_t initial_ms, max_ms;
    double factor;          /* >= 1 */
    const int64_t *list_ms; /* explicit delays instead of the three above; the last one repeats */
    int list_n;             /* 0 = none */
    double jitter;          /* 0..1: the share of the delay that is random; 1 = full jitter: [0, d] */
};

/*
 * Delay before attempt `n` (1 = the first repeat), in milliseconds. `random` is uniform in [0, 1).
 * jitter j gives d * (1 - j + min(2j, 1) * random): 0.2 = +-20 %, 0.5 = 50..150 %, and full jitter [0, d] for j = 1;
 * never below 1 ms, never above max_ms (of a list: the n-th delay) * (1 + min(j, 0.5)).
 */
int64_t backoff_delay_ms(const struct backoff *b, int n, double random);
/* A uniform random number in [0, 1) for jitter. @thread any */
double backoff_random(void);
