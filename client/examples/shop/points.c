/*
 * The points service: a consumer of RabbitMQ. An order earns ten points for each piece; one that the stock refused loses them again.
 *
 * AMQP_URL, QUEUE, QUEUE_MAX: so many messages may wait; when there are more the broker refuses them, and txmsg tries again. A message that cannot
 * be done now goes back into the queue; one that never can is thrown away.
 */
#include "shop.h"

#include <amqp.h>
#include <amqp_tcp_socket.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { CHANNEL = 1, POINTS_EACH = 10, AGAIN_US = 200 * 1000, HEADERS_MAX = 64 };

/* --- the work --- */

static int add(PGconn *db, const struct order *o, int sign) {
    char points[16];

    snprintf(points, sizeof(points), "%d", sign * POINTS_EACH * o->amount);
    int n = db_run(
        db,
        "INSERT INTO account VALUES ($1, $2::int) ON CONFLICT (customer) DO UPDATE SET points = account.points + "
        "excluded.points",
        o->customer, points, NULL);
    if (n == 1)
        say("order %s: %s points for %s", o->id, points, o->customer);
    return n == 1 ? DONE : AGAIN;
}

/* The two messages of an order may come in either order: GIVEN may become REVOKED, never the other way. */
static int on_event(PGconn *db, const struct delivery *d, const struct order *o) {
    struct txmsg_pq_error e;
    char is[64];

    if (strcmp(d->topic, "orders") == 0) {
        int r = txmsg_guard_state(db, "points", o->id, NULL, "GIVEN", is, &e);
        return r == TXMSG_OK ? add(db, o, 1) : r < 0 ? AGAIN : DONE;
    }
    int r = txmsg_guard_state(db, "points", o->id, "GIVEN", "REVOKED", is, &e);
    if (r == TXMSG_OK)
        return add(db, o, -1);
    if (r == TXMSG_GUARD_REFUSED)
        r = txmsg_guard_state(db, "points", o->id, NULL, "REVOKED", NULL, &e);
    return r < 0 ? AGAIN : DONE;
}

/* --- RabbitMQ --- */

static txmsg_event *event_of(const amqp_message_t *m) {
    const amqp_table_t *t = &m->properties.headers;
    struct txmsg_header h[HEADERS_MAX];
    struct txmsg_why why;
    char type[256] = "";
    txmsg_event *ev;
    size_t n = 0;

    for (int i = 0; i < t->num_entries && n < HEADERS_MAX; i++)
        if (t->entries[i].value.kind == AMQP_FIELD_KIND_UTF8)
            h[n++] = (struct txmsg_header){t->entries[i].key.bytes, t->entries[i].key.len,
                                           t->entries[i].value.value.bytes.bytes, t->entries[i].value.value.bytes.len};
    if (m->properties._flags & AMQP_BASIC_CONTENT_TYPE_FLAG)
        snprintf(type, sizeof(type), "%.*s", (int)m->properties.content_type.len,
                 (const char *)m->properties.content_type.bytes);
    int r = txmsg_event_from_amqp(&ev, h, n, type, m->body.bytes, m->body.len, &why);
    if (r != TXMSG_OK)
        say("threw a message away: %s", r > 0 ? why.text : "out of memory");
    return r == TXMSG_OK ? ev : NULL;
}

static int judge(const amqp_envelope_t *got) {
    txmsg_event *ev = event_of(&got->message);

    if (!ev)
        return NEVER;
    struct delivery d = delivery_of(ev);
    d.first = !got->redelivered;
    int r = do_once(&d, "points", on_event);
    txmsg_event_free(ev);
    return r;
}

static bool went_well(amqp_connection_state_t c) {
    return amqp_get_rpc_reply(c).reply_type == AMQP_RESPONSE_NORMAL;
}

static bool open_queue(amqp_connection_state_t c, const struct amqp_connection_info *at) {
    amqp_bytes_t queue = amqp_cstring_bytes(env("QUEUE"));
    amqp_table_entry_t bounds[] = {
        {amqp_cstring_bytes("x-max-length"),
         {AMQP_FIELD_KIND_I32, {.i32 = (int32_t)strtol(env("QUEUE_MAX"), NULL, 10)}}},
        {amqp_cstring_bytes("x-overflow"), {AMQP_FIELD_KIND_UTF8, {.bytes = amqp_cstring_bytes("reject-publish")}}}};
    amqp_socket_t *s = amqp_tcp_socket_new(c);

    if (!s || amqp_socket_open(s, at->host, at->port) != AMQP_STATUS_OK ||
        amqp_login(c, "/", 0, 131072, 0, AMQP_SASL_METHOD_PLAIN, at->user, at->password).reply_type !=
            AMQP_RESPONSE_NORMAL)
        return false;
    amqp_channel_open(c, CHANNEL);
    if (!went_well(c))
        return false;
    amqp_queue_declare(c, CHANNEL, queue, 0, 1, 0, 0, (amqp_table_t){2, bounds});
    if (!went_well(c))
        return false;
    amqp_basic_qos(c, CHANNEL, 0, 1, 0);
    if (!went_well(c))
        return false;
    amqp_basic_consume(c, CHANNEL, queue, amqp_empty_bytes, 0, 0, 0, amqp_empty_table);
    return went_well(c);
}

/* Returns when the connection is lost: what was not acknowledged comes again. */
static void consume(amqp_connection_state_t c) {
    amqp_envelope_t got;

    for (;;) {
        amqp_maybe_release_buffers(c);
        if (amqp_consume_message(c, &got, NULL, 0).reply_type != AMQP_RESPONSE_NORMAL)
            return;
        int r = judge(&got), sent;
        if (r == AGAIN)
            usleep(AGAIN_US);
        if (r == DONE)
            sent = amqp_basic_ack(c, CHANNEL, got.delivery_tag, 0);
        else
            sent = amqp_basic_reject(c, CHANNEL, got.delivery_tag, r == AGAIN);
        amqp_destroy_envelope(&got);
        if (sent != AMQP_STATUS_OK)
            return;
    }
}

int main(void) {
    struct amqp_connection_info at;
    char url[512];

    db_schema("CREATE TABLE IF NOT EXISTS account (customer text PRIMARY KEY, points int NOT NULL)", false, true);
    snprintf(url, sizeof(url), "%s", env("AMQP_URL"));
    if (amqp_parse_url(url, &at) != AMQP_STATUS_OK)
        return 2;
    for (;; usleep(AGAIN_US)) {
        amqp_connection_state_t c = amqp_new_connection();
        if (c && open_queue(c, &at)) {
            say("takes messages of the queue %s", env("QUEUE"));
            consume(c);
        }
        say("the connection to RabbitMQ is lost");
        if (c)
            amqp_destroy_connection(c);
    }
}
