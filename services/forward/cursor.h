/*
 * A cursor: how far one subscription is in one lane. It reads the lane's confirmed transactions in order, hands those
 * of its topic to the outlet, and keeps the window of what is under way. @thread of the loop
 *
 *     read     where it reads next
 *     W        everything before it is delivered, or about to be in a row to retry (window.h)
 *     staged   W in the batch in flight
 *     durable  W as committed: where somebody else would go on
 */
#pragma once

#include "forward/feed.h"
#include "forward/outlet.h"
#include "forward/tail.h"
#include "forward/window.h"

struct sub_cursor {
    struct list in_feed, in_outlet;
    struct list changed; /* in feed.changed: has something to record */
    struct list riding;  /* in feed.riding: has something in the batch in flight */
    struct feed *feed;
    struct outlet *outlet;
    struct tail_reader reader;
    struct window window;
    struct lane_pos read, staged, durable;
    uint32_t staged_n;    /* messages that W passed in the batch in flight */
    uint32_t staged_done; /* those of them that were delivered */
    int32_t delivered,
        spilled;          /* passed, and not yet counted in any batch: only if a batch was full at the last moment */
    int32_t written_seq;  /* seq of the lane's entry that held this cursor last */
    int64_t stands_at_us; /* time of the entry that it reads next, if it stands there */
    bool passed;          /* it has read over something since it was recorded */
    bool blocked;         /* it stands at a message of its own that could not be started */
    bool known;           /* durable is known */
    bool ready;           /* it walks */
    bool asked;           /* the question for that is under way */
};

int cursor_new(struct feed *feed, struct outlet *o, struct sub_cursor **ret) MUSTCHECK;
void cursor_free(struct sub_cursor *c); /* what is under way comes back to nobody */
/* Begins (again) at `pos`, with nothing under way. written_seq: the entry of the log that holds this position. */
void cursor_start(struct sub_cursor *c, struct lane_pos pos, int32_t written_seq);
/* Forgets everything but its durable position and stands still. */
void cursor_stop(struct sub_cursor *c);
/* The same when the record of what was sent is lost: what goes on from the durable position sends it again. Counts that. */
void cursor_abandon(struct sub_cursor *c);
/* Starts what may be started. */
void cursor_pump(struct sub_cursor *c);
/*
 * Rows of this cursor for a batch: 0; LANE_FULL: nothing was added; CURSOR_MORE: some rows had to wait. Nothing is
 * added either if nothing changed, unless `must`. If something was, the cursor is in feed.riding until
 * cursor_committed().
 */
enum { CURSOR_MORE = 2 };
int cursor_collect(struct sub_cursor *c, struct lane_batch *b, bool must) MUSTCHECK;
void cursor_committed(struct sub_cursor *c);
/* It stands behind messages that are not its own, and no record says so. */
bool cursor_unrecorded(const struct sub_cursor *c);
/* Time of the oldest message that is not settled, 0 = none or not known. */
int64_t cursor_oldest_us(struct sub_cursor *c);
/* Everything before `pos` is settled, durably. */
bool cursor_passed(const struct sub_cursor *c, struct lane_pos pos);
