/*
 * Signatures of requests: "id\ntimestamp\nsignatures\nbody". Nothing passes but what the signer of txmsg signs; and what that signs
 * passes, but not with one bit changed.
 */
#include "base/crypto.h"
#include "fuzz.h"
#include "txmsg/consumer.h"
#include "webclient/signature.h"

#define SECRET   "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
#define PREVIOUS "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
enum { NOW = 1700000000, TOLERANCE_S = 300 };

static const struct txmsg_webhook keys = {.secret = SECRET, .previous_secret = PREVIOUS};

static struct bytes take_line(const uint8_t **data, size_t *size) {
    const uint8_t *end = *size ? memchr(*data, '\n', *size) : NULL;
    size_t n = end ? (size_t)(end - *data) : *size;
    struct bytes line = bytes_of(*data, n);

    *data += n + (end ? 1 : 0);
    *size -= n + (end ? 1 : 0);
    return line;
}

static int verify(struct bytes id, struct bytes stamp, struct bytes signature, struct bytes body) {
    struct txmsg_header h[] = {{"webhook-id", 10, (const char *)id.p, id.n},
                               {"webhook-timestamp", 17, (const char *)stamp.p, stamp.n},
                               {"webhook-signature", 17, (const char *)signature.p, signature.n}};
    struct txmsg_why why = {""};
    int r = txmsg_webhook_verify(&keys, h, 3, body.p, body.n, NOW, &why);

    FUZZ_CHECK(r == TXMSG_OK || ((r == TXMSG_BAD_SIGNATURE || r == TXMSG_BAD_TIMESTAMP) && why.text[0]));
    return r;
}

/* The signer takes the time as a number, so a stamp with zeros in front has no counterpart there. */
static void check_passed(struct bytes id, struct bytes stamp, struct bytes signature, struct bytes body) {
    CLEANUP_BUF struct buf text;
    char stamp_text[24] = "", id_text[600] = "";

    FUZZ_CHECK(id.n < sizeof(id_text) && stamp.n < sizeof(stamp_text));
    memcpy(stamp_text, stamp.p, stamp.n);
    memcpy(id_text, id.p, id.n);
    buf_init(&text, 4096);
    FUZZ_CHECK(webhook_sign(&text, SECRET, id_text, strtoll(stamp_text, NULL, 10), body) == 0);
    FUZZ_CHECK(signature.n >= 40 && text.n == 47);
}

static void check_own(unsigned choice, const char *id, struct bytes body) {
    CLEANUP_BUF struct buf text, changed;
    char stamp[24];
    int64_t at_s = NOW + (int64_t)(choice % 11) * 100 - 500, age_s = at_s - NOW;

    buf_init(&text, 4096);
    buf_init(&changed, 1 << 20);
    snprintf(stamp, sizeof(stamp), "%lld", (long long)at_s);
    if (webhook_sign(&text, choice & 1 ? PREVIOUS : SECRET, id, at_s, body) < 0)
        return;
    int want = age_s > TOLERANCE_S || age_s < -TOLERANCE_S ? TXMSG_BAD_TIMESTAMP : TXMSG_OK;
    FUZZ_CHECK(verify(bytes_str(id), bytes_str(stamp), buf_bytes(&text), body) == want);
    if (!body.n)
        return;
    buf_put_bytes(&changed, body);
    if (buf_error(&changed) == 0) {
        changed.p[choice % body.n] ^= (uint8_t)(1u << choice % 8);
        FUZZ_CHECK(verify(bytes_str(id), bytes_str(stamp), buf_bytes(&text), buf_bytes(&changed)) ==
                   TXMSG_BAD_SIGNATURE);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    unsigned choice = fuzz_choice(&data, &size);
    struct bytes id = take_line(&data, &size), stamp = take_line(&data, &size), signature = take_line(&data, &size);
    struct bytes body = bytes_of(data, size);
    char id_text[600] = "";

    if (verify(id, stamp, signature, body) == TXMSG_OK)
        check_passed(id, stamp, signature, body);
    if (id.n && id.n < sizeof(id_text) && !memchr(id.p, 0, id.n)) {
        memcpy(id_text, id.p, id.n);
        check_own(choice, id_text, body);
    }
    return 0;
}
