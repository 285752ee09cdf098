/*
 * A message: topic, key, body, headers. It may be sent any number of times, each time as a new message of a new transaction.
 *
 * Threads: one at a time may change a message; any number may send it meanwhile nobody changes it.
 * Setters answer TXMSG_OK; TXMSG_ERROR_INVALID for NULL (where it does not say otherwise), for text that is not UTF-8, and for more than
 * 64 MiB; TXMSG_ERROR_MEMORY. Then the message is as it was. The limits of the service are its own to judge: it refuses with INVALID_FIELD.
 */
#ifndef TXMSG_MESSAGE_H
#define TXMSG_MESSAGE_H

#include "txmsg/types.h"

#ifdef __cplusplus
extern "C" {
#endif

/* An empty message to this topic, which must exist when it is sent. NULL: `topic` is NULL or not UTF-8, or out of memory. */
TXMSG_API txmsg_message *txmsg_message_new(const char *topic);

/* Releases the message. What was sent of it goes on. NULL is allowed. */
TXMSG_API void txmsg_message_free(txmsg_message *message);

/* The body: `size` bytes, opaque to the service. NULL is allowed where `size` is 0. Replaces the one before. */
TXMSG_API int txmsg_message_set_body(txmsg_message *message, const void *body, size_t size);

/*
 * 1: its body comes later, with txmsg_confirm(), out of the executor of txmsg_send_in_transaction(), or with the answer to a check: an id that is born
 * inside the local transaction, for one. The body here must be empty then. Of prepare only. 0 or 1; default 0.
 */
TXMSG_API int txmsg_message_set_body_later(txmsg_message *message, int later);

/* The partition key: `size` bytes. NULL is allowed where `size` is 0. Replaces the one before. */
TXMSG_API int txmsg_message_set_key(txmsg_message *message, const void *key, size_t size);

/* The media type of the body, "application/json". Replaces the one before. */
TXMSG_API int txmsg_message_set_content_type(txmsg_message *message, const char *content_type);

/* Adds a header for the consumer. Names are unique regardless of case: the service refuses a second one. */
TXMSG_API int txmsg_message_add_header(txmsg_message *message, const char *name, const char *value);

/* Not to be delivered before this time, in microseconds since 1970; 0 = at once. TXMSG_ERROR_INVALID if it is negative. */
TXMSG_API int txmsg_message_set_deliver_at(txmsg_message *message, int64_t time_us);

/* Discarded if it is undelivered at this time, in microseconds since 1970; 0 = never. TXMSG_ERROR_INVALID if it is negative. */
TXMSG_API int txmsg_message_set_expire_at(txmsg_message *message, int64_t time_us);

#ifdef __cplusplus
}
#endif

#endif
