/*
 * One asynchronous PostgreSQL connection.
 *
 *      DOWN --timer--> CONNECTING --socket ready--> PREPARING --all prepared--> READY
 *        ^                 |                            |                         |
 *        +-----------------+---- any failure -----------+-------------------------+
 *
 * libpq is driven by its own states in pipeline mode: consume input, take results while it is not busy, flush what is left.
 * A run stands on `runs` from its begin to its Sync; results come in the same order, so the first run owns the next result.
 * When the connection is lost every run on the list ends with PG_LOST, because nobody can say what the server did with it.
 * Callbacks may start runs on the same connection and may free it: `depth` delays the release until the stack has unwound.
 */
#include "store/pg.h"

#include "base/clock.h"
#include "base/crypto.h"
#include "base/log.h"

enum conn_state { DOWN, CONNECTING, PREPARING, READY };
enum { CONNECT_MS = 5000, RETRY_MIN_MS = 50, RETRY_MAX_MS = 2000, READ_ONLY_FAILURES = 5 };

struct pg_conn {
    struct loop *loop;
    struct pg_conn_options o;
    char *dsn, *name, *options;
    enum conn_state state;
    PGconn *pg;
    uv_poll_t *poll; /* heap: freed by its close callback */
    int poll_fd, poll_events;
    struct list runs;
    unsigned runs_n;
    uint64_t heard_ns;   /* loop's time of the last result, or of the begin of the first run after a rest */
    struct timer *timer; /* connect deadline, or time of the next attempt */
    struct pg_run prepare;
    unsigned failures;
    int depth;
    bool freed, drop; /* drop: lose the connection at the next turn of the loop */
    char last_error[256];
};

static void conn_lose(struct pg_conn *c, const struct pg_error *why);
static void conn_connect(struct pg_conn *c);

/* --- errors --- */

static enum pg_class class_of(const char *s) {
    if (!strcmp(s, "23505"))
        return PG_CONFLICT;
    if (!strcmp(s, "23502"))
        return PG_NOT_NULL;
    if (!strcmp(s, "22012"))
        return PG_DIVISION;
    if (!strncmp(s, "08", 2) || !strcmp(s, "57P01") || !strcmp(s, "57P02") || !strcmp(s, "57P05") ||
        !strcmp(s, "25P03") || !strcmp(s, "26000"))
        return PG_LOST;
    if (!strncmp(s, "40", 2) || !strcmp(s, "55P03") || !strcmp(s, "57014"))
        return PG_RETRY;
    if (!strncmp(s, "53", 2) || !strcmp(s, "25006") || !strcmp(s, "57P03") || !strncmp(s, "58", 2))
        return PG_UNAVAILABLE;
    if (!strncmp(s, "22", 2) || !strncmp(s, "23", 2) || !strncmp(s, "54", 2))
        return PG_DATA;
    return PG_BUG;
}

const char *pg_class_name(enum pg_class c) {
    static const char *const names[] = {"ok",    "conflict",    "not_null", "division", "data",
                                        "retry", "unavailable", "lost",     "bug"};
    return (size_t)c < ARRAY_LEN(names) ? names[c] : "?";
}

static void copy_field(const PGresult *r, int field, char *to, size_t n) {
    const char *v = PQresultErrorField(r, field);
    snprintf(to, n, "%s", v ? v : "");
}

void pg_error_of(const PGresult *r, struct pg_error *ret) {
    copy_field(r, PG_DIAG_SQLSTATE, ret->sqlstate, sizeof(ret->sqlstate));
    copy_field(r, PG_DIAG_TABLE_NAME, ret->table, sizeof(ret->table));
    copy_field(r, PG_DIAG_CONSTRAINT_NAME, ret->constraint, sizeof(ret->constraint));
    copy_field(r, PG_DIAG_COLUMN_NAME, ret->column, sizeof(ret->column));
    copy_field(r, PG_DIAG_MESSAGE_PRIMARY, ret->message, sizeof(ret->message));
    /* libpq reports a broken connection without a SQLSTATE. */
    ret->cls = ret->sqlstate[0] ? class_of(ret->sqlstate) : PG_LOST;
    if (!ret->message[0])
        snprintf(ret->message, sizeof(ret->message), "%s", PQresultErrorMessage(r));
}

static struct pg_error lost_error(const char *text) {
    struct pg_error e = {.cls = PG_LOST};
    snprintf(e.message, sizeof(e.message), "%s", text && *text ? text : "connection lost");
    for (char *p = e.message; *p; p++)
        if (*p == '\n')
            *p = ' ';
    return e;
}

/* --- the poll handle --- */

static void poll_closed(uv_handle_t *h) {
    mem_free(h);
}

/* Must come before libpq closes the socket. */
static void poll_stop(struct pg_conn *c) {
    if (!c->poll)
        return;
    c->poll->data = NULL;
    uv_close((uv_handle_t *)c->poll, poll_closed);
    c->poll = NULL;
    c->poll_events = 0;
}

static void on_socket(uv_poll_t *h, int status, int events);

static int poll_set(struct pg_conn *c, int events) {
    int fd = PQsocket(c->pg);
    if (c->poll && c->poll_fd != fd)
        poll_stop(c);
    if (fd < 0)
        return -ENOTCONN;
    if (!c->poll) {
        uv_poll_t *p = mem_zalloc(sizeof(*p));
        if (!p)
            return -ENOMEM;
        int r = uv_poll_init(loop_uv(c->loop), p, fd);
        if (r < 0) {
            mem_free(p);
            return r;
        }
        p->data = c;
        c->poll = p;
        c->poll_fd = fd;
        c->poll_events = 0;
    }
    if (c->poll_events == events)
        return 0;
    c->poll_events = events;
    return uv_poll_start(c->poll, events, on_socket);
}

static int flush(struct pg_conn *c) {
    int r = PQflush(c->pg);
    if (r < 0)
        return -EPIPE;
    return poll_set(c, UV_READABLE | (r > 0 ? UV_WRITABLE : 0));
}

/* --- results --- */

/* libpq may have closed the socket already, so nothing waits for its number any more. */
static void give_up(struct pg_conn *c, const char *why) {
    poll_stop(c);
    c->drop = true;
    snprintf(c->last_error, sizeof(c->last_error), "%s", why);
    timer_arm(c->timer, 0);
}

/*
 * Errors of a connection that stands, after which another one is wanted: what leaves the order of results uncertain (a protocol
 * error, a statement it forgot), and a read-only session, which may stay so for ever: its default was set when it began, or it
 * leads to what is a standby now.
 */
static void run_finish(struct pg_conn *c, struct pg_run *r) {
    bool read_only = !strcmp(r->error.sqlstate, "25006");
    list_del(&r->link);
    c->runs_n--;
    if (read_only)
        c->failures = MAX(c->failures, (unsigned)READ_ONLY_FAILURES); /* not at once: many end like this together */
    if (read_only || r->error.cls == PG_LOST)
        give_up(c, r->error.message);
    r->on_done(r, &r->error);
}

static void take_result(struct pg_conn *c, struct pg_run *r, PGresult *res) {
    switch (PQresultStatus(res)) {
    case PGRES_PIPELINE_SYNC:
        run_finish(c, r);
        break;
    case PGRES_TUPLES_OK:
    case PGRES_COMMAND_OK:
    case PGRES_EMPTY_QUERY:
        r->kept = false;
        if (r->on_result)
            r->on_result(r, r->got, res);
        r->got++;
        if (r->kept)
            return;
        break;
    case PGRES_PIPELINE_ABORTED:
        r->got++;
        break;
    default: /* an error; after the last statement it is the commit itself that failed */
        if (r->error.cls == PG_OK)
            pg_error_of(res, &r->error);
        r->got++;
    }
    PQclear(res);
}

/* Takes every result that has arrived. */
static void process(struct pg_conn *c) {
    c->depth++;
    while (!c->freed && c->pg && c->state >= PREPARING && !list_empty(&c->runs) && !PQisBusy(c->pg)) {
        struct pg_run *r = LIST_ENTRY(c->runs.next, struct pg_run, link);
        if (!r->ended && r->got >= r->sent)
            break;
        PGresult *res = PQgetResult(c->pg);
        c->heard_ns = loop_now_ns(c->loop);
        if (res)
            take_result(c, r, res);
        else if (PQstatus(c->pg) == CONNECTION_BAD)
            break;
    }
    c->depth--;
}

static void release(struct pg_conn *c) {
    if (c->freed && c->depth == 0) {
        mem_free(c->dsn);
        mem_free(c->name);
        mem_free(c->options);
        mem_free(c);
    }
}

static void conn_prepare(struct pg_conn *c);

static void on_connecting(struct pg_conn *c) {
    switch (PQconnectPoll(c->pg)) {
    case PGRES_POLLING_OK:
        conn_prepare(c);
        return;
    case PGRES_POLLING_READING:
        if (poll_set(c, UV_READABLE) == 0)
            return;
        break;
    case PGRES_POLLING_WRITING:
        if (poll_set(c, UV_WRITABLE) == 0)
            return;
        break;
    default:
        break;
    }
    struct pg_error e = lost_error(PQerrorMessage(c->pg));
    conn_lose(c, &e);
}

static void on_socket(uv_poll_t *h, int status, int events) {
    struct pg_conn *c = h->data;
    if (!c)
        return;
    c->depth++;
    if (c->state == CONNECTING) {
        /* libpq may have closed this socket and opened another: begin afresh with whatever it says now. */
        poll_stop(c);
        on_connecting(c);
    } else {
        bool broken = status < 0 || !PQconsumeInput(c->pg);
        process(c);
        if (!c->freed && c->pg && c->state >= PREPARING) {
            if (broken || PQstatus(c->pg) == CONNECTION_BAD || (!c->drop && flush(c) < 0)) {
                struct pg_error e = lost_error(PQerrorMessage(c->pg));
                conn_lose(c, &e);
            }
        }
    }
    c->depth--;
    release(c);
}

/* --- connecting --- */

static void on_notice(void *arg, const PGresult *res) {
    struct pg_conn *c = arg;
    const char *state = PQresultErrorField(res, PG_DIAG_SQLSTATE);
    const char *text = PQresultErrorField(res, PG_DIAG_MESSAGE_PRIMARY);
    if (c->o.on_notice && !c->freed)
        c->o.on_notice(c->o.arg, state ? state : "", text ? text : "");
    else
        LOG_DEBUG("store", "%s: notice %s %s", c->name, state ? state : "", text ? text : "");
}

static void prepare_done(struct pg_run *r, const struct pg_error *err) {
    struct pg_conn *c = CONTAINER_OF(r, struct pg_conn, prepare);
    if (c->state != PREPARING || c->drop) /* given up meanwhile: the timer ends it */
        return;
    if (err->cls != PG_OK) {
        struct pg_error e = *err;
        if (e.cls != PG_LOST) {
            LOG_ERROR("store", "%s: prepare failed: %s %s", c->name, e.sqlstate, e.message);
            conn_lose(c, &e);
        }
        return;
    }
    c->state = READY;
    c->failures = 0;
    c->last_error[0] = 0;
    timer_stop(c->timer);
    if (c->o.on_ready)
        c->o.on_ready(c->o.arg);
}

static void conn_prepare(struct pg_conn *c) {
    c->state = PREPARING;
    struct pg_run *r = &c->prepare;
    *r = (struct pg_run){.on_done = prepare_done, .conn = c};
    list_init(&r->link);
    bool ok = PQsetnonblocking(c->pg, 1) == 0 && PQenterPipelineMode(c->pg) == 1;
    for (const struct pg_stmt *s = c->o.stmts; ok && s && s->name; s++) {
        ok = PQsendPrepare(c->pg, s->name, s->sql, 0, NULL) == 1;
        r->sent++;
    }
    if (ok && PQpipelineSync(c->pg) == 1) {
        r->ended = true;
        list_add_tail(&c->runs, &r->link);
        c->runs_n++;
        if (flush(c) == 0)
            return;
    }
    struct pg_error e = lost_error(PQerrorMessage(c->pg));
    conn_lose(c, &e);
}

static void on_timer(void *arg) {
    struct pg_conn *c = arg;
    if (c->state == DOWN) {
        conn_connect(c);
        return;
    }
    struct pg_error e = lost_error(c->drop ? c->last_error : "connecting took too long");
    c->depth++;
    conn_lose(c, &e);
    c->depth--;
    release(c);
}

static void conn_connect(struct pg_conn *c) {
    /* What stands before dbname is weaker than the DSN. Keepalives find a peer that vanished after it took our last byte. */
    const char *keys[] = {"keepalives_idle", "keepalives_interval", "keepalives_count", "dbname", "application_name",
                          "options",         "client_encoding",     "tcp_user_timeout", NULL};
    const char *values[] = {"5", "3", "3", c->dsn, c->name, c->options ? c->options : "", "UTF8", "15000", NULL};
    c->drop = false;
    c->pg = PQconnectStartParams(keys, values, 1);
    c->state = CONNECTING;
    if (c->pg && PQstatus(c->pg) != CONNECTION_BAD) {
        PQsetNoticeReceiver(c->pg, on_notice, c);
        timer_arm(c->timer, CONNECT_MS);
        if (poll_set(c, UV_WRITABLE) == 0)
            return;
    }
    struct pg_error e = lost_error(c->pg ? PQerrorMessage(c->pg) : "out of memory");
    c->depth++;
    conn_lose(c, &e);
    c->depth--;
    release(c);
}

static double random_unit(void) {
    uint32_t v;
    crypto_random(&v, sizeof(v));
    return (double)v / 4294967296.0;
}

/* Ends every run with PG_LOST, tells the owner, and connects again after a while. */
static void conn_lose(struct pg_conn *c, const struct pg_error *why) {
    poll_stop(c);
    if (c->pg)
        PQfinish(c->pg);
    c->pg = NULL;
    bool was_ready = c->state == READY;
    c->state = DOWN;
    snprintf(c->last_error, sizeof(c->last_error), "%s", why->message);
    struct list runs = LIST_INIT(runs);
    list_splice_tail(&runs, &c->runs);
    c->runs_n = 0;
    c->depth++;
    for (struct list *e; (e = list_pop(&runs));) {
        struct pg_run *r = LIST_ENTRY(e, struct pg_run, link);
        r->error = *why;
        r->error.cls = PG_LOST;
        r->on_done(r, &r->error);
    }
    if (!c->freed && c->o.on_lost && was_ready)
        c->o.on_lost(c->o.arg, why);
    c->depth--;
    if (c->freed || c->state != DOWN)
        return;
    unsigned shift = MIN(c->failures, 6u);
    c->failures++;
    double ms = (double)MIN((unsigned)RETRY_MAX_MS, (unsigned)RETRY_MIN_MS << shift);
    timer_arm(c->timer, (uint64_t)(ms * (0.5 + random_unit() / 2)));
}

/* Settings that the connection string brings stay, ours come after them and win. NULL when out of memory. */
static char *join_options(const char *dsn, const char *ours) {
    PQconninfoOption *all = PQconninfoParse(dsn, NULL), *o = all;
    while (o && o->keyword && strcmp(o->keyword, "options"))
        o++;
    const char *theirs = o && o->keyword && o->val ? o->val : "";
    size_t n = strlen(theirs) + strlen(ours) + 2;
    char *both = mem_alloc(n);
    if (both)
        snprintf(both, n, "%s %s", theirs, ours);
    PQconninfoFree(all);
    return both;
}

int pg_conn_new(struct loop *l, const struct pg_conn_options *o, struct pg_conn **ret) {
    struct pg_conn *c = mem_zalloc(sizeof(*c));
    if (!c)
        return -ENOMEM;
    c->loop = l;
    c->o = *o;
    list_init(&c->runs);
    c->dsn = mem_strdup(o->dsn);
    c->name = mem_strdup(o->application_name ? o->application_name : "txmsg");
    c->options = join_options(o->dsn, o->options ? o->options : "");
    int r = -ENOMEM;
    if (!c->dsn || !c->name || !c->options || (r = timer_new(l, on_timer, c, &c->timer)) < 0) {
        c->freed = true;
        release(c);
        return r;
    }
    timer_arm(c->timer, 0);
    *ret = c;
    return 0;
}

void pg_conn_free(struct pg_conn *c) {
    if (!c || c->freed)
        return;
    c->freed = true;
    timer_free(c->timer);
    struct pg_error e = lost_error("connection closed");
    c->depth++;
    conn_lose(c, &e);
    c->depth--;
    release(c);
}

bool pg_conn_ready(const struct pg_conn *c) {
    return c->state == READY && !c->drop;
}

int pg_conn_rename(struct pg_conn *c, const char *application_name, bool now) {
    char *n = mem_strdup(application_name);
    if (n) {
        mem_free(c->name);
        c->name = n;
    }
    if (now && c->state != DOWN)
        give_up(c, "connection given up");
    return n ? 0 : -ENOMEM;
}

const char *pg_conn_last_error(const struct pg_conn *c) {
    return c->last_error;
}

int pg_conn_backend_pid(const struct pg_conn *c) {
    return c->pg ? PQbackendPID(c->pg) : 0;
}

unsigned pg_conn_under_way(const struct pg_conn *c) {
    return c->runs_n;
}

uint64_t pg_conn_silent_ms(const struct pg_conn *c) {
    uint64_t now = loop_now_ns(c->loop);
    return c->state == READY && c->runs_n && now > c->heard_ns ? (now - c->heard_ns) / NS_PER_MS : 0;
}

/* --- runs --- */

int pg_run_begin(struct pg_conn *c, struct pg_run *r) {
    if (!pg_conn_ready(c) || c->freed)
        return -ENOTCONN;
    r->conn = c;
    r->sent = r->got = 0;
    r->ended = false;
    r->error = (struct pg_error){.cls = PG_OK};
    if (c->runs_n == 0)
        c->heard_ns = loop_now_ns(c->loop);
    list_add_tail(&c->runs, &r->link);
    c->runs_n++;
    return 0;
}

/* Something of the run may be on the wire: only a new connection makes the order of results certain again. */
static int run_abandon(struct pg_run *r) {
    struct pg_conn *c = r->conn;
    list_del(&r->link);
    c->runs_n--;
    give_up(c, "connection given up");
    return -ENOMEM;
}

int pg_run_send(struct pg_run *r, const char *stmt, const struct pg_params *p) {
    static const struct pg_params none;
    if (!p)
        p = &none;
    r->sent++;
    if (PQsendQueryPrepared(r->conn->pg, stmt, p->n, p->values, p->lengths, p->formats, 1) != 1)
        return run_abandon(r);
    return 0;
}

int pg_run_sql(struct pg_run *r, const char *sql, const struct pg_params *p) {
    static const struct pg_params none;
    if (!p)
        p = &none;
    r->sent++;
    if (PQsendQueryParams(r->conn->pg, sql, p->n, NULL, p->values, p->lengths, p->formats, 1) != 1)
        return run_abandon(r);
    return 0;
}

int pg_run_end(struct pg_run *r) {
    if (PQpipelineSync(r->conn->pg) != 1)
        return run_abandon(r);
    r->ended = true;
    if (flush(r->conn) < 0) /* the run stays on the list and ends with PG_LOST */
        give_up(r->conn, "the connection is broken");
    return 0;
}

struct query {
    struct pg_run run;
    pg_done_fn *done;
    void *arg;
    PGresult *res;
};

/* Kept until the Sync: before it a write may still fail. */
static void query_result(struct pg_run *r, int i, PGresult *res) {
    struct query *q = CONTAINER_OF(r, struct query, run);
    q->res = res;
    r->kept = true;
}

static void query_done(struct pg_run *r, const struct pg_error *err) {
    struct query *q = CONTAINER_OF(r, struct query, run);
    q->done(q->arg, err->cls == PG_OK ? q->res : NULL, err);
    PQclear(q->res);
    mem_free(q);
}

static int query_start(struct pg_conn *c, bool prepared, const char *what, const struct pg_params *p, pg_done_fn *done,
                       void *arg) {
    struct query *q = mem_zalloc(sizeof(*q));
    if (!q)
        return -ENOMEM;
    *q = (struct query){.run = {.on_result = query_result, .on_done = query_done}, .done = done, .arg = arg};
    int r = pg_run_begin(c, &q->run);
    if (r == 0)
        r = prepared ? pg_run_send(&q->run, what, p) : pg_run_sql(&q->run, what, p);
    if (r == 0)
        r = pg_run_end(&q->run);
    if (r < 0)
        mem_free(q);
    return r;
}

int pg_query(struct pg_conn *c, const char *stmt, const struct pg_params *p, pg_done_fn *done, void *arg) {
    return query_start(c, true, stmt, p, done, arg);
}

int pg_query_sql(struct pg_conn *c, const char *sql, const struct pg_params *p, pg_done_fn *done, void *arg) {
    return query_start(c, false, sql, p, done, arg);
}
