/* Bodies of messages that were declared body_later: what a Confirm or the answer to a check brings. Its owner's memory. */
#pragma once

#include "base/bytes.h"

struct body {
    uint32_t n; /* place of the message */
    struct bytes bytes;
};
struct bodies { /* zeroed: none */
    struct body *list;
    size_t n, cap, size; /* size: bytes of all */
};
/* Copies it; replaces the one of the same place. TXMSG_ERROR_INVALID: a place or size that no service takes, or more than `max` together. */
int bodies_set(struct bodies *b, size_t n, const void *body, size_t size, size_t max) MUSTCHECK;
void bodies_clear(struct bodies *b);
