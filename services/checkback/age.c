/*
 * One number per worker in a table of the process; the metric prints the oldest. A transaction decided behind our back
 * (by its producer, the normal case) is not heard of: so what was not seen again when it should have been is forgotten.
 */
#include "checkback/age.h"

#include "base/clock.h"
#include "base/metric.h"

#include <pthread.h>
#include <stdatomic.h>

enum { SLOTS = 64, GRACE_MS = 60000 };

static _Atomic uint64_t slots_used;      /* a bit each */
static _Atomic int64_t oldest_us[SLOTS]; /* 0 = none */

static double oldest_seconds(void *arg) {
    int64_t oldest = 0, now = clock_real_us();

    UNUSED(arg);
    for (int i = 0; i < SLOTS; i++) {
        int64_t us = atomic_load_explicit(&oldest_us[i], memory_order_relaxed);
        if (us && (!oldest || us < oldest))
            oldest = us;
    }
    return oldest && oldest < now ? (double)(now - oldest) / 1e6 : 0;
}

static void declare(void) {
    metric_gauge_fn(metric_family(METRIC_GAUGE, "txmsg_oldest_undecided_seconds", "",
                                  "Age of the oldest undecided transaction found or asked about lately.", 1),
                    oldest_seconds, NULL);
}

void age_open(struct age *a) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;

    pthread_once(&once, declare);
    *a = (struct age){.slot = -1};
    for (int i = 0; i < SLOTS && a->slot < 0; i++) {
        if (!(atomic_fetch_or(&slots_used, UINT64_C(1) << i) & (UINT64_C(1) << i)))
            a->slot = i;
    }
}

static void report(const struct age *a) {
    if (a->slot >= 0)
        atomic_store_explicit(&oldest_us[a->slot], a->any ? a->since_us : 0, memory_order_relaxed);
}

void age_close(struct age *a) {
    a->any = false;
    report(a);
    if (a->slot >= 0)
        atomic_fetch_and(&slots_used, ~(UINT64_C(1) << a->slot));
    a->slot = -1;
}

void age_seen(struct age *a, const struct uuid *tx, int64_t since_us, int64_t again_ms) {
    uint64_t now = clock_mono_ns();

    if (a->any && now < a->until_ns && since_us > a->since_us && !uuid_eq(tx, &a->tx))
        return;
    a->any = true;
    a->tx = *tx;
    a->since_us = since_us;
    a->until_ns = now + (uint64_t)(MAX(again_ms, 0) + GRACE_MS) * NS_PER_MS;
    report(a);
}

void age_expire(struct age *a) {
    if (a->any && clock_mono_ns() >= a->until_ns) {
        a->any = false;
        report(a);
    }
}

void age_gone(struct age *a, const struct uuid *tx) {
    if (a->any && uuid_eq(tx, &a->tx)) {
        a->any = false;
        report(a);
    }
}
