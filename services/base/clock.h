/* The three clocks, in nanoseconds or microseconds. Deciding times are the database's, never these. */
#pragma once

#include "base/err.h"

#define NS_PER_MS 1000000ull
#define NS_PER_S  1000000000ull

uint64_t clock_mono_ns(void); /* CLOCK_MONOTONIC: deadlines, durations */
uint64_t clock_boot_ns(void); /* CLOCK_BOOTTIME: liveness of others; goes on while suspended */
int64_t clock_real_us(void);  /* wall clock, microseconds since 1970: logs and metrics only */
/* Microseconds since 1970 of a foreign timestamp; what lies before year 0 or after 9999 is cut to that. */
int64_t clock_us(int64_t seconds, int32_t nanos);
/* RFC 3339 UTC with microseconds into out[32]. */
void clock_format(int64_t real_us, char out[32]);
/* RFC 3339 (any offset) -> microseconds since 1970; -EINVAL. */
int clock_parse(const char *text, int64_t *ret_us) MUSTCHECK;
