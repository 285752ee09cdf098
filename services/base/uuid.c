/*
 * UUIDs. Each thread draws its random bits from a pool of its own that is refilled by one system call for some 400 ids.
 * The daemon never forks without exec, so a pool is never shared.
 */
#include "base/uuid.h"

#include "base/crypto.h"

#define POOL   4096
#define MS_MAX ((1ll << 48) - 1)

bool uuid_eq(const struct uuid *a, const struct uuid *b) {
    return memcmp(a, b, sizeof(*a)) == 0;
}

int uuid_cmp(const struct uuid *a, const struct uuid *b) {
    return memcmp(a, b, sizeof(*a));
}

/* A dash stands before these bytes. */
static bool dash_before(size_t i) {
    return i == 4 || i == 6 || i == 8 || i == 10;
}

void uuid_format(const struct uuid *u, char out[UUID_TEXT]) {
    static const char hex[] = "0123456789abcdef";
    for (size_t i = 0; i < sizeof(u->b); i++) {
        if (dash_before(i))
            *out++ = '-';
        *out++ = hex[u->b[i] >> 4];
        *out++ = hex[u->b[i] & 15];
    }
    *out = '\0';
}

static int hex_value(uint8_t c) {
    if (c >= '0' && c <= '9')
        return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

int uuid_parse(struct bytes text, struct uuid *ret) {
    struct uuid u;
    if (text.n != UUID_TEXT - 1)
        return -EINVAL;
    const uint8_t *p = text.p;
    for (size_t i = 0; i < sizeof(u.b); i++, p += 2) {
        if (dash_before(i) && *p++ != '-')
            return -EINVAL;
        int high = hex_value(p[0]), low = hex_value(p[1]);
        if (high < 0 || low < 0)
            return -EINVAL;
        u.b[i] = (uint8_t)(high << 4 | low);
    }
    *ret = u;
    return 0;
}

bool uuid_is_v7(const struct uuid *u) {
    return u->b[6] >> 4 == 7 && u->b[8] >> 6 == 2;
}

int64_t uuid_v7_ms(const struct uuid *u) {
    int64_t ms = 0;
    for (size_t i = 0; i < 6; i++)
        ms = ms << 8 | u->b[i];
    return ms;
}

static void put_ms(struct uuid *u, int64_t ms) {
    ms = MIN(MAX(ms, 0), MS_MAX);
    for (size_t i = 6; i-- > 0; ms >>= 8)
        u->b[i] = (uint8_t)ms;
}

static _Thread_local struct {
    size_t left;
    uint8_t bytes[POOL];
} pool;

void uuid_v7_forget(void) {
    pool.left = 0;
}

void uuid_v7_make(int64_t unix_ms, struct uuid *ret) {
    if (pool.left < 10) {
        crypto_random(pool.bytes, sizeof(pool.bytes));
        pool.left = sizeof(pool.bytes);
    }
    pool.left -= 10;
    put_ms(ret, unix_ms);
    memcpy(ret->b + 6, pool.bytes + pool.left, 10);
    ret->b[6] = (uint8_t)(0x70 | (ret->b[6] & 0x0f));
    ret->b[8] = (uint8_t)(0x80 | (ret->b[8] & 0x3f));
}

void uuid_v7_floor(int64_t unix_ms, struct uuid *ret) {
    *ret = (struct uuid){{0}};
    put_ms(ret, unix_ms);
}
