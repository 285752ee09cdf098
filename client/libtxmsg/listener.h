/*
 * Who answers checks: a queue, and threads on which the application's listener is asked, each for one check at a time. Under the client's lock but for
 * the listener itself.
 */
#pragma once

#include "check_inside.h"
#include "engine.h"

struct listener;
/* After an error *ret, if it is not NULL, is to be freed too. */
int listener_make(struct client *c, struct listener **ret);
/* The check stays where it is; check->answered() comes on a thread of the listener's, unless it was taken off the queue (list_del()) before it was asked. */
void listener_ask(struct listener *l, struct txmsg_check *check);
/* Nobody is asked any more; *left: what waited. May be called again. */
void listener_stop(struct listener *l, struct list *left);
void listener_free(
    struct listener *l);   /* NULL allowed; stopped, and without the lock. Waits for those that are asked now */
bool listener_calls(void); /* the calling thread is one of those */
