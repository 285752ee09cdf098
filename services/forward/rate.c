/* See rate.h. */
#include "forward/rate.h"

#include "base/clock.h"

static double bucket(double per_second) {
    return MAX(per_second / 10, 1.0);
}

bool rate_allows(struct rate *r, double per_second, uint64_t now_ns) {
    if (per_second <= 0)
        return true;
    if (r->at_ns == 0)
        r->tokens = bucket(per_second);
    else if (now_ns > r->at_ns)
        r->tokens += (double)(now_ns - r->at_ns) / 1e9 * per_second;
    r->at_ns = MAX(now_ns, r->at_ns);
    r->tokens = MIN(r->tokens, bucket(per_second));
    return r->tokens >= 1;
}

void rate_take(struct rate *r, double per_second) {
    if (per_second > 0)
        r->tokens -= 1;
}

uint64_t rate_wait_ms(const struct rate *r, double per_second) {
    double s = per_second > 0 ? (1 - r->tokens) / per_second : 0;

    return s > 0 ? (uint64_t)(s * 1000) + 1 : 1;
}
