/*
 * What the cursors of one lane read: the newest committed entries from memory, everything older from the log.
 *
 * The ring holds the entries of the lane's tail with references to their payloads, bounded in bytes and number; what
 * no cursor needs any more leaves it, and so does the oldest entry when it is full. A cursor behind the ring, or at an
 * entry whose payload was not in memory, gets a chunk: read from the log and the store once for all cursors that wait
 * at that place, held until the last of them has passed it. Chunks share forward_options.read_bytes; a slow reader
 * keeps its own share and no more. @thread of the loop
 */
#pragma once

#include "forward/env.h"

struct chunk;
struct refill;
struct tail;

/* One per cursor; zeroed at first. */
struct tail_reader {
    struct chunk *chunk;
    struct refill *refill; /* under way */
    struct list waiting;   /* of refill */
};

/* A confirmed transaction. */
struct tail_item {
    struct lane_pos pos; /* index = ordinal * 128 */
    int64_t at_us;
    const struct uuid *tx;
    struct tx_content *content; /* NULL = not stored any more. Valid until the next call of this tail */
    bool from_log;
};

enum tail_found {
    TAIL_ITEM = 1, /* *ret is the first transaction at or after *pos */
    TAIL_END,      /* there is none now; *pos went behind the last entry */
    TAIL_WAIT,     /* being read; `arrived` will tell */
};

/* `holders` counts the readers of this worker that hold or wait for a chunk. `arrived`: look again. */
struct tail_options {
    struct forward_env *env;
    int32_t lane;
    uint32_t *holders;
    void (*arrived)(void *arg);
    void *arg;
};
int tail_new(const struct tail_options *o, struct tail **ret) MUSTCHECK;
void tail_free(struct tail *t); /* readers were released. NULL allowed */
/* Where the ring begins: entries before `seq` are read from the log. */
void tail_begin(struct tail *t, int32_t seq);
/* A committed entry. keep = false: nobody reads this lane. */
void tail_push(struct tail *t, int32_t seq, int64_t at_us, const struct lane_confirmed *conf, uint32_t n, bool keep);
/* No cursor needs an entry before `seq`. */
void tail_trim(struct tail *t, int32_t seq);
int32_t tail_next_seq(const struct tail *t);

/* index of *pos: the transaction's ordinal counts, n does not. */
enum tail_found tail_next(struct tail *t, struct tail_reader *r, struct lane_pos *pos, struct tail_item *ret);
/* True if *pos was moved behind the last entry because nothing is there: never reads. */
bool tail_skip(struct tail *t, struct lane_pos *pos);
/* Gives up chunk and waiting. */
void tail_release(struct tail *t, struct tail_reader *r);
