/* Many operations in one call. */
#ifndef TXMSG_BATCH_H
#define TXMSG_BATCH_H

#include "txmsg/client.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What an operation of a batch is. */
enum txmsg_operation_kind { TXMSG_PREPARE = 1, TXMSG_CONFIRM = 2, TXMSG_CANCEL = 3, TXMSG_PUBLISH = 4 };

/* One operation, with what the function of its name takes. Zero what you do not need. */
typedef struct txmsg_operation {
    enum txmsg_operation_kind kind;
    txmsg_id *id;                         /* required; prepare and publish make one where its text is empty */
    const txmsg_message *const *messages; /* of prepare and publish */
    size_t n;                             /* messages */
    const txmsg_call_options *options;    /* NULL: the defaults */
} txmsg_operation;

/*
 * Does `n` operations, 1 to 1,000, at most 64 MiB together, and waits for all of them. They are not atomic together: each has a result, a
 * deadline and repeats of its own, and a bad one fails no other. Two on one id are done in their order: the later one begins when the earlier
 * has ended, however it did. They travel together, in as few frames as there are connections to share them; with the option unary each is a call.
 *
 * `results`: NULL, or `n` of them, each NULL or a result of its own. It returns
 *
 *   TXMSG_OK           each of them is done, durably
 *   TXMSG_REFUSED, TXMSG_UNAVAILABLE, TXMSG_UNKNOWN
 *                      some are not: the highest status of any of them; the results say which. One that found no room in flight within its
 *                      deadline is TXMSG_UNAVAILABLE
 *   TXMSG_ERROR_...    nothing was sent, of none; TXMSG_ERROR_INVALID also where only one of them is wrong
 *
 * Asynchronous operations need no such function: those that are begun one after the other travel together as well.
 */
TXMSG_API int txmsg_batch(txmsg_client *client, const txmsg_operation *operations, size_t n,
                          txmsg_result *const *results);

#ifdef __cplusplus
}
#endif

#endif
