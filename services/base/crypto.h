/* SHA-256, HMAC-SHA-256, base64 and random bytes (libcrypto behind). */
#pragma once

#include "base/bytes.h"

struct sha256;                             /* an incremental digest */
struct sha256 *sha256_new(void) MUSTCHECK; /* NULL when out of memory; reusable through sha256_reset */
void sha256_free(struct sha256 *s);
void sha256_reset(struct sha256 *s);
void sha256_add(struct sha256 *s, const void *p, size_t n);
void sha256_end(struct sha256 *s, uint8_t out[32]);

int hmac_sha256(struct bytes key, struct bytes data, uint8_t out[32]) MUSTCHECK;
/* Constant time. */
bool crypto_equal(const void *a, const void *b, size_t n);
void base64_put(struct buf *out, struct bytes in); /* standard alphabet, padded */
/* Standard or URL alphabet, padding optional; -EINVAL, or the buffer's error. */
int base64_get(struct buf *out, struct bytes text) MUSTCHECK;
void crypto_random(void *p, size_t n); /* never fails: ends the process if the system has no randomness */
