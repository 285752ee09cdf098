/* google.rpc.Status on the wire: what rpc_fail() sends and the client half reads back. */
#pragma once

#include "rpc/rpc.h"

#define STATUS_TRAILER "grpc-status-details-bin"

/* `s` itself, or its beginning where it is too long to be sent back. Never NULL. */
const char *status_text(const char *s, struct arena *a);
/* Packed bytes of the status in the arena; texts are cut so that the trailer fits any client's header limit. */
int status_pack(const struct rpc_error *err, struct arena *a, struct bytes *ret) MUSTCHECK;

struct Google__Rpc__ErrorInfo;
struct status_details {
    int code;
    const char *message, *reason;              /* NULL = none */
    const struct Google__Rpc__ErrorInfo *info; /* with the metadata; NULL = none */
    const char *field, *field_description;     /* of the first BadRequest violation */
    int64_t retry_after_ms;
};
/* Reads the bytes of the trailer. -EINVAL: not a google.rpc.Status; -ENOMEM. */
int status_unpack(struct bytes in, struct arena *a, struct status_details *ret) MUSTCHECK;
