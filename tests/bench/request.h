/* Requests packed once: afterwards a request is a copy of the bytes with other ids in their places. One thread. */
#pragma once

#include "base/uuid.h"
#include "rpc/wire.h"

#include <grpc/slice.h>

enum request_kind { REQUEST_PREPARE, REQUEST_CONFIRM, REQUEST_CANCEL, REQUEST_PUBLISH, REQUEST_KINDS };
enum request_form {
    REQUEST_SINGLE, /* the call of that name */
    REQUEST_BATCH,  /* a Batch of such operations */
    REQUEST_TAGGED, /* a Pipeline frame of one; frames put behind each other are a frame of all */
};

/* Path of the method, "/txmsg.v1.MessageService/Prepare". */
const char *request_path(enum request_kind kind, enum request_form form);

struct request_options {
    const char *producer, *topic;
    size_t body; /* bytes of the body of each message */
    enum request_form form;
    size_t ids; /* operations of a REQUEST_BATCH */
};

struct request {
    uint8_t *bytes;
    size_t n;
    size_t first, stride, ids; /* where the texts of the ids stand */
    size_t tag;                /* where the tag stands; REQUEST_TAGGED */
};
/* The body is random bytes: what the store could compress would flatter it. -ENOMEM, -EINVAL (not a name). */
int request_init(struct request *r, enum request_kind kind, const struct request_options *o) MUSTCHECK;
void request_deinit(struct request *r); /* zeros are allowed */
/* One slice with these ids, as many as r->ids; the caller unrefs it. */
grpc_slice request_pack(const struct request *r, const struct uuid *ids);
/* All tags are equally long as varints. */
enum { REQUEST_TAG_MIN = 1 << 21, REQUEST_TAG_MAX = (1 << 28) - 1 };
/* The same into out[r->n], REQUEST_TAGGED, with this tag. */
void request_put_tagged(const struct request *r, const struct uuid *id, uint32_t tag, uint8_t *out);

/* Counts the errors of the items of a BatchResponse by code; others in *ok. What cannot be read counts as INTERNAL. */
void request_batch_result(struct bytes response, size_t items, uint64_t errors[17], uint64_t *ok);

struct request_result {
    uint64_t tag;
    int code;          /* 0 = OK */
    struct bytes text; /* of an error; a view */
};
/* The next of a PipelineResponse: 1, 0 = the end, -EINVAL. What the frame grants is added to *credit. */
int request_stream_result(struct wire_reader *frame, struct request_result *ret, uint64_t *credit) MUSTCHECK;
