/*
 * Publishes what the service itself has to say: rows of `outbox`, written in the transaction of what they tell of. Each becomes a
 * transaction of its own through the worker's lane, under the id that stands in the row, and the row goes. Any replica may do it: a
 * claim is a lease, and a repeat is the same id with the same content, which agrees. @thread of the loop
 *
 * What nobody bounds is what makes the rows. So it says when it is late, that is when rows that came due LATE_MS ago are among those that
 * it claims, and when it is not any more.
 */
#pragma once

#include "store/lane.h"
#include "store/pg.h"

struct outbox;
/* `people` must outlive it: reader_people() of the worker. `late`: see above. Nothing happens before outbox_lane(). */
int outbox_new(struct loop *l, struct pg_conn *people, void (*late)(void *arg, bool late), void *arg,
               struct outbox **ret) MUSTCHECK;
void outbox_lane(struct outbox *o, struct lane *lane); /* where to publish; NULL = not now */
/* What is under way ends by itself, also after the lane was freed; it is published again by others if it was not. NULL allowed */
void outbox_free(struct outbox *o);
