#include "producer.h"

#include "shop.h"

#include <stdlib.h>

enum { LOCK_MS = 1000 };

/* What became of a transaction: one look into the record, whichever process of the service made it. Without a word of business. */
static enum txmsg_decision on_check(void *arg, const txmsg_check *check) {
    static const char *const words[] = {"UNKNOWN", "COMMITTED", "ROLLED_BACK"};
    const char *id = txmsg_check_id(check)->text;
    enum txmsg_decision d;
    struct txmsg_pq_error e = {"", ""};
    PGconn *db = db_open();

    if (db && txmsg_local_tx_check(db, id, LOCK_MS, &d, &e) == TXMSG_OK) {
        say("asked what became of %s: %s", id, words[d]);
    } else {
        say("asked what became of %s: %s", id, e.text);
        d = TXMSG_NO_ANSWER;
    }
    PQfinish(db);
    return d;
}

txmsg_client *producer_client(const char *producer) {
    txmsg_options *options = txmsg_options_new();
    txmsg_client *client = NULL;

    if (txmsg_options_add_address(options, env("TXMSG")) != TXMSG_OK ||
        txmsg_options_set_producer(options, producer) != TXMSG_OK ||
        txmsg_options_set_check_listener(options, on_check, NULL) != TXMSG_OK ||
        txmsg_client_new(options, &client) != TXMSG_OK) {
        say("no client for %s", env("TXMSG"));
        exit(1);
    }
    txmsg_options_free(options);
    return client;
}
