/*
 * The order service.
 *
 *     POST /orders {"order", "customer", "item", "amount", "rehearse"}   places an order and sends its message with it
 *     POST /refused                                                      the stock has refused: the order has failed
 *
 * TXMSG, EVENT_SECRET. Checks are answered over the client's own streams: producer.c. `rehearse` plays a mishap: "lose-confirm", "roll-back", "die" (kill -9 between the local commit and
 * the Confirm); the others mean it too.
 */
#include "producer.h"
#include "shop.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>

static txmsg_client *client;

/* The order and the record of its transaction, in one database transaction. */
static enum txmsg_decision place_in(PGconn *db, const struct order *o, const txmsg_id *id) {
    struct txmsg_pq_error e;
    char amount[16];

    snprintf(amount, sizeof(amount), "%d", o->amount);
    if (db_run(db, "BEGIN", NULL) < 0)
        return TXMSG_UNDECIDED;
    int r = txmsg_local_tx_commit_record(db, id->text, &e);
    bool made = r == TXMSG_OK && db_run(db, "INSERT INTO orders VALUES ($1, $2, $3, $4::int, 'PLACED', $5::uuid)",
                                        o->id, o->customer, o->item, amount, id->text, NULL) == 1;
    if (!made || strcmp(o->rehearse, "roll-back") == 0) {
        say("order %s: rolled back", o->id);
        return db_run(db, "ROLLBACK", NULL) < 0 ? TXMSG_UNDECIDED : TXMSG_ROLLED_BACK;
    }
    if (db_run(db, "COMMIT", NULL) < 0)
        return TXMSG_UNDECIDED; /* perhaps it did: the check will see */
    say("order %s: committed, transaction %s", o->id, id->text);
    if (strcmp(o->rehearse, "die") == 0)
        raise(SIGKILL);
    if (strcmp(o->rehearse, "lose-confirm") == 0)
        return TXMSG_UNDECIDED; /* as if the Confirm had been lost */
    return TXMSG_COMMITTED;
}

static enum txmsg_decision place(void *arg, const txmsg_id *id) {
    PGconn *db = db_open();
    enum txmsg_decision d = db ? place_in(db, arg, id) : TXMSG_ROLLED_BACK;

    PQfinish(db);
    return d;
}

static txmsg_message *message_of(const struct request *q) {
    txmsg_message *m = txmsg_message_new("orders");

    if (m && txmsg_message_set_body(m, q->body, q->size) == TXMSG_OK &&
        txmsg_message_set_content_type(m, "application/json") == TXMSG_OK)
        return m;
    txmsg_message_free(m);
    return NULL;
}

static int on_order(const struct request *q, char **reply) {
    txmsg_call_options *options = txmsg_call_options_new();
    txmsg_result *result = txmsg_result_new();
    txmsg_message *message = message_of(q);
    txmsg_id id = {""};
    struct order o;
    int r = TXMSG_ERROR_INVALID;

    if (order_read(q->body, q->size, &o) && message && options &&
        txmsg_call_options_set_business_key(options, o.id) == TXMSG_OK) {
        const txmsg_message *const messages[] = {message};
        r = txmsg_send_in_transaction(client, &id, messages, 1, place, &o, options, result);
        say("order %s: %s %s", o.id, txmsg_status_name(r), txmsg_result_message(result));
    }
    json_t *answer = json_pack("{s:s, s:s, s:i}", "transaction", id.text, "status", txmsg_status_name(r), "state",
                               txmsg_result_state(result));
    *reply = json_dumps(answer, JSON_COMPACT);
    json_decref(answer);
    txmsg_message_free(message);
    txmsg_result_free(result);
    txmsg_call_options_free(options);
    return r < 0 ? BAD : 200;
}

/* Once, and only from PLACED: whatever comes twice or late changes nothing. */
static int fail_order(PGconn *db, const struct delivery *d, const struct order *o) {
    int n = db_run(db, "UPDATE orders SET state = 'FAILED' WHERE id = $1 AND state = 'PLACED'", o->id, NULL);

    if (n > 0)
        say("order %s: the stock has refused, the order has failed", o->id);
    return n < 0 ? AGAIN : DONE;
}

static int route(const struct request *q, char **reply) {
    if (strcmp(q->path, "/orders") == 0)
        return on_order(q, reply);
    if (strcmp(q->path, "/refused") == 0)
        return do_request(q, env("EVENT_SECRET"), "order", fail_order);
    return 404;
}

int main(void) {
    db_schema(
        "CREATE TABLE IF NOT EXISTS orders (id text PRIMARY KEY, customer text NOT NULL, item text NOT NULL, amount "
        "int "
        "NOT NULL, state text NOT NULL CHECK (state IN ('PLACED', 'FAILED')), transaction_id uuid NOT NULL UNIQUE)",
        true, true);
    client = producer_client("orders");
    http_serve(route);
}
