/*
 * Answering checks: a stream of Checks to each address, a queue that their credit bounds, and threads that ask the listener. Under the client's lock
 * but for the listener itself.
 */
#pragma once

#include "engine.h"

struct checks;
/* TXMSG_OK, also without a listener: *ret is NULL then. */
int checks_make(struct client *c, struct checks **ret);
void checks_destroy(struct checks *k); /* NULL allowed; after the engine has ended. Waits for listeners */
/* Opens what is closed, writes what is ready. True: a stream is to be opened later. @thread engine */
bool checks_turn(struct checks *k, uint64_t now);
void checks_cancel(struct checks *k); /* NULL allowed; no listener is called any more */
bool checks_on_listener(void);        /* the calling thread is one of those */
