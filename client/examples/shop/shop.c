#include "shop.h"

#include <microhttpd.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { BODY_MAX = 1 << 20, PARAMS_MAX = 8 };

const char *env(const char *name) {
    const char *value = getenv(name);

    if (!value || !*value) {
        fprintf(stderr, "%s is not set\n", name);
        exit(2);
    }
    return value;
}

void say(const char *fmt, ...) {
    struct timespec now;
    char line[600];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(line, sizeof(line), fmt, ap);
    va_end(ap);
    clock_gettime(CLOCK_REALTIME, &now);
    fprintf(stderr, "%lld.%03ld %s: %s\n", (long long)now.tv_sec, now.tv_nsec / 1000000, env("NAME"), line);
}

/* --- database --- */

PGconn *db_open(void) {
    PGconn *db = PQconnectdb(env("DSN"));

    if (PQstatus(db) == CONNECTION_OK)
        return db;
    say("no database: %s", PQerrorMessage(db));
    PQfinish(db);
    return NULL;
}

static void on_notice(void *arg, const char *text) { /* "already exists" */
}

void db_schema(const char *own, bool record, bool inbox) {
    struct txmsg_pq_error e = {"", ""};
    PGconn *db = db_open();

    if (!db)
        exit(1);
    PQsetNoticeProcessor(db, on_notice, NULL);
    int r = record ? txmsg_local_tx_create(db, &e) : 0;
    if (r == 0 && inbox)
        r = txmsg_inbox_create(db, &e);
    PGresult *made = PQexec(db, own);
    if (r != 0 || PQresultStatus(made) != PGRES_COMMAND_OK) {
        say("no tables: %s%s", e.text, PQresultErrorMessage(made));
        exit(1);
    }
    PQclear(made);
    PQfinish(db);
}

int db_run(PGconn *db, const char *sql, ...) {
    const char *params[PARAMS_MAX];
    va_list ap;
    int n = 0;

    va_start(ap, sql);
    for (const char *p; n < PARAMS_MAX && (p = va_arg(ap, const char *)) != NULL;)
        params[n++] = p;
    va_end(ap);
    PGresult *r = PQexecParams(db, sql, n, NULL, params, NULL, NULL, 0);
    ExecStatusType status = PQresultStatus(r);
    int rows = status == PGRES_TUPLES_OK    ? PQntuples(r)
               : status == PGRES_COMMAND_OK ? (int)strtol(PQcmdTuples(r), NULL, 10)
                                            : -1;
    if (rows < 0)
        say("%s", PQresultErrorField(r, PG_DIAG_MESSAGE_PRIMARY) ? PQresultErrorField(r, PG_DIAG_MESSAGE_PRIMARY)
                                                                 : PQerrorMessage(db));
    PQclear(r);
    return rows;
}

/* --- HTTP --- */

static enum MHD_Result take_header(void *arg, enum MHD_ValueKind kind, const char *name, const char *value) {
    struct request *q = arg;

    if (q->headers_n < sizeof(q->headers) / sizeof(q->headers[0]) && value)
        q->headers[q->headers_n++] = (struct txmsg_header){name, strlen(name), value, strlen(value)};
    return MHD_YES;
}

static enum MHD_Result take_body(struct request *q, const char *data, size_t n) {
    char *grown = q->size + n <= BODY_MAX ? realloc(q->body, q->size + n + 1) : NULL;

    if (!grown)
        return MHD_NO;
    memcpy(grown + q->size, data, n);
    q->body = grown;
    q->size += n;
    q->body[q->size] = '\0';
    return MHD_YES;
}

static enum MHD_Result on_request(void *arg, struct MHD_Connection *c, const char *url, const char *method,
                                  const char *version, const char *data, size_t *size, void **state) {
    struct request *q = *state;
    char *reply = NULL;

    if (!q) {
        *state = calloc(1, sizeof(*q));
        return *state ? MHD_YES : MHD_NO;
    }
    if (*size) {
        enum MHD_Result r = take_body(q, data, *size);
        *size = 0;
        return r;
    }
    q->path = url;
    MHD_get_connection_values(c, MHD_HEADER_KIND, take_header, q);
    int status = strcmp(method, "POST") == 0 ? ((handler)arg)(q, &reply) : 405;
    struct MHD_Response *out = reply ? MHD_create_response_from_buffer(strlen(reply), reply, MHD_RESPMEM_MUST_FREE)
                                     : MHD_create_response_from_buffer(0, (void *)"", MHD_RESPMEM_PERSISTENT);
    enum MHD_Result r = MHD_queue_response(c, (unsigned)status, out);
    MHD_destroy_response(out);
    return r;
}

static void on_completed(void *arg, struct MHD_Connection *c, void **state, enum MHD_RequestTerminationCode why) {
    struct request *q = *state;

    if (q)
        free(q->body);
    free(q);
}

void http_serve(handler fn) {
    struct sockaddr_in at = {.sin_family = AF_INET,
                             .sin_port = htons((uint16_t)strtol(env("PORT"), NULL, 10)),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct MHD_Daemon *d = MHD_start_daemon(
        MHD_USE_THREAD_PER_CONNECTION | MHD_USE_INTERNAL_POLLING_THREAD, 0, NULL, NULL, on_request, (void *)fn,
        MHD_OPTION_SOCK_ADDR, &at, MHD_OPTION_NOTIFY_COMPLETED, on_completed, NULL, MHD_OPTION_LISTENING_ADDRESS_REUSE,
        1, MHD_OPTION_CONNECTION_LIMIT, 64, MHD_OPTION_CONNECTION_TIMEOUT, 30, MHD_OPTION_END);

    if (!d) {
        say("cannot listen on port %s", env("PORT"));
        exit(1);
    }
    say("listening on %s", env("PORT"));
    for (;;)
        pause();
}

/* --- events --- */

static void copy(char *out, size_t size, const json_t *from, const char *name) {
    const char *s = json_string_value(json_object_get(from, name));

    snprintf(out, size, "%s", s ? s : "");
}

bool order_read(const void *body, size_t size, struct order *ret) {
    json_t *j = json_loadb(body, size, 0, NULL);

    copy(ret->id, sizeof(ret->id), j, "order");
    copy(ret->customer, sizeof(ret->customer), j, "customer");
    copy(ret->item, sizeof(ret->item), j, "item");
    copy(ret->rehearse, sizeof(ret->rehearse), j, "rehearse");
    ret->amount = (int)json_integer_value(json_object_get(j, "amount"));
    json_decref(j);
    return ret->id[0] && ret->customer[0] && ret->item[0] && ret->amount > 0;
}

struct delivery delivery_of(const txmsg_event *ev) {
    struct delivery d = {
        .id = txmsg_event_id(ev), .topic = txmsg_event_topic(ev), .first = txmsg_event_attempt(ev) == 1};

    d.body = txmsg_event_body(ev, &d.size);
    return d;
}

static int in_transaction(PGconn *db, const struct delivery *d, const char *consumer, const struct order *o,
                          work_fn work) {
    struct txmsg_pq_error e;
    int r = txmsg_inbox_enter(db, consumer, d->id, &e);

    if (r == TXMSG_INBOX_DONE) {
        say("order %s: %s came again, it is done already", o->id, d->topic);
        return DONE;
    }
    if (r != TXMSG_OK) {
        say("order %s: %s", o->id, r < 0 ? e.text : "older than what the inbox remembers");
        return r < 0 ? AGAIN : NEVER;
    }
    r = work(db, d, o);
    return r == DONE && db_run(db, "COMMIT", NULL) < 0 ? AGAIN : r;
}

int do_once(const struct delivery *d, const char *consumer, work_fn work) {
    struct order o;

    if (!order_read(d->body, d->size, &o))
        return NEVER;
    PGconn *db = db_open();
    int r = db && db_run(db, "BEGIN", NULL) >= 0 ? in_transaction(db, d, consumer, &o, work) : AGAIN;
    PQfinish(db); /* what was not committed is rolled back */
    if (r == DONE && d->first && strcmp(o.rehearse, "lose-ack") == 0) {
        say("order %s: done, and the answer is lost", o.id);
        return AGAIN;
    }
    return r;
}

int do_request(const struct request *q, const char *secret, const char *consumer, work_fn work) {
    struct txmsg_webhook keys = {.secret = secret};
    struct txmsg_why why;
    txmsg_event *ev;
    int r = txmsg_event_from_http(&ev, &keys, q->headers, q->headers_n, q->body, q->size, 0, &why);

    if (r != TXMSG_OK) {
        say("refused a request: %s", why.text);
        return r == TXMSG_BAD_EVENT ? BAD : r > 0 ? FORGED : AGAIN;
    }
    struct delivery d = delivery_of(ev);
    d.request = q;
    r = do_once(&d, consumer, work);
    txmsg_event_free(ev);
    return r;
}
