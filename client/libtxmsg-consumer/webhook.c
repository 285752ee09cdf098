/*
 * Standard Webhooks: "v1,<base64 of HMAC-SHA-256 over id.timestamp.body>", one or more of them with blanks between. Every
 * secret is tried against every signature, and what is compared are the bytes of the hash, in constant time.
 */
#include "event.h"

#include "base/crypto.h"

enum { KEY_MAX = 1024, SIGNATURES_MAX = 16, MAC = 32, TOLERANCE_S = 300, STAMP_MAX = 18 };

static int key_of(const char *secret, struct buf *key) {
    static const char prefix[] = "whsec_";

    if (strncmp(secret, prefix, sizeof(prefix) - 1) != 0)
        return -EINVAL;
    int r = base64_get(key, bytes_str(secret + sizeof(prefix) - 1));
    return r == 0 && key->n == 0 ? -EINVAL : r == -ENOMEM ? r : r < 0 ? -EINVAL : 0;
}

static int mac_of(const char *secret, struct bytes text, uint8_t mac[MAC]) {
    CLEANUP_BUF struct buf key;

    buf_init(&key, KEY_MAX);
    int r = key_of(secret, &key);
    return r < 0 ? r : hmac_sha256(buf_bytes(&key), text, mac);
}

/* One entry of the header. Other versions than v1 are others' to check. */
static int entry_matches(struct bytes entry, uint8_t macs[2][MAC], int n, bool *ret) {
    CLEANUP_BUF struct buf given;

    buf_init(&given, KEY_MAX);
    if (entry.n < 3 || memcmp(entry.p, "v1,", 3) != 0)
        return 0;
    int r = base64_get(&given, bytes_of(entry.p + 3, entry.n - 3));
    if (r == -ENOMEM)
        return r;
    for (int i = 0; i < n; i++)
        if (r == 0 && given.n == MAC && crypto_equal(given.p, macs[i], MAC))
            *ret = true;
    return 0;
}

static int any_matches(struct bytes header, uint8_t macs[2][MAC], int n, bool *ret) {
    for (int tries = 0; header.n && tries < SIGNATURES_MAX; tries++) {
        const uint8_t *blank = memchr(header.p, ' ', header.n);
        size_t size = blank ? (size_t)(blank - header.p) : header.n;
        int r = entry_matches(bytes_of(header.p, size), macs, n, ret);
        if (r < 0)
            return r;
        size += blank ? 1 : 0;
        header = bytes_of(header.p + size, header.n - size);
    }
    return 0;
}

/* Digits alone: no sign, no blanks, and no overflow. */
static bool stamp_of(struct bytes v, int64_t *ret) {
    *ret = 0;
    if (v.n == 0 || v.n > STAMP_MAX)
        return false;
    for (size_t i = 0; i < v.n; i++) {
        if (!isdigit(v.p[i]))
            return false;
        *ret = *ret * 10 + (v.p[i] - '0');
    }
    return true;
}

static int compare(const struct txmsg_webhook *keys, struct bytes id, struct bytes stamp, struct bytes signature,
                   struct bytes body, bool *ret) {
    uint8_t macs[2][MAC];
    CLEANUP_BUF struct buf text;
    int n = 1;

    buf_init(&text, SIZE_MAX / 2);
    int r = buf_reserve(&text, id.n + stamp.n + body.n + 2);
    buf_put_bytes(&text, id);
    buf_put_char(&text, '.');
    buf_put_bytes(&text, stamp);
    buf_put_char(&text, '.');
    buf_put_bytes(&text, body);
    r = r < 0 ? r : buf_error(&text);
    if (r == 0)
        r = mac_of(keys->secret, buf_bytes(&text), macs[0]);
    if (r == 0 && keys->previous_secret)
        r = mac_of(keys->previous_secret, buf_bytes(&text), macs[n++]);
    return r < 0 ? r : any_matches(signature, macs, n, ret);
}

int txmsg_webhook_verify(const struct txmsg_webhook *keys, const struct txmsg_header *headers, size_t headers_n,
                         const void *body, size_t size, int64_t now_s, struct txmsg_why *why) {
    struct bytes id, stamp, signature;
    int64_t signed_s;
    bool matches = false;

    if (!keys || !keys->secret || keys->tolerance_s < 0 || (headers_n && !headers) || (size && !body))
        return why_set(why, TXMSG_ERROR_INVALID, "an argument is NULL, or the tolerance is below 0");
    if (header_one(headers, headers_n, "webhook-id", &id) != 1 ||
        header_one(headers, headers_n, "webhook-timestamp", &stamp) != 1 ||
        header_one(headers, headers_n, "webhook-signature", &signature) != 1)
        return why_set(why, TXMSG_BAD_SIGNATURE, "not signed: webhook-id, -timestamp and -signature, once each");
    /* The dot separates the parts: an id with one in it could be read in two ways. */
    if (id.n == 0 || memchr(id.p, '.', id.n) || !stamp_of(stamp, &signed_s))
        return why_set(why, TXMSG_BAD_SIGNATURE, "webhook-id or webhook-timestamp is malformed");
    int r = compare(keys, id, stamp, signature, bytes_of(body, size), &matches);
    if (r < 0)
        return why_set(why, status_of(r), r == -ENOMEM ? "out of memory" : "a secret is not whsec_<base64>");
    if (!matches)
        return why_set(why, TXMSG_BAD_SIGNATURE, "the signature is of another secret, or of another request");
    int64_t age_s = (now_s ? now_s : (int64_t)time(NULL)) - signed_s;
    int64_t tolerance_s = keys->tolerance_s ? keys->tolerance_s : TOLERANCE_S;
    if (age_s > tolerance_s || age_s < -tolerance_s)
        return why_set(why, TXMSG_BAD_TIMESTAMP, "signed %lld s ago", (long long)age_s);
    return TXMSG_OK;
}
