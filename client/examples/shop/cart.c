/*
 * The shopping cart service: a consumer over gRPC, it serves ConsumerService. What was ordered leaves the cart; what the stock refused comes
 * back.
 *
 * The two messages of an order may come in either order: the state guard lets a cart item go from its cart to ORDERED and back to
 * RETURNED, or straight to RETURNED, and never the other way.
 */
#include "shop.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* The server is the one of txmsgd itself: C has no other small one. */
#include "rpc/rpc.h"
#include "txmsg/v1/consumer_service.pb-c.h"

static int take_out(PGconn *db, const struct delivery *d, const struct order *o) {
    struct txmsg_pq_error e;
    int r = txmsg_guard_state(db, "cart", o->id, NULL, "ORDERED", NULL, &e);

    if (r == TXMSG_GUARD_REFUSED)
        say("order %s: it was refused already, the cart stays as it is", o->id);
    if (r != TXMSG_OK)
        return r < 0 ? AGAIN : DONE;
    if (db_run(db, "DELETE FROM cart WHERE order_id = $1", o->id, NULL) < 0)
        return AGAIN;
    say("order %s: %d %s taken out of the cart of %s", o->id, o->amount, o->item, o->customer);
    return DONE;
}

static int put_back(PGconn *db, const struct delivery *d, const struct order *o) {
    struct txmsg_pq_error e;
    char amount[16], is[64];
    int r = txmsg_guard_state(db, "cart", o->id, "ORDERED", "RETURNED", is, &e);

    if (r == TXMSG_GUARD_REFUSED && !is[0])
        return txmsg_guard_state(db, "cart", o->id, NULL, "RETURNED", NULL, &e) < 0 ? AGAIN : DONE;
    if (r != TXMSG_OK)
        return r < 0 ? AGAIN : DONE;
    snprintf(amount, sizeof(amount), "%d", o->amount);
    if (db_run(db, "INSERT INTO cart VALUES ($1, $2, $3, $4::int)", o->id, o->customer, o->item, amount, NULL) != 1)
        return AGAIN;
    say("order %s: put back into the cart of %s", o->id, o->customer);
    return DONE;
}

/* One after the other on the server's thread: enough for a cart. */
static void on_deliver(struct rpc_call *call, void *user) {
    const Txmsg__V1__DeliverRequest *q = (const void *)rpc_call_request(call);
    Txmsg__V1__DeliverResponse reply = TXMSG__V1__DELIVER_RESPONSE__INIT;
    struct delivery d = {.id = q->message_id, .first = q->attempt == 1};

    if (q->message)
        d.topic = q->message->topic, d.body = q->message->body.data, d.size = q->message->body.len;
    int r = q->message ? do_once(&d, "cart", strcmp(d.topic, "orders") == 0 ? take_out : put_back) : NEVER;
    reply.outcome = r == DONE    ? TXMSG__V1__DELIVER_RESPONSE__OUTCOME__OUTCOME_ACK
                    : r == AGAIN ? TXMSG__V1__DELIVER_RESPONSE__OUTCOME__OUTCOME_RETRY
                                 : TXMSG__V1__DELIVER_RESPONSE__OUTCOME__OUTCOME_REJECT;
    rpc_reply(call, &reply.base);
}

int main(void) {
    static const struct rpc_method methods[] = {{.path = "/txmsg.v1.ConsumerService/Deliver",
                                                 .request = &txmsg__v1__deliver_request__descriptor,
                                                 .response = &txmsg__v1__deliver_response__descriptor,
                                                 .handle = on_deliver}};
    char address[64];
    struct rpc_server_options options = {.listen = address, .threads = 1};
    struct rpc_server *server;
    struct errmsg e;

    snprintf(address, sizeof(address), "127.0.0.1:%s", env("PORT"));
    db_schema("CREATE TABLE IF NOT EXISTS cart (order_id text PRIMARY KEY, customer text NOT NULL, item text NOT NULL, "
              "amount "
              "int NOT NULL)",
              false, true);
    if (rpc_server_new(&options, methods, 1, &server, &e) < 0 || rpc_server_start(server, &e) < 0) {
        say("cannot serve on %s: %s", address, e.text);
        return 1;
    }
    rpc_server_health(server, true);
    say("serves ConsumerService on %s", address);
    for (;; sleep(1))
        rpc_server_sweep(server);
}
