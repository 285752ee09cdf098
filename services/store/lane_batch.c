/*
 * Forming a batch and the statements of its two forms.
 *
 * Optimistic form: one pipeline up to one Sync is the transaction: the lane row first (a fenced owner fails at once), messages,
 * decisions, rider rows. Anything unexpected aborts: a duplicate key, a decision whose header is missing or does not match (its
 * producer comes out NULL), a delivery finished under another token (division by zero).
 * Exact form, after such an abort: BEGIN and headers DO NOTHING | other messages, decisions DO NOTHING, rider rows | the lane row
 * with the winners only, COMMIT. What lost is read back after the commit.
 *
 * Ids are sorted in every statement and the tables come in one order, so that two lanes never wait for each other in a circle.
 * Every read of a partitioned table is a lateral subquery with explicit bounds: the planner can neither turn it around nor visit
 * partitions that cannot hold the ids.
 */
#include "store/lane_private.h"

#include "base/clock.h"
#include "base/crypto.h"

#include <pthread.h>

#define MESSAGE_NAMES                                                                                                  \
    "tx, n, total, delay_class, check_after, producer, topic, business_key, digest, trace, okey, content_type, "       \
    "headers, body, deliver_at, expire_at"
#define MESSAGE_COLUMNS "(" MESSAGE_NAMES ")"
/*
 * unnest() in the target list and not in FROM: there each array goes through a tuplestore of its own, 2 to 3 us a message.
 * An array that is NULL as a whole gives NULL for each row and costs nothing: what few messages have is sent like that.
 */
#define MESSAGE_ROWS                                                                                                   \
    " SELECT unnest($1::uuid[]), unnest($2::int2[]), unnest($3::int2[]), unnest($4::int2[]), unnest($5::int4[]),"      \
    " unnest($6::text[]), unnest($7::text[]), unnest($8::text[]), unnest($9::bytea[]), unnest($10::text[]),"           \
    " unnest($11::bytea[]), unnest($12::text[]), unnest($13::text[]), unnest($14::bytea[]),"                           \
    " unnest($15::timestamptz[]), unnest($16::timestamptz[])"
#define DECISION_ROWS                                                                                                  \
    " FROM (SELECT unnest($1::uuid[]) AS tx, unnest($2::int2[]) AS verdict, unnest($3::int2[]) AS origin,"             \
    " unnest($4::text[]) AS want, unnest($5::text[]) AS actor, unnest($10::text[]) AS reason"
#define DECISION_NAMES   "tx, verdict, origin, producer, lane, seq, at, actor, reason"
#define DECISION_COLUMNS "INSERT INTO decision (" DECISION_NAMES ")"
#define DECISION_HEADER                                                                                                \
    "(SELECT m.producer FROM message m WHERE m.tx = u.tx AND m.n = 0 AND m.tx BETWEEN $8::uuid AND $9::uuid"           \
    " AND (u.want IS NULL OR m.producer = u.want)"

/*
 * The same where something is declared body_later or brings bodies; apart, because it costs those nothing that do not.
 * Bodies and their n come flat for the whole batch; `first` and `later` say which belong to the decision. A set that is
 * not the declared one finds no header.
 */
#define DECISION_LATER                                                                                                 \
    "INSERT INTO decision (" DECISION_NAMES ", amend)"                                                                 \
    " SELECT u.tx, u.verdict, u.origin, h.producer, $6::int4, $7::int4, now(), u.actor, u.reason,"                     \
    " CASE WHEN u.later > 0 THEN ($12::bytea[])[u.first:u.first + u.later - 1] END" DECISION_ROWS                      \
    ", unnest($11::bytea[]) AS digest, unnest($14::int4[]) AS first, unnest($15::int2[]) AS later) u"
#define DECISION_LATER_HEADER                                                                                          \
    DECISION_HEADER " AND (u.verdict = 2 OR (m.total > 0 AND m.later = u.later AND (u.later = 0"                       \
                    " OR ($13::int2[])[u.first:u.first + u.later - 1] = (SELECT array_agg(y.n ORDER BY y.n)"           \
                    " FROM message y WHERE y.tx = u.tx AND y.tx BETWEEN $8::uuid AND $9::uuid AND y.body IS NULL))))"  \
                    " AND (u.digest IS NULL OR u.digest = m.digest) OFFSET 0) h"

extern const struct pg_stmt lane_rider_stmts[];

/* {0} in the rider table ends the list; lane_all_stmts() joins both for the connection. */
static const struct pg_stmt batch_stmts[] = {
    {"lane_open", "INSERT INTO lane (lane, run)"
                  " SELECT greatest(coalesce(max(l.lane) + 1, $1::int4), $1::int4), $2::uuid"
                  " FROM lane l WHERE l.lane >= $1::int4 AND l.lane < $1::int4 + 16384 RETURNING lane"},
    {"lane_row", "INSERT INTO lane_log (lane, seq, kind, nonce, above_floor, classes, prep, conf, cnt, sub_cnt, prog)"
                 " SELECT $1::int4, $2::int4, $3::\"char\", $4::int8,"
                 " CASE WHEN $5::uuid IS NULL OR $5::uuid >= c.floor THEN true END, $6::int2, $7::uuid[], $8::uuid[],"
                 " $9::int4[], $10::int4[], $11::int4[] FROM cfg c RETURNING at"},
    {"messages", "INSERT INTO message " MESSAGE_COLUMNS MESSAGE_ROWS},
    {"headers", "INSERT INTO message " MESSAGE_COLUMNS MESSAGE_ROWS " ON CONFLICT (tx, n) DO NOTHING RETURNING tx"},
    {"decisions", DECISION_COLUMNS
     " SELECT u.tx, u.verdict, u.origin, h.producer, $6::int4, $7::int4, now(), u.actor, u.reason" DECISION_ROWS
     ") u LEFT JOIN LATERAL " DECISION_HEADER
     " AND (u.verdict = 2 OR (m.total > 0 AND m.later = 0)) OFFSET 0) h ON true"},
    {"decisions_exact", DECISION_COLUMNS
     " SELECT u.tx, u.verdict, u.origin, h.producer, $6::int4, $7::int4, now(), u.actor, u.reason" DECISION_ROWS
     ", unnest($11::bytea[]) AS digest) u CROSS JOIN LATERAL " DECISION_HEADER
     " AND (u.verdict = 2 OR (m.total > 0 AND m.later = 0)) AND (u.digest IS NULL OR u.digest = m.digest) OFFSET 0) h"
     " ON CONFLICT (tx) DO NOTHING RETURNING tx"},
    {"readback",
     "SELECT u.tx, h.total, h.producer, h.digest, h.at, d.verdict, d.origin, d.at, c.state, CASE WHEN h.later > 0 THEN"
     " (SELECT array_agg(y.n::int4 ORDER BY y.n) FROM message y WHERE y.tx = u.tx"
     " AND y.tx BETWEEN $2::uuid AND $3::uuid AND y.body IS NULL) END, d.sums"
     " FROM unnest($1::uuid[]) u(tx)"
     " LEFT JOIN LATERAL (SELECT m.total, m.producer, m.digest, m.at, m.later FROM message m WHERE m.tx = u.tx AND m.n "
     "= 0"
     " AND m.tx BETWEEN $2::uuid AND $3::uuid OFFSET 0) h ON true"
     " LEFT JOIN LATERAL (SELECT d.verdict, d.origin, d.at, (SELECT string_agg(sha256(a.body), ''::bytea ORDER BY a.k)"
     " FROM unnest(d.amend) WITH ORDINALITY a(body, k)) AS sums FROM decision d WHERE d.tx = u.tx"
     " AND d.tx BETWEEN $2::uuid AND $3::uuid OFFSET 0) d ON true"
     " LEFT JOIN LATERAL (SELECT c.state FROM check_due c WHERE c.tx = u.tx OFFSET 0) c ON true"},
    {"messages_later", "INSERT INTO message (" MESSAGE_NAMES ", later)" MESSAGE_ROWS ", unnest($17::int2[])"},
    {"headers_later", "INSERT INTO message (" MESSAGE_NAMES ", later)" MESSAGE_ROWS
                      ", unnest($17::int2[]) ON CONFLICT (tx, n) DO NOTHING RETURNING tx"},
    {"decisions_later", DECISION_LATER " LEFT JOIN LATERAL " DECISION_LATER_HEADER " ON true"},
    {"decisions_later_exact",
     DECISION_LATER " CROSS JOIN LATERAL " DECISION_LATER_HEADER " ON CONFLICT (tx) DO NOTHING RETURNING tx"},
    {"lane_end_old", "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
                     " WHERE starts_with(application_name, $1::text) AND pid <> pg_backend_pid()"
                     " AND datname = current_database()"},
    {"lane_noop", "INSERT INTO lane_log (lane, seq, kind, nonce) VALUES ($1::int4, $2::int4, 'N', $3::int8)"
                  " ON CONFLICT (lane, seq) DO NOTHING RETURNING at"},
    /* Makes the commit of its transaction one that waits, for the disk and for a synchronous standby, also behind a DO NOTHING. */
    {"lane_flush", "SELECT pg_logical_emit_message(true, 'txmsg', ''::text)"},
    {"lane_look", "SELECT kind, nonce, at FROM lane_log WHERE lane = $1::int4 AND seq = $2::int4"},
    {"lane_seal", "INSERT INTO lane_log (lane, seq, kind, nonce) VALUES ($1::int4, $2::int4, 'S', $3::int8)"},
    /* Only while the lane is still this run's. */
    {"lane_seal_rest",
     "INSERT INTO lane_log (lane, seq, kind, nonce) SELECT l.lane, coalesce((SELECT g.seq FROM lane_log g"
     " WHERE g.lane = $1::int4 ORDER BY g.seq DESC LIMIT 1), 0) + 1, 'S', 0 FROM lane l"
     " WHERE l.lane = $1::int4 AND l.run = $2::uuid AND l.state = 'open'"},
    {"lane_tip",
     "SELECT coalesce((SELECT g.seq FROM lane_log g WHERE g.lane = $1::int4 ORDER BY g.seq DESC LIMIT 1), 0),"
     " (SELECT g.nonce FROM lane_log g WHERE g.lane = $1::int4 AND g.seq = $2::int4),"
     " EXISTS (SELECT FROM lane l WHERE l.lane = $1::int4)"},
    {"lane_sealed", "UPDATE lane SET state = 'sealed' WHERE lane = $1::int4 AND run = $2::uuid AND state = 'open'"},
    /* What people decided in this very batch. */
    {"decisions_audit",
     "INSERT INTO audit (actor, act, object, reason, before, after)"
     " SELECT coalesce(d.actor, ''), 'stuck.resolve ' || CASE d.verdict WHEN 1 THEN 'COMMITTED' ELSE 'ROLLED_BACK' END,"
     " u.tx::text, d.reason, jsonb_build_object('state', 'STUCK'),"
     " jsonb_build_object('state', CASE d.verdict WHEN 1 THEN 'CONFIRMED' ELSE 'CANCELLED' END)"
     " FROM unnest($1::uuid[]) u(tx) CROSS JOIN LATERAL (SELECT d.actor, d.reason, d.verdict FROM decision d"
     " WHERE d.tx = u.tx AND d.tx BETWEEN $4::uuid AND $5::uuid AND d.lane = $2::int4 AND d.seq = $3::int4 OFFSET 0) "
     "d"},
    {NULL, NULL},
};

static struct pg_stmt all_stmts[40];

static void join_stmts(void) {
    size_t n = 0;
    for (const struct pg_stmt *s = batch_stmts; s->name; s++)
        all_stmts[n++] = *s;
    for (const struct pg_stmt *s = lane_rider_stmts; s->name; s++)
        all_stmts[n++] = *s;
    ASSERT(n < ARRAY_LEN(all_stmts));
}

/* Every worker asks, each on its own thread. */
const struct pg_stmt *lane_all_stmts(void) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, join_stmts);
    return all_stmts;
}

/* --- forming --- */

static bool op_in_batch(struct lane *l, const struct uuid *id) {
    uint64_t h = uuid_hash(id);
    for (struct hnode *n = hmap_first(&l->in_batch, h); n; n = hmap_next(n, h))
        if (uuid_eq(&CONTAINER_OF(n, struct lane_op, node)->id, id))
            return true;
    return false;
}

size_t lane_op_bytes(const struct lane_op *op) {
    return (op->content ? op->content->bytes : 64) + (op->bodies ? op->bodies->bytes : 0);
}

/* Ids of far-apart partitions do not share a batch: its bounds would make every lookup visit all partitions between. */
static bool period_fits(const struct lane *l, const struct lane_op *op, int64_t *lo, int64_t *hi) {
    int64_t p = uuid_v7_ms(&op->id) / 1000 / l->store->partition_seconds;
    int64_t new_lo = MIN(*lo, p), new_hi = MAX(*hi, p);
    if (*lo <= *hi && new_hi - new_lo > 1)
        return false;
    *lo = new_lo;
    *hi = new_hi;
    return true;
}

static int by_id(const void *a, const void *b, void *arg) {
    const struct lane_batch *batch = arg;
    return uuid_cmp(&batch->ids[*(const uint16_t *)a], &batch->ids[*(const uint16_t *)b]);
}

static void take_ops(struct lane *l) {
    struct lane_batch *b = &l->b;
    int64_t lo = INT64_MAX, hi = INT64_MIN;
    uint64_t now = clock_mono_ns();
    uint32_t max = (uint32_t)MIN((int64_t)l->batch_max, l->store->o.lane_batch);
    LIST_FOR_SAFE (e, &l->queue) {
        struct lane_op *op = LIST_ENTRY(e, struct lane_op, link);
        size_t n = lane_op_bytes(op);
        if (b->ops_n == max || (b->ops_n && b->bytes + n > (size_t)l->store->o.lane_batch_bytes))
            break;
        if (op->deadline_ns && op->deadline_ns <= now) {
            lane_op_end(l, op, OP_EXPIRED);
            continue;
        }
        /* A second operation on one id waits for the next batch; so does everything behind it on that id. */
        if (op_in_batch(l, &op->id) || !period_fits(l, op, &lo, &hi))
            continue;
        list_del(&op->link);
        op->queued = false;
        l->queue_n--;
        l->queue_bytes -= n;
        b->bytes += n;
        b->exact |= op->exact;
        b->ids[b->ops_n] = op->id;
        b->order[b->ops_n] = (uint16_t)b->ops_n;
        b->ops[b->ops_n++] = op;
        hmap_add(&l->in_batch, &op->node, uuid_hash(&op->id));
    }
    for (uint32_t i = 0; i < b->ops_n; i++)
        hmap_del(&l->in_batch, &b->ops[i]->node);
    b->ordered_n = b->ops_n;
    qsort_r(b->order, b->ops_n, sizeof(b->order[0]), by_id, b);
}

bool batch_form(struct lane *l) {
    struct lane_batch *b = &l->b;
    batch_clear(b);
    b->exact = clock_mono_ns() < l->exact_until_ns;
    if (!l->adopted)
        take_ops(l);
    LIST_FOR (e, &l->riders) {
        struct lane_rider *r = LIST_ENTRY(e, struct lane_rider, link);
        uint32_t before = b->added;
        r->collect(r->arg, b);
        r->added = b->added != before;
    }
    return b->ops_n > 0 || b->added > 0;
}

void batch_drop_confirmed(struct lane_batch *b) {
    for (uint32_t i = 0; i < b->confirmed_n; i++)
        tx_content_unref(b->confirmed[i].content);
    b->confirmed_n = 0;
}

void batch_clear(struct lane_batch *b) {
    batch_drop_confirmed(b);
    b->ops_n = b->ordered_n = 0;
    b->bytes = 0;
    b->at_us = 0;
    b->exact = b->noticed = b->committed = false;
    b->stale = b->attempts = 0;
    b->check_adds_n = b->check_ends_n = b->spills_n = b->delivery_ends_n = b->replay_ends_n = b->told_n = 0;
    b->prog_n = b->counts_n = 0;
    b->added = 0;
    b->ended_n = 0;
    b->ended_known = false;
    arena_reset(&b->arena);
}

/* The index in ops of an id, or -1. */
int batch_find(const struct lane_batch *b, const struct uuid *id) {
    uint32_t lo = 0, hi = b->ops_n;
    while (lo < hi) {
        uint32_t mid = (lo + hi) / 2;
        int c = uuid_cmp(&b->ids[b->order[mid]], id);
        if (c == 0)
            return b->order[mid];
        if (c < 0)
            lo = mid + 1;
        else
            hi = mid;
    }
    return -1;
}

/* --- rows --- */

enum {
    A_TX,
    A_N,
    A_TOTAL,
    A_CLASS,
    A_AFTER,
    A_PRODUCER,
    A_TOPIC,
    A_BUSINESS,
    A_DIGEST,
    A_TRACE,
    A_KEY,
    A_TYPE,
    A_HEADERS,
    A_BODY,
    A_DELIVER_AT,
    A_EXPIRE_AT,
    A_LATER, /* only where there is one */
    A_MESSAGE_COLUMNS
};

static const uint32_t message_oids[A_MESSAGE_COLUMNS] = {
    OID_UUID, OID_INT2,  OID_INT2, OID_INT2, OID_INT4,  OID_TEXT,        OID_TEXT,        OID_TEXT, OID_BYTEA,
    OID_TEXT, OID_BYTEA, OID_TEXT, OID_TEXT, OID_BYTEA, OID_TIMESTAMPTZ, OID_TIMESTAMPTZ, OID_INT2};

static void put_time(struct buf *a, int64_t us) {
    if (us)
        pgarr_time(a, us);
    else
        pgarr_null(a);
}

static void put_message(struct buf *a, const struct lane_op *op, uint16_t n) {
    const struct tx_content *c = op->content;
    bool tombstone = op->kind == OP_CANCEL;
    const struct msg *m = tombstone ? NULL : &c->messages[n];
    bool head = n == 0 && !tombstone;
    pgarr_uuid(&a[A_TX], &op->id);
    pgarr_int16(&a[A_N], (int16_t)n);
    pgarr_int16(&a[A_TOTAL], tombstone ? 0 : (int16_t)c->messages_n);
    pgarr_int16(&a[A_CLASS], (int16_t)(tombstone ? 0 : delay_class_of(op->check_after_ms)));
    pgarr_int32(&a[A_AFTER], tombstone ? 0 : (int32_t)op->check_after_ms);
    pgarr_bytes(&a[A_PRODUCER], tombstone ? op->producer : c->producer);
    pgarr_bytes(&a[A_TOPIC], m ? m->topic : BYTES_NULL);
    pgarr_bytes(&a[A_BUSINESS], head ? c->business_key : BYTES_NULL);
    pgarr_bytes(&a[A_DIGEST], head ? bytes_of(c->digest, sizeof(c->digest)) : BYTES_NULL);
    pgarr_bytes(&a[A_TRACE], head ? c->trace : BYTES_NULL);
    pgarr_bytes(&a[A_KEY], m ? m->key : BYTES_NULL);
    pgarr_bytes(&a[A_TYPE], m ? m->content_type : BYTES_NULL);
    pgarr_bytes(&a[A_HEADERS], m ? m->headers_json : BYTES_NULL);
    pgarr_bytes(&a[A_BODY], m ? m->body : BYTES_NULL);
    put_time(&a[A_DELIVER_AT], m ? m->deliver_at_us : 0);
    put_time(&a[A_EXPIRE_AT], m ? m->expire_at_us : 0);
}

/* Is a body declared or brought? Then the batch uses the statements for that. */
static bool any_later(const struct lane_batch *b) {
    for (uint32_t i = 0; i < b->ops_n; i++) {
        const struct lane_op *op = b->ops[i];
        if (op && (op->bodies || (op->content && op->content->later_n)))
            return true;
    }
    return false;
}

static void begin_arrays(struct lane *l, const uint32_t *oids, size_t n) {
    for (size_t i = 0; i < n; i++)
        pgarr_begin(&l->arrays[i], oids[i]);
}

static int end_arrays(struct lane *l, int n, struct pg_params *p) {
    for (int i = 0; i < n; i++) {
        int r = pgarr_end(&l->arrays[i]);
        if (r < 0)
            return r;
        pg_param_array(p, &l->arrays[i]);
    }
    return 0;
}

static bool stores_header(const struct lane_op *op, bool exact) {
    if (op->kind == OP_PREPARE || op->kind == OP_PUBLISH)
        return true;
    return exact && op->kind == OP_CANCEL && op->tombstone;
}

enum message_part { ALL_MESSAGES, HEADERS_ONLY, OTHERS_OF_WINNERS };

/* Sends the message rows of one part, if there are any. */
static int send_messages(struct lane *l, enum message_part part) {
    struct lane_batch *b = &l->b;
    unsigned rows = 0;
    bool timed = false, later = any_later(b);
    for (uint32_t i = 0; i < b->ops_n; i++) {
        const struct lane_op *op = b->ops[b->order[i]];
        if (!op || !stores_header(op, part == HEADERS_ONLY) || (part == OTHERS_OF_WINNERS && !op->won_header))
            continue;
        uint32_t total = op->content ? op->content->messages_n : 1;
        uint32_t from = part == OTHERS_OF_WINNERS ? 1 : 0, to = part == HEADERS_ONLY ? 1 : total;
        for (uint32_t n = from; n < to; n++, rows++) {
            if (rows == 0)
                begin_arrays(l, message_oids, later ? A_MESSAGE_COLUMNS : A_LATER);
            put_message(l->arrays, op, (uint16_t)n);
            if (later)
                pgarr_int16(&l->arrays[A_LATER], n == 0 && op->content ? (int16_t)op->content->later_n : 0);
            timed = timed || (op->content && msg_has_times(&op->content->messages[n]));
        }
    }
    if (rows == 0)
        return 0;
    struct pg_params p;
    pg_params_init(&p);
    int r = end_arrays(l, timed ? A_LATER : A_DELIVER_AT, &p);
    for (int i = A_DELIVER_AT; r == 0 && !timed && i < A_LATER; i++)
        pg_param_null(&p);
    if (r == 0 && later) {
        r = pgarr_end(&l->arrays[A_LATER]);
        pg_param_array(&p, &l->arrays[A_LATER]);
    }
    if (r < 0)
        return r;
    if (part == HEADERS_ONLY)
        return batch_step(l, STEP_HEADERS, later ? "headers_later" : "headers", &p);
    return batch_step(l, STEP_OTHER, later ? "messages_later" : "messages", &p);
}

/* The last arrays of a decision; those before are in the order of the statement. */
enum { D_BODIES = 7, D_NS, D_FIRST, D_LATER, D_ARRAYS };

static bool decides(const struct lane_op *op) {
    return op->kind != OP_PREPARE;
}

/* Bodies, their n, and for each decision the place of its first one and how many. Arrays from D_BODIES on. */
static void put_bodies(struct buf *a, const struct lane_op *op, int32_t *next) {
    uint32_t n = op->bodies ? op->bodies->n : 0;
    for (uint32_t i = 0; i < n; i++) {
        pgarr_bytes(&a[D_BODIES], op->bodies->list[i].body);
        pgarr_int16(&a[D_NS], (int16_t)op->bodies->list[i].n);
    }
    pgarr_int32(&a[D_FIRST], *next);
    pgarr_int16(&a[D_LATER], (int16_t)n);
    *next += (int32_t)n;
}

static int send_decisions(struct lane *l, bool exact) {
    static const uint32_t oids[] = {OID_UUID,  OID_INT2,  OID_INT2, OID_TEXT, OID_TEXT, OID_TEXT,
                                    OID_BYTEA, OID_BYTEA, OID_INT2, OID_INT4, OID_INT2};
    static const char *const stmts[2][2] = {{"decisions", "decisions_exact"},
                                            {"decisions_later", "decisions_later_exact"}};
    struct lane_batch *b = &l->b;
    struct buf *a = l->arrays;
    unsigned rows = 0;
    bool later = any_later(b);
    int32_t next = 1;
    for (uint32_t i = 0; i < b->ops_n; i++) {
        const struct lane_op *op = b->ops[b->order[i]];
        if (!op || !decides(op))
            continue;
        if (rows == 0)
            begin_arrays(l, oids, later ? D_ARRAYS : D_BODIES);
        if (later)
            put_bodies(a, op, &next);
        struct bytes want = op->kind == OP_PUBLISH ? op->content->producer : op->producer;
        pgarr_uuid(&a[0], &op->id);
        pgarr_int16(&a[1], op->kind == OP_CANCEL ? TX_ROLLED_BACK : TX_COMMITTED);
        pgarr_int16(&a[2], (int16_t)op->origin);
        pgarr_bytes(&a[3], want.n ? want : BYTES_NULL);
        pgarr_bytes(&a[4], op->actor.n ? op->actor : BYTES_NULL);
        pgarr_bytes(&a[5], op->reason.n ? op->reason : BYTES_NULL);
        pgarr_bytes(&a[6], op->kind == OP_PUBLISH ? bytes_of(op->content->digest, 32) : BYTES_NULL);
        rows++;
    }
    if (rows == 0)
        return 0;
    struct pg_params p;
    pg_params_init(&p);
    int r = end_arrays(l, 5, &p);
    pg_param_int32(&p, l->number);
    pg_param_int32(&p, b->seq);
    pg_param_uuid(&p, &b->ids[b->order[0]]);
    pg_param_uuid(&p, &b->ids[b->order[b->ops_n - 1]]);
    for (int i = 5; r == 0 && i < (later ? D_ARRAYS : exact ? D_BODIES : D_BODIES - 1); i++) {
        r = pgarr_end(&a[i]);
        pg_param_array(&p, &a[i]);
    }
    return r < 0 ? r : batch_step(l, exact ? STEP_DECISIONS : STEP_OTHER, stmts[later][exact], &p);
}

#define TRY(call)                                                                                                      \
    do {                                                                                                               \
        int try_ = (call);                                                                                             \
        if (try_ < 0)                                                                                                  \
            return try_;                                                                                               \
    } while (0)

/* Here, and not after it: whoever reads that a person decided finds it in the audit log as well. */
static int send_decisions_audit(struct lane *l) {
    struct lane_batch *b = &l->b;
    struct pg_params p;
    unsigned rows = 0;
    for (uint32_t i = 0; i < b->ops_n; i++) {
        const struct lane_op *op = b->ops[b->order[i]];
        if (!op || !decides(op) || op->origin != TX_ORIGIN_ADMIN)
            continue;
        if (rows++ == 0)
            pgarr_begin(&l->arrays[0], OID_UUID);
        pgarr_uuid(&l->arrays[0], &op->id);
    }
    if (rows == 0)
        return 0;
    pg_params_init(&p);
    TRY(end_arrays(l, 1, &p));
    pg_param_int32(&p, l->number);
    pg_param_int32(&p, b->seq);
    pg_param_uuid(&p, &b->ids[b->order[0]]);
    pg_param_uuid(&p, &b->ids[b->order[b->ops_n - 1]]);
    return batch_step(l, STEP_OTHER, "decisions_audit", &p);
}

/* The lane row: what won, counted, and how far the cursors are. Remembers the confirmed ids in the order of the row. */
static int send_lane_row(struct lane *l) {
    struct lane_batch *b = &l->b;
    struct buf *prep = &l->arrays[0], *conf = &l->arrays[1], *cnt = &l->arrays[2], *sub = &l->arrays[3],
               *prog = &l->arrays[4];
    int32_t counted[4] = {0}; /* prepared, confirmed, cancelled, tombstones */
    int16_t classes = 0;
    pgarr_begin(prep, OID_UUID);
    pgarr_begin(conf, OID_UUID);
    batch_drop_confirmed(b);
    for (uint32_t i = 0; i < b->ops_n; i++) {
        struct lane_op *op = b->ops[i];
        if (!op)
            continue;
        bool tombstone = op->kind == OP_CANCEL && op->won_header;
        if (op->won_header)
            counted[tombstone ? 3 : 0]++;
        if (op->won_header && !tombstone && !op->won_decision) {
            pgarr_uuid(prep, &op->id);
            classes |= (int16_t)(1 << delay_class_of(op->check_after_ms));
        }
        if (op->won_decision && op->kind != OP_CANCEL) {
            counted[1]++;
            pgarr_uuid(conf, &op->id);
            b->confirmed[b->confirmed_n++] =
                (struct lane_confirmed){.tx = op->id, .content = op->content ? tx_content_ref(op->content) : NULL};
        } else if (op->won_decision && !tombstone) {
            counted[2]++;
        }
    }
    pgarr_begin(cnt, OID_INT4);
    for (int i = 0; i < 4; i++)
        pgarr_int32(cnt, counted[i]);
    pgarr_begin(sub, OID_INT4);
    for (uint32_t i = 0; i < b->counts_n; i++) {
        const struct counts *c = &b->counts[i];
        const int32_t five[] = {c->sub, c->delivered, c->dead, c->discarded, c->spilled};
        for (size_t k = 0; k < ARRAY_LEN(five); k++)
            pgarr_int32(sub, five[k]);
    }
    pgarr_begin(prog, OID_INT4);
    for (uint32_t i = 0; i < b->prog_n; i++) {
        pgarr_int32(prog, b->prog[i].target);
        pgarr_int32(prog, b->prog[i].pos.seq);
        pgarr_int32(prog, b->prog[i].pos.index);
    }
    struct pg_params p;
    pg_params_init(&p);
    pg_param_int32(&p, l->number);
    pg_param_int32(&p, b->seq);
    pg_param_bytes(&p, l->adopted ? BYTES_LIT("P") : BYTES_LIT("D"));
    pg_param_int64(&p, b->nonce);
    if (b->ops_n)
        pg_param_uuid(&p, &b->ids[b->order[0]]);
    else
        pg_param_null(&p);
    pg_param_int16(&p, classes);
    struct buf *arrays[] = {prep, conf, cnt, sub, prog};
    bool any_count = counted[0] | counted[1] | counted[2] | counted[3];
    for (size_t i = 0; i < ARRAY_LEN(arrays); i++) {
        int r = pgarr_end(arrays[i]);
        if (r < 0)
            return r;
        if (arrays[i]->n <= 12 || (arrays[i] == cnt && !any_count))
            pg_param_null(&p);
        else
            pg_param_array(&p, arrays[i]);
    }
    return batch_step(l, STEP_LANE, "lane_row", &p);
}

/* --- trips --- */

int batch_step(struct lane *l, enum batch_step step, const char *stmt, const struct pg_params *p) {
    ASSERT(l->b.steps_n < (int)ARRAY_LEN(l->b.steps));
    l->b.steps[l->b.steps_n++] = (uint8_t)step;
    return pg_run_send(&l->pg, stmt, p);
}

static int trip_begin(struct lane *l) {
    l->b.steps_n = 0;
    return pg_run_begin(l->conn, &l->pg);
}

static int simple_step(struct lane *l, enum batch_step step, const char *sql) {
    l->b.steps[l->b.steps_n++] = (uint8_t)step;
    return pg_run_sql(&l->pg, sql, NULL);
}

int batch_send_optimistic(struct lane *l) {
    for (uint32_t i = 0; i < l->b.ops_n; i++) {
        struct lane_op *op = l->b.ops[i];
        if (!op)
            continue;
        op->won_header = stores_header(op, false);
        op->won_decision = decides(op);
    }
    TRY(trip_begin(l));
    TRY(send_lane_row(l));
    TRY(send_messages(l, ALL_MESSAGES));
    TRY(send_decisions(l, false));
    TRY(send_decisions_audit(l));
    TRY(rider_send_rows(l));
    return pg_run_end(&l->pg);
}

int batch_send_headers(struct lane *l) {
    for (uint32_t i = 0; i < l->b.ops_n; i++)
        if (l->b.ops[i])
            l->b.ops[i]->won_header = l->b.ops[i]->won_decision = false;
    TRY(trip_begin(l));
    TRY(simple_step(l, STEP_OTHER, "BEGIN"));
    TRY(send_messages(l, HEADERS_ONLY));
    return pg_run_end(&l->pg);
}

int batch_send_decisions(struct lane *l) {
    TRY(trip_begin(l));
    TRY(send_messages(l, OTHERS_OF_WINNERS));
    TRY(send_decisions(l, true));
    TRY(send_decisions_audit(l));
    TRY(rider_send_rows(l));
    return pg_run_end(&l->pg);
}

int batch_send_commit(struct lane *l) {
    TRY(trip_begin(l));
    TRY(send_lane_row(l));
    TRY(simple_step(l, STEP_COMMIT, "COMMIT"));
    return pg_run_end(&l->pg);
}

int batch_send_rollback(struct lane *l) {
    TRY(trip_begin(l));
    TRY(simple_step(l, STEP_OTHER, "ROLLBACK"));
    return pg_run_end(&l->pg);
}

static bool op_won(const struct lane_op *op) {
    switch (op->kind) {
    case OP_PREPARE:
        return op->won_header;
    case OP_PUBLISH:
    case OP_CONFIRM:
    case OP_CANCEL:
        return op->won_decision;
    }
    UNREACHABLE();
}

bool batch_op_won(const struct lane_op *op) {
    return op_won(op);
}

/* Asks what the losers met. 1 = there are none, nothing was sent. */
int batch_send_readback(struct lane *l) {
    struct lane_batch *b = &l->b;
    struct buf *a = &l->arrays[0];
    pgarr_begin(a, OID_UUID);
    unsigned n = 0;
    for (uint32_t i = 0; i < b->ops_n; i++) {
        const struct lane_op *op = b->ops[b->order[i]];
        if (op && !op_won(op)) {
            pgarr_uuid(a, &op->id);
            n++;
        }
    }
    if (n == 0)
        return 1;
    struct pg_params p;
    pg_params_init(&p);
    TRY(end_arrays(l, 1, &p));
    pg_param_uuid(&p, &b->ids[b->order[0]]);
    pg_param_uuid(&p, &b->ids[b->order[b->ops_n - 1]]);
    TRY(trip_begin(l));
    TRY(batch_step(l, STEP_READBACK, "readback", &p));
    return pg_run_end(&l->pg);
}
