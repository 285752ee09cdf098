/*
 * Signatures as the Standard Webhooks specification words them, so that producers and consumers can check ours with
 * any of its libraries. Pure; nothing is kept. The key is decoded again for each signature: a few dozen bytes.
 */
#include "webclient/signature.h"

#include "base/crypto.h"

enum { KEY_MAX = 1024 };

static const char prefix[] = "whsec_";

static int secret_key(const char *secret, struct buf *key) {
    if (!secret || strncmp(secret, prefix, sizeof(prefix) - 1) != 0)
        return -EINVAL;
    int r = base64_get(key, bytes_str(secret + sizeof(prefix) - 1));
    if (r == -ENOMEM)
        return r;
    return r < 0 || key->n == 0 ? -EINVAL : 0;
}

int webhook_sign(struct buf *out, const char *secret, const char *id, int64_t timestamp_s, struct bytes body) {
    CLEANUP_BUF struct buf key, text;
    uint8_t mac[32];
    int r;

    buf_init(&key, KEY_MAX);
    buf_init(&text, SIZE_MAX / 2);
    /* The dot separates the parts: an id with one in it could be read in two ways. */
    if (!id || !*id || strchr(id, '.'))
        return -EINVAL;
    r = secret_key(secret, &key);
    if (r < 0)
        return r;
    r = buf_reserve(&text, strlen(id) + 24 + body.n);
    if (r < 0)
        return r;
    buf_printf(&text, "%s.%lld.", id, (long long)timestamp_s);
    buf_put_bytes(&text, body);
    r = buf_error(&text);
    if (r < 0)
        return r;
    r = hmac_sha256(buf_bytes(&key), buf_bytes(&text), mac);
    if (r < 0)
        return r;
    buf_put_str(out, "v1,");
    base64_put(out, bytes_of(mac, sizeof(mac)));
    return buf_error(out);
}
