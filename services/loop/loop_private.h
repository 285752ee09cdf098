/* What the files of this room know about a loop beside loop.h. Nobody outside includes it. */
#pragma once

#include "loop/loop.h"

#include <pthread.h>
#include <stdatomic.h>

struct loop {
    uv_loop_t uv;
    uv_async_t wake; /* for posts */
    char name[16];
    pthread_t thread; /* valid while started */
    bool started;     /* loop_start() made a thread that nobody joined yet; of the thread that started it */
    bool in_timer;    /* a timer's fn is on the stack; of the loop's thread */
    _Atomic bool running;

    pthread_mutex_t lock;
    struct list posts; /* under lock */
    bool stopped;      /* under lock: no post gets in any more */
};
