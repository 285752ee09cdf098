/* See rate.h. */
#include "core/rate.h"

#include "base/clock.h"

static void fill(struct rate *r, double per_second, double bucket, uint64_t now_ns) {
    if (r->at_ns == 0)
        r->tokens = bucket;
    else if (now_ns > r->at_ns)
        r->tokens += (double)(now_ns - r->at_ns) / 1e9 * per_second;
    r->at_ns = MAX(now_ns, r->at_ns);
    r->tokens = MIN(r->tokens, bucket);
}

bool rate_allows(struct rate *r, double per_second, uint64_t now_ns) {
    if (per_second <= 0)
        return true;
    fill(r, per_second, MAX(per_second / 10, 1.0), now_ns);
    return r->tokens >= 1;
}

int rate_room(struct rate *r, double per_second, double seconds, uint64_t now_ns) {
    if (per_second <= 0)
        return INT32_MAX;
    fill(r, per_second, MAX(per_second * seconds, 1.0), now_ns);
    return (int)MIN(MAX(r->tokens, 0.0), (double)INT32_MAX);
}

void rate_take(struct rate *r, double per_second) {
    if (per_second > 0)
        r->tokens -= 1;
}

uint64_t rate_wait_ms(const struct rate *r, double per_second) {
    double s = per_second > 0 ? (1 - r->tokens) / per_second : 0;

    return s > 0 ? (uint64_t)(s * 1000) + 1 : 1;
}
