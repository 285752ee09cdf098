/* The inside of a check: what came, and where its answer goes. Streams have such checks, and so has the server. */
#pragma once

#include "txmsg/check.h"

#include "base/arena.h"
#include "base/clock.h"
#include "base/list.h"
#include "txmsg/v1/message_service.pb-c.h"

/* A body of the answer, in the check's arena. */
struct check_body {
    struct check_body *next;
    uint32_t n;
    struct bytes bytes;
};
enum { CHECK_BYTES_MAX = 32 << 20 };

struct txmsg_check {
    struct list link;   /* of the listener's queue, later of its owner's */
    struct arena arena; /* what it has of its own */
    txmsg_id id;
    const Txmsg__V1__CheckRequest *request;
    bool asked;                                  /* the listener has it, or had it */
    enum txmsg_decision decision;                /* its answer */
    void (*answered)(struct txmsg_check *check); /* hands it back to its owner. @locks client->lock */
    uint64_t tag; /* of a stream's: what it is called there, the stream, and which opening of it */
    struct watch *watch;
    uint64_t opening;
    struct check_body *bodies;
    size_t bodies_size; /* bytes of all */
};
/* What the service is sent; good as long as the check. */
void check_response(struct txmsg_check *check, Txmsg__V1__CheckResponse *ret);
