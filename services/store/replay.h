/*
 * Replays: confirmed messages that are sent to a subscription again. All on a connection for people, @thread of its loop.
 *
 * A replay is a row with a cursor over the log, in order of the time of decision. Each step hands over some messages, as
 * rows of replay_due, and moves the cursor, in one statement; any replica may make the next step. The rows are claimed and
 * ended like those to retry (read.h, lane.h); what becomes of them is counted in replay_count, never in the counters of
 * the subscription.
 */
#pragma once

#include "store/read.h"

enum { REPLAY_IDS_MAX = 1000, REPLAY_COUNT_MAX = 10000, REPLAY_SAMPLE = 10, REPLAY_RATE_MAX = 1000 };
enum replay_state { REPLAY_RUNNING = 1, REPLAY_DONE, REPLAY_CANCELLED };

/* By time (ids_n = 0), or by ids. Strings NULL = any. */
struct replay_spec {
    struct uuid id;
    const char *subscription, *producer;
    int64_t from_us, to_us; /* of the decision: from <= at < to */
    const struct uuid *ids; /* transactions */
    size_t ids_n;
    int32_t rate; /* messages a second */
    const char *actor, *reason;
};

struct replay {
    struct uuid id;
    const char *subscription, *asked, *producer, *actor, *reason, *last_error; /* "" = none */
    int64_t from_us, to_us, progress_us, at_us, ended_us;                      /* 0 = none */
    enum replay_state state;
    int32_t rate;
    int64_t sent, delivered, failed, skipped;
};
/* Everything is valid during the callback only. code: 0, or -EAGAIN. n = 0: there is none. */
typedef void replay_fn(void *arg, int code, const struct replay *r, size_t n);

/* What a spec asks for, as text: equal for a repeat. Into `out`, which the caller made. */
void replay_asked(const struct replay_spec *s, struct buf *out);
/* Makes it, with its row of audit; nothing if the id is there. Answers what is stored under the id; n = 0: no such subscription. */
int replay_start(struct pg_conn *c, const struct replay_spec *s, replay_fn *fn, void *arg) MUSTCHECK;
int replay_get(struct pg_conn *c, const struct uuid *id, replay_fn *fn, void *arg) MUSTCHECK;
/* Newest first; before_us and before: the last one of the page before, 0 = the first page. */
int replay_list(struct pg_conn *c, const char *subscription, int64_t before_us, const struct uuid *before,
                int32_t limit, replay_fn *fn, void *arg) MUSTCHECK;
/* Ends it if it runs, and says so in audit; what is under way may still arrive. Answers it. */
int replay_cancel(struct pg_conn *c, const struct uuid *id, const char *actor, const char *reason, replay_fn *fn,
                  void *arg) MUSTCHECK;

/* How many messages match, at most REPLAY_COUNT_MAX + 1, and the first few. found: false = no such subscription. */
struct replay_matches {
    bool found;
    int64_t count;
    const char *sample[REPLAY_SAMPLE]; /* "<transaction_id>.<n>" */
    size_t sample_n;
};
typedef void replay_matches_fn(void *arg, int code, const struct replay_matches *m);
int replay_count(struct pg_conn *c, const struct replay_spec *s, replay_matches_fn *fn, void *arg) MUSTCHECK;

/* See reader_step_replay(). */
int replay_step(struct pg_conn *c, reader_step_fn *fn, void *arg) MUSTCHECK;
