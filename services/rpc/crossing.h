/*
 * What is given to core with a batch comes back from its queue on another thread. Core orders the two, by atomics that the
 * thread sanitizer cannot see, as core is not built with it. These say so, for the one object that crosses, and are
 * nothing in any other build. Not for batches that end on the thread that started them.
 */
#pragma once

#if defined(__SANITIZE_THREAD__)
#define CROSSING_SEEN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define CROSSING_SEEN 1
#endif
#endif

#ifdef CROSSING_SEEN
void __tsan_acquire(void *at);
void __tsan_release(void *at);
#endif

/* Right before the batch is started, and right after its tag has come back. */
static inline void crossing_begin(void *tag) {
#ifdef CROSSING_SEEN
    __tsan_release(tag);
#else
    (void)tag;
#endif
}

static inline void crossing_end(void *tag) {
#ifdef CROSSING_SEEN
    __tsan_acquire(tag);
#else
    (void)tag;
#endif
}
