/* UUIDs as 16 bytes in network order; version 7 ids carry their time in the first 48 bits (milliseconds since 1970). */
#pragma once

#include "base/bytes.h"

struct uuid {
    uint8_t b[16];
};
#define UUID_TEXT 37 /* 36 characters and the NUL */

bool uuid_eq(const struct uuid *a, const struct uuid *b);
int uuid_cmp(const struct uuid *a, const struct uuid *b); /* byte order = PostgreSQL's order */
static inline uint64_t uuid_hash(const struct uuid *u) {
    uint64_t h;
    __builtin_memcpy(&h, u->b + 8, 8); /* the random half */
    return h * 0x9e3779b97f4a7c15ull;
}
void uuid_format(const struct uuid *u, char out[UUID_TEXT]); /* lower case */
/* 8-4-4-4-12 hex, either case; -EINVAL for anything else. */
int uuid_parse(struct bytes text, struct uuid *ret) MUSTCHECK;
bool uuid_is_v7(const struct uuid *u); /* version 7 and RFC variant */
int64_t uuid_v7_ms(const struct uuid *u);
/* A fresh version 7 id at that time; random bits from the system. @thread any */
void uuid_v7_make(int64_t unix_ms, struct uuid *ret);
/* In a child after fork(): the next one takes new random bits, not those that the parent will use. Of this thread. */
void uuid_v7_forget(void);
/* The smallest id of a millisecond (all random bits zero, version and variant bits zero): partition bounds. */
void uuid_v7_floor(int64_t unix_ms, struct uuid *ret);
