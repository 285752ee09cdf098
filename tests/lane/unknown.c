/*
 * lane-unknown: every way in which the answer of a commit can get lost, one scene after the other, against a real PostgreSQL. A scene
 * stops the lane's connection at an exact point (wire.h), does something to it, and asserts how the lane found out what
 * became of the batch (txmsg_unknown_commits_total), what was answered, and what is stored.
 */
#include "rig.h"
#include "tap.h"

#include "base/log.h"
#include "base/metric.h"

#include <signal.h>

enum act {
    CUT,         /* both sides of the connection */
    DROP,        /* the client's side alone: only a termination by name ends the old attempt */
    DROP_LOCKED, /* while the old attempt waits for a lock with its Sync already there */
    TERMINATE,   /* pg_terminate_backend, then everything goes on */
    STOP_DROP,   /* SIGSTOP of the backend; it goes on when the noop waits for it */
    STOP,        /* the same, but the connection stands: silence must be noticed */
    STOP_IDLE,   /* SIGSTOP between the round trips: the noop waits for nobody, the keys do */
    SEAL,        /* somebody seals the lane, then CUT */
    IDLE,        /* nothing, until the server ends the idle transaction */
};

struct scene {
    const char *name;
    bool exact, adopted;
    const char *stmt;
    enum wire_at at;
    enum act act;
    bool lose_noop; /* the answer of the first noop is lost as well */
    enum unknown_end end;
};

static const struct scene scenes[] = {
    /* The optimistic form: one pipeline up to one Sync. */
    {"held, then cut", false, false, "lane_row", WIRE_HELD, CUT, false, UNKNOWN_DEAD},
    {"cut before Sync", false, false, "lane_row", WIRE_BEFORE_SYNC, CUT, false, UNKNOWN_DEAD},
    {"before Sync, the server does not hear of it", false, false, "lane_row", WIRE_BEFORE_SYNC, DROP, false,
     UNKNOWN_DEAD},
    {"cut after Sync while it waits for a lock", false, false, "lane_row", WIRE_AFTER_SYNC, DROP_LOCKED, false,
     UNKNOWN_DEAD},
    {"cut after the commit, before its answer", false, false, "lane_row", WIRE_BEFORE_ANSWER, CUT, false,
     UNKNOWN_COMMITTED},
    {"terminated before Sync", false, false, "lane_row", WIRE_BEFORE_SYNC, TERMINATE, false, UNKNOWN_DEAD},
    {"stopped before Sync, cut", false, false, "lane_row", WIRE_BEFORE_SYNC, STOP_DROP, false, UNKNOWN_DEAD},
    {"stopped before Sync, the connection stands", false, false, "lane_row", WIRE_BEFORE_SYNC, STOP, false,
     UNKNOWN_DEAD},
    {"sealed by somebody, then cut", false, false, "lane_row", WIRE_HELD, SEAL, false, UNKNOWN_FENCED},
    {"before Sync, the noop's answer is lost too", false, false, "lane_row", WIRE_BEFORE_SYNC, CUT, true,
     UNKNOWN_DEAD_EARLIER},
    {"after the commit, the noop's answer is lost too", false, false, "lane_row", WIRE_BEFORE_ANSWER, CUT, true,
     UNKNOWN_COMMITTED},
    /* The exact form: BEGIN and headers | messages, decisions | lane row, COMMIT. */
    {"exact: cut in the first trip", true, false, "headers", WIRE_BEFORE_SYNC, CUT, false, UNKNOWN_DEAD},
    {"exact: stalled behind the first trip", true, false, "headers", WIRE_BEFORE_ANSWER, DROP, false, UNKNOWN_DEAD},
    {"exact: cut in the second trip", true, false, "decisions_exact", WIRE_BEFORE_SYNC, CUT, false, UNKNOWN_DEAD},
    {"exact: stalled behind the second trip", true, false, "decisions_exact", WIRE_BEFORE_ANSWER, DROP, false,
     UNKNOWN_DEAD},
    {"exact: terminated behind the second trip", true, false, "decisions_exact", WIRE_BEFORE_ANSWER, TERMINATE, false,
     UNKNOWN_DEAD},
    {"exact: stopped behind the second trip", true, false, "decisions_exact", WIRE_BEFORE_ANSWER, STOP_IDLE, false,
     UNKNOWN_DEAD},
    {"exact: idle in its transaction", true, false, "COMMIT", WIRE_HELD, IDLE, false, UNKNOWN_DEAD},
    {"exact: cut before COMMIT", true, false, "COMMIT", WIRE_HELD, CUT, false, UNKNOWN_DEAD},
    {"exact: cut behind COMMIT, before its Sync", true, false, "COMMIT", WIRE_BEFORE_SYNC, CUT, false,
     UNKNOWN_COMMITTED},
    {"exact: cut after the commit, before its answer", true, false, "COMMIT", WIRE_BEFORE_ANSWER, CUT, false,
     UNKNOWN_COMMITTED},
    {"exact: sealed by somebody, then cut", true, false, "COMMIT", WIRE_HELD, SEAL, false, UNKNOWN_FENCED},
    {"exact: before COMMIT, the noop's answer is lost too", true, false, "COMMIT", WIRE_HELD, CUT, true,
     UNKNOWN_DEAD_EARLIER},
    /* An adopted lane: riders only, kind P. */
    {"adopted: cut before Sync", false, true, "lane_row", WIRE_BEFORE_SYNC, CUT, false, UNKNOWN_DEAD},
    {"adopted: cut after the commit, before its answer", false, true, "lane_row", WIRE_BEFORE_ANSWER, CUT, false,
     UNKNOWN_COMMITTED},
    {"adopted: before Sync, the noop's answer is lost too", false, true, "lane_row", WIRE_BEFORE_SYNC, CUT, true,
     UNKNOWN_DEAD_EARLIER},
    {"adopted: sealed by another adopter, then cut", false, true, "lane_row", WIRE_HELD, SEAL, false, UNKNOWN_FENCED},
};

static const char *const end_names[UNKNOWN_ENDS] = {"lost", "dead", "dead_earlier", "committed", "fenced", "foreign"};

static struct rig rig;

/* --- what happened since the scene began --- */

struct tally {
    int64_t ends[UNKNOWN_ENDS];
    int rides, rides_lost, fenced, confirmed;
};

static struct metric *unknown_metric(enum unknown_end e) {
    return metric_get(metric_family(METRIC_COUNTER, "txmsg_unknown_commits_total", "resolution", "", UNKNOWN_ENDS),
                      end_names[e]);
}

static struct tally now_tally(void) {
    struct tally t = {
        .rides = rig.rides, .rides_lost = rig.rides_lost, .fenced = rig.fenced, .confirmed = rig.confirmed};
    for (int i = 0; i < UNKNOWN_ENDS; i++)
        t.ends[i] = metric_value(unknown_metric((enum unknown_end)i));
    return t;
}

static struct tally before;
static enum unknown_end awaited;

static bool resolved(struct rig *r) {
    UNUSED(r);
    return metric_value(unknown_metric(awaited)) > before.ends[awaited];
}

static bool ridden(struct rig *r) {
    return r->rides > before.rides;
}

static bool ride_lost(struct rig *r) {
    return r->rides_lost > before.rides_lost;
}

static void expect_branch(enum unknown_end end) {
    struct tally now = now_tally();
    for (int i = 0; i < UNKNOWN_ENDS; i++) {
        int64_t wanted = i == UNKNOWN_LOST || i == (int)end ? 1 : 0;
        if (now.ends[i] - before.ends[i] == wanted)
            continue;
        printf("# resolution %s came %lld times, %lld were due\n", end_names[i],
               (long long)(now.ends[i] - before.ends[i]), (long long)wanted);
        tap_good = false;
    }
}

/* --- what is stored --- */

enum place_of_id { ROWS, DECISION, CONFIRMED_IN, PREPARED_IN };

static long stored(const struct call *c, enum place_of_id where) {
    static const char *const head[] = {"message WHERE tx = ", "decision WHERE tx = ", "lane_log WHERE ",
                                       "lane_log WHERE "};
    static const char *const tail[] = {"", "", " = ANY (conf)", " = ANY (prep)"};
    char id[UUID_TEXT];
    uuid_format(&c->id, id);
    return rig_sql(&rig, "SELECT count(*) FROM %s'%s'%s", head[where], id, tail[where]);
}

/* A call that ended well is stored once, as a whole, and found by one entry. */
static void expect_stored(const struct call *c) {
    bool publish = c->op.kind == OP_PUBLISH;
    EXPECT(stored(c, ROWS) == (publish ? 2 : 1));
    EXPECT(stored(c, DECISION) == (publish ? 1 : 0));
    EXPECT(stored(c, CONFIRMED_IN) == (publish ? 1 : 0));
    EXPECT(stored(c, PREPARED_IN) == (publish ? 0 : 1));
}

/* What riders were told is what the entries count. */
static void expect_counted(void) {
    EXPECT(rig_sql(&rig, "SELECT coalesce(sum(sub_cnt[2]), 0) FROM lane_log") == rig.rides);
}

/* --- acts --- */

static PGconn *locker;

/* An open transaction holds the key of the decision that a call is going to make. */
static void lock_decision(const char *dsn, const struct call *c) {
    char id[UUID_TEXT], sql[300];
    uuid_format(&c->id, id);
    snprintf(sql, sizeof(sql),
             "BEGIN; INSERT INTO decision (tx, verdict, origin, producer, lane, seq, at)"
             " VALUES ('%s', 1, 1, 'shop', 0, 0, now())",
             id);
    locker = PQconnectdb(dsn);
    PGresult *res = PQexec(locker, sql);
    EXPECT(PQresultStatus(res) == PGRES_COMMAND_OK);
    PQclear(res);
}

static void unlock(void) {
    PQfinish(locker);
    locker = NULL;
}

#define LANES_WAITING                                                                                                  \
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"                                         \
    " AND application_name LIKE 'txmsg-lane-%' AND wait_event_type = 'Lock'"

static void seal_by_hand(int32_t seq) {
    rig_sql(&rig, "INSERT INTO lane_log (lane, seq, kind, nonce) VALUES (%d, %d, 'S', 0)", rig.number, seq);
}

static bool backend_gone(int pid) {
    char sql[100];
    snprintf(sql, sizeof(sql), "SELECT count(*) FROM pg_stat_activity WHERE pid = %d", pid);
    return rig_wait_sql(&rig, 0, sql);
}

/* The server side of a dropped connection ended because somebody terminated it, not for lack of patience. */
static int dropped;
static bool server_side_ended(struct rig *r) {
    char state[6];
    return wire_ended(r->wire, dropped, state);
}
static void expect_terminated(int id) {
    char state[6];
    dropped = id;
    EXPECT(rig_wait(&rig, server_side_ended));
    wire_ended(rig.wire, id, state);
    if (strcmp(state, "57P01") != 0)
        printf("# the old backend ended with %s\n", state);
    EXPECT(!strcmp(state, "57P01"));
}

/* What was sent on has been executed, as far as that goes without the Sync. */
static void expect_executed(const struct scene *s, pid_t pid, int32_t seq) {
    char sql[200];
    if (!strcmp(s->stmt, "COMMIT"))
        snprintf(sql, sizeof(sql), "SELECT count(*) FROM lane_log WHERE lane = %d AND seq = %d", rig.number, seq);
    else
        snprintf(
            sql, sizeof(sql),
            "SELECT count(*) FROM pg_stat_activity WHERE pid = %d AND wait_event = 'ClientRead' AND backend_xid IS NOT "
            "NULL",
            (int)pid);
    EXPECT(rig_wait_sql(&rig, 1, sql));
}

static void act(const struct scene *s, int id, int32_t seq) {
    pid_t pid = wire_backend(rig.wire, id);
    char sql[200];
    if (s->at == WIRE_BEFORE_SYNC)
        expect_executed(s, pid, seq);
    switch (s->act) {
    case CUT:
        wire_cut(rig.wire, id);
        break;
    case DROP:
        wire_drop(rig.wire, id);
        expect_terminated(id);
        break;
    case DROP_LOCKED:
        EXPECT(rig_wait_sql(&rig, 1, LANES_WAITING));
        wire_drop(rig.wire, id);
        awaited = s->end;
        EXPECT(rig_wait(&rig, resolved));
        unlock();
        break;
    case TERMINATE:
        rig_sql(&rig, "SELECT pg_terminate_backend(%d)", (int)pid);
        EXPECT(backend_gone(pid));
        wire_go(rig.wire, id);
        break;
    case STOP_DROP:
        EXPECT(pid > 1 && kill(pid, SIGSTOP) == 0);
        wire_go(rig.wire, id); /* the Sync waits in the backend's socket */
        wire_drop(rig.wire, id);
        EXPECT(rig_wait_sql(&rig, 1, LANES_WAITING));
        EXPECT(kill(pid, SIGCONT) == 0);
        expect_terminated(id);
        break;
    case STOP:
        EXPECT(pid > 1 && kill(pid, SIGSTOP) == 0);
        wire_go(rig.wire, id);
        EXPECT(rig_wait_sql(&rig, 1, LANES_WAITING));
        EXPECT(kill(pid, SIGCONT) == 0);
        break;
    case STOP_IDLE:
        EXPECT(pid > 1 && kill(pid, SIGSTOP) == 0);
        wire_drop(rig.wire, id);
        snprintf(sql, sizeof(sql), "SELECT count(*) FROM lane_log WHERE lane = %d AND seq = %d AND kind = 'N'",
                 rig.number, seq);
        EXPECT(rig_wait_sql(&rig, 1, sql));
        EXPECT(rig_wait_sql(&rig, 1, LANES_WAITING)); /* the repeat meets the keys of the old attempt */
        EXPECT(kill(pid, SIGCONT) == 0);
        expect_terminated(id);
        break;
    case SEAL:
        seal_by_hand(seq);
        wire_cut(rig.wire, id);
        break;
    case IDLE:
        EXPECT(backend_gone(pid));
        break;
    }
}

/* --- a scene --- */

static void lose_noop(const struct scene *s, int first, int32_t seq) {
    if (s->at == WIRE_BEFORE_SYNC)
        expect_executed(s, wire_backend(rig.wire, first), seq);
    wire_arm(rig.wire, "lane_noop", WIRE_BEFORE_ANSWER);
    wire_cut(rig.wire, first);
    int id = wire_wait(rig.wire, WAIT_S);
    EXPECT(id >= 0);
    if (id >= 0)
        wire_cut(rig.wire, id);
}

static char kind_at(int32_t lane, int32_t seq) {
    return (char)rig_sql(&rig, "SELECT ascii(kind::text) FROM lane_log WHERE lane = %d AND seq = %d", lane, seq);
}

static void run_scene(const struct scene *s, const char *dsn) {
    if (s->adopted || rig.lane->adopted)
        rig_lane(&rig, s->adopted);
    int from = 0;
    if (s->exact) { /* the repeat of a stored one surprises the optimistic form */
        rig_call(&rig, OP_PREPARE, -1, 0);
        rig_submit(&rig, 0);
        EXPECT(rig_wait_done(&rig));
        from = 1;
    }
    rig_settle(&rig);
    int32_t lane = rig.number, seq = rig_next_seq(&rig);
    before = now_tally();
    wire_arm(rig.wire, s->stmt, s->at);
    rig.ride = true;
    if (!s->adopted) {
        rig_call(&rig, OP_PREPARE, s->exact ? 0 : -1, 0);
        rig_call(&rig, OP_PUBLISH, -1, 0);
    }
    if (s->act == DROP_LOCKED)
        lock_decision(dsn, &rig.calls[1]);
    rig_submit(&rig, from);
    int id = wire_wait(rig.wire, WAIT_S);
    EXPECT(id >= 0);
    if (id >= 0 && s->lose_noop)
        lose_noop(s, id, seq);
    else if (id >= 0)
        act(s, id, seq);
    EXPECT(rig_wait_done(&rig));
    awaited = s->end;
    EXPECT(rig_wait(&rig, resolved));
    bool gone = s->adopted && s->end == UNKNOWN_FENCED;
    EXPECT(rig_wait(&rig, gone ? ride_lost : ridden));
    expect_branch(s->end);
    EXPECT(rig.rides - before.rides == !gone && rig.rides_lost - before.rides_lost == (s->end == UNKNOWN_FENCED));
    EXPECT(rig.fenced - before.fenced == (s->end == UNKNOWN_FENCED));
    EXPECT(rig.confirmed - before.confirmed == !s->adopted);
    EXPECT((rig.number != lane) == (s->end == UNKNOWN_FENCED && !s->adopted));
    for (int i = 0; i < rig.calls_n; i++) {
        EXPECT(rig.calls[i].outcome == OP_OK);
        expect_stored(&rig.calls[i]);
    }
    char kind = s->end == UNKNOWN_FENCED ? 'S' : s->end != UNKNOWN_COMMITTED ? 'N' : s->adopted ? 'P' : 'D';
    EXPECT(kind_at(lane, seq) == kind);
    expect_counted();
    rig.ride = false;
    rig_clear(&rig);
    if (gone)
        rig_lane(&rig, false);
    tap_report(s->name);
}

/* --- scenes of their own --- */

/* The store cannot be reached until the callers' deadline has passed: they are told that nobody knows, and a repeat finds out. */
static void unreachable(const char *name, bool exact, const char *stmt, enum wire_at at, enum unknown_end end) {
    int from = 0;
    if (exact) {
        rig_call(&rig, OP_PREPARE, -1, 0);
        rig_submit(&rig, 0);
        EXPECT(rig_wait_done(&rig));
        from = 1;
    }
    rig_settle(&rig);
    before = now_tally();
    wire_arm(rig.wire, stmt, at);
    if (exact)
        rig_call(&rig, OP_PREPARE, 0, 1000);
    struct call *publish = rig_call(&rig, OP_PUBLISH, -1, 1000);
    rig_submit(&rig, from);
    int id = wire_wait(rig.wire, WAIT_S);
    EXPECT(id >= 0);
    wire_refuse(rig.wire, true);
    wire_cut(rig.wire, MAX(id, 0));
    EXPECT(rig_wait_done(&rig));
    for (int i = from; i < rig.calls_n; i++)
        EXPECT(rig.calls[i].outcome == OP_OUTCOME_UNKNOWN);
    EXPECT(stored(publish, DECISION) == (end == UNKNOWN_COMMITTED));
    wire_refuse(rig.wire, false);
    awaited = end;
    EXPECT(rig_wait(&rig, resolved));
    expect_branch(end);
    rig_settle(&rig);
    EXPECT(rig.confirmed - before.confirmed == (end == UNKNOWN_COMMITTED));
    int n = rig.calls_n;
    rig_submit(&rig, (rig_call(&rig, OP_PUBLISH, n - 1, 0), n));
    EXPECT(rig_wait_done(&rig));
    EXPECT(rig.calls[n].outcome == OP_OK && rig.confirmed - before.confirmed == 1);
    expect_stored(&rig.calls[n]);
    rig_clear(&rig);
    tap_report(name);
}

#define WAIT_FOR_STANDBY                                                                                               \
    "FROM pg_stat_activity WHERE datname = current_database() AND starts_with(application_name, 'txmsg-lane-')"        \
    " AND wait_event = 'SyncRep'"

/* Readers see the commit, a standby has not got it: the answer waits, whoever asks, until the standby has it. */
static void standby(const char *name, const char *how) {
    rig_settle(&rig);
    before = now_tally();
    rig_sql(&rig, "ALTER SYSTEM SET synchronous_standby_names = 'nobody'");
    rig_sql(&rig, "SELECT pg_reload_conf()");
    EXPECT(rig_wait_sql(&rig, 1, "SELECT (current_setting('synchronous_standby_names') = 'nobody')::int"));
    bool waits = false; /* a lane's backend reads the new setting before its next batch, or the one after */
    for (int i = 0; i < 200 && !waits; i++) {
        rig_clear(&rig);
        rig_call(&rig, OP_PUBLISH, -1, 0);
        rig_submit(&rig, 0);
        while (!rig.calls[0].done && !waits)
            waits = rig_sql(&rig, "SELECT count(*) " WAIT_FOR_STANDBY) == 1;
    }
    EXPECT(waits);
    long pid = rig_sql(&rig, "SELECT pid " WAIT_FOR_STANDBY);
    rig_sql(&rig, "SELECT %s(%ld)", how, pid);
    char other[300];
    snprintf(other, sizeof(other), "SELECT count(*) " WAIT_FOR_STANDBY " AND pid <> %ld", pid);
    EXPECT(rig_wait_sql(&rig, 1, other)); /* the one that asks waits too */
    EXPECT(stored(&rig.calls[0], DECISION) == 1 && !rig.calls[0].done);
    rig_sql(&rig, "ALTER SYSTEM RESET synchronous_standby_names");
    rig_sql(&rig, "SELECT pg_reload_conf()");
    EXPECT(rig_wait_done(&rig));
    EXPECT(rig.calls[0].outcome == OP_OK);
    expect_branch(UNKNOWN_COMMITTED);
    expect_stored(&rig.calls[0]);
    rig_clear(&rig);
    tap_report(name);
}

/* The answer of what comes behind the commit is lost: nothing is unknown, it is asked again. */
static void lost_readback(void) {
    rig_call(&rig, OP_PREPARE, -1, 0);
    rig_submit(&rig, 0);
    EXPECT(rig_wait_done(&rig));
    rig_settle(&rig);
    before = now_tally();
    wire_arm(rig.wire, "readback", WIRE_BEFORE_ANSWER);
    rig_call(&rig, OP_PREPARE, 0, 0);
    rig_submit(&rig, 1);
    int id = wire_wait(rig.wire, WAIT_S);
    EXPECT(id >= 0);
    wire_cut(rig.wire, MAX(id, 0));
    EXPECT(rig_wait_done(&rig));
    EXPECT(rig.calls[1].outcome == OP_OK && now_tally().ends[UNKNOWN_LOST] == before.ends[UNKNOWN_LOST]);
    expect_stored(&rig.calls[1]);
    rig_clear(&rig);
    tap_report("the answer of the read-back is lost");
}

static bool opened_again(struct rig *r) {
    return r->opened > 1 && lane_number(r->lane) != 0 && r->fenced > before.fenced;
}

/* A lane whose opening was not heard of is left; the next one is used. */
static void lost_opening(void) {
    rig_settle(&rig);
    before = now_tally();
    int32_t old = rig.number;
    wire_arm(rig.wire, "lane_open", WIRE_BEFORE_ANSWER);
    seal_by_hand(rig_next_seq(&rig));
    rig_call(&rig, OP_PUBLISH, -1, 0);
    rig_submit(&rig, 0);
    int id = wire_wait(rig.wire, WAIT_S);
    EXPECT(id >= 0);
    wire_cut(rig.wire, MAX(id, 0));
    EXPECT(rig_wait_done(&rig));
    EXPECT(rig_wait(&rig, opened_again));
    EXPECT(rig.calls[0].outcome == OP_OK && rig.number == old + 2);
    EXPECT(rig_sql(&rig, "SELECT count(*) FROM lane_log WHERE lane = %d", old + 1) == 0);
    expect_stored(&rig.calls[0]);
    rig_clear(&rig);
    tap_report("the answer of lane_open is lost");
}

static void close_lane(struct rig *r);
static void on_closed(void *arg) {
    struct rig *r = arg;
    r->closed = true;
}
static void close_lane(struct rig *r) {
    lane_close(r->lane, on_closed, r);
}
static bool is_closed(struct rig *r) {
    return r->closed;
}

static void lost_seal(void) {
    rig_settle(&rig);
    int32_t lane = rig.number, seq = rig_next_seq(&rig);
    wire_arm(rig.wire, "lane_seal", WIRE_BEFORE_ANSWER);
    rig_on_loop(&rig, close_lane);
    int id = wire_wait(rig.wire, WAIT_S);
    EXPECT(id >= 0);
    wire_cut(rig.wire, MAX(id, 0));
    EXPECT(rig_wait(&rig, is_closed));
    EXPECT(kind_at(lane, seq) == 'S');
    EXPECT(rig_sql(&rig, "SELECT count(*) FROM lane_log WHERE lane = %d AND kind = 'S'", lane) == 1);
    rig.closed = false;
    rig_lane(&rig, false);
    tap_report("the answer of the seal is lost");
}

int main(int argc, char **argv) {
    if (argc < 2 || argc > 3) {
        fprintf(stderr, "usage: lane-unknown DSN [part of a scene's name]\n");
        return 2;
    }
    const char *only = argc > 2 ? argv[2] : "";
    log_set_level(getenv("LANE_LOG") ? LOG_LEVEL_INFO : LOG_LEVEL_ERROR);
    if (rig_start(&rig, argv[1]) < 0)
        return 2;
    for (size_t i = 0; i < ARRAY_LEN(scenes); i++)
        if (strstr(scenes[i].name, only))
            run_scene(&scenes[i], argv[1]);
    if (!*only) {
        unreachable("unreachable until the deadline, it was dead", false, "lane_row", WIRE_BEFORE_SYNC, UNKNOWN_DEAD);
        unreachable("unreachable until the deadline, it had committed", false, "lane_row", WIRE_BEFORE_ANSWER,
                    UNKNOWN_COMMITTED);
        unreachable("exact: unreachable until the deadline, it was dead", true, "headers", WIRE_BEFORE_SYNC,
                    UNKNOWN_DEAD);
        unreachable("exact: unreachable until the deadline, it had committed", true, "COMMIT", WIRE_BEFORE_ANSWER,
                    UNKNOWN_COMMITTED);
        standby("the wait for the standby is cancelled", "pg_cancel_backend");
        standby("the backend is terminated while it waits for the standby", "pg_terminate_backend");
        lost_readback();
        lost_opening();
        lost_seal();
    }
    rig_stop(&rig);
    return tap_end();
}
