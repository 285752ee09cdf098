/*
 * What a client is made with, and what a single call is made with.
 *
 * Threads: one at a time may change such a handle; any number may use it meanwhile nobody changes it. A client keeps a copy of its options.
 * Setters answer TXMSG_OK; TXMSG_ERROR_INVALID for NULL, for a value out of range, and for text that is not UTF-8; TXMSG_ERROR_MEMORY.
 * Then the value is as it was.
 */
#ifndef TXMSG_OPTIONS_H
#define TXMSG_OPTIONS_H

#include "txmsg/types.h"

#ifdef __cplusplus
extern "C" {
#endif

/* --- of a client --- */

/* Options with their defaults. NULL: out of memory. */
TXMSG_API txmsg_options *txmsg_options_new(void);

/* Releases them. NULL is allowed. */
TXMSG_API void txmsg_options_free(txmsg_options *options);

/*
 * Adds an address of the service, "host:7400", or a target of gRPC: "dns:///txmsg.internal:7400" means every address of that name. May be called
 * several times, at most 32; all are used in turns, and one that does not answer is left out until it does. Default: 127.0.0.1:7400.
 */
TXMSG_API int txmsg_options_add_address(txmsg_options *options, const char *address);

/* The producer in whose name everything is sent, and whose checks are answered. Required; it must exist at the service. */
TXMSG_API int txmsg_options_set_producer(txmsg_options *options, const char *producer);

/* How long a call may last that says nothing else. 1 to 86,400,000 ms; default 10,000. */
TXMSG_API int txmsg_options_set_timeout_ms(txmsg_options *options, int64_t timeout_ms);

/*
 * Operations in flight, those included that wait for a repeat or for their callback. A call that waits blocks beyond it, within its
 * deadline; an asynchronous one is refused with TXMSG_ERROR_BUSY. 1 to 65,536; default 4,096.
 */
TXMSG_API int txmsg_options_set_max_in_flight(txmsg_options *options, int64_t operations);

/*
 * Bytes of the operations in flight. Likewise a bound, but a single operation may always go when there is no other. 64 KiB to 16 GiB;
 * default 64 MiB.
 */
TXMSG_API int txmsg_options_set_max_bytes(txmsg_options *options, int64_t bytes);

/* Connections to each address. 1 to 16; default 1. With "dns:///" several are needed to use several of its addresses at a time. */
TXMSG_API int txmsg_options_set_channels(txmsg_options *options, int64_t channels);

/*
 * 1: a call of its own for each operation, in place of streams (Pipeline) that carry many. Slower, and where a connection is refused it
 * cannot be told from one that broke: TXMSG_UNKNOWN instead of TXMSG_UNAVAILABLE. For proxies that do not pass streams. 0 or 1; default 0.
 */
TXMSG_API int txmsg_options_set_unary(txmsg_options *options, int unary);

/*
 * 1: callbacks of asynchronous calls come out of txmsg_client_dispatch() only, on the thread that calls it. 0: they come on the library's
 * own thread. 0 or 1; default 0.
 */
TXMSG_API int txmsg_options_set_dispatch(txmsg_options *options, int dispatch);

/* --- of a call --- */

/* Options of a call with their defaults. They may be used for many calls. NULL: out of memory. */
TXMSG_API txmsg_call_options *txmsg_call_options_new(void);

/* Releases them. Calls that were made with them go on. NULL is allowed. */
TXMSG_API void txmsg_call_options_free(txmsg_call_options *options);

/* How long the call may last, with its repeats. 1 to 86,400,000 ms; 0, the default: as the client's options say. */
TXMSG_API int txmsg_call_options_set_timeout_ms(txmsg_call_options *options, int64_t timeout_ms);

/* The producer's own key, an order number for one. Of Prepare and Publish. NULL: none, the default. */
TXMSG_API int txmsg_call_options_set_business_key(txmsg_call_options *options, const char *key);

/* Age at which the first check is made. Of Prepare. 0, the default: as the producer's policy says; else at most 30 days. */
TXMSG_API int txmsg_call_options_set_check_after_ms(txmsg_call_options *options, int64_t age_ms);

/*
 * Of Confirm: the body of message `n`, from 0, that was prepared with txmsg_message_set_body_later(). Replaces the one before of the same message; NULL is
 * allowed where `size` is 0. TXMSG_ERROR_INVALID from 64 MiB on, all together. Exactly those that were declared must be there, with the first
 * Confirm and with every repeat: else TXMSG_REFUSED with BODIES_MISMATCH, or CONTENT_DIFFERS where the stored ones are others.
 */
TXMSG_API int txmsg_call_options_set_body(txmsg_call_options *options, size_t n, const void *body, size_t size);

/* None any more: before the same options are used for another transaction. */
TXMSG_API int txmsg_call_options_clear_bodies(txmsg_call_options *options);

/* Why, for people. Of Cancel. NULL: none, the default. */
TXMSG_API int txmsg_call_options_set_reason(txmsg_call_options *options, const char *reason);

#ifdef __cplusplus
}
#endif

#endif
