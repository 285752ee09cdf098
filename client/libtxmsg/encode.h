/*
 * Operations as bytes of the wire, and the frames around them. What every operation goes through, so by hand: each is packed once, on the thread of
 * its caller, and afterwards only copied. Texts were checked by who took them. Pure; any thread.
 */
#pragma once

#include "message.h"
#include "options.h"
#include "txmsg/result.h"

/* The first numbers are those of the fields of txmsg.v1.Operation; OP_GET is none, and goes by a call of its own. */
enum op_kind { OP_PREPARE = 1, OP_CONFIRM = 2, OP_CANCEL = 3, OP_PUBLISH = 4, OP_GET = 5 };
const char *op_path(enum op_kind kind); /* "/txmsg.v1.MessageService/Prepare" */

/* One operation as the application gives it. */
struct call {
    enum op_kind kind;
    const txmsg_id *id;
    txmsg_id *new_id; /* the same where an empty one is to be filled; else NULL */
    const txmsg_message *const *messages;
    size_t n;
    const txmsg_call_options *options; /* NULL allowed; of them is read what goes with the kind */
};

/* encode_request() writes no more bytes than this; *fields: nor fields. */
size_t encode_bound(const struct call *call, struct bytes producer, size_t *fields);
/* The request of the single call, so that it ends at `end`: its begin. From back to front, so that no length is needed before it is known. */
uint8_t *encode_request(const struct call *call, struct bytes producer, uint8_t *end);
/* Before a request of `n` bytes, which begins at `request`: what makes it the operation of an element of a Pipeline frame, its begin. */
uint8_t *encode_operation(enum op_kind kind, size_t n, uint8_t *request);
/* What comes before an operation of `n` bytes in a frame. Its end. */
uint8_t *encode_tag(uint64_t tag, size_t n, uint8_t *p);
enum { ENCODE_OPERATION_MAX = 22, ENCODE_TAG_MAX = 22 }; /* at most so many bytes */
