/* How often this process has been forked off since the library was first used: what was made before belongs to a parent. */
#pragma once

#include <stdatomic.h>

/* A process that came from vfork() or clone() without the C library is not seen. @thread any */
unsigned fork_count(void);
/* The same where somebody has counted before. */
extern atomic_uint fork_counter;
static inline unsigned fork_count_again(void) {
    return atomic_load_explicit(&fork_counter, memory_order_relaxed);
}
