/*
 * Pausing and resuming: a state beside the specification, so that applying a file does not resume what a person paused.
 *
 * WRITE (one pipeline = one transaction; the epoch first, as everybody who changes configuration) --> ASK, until every run
 * that may still dispatch has applied the new epoch: a run that has not, and has an open lane, or lanes that it adopted. Those
 * whose beats all stand still for `dead_ms` are dead, and have stopped before that by themselves.
 */
#include "store/topo.h"

#include "base/arena.h"
#include "base/clock.h"

enum { ASK_MS = 100 };

struct change {
    struct pg_conn *conn;
    struct timer *timer;
    struct pg_run run;
    struct arena arena;
    const char *name;
    bool paused;
    uint64_t until_ns, dead_ns, same_since_ns;
    int64_t behind, beats; /* runs that have not applied it, and their beats together */
    int64_t epoch;
    bool found;
    topo_state_fn *fn;
    void *arg;
};

/* Only if it changes anything. Two at once may raise it twice, which is harmless. */
static const char raise_sql[] = "UPDATE cfg SET epoch = epoch + 1 WHERE EXISTS (SELECT FROM subscription"
                                " WHERE name = $1::text AND state = $2::text)";
static const char set_sql[] =
    "WITH u AS (UPDATE subscription SET state = $2::text WHERE name = $1::text AND state = $3::text RETURNING name)"
    " INSERT INTO audit (actor, act, object, reason, before, after)"
    " SELECT $4::text, $5::text, 'subscription/' || u.name, $6::text,"
    " jsonb_build_object('state', $3::text), jsonb_build_object('state', $2::text) FROM u";
static const char see_sql[] = "SELECT epoch, EXISTS (SELECT FROM subscription WHERE name = $1::text"
                              " AND state = $2::text) FROM cfg";
static const char ask_sql[] =
    "SELECT count(*), coalesce(sum(beat), 0)::int8 FROM worker w WHERE abs(w.epoch) < $1::int8"
    " AND EXISTS (SELECT FROM lane l WHERE l.run = w.run AND l.state <> 'drained')";

static void change_free(struct change *c) {
    timer_free(c->timer);
    arena_deinit(&c->arena);
    mem_free(c);
}

static void change_end(struct change *c, int code) {
    c->fn(c->arg, code);
    change_free(c);
}

/* Beats only rise, so the same sum over as many runs is the same of each. */
static bool all_dead(struct change *c, int64_t behind, int64_t beats) {
    uint64_t now = clock_mono_ns();
    if (behind != c->behind || beats != c->beats || !c->same_since_ns)
        c->same_since_ns = now;
    c->behind = behind;
    c->beats = beats;
    return now - c->same_since_ns > c->dead_ns;
}

static void on_asked(void *arg, PGresult *res, const struct pg_error *err) {
    struct change *c = arg;
    int64_t behind = err->cls == PG_OK ? pg_get_int64(res, 0, 0) : -1;
    if (behind == 0 || (behind > 0 && all_dead(c, behind, pg_get_int64(res, 0, 1))))
        change_end(c, 0);
    else if (err->cls == PG_LOST || clock_mono_ns() > c->until_ns)
        change_end(c, 1);
    else
        timer_arm(c->timer, ASK_MS);
}

static void ask(void *arg) {
    struct change *c = arg;
    struct pg_params p;
    pg_params_init(&p);
    pg_param_int64(&p, c->epoch);
    if (pg_query_sql(c->conn, ask_sql, &p, on_asked, c) < 0)
        change_end(c, 1);
}

static void on_row(struct pg_run *run, int i, PGresult *res) {
    struct change *c = CONTAINER_OF(run, struct change, run);
    if (i == 2 && PQntuples(res) == 1) {
        c->epoch = pg_get_int64(res, 0, 0);
        c->found = pg_get_bool(res, 0, 1);
    }
}

static void on_written(struct pg_run *run, const struct pg_error *err) {
    struct change *c = CONTAINER_OF(run, struct change, run);
    if (err->cls != PG_OK)
        change_end(c, -EAGAIN);
    else if (!c->found)
        change_end(c, -ENOENT);
    else
        ask(c);
}

static int write_change(struct change *c, const char *actor, const char *reason) {
    const char *to = c->paused ? "paused" : "active", *from = c->paused ? "active" : "paused";
    struct pg_params p;
    c->run = (struct pg_run){.on_result = on_row, .on_done = on_written};
    int r = pg_run_begin(c->conn, &c->run);
    pg_params_init(&p);
    pg_param_text(&p, c->name);
    pg_param_text(&p, from);
    if (r == 0)
        r = pg_run_sql(&c->run, raise_sql, &p);
    pg_params_init(&p);
    pg_param_text(&p, c->name);
    pg_param_text(&p, to);
    pg_param_text(&p, from);
    pg_param_text(&p, actor);
    pg_param_text(&p, c->paused ? "subscription.pause" : "subscription.resume");
    pg_param_text(&p, reason);
    if (r == 0)
        r = pg_run_sql(&c->run, set_sql, &p);
    pg_params_init(&p);
    pg_param_text(&p, c->name);
    pg_param_text(&p, to);
    if (r == 0)
        r = pg_run_sql(&c->run, see_sql, &p);
    return r < 0 ? r : pg_run_end(&c->run);
}

int topo_set_paused(struct loop *l, struct pg_conn *conn, const char *name, bool paused, const char *actor,
                    const char *reason, int64_t dead_ms, int64_t wait_ms, topo_state_fn *fn, void *arg) {
    struct change *c = mem_zalloc(sizeof(*c));
    if (!c)
        return -ENOMEM;
    arena_init(&c->arena, 4096);
    *c = (struct change){.conn = conn,
                         .arena = c->arena,
                         .paused = paused,
                         .dead_ns = (uint64_t)dead_ms * NS_PER_MS,
                         .until_ns = clock_mono_ns() + (uint64_t)wait_ms * NS_PER_MS,
                         .fn = fn,
                         .arg = arg};
    c->name = arena_strndup(&c->arena, name, strlen(name));
    int r = c->name ? timer_new(l, ask, c, &c->timer) : -ENOMEM;
    if (r == 0)
        r = write_change(c, actor, reason);
    if (r < 0)
        change_free(c);
    return r;
}
