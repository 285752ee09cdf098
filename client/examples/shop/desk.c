/*
 * The desk: where the people of the shop are told that they are needed.
 *
 *     POST /dead     a dead letter: a message of the topic "orders.dead", to which subscriptions publish what they give up
 *     POST /alert    txmsgd's alert hook: a subscription has dead letters, or has none any more
 *
 * EVENT_SECRET, ALERT_SECRET.
 */
#include "shop.h"

#include <string.h>

/* --- dead letters: an ordinary consumer --- */

static const char *header(const struct delivery *d, const char *name) {
    for (size_t i = 0; i < d->request->headers_n; i++)
        if (strcasecmp(d->request->headers[i].name, name) == 0)
            return d->request->headers[i].value;
    return "";
}

static int write_down(PGconn *db, const struct delivery *d, const struct order *o) {
    const char *subscription = header(d, "txmsg-dead-subscription"), *attempts = header(d, "txmsg-dead-attempts");
    int n = db_run(db, "INSERT INTO letter VALUES ($1, $2, $3, $4, $5::int)", d->id, header(d, "txmsg-dead-id"),
                   subscription, o->id, attempts, NULL);

    if (n == 1)
        say("order %s: a dead letter of %s, after %s attempts: %s", o->id, subscription, attempts,
            header(d, "txmsg-dead-error"));
    return n == 1 ? DONE : AGAIN;
}

/* --- alerts --- */

static int on_alert(const struct request *q) {
    struct txmsg_webhook keys = {.secret = env("ALERT_SECRET")};

    if (txmsg_webhook_verify(&keys, q->headers, q->headers_n, q->body, q->size, 0, NULL) != TXMSG_OK)
        return FORGED;
    json_t *j = json_loadb(q->body, q->size, 0, NULL);
    const json_t *data = json_object_get(j, "data");
    const char *type = json_string_value(json_object_get(j, "type"));
    const char *subscription = json_string_value(json_object_get(data, "subscription"));
    const char *error = json_string_value(json_object_get(data, "lastError"));
    bool over = type && strcmp(type, "txmsg.dead_letters.resolved") == 0;

    if (subscription && over)
        say("ALERT is over: %s has no dead letters any more", subscription);
    else if (subscription)
        say("ALERT: %s has %lld dead letters, the latest: %s", subscription,
            (long long)json_integer_value(json_object_get(data, "count")), error ? error : "");
    json_decref(j);
    return subscription ? DONE : BAD;
}

static int route(const struct request *q, char **reply) {
    if (strcmp(q->path, "/dead") == 0)
        return do_request(q, env("EVENT_SECRET"), "desk", write_down);
    if (strcmp(q->path, "/alert") == 0)
        return on_alert(q);
    return 404;
}

int main(void) {
    db_schema(
        "CREATE TABLE IF NOT EXISTS letter (id text PRIMARY KEY, dead_id text NOT NULL, subscription text NOT NULL, "
        "order_id text NOT NULL, attempts int NOT NULL)",
        false, true);
    http_serve(route);
}
