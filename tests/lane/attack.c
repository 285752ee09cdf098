/*
 * See attack.h. The loop's thread runs the lanes and their callers; the server and the wire go wrong on other threads. After each kind of
 * fault everything must come to rest by itself, every operation must have ended once, and the oracle must agree.
 */
#include "attack.h"

#include "base/arena.h"
#include "base/clock.h"
#include "base/log.h"
#include "store/lane_private.h"
#include "store/migrate.h"

#include <unistd.h>

enum { LANES = 2, CALLERS = 64, SLOTS = 12, DELIVERIES = 200000, REST_S = 60 };

struct caller {
    struct lane_op op;
    int lane;
    bool busy;
    struct event event;
    unsigned standby;
};

struct seat {
    struct lane *lane;
    struct lane_rider rider;
    int32_t number, last_seq;
    bool riding, closed;
};

static struct store store;
static struct loop *loop;
static struct timer *timer;
static struct seat seats[LANES];
static struct caller callers[CALLERS];
static struct uuid slots[SLOTS];
static int slot_uses[SLOTS];
static struct history history;
static struct heard_list heard;
static struct chaos *chaos;
static PGconn *control;
static uint64_t rng;
static int32_t rides, delivery;
static int failures, tests;
static unsigned phase_s = 4;
static uint64_t turn_ns;
static enum { RUNNING, RESTING, CLOSING, OVER } step;
static enum fault fault;
static size_t answered[OP_SHUTDOWN + 1];

static const char *const fault_names[FAULTS] = {
    "nothing wrong", "backends terminated", "wire cut",      "backend stopped", "fenced",
    "disk full",     "read-only",           "tables locked", "no standby",      "all of it"};
static const char *const outcome_names[] = {"ok",        "not found", "content",     "bodies",  "decided", "producer",
                                            "retention", "refused",   "unavailable", "unknown", "expired", "shutdown"};

uint64_t attack_random(uint64_t *state) {
    uint64_t z = (*state += 0x9e3779b97f4a7c15ull);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
}

static unsigned pick(unsigned n) {
    return (unsigned)(attack_random(&rng) % n);
}

static void report(bool ok, const char *what) {
    failures += !ok;
    printf("%s %d - %s\n", ok ? "ok" : "not ok", ++tests, what);
    fflush(stdout);
}

static void bad(const char *what) {
    failures++;
    printf("not ok %d - %s\n", ++tests, what);
}

/* --- contents: variant 2 is another producer's --- */

const char *attack_producer(int variant) {
    return variant == 2 ? "other" : "shop";
}

static struct tx_content *content_of(const struct uuid *id, int variant) {
    static const char body[] = "a body that is one of several";
    struct msg m[3];
    uint32_t n = (uint32_t)(id->b[15] % 3) + 1;
    for (uint32_t i = 0; i < n; i++)
        m[i] = (struct msg){.topic = bytes_str("orders"), .body = bytes_of(body, (size_t)(10 + variant + (int)i))};
    return tx_content_new(id, bytes_str(attack_producer(variant)), BYTES_NULL, BYTES_NULL, 0, m, n);
}

void attack_digest(const struct uuid *id, int variant, uint8_t digest[32]) {
    struct tx_content *c = content_of(id, variant);
    memcpy(digest, c->digest, 32);
    tx_content_unref(c);
}

/* --- callers --- */

static void fresh(struct uuid *id, bool poisoned) {
    uuid_v7_make(store_now_us(&store) / 1000, id);
    id->b[15] = poisoned ? 0xee : (uint8_t)(id->b[15] & 0x7f);
}

static struct event *record(const struct event *e) {
    if (history.n == history.cap) {
        history.cap = MAX(history.cap * 2, 65536u);
        history.events = realloc(history.events, history.cap * sizeof(*e));
    }
    history.events[history.n] = *e;
    return &history.events[history.n++];
}

static void call(struct caller *c);

static void on_done(struct lane_op *op) {
    struct caller *c = CONTAINER_OF(op, struct caller, op);
    if (!c->busy) {
        bad("an operation ended twice");
        return;
    }
    c->busy = false;
    c->event.outcome = (uint8_t)op->outcome;
    c->event.state = (uint8_t)op->state;
    c->event.ended_ns = clock_mono_ns();
    answered[op->outcome]++;
    record(&c->event);
    if (op->outcome == OP_OK && c->standby % 2 && chaos_standby(chaos) == c->standby)
        bad("OK without the synchronous standby");
    tx_content_unref(op->content);
    memset(op, 0xa5, sizeof(*op));
    if (step == RUNNING && pick(3) == 0) /* from inside the lane */
        call(c);
}

static void choose_id(struct event *e) {
    if (pick(3) == 0) {
        e->solo = true;
        e->poisoned = pick(200) == 0;
        fresh(&e->id, e->poisoned);
        return;
    }
    unsigned s = pick(SLOTS);
    if (slot_uses[s]-- <= 0) {
        slot_uses[s] = 1 + (int)pick(24);
        fresh(&slots[s], false);
    }
    e->id = slots[s];
}

static void call(struct caller *c) {
    static const unsigned deadlines_ms[] = {0, 30, 300, 2000, 5000, 10000};
    struct event *e = &c->event;
    memset(c, 0, sizeof(*c));
    choose_id(e);
    e->kind = (uint8_t)(e->solo ? (pick(2) ? OP_PREPARE : OP_PUBLISH) : pick(4));
    e->variant = (uint8_t)(pick(6) ? 0 : 1 + pick(2));
    bool content = e->kind == OP_PREPARE || e->kind == OP_PUBLISH;
    e->named = !content && pick(2);
    unsigned ms = deadlines_ms[pick(ARRAY_LEN(deadlines_ms))];
    e->began_ns = clock_mono_ns();
    c->op = (struct lane_op){.kind = (enum op_kind)e->kind,
                             .origin = TX_ORIGIN_RPC,
                             .id = e->id,
                             .content = content ? content_of(&e->id, e->variant) : NULL,
                             .producer = e->named ? bytes_str(attack_producer(e->variant)) : BYTES_NULL,
                             .tombstone = e->named,
                             .check_after_ms = 1000,
                             .deadline_ns = ms ? e->began_ns + ms * NS_PER_MS : 0,
                             .done = on_done};
    c->lane = (int)pick(LANES);
    c->busy = true;
    c->standby = chaos_standby(chaos);
    if (lane_submit(seats[c->lane].lane, &c->op)) {
        c->busy = false;
        tx_content_unref(c->op.content);
    } else if (pick(4)) {
        lane_kick(seats[c->lane].lane, pick(2) ? 0 : pick(5));
    }
}

static bool any_busy(void) {
    for (int i = 0; i < CALLERS; i++)
        if (callers[i].busy)
            return true;
    return false;
}

/* --- the owner and the riders of a lane --- */

static void on_opened(void *arg, int32_t lane) {
    struct seat *s = arg;
    s->number = lane;
    s->last_seq = 0;
}

static void on_committed(void *arg, int32_t lane, int32_t seq, int64_t at_us, const struct lane_confirmed *conf,
                         uint32_t n) {
    struct seat *s = arg;
    UNUSED(at_us);
    if (lane != s->number || seq <= s->last_seq) {
        printf("# lane %d seq %d after lane %d seq %d\n", lane, seq, s->number, s->last_seq);
        bad("entries heard out of order");
    }
    s->last_seq = seq;
    for (uint32_t i = 0; i < n; i++)
        if (conf[i].content && !uuid_eq(&conf[i].content->id, &conf[i].tx))
            bad("a payload of another transaction");
    if (n == 0 || pick(16)) /* a sample */
        return;
    if (heard.n == heard.cap) {
        heard.cap = MAX(heard.cap * 2, 1024u);
        heard.rows = realloc(heard.rows, heard.cap * sizeof(*heard.rows));
    }
    heard.rows[heard.n++] = (struct heard){lane, seq, n};
}

static void on_fenced(void *arg, int32_t lane) {
    struct seat *s = arg;
    if (lane != s->number)
        bad("another lane fenced");
    s->number = 0;
}

static void on_collect(void *arg, struct lane_batch *b) {
    struct seat *s = arg;
    if (s->riding)
        bad("collected twice without an end");
    if (step == CLOSING || pick(3) == 0)
        return;
    s->riding = lane_add_counts(b, 1, 1, 0, 0, 0) == 0;
    (void)!lane_add_progress(b, 1, (struct lane_pos){s->last_seq, 0});
    for (unsigned i = pick(4); i > 0 && delivery < DELIVERIES; i--) {
        struct delivery_finish f = {.sub = 2, .n = 0, .token = pick(4) ? 0 : 9, .end = DELIVERY_DELIVERED};
        char text[UUID_TEXT];
        snprintf(text, sizeof(text), "00000000-0000-7000-8000-%012x", (unsigned)delivery++);
        if (uuid_parse(bytes_str(text), &f.tx) < 0 || lane_add_delivery_finish(b, &f) != 0)
            bad("a delivery's end does not fit");
    }
}

static void on_ride(void *arg, unsigned stale) {
    struct seat *s = arg;
    UNUSED(stale);
    if (!s->riding)
        bad("committed without a ride");
    s->riding = false;
    rides++;
    if (pick(2))
        lane_kick(s->lane, pick(30));
}

static void on_lost(void *arg) {
    struct seat *s = arg;
    if (!s->riding)
        bad("lost without a ride");
    s->riding = false;
}

/* --- the course of it --- */

static void phase_report(bool rested) {
    char what[200];
    int n = 0;
    for (int i = 0; i < CALLERS; i++) {
        if (callers[i].busy)
            n++;
    }
    for (int i = 0; !rested && i < LANES; i++) {
        const struct lane *l = seats[i].lane;
        printf("# lane %d: state %d, seq %d, %u operations in the batch, %zu wait, connection %s, last said: %s\n",
               l->number, (int)l->state, l->next_seq, l->b.ops_n, l->queue_n,
               pg_conn_ready(l->conn) ? "ready" : "not ready", pg_conn_last_error(l->conn));
    }
    if (!rested)
        printf("# %d operations never ended\n", n);
    int wrong = oracle_check(control, &history, &heard, rides);
    snprintf(what, sizeof(what), "%s: %zu operations, %d contradictions", fault_names[fault], history.n, wrong);
    report(rested && wrong == 0, what);
    printf("#");
    for (size_t i = 0; i < ARRAY_LEN(answered); i++)
        printf(" %s=%zu", outcome_names[i], answered[i]);
    printf(" rides=%d\n", rides);
    fflush(stdout);
    memset(answered, 0, sizeof(answered));
    history.n = heard.n = 0;
}

static void on_closed(void *arg) {
    struct seat *s = arg;
    if (s->closed)
        bad("closed twice");
    s->closed = true;
}

/* One lane closes in order, the other is freed with all it has. */
static void close_all(void) {
    for (int i = 0; i < CALLERS; i++)
        call(&callers[i]);
    step = CLOSING;
    lane_close(seats[0].lane, on_closed, &seats[0]);
    lane_remove_rider(seats[1].lane, &seats[1].rider);
    lane_free(seats[1].lane);
    seats[1].lane = NULL;
    turn_ns = clock_mono_ns() + REST_S * NS_PER_S;
}

static void closed_all(bool closed) {
    report(closed && !any_busy(), "one lane closed, one freed with operations inside");
    step = OVER;
    lane_free(seats[0].lane);
    timer_free(timer);
    loop_stop(loop);
}

static void on_tick(void *arg) {
    uint64_t now = clock_mono_ns();
    UNUSED(arg);
    timer_arm(timer, 1 + pick(3));
    if (step == RUNNING && now < turn_ns) {
        for (int i = 0; i < CALLERS; i++)
            if (!callers[i].busy && pick(3) == 0)
                call(&callers[i]);
    } else if (step == RUNNING) {
        chaos_calm(chaos);
        step = RESTING;
        turn_ns = clock_mono_ns() + REST_S * NS_PER_S;
    } else if (step == RESTING) {
        for (int i = 0; i < LANES; i++)
            lane_kick(seats[i].lane, 0);
        bool rested = !any_busy() && !seats[0].riding && !seats[1].riding && lane_ready(seats[0].lane) &&
                      lane_ready(seats[1].lane);
        if (!rested && now < turn_ns)
            return;
        phase_report(rested);
        if (!rested || ++fault == FAULTS) {
            close_all();
            return;
        }
        chaos_set(chaos, fault);
        turn_ns = clock_mono_ns() + phase_s * NS_PER_S;
        step = RUNNING;
    } else if (step == CLOSING && (seats[0].closed || now >= turn_ns)) {
        closed_all(seats[0].closed);
    }
}

static const char *const setup[] = {
    "CREATE TABLE attack (disk_full bool NOT NULL, deliveries int NOT NULL)",
    "CREATE FUNCTION attack() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
    " IF right(NEW.tx::text, 2) = 'ee' THEN RAISE SQLSTATE '22000'; END IF;"
    " IF (SELECT disk_full FROM attack) THEN RAISE SQLSTATE '53100' USING MESSAGE = 'no space left'; END IF;"
    " RETURN NEW; END $$",
    "CREATE TRIGGER attack BEFORE INSERT ON message FOR EACH ROW EXECUTE FUNCTION attack()",
    "CREATE TRIGGER attack BEFORE INSERT ON decision FOR EACH ROW EXECUTE FUNCTION attack()",
};

static int set_up(const char *dsn) {
    char sql[400];
    for (size_t i = 0; i < ARRAY_LEN(setup); i++)
        PQclear(PQexec(control, setup[i]));
    snprintf(sql, sizeof(sql),
             "INSERT INTO attack VALUES (false, %d); INSERT INTO delivery_due (sub, tx, n, due, attempt, lane, seq)"
             " SELECT 2, ('00000000-0000-7000-8000-' || lpad(to_hex(i), 12, '0'))::uuid, 0, now(), 1, 0, 0"
             " FROM generate_series(0, %d - 1) i",
             DELIVERIES, DELIVERIES);
    PGresult *r = PQexec(control, sql);
    bool ok = PQresultStatus(r) == PGRES_COMMAND_OK;
    PQclear(r);
    if (!ok)
        fprintf(stderr, "%s: %s", dsn, PQerrorMessage(control));
    return ok ? 0 : -1;
}

static int run(const char *dsn, uint64_t seed) {
    struct errmsg e = {0};
    struct buf out;
    struct proxy *proxy;
    int port;
    char through[500];
    buf_init(&out, 1 << 20);
    if (migrate_up(dsn, 0, &out, &e) < 0) {
        fprintf(stderr, "%s\n", e.text);
        return 2;
    }
    buf_deinit(&out);
    control = PQconnectdb(dsn);
    if (PQstatus(control) != CONNECTION_OK || set_up(dsn) < 0 || proxy_start(control, &proxy, &port) < 0 ||
        chaos_start(dsn, proxy, seed, &chaos) < 0)
        return 2;
    snprintf(through, sizeof(through),
             "host=127.0.0.1 port=%d dbname=%s user=%s password='%s' sslmode=disable gssencmode=disable", port,
             PQdb(control), PQuser(control), PQpass(control) ? PQpass(control) : "");
    const struct store_options o = {.dsn = through,
                                    .partitions_ahead = 3,
                                    .lane_batch = 24,
                                    .lane_batch_bytes = 4096,
                                    .lane_queue = 1000,
                                    .lane_queue_bytes = 1 << 20,
                                    .cache_bytes = 8192,
                                    .progress_ms = 50,
                                    .dead_after_ms = 5000,
                                    .statement_timeout_ms = 5000};
    if (store_open(&o, &store, &e) < 0 || loop_new("attack", &loop) < 0 || timer_new(loop, on_tick, NULL, &timer) < 0) {
        fprintf(stderr, "%s\n", e.text);
        return 2;
    }
    for (int i = 0; i < LANES; i++) {
        struct seat *s = &seats[i];
        const struct lane_owner owner = {.opened = on_opened, .committed = on_committed, .fenced = on_fenced, .arg = s};
        struct uuid me;
        uuid_v7_make(store_now_us(&store) / 1000, &me);
        s->rider = (struct lane_rider){.collect = on_collect, .committed = on_ride, .lost = on_lost, .arg = s};
        if (lane_new(loop, &store, &me, &owner, &s->lane) < 0)
            return 2;
        lane_add_rider(s->lane, &s->rider);
    }
    chaos_set(chaos, fault);
    turn_ns = clock_mono_ns() + phase_s * NS_PER_S;
    timer_arm(timer, 1);
    int r = loop_run(loop);
    loop_free(loop);
    chaos_stop(chaos);
    proxy_stop(proxy);
    PQfinish(control);
    free(history.events);
    free(heard.rows);
    printf("1..%d\n", tests);
    return r < 0 ? 2 : failures ? 1 : 0;
}

int main(int argc, char **argv) {
    if (argc < 2 || argc > 5) {
        fprintf(stderr, "usage: lane-attack DSN [seed] [seconds for each fault] [first fault]\n");
        return 2;
    }
    uint64_t seed = argc > 2 ? strtoull(argv[2], NULL, 10) : 1;
    phase_s = argc > 3 ? (unsigned)strtoul(argv[3], NULL, 10) : 4;
    fault = argc > 4 ? (enum fault)(strtoul(argv[4], NULL, 10) % FAULTS) : FAULT_NONE;
    rng = seed;
    log_set_level(getenv("LANE_ATTACK_LOG") ? LOG_LEVEL_INFO : LOG_LEVEL_ERROR);
    printf("# seed %llu\n", (unsigned long long)seed);
    return run(argv[1], seed);
}
