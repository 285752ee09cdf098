/*
 * Inside of a lane, shared by lane.c (states, queue, answers), lane_batch.c (forming and the statements of both forms),
 * lane_commit.c (sending a batch and reading what became of it) and lane_rider.c (rows that ride along).
 */
#pragma once

#include "base/arena.h"
#include "store/cache.h"
#include "store/lane.h"
#include "store/pg.h"
#include "store/pgarr.h"

enum {
    BATCH_OPS_MAX = 440,  /* ids of one lane row: it must stay out of TOAST */
    RIDER_ROWS_MAX = 512, /* of each kind in one batch */
    PROGRESS_MAX = 48,    /* cursors in one lane row */
    COUNTS_MAX = 48,
    ARRAYS = 17,
    LANE_REMEMBERED = 16384, /* acknowledged operations that a lane could name if the server lost them */
    STORE_GRACE_MS = 2000,   /* how long an operation waits for a store that is away */
    TRIP_COMMIT = 3,
    TRIP_ROLLBACK = 9,
};

enum lane_state {
    LANE_DOWN,    /* no connection, nothing in flight */
    LANE_OPENING, /* asking for a lane number */
    LANE_READY,
    LANE_COMMITTING, /* a batch is in flight, in either form */
    LANE_READING,    /* committed; reading back what the losers met */
    LANE_UNKNOWN,    /* the connection was lost with a batch in flight */
    LANE_RESOLVING,  /* N is being written, or the row that stands there being read */
    LANE_WAITING,    /* the store refused; trying again after a pause */
    LANE_SEALING,
    LANE_CLOSED,
};

struct check_add {
    struct uuid tx;
    const char *producer;
    int64_t due_us;
};
struct prog {
    int32_t target;
    struct lane_pos pos;
};
struct counts {
    int32_t sub, delivered, dead, discarded, spilled;
};

struct told {
    int32_t sub;
    struct uuid tx;
    int16_t n;
};

struct ended {
    int32_t sub;
    int16_t fate;
};

struct lane_batch {
    struct lane_op
        *ops[BATCH_OPS_MAX]; /* in order of arrival; NULL = answered meanwhile (its outcome is unknown to its caller) */
    struct uuid ids[BATCH_OPS_MAX]; /* of ops, also of those answered */
    uint16_t order[BATCH_OPS_MAX];  /* indexes of ops, sorted by id */
    uint32_t ops_n, ordered_n;
    size_t bytes;
    int32_t seq;
    int64_t nonce;
    int64_t at_us;
    bool exact;     /* the form in use */
    bool noticed;   /* a warning came with the commit: its outcome is not certain */
    bool committed; /* the COMMIT of the exact form came back as such */
    unsigned trip;  /* of the exact form: 1..3, or TRIP_ROLLBACK */
    unsigned stale, attempts;
    struct pg_error error; /* why a transaction that is being rolled back failed */
    struct arena arena;    /* rider texts */
    /* riders; allocated once, at the first use */
    struct check_add *check_adds;
    struct check_finish *check_ends;
    struct spill *spills;
    struct delivery_finish *delivery_ends, *replay_ends;
    struct told *told;
    uint32_t check_adds_n, check_ends_n, spills_n, delivery_ends_n, replay_ends_n, told_n;
    struct prog prog[PROGRESS_MAX];
    struct counts counts[COUNTS_MAX];
    uint32_t prog_n, counts_n;
    uint32_t added;                     /* rider rows of all kinds */
    struct ended ended[RIDER_ROWS_MAX]; /* deliveries whose token held, by the exact form */
    uint32_t ended_n;
    bool ended_known;
    /* what the statements in flight are: the i-th result of a run belongs to steps[i] */
    uint8_t steps[16];
    int steps_n;
    struct lane_confirmed confirmed[BATCH_OPS_MAX]; /* in the order of the lane row; each holds a reference */
    uint32_t confirmed_n;
};

struct lane {
    struct loop *loop;
    struct store *store;
    struct uuid run;
    struct lane_owner owner;
    struct pg_conn *conn;
    struct timer *timer, *sweep;
    struct pg_run pg;
    enum lane_state state;
    bool adopted, allowed, closing, last_ride, freed;
    int depth; /* callbacks of ours on the stack */
    int32_t number, next_seq;
    uint64_t kick_ns; /* when a rider wants a commit; 0 = not */
    struct list queue, riders;
    size_t queue_n, queue_bytes;
    uint64_t exact_until_ns;
    uint32_t batch_max; /* halved while bisecting, grows back */
    unsigned failures;
    struct lane_batch b;
    struct hmap in_batch; /* ids of the batch being formed */
    struct cache cache;
    struct sha256 *sha; /* for bodies of repeated Confirms */
    struct buf arrays[ARRAYS];
    void (*named)(struct pg_run *run, const struct pg_error *err);
    char set_name[128];
    bool noop_written;
    /* lane_lost.c: what was acknowledged in this lane */
    int32_t last_seq;
    int64_t last_nonce;       /* 0 = not known */
    struct lane_acked *acked; /* ring of the latest */
    uint64_t acked_n;
    bool checked; /* this connection leads to a server that still has it */
    bool lost_told;
    bool silent; /* at the last sweep the connection had been silent for too long */
    void (*closed)(void *arg);
    void *closed_arg;
};

enum batch_step {
    STEP_OTHER,
    STEP_LANE,
    STEP_HEADERS,
    STEP_DECISIONS,
    STEP_CHECK_ENDS,
    STEP_DELIVERY_ENDS,
    STEP_COMMIT,
    STEP_READBACK
};

/* lane_batch.c */
const struct pg_stmt *lane_all_stmts(void);
bool batch_form(struct lane *l); /* false = nothing to commit */
void batch_clear(struct lane_batch *b);
void batch_drop_confirmed(struct lane_batch *b);
int batch_find(const struct lane_batch *b, const struct uuid *id) MUSTCHECK;
bool batch_op_won(const struct lane_op *op);
int batch_step(struct lane *l, enum batch_step step, const char *stmt, const struct pg_params *p) MUSTCHECK;
int batch_send_optimistic(struct lane *l) MUSTCHECK;
int batch_send_headers(struct lane *l) MUSTCHECK;   /* exact form, first trip */
int batch_send_decisions(struct lane *l) MUSTCHECK; /* second */
int batch_send_commit(struct lane *l) MUSTCHECK;    /* third */
int batch_send_rollback(struct lane *l) MUSTCHECK;
int batch_send_readback(struct lane *l) MUSTCHECK; /* 1 = nobody lost, nothing sent */
size_t lane_op_bytes(const struct lane_op *op);

/* lane_rider.c */
int rider_send_rows(struct lane *l) MUSTCHECK; /* all rider statements of the batch, in table order */
void rider_count_ended(struct lane_batch *b, const PGresult *ended);
void rider_count_presumed(struct lane_batch *b);

/* lane_commit.c */
void commit_start(struct lane *l);   /* a batch was formed */
void commit_resolve(struct lane *l); /* a connection is ready and a batch of unknown outcome waits */
void commit_again(struct lane *l);   /* sends what is left of the batch, or goes on without */

/* lane_metric.c; all @thread any */
void lane_metrics_init(void);
void lane_count_error(enum pg_class c);
void lane_count_commit(uint32_t ops);
void lane_count_decision(const struct lane_op *op);
/* How a commit of unknown outcome ended, or that there is one (LOST). */
enum unknown_end {
    UNKNOWN_LOST,         /* the connection ended, or a warning came, with a batch in flight */
    UNKNOWN_DEAD,         /* our N stands there: the old attempt can never commit */
    UNKNOWN_DEAD_EARLIER, /* an earlier N of ours, whose answer was lost */
    UNKNOWN_COMMITTED,    /* our own row stands there */
    UNKNOWN_FENCED,       /* somebody's S stands there */
    UNKNOWN_FOREIGN,      /* something stands there that nobody should have written */
    UNKNOWN_ENDS
};
void lane_count_unknown(enum unknown_end e);
void lane_count_lost(uint32_t entries, uint64_t operations);

/* lane_lost.c */
int lane_lost_init(struct lane *l) MUSTCHECK;
void lane_lost_deinit(struct lane *l);
void lane_lost_begin(struct lane *l, int32_t seq);
void lane_lost_acknowledged(struct lane *l, int32_t seq, int64_t nonce);
void lane_lost_remember(struct lane *l, const struct lane_op *op); /* it was won in the present batch and is answered */
void lane_lost_look(struct lane *l); /* connected: lane_go_on() follows, or the lane is lost and fenced */

/* lane.c */
void lane_try(struct lane *l);
void lane_op_end(struct lane *l, struct lane_op *op, enum op_outcome o); /* off its list, answered */
void lane_requeue(struct lane *l, uint32_t from,
                  bool exact); /* ops of the batch from there on, to the head of the queue */
void lane_fenced(struct lane *l);
void lane_pause(struct lane *l, uint64_t ms); /* WAITING, then commit_again */
void lane_riders_end(struct lane *l, bool committed);
void lane_reconnect(struct lane *l);
void lane_go_on(struct lane *l); /* on a new connection to a server that has everything */
bool lane_connected(const struct lane *l);
