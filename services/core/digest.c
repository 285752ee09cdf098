/*
 * "Same content" in 32 bytes. The form is stored and compared between versions of the service: it may only change
 * together with the version byte, and then old rows must still be compared by the old form.
 *
 * SHA-256 over, in this order, `text` being a u32 length and that many bytes, all numbers big-endian:
 *
 *     u8   version: 1, or 2 if any message has a deliver_at or expire_at
 *     text producer
 *     text business_key        (empty = none)
 *     u32 8, i64 check_after_ms
 *     u32 4, u32 number of messages
 *     for each message:
 *       text topic
 *       text key               (empty = none)
 *       text content_type      (empty = none)
 *       text body              (body_later: u32 0xffffffff and nothing)
 *       u32 4, u32 number of headers
 *       for each header, by name in byte order:
 *         text name
 *         text value
 *       in version 2 only:
 *         u32 8, i64 deliver_at in microseconds since 1970 (0 = none)
 *         u32 8, i64 expire_at
 *
 * Every field carries its length, numbers too, so no two contents share one input.
 */
#include "core/digest.h"
#include "core/scratch.h"

enum { DIGEST_PLAIN = 1, DIGEST_TIMES = 2 };

/* Small fields are gathered before they go to the hash: a call into it costs more than hashing 20 bytes. */
struct feed {
    struct sha256 *sha;
    size_t n;
    uint8_t p[1024];
};

static void feed_flush(struct feed *f) {
    sha256_add(f->sha, f->p, f->n);
    f->n = 0;
}

static void feed_put(struct feed *f, const void *p, size_t n) {
    if (n > sizeof(f->p) - f->n) {
        feed_flush(f);
        if (n > sizeof(f->p) / 2) {
            sha256_add(f->sha, p, n);
            return;
        }
    }
    if (n > 0) { /* an absent text is NULL */
        memcpy(f->p + f->n, p, n);
        f->n += n;
    }
}

static void feed_u32(struct feed *f, size_t v) {
    ASSERT(v <= UINT32_MAX);
    const uint8_t be[4] = {(uint8_t)(v >> 24), (uint8_t)(v >> 16), (uint8_t)(v >> 8), (uint8_t)v};
    feed_put(f, be, sizeof(be));
}

static void feed_text(struct feed *f, struct bytes v) {
    feed_u32(f, v.n);
    feed_put(f, v.p, v.n);
}

static void feed_count(struct feed *f, uint32_t v) {
    feed_u32(f, 4);
    feed_u32(f, v);
}

static void feed_i64(struct feed *f, int64_t v) {
    feed_u32(f, 8);
    feed_u32(f, (uint64_t)v >> 32);
    feed_u32(f, (uint64_t)v & UINT32_MAX);
}

static uint8_t version_of(const struct tx_content *c) {
    for (uint32_t i = 0; i < c->messages_n; i++)
        if (msg_has_times(&c->messages[i]))
            return DIGEST_TIMES;
    return DIGEST_PLAIN;
}

int tx_digest(const struct tx_content *c, uint8_t out[32]) {
    const uint8_t version = version_of(c);
    struct scratch *s = scratch_get();
    struct feed f;

    if (!s)
        return -ENOMEM;
    sha256_reset(s->sha);
    f.sha = s->sha;
    f.n = 0;
    feed_put(&f, &version, 1);
    feed_text(&f, c->producer);
    feed_text(&f, c->business_key);
    feed_i64(&f, c->check_after_ms);
    feed_count(&f, c->messages_n);
    for (uint32_t i = 0; i < c->messages_n; i++) {
        const struct msg *m = &c->messages[i];
        feed_text(&f, m->topic);
        feed_text(&f, m->key);
        feed_text(&f, m->content_type);
        if (m->later)
            feed_u32(&f, UINT32_MAX);
        else
            feed_text(&f, m->body);
        feed_count(&f, m->headers_n);
        for (uint32_t h = 0; h < m->headers_n; h++) {
            feed_text(&f, m->headers[h].name);
            feed_text(&f, m->headers[h].value);
        }
        if (version == DIGEST_TIMES) {
            feed_i64(&f, m->deliver_at_us);
            feed_i64(&f, m->expire_at_us);
        }
    }
    feed_flush(&f);
    sha256_end(s->sha, out);
    return 0;
}
