/* A transaction around the caller's own: prepare, run it, confirm or cancel. */
#ifndef TXMSG_TRANSACTION_H
#define TXMSG_TRANSACTION_H

#include "txmsg/client.h"

#ifdef __cplusplus
extern "C" {
#endif

/*
 * Runs the caller's local transaction and says what became of it: TXMSG_COMMITTED only after a commit that was seen, TXMSG_ROLLED_BACK
 * only after a rollback that was seen, TXMSG_UNDECIDED in every doubt, and what else it returns is taken for that. `id` is the id of the
 * transaction, to be stored with the local one so that a check can be answered. Comes on the thread of the call, once or not at all.
 *
 * Bodies that were declared with txmsg_message_set_body_later() it sets with txmsg_call_options_set_body(), in the options that the call was made with.
 *
 * It may leave by longjmp(), or end the process: the transaction then stays undecided and is settled by a check, and nothing of the library
 * is held or lost. (A C++ exception must be caught in it: C frames are between it and its caller.)
 */
typedef enum txmsg_decision (*txmsg_executor_fn)(void *arg, const txmsg_id *id);

/*
 * Prepares the messages, calls the executor, and confirms or cancels as it says. It waits; parameters are those of txmsg_prepare(). The timeout is
 * that of each of the two steps; the executor has none. It returns
 *
 *   TXMSG_OK           the executor's word is stored: confirmed or cancelled, the state of the result says which
 *   TXMSG_REFUSED      the executor was not called (txmsg_result_executed() is 0): nothing was stored, and nothing will be delivered. Or it was,
 *                      and the contrary had been decided before (reason DECIDED_OTHERWISE): checks were answered wrongly. Or the bodies that
 *                      it set are not those that were declared (BODIES_MISMATCH): it stays undecided until it is confirmed with the right
 *                      ones, or a check's answer brings them
 *   TXMSG_UNAVAILABLE  the executor was not called, and nothing was stored
 *   TXMSG_UNKNOWN      the executor was called, and its word was not stored, or it had none: the check settles it. Or it was not called, as
 *                      nobody knows whether it was prepared: a cancel is sent in the background, and the check settles what that does not
 *                      reach. Send again under a new id then, not under this one
 *   TXMSG_ERROR_...    the executor was not called, nothing was sent; TXMSG_ERROR_INVALID also if the options still hold bodies, of the
 *                      transaction before perhaps: txmsg_call_options_clear_bodies()
 */
TXMSG_API int txmsg_send_in_transaction(txmsg_client *client, txmsg_id *id, const txmsg_message *const *messages,
                                        size_t n, txmsg_executor_fn executor, void *arg,
                                        const txmsg_call_options *options, txmsg_result *result);

#ifdef __cplusplus
}
#endif

#endif
