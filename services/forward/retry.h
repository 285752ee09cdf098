/*
 * Deliveries that failed before and came due: claimed from the store under a lease, payloads read back, handed to
 * their outlets, finished by token in a batch of the worker's own lane. @thread of the loop
 *
 * The same for the rows of replays, by an instance of its own: those are counted apart, and it makes the steps of replays
 * too (store/replay.h), one a second while one runs.
 *
 * A claim is fetching (its payload is being read) -> at its outlet -> ended (waits for a batch) -> riding -> gone.
 * What could not be tried in time is ended as "again, same attempt", so that nobody waits for the lease.
 */
#pragma once

#include "forward/outlet.h"

struct feed;
struct retry;
enum retry_kind { RETRY_DUE, RETRY_REPLAY, RETRY_KINDS };

/* `outlets`: the forwarder's list. */
int retry_new(struct forward_env *env, struct list *outlets, enum retry_kind kind, struct retry **ret) MUSTCHECK;
void retry_free(struct retry *r); /* outlets are gone. NULL allowed */
/* The feed of the worker's own lane, whose rider calls the three functions below; NULL while there is none. */
void retry_bind(struct retry *r, struct feed *own);
/* Claims that were not started are given back; nothing new is claimed while the forwarder drains. */
bool retry_idle(const struct retry *r); /* no question under way */

void retry_collect(struct retry *r, struct lane_batch *b);
void retry_committed(struct retry *r, unsigned stale);
void retry_lost(struct retry *r); /* they ride again: by token a second time is harmless */
