/*
 * A lane: the group commit of one worker, and the only door by which anything about a transaction or delivery becomes durable.
 *
 * Operations (Prepare, Confirm, Cancel, Publish, answers of checks, decisions of people) and riders (cursors, spilled and
 * finished deliveries, check rows) enter; while one commit is in flight the next batch collects; a batch is one transaction with one
 * lane_log row (lane, seq), whose primary key is also the fence. An answer is given only after that commit. See lane.c for the states
 * and STORAGE.md section 3 (db/README.md) for the losses that each rule prevents. All functions are @thread of the loop.
 */
#pragma once

#include "core/attempt.h"
#include "core/tx.h"
#include "loop/loop.h"
#include "store/store.h"

enum op_kind { OP_PREPARE, OP_PUBLISH, OP_CONFIRM, OP_CANCEL };

enum op_outcome {
    OP_OK,                /* done now, or a repeat that agrees; the commit that proves it is durable */
    OP_NOT_FOUND,         /* Confirm / Cancel of an id that is not (yet) stored */
    OP_CONTENT_DIFFERS,   /* same id, other content; or a Confirm with other bodies than the stored decision's */
    OP_DECIDED_OTHERWISE, /* see decision and decided_by; also any Prepare, Publish or Confirm on a tombstone */
    OP_BODIES_DIFFER,     /* the bodies given are not those that were declared body_later, one each */
    OP_PRODUCER_DIFFERS,  /* the transaction belongs to another producer */
    OP_PAST_RETENTION,    /* the id lies below the retention floor */
    OP_REFUSED,           /* PostgreSQL refused a value (`why`): nothing of this operation is stored */
    OP_UNAVAILABLE,       /* the store cannot write now; nothing is stored */
    OP_OUTCOME_UNKNOWN,   /* a commit was sent and its answer lost: repeat under the same id */
    OP_EXPIRED,           /* its deadline passed before its batch formed; nothing is stored */
    OP_SHUTDOWN,          /* the lane is closing; nothing is stored */
};

/*
 * One operation, owned by the lane from lane_submit() until `done`. The submitter keeps the memory that the views point to until then.
 */
struct lane_op {
    struct list link;
    struct hnode node; /* private */
    /* in */
    enum op_kind kind;
    enum tx_origin origin; /* of the decision: rpc, check, admin */
    struct uuid id;
    struct tx_content
        *content; /* Prepare, Publish: the submitter's reference, the lane takes its own where it keeps it */
    struct tx_bodies *bodies;   /* Confirm: for messages declared body_later, NULL = none; the submitter's */
    struct bytes producer;      /* Confirm, Cancel: n = 0 means not given; else it must match */
    struct bytes reason, actor; /* may be empty */
    int64_t check_after_ms;     /* Prepare: the request's, or the producer's policy */
    bool tombstone;       /* Cancel: an unknown id may be closed for ever (producer given, id within the window) */
    uint64_t deadline_ns; /* CLOCK_MONOTONIC; 0 = none */
    void (*done)(struct lane_op *op); /* once */
    /* out */
    enum op_outcome outcome;
    enum tx_state state;             /* after the operation (OK), or the stored one */
    enum tx_origin decided_by;       /* origin of the stored decision, none if undecided */
    int64_t prepare_us, decision_us; /* microseconds since 1970, 0 = unknown or none */
    char why[160];                   /* REFUSED, UNAVAILABLE: for people */
    /* private */
    bool won_header, won_decision, exact, queued;
    uint64_t queued_ns;
};

/* A cursor position: every message of the lane before it is settled. index = ordinal in conf * 128 + n. */
struct lane_pos {
    int32_t seq, index;
};
static inline int lane_pos_cmp(struct lane_pos a, struct lane_pos b) {
    return a.seq != b.seq ? (a.seq < b.seq ? -1 : 1) : a.index != b.index ? (a.index < b.index ? -1 : 1) : 0;
}
/* Cursor targets in `prog`: subscription id (> 0), or -1 - delay class for the finder. */
#define LANE_TARGET_FINDER(cls) (-1 - (cls))

/* --- riders: rows that commit together with the batch they joined --- */
struct lane_batch;
enum { LANE_FULL = 1 }; /* positive outcome of the adders: no room in this batch, come again with the next */

/* Where a cursor stands. At most one per target and batch; the later call replaces the earlier. */
int lane_add_progress(struct lane_batch *b, int32_t target, struct lane_pos pos) MUSTCHECK;
/* Counters of a subscription, added up. */
int lane_add_counts(struct lane_batch *b, int32_t sub, int32_t delivered, int32_t dead, int32_t discarded,
                    int32_t spilled) MUSTCHECK;
/* An undecided transaction whose first check is due at `due_us`. DO NOTHING if there is a row. */
int lane_add_check(struct lane_batch *b, const struct uuid *tx, const char *producer, int64_t due_us) MUSTCHECK;
/* End of a claimed check that brought no decision, by token: next due in `due_in_ms`, counts as they are now; stuck moves it to STUCK, since its due. */
struct check_finish {
    struct uuid tx;
    int32_t token;
    int64_t due_in_ms;
    int32_t unknowns, failures;
    bool stuck, remove;     /* remove: the transaction is decided, the row goes */
    const char *last_error; /* NULL = none; copied */
};
int lane_add_check_finish(struct lane_batch *b, const struct check_finish *f) MUSTCHECK;
/*
 * A delivery that leaves the window without success: its first attempt failed, or it is not due yet, or it expired. Goes in the same
 * batch as the progress that passes it. DO NOTHING.
 */
struct spill {
    int32_t sub;
    struct uuid tx;
    int16_t n;
    int64_t due_in_ms;
    int64_t due_us; /* 0, or the time to deliver at (since 1970), in place of due_in_ms; its age counts from there */
    int32_t lane, seq;
    int32_t attempt;        /* made so far; 0: none, and `error` means nothing */
    const char *error;      /* copied */
    struct attempt_end how; /* response: copied */
    bool dead;              /* refused for good at once: a dead letter instead of a row to retry */
    bool expired;           /* discarded instead */
};
int lane_add_spill(struct lane_batch *b, const struct spill *s) MUSTCHECK;
/*
 * A delivery that succeeded at once and whose producer is to be told: an outcome event goes into the outbox. In the same batch as the
 * progress that passes it, so there is one for each that was recorded.
 */
int lane_add_told(struct lane_batch *b, int32_t sub, const struct uuid *tx, int16_t n) MUSTCHECK;
/* End of a claimed delivery, by token. */
enum delivery_end { DELIVERY_DELIVERED, DELIVERY_RETRY, DELIVERY_DEAD, DELIVERY_DISCARDED };
struct delivery_finish {
    int32_t sub;
    struct uuid tx;
    int16_t n;
    int32_t token;
    enum delivery_end end;
    int64_t due_in_ms;      /* RETRY */
    int32_t attempt;        /* made so far */
    const char *error;      /* RETRY, DEAD; copied. NULL or "": it was not tried */
    struct attempt_end how; /* response: copied */
    bool told;              /* DELIVERED: as lane_add_told(), if the token holds */
    struct uuid replay;     /* lane_add_replay_finish() */
};
int lane_add_delivery_finish(struct lane_batch *b, const struct delivery_finish *f) MUSTCHECK;
/*
 * The same of a replay, `f->replay`: counted in replay_count only. DEAD: it failed, DISCARDED: it was not sent. One whose token does
 * not hold any more changes nothing.
 */
int lane_add_replay_finish(struct lane_batch *b, const struct delivery_finish *f) MUSTCHECK;

/*
 * Who rides. `collect` is called while a batch forms and adds what is ready, all of it or up to LANE_FULL; exactly one of
 * `committed` and `lost` follows for every collect that added something, before the next collect. Retries of an aborted batch, the
 * exact form and the resolution of an unknown commit happen inside the lane in between.
 */
struct lane_rider {
    struct list link;
    void (*collect)(void *arg, struct lane_batch *b);
    /* stale = how many finishes of this batch met another token: somebody else took the row over. */
    void (*committed)(void *arg, unsigned stale);
    void (*lost)(void *arg); /* the lane is gone (fenced or closed): nothing of it was stored by this lane */
    void *arg;
    bool added; /* private */
};

/* A confirmed transaction of a committed entry, at ordinal i; content is NULL unless it was still in memory. */
struct lane_confirmed {
    struct uuid tx;
    struct tx_content *content; /* the callee takes its own reference */
};

struct lane_owner {
    /* The lane is open: number and first seq. Comes again with a new number after it was fenced. */
    void (*opened)(void *arg, int32_t lane);
    /* Entry `seq` is durable; conf_n may be 0. Comes in order of seq. */
    void (*committed)(void *arg, int32_t lane, int32_t seq, int64_t at_us, const struct lane_confirmed *conf,
                      uint32_t conf_n);
    /* Somebody sealed this lane: stop dispatching from it and forget it. A new one will be `opened`. */
    void (*fenced)(void *arg, int32_t lane);
    void *arg;
};

struct lane;
/* `run`: this worker's identity, its row in `worker` must exist. Opens by itself, and again after being fenced. */
int lane_new(struct loop *l, struct store *s, const struct uuid *run, const struct lane_owner *owner, struct lane **ret)
    MUSTCHECK;
/* An adopted lane of a dead worker, sealed by us at `next_seq` - 1: takes riders only and writes kind P entries behind the seal. */
int lane_adopt(struct loop *l, struct store *s, const struct uuid *run, int32_t number, int32_t next_seq,
               const struct lane_owner *owner, struct lane **ret) MUSTCHECK;
void lane_add_rider(struct lane *l, struct lane_rider *r);
void lane_remove_rider(struct lane *l, struct lane_rider *r);

/* 0 = taken, to be committed after the next lane_kick(l, 0); 1 = queue full (operations or bytes), nothing taken. */
int lane_submit(struct lane *l, struct lane_op *op) MUSTCHECK;
/* A rider has something: a commit follows within `within_ms` at the latest, at once with 0. */
void lane_kick(struct lane *l, uint64_t within_ms);
bool lane_ready(const struct lane *l);     /* can commit now */
int32_t lane_number(const struct lane *l); /* 0 = not open yet */
/* The owner's 3.5 s rule: false stops commits and dispatching until true (its heartbeat got through). */
void lane_allow(struct lane *l, bool allowed);

/*
 * Stops taking operations (new ones get OP_SHUTDOWN), commits what is queued and what riders still have, writes the seal (kind S,
 * state sealed) and calls fn once. Up to the caller to bound it in time with lane_free().
 */
void lane_close(struct lane *l, void (*fn)(void *arg), void *arg);
void lane_free(
    struct lane
        *l); /* queued operations get OP_SHUTDOWN, in-flight ones OP_OUTCOME_UNKNOWN, riders lost(). NULL allowed */
