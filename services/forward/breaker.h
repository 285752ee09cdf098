/*
 * The breaker of one subscription in one worker: after so many failures in a row nothing is started but one probe for every
 * step, doubled up to the longest, until something succeeds. Pure logic; the caller brings the time and the policy.
 */
#pragma once

#include "core/policy.h"

struct breaker {
    int failures; /* in a row */
    bool open;
    bool probing; /* a probe is under way */
    int64_t step_ms;
    uint64_t probe_at_ns; /* open and not probing: when the next probe may start */
};

/* May a message be started now? */
bool breaker_allows(const struct breaker *b, uint64_t now_ns);
/* One was started; true if it is the probe. */
bool breaker_started(struct breaker *b);
/* The other side works. True if this closed the breaker. */
bool breaker_success(struct breaker *b);
/* True if this opened it; with `probe` the step was doubled. */
bool breaker_failure(struct breaker *b, const struct breaker_policy *p, bool probe, uint64_t now_ns);
