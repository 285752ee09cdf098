/*
 * txmsg_oldest_undecided_seconds, as far as this worker knows: the oldest undecided transaction that it found or
 * claimed lately and that was not decided by its checks since. An approximation, and cheap. @thread of the loop
 */
#pragma once

#include "base/uuid.h"

struct age {
    int slot; /* in the table that the metric reads; -1 = none free, nothing is reported */
    bool any;
    struct uuid tx;
    int64_t since_us;  /* microseconds since 1970 */
    uint64_t until_ns; /* CLOCK_MONOTONIC: forgotten then, if it is not seen again */
};
void age_open(struct age *a);
void age_close(struct age *a);
/* Undecided now, and looked at again within `again_ms` if it still is then. */
void age_seen(struct age *a, const struct uuid *tx, int64_t since_us, int64_t again_ms);
/* Now and then: forgets what was not seen again. */
void age_expire(struct age *a);
/* Decided, or STUCK. */
void age_gone(struct age *a, const struct uuid *tx);
