/*
 * The stock service: a consumer over HTTP, and a producer too.
 *
 *     POST /orders   takes the goods off the stock; without enough of them it refuses for good (410), and sends "refused"
 *
 * TXMSG, EVENT_SECRET.
 */
#include "producer.h"
#include "shop.h"

#include <stdlib.h>
#include <string.h>

static txmsg_client *client;

struct refusal {
    const struct delivery *delivery;
    const struct order *order;
    bool done_before;
};

/* The refusal, the inbox and the record of the transaction that tells of it, in one database transaction. */
static enum txmsg_decision refuse_in(PGconn *db, struct refusal *f, const txmsg_id *id) {
    struct txmsg_pq_error e;

    if (db_run(db, "BEGIN", NULL) < 0)
        return TXMSG_UNDECIDED;
    int r = txmsg_local_tx_commit_record(db, id->text, &e);
    if (r == TXMSG_OK)
        r = txmsg_inbox_enter(db, "stock", f->delivery->id, &e);
    f->done_before = r == TXMSG_INBOX_DONE;
    if (r != TXMSG_OK || db_run(db, "INSERT INTO refused VALUES ($1)", f->order->id, NULL) != 1)
        return db_run(db, "ROLLBACK", NULL) < 0 ? TXMSG_UNDECIDED : TXMSG_ROLLED_BACK;
    return db_run(db, "COMMIT", NULL) < 0 ? TXMSG_UNDECIDED : TXMSG_COMMITTED;
}

static enum txmsg_decision refuse(void *arg, const txmsg_id *id) {
    PGconn *db = db_open();
    enum txmsg_decision d = db ? refuse_in(db, arg, id) : TXMSG_ROLLED_BACK;

    PQfinish(db);
    return d;
}

/* Tells everybody that the order cannot be. The message goes if, and only if, the refusal is in the database. */
static int send_refusal(const struct delivery *d, const struct order *o) {
    struct refusal f = {d, o, false};
    txmsg_result *result = txmsg_result_new();
    txmsg_message *m = txmsg_message_new("refused");
    const txmsg_message *const messages[] = {m};
    txmsg_id id = {""};
    int r = TXMSG_ERROR_MEMORY;

    if (m && result && txmsg_message_set_body(m, d->body, d->size) == TXMSG_OK &&
        txmsg_message_set_content_type(m, "application/json") == TXMSG_OK)
        r = txmsg_send_in_transaction(client, &id, messages, 1, refuse, &f, NULL, result);
    bool refused = r == TXMSG_OK && txmsg_result_state(result) == TXMSG_STATE_CONFIRMED;
    if (refused)
        say("order %s: not enough %s, refused for good; the others are told", o->id, o->item);
    txmsg_message_free(m);
    txmsg_result_free(result);
    return refused || f.done_before ? NEVER : AGAIN;
}

/* 1: it was refused before; 0: not; -1: unknown. */
static int was_refused(const struct order *o) {
    PGconn *db = db_open();
    int n = db ? db_run(db, "SELECT 1 FROM refused WHERE order_id = $1", o->id, NULL) : -1;

    PQfinish(db);
    return n;
}

enum { TOO_FEW = 1 };

static int take(PGconn *db, const struct delivery *d, const struct order *o) {
    char amount[16];

    snprintf(amount, sizeof(amount), "%d", o->amount);
    int n = db_run(db, "UPDATE stock SET amount = amount - $2::int WHERE item = $1 AND amount >= $2::int", o->item,
                   amount, NULL);
    if (n != 1)
        return n < 0 ? AGAIN : TOO_FEW;
    n = db_run(db, "INSERT INTO taken VALUES ($1, $2, $3::int)", o->id, o->item, amount, NULL);
    if (n == 1)
        say("order %s: %d %s taken off the stock", o->id, o->amount, o->item);
    return n == 1 ? DONE : AGAIN;
}

static int on_order(const struct request *q) {
    struct txmsg_webhook keys = {.secret = env("EVENT_SECRET")};
    struct order o;
    txmsg_event *ev;
    int r = txmsg_event_from_http(&ev, &keys, q->headers, q->headers_n, q->body, q->size, 0, NULL);

    if (r != TXMSG_OK)
        return r == TXMSG_BAD_EVENT ? BAD : r > 0 ? FORGED : AGAIN;
    struct delivery d = delivery_of(ev);
    r = do_once(&d, "stock", take);
    if (r == TOO_FEW && order_read(d.body, d.size, &o))
        r = send_refusal(&d, &o);
    if (r == DONE && order_read(d.body, d.size, &o)) { /* the inbox knows it, but as what? */
        int n = was_refused(&o);
        r = n < 0 ? AGAIN : n ? NEVER : DONE;
    }
    txmsg_event_free(ev);
    return r;
}

static int route(const struct request *q, char **reply) {
    if (strcmp(q->path, "/orders") == 0)
        return on_order(q);
    return 404;
}

int main(void) {
    db_schema("CREATE TABLE IF NOT EXISTS stock (item text PRIMARY KEY, amount int NOT NULL CHECK (amount >= 0));"
              "CREATE TABLE IF NOT EXISTS taken (order_id text PRIMARY KEY, item text NOT NULL, amount int NOT NULL);"
              "CREATE TABLE IF NOT EXISTS refused (order_id text PRIMARY KEY)",
              true, true);
    client = producer_client("stock");
    http_serve(route);
}
