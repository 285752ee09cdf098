/*
 * What a consumer needs to take a delivery: is it from txmsg, and what is in it (library libtxmsg-consumer, which needs
 * libcrypto only). That a message which comes twice is done once is for txmsg/inbox.h, or a recipe of client/consumers.md.
 *
 *     struct txmsg_webhook keys = {.secret = "whsec_..."};
 *     txmsg_event *ev;
 *     int r = txmsg_event_from_http(&ev, &keys, headers, n, body, size, 0, NULL);
 *     TXMSG_BAD_SIGNATURE, TXMSG_BAD_TIMESTAMP: answer 401; TXMSG_BAD_EVENT: 400; TXMSG_OK: use it, txmsg_event_free()
 *
 * All functions are pure: nothing is kept, nothing blocks. They may be called on any thread; an event is read by any number of
 * threads and freed by one. Errors below 0 are those of txmsg/types.h.
 */
#ifndef TXMSG_CONSUMER_H
#define TXMSG_CONSUMER_H

#include "txmsg/types.h"

#ifdef __cplusplus
extern "C" {
#endif

/* One header as it was received, without the blanks around its value. Values need no NUL at their end and may hold any bytes. */
struct txmsg_header {
    const char *name;
    size_t name_size;
    const char *value;
    size_t value_size;
};

/* Outcomes beside TXMSG_OK. None of them is a mistake of the calling program. */
enum txmsg_consumer_status {
    /* No signature by one of the secrets: it is not from txmsg, or the secrets differ. */
    TXMSG_BAD_SIGNATURE = 16,
    /* Signed too long ago or too far ahead: somebody sends it again, or a clock is wrong. A retry of txmsg has a new time. */
    TXMSG_BAD_TIMESTAMP = 17,
    /* It is no message of txmsg: an attribute is missing, twice there or wrong. It will not get better by trying again. */
    TXMSG_BAD_EVENT = 18
};

/* Why, in one line for people, without anything secret. Functions allow NULL. */
struct txmsg_why {
    char text[160];
};

/* --- signatures --- */

/* The secrets that a subscription signs with. Zero what you do not need. */
struct txmsg_webhook {
    const char *secret;          /* "whsec_<base64>"; required */
    const char *previous_secret; /* also taken, while secrets are changed; NULL: none */
    int tolerance_s;             /* largest age, and largest time ahead, of a signature; 0: 300 */
};

/*
 * Verifies the signature of a request by Standard Webhooks: headers webhook-id, webhook-timestamp and webhook-signature,
 * over the body exactly as it was received. For deliveries and for checks alike. `now_s`: seconds since 1970; 0: the clock.
 * TXMSG_OK, TXMSG_BAD_SIGNATURE, TXMSG_BAD_TIMESTAMP; TXMSG_ERROR_INVALID if a secret is not one, or an argument is NULL;
 * TXMSG_ERROR_MEMORY. Signatures are compared in constant time.
 */
TXMSG_API int txmsg_webhook_verify(const struct txmsg_webhook *keys, const struct txmsg_header *headers,
                                   size_t headers_n, const void *body, size_t size, int64_t now_s,
                                   struct txmsg_why *why) TXMSG_MUST_CHECK;

/* --- events --- */

/* A message as it was delivered. It holds copies of everything. */
typedef struct txmsg_event txmsg_event;

/*
 * Verifies and decodes a delivery over HTTP, in binary or structured mode. `keys` NULL: it is not verified, which is for
 * consumers behind something that did. The id of a signed delivery is what was signed: with another ce-id it is refused
 * (TXMSG_BAD_EVENT). In binary mode the other attributes are not part of the signature; if they must be, let the
 * subscription use content_mode: structured, where the signature covers them all.
 *
 * TXMSG_OK and *ret, to be freed; else *ret is NULL: all of txmsg_webhook_verify(), and TXMSG_BAD_EVENT.
 */
TXMSG_API int txmsg_event_from_http(txmsg_event **ret, const struct txmsg_webhook *keys,
                                    const struct txmsg_header *headers, size_t headers_n, const void *body, size_t size,
                                    int64_t now_s, struct txmsg_why *why) TXMSG_MUST_CHECK;

/*
 * Decodes a delivery over AMQP: `headers` are those of the headers table whose values are text, `content_type` the property,
 * NULL if there is none. TXMSG_OK and *ret; TXMSG_BAD_EVENT; TXMSG_ERROR_INVALID, TXMSG_ERROR_MEMORY.
 */
TXMSG_API int txmsg_event_from_amqp(txmsg_event **ret, const struct txmsg_header *headers, size_t headers_n,
                                    const char *content_type, const void *body, size_t size,
                                    struct txmsg_why *why) TXMSG_MUST_CHECK;

/* NULL is allowed. */
TXMSG_API void txmsg_event_free(txmsg_event *event);

/* The parts. Text lives as long as the event and is "" where there is none; of a NULL event everything is "" or 0. */

/* "<transaction id>.<n>": the same at every attempt. What an inbox remembers. */
TXMSG_API const char *txmsg_event_id(const txmsg_event *event);
TXMSG_API const char *txmsg_event_transaction_id(const txmsg_event *event);
/* Place of the message in its transaction, from 0. */
TXMSG_API unsigned txmsg_event_n(const txmsg_event *event);
TXMSG_API const char *txmsg_event_topic(const txmsg_event *event);
TXMSG_API const char *txmsg_event_producer(const txmsg_event *event);
TXMSG_API const char *txmsg_event_business_key(const txmsg_event *event);
/* When the transaction's id was made, RFC 3339. */
TXMSG_API const char *txmsg_event_time(const txmsg_event *event);
TXMSG_API const char *txmsg_event_content_type(const txmsg_event *event);
TXMSG_API const char *txmsg_event_traceparent(const txmsg_event *event);
TXMSG_API const char *txmsg_event_tracestate(const txmsg_event *event);
/* From 1; 0 if it was not said. */
TXMSG_API int txmsg_event_attempt(const txmsg_event *event);
/* The message's key and its body, byte by byte as it was sent, with a NUL behind that is not counted. `size` NULL is allowed.
 * In structured mode a key that is no text is percent-encoded. */
TXMSG_API const void *txmsg_event_key(const txmsg_event *event, size_t *size);
TXMSG_API const void *txmsg_event_body(const txmsg_event *event, size_t *size);

#ifdef __cplusplus
}
#endif

#endif
