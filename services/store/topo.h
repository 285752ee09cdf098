/*
 * Run-time configuration in PostgreSQL: topics, producers, subscriptions and the epoch; applying changes and watching for them.
 */
#pragma once

#include "core/policy.h"
#include "store/pg.h"
#include "store/store.h"

/* Watches cfg.epoch (every 500 ms on its own connection) and publishes a snapshot whenever it changed. @thread of the loop */
struct topo_watch;
/*
 * on_change: once per new snapshot, at first as soon as one could be read; the callee takes a reference if it keeps it. If a subscription had to be left out because this version cannot read it, the snapshot carries minus its epoch:
 * no stored epoch is negative, so a worker that does not know all subscriptions can drain no lane.
 */
int topo_watch_new(struct loop *l, struct store *s, void (*on_change)(void *arg, struct topology *t), void *arg,
                   struct topo_watch **ret) MUSTCHECK;
void topo_watch_free(struct topo_watch *w);
/* Asks for a look now (after an apply on this replica). Not after topo_watch_free(). @thread any */
void topo_watch_kick(struct topo_watch *w);

/* One declared object. `spec` is its JSON without the name. */
enum topo_kind { TOPO_TOPIC, TOPO_PRODUCER, TOPO_SUBSCRIPTION };
struct topo_object {
    enum topo_kind kind;
    const char *name;
    const char *spec;    /* JSON text; not read with `remove` */
    bool remove;         /* it shall go; it must exist */
    bool from_beginning; /* subscriptions: where a new one starts */
    bool paused;         /* subscriptions, as stored */
    int64_t created_us;  /* subscriptions, as stored */
};
enum topo_act { TOPO_CREATE, TOPO_UPDATE, TOPO_DELETE, TOPO_UNCHANGED };
/* A member that differs. Values are JSON text, secrets masked, cut at some length; "" = not there. */
struct topo_difference {
    const char *field; /* a path, "retry.max_attempts" */
    const char *before, *after;
};
struct topo_change {
    enum topo_kind kind;
    enum topo_act act;
    char name[129];
    const struct topo_difference *differences; /* of an update */
    size_t differences_n;
};
/*
 * Applies all objects in one transaction that raises cfg.epoch if anything changed; what is not named stays, or is deleted with `prune`.
 * The transaction is a single pipeline, conditional on the epoch that the plan was made from: `c` may be shared with other queries.
 * A new subscription gets its sub_vec rows in the same transaction. Objects refer to each other by name: a subscription of an unknown topic
 * is refused (-EINVAL), so is a changed topic of an existing subscription (-EPERM) and pruning a topic that still has subscriptions. An
 * object to be removed that does not exist is -ENOENT, a topic that a subscription still reads -EBUSY. validate_only
 * writes nothing. `actor` goes to audit, secrets do not. The callback comes once, on the loop: changes_n entries (those given in their
 * order, then what is deleted), or err text and a negative code: -EINVAL, -EPERM, -ENOENT, -EBUSY refused (the text names the object), -EAGAIN try again (the text
 * says whether something may have been applied), -EIO a mistake of ours, -ENOMEM, -E2BIG. Objects are copied.
 */
typedef void topo_applied_fn(void *arg, int code, const char *why, const struct topo_change *changes, size_t changes_n,
                             int64_t epoch);
int topo_apply(struct pg_conn *c, const struct topo_object *objects, size_t n, bool validate_only, bool prune,
               const char *actor, topo_applied_fn *fn, void *arg) MUSTCHECK;
/*
 * Pauses or resumes a subscription: one transaction that raises cfg.epoch if anything changes, with an audit row; then waits until every
 * run that may dispatch has applied it, or has been without a beat for dead_ms. fn comes once: 0 = done everywhere (also when nothing changed), 1 = stored, but not every run
 * has said so within wait_ms, -ENOENT = no such subscription, -EAGAIN = the store is away or busy, whether it was stored is not
 * known. `l` is the loop of `c`; texts are copied.
 */
typedef void topo_state_fn(void *arg, int code);
int topo_set_paused(struct loop *l, struct pg_conn *c, const char *name, bool paused, const char *actor,
                    const char *reason, int64_t dead_ms, int64_t wait_ms, topo_state_fn *fn, void *arg) MUSTCHECK;
/* All objects as stored, for export: rows come once through fn (kind, name, spec JSON text, state). */
typedef void topo_exported_fn(void *arg, int code, const struct topo_object *objects, size_t n, int64_t epoch);
int topo_export(struct pg_conn *c, topo_exported_fn *fn, void *arg) MUSTCHECK;
