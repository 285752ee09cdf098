/* See rig.h. */
#include "rig.h"

#include "base/clock.h"
#include "base/log.h"
#include "store/migrate.h"

#include <pthread.h>
#include <stdarg.h>
#include <time.h>

/* --- the lane's thread --- */

static void on_opened(void *arg, int32_t lane) {
    struct rig *r = arg;
    r->number = lane;
    r->opened++;
}

static void on_committed(void *arg, int32_t lane, int32_t seq, int64_t at_us, const struct lane_confirmed *conf,
                         uint32_t n) {
    struct rig *r = arg;
    UNUSED(lane);
    UNUSED(seq);
    UNUSED(at_us);
    UNUSED(conf);
    r->committed++;
    r->confirmed += (int)n;
}

static void on_fenced(void *arg, int32_t lane) {
    struct rig *r = arg;
    UNUSED(lane);
    r->fenced++;
}

static void on_collect(void *arg, struct lane_batch *b) {
    struct rig *r = arg;
    if (!r->ride || r->riding)
        return;
    r->riding = true;
    r->ride = false;
    (void)!lane_add_counts(b, 1, 1, 0, 0, 0);
    if (r->collect)
        r->collect(r, b);
}

static void on_ride(void *arg, unsigned stale) {
    struct rig *r = arg;
    r->rides_stale += (int)stale;
    r->rides++;
    r->riding = false; /* last: the scene waits for it */
}

static void on_lost(void *arg) {
    struct rig *r = arg;
    r->ride = true; /* a cursor comes again with the next batch */
    r->rides_lost++;
    r->riding = false;
}

static void on_done(struct lane_op *op) {
    struct call *c = CONTAINER_OF(op, struct call, op);
    c->outcome = op->outcome;
    c->state = op->state;
    c->done = true;
}

static void on_closed(void *arg) {
    struct rig *r = arg;
    r->closed = true;
}

struct errand {
    struct rig *rig;
    void (*fn)(struct rig *r);
    pthread_mutex_t lock;
    pthread_cond_t over;
    bool ran;
};

static void run_errand(void *arg) {
    struct errand *e = arg;
    e->fn(e->rig);
    pthread_mutex_lock(&e->lock);
    e->ran = true;
    pthread_cond_signal(&e->over);
    pthread_mutex_unlock(&e->lock);
}

void rig_on_loop(struct rig *r, void (*fn)(struct rig *r)) {
    struct errand e = {.rig = r, .fn = fn, .lock = PTHREAD_MUTEX_INITIALIZER, .over = PTHREAD_COND_INITIALIZER};
    if (loop_post(r->loop, run_errand, &e) < 0)
        abort();
    pthread_mutex_lock(&e.lock);
    while (!e.ran)
        pthread_cond_wait(&e.over, &e.lock);
    pthread_mutex_unlock(&e.lock);
}

static void free_lane(struct rig *r) {
    if (!r->lane)
        return;
    lane_remove_rider(r->lane, &r->rider);
    lane_free(r->lane);
    r->lane = NULL;
}

static int32_t behind_seal;

static void make_lane(struct rig *r, bool adopted) {
    const struct lane_owner owner = {.opened = on_opened, .committed = on_committed, .fenced = on_fenced, .arg = r};
    struct uuid me;
    free_lane(r);
    r->riding = false;
    uuid_v7_make(store_now_us(&r->store) / 1000, &me);
    int e = adopted ? lane_adopt(r->loop, &r->store, &me, r->number, behind_seal, &owner, &r->lane)
                    : lane_new(r->loop, &r->store, &me, &owner, &r->lane);
    if (e < 0)
        abort();
    lane_add_rider(r->lane, &r->rider);
}

static void make_own(struct rig *r) {
    r->number = 0;
    make_lane(r, false);
}

static void make_adopted(struct rig *r) {
    make_lane(r, true);
}

static bool lane_can(struct rig *r);

void rig_lane(struct rig *r, bool adopted) {
    if (adopted) {
        rig_on_loop(r, free_lane);
        behind_seal =
            (int32_t)rig_sql(r,
                             "INSERT INTO lane_log (lane, seq, kind, nonce) SELECT %d, coalesce(max(seq), 0) + 1,"
                             " 'S', 0 FROM lane_log WHERE lane = %d RETURNING seq",
                             r->number, r->number) +
            1;
    }
    rig_on_loop(r, adopted ? make_adopted : make_own);
    if (!rig_wait(r, lane_can))
        abort();
}

static int32_t asked;
static bool is_ready, do_forget;

static void look(struct rig *r) {
    asked = r->lane->next_seq;
    is_ready = r->lane->number != 0 && r->lane->state == LANE_READY && pg_conn_ready(r->lane->conn);
    if (is_ready && do_forget)
        r->lane->exact_until_ns = 0;
}

static bool lane_can(struct rig *r) {
    rig_on_loop(r, look);
    return is_ready;
}

void rig_settle(struct rig *r) {
    do_forget = true;
    if (!rig_wait(r, lane_can))
        printf("# the lane does not come to rest\n");
    do_forget = false;
}

int32_t rig_next_seq(struct rig *r) {
    rig_on_loop(r, look);
    return asked;
}

/* --- calls --- */

static struct tx_content *content_of(const struct uuid *id, enum op_kind kind) {
    const struct msg m[2] = {{.topic = bytes_str("orders"), .body = bytes_str("the first")},
                             {.topic = bytes_str("orders"), .body = bytes_str("the second")}};
    return tx_content_new(id, bytes_str("shop"), BYTES_NULL, BYTES_NULL, 0, m, kind == OP_PUBLISH ? 2 : 1);
}

struct call *rig_call(struct rig *r, enum op_kind kind, int like, uint64_t deadline_ms) {
    ASSERT(r->calls_n < CALLS);
    struct call *c = &r->calls[r->calls_n++];
    *c = (struct call){0};
    if (like >= 0)
        c->id = r->calls[like].id;
    else
        uuid_v7_make(store_now_us(&r->store) / 1000, &c->id);
    bool content = kind == OP_PREPARE || kind == OP_PUBLISH;
    c->op = (struct lane_op){.kind = kind,
                             .origin = TX_ORIGIN_RPC,
                             .id = c->id,
                             .content = content ? content_of(&c->id, kind) : NULL,
                             .producer = content ? BYTES_NULL : bytes_str("shop"),
                             .check_after_ms = 60000,
                             .deadline_ns = deadline_ms ? clock_mono_ns() + deadline_ms * NS_PER_MS : 0,
                             .done = on_done};
    return c;
}

static int submit_from;
static void submit(struct rig *r) {
    for (int i = submit_from; i < r->calls_n; i++)
        if (lane_submit(r->lane, &r->calls[i].op))
            abort();
    lane_kick(r->lane, 0);
}

void rig_submit(struct rig *r, int from) {
    submit_from = from;
    rig_on_loop(r, submit);
}

static bool all_done(struct rig *r) {
    for (int i = 0; i < r->calls_n; i++)
        if (!r->calls[i].done)
            return false;
    return true;
}

bool rig_wait_done(struct rig *r) {
    return rig_wait(r, all_done);
}

void rig_clear(struct rig *r) {
    for (int i = 0; i < r->calls_n; i++)
        tx_content_unref(r->calls[i].op.content);
    r->calls_n = 0;
    r->collect = NULL;
}

/* --- waiting and asking --- */

static void nap(void) {
    const struct timespec t = {.tv_nsec = 5000000};
    nanosleep(&t, NULL);
}

bool rig_wait(struct rig *r, bool (*fn)(struct rig *r)) {
    for (uint64_t until = clock_mono_ns() + WAIT_S * NS_PER_S; !fn(r); nap())
        if (clock_mono_ns() > until)
            return false;
    return true;
}

static long first_number(PGconn *c, const char *sql) {
    PGresult *res = PQexec(c, sql);
    bool rows = PQresultStatus(res) == PGRES_TUPLES_OK;
    long v = rows && PQntuples(res) ? strtol(PQgetvalue(res, 0, 0), NULL, 10) : -1;
    if (!rows && PQresultStatus(res) != PGRES_COMMAND_OK)
        printf("# %s: %s", sql, PQerrorMessage(c));
    PQclear(res);
    return v;
}

long rig_sql(struct rig *r, const char *format, ...) {
    char sql[1000];
    va_list ap;
    va_start(ap, format);
    vsnprintf(sql, sizeof(sql), format, ap);
    va_end(ap);
    return first_number(r->control, sql);
}

bool rig_wait_sql(struct rig *r, long wanted, const char *sql) {
    for (uint64_t until = clock_mono_ns() + WAIT_S * NS_PER_S; first_number(r->control, sql) != wanted; nap())
        if (clock_mono_ns() > until)
            return false;
    return true;
}

/* --- life --- */

int rig_start(struct rig *r, const char *dsn) {
    static char through[500];
    struct errmsg e = {0};
    struct buf out;
    int port;
    buf_init(&out, 1 << 20);
    int code = migrate_up(dsn, 0, &out, &e);
    buf_deinit(&out);
    r->control = PQconnectdb(dsn);
    if (code < 0 || PQstatus(r->control) != CONNECTION_OK || wire_start(r->control, &r->wire, &port) < 0) {
        fprintf(stderr, "%s %s\n", e.text, PQerrorMessage(r->control));
        return -1;
    }
    PQclear(PQexec(r->control, "SET synchronous_commit = local; SET client_min_messages = error"));
    snprintf(through, sizeof(through),
             "host=127.0.0.1 port=%d dbname=%s user=%s password='%s' sslmode=disable gssencmode=disable", port,
             PQdb(r->control), PQuser(r->control), PQpass(r->control) ? PQpass(r->control) : "");
    const struct store_options o = {.dsn = through,
                                    .partitions_ahead = 3,
                                    .lane_batch = 440,
                                    .lane_batch_bytes = 1 << 20,
                                    .lane_queue = 1000,
                                    .lane_queue_bytes = 1 << 20,
                                    .cache_bytes = 1 << 20,
                                    .progress_ms = 50,
                                    .dead_after_ms = 3000,
                                    .statement_timeout_ms = 5000};
    r->rider = (struct lane_rider){.collect = on_collect, .committed = on_ride, .lost = on_lost, .arg = r};
    if (store_open(&o, &r->store, &e) < 0 || loop_new("lane", &r->loop) < 0 || loop_start(r->loop) < 0) {
        fprintf(stderr, "%s\n", e.text);
        return -1;
    }
    rig_lane(r, false);
    return 0;
}

static void close_lane(struct rig *r) {
    lane_close(r->lane, on_closed, r);
}

static bool is_closed(struct rig *r) {
    return r->closed;
}

static void end(struct rig *r) {
    free_lane(r);
    loop_stop(r->loop);
}

void rig_stop(struct rig *r) {
    rig_on_loop(r, close_lane);
    (void)rig_wait(r, is_closed);
    rig_on_loop(r, end);
    loop_join(r->loop);
    loop_free(r->loop);
    wire_stop(r->wire);
    PQfinish(r->control);
}
