/*
 * What the services of the shop share: an HTTP server, the database of a service, JSON, and a line of log for each thing
 * that happens. One request is one thread and one connection to the database: a shop that has customers would keep a pool.
 *
 * A service is configured by its environment: PORT, DSN, and what stands at the top of its own file.
 */
#pragma once

#include <jansson.h>
#include <libpq-fe.h>
#include <stdbool.h>
#include <stdint.h>
#include <txmsg/consumer.h>
#include <txmsg/inbox.h>
#include <txmsg/local_tx.h>

/* A variable that must be there. */
const char *env(const char *name);
/* "TIME NAME: ..." on standard error. */
void say(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* --- database --- */

/* NULL, and said why, if there is none now. */
PGconn *db_open(void);
/* Makes the tables; ends the process if it cannot. */
void db_schema(const char *own, bool record, bool inbox);
/* One statement; parameters are text, NULL ends them. Rows changed or found; -1 and said why. */
int db_run(PGconn *db, const char *sql, ...) __attribute__((sentinel));

/* --- HTTP --- */

struct request {
    const char *path;
    struct txmsg_header headers[64];
    size_t headers_n;
    char *body;
    size_t size;
};
/* Answers a status; *reply (NULL: none) is freed by the server. Comes on a thread of its own. */
typedef int (*handler)(const struct request *q, char **reply);
/* Serves until the process ends. */
void http_serve(handler fn);

/* --- events --- */

/* An order, as the messages of the shop carry it: {"order", "customer", "item", "amount", "rehearse"}. */
struct order {
    char id[64], customer[64], item[64], rehearse[32];
    int amount;
};
/* False if the body is not such an object. */
bool order_read(const void *body, size_t size, struct order *ret);

/* A message, however it came. */
struct delivery {
    const char *id, *topic; /* "<transaction id>.<n>" */
    const void *body;
    size_t size;
    bool first;                    /* the first time, as far as one can see */
    const struct request *request; /* NULL unless it came over HTTP, by do_request() */
};
struct delivery delivery_of(const txmsg_event *ev);

/* What became of a delivery, and the HTTP status that says so. */
enum { DONE = 204, AGAIN = 503, NEVER = 410, BAD = 400, FORGED = 401 };

/*
 * Does one message once: inbox, work and the memory of it are one database transaction. `work` answers DONE, AGAIN or NEVER, or what its
 * caller knows; anything but DONE is rolled back. An order that rehearses "lose-ack" is done, and its first answer lost.
 */
typedef int (*work_fn)(PGconn *db, const struct delivery *d, const struct order *o);
int do_once(const struct delivery *d, const char *consumer, work_fn work);
/* The same for a request, which is verified first. */
int do_request(const struct request *q, const char *secret, const char *consumer, work_fn work);
