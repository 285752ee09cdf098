#include "fork.h"

#include "base/err.h"

#include <pthread.h>
#include <stdatomic.h>

static atomic_uint count;

static void in_child(void) {
    atomic_fetch_add(&count, 1);
}

static void watch(void) {
    ASSERT(pthread_atfork(NULL, NULL, in_child) == 0);
}

unsigned fork_count(void) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;

    pthread_once(&once, watch);
    return atomic_load_explicit(&count, memory_order_relaxed);
}
