/*
 * Reads of a worker: payloads by id, the log of a lane, what became of a transaction, lists. On connections of their own, never
 * the lane's. All @thread of the loop; every callback comes exactly once if the call returned 0, with code 0 or negative
 * (-EAGAIN: store away or busy, try later; -EINVAL: *bug*).
 */
#pragma once

#include "core/tx.h"
#include "store/lane.h"
#include "store/pg.h"

struct
    reader; /* two connections: one for the forwarder and finder (pinned plans), one for people's queries (statement_timeout) */
int reader_new(struct loop *l, struct store *s, struct reader **ret) MUSTCHECK;
void reader_free(struct reader *r);              /* callbacks under way come with -ECANCELED */
struct pg_conn *reader_people(struct reader *r); /* for admin: topo_apply and the like */
bool reader_ready(const struct reader *r);

/* Payloads of confirmed transactions, bodies included, in the order asked for; NULL where none is stored. Content is unref'd after the callback. */
typedef void reader_contents_fn(void *arg, int code, struct tx_content *const *contents, size_t n);
int reader_contents(struct reader *r, const struct uuid *ids, size_t n, size_t max_bytes, reader_contents_fn *fn,
                    void *arg) MUSTCHECK;
/* max_bytes bounds the answer: ids past it come as NULL with code 0 and `n` cut to what fitted (at least 1). */

/* Entries of a lane from `from_seq` on that have confirmed ids; `next_seq` = where to go on; at most max_ids ids (at least one entry). */
struct log_entry {
    int32_t seq;
    int64_t at_us;
    const struct uuid *conf;
    uint32_t conf_n;
};
typedef void reader_log_fn(void *arg, int code, const struct log_entry *entries, size_t n, int32_t next_seq,
                           bool at_end);
int reader_log(struct reader *r, int32_t lane, int32_t from_seq, size_t max_ids, reader_log_fn *fn, void *arg)
    MUSTCHECK;
/* at_end: the lane has no entry at or after next_seq now. Entries without conf are skipped but counted in next_seq. */

/*
 * The finder: undecided ids of entries of `lane` from `pos.seq` on that are older than the class, up to max_ids scanned. due_us = entry time + check_after.
 * next = new cursor (seq, 0): every id of the class before it is decided or in the list.
 */
struct undecided {
    struct uuid tx;
    const char *producer; /* valid during the callback */
    int64_t due_us;
};
typedef void reader_undecided_fn(void *arg, int code, const struct undecided *u, size_t n, struct lane_pos next);
int reader_undecided(struct reader *r, int32_t lane, int delay_class, struct lane_pos pos, size_t max_ids,
                     reader_undecided_fn *fn, void *arg) MUSTCHECK;

/* Claims due checks of these producers (at most slots[i] each, at most 64 producers), lease = lease_ms; rows whose transaction is decided are deleted on the way. */
struct check_ask {
    const char *producer;
    int32_t slots;
};
struct check_claim {
    struct uuid tx;
    const char *producer, *business_key;
    int32_t token, tries, unknowns, failures;
    int64_t prepared_us; /* time of the id, microseconds since 1970 */
    int64_t stored_us;   /* when it was stored, by the database's clock */
};
typedef void reader_checks_fn(void *arg, int code, const struct check_claim *c, size_t n);
int reader_claim_checks(struct reader *r, const struct check_ask *asks, size_t n, int64_t lease_ms,
                        reader_checks_fn *fn, void *arg) MUSTCHECK;

/* Claims due deliveries of these subscriptions (at most slots[i] each), lease = lease_ms. */
struct delivery_ask {
    int32_t sub;
    int32_t slots;
};
struct delivery_claim {
    int32_t sub;
    struct uuid tx;
    int16_t n;
    int32_t attempt, token, lane, seq;
    int64_t since_us;
    struct uuid replay; /* reader_claim_replays() */
};
typedef void reader_deliveries_fn(void *arg, int code, const struct delivery_claim *c, size_t n);
int reader_claim_deliveries(struct reader *r, const struct delivery_ask *asks, size_t n, int64_t lease_ms,
                            reader_deliveries_fn *fn, void *arg) MUSTCHECK;

/* The same of replays. */
int reader_claim_replays(struct reader *r, const struct delivery_ask *asks, size_t n, int64_t lease_ms,
                         reader_deliveries_fn *fn, void *arg) MUSTCHECK;
/* One step of one replay whose turn it is (replay.h), on the connection for people. running: replays that are not over; soon: the next
 * step need not wait. */
typedef void reader_step_fn(void *arg, int code, int64_t running, bool soon);
int reader_step_replay(struct reader *r, reader_step_fn *fn, void *arg) MUSTCHECK;

/* Cursors of a lane: `prog` folded backwards, then sub_vec; for adoption and for new subscriptions. */
struct cursor {
    int32_t target;
    struct lane_pos pos;
};
typedef void reader_cursors_fn(void *arg, int code, const struct cursor *c, size_t n, int32_t max_seq);
int reader_cursors(struct reader *r, int32_t lane, reader_cursors_fn *fn, void *arg) MUSTCHECK;
/* sub_vec rows of one lane: where subscriptions begin; absent = (0, 0). */
int reader_vector(struct reader *r, int32_t lane, reader_cursors_fn *fn, void *arg) MUSTCHECK;
