/* Inside of a lane's tail, shared by tail.c (ring and search) and refill.c (reading back). */
#pragma once

#include "forward/tail.h"

struct tail_entry {
    int32_t seq;
    uint32_t n;
    int64_t at_us;
    size_t bytes;
    struct lane_confirmed conf[]; /* holds references */
};

struct chunk_item {
    struct lane_pos pos;
    int64_t at_us;
    struct uuid tx;
    struct tx_content *content; /* a reference, or NULL */
};

struct chunk {
    int refs; /* readers, and the refill that makes it */
    struct lane_pos begin, end;
    bool complete; /* read from the log: what it does not hold between begin and end does not exist */
    size_t n;
    struct chunk_item items[];
};

struct tail {
    struct tail_options o;
    struct tail_entry **ring;
    size_t mask, bytes, max_bytes;
    uint64_t head, end; /* ids of entries; slot = id & mask */
    int32_t first_seq, next_seq;
    struct list refills;
    struct timer *again; /* armed after a failure: nothing is read until it fires */
};

struct tail_entry *ring_find(const struct tail *t, int32_t seq, uint64_t *ret_id);
struct tail_entry *ring_next(const struct tail *t, uint64_t *id);

/* refill.c */
void refill_want(struct tail *t, struct tail_reader *r, struct lane_pos pos);
void refill_again(void *arg); /* the timer's */
void refill_orphan_all(struct tail *t);
