/*
 * The rate of something in one worker: a bucket that fills with the worker's share. It holds so little that a pause is not made up for by
 * a burst: a tenth of a second's worth where each is asked for by itself, more where somebody looks a few times a second only.
 * Pure logic; the caller brings the time.
 */
#pragma once

#include "base/err.h"

struct rate {
    double tokens;
    uint64_t at_ns; /* of the last fill; 0 = never: the bucket is full */
};

/* per_second <= 0 = no limit: everything is allowed and nothing is counted. */
bool rate_allows(struct rate *r, double per_second, uint64_t now_ns);
void rate_take(struct rate *r, double per_second);              /* one was started */
uint64_t rate_wait_ms(const struct rate *r, double per_second); /* until one is allowed; at least 1 */
/* How many may be started now, of a bucket that holds `seconds` worth, one at least; INT32_MAX = no limit. */
int rate_room(struct rate *r, double per_second, double seconds, uint64_t now_ns);
