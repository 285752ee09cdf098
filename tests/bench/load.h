/*
 * Closed-loop load: a fixed number of callers, each with one message under way; when it is done the next one begins.
 * Runs on the calling thread, which is the one completion-queue thread.
 */
#pragma once

#include "histogram.h"

enum load_mode {
    LOAD_PAIR,    /* Prepare, then Confirm (or Cancel, or nothing) */
    LOAD_PUBLISH, /* Publish */
    LOAD_BATCH,   /* Batch of `batch` Publish operations; each of them is a message */
    LOAD_ECHO,    /* Cancel alone: the smallest call, for bench-echo */
};

struct load_options {
    const char *server, *producer, *topic;
    enum load_mode mode;
    int64_t callers, channels;
    int64_t warmup_ms, run_ms; /* run_ms counts only where count is 0 */
    int64_t count;             /* messages to measure */
    int64_t body, batch;
    int undecided, cancelled, duplicated; /* percent; LOAD_PAIR (duplicated: all modes) */
    bool progress;                        /* a line each second on stderr */
    /* Called when the measured time begins (true) and when it has ended (false); NULL = not. */
    void (*on_phase)(bool begins);
};

enum { LOAD_CODES = 17 };

struct load_result {
    uint64_t elapsed_ns, cpu_ns; /* of the measured time; CPU of this process */
    uint64_t messages;           /* that ended in the measured time, without an error */
    struct histogram latency;    /* of these, without those left undecided; LOAD_BATCH: of the calls */
    /* From the start to the end, warm-up included; operations that were answered OK, repeats not counted. */
    uint64_t prepared, confirmed, cancelled, published, repeats;
    uint64_t errors[LOAD_CODES];
    char error_texts[LOAD_CODES][240]; /* the first of each code; "" = no text */
    bool stalled;                      /* calls had to be cancelled at the end */
};
/* 0 = it ran (with or without errors of the calls); negative = it could not. */
int load_run(const struct load_options *o, struct load_result *ret, struct errmsg *e) MUSTCHECK;
