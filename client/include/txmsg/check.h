/*
 * Checks: txmsg asks what became of a transaction that was prepared and neither confirmed nor cancelled. A client with a listener answers them over streams
 * that it holds open, one to each address, so the application needs no listening port; or, with a check address, as a server that is asked there.
 *
 * A check is valid until its listener returns.
 */
#ifndef TXMSG_CHECK_H
#define TXMSG_CHECK_H

#include "txmsg/options.h"
#include "txmsg/types.h"

#ifdef __cplusplus
extern "C" {
#endif

/*
 * Says what became of the local transaction: TXMSG_COMMITTED; TXMSG_ROLLED_BACK only if it cannot commit any more; TXMSG_UNDECIDED while it
 * may still run, and in every doubt: the service asks again, but not for ever; TXMSG_NO_ANSWER when the database cannot be asked: the service
 * asks again, for as long as it takes. Answer from the primary database.
 *
 * Comes on threads of the library made for it, as many at a time as the options say. It may wait, and call functions of the client that wait, but not
 * txmsg_client_free() (TXMSG_ERROR_CALLBACK), which waits for it. It must not throw, and not leave by longjmp(). An answer counts only if it comes before
 * the service's timeout (CheckPolicy.timeout); a later one is ignored, and the check comes again.
 */
typedef enum txmsg_decision (*txmsg_check_fn)(void *arg, const txmsg_check *check);

/*
 * Of a client's options: who answers checks of its producer. The streams are opened when the client is made, and again when they break. NULL: nobody,
 * the default. TXMSG_OK; TXMSG_ERROR_INVALID for NULL options.
 */
TXMSG_API int txmsg_options_set_check_listener(txmsg_options *options, txmsg_check_fn listener, void *arg);

/*
 * Of a client's options: where the listener is asked, "0.0.0.0:7500" or "[::]:7500", in place of streams. From txmsg_client_new() until txmsg_client_free()
 * the client serves CheckService there, for `check: {endpoints: ["grpc://HOST:7500"]}` of its producer; checks of another producer are refused.
 * Port 0 is any free one: txmsg_client_check_port(). Batches are answered with what there is a little before their deadline, so that a slow
 * listener settles some each time. Without a listener, txmsg_client_new() is TXMSG_ERROR_INVALID. NULL: streams, the default.
 *
 * The service takes 1 MiB at a time there, so larger bodies (txmsg_check_set_body()) go over streams only.
 *
 * There is no TLS and no credential: whoever reaches the address may ask about any id, and a listener that closes ids it does not know
 * (the record of local_tx.h) closes that one. So it is for a network of your own. At most 128 connections and 256 calls at a time; what is
 * beyond waits, or is refused and asked again.
 *
 * TXMSG_OK; TXMSG_ERROR_INVALID for NULL options, text that is empty or not UTF-8; TXMSG_ERROR_MEMORY.
 */
TXMSG_API int txmsg_options_set_check_address(txmsg_options *options, const char *address);

/* The port at which the client is asked. Below 0: TXMSG_ERROR_INVALID without a check address, or another error. Any thread. */
TXMSG_API int txmsg_client_check_port(txmsg_client *client);

/*
 * Of a client's options: how many threads answer checks, each one at a time. 1 to 64; default 1. Up to 256 checks of each stream wait for them, if the
 * producer's policy asks for so many (concurrency).
 */
TXMSG_API int txmsg_options_set_check_threads(txmsg_options *options, int64_t threads);

/* The transaction that is asked about. Never NULL. */
TXMSG_API const txmsg_id *txmsg_check_id(const txmsg_check *check);

/* The producer's own key; "" where it gave none. Never NULL. */
TXMSG_API const char *txmsg_check_business_key(const txmsg_check *check);

/* When it was prepared, in microseconds since 1970: the time in its id. */
TXMSG_API int64_t txmsg_check_prepared_time_us(const txmsg_check *check);

/* Which check of this transaction it is, from 1. */
TXMSG_API int txmsg_check_count(const txmsg_check *check);

/* How many messages the transaction has. */
TXMSG_API size_t txmsg_check_messages(const txmsg_check *check);

/* The topic of message `n`, from 0; "" beyond the last. Never NULL. */
TXMSG_API const char *txmsg_check_topic(const txmsg_check *check, size_t n);

/* The key of message `n` and its size; `size` may be NULL. NULL where it has none. */
TXMSG_API const void *txmsg_check_key(const txmsg_check *check, size_t n, size_t *size);

/* The body of message `n` and its size; `size` may be NULL. NULL where it has none, or the producer's policy sends none (include_body). */
TXMSG_API const void *txmsg_check_body(const txmsg_check *check, size_t n, size_t *size);

/* 1: message `n` was prepared with txmsg_message_set_body_later(), and a TXMSG_COMMITTED must bring its body. Else 0. */
TXMSG_API int txmsg_check_body_later(const txmsg_check *check, size_t n);

/*
 * Of the answer, while the listener runs: the body of message `n`, copied. It goes with TXMSG_COMMITTED only. Replaces the one before. TXMSG_OK;
 * TXMSG_ERROR_INVALID: it was not declared to come later, is NULL with a size, or makes more than 7 MiB together; TXMSG_ERROR_MEMORY. A
 * TXMSG_COMMITTED without all bodies that were declared is no answer: the check comes again.
 */
TXMSG_API int txmsg_check_set_body(const txmsg_check *check, size_t n, const void *body, size_t size);

/* A header of message `n` by its exact name; NULL where it has none. */
TXMSG_API const char *txmsg_check_header(const txmsg_check *check, size_t n, const char *name);

#ifdef __cplusplus
}
#endif

#endif
