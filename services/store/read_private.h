/*
 * Inside of the reader, shared by read.c (connections, payloads, log, cursors) and read_claim.c (finder, claims), and
 * the making of a tx_content from rows, which view.c needs too.
 */
#pragma once

#include "base/arena.h"
#include "store/pgarr.h"
#include "store/read.h"
#include "store/stmts.h"

enum {
    READ_ARRAYS = 3,
    READ_UNDER_WAY_MAX = 64, /* requests on the hot connection; more get -EAGAIN */
    READ_ARRAY_BYTES_MAX = 1 << 20,
    READ_CONTENTS_MAX = 440,  /* ids of one reader_contents */
    READ_PAGE_ENTRIES = 256,  /* entries of a lane that one statement looks at */
    READ_FOLD_ENTRIES = 2500, /* cursors are written again every 1,000 entries */
    READ_LOWS = 256,
};

/*
 * Where a claim begins to look. Entries of rows that were claimed or deleted stay in an index as long as somebody
 * holds an old snapshot, and a scan from the beginning walks over all of them each time. So a pass begins a little
 * below the smallest due that the last one met. Rows can still appear below that, so full passes are made too: as
 * often as they cost 5 % of the time.
 */
struct claim_lows {
    uint64_t full_ns, cost_ns; /* when the last full pass began, and how long it took */
    struct {
        uint64_t key;
        int64_t due_us;
    } slot[READ_LOWS];
};

struct reader {
    struct loop *loop;
    struct store *store;
    struct pg_conn *hot, *people;
    struct pg_stmt stmts[16]; /* reader_stmts and claim_stmts */
    bool freed;
    struct buf arrays[READ_ARRAYS]; /* parameters of the statement that is being sent */
    struct claim_lows checks, deliveries, replays;
    struct { /* the walk over check_due that removes what was decided */
        struct uuid after;
        uint64_t last_ns;
        bool under_way, more;
    } sweep;
};

/*
 * A request on the hot connection: `result` takes what it needs out of the rows and sets `code` if it cannot; `done`
 * hands the answer over, after the Sync, because a claim counts only once it is committed. `done` owns the request.
 */
struct read_req {
    struct pg_run run;
    struct reader *reader;
    int code;
    void (*result)(struct read_req *q, PGresult *res);
    void (*done)(struct read_req *q);
};
/*
 * -EAGAIN: not connected, or too much under way; -ENOMEM. On failure nothing comes and the request stays the caller's.
 */
int read_send(struct reader *r, struct read_req *q, const char *stmt, const struct pg_params *p) MUSTCHECK;
int read_code(const struct pg_error *err); /* 0, -EAGAIN or -EINVAL */

/*
 * The columns of a message, in the order that read_content() expects; `amend` (bodies of the decision) counts in row 0
 * only.
 */
/* clang-format off */
#define READ_CONTENT_COLUMNS                                                                                           \
    "n, total, producer, business_key, trace, digest, topic, okey, content_type, deliver_at, expire_at, headers, body," \
    " amend"
enum read_content_column { RC_N, RC_TOTAL, RC_PRODUCER, RC_BUSINESS_KEY, RC_TRACE, RC_DIGEST, RC_TOPIC, RC_OKEY,
                           RC_CONTENT_TYPE, RC_DELIVER_AT, RC_EXPIRE_AT, RC_HEADERS, RC_BODY, RC_AMEND, RC_COLUMNS };
/* clang-format on */
/*
 * The transaction that rows [from, to) hold, whose columns begin at `col`. *ret is NULL for a tombstone. -EINVAL: rows
 * are missing or hold what is not ours; -ENOMEM.
 */
int read_content(const struct uuid *id, const PGresult *res, int from, int to, int col, struct tx_content **ret)
    MUSTCHECK;
