/*
 * Delays between attempts. Doubles hold the growth: factor^n overflows to infinity, which the ceiling cuts, so that no
 * n is too large. The random number is a parameter, so that the rule itself can be tested.
 */
#include "core/retry.h"

#include "base/crypto.h"

#include <math.h>

static double exponential(const struct backoff *b, int n) {
    double factor = b->factor >= 1 ? b->factor : 1; /* NaN too */
    double d = (double)MAX(b->initial_ms, 1) * pow(factor, n > 1 ? n - 1 : 0);

    return MIN(d, (double)MAX(b->max_ms, 1));
}

int64_t backoff_delay_ms(const struct backoff *b, int n, double random) {
    double jitter = b->jitter >= 0 ? MIN(b->jitter, 1.0) : 0;
    double d = b->list_n > 0 ? (double)b->list_ms[MIN(MAX(n, 1), b->list_n) - 1] : exponential(b, n);

    d *= 1 - jitter + MIN(2 * jitter, 1.0) * random;
    if (!(d >= 1))
        return 1;
    return d >= (double)INT64_MAX ? INT64_MAX : (int64_t)d;
}

/* splitmix64, seeded from the system once for each thread: cheap, and good enough to spread load. Not for secrets. */
double backoff_random(void) {
    static __thread uint64_t state;
    static __thread bool seeded;
    uint64_t z;

    if (!seeded) {
        crypto_random(&state, sizeof(state));
        seeded = true;
    }
    z = state += 0x9e3779b97f4a7c15ull;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    z ^= z >> 31;
    return (double)(z >> 11) * 0x1.0p-53;
}
