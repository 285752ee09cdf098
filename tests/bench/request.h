/* Requests packed once: afterwards a request is a copy of the bytes with other ids in their places. One thread. */
#pragma once

#include "base/uuid.h"

#include <grpc/slice.h>

enum request_kind { REQUEST_PREPARE, REQUEST_CONFIRM, REQUEST_CANCEL, REQUEST_PUBLISH, REQUEST_BATCH, REQUEST_KINDS };

/* Path of the method, "/txmsg.v1.MessageService/Prepare". */
const char *request_path(enum request_kind kind);

struct request_options {
    const char *producer, *topic;
    size_t body; /* bytes of the body of each message */
    size_t ids;  /* operations of a REQUEST_BATCH */
};

struct request {
    uint8_t *bytes;
    size_t n;
    size_t first, stride, ids; /* where the texts of the ids stand */
};
/* The body is random bytes: what the store could compress would flatter it. -ENOMEM, -EINVAL (not a name). */
int request_init(struct request *r, enum request_kind kind, const struct request_options *o) MUSTCHECK;
void request_deinit(struct request *r); /* zeros are allowed */
/* One slice with these ids, as many as r->ids; the caller unrefs it. */
grpc_slice request_pack(const struct request *r, const struct uuid *ids);

/* Counts the errors of the items of a BatchResponse by code; others in *ok. What cannot be read counts as INTERNAL. */
void request_batch_result(struct bytes response, size_t items, uint64_t errors[17], uint64_t *ok);
