/*
 * Between the load (load.c: which messages, when, and what came of them) and what carries its operations: single calls
 * (load_unary.c) or streams (load_stream.c). All on one thread.
 *
 * A message is a place for one message at a time; there are as many as callers. The load gives it a plan and calls step()
 * for each of its operations; the driver ends each by load_step_done(), once, never from inside step().
 */
#pragma once

#include "fate.h"
#include "load.h"
#include "request.h"

#include <grpc/grpc.h>

enum { LOAD_PLAN_MAX = 4, LOAD_CHANNELS_MAX = 64, LOAD_RESPONSE_MAX = 16 << 20 };

struct load_channel {
    grpc_channel *core;
    void *methods[REQUEST_KINDS];
};

struct load_step {
    enum request_kind kind;
    bool again; /* a repeat of the step before */
};
struct load_message {
    size_t index;
    struct uuid *ids; /* one, or all of a batch */
    struct load_step plan[LOAD_PLAN_MAX];
    int plan_n, at;
    enum fate fate;
    uint64_t began_ns; /* in an open loop: when it was to begin */
};

enum load_phase { LOAD_WARM, LOAD_MEASURE, LOAD_DRAIN };

struct load {
    const struct load_options *o;
    struct load_result *result;
    const struct load_driver *driver;
    void *driver_state;
    grpc_completion_queue *queue;
    size_t batches; /* of core, under way: events that will come. Counted by the driver */
    struct load_channel channels[LOAD_CHANNELS_MAX];
    struct request requests[REQUEST_KINDS];
    struct buf scratch; /* to read responses that came in pieces */

    struct load_message *messages, **idle, **paused; /* paused: failed, until the next tick */
    struct uuid *ids;
    size_t idle_n, paused_n, open; /* open: messages with a step under way */
    struct fates fates;
    int64_t now_ms; /* wall clock, for new ids */
    enum load_phase phase;
    bool ending;                           /* no step is under way and none will follow */
    uint64_t phase_end_ns, tick_ns, ok_ns; /* the last operation that went well */
    uint64_t begin_ns, begin_cpu_ns;       /* of the measured time */
    uint64_t shown_ns, shown_messages;     /* by the progress line */
    uint64_t second_end_ns, second_messages;
    /* Open loop. The queue needs no memory: arrival k is due at start_ns + k * interval_ns. */
    double interval_ns;
    uint64_t start_ns, begun, noticed, arrived_before; /* noticed: counted as queued; before the measured time */
};

struct load_driver {
    int (*init)(struct load *l, struct errmsg *e);
    void (*deinit)(struct load *l); /* also after an init that failed or was never called */
    void (*step)(struct load *l, struct load_message *m);
    void (*event)(struct load *l, const grpc_event *ev, uint64_t now);
    void (*flush)(struct load *l);  /* before each waiting; ends all when l->ending. NULL = nothing to do */
    void (*cancel)(struct load *l); /* what is under way ends soon, and badly */
};
extern const struct load_driver load_unary, load_stream;

struct load_outcome {
    int code;
    struct bytes text; /* of an error */
    uint64_t messages; /* that were answered OK: mostly 1 */
};
void load_step_done(struct load *l, struct load_message *m, const struct load_outcome *o, uint64_t now);
void load_note_error(struct load *l, int code, const char *path, struct bytes text);

/* A view; a short slice holds its bytes itself. */
static inline struct bytes load_slice(const grpc_slice *s) {
    return (struct bytes){GRPC_SLICE_START_PTR(*s), GRPC_SLICE_LENGTH(*s)};
}
static inline enum request_form load_form(const struct load_options *o) {
    return o->streams ? REQUEST_TAGGED : o->batch ? REQUEST_BATCH : REQUEST_SINGLE;
}
