/*
 * Operations as bytes of the wire, and the frames around them. What every operation goes through, so by hand: each is packed once, on the thread of
 * its caller, and afterwards only copied. Texts were checked by who took them. Pure; any thread.
 */
#pragma once

#include "bodies.h"
#include "message.h"
#include "txmsg/result.h"

/* The first numbers are those of the fields of txmsg.v1.Operation; OP_GET is none, and goes by a call of its own. */
enum op_kind { OP_PREPARE = 1, OP_CONFIRM = 2, OP_CANCEL = 3, OP_PUBLISH = 4, OP_GET = 5 };
const char *op_path(enum op_kind kind); /* "/txmsg.v1.MessageService/Prepare" */

struct op_content {
    enum op_kind kind;
    struct bytes id, producer, business_key, reason; /* texts; the last three empty where they are not there */
    int64_t check_after_ms;                          /* 0 = not there */
    bool include_bodies;                             /* of OP_GET */
    const txmsg_message *const *messages;
    size_t n;
    const struct bodies *bodies; /* of OP_CONFIRM; NULL = none */
};
/* How many bytes encode_request() writes; *fields is how many fields that are. */
size_t encode_size(const struct op_content *c, size_t *fields);
/* The request of the single call. The end of what it wrote. */
uint8_t *encode_request(const struct op_content *c, uint8_t *p);

/* An element of a Pipeline frame around a request of `n` bytes: what comes before the request, at most so many bytes. */
enum { ENCODE_TAGGED_MAX = 40 };
uint8_t *encode_tagged(enum op_kind kind, uint64_t tag, size_t n, uint8_t *p);
