/*
 * What became of a transaction: its decision, its messages, and where each of them has got to.
 *
 * A view belongs to the result that it was read into and is valid as long as that stands as it is: until its next call, its
 * release, or the return of the callback. Its functions allow NULL and places that are not there: they answer 0, "" or NULL then.
 * Threads: any number may read it meanwhile.
 */
#ifndef TXMSG_VIEW_H
#define TXMSG_VIEW_H

#include "txmsg/client.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The state of a message at a subscription. */
enum txmsg_delivery {
    TXMSG_DELIVERY_NONE = 0,      /* not answered */
    TXMSG_DELIVERY_PENDING = 1,   /* not attempted yet, or its end is not recorded yet */
    TXMSG_DELIVERY_RETRYING = 2,  /* attempted and failed; it is tried again */
    TXMSG_DELIVERY_DELIVERED = 3, /* acknowledged, for good */
    TXMSG_DELIVERY_DEAD = 4,      /* given up: a dead letter */
    TXMSG_DELIVERY_DISCARDED = 5  /* expired, or discarded by a person, for good */
};

/*
 * Reads a transaction; waits. State, origin and times are in the result, all else in its view. TXMSG_OK; TXMSG_REFUSED: the service does not
 * know it (TRANSACTION_NOT_FOUND), or not any more (PAST_RETENTION); TXMSG_UNAVAILABLE: not answered within the deadline; TXMSG_ERROR_...:
 * not asked. `options` may be NULL. It is a call of its own, also where operations go by streams.
 */
TXMSG_API int txmsg_get(txmsg_client *client, const txmsg_id *id, const txmsg_call_options *options,
                        txmsg_result *result);

/* As txmsg_get(), asynchronous as the operations of txmsg/client.h are. */
TXMSG_API int txmsg_get_async(txmsg_client *client, const txmsg_id *id, const txmsg_call_options *options,
                              txmsg_done_fn done, void *arg);

/* Of a call of txmsg_get(): 1 to read the bodies too. 0 or 1; default 0. */
TXMSG_API int txmsg_call_options_set_include_bodies(txmsg_call_options *options, int include_bodies);

/* What txmsg_get() read. NULL after everything else, and where it was not TXMSG_OK. */
TXMSG_API const txmsg_view *txmsg_result_view(const txmsg_result *result);

/* The producer that prepared it. "" for a cancel that came before any prepare. */
TXMSG_API const char *txmsg_view_producer(const txmsg_view *view);

/* The producer's own key; "" where it gave none. */
TXMSG_API const char *txmsg_view_business_key(const txmsg_view *view);

/* An enum txmsg_decision: TXMSG_UNDECIDED while it is. */
TXMSG_API int txmsg_view_decision(const txmsg_view *view);

/* The person who decided, with TXMSG_ORIGIN_ADMIN; else "". */
TXMSG_API const char *txmsg_view_actor(const txmsg_view *view);

/* The reason given with a cancel, or by a person; else "". */
TXMSG_API const char *txmsg_view_reason(const txmsg_view *view);

/* How many checks were made, answered or not; 0 again some time after the decision. */
TXMSG_API int txmsg_view_checks(const txmsg_view *view);

/* Why the last check gave no verdict; "" where none failed. */
TXMSG_API const char *txmsg_view_check_error(const txmsg_view *view);

/* How many messages it has. */
TXMSG_API size_t txmsg_view_messages(const txmsg_view *view);

/* The topic of message `n`, from 0. */
TXMSG_API const char *txmsg_view_topic(const txmsg_view *view, size_t n);

/* The key of message `n` and its size; `size` may be NULL. NULL where it has none. */
TXMSG_API const void *txmsg_view_key(const txmsg_view *view, size_t n, size_t *size);

/* The body of message `n` and its size; `size` may be NULL. NULL where it has none, and without include_bodies. */
TXMSG_API const void *txmsg_view_body(const txmsg_view *view, size_t n, size_t *size);

/* The size of the body of message `n`, also without include_bodies; 0 while one that comes later has not come. */
TXMSG_API int64_t txmsg_view_body_size(const txmsg_view *view, size_t n);

/* A header of message `n` by its exact name; NULL where it has none. */
TXMSG_API const char *txmsg_view_header(const txmsg_view *view, size_t n, const char *name);

/* How many subscriptions take message `n`; 0 until it is confirmed. */
TXMSG_API size_t txmsg_view_deliveries(const txmsg_view *view, size_t n);

/* The name of the subscription of delivery `i`, from 0, of message `n`. */
TXMSG_API const char *txmsg_view_subscription(const txmsg_view *view, size_t n, size_t i);

/* Its state, an enum txmsg_delivery. */
TXMSG_API int txmsg_view_delivery_state(const txmsg_view *view, size_t n, size_t i);

/* Attempts made so far; 0 where it succeeded at once. */
TXMSG_API int txmsg_view_delivery_attempts(const txmsg_view *view, size_t n, size_t i);

/* Why its last attempt failed; "" where none did. */
TXMSG_API const char *txmsg_view_delivery_error(const txmsg_view *view, size_t n, size_t i);

/* When the next attempt is due; 0 where none is. */
TXMSG_API int64_t txmsg_view_next_attempt_time_us(const txmsg_view *view, size_t n, size_t i);

#ifdef __cplusplus
}
#endif

#endif
