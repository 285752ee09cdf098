/* The inside of a check: what came, and where its answer goes. */
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
struct txmsg_check {
    struct list link;
    struct arena arena;
    txmsg_id id;
    const Txmsg__V1__CheckRequest *request;
    uint64_t tag;
    struct watch *watch; /* the stream, and which opening of it */
    uint64_t opening;
    enum txmsg_decision decision;
    struct check_body *bodies;
    size_t bodies_size; /* bytes of all */
};
/* What the service is sent; good as long as the check. */
void check_response(struct txmsg_check *check, Txmsg__V1__CheckResponse *ret);
