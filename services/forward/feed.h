/*
 * A feed: one lane as the forwarder sees it. It has the tail that cursors read, the cursors, and the rider by which
 * their progress and spilled deliveries become durable. @thread of the loop
 */
#pragma once

#include "forward/env.h"
#include "forward/retry.h"
#include "forward/tail.h"

struct sub_cursor;
struct outlet;
struct feed_load;

struct feed {
    struct list link; /* the forwarder's */
    struct forward_env *env;
    struct lane *lane;
    int32_t number;
    bool adopted;
    struct lane_rider rider;
    struct tail *tail;
    struct list cursors; /* struct sub_cursor.in_feed */
    struct list changed, riding;
    struct list resting;                /* positions of subscriptions that are not in our snapshot */
    struct retry *retries[RETRY_KINDS]; /* the worker's own lane: ends of claims ride here too */
    int32_t last_seq;                   /* of the newest entry */
    int32_t end_seq;                    /* adopted: there are no messages from here on; -1 = not known yet */
    int32_t scanned_seq;                /* when cursors that need to be written again were last looked for */
    bool kicked;
    uint64_t restarts;
    struct feed_load *load; /* start positions are being read */
    struct timer *timer;    /* reads them again */
};

/* A rider of the lane from now on. Cursors are added by feed_add(). */
int feed_new(struct forward_env *env, struct lane *lane, int32_t number, bool adopted, uint32_t *holders,
             struct feed **ret) MUSTCHECK;
void feed_free(struct feed *f); /* the lane still exists. NULL allowed */
/* A cursor for an outlet. at_start: the lane is new, the subscription older: it begins at the beginning. -ENOMEM */
int feed_add(struct feed *f, struct outlet *o, bool at_start) MUSTCHECK;
/* The cursor goes, its position is kept: the subscription may come back (paused, or unreadable for a while). */
void feed_remove(struct feed *f, struct sub_cursor *c);
/* From lane_owner.committed. */
void feed_committed(struct feed *f, int32_t seq, int64_t at_us, const struct lane_confirmed *conf, uint32_t n);
/* This cursor has something to record. now: sooner than progress_ms. */
void feed_changed(struct feed *f, struct sub_cursor *c, bool now);
void feed_kick(struct feed *f, bool now);
/*
 * Records cursors that only read over messages of others, now and then: an adopter need not read them again, and
 * retention sees that nobody needs them.
 */
void feed_record(struct feed *f);
/* After cursors have read: memory that nobody needs goes. */
void feed_trim(struct feed *f);
bool feed_settled(const struct feed *f);
bool feed_parked(const struct feed *f); /* see forward_lane_parked() */
