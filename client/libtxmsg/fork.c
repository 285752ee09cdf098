#include "fork.h"

#include "base/err.h"

#include <pthread.h>

atomic_uint fork_counter;

static void in_child(void) {
    atomic_fetch_add(&fork_counter, 1);
}

static void watch(void) {
    ASSERT(pthread_atfork(NULL, NULL, in_child) == 0);
}

unsigned fork_count(void) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;

    pthread_once(&once, watch);
    return fork_count_again();
}
