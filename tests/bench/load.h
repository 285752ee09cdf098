/*
 * Load. Closed: a fixed number of callers, each with one message under way; when it is done the next one begins. Open:
 * messages arrive by a schedule that the service cannot slow down; what finds all callers busy waits in a queue, and its
 * latency counts from its scheduled time. Runs on the calling thread, which is the one completion-queue thread.
 */
#pragma once

#include "histogram.h"

enum load_mode {
    LOAD_PAIR,    /* Prepare, then Confirm (or Cancel, or nothing) */
    LOAD_PUBLISH, /* Publish */
    LOAD_ECHO,    /* Cancel alone: the smallest call, for bench-echo */
};

struct load_options {
    const char *server; /* or several, with commas: the channels are dealt out over them */
    const char *producer, *topic;
    enum load_mode mode;
    int64_t callers, channels;
    int64_t batch;   /* messages whose operations share one Batch call; 0 = single calls */
    int64_t streams; /* operations go through so many streams of Pipeline, not more than callers; 0 = unary calls */
    int64_t rate;    /* messages a second, open loop; 0 = closed */
    int64_t warmup_ms, run_ms; /* run_ms counts only where count is 0 */
    int64_t count;             /* messages to measure */
    int64_t body;
    int undecided, cancelled, duplicated; /* percent; LOAD_PAIR (duplicated: all modes) */
    bool progress;                        /* a line each second on stderr */
    /* Called when the measured time begins (true) and when it has ended (false); NULL = not. */
    void (*on_phase)(bool begins);
};

enum { LOAD_CODES = 17 };

struct load_result {
    uint64_t elapsed_ns, cpu_ns; /* of the measured time; CPU of this process */
    uint64_t messages;           /* that ended in the measured time, without an error */
    int64_t slowest_second;      /* the fewest of them in one whole second of it; -1 = it had none */
    /*
     * Of these, without those left undecided; with batches of the calls. In an open loop also of those that had not begun
     * at the end, with the time that they had waited.
     */
    struct histogram latency;
    /* Open loop, measured time, batches as one: due, of these not begun at once, the longest queue, not begun at the end. */
    uint64_t arrived, queued, queue_max, unbegun;
    /* From the start to the end, warm-up included; operations that were answered OK, repeats not counted. */
    uint64_t prepared, confirmed, cancelled, published, repeats;
    /* Of the prepared: left undecided, and of these those that a check commits (fate.h). */
    uint64_t undecided, undecided_commit;
    uint64_t errors[LOAD_CODES];
    char error_texts[LOAD_CODES][240]; /* the first of each code; "" = no text */
    bool stalled;                      /* calls had to be cancelled at the end */
};
/* 0 = it ran (with or without errors of the calls); negative = it could not. */
int load_run(const struct load_options *o, struct load_result *ret, struct errmsg *e) MUSTCHECK;
