/*
 * What needs a person, as rows that say who is to be told next: alert_look() compares them with the tables, alert_claim() takes one
 * notice under a lease, alert_end() by its token. Over all replicas each notice is claimed by one. On reader_people(). @thread of the loop
 */
#pragma once

#include "store/pg.h"

struct alert {
    char kind[16], object[132],
        id[40]; /* "dead_letters" of a subscription, "stuck" of a producer; id of the notice, without a dot */
    int32_t seq, token, tries;       /* seq 0 = the first notice */
    int64_t since_us, now_us, count; /* count: at most 10,000 */
    bool resolved;
    char error[256]; /* why the latest one failed, "" = not known */
};

/* Opens and resolves rows. 0: fn comes once, with 0 or -EAGAIN. */
int alert_look(struct pg_conn *c, void (*fn)(void *arg, int code), void *arg) MUSTCHECK;
/* a NULL: nothing is due. */
int alert_claim(struct pg_conn *c, void (*fn)(void *arg, int code, const struct alert *a), void *arg) MUSTCHECK;
/* told: the next is due after `next_ms`, or the row goes if it is resolved; else the same is due again after `next_ms`. */
int alert_end(struct pg_conn *c, const struct alert *a, bool told, int64_t next_ms, void (*fn)(void *arg, int code),
              void *arg) MUSTCHECK;
