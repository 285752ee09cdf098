/* Standard Webhooks signatures: "v1,<base64 of HMAC-SHA-256 over id.timestamp.body>". */
#pragma once

#include "base/bytes.h"

/*
 * secret: "whsec_<base64>". Appends the header value to `out`. -EINVAL: not such a secret. The id may hold no dot.
 */
int webhook_sign(struct buf *out, const char *secret, const char *id, int64_t timestamp_s, struct bytes body) MUSTCHECK;
