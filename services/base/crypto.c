/*
 * libcrypto behind four small verbs. The digest implementation is fetched once per process; a struct sha256 keeps one
 * context for its whole life. A struct sha256 has one owner; the rest is @thread any.
 */
#include "base/crypto.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <pthread.h>
#include <sys/random.h>

struct sha256 {
    EVP_MD_CTX *ctx;
};

static EVP_MD *md_sha256;
static pthread_once_t md_once = PTHREAD_ONCE_INIT;

static void fetch_md(void) {
    md_sha256 = EVP_MD_fetch(NULL, "SHA256", NULL);
}

struct sha256 *sha256_new(void) {
    pthread_once(&md_once, fetch_md);
    CLEANUP_FREE struct sha256 *s = mem_zalloc(sizeof(*s));
    if (!s || !md_sha256)
        return NULL;
    s->ctx = EVP_MD_CTX_new();
    if (!s->ctx || EVP_DigestInit_ex(s->ctx, md_sha256, NULL) != 1) {
        EVP_MD_CTX_free(s->ctx);
        return NULL;
    }
    return TAKE(s);
}

void sha256_free(struct sha256 *s) {
    if (!s)
        return;
    EVP_MD_CTX_free(s->ctx);
    mem_free(s);
}

/*
 * A missing type means the one of sha256_new: no lookup. OpenSSL 3.0 still replaces its inner state of some 100 bytes
 * here; without memory for that the process ends, because a digest must never be wrong in silence.
 */
void sha256_reset(struct sha256 *s) {
    ASSERT(EVP_DigestInit_ex(s->ctx, NULL, NULL) == 1);
}

void sha256_add(struct sha256 *s, const void *p, size_t n) {
    ASSERT(n == 0 || EVP_DigestUpdate(s->ctx, p, n) == 1);
}

void sha256_end(struct sha256 *s, uint8_t out[32]) {
    unsigned n = 0;
    ASSERT(EVP_DigestFinal_ex(s->ctx, out, &n) == 1 && n == 32);
}

int hmac_sha256(struct bytes key, struct bytes data, uint8_t out[32]) {
    unsigned n = 0;
    if (key.n > INT32_MAX)
        return -EINVAL;
    /* An empty key or text may have no address, which libcrypto would read as "keep the last one". */
    const void *k = key.n ? key.p : (const uint8_t *)"";
    const uint8_t *d = data.n ? data.p : (const uint8_t *)"";
    if (!HMAC(EVP_sha256(), k, (int)key.n, d, data.n, out, &n))
        return -ENOMEM;
    ASSERT(n == 32);
    return 0;
}

bool crypto_equal(const void *a, const void *b, size_t n) {
    return n == 0 || CRYPTO_memcmp(a, b, n) == 0;
}

static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

void base64_put(struct buf *out, struct bytes in) {
    if (in.n > SIZE_MAX / 4 || buf_reserve(out, (in.n + 2) / 3 * 4) < 0) {
        out->error = out->error ? out->error : -E2BIG;
        return;
    }
    for (size_t i = 0; i < in.n; i += 3) {
        size_t have = MIN(in.n - i, 3);
        uint32_t second = have > 1 ? in.p[i + 1] : 0, third = have > 2 ? in.p[i + 2] : 0;
        uint32_t v = (uint32_t)in.p[i] << 16 | second << 8 | third;
        char quad[4] = {alphabet[v >> 18], alphabet[v >> 12 & 63], '=', '='};
        if (have > 1)
            quad[2] = alphabet[v >> 6 & 63];
        if (have > 2)
            quad[3] = alphabet[v & 63];
        buf_put(out, quad, sizeof(quad));
    }
}

static int base64_value(uint8_t c) {
    if (c >= 'A' && c <= 'Z')
        return c - 'A';
    if (c >= 'a' && c <= 'z')
        return c - 'a' + 26;
    if (c >= '0' && c <= '9')
        return c - '0' + 52;
    if (c == '+' || c == '-')
        return 62;
    return c == '/' || c == '_' ? 63 : -1;
}

int base64_get(struct buf *out, struct bytes text) {
    size_t n = text.n;
    if (n > 0 && n % 4 == 0 && text.p[n - 1] == '=')
        n -= text.p[n - 2] == '=' ? 2 : 1;
    if (n % 4 == 1)
        return -EINVAL;
    size_t before = out->n;
    uint32_t v = 0;
    unsigned bits = 0;
    int r = buf_reserve(out, n / 4 * 3 + n % 4);
    if (r < 0)
        return r;
    for (size_t i = 0; i < n; i++) {
        int six = base64_value(text.p[i]);
        if (six < 0) {
            r = -EINVAL;
            break;
        }
        v = v << 6 | (uint32_t)six;
        bits += 6;
        if (bits >= 8) {
            bits -= 8;
            buf_put_char(out, (char)(uint8_t)(v >> bits));
        }
    }
    /* Bits that no byte uses must be zero: one text per value. */
    if (r == 0 && (v & ((1u << bits) - 1)) != 0)
        r = -EINVAL;
    if (r < 0) {
        out->n = before;
        out->p[before] = '\0';
    }
    return r < 0 ? r : buf_error(out);
}

void crypto_random(void *p, size_t n) {
    uint8_t *at = p;
    while (n > 0) {
        ssize_t r = getrandom(at, n, 0);
        if (r < 0) {
            ASSERT(errno == EINTR);
            continue;
        }
        at += r;
        n -= (size_t)r;
    }
}
