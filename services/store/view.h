/* What people ask: one transaction with everything known about it, lists, stuck, dead letters. On reader_people(). @thread of the loop */
#pragma once

#include "core/tx.h"
#include "store/read.h"

enum delivery_state {
    DELIVERY_STATE_PENDING = 1,
    DELIVERY_STATE_RETRYING,
    DELIVERY_STATE_DELIVERED,
    DELIVERY_STATE_DEAD,
    DELIVERY_STATE_DISCARDED
};

/* An attempt that failed, or that succeeded after others had failed. Texts: "" = none. */
struct view_attempt {
    int32_t attempt, status, latency_ms; /* status 0 = none */
    int64_t at_us;
    const char *class, *error, *response, *worker;
};
/* A check that gave no verdict. */
struct view_check {
    int32_t count, unknowns; /* which, from 1; answered UNKNOWN so far */
    int64_t at_us;
    const char *error;
};
struct view_delivery {
    int16_t n;
    int32_t sub;
    const char *sub_name;
    enum delivery_state state;
    int32_t attempts;
    const char *last_error;             /* NULL = none */
    int64_t next_attempt_us;            /* 0 = none */
    const struct view_attempt *history; /* oldest first, the latest 1,000 of the transaction; only if asked for */
    size_t history_n;
};
struct view_message {
    int16_t n;
    struct msg msg;    /* headers parsed; body only if asked for */
    int32_t body_size; /* bytes, also when the body is left out; msg.later: as declared, also when it has come */
};
struct view_tx {
    struct uuid id;
    enum tx_state state;
    enum tx_decision decision;
    enum tx_origin origin;
    const char *producer, *business_key, *actor, *reason, *check_error; /* "" = none */
    int64_t prepare_us, decision_us, next_check_us, stuck_us;           /* 0 = none */
    int32_t checks, unknowns;
    const struct view_message *messages;
    size_t messages_n;
    const struct view_delivery *deliveries;
    size_t deliveries_n;
    const struct view_check *history; /* of checks, oldest first, the latest 100; only if asked for */
    size_t history_n;
};
/* code 0 and t NULL = not found. Everything is valid during the callback only. A tombstone has no messages. */
typedef void view_tx_fn(void *arg, int code, const struct view_tx *t);
int view_get(struct pg_conn *c, const struct uuid *id, bool bodies, bool history, view_tx_fn *fn, void *arg) MUSTCHECK;
/* Of one that was not found: does its id lie past retention? */
typedef void view_past_fn(void *arg, int code, bool past);
int view_past(struct pg_conn *c, const struct uuid *id, view_past_fn *fn, void *arg) MUSTCHECK;

/*
 * Does the producer have an undecided transaction? Looked at is what is due for a check, or was, and what was prepared within the
 * last quarter of an hour under an id of that time: what is older has become due.
 */
typedef void view_undecided_fn(void *arg, int code, bool any);
int view_undecided(struct pg_conn *c, const char *producer, view_undecided_fn *fn, void *arg) MUSTCHECK;

/* Newest first. `before` = page start (exclusive), all zero = none. Strings NULL = any; state 0 = any; times 0 = any. */
struct view_filter {
    const char *producer, *business_key, *topic;
    enum tx_state state;
    int64_t start_us, end_us;
    struct uuid before;
    bool has_before;
    int32_t limit;   /* 1..1000 */
    bool deliveries; /* with those of each, without their attempts; of one transaction after the other */
};
/* Without bodies, and deliveries unless asked for; headers of a page that come to more than 8 MiB are left out from there on. */
typedef void view_list_fn(void *arg, int code, const struct view_tx *t, size_t n);
int view_list(struct pg_conn *c, const struct store *s, const struct view_filter *f, view_list_fn *fn, void *arg)
    MUSTCHECK;
/* Undecided and STUCK: the same as view_list with that state. */
int view_stuck(struct pg_conn *c, const struct view_filter *f, view_list_fn *fn, void *arg) MUSTCHECK;

/* STUCK transactions that meet the filter (producer and times of it) and, unless NULL, are among these ids. */
struct view_recheck {
    struct view_filter filter;
    const struct uuid *ids;
    size_t ids_n;
    bool force;                 /* put them back under checks, up to 10,000; else only count */
    const char *actor, *reason; /* for the audit log; reason NULL = none */
};
/* `more`: there are more than those counted. `sample`: up to 10 of them; valid during the callback. */
typedef void view_recheck_fn(void *arg, int code, int64_t count, bool more, const struct uuid *sample, size_t n);
int view_recheck(struct pg_conn *c, const struct view_recheck *r, view_recheck_fn *fn, void *arg) MUSTCHECK;

struct view_dead {
    int32_t sub;
    const char *sub_name;
    struct uuid tx;
    int16_t n;
    int64_t at_us;
    int32_t attempts;
    const char *error, *class, *producer, *business_key;
    const struct view_attempt *history; /* oldest first; only in view_dead_get */
    size_t history_n;
    struct msg msg;    /* body only in view_dead_get */
    int32_t body_size; /* bytes, also when the body is left out */
};
struct view_dead_filter {
    const char *subscription; /* NULL = any */
    const char *topic, *producer, *class;
    int64_t start_us, end_us; /* of the death */
    int64_t before_at_us;     /* page: (at, tx, n, sub) strictly below; 0 = none */
    struct uuid before_tx;
    int16_t before_n;
    int32_t before_sub; /* 0: nothing more of (at, tx, n), which may pass over another subscription's letter */
    int32_t limit;
};
typedef void view_dead_fn(void *arg, int code, const struct view_dead *d, size_t n);
int view_dead_list(struct pg_conn *c, const struct view_dead_filter *f, view_dead_fn *fn, void *arg) MUSTCHECK;
int view_dead_get(struct pg_conn *c, const char *subscription, const struct uuid *tx, int16_t n, view_dead_fn *fn,
                  void *arg) MUSTCHECK;
/*
 * One piece of what people do with dead letters, one transaction with its audit row. Redrive: DEAD -> PENDING, the rows move to
 * delivery_due with no attempt made, due now; one whose message is past retention stays and is not counted. Discard: DEAD -> DISCARDED,
 * the rows go, with those of deleted subscriptions. What another act is moving at this moment is passed over. By filter
 * (f->limit at most, 1 to VIEW_DEAD_ACT_MAX), or by keys. VIEW_DEAD_COUNT_..: how many there are, up to 10,001; nothing changes.
 * fn: how many, and the database's clock. The arguments are not kept.
 */
enum view_dead_act { VIEW_DEAD_REDRIVE, VIEW_DEAD_DISCARD, VIEW_DEAD_COUNT_REDRIVE, VIEW_DEAD_COUNT_DISCARD };
enum { VIEW_DEAD_ACT_MAX = 1000, VIEW_DEAD_COUNT_MAX = 10000 };
typedef void view_count_fn(void *arg, int code, int64_t count, int64_t now_us);
struct dead_key {
    const char *subscription;
    struct uuid tx;
    int16_t n;
};
int view_dead_act(struct pg_conn *c, enum view_dead_act act, const struct view_dead_filter *f, const char *actor,
                  const char *reason, view_count_fn *fn, void *arg) MUSTCHECK;
int view_dead_act_keys(struct pg_conn *c, enum view_dead_act act, const struct dead_key *keys, size_t n,
                       const char *actor, const char *reason, view_count_fn *fn, void *arg) MUSTCHECK;

/* The audit log, newest first. Strings NULL = any; times 0 = any. */
struct view_audit {
    int64_t id, at_us;
    const char *actor, *act, *object, *reason,
        *detail;   /* "" = none; detail: {"before": .., "after": ..}, cut at 16 KiB */
    int64_t count; /* of things that it changed */
};
struct view_audit_filter {
    const char *actor, *act, *object;
    int64_t start_us, end_us;
    int64_t before_id; /* page: ids strictly below; 0 = the first */
    int32_t limit;     /* 1..1000 */
};
typedef void view_audit_fn(void *arg, int code, const struct view_audit *v, size_t n);
int view_audit(struct pg_conn *c, const struct view_audit_filter *f, view_audit_fn *fn, void *arg) MUSTCHECK;
