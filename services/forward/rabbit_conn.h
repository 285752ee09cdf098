/*
 * One AMQP 0-9-1 connection with one channel in confirm mode. Blocking calls of librabbitmq behind, so it lives on a
 * thread of its own: see sink_rabbitmq.c. Every function is @thread of that thread.
 */
#pragma once

#include "base/guard.h"
#include "forward/sink.h"

struct rabbit_conn;

/* Where to; owned by the sink's shared part. */
struct rabbit_target {
    char *url; /* taken apart: the pointers below lead into it */
    const char *host, *user, *password, *vhost;
    int port;
    bool tls;
    char *exchange, *routing_key;
    char *subscription; /* the connection's name for the broker's operators */
    int64_t timeout_ms;
    struct guard guard;
};
/* Copies what it needs; guard NULL = none. -EINVAL and *e: no such URL. */
int rabbit_target_init(struct rabbit_target *t, const struct sub_conf *sub, const struct guard *guard, struct errmsg *e)
    MUSTCHECK;
void rabbit_target_deinit(struct rabbit_target *t);

enum { RABBIT_HEARTBEAT_S = 10, RABBIT_OPEN_MAX_MS = 5000 };

/* Resolves, connects, logs in, opens a confirming channel; blocks for some RABBIT_OPEN_MAX_MS. Negative and *e. */
int rabbit_conn_open(const struct rabbit_target *t, struct rabbit_conn **ret, struct errmsg *e) MUSTCHECK;
/* Is the exchange there? Blocks as opening does; a connection that says no is good for nothing more. Negative and *e. */
int rabbit_conn_look(struct rabbit_conn *c, struct errmsg *e) MUSTCHECK;
/* polite: says goodbye first. NULL allowed */
void rabbit_conn_close(struct rabbit_conn *c, bool polite);
int rabbit_conn_fd(const struct rabbit_conn *c);
/* The broker is short of memory or disk and asked for a pause. */
bool rabbit_conn_blocked(const struct rabbit_conn *c);
/* Why it ended. */
const char *rabbit_conn_why(const struct rabbit_conn *c);
/* The broker closed the channel before it ever confirmed anything: it took none of what was published here. */
bool rabbit_conn_refused(const struct rabbit_conn *c);

/* Publishes with the next tag (1, 2, ...). 0; 1: headers too large for this broker, not sent; negative: over. */
int rabbit_conn_publish(struct rabbit_conn *c, const struct delivery *d) MUSTCHECK;

struct rabbit_events {
    /* Confirms of this tag, or of all up to it. */
    void (*confirmed)(void *arg, uint64_t tag, bool multiple, bool ack);
    /* Could not be routed; its confirm comes later. `why` is valid during the call. */
    void (*returned)(void *arg, struct bytes message_id, const char *why);
    void *arg;
};
/* Handles everything that has arrived and keeps the heartbeat; call it at least every second. Negative: over. */
int rabbit_conn_read(struct rabbit_conn *c, const struct rabbit_events *ev) MUSTCHECK;
