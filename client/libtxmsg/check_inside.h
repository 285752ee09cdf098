/* The inside of a check: what came, and where its answer goes. */
#pragma once

#include "txmsg/check.h"

#include "base/arena.h"
#include "base/clock.h"
#include "base/list.h"
#include "txmsg/v1/message_service.pb-c.h"

struct txmsg_check {
    struct list link;
    struct arena arena;
    txmsg_id id;
    const Txmsg__V1__CheckRequest *request;
    uint64_t tag;
    struct watch *watch; /* the stream, and which opening of it */
    uint64_t opening;
    enum txmsg_decision decision;
};
