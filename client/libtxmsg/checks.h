/*
 * Answering checks: the listener, and what it is asked by: a stream of Checks to each address of the service, with credit that bounds its queue, or a server of
 * the client's own. Under the client's lock.
 */
#pragma once

#include "engine.h"

struct checks;
/* TXMSG_OK, also without a listener: *ret is NULL then. */
int checks_make(struct client *c, struct checks **ret);
void checks_destroy(struct checks *k); /* NULL allowed; after the engine has ended. Waits for listeners */
/* Opens what is closed, writes what is ready. True: a stream is to be opened later. @thread engine */
bool checks_turn(struct checks *k, uint64_t now);
void checks_cancel(struct checks *k);    /* NULL allowed; no listener is called any more. May be called again */
int checks_port(const struct checks *k); /* NULL allowed. TXMSG_ERROR_INVALID: it has no server */
