/*
 * The client: prepare, confirm, cancel, publish; waiting, or asynchronous.
 *
 * Threads: all functions may be called by any number of threads at once. Those that wait must not be called from a callback that comes on the
 * library's own thread (TXMSG_ERROR_CALLBACK); asynchronous ones may.
 *
 * Fork: a client belongs to the process that made it. In a child every function answers TXMSG_ERROR_FORKED and does nothing; only
 * txmsg_client_free() releases what is the child's. Make clients after the fork. A child made by vfork() or a bare clone() is not
 * noticed: it may only exec.
 *
 * Repeats: an operation that failed without a verdict (the service cannot be reached, is overloaded, lost an answer) is repeated under
 * the same id until its deadline, after a growing, random pause that is not shorter than the service asked for. So it is done at most once.
 *
 * Order: an operation that begins after another of the same id has ended comes after it. Between operations of one id that are in
 * flight together there is none that could be relied on.
 */
#ifndef TXMSG_CLIENT_H
#define TXMSG_CLIENT_H

#include "txmsg/message.h"
#include "txmsg/options.h"
#include "txmsg/result.h"
#include "txmsg/types.h"

#ifdef __cplusplus
extern "C" {
#endif

/* --- life --- */

/*
 * Makes a client. It connects when it is first used. Starts a thread. TXMSG_OK: *client is the caller's, to be released by txmsg_client_free();
 * TXMSG_ERROR_INVALID (no producer, an address that is not one), TXMSG_ERROR_ADDRESS (of txmsg_options_set_check_address(); errno says why),
 * TXMSG_ERROR_MEMORY, TXMSG_ERROR_SYSTEM.
 *
 * The first client initialises gRPC in this process. It looks names up by the system's resolver unless GRPC_DNS_RESOLVER is set.
 */
TXMSG_API int txmsg_client_new(const txmsg_options *options, txmsg_client **client) TXMSG_MUST_CHECK;

/*
 * Ends a client. Calls of other threads that wait return, and callbacks of what is in flight come, before this returns: with TXMSG_UNKNOWN if
 * it was sent, TXMSG_UNAVAILABLE if not. (With the option dispatch they come from here.) Use txmsg_client_flush() first if they are to be done.
 *
 * TXMSG_OK, also for NULL; TXMSG_ERROR_CLOSED if it was freed already, which is noticed for the last 1,024 clients; TXMSG_ERROR_CALLBACK from
 * a callback: nothing was done. In a child after fork() TXMSG_OK.
 */
TXMSG_API int txmsg_client_free(txmsg_client *client);

/* Waits until nothing is in flight. TXMSG_OK; TXMSG_UNAVAILABLE: something still is after `timeout_ms` (0 or more). */
TXMSG_API int txmsg_client_flush(txmsg_client *client, int64_t timeout_ms);

/* Operations in flight now; below 0 an error. */
TXMSG_API int64_t txmsg_client_in_flight(txmsg_client *client);

/* --- operations that wait ---
 *
 * `id`: the transaction. If its text is empty, prepare and publish make an id and write it there before anything is sent; keep it, to repeat
 * under it after TXMSG_UNAVAILABLE and TXMSG_UNKNOWN. `messages`: `n` of them, 1 to 4,096; read before the function returns.
 * `options` and `result` may be NULL. They return, and the result holds, one of
 *
 *   TXMSG_OK           done, durably
 *   TXMSG_REFUSED      the service refused; nothing was stored
 *   TXMSG_UNAVAILABLE  not done within the deadline; nothing was stored
 *   TXMSG_UNKNOWN      not known within the deadline: repeat it under the same id, or leave it to the check
 *   TXMSG_ERROR_BUSY   nothing was sent: the bound of operations in flight was reached until the deadline
 *   TXMSG_ERROR_...    nothing was sent; for TXMSG_ERROR_INVALID also an operation that no service would take: more than 64 MiB
 */

/* Stores the messages, durable and invisible, until the transaction is decided. */
TXMSG_API int txmsg_prepare(txmsg_client *client, txmsg_id *id, const txmsg_message *const *messages, size_t n,
                            const txmsg_call_options *options, txmsg_result *result);

/* The local transaction committed: deliver. */
TXMSG_API int txmsg_confirm(txmsg_client *client, const txmsg_id *id, const txmsg_call_options *options,
                            txmsg_result *result);

/*
 * The local transaction rolled back: never deliver. An id that the service does not know is closed for ever. To be called only after a
 * rollback that was seen: after a COMMIT whose answer was lost call nothing, and let the check find out.
 */
TXMSG_API int txmsg_cancel(txmsg_client *client, const txmsg_id *id, const txmsg_call_options *options,
                           txmsg_result *result);

/* Prepare and confirm in one durable step, where there is no local transaction to wait for. */
TXMSG_API int txmsg_publish(txmsg_client *client, txmsg_id *id, const txmsg_message *const *messages, size_t n,
                            const txmsg_call_options *options, txmsg_result *result);

/* --- asynchronous operations ---
 *
 * They return at once: TXMSG_OK, and `done` comes exactly once, also when the client is freed; or an error, and `done` never comes.
 * TXMSG_ERROR_BUSY: as much is in flight as may be. Everything they are given may be released when they have returned.
 */

/*
 * The end of an asynchronous operation. `result` is valid until it returns. Comes on the library's own thread, where it must not block, or out of
 * txmsg_client_dispatch(). It must not throw, and not leave by longjmp().
 */
typedef void (*txmsg_done_fn)(void *arg, const txmsg_result *result);

/* As txmsg_prepare(). */
TXMSG_API int txmsg_prepare_async(txmsg_client *client, txmsg_id *id, const txmsg_message *const *messages, size_t n,
                                  const txmsg_call_options *options, txmsg_done_fn done, void *arg);

/* As txmsg_confirm(). */
TXMSG_API int txmsg_confirm_async(txmsg_client *client, const txmsg_id *id, const txmsg_call_options *options,
                                  txmsg_done_fn done, void *arg);

/* As txmsg_cancel(). */
TXMSG_API int txmsg_cancel_async(txmsg_client *client, const txmsg_id *id, const txmsg_call_options *options,
                                 txmsg_done_fn done, void *arg);

/* As txmsg_publish(). */
TXMSG_API int txmsg_publish_async(txmsg_client *client, txmsg_id *id, const txmsg_message *const *messages, size_t n,
                                  const txmsg_call_options *options, txmsg_done_fn done, void *arg);

/* --- joining an event loop: the option dispatch --- */

/*
 * A descriptor that is readable while callbacks wait for txmsg_client_dispatch(). To be polled, never read, written or closed; valid until
 * the client is freed. Below 0: TXMSG_ERROR_INVALID without the option dispatch, or another error.
 */
TXMSG_API int txmsg_client_fd(txmsg_client *client);

/*
 * Runs callbacks that are due, at most `max` (0: all that are due now), on the calling thread. Never waits. How many it ran; below 0 an error.
 * Callbacks may call everything but txmsg_client_free() and this.
 */
TXMSG_API int txmsg_client_dispatch(txmsg_client *client, int max);

#ifdef __cplusplus
}
#endif

#endif
