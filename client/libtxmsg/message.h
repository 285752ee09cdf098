/* The inside of a message: what the encoder reads. */
#pragma once

#include "txmsg/message.h"

#include "base/bytes.h"

enum { MESSAGE_BYTES_MAX = 64 << 20, MESSAGE_HEADERS_MAX = 4096 };

struct message_header {
    char *name, *value;
};

struct txmsg_message {
    uint32_t magic;
    struct bytes topic, content_type, key, body; /* its own */
    bool body_later;
    struct message_header *headers;
    size_t headers_n, headers_cap;
    int64_t deliver_at_us, expire_at_us; /* 0 = not set */
};

bool message_valid(const txmsg_message *m); /* NULL allowed */
