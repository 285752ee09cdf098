/*
 * What came of an operation: its status, the state of the transaction, and of an error code, reason and text.
 *
 * One that was made by txmsg_result_new() is the caller's, may be used for one call after the other, and is filled before the call returns. One
 * that a callback is given is valid until the callback returns. Texts live as long as the result stands as it is.
 * Threads: one at a time.
 */
#ifndef TXMSG_RESULT_H
#define TXMSG_RESULT_H

#include "txmsg/types.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The state of a transaction, as the service answered it. */
enum txmsg_state {
    TXMSG_STATE_NONE = 0,      /* not answered */
    TXMSG_STATE_PREPARED = 1,  /* durable and invisible, not decided */
    TXMSG_STATE_CONFIRMED = 2, /* committed: it is delivered */
    TXMSG_STATE_CANCELLED = 3, /* rolled back: it never is */
    TXMSG_STATE_STUCK = 4      /* not decided, and no more checks: a late Confirm or Cancel, or a person */
};

/* Who decided. */
enum txmsg_origin {
    TXMSG_ORIGIN_NONE = 0,  /* nobody yet, or not answered */
    TXMSG_ORIGIN_RPC = 1,   /* a Confirm, Cancel or Publish */
    TXMSG_ORIGIN_CHECK = 2, /* the answer to a check */
    TXMSG_ORIGIN_ADMIN = 3  /* a person */
};

/* An empty result. NULL: out of memory. */
TXMSG_API txmsg_result *txmsg_result_new(void);

/* Releases it. NULL is allowed. */
TXMSG_API void txmsg_result_free(txmsg_result *result);

/* What the call returned, an enum txmsg_status. TXMSG_ERROR_INVALID for NULL. */
TXMSG_API int txmsg_result_status(const txmsg_result *result);

/* The id of the transaction; its text is empty where there is none. Never NULL. */
TXMSG_API const txmsg_id *txmsg_result_id(const txmsg_result *result);

/*
 * The state of the transaction, an enum txmsg_state, where the service answered it. After a refusal because it was decided otherwise this
 * is the state that it has.
 */
TXMSG_API int txmsg_result_state(const txmsg_result *result);

/* Who decided, an enum txmsg_origin. */
TXMSG_API int txmsg_result_origin(const txmsg_result *result);

/* When it was prepared, by the clock of the database; 0 where it was not answered (Confirm and Cancel do not look it up). */
TXMSG_API int64_t txmsg_result_prepare_time_us(const txmsg_result *result);

/* When it was decided, by the clock of the database; 0 where it is not, or it was not answered. */
TXMSG_API int64_t txmsg_result_decision_time_us(const txmsg_result *result);

/* The code of the last answer, as gRPC numbers them: 0 is OK. */
TXMSG_API int txmsg_result_code(const txmsg_result *result);

/* The same as a word: "OK", "FAILED_PRECONDITION". Never NULL. */
TXMSG_API const char *txmsg_result_code_name(const txmsg_result *result);

/*
 * The reason of the last error, "DECIDED_OTHERWISE" for one: proto/README.md lists them. "" where there is none, as of errors of the
 * connection. Never NULL.
 */
TXMSG_API const char *txmsg_result_reason(const txmsg_result *result);

/* The last error in words, for people. "" where there is none. Never NULL. */
TXMSG_API const char *txmsg_result_message(const txmsg_result *result);

/* How long the service asked to be left alone, as of its last answer; 0 where it did not. */
TXMSG_API int64_t txmsg_result_retry_after_ms(const txmsg_result *result);

/* How often it was sent. */
TXMSG_API int txmsg_result_attempts(const txmsg_result *result);

/* Of txmsg_send_in_transaction(): 1 if the executor was called and has returned. Else 0. */
TXMSG_API int txmsg_result_executed(const txmsg_result *result);

#ifdef __cplusplus
}
#endif

#endif
