/*
 * The breaker of one subscription in one worker: after 16 failures in a row nothing is started but one probe for every
 * backoff step (1 s, doubled up to 30 s) until something succeeds. Pure logic; the caller brings the time.
 */
#pragma once

#include "base/err.h"

enum { BREAKER_FAILURES = 16, BREAKER_FIRST_MS = 1000, BREAKER_MAX_MS = 30000 };

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
bool breaker_failure(struct breaker *b, bool probe, uint64_t now_ns);
