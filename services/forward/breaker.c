/*
 * closed --failures in a row----> open --step over--> probing --failure--> open (step doubled)
 *    ^                                                    |
 *    +---------------- any success -----------------------+
 * Failures of what was under way when it opened change nothing: only the probe moves the step.
 */
#include "forward/breaker.h"

#include "base/clock.h"

bool breaker_allows(const struct breaker *b, uint64_t now_ns) {
    return !b->open || (!b->probing && now_ns >= b->probe_at_ns);
}

bool breaker_started(struct breaker *b) {
    if (!b->open)
        return false;
    ASSERT(!b->probing);
    return b->probing = true;
}

bool breaker_success(struct breaker *b) {
    bool was_open = b->open;

    *b = (struct breaker){.failures = 0};
    return was_open;
}

bool breaker_failure(struct breaker *b, const struct breaker_policy *p, bool probe, uint64_t now_ns) {
    b->failures = MIN(b->failures + 1, p->failures);
    if (b->open) {
        if (probe) {
            b->probing = false;
            b->step_ms = MIN(b->step_ms * 2, p->max_open_ms);
            b->probe_at_ns = now_ns + (uint64_t)b->step_ms * NS_PER_MS;
        }
        return false;
    }
    if (b->failures < p->failures)
        return false;
    b->open = true;
    b->probing = false;
    b->step_ms = p->open_ms;
    b->probe_at_ns = now_ns + (uint64_t)b->step_ms * NS_PER_MS;
    return true;
}
