/*
 * The words of the service and the content of a transaction.
 *
 * A struct tx_content is one block of memory:
 *
 *     struct tx_content | struct msg [n] | struct header [all] | texts and bodies, each followed by a NUL
 *
 * so that it costs one allocation on the request path and one free wherever the last reference is dropped. To know its
 * size beforehand the headers are sorted and written as JSON in the thread's scratch first; then everything is copied
 * once. It never changes after it was built: any thread may read it while it holds a reference.
 */
#include "core/tx.h"

#include "base/json.h"
#include "core/digest.h"
#include "core/scratch.h"

const char *tx_state_name(enum tx_state s) {
    switch (s) {
    case TX_PREPARED:
        return "PREPARED";
    case TX_CONFIRMED:
        return "CONFIRMED";
    case TX_CANCELLED:
        return "CANCELLED";
    case TX_STUCK:
        return "STUCK";
    }
    return "UNSPECIFIED";
}

const char *tx_decision_name(enum tx_decision d) {
    switch (d) {
    case TX_UNDECIDED:
        return "UNDECIDED";
    case TX_COMMITTED:
        return "COMMITTED";
    case TX_ROLLED_BACK:
        return "ROLLED_BACK";
    }
    return "UNSPECIFIED";
}

const char *tx_origin_name(enum tx_origin o) {
    switch (o) {
    case TX_ORIGIN_NONE:
        return "none";
    case TX_ORIGIN_RPC:
        return "rpc";
    case TX_ORIGIN_CHECK:
        return "check";
    case TX_ORIGIN_ADMIN:
        return "admin";
    }
    return "unspecified";
}

bool tx_may_move(enum tx_state from, enum tx_state to) {
#define TO(s) (1u << (s))
    static const unsigned moves[] = {
        [TX_PREPARED] = TO(TX_CONFIRMED) | TO(TX_CANCELLED) | TO(TX_STUCK),
        [TX_CONFIRMED] = 0,
        [TX_CANCELLED] = 0,
        [TX_STUCK] = TO(TX_CONFIRMED) | TO(TX_CANCELLED),
    };

    if ((unsigned)from >= ARRAY_LEN(moves) || (unsigned)to >= ARRAY_LEN(moves))
        return false;
    return moves[from] & TO(to);
#undef TO
}

const int64_t delay_class_ms[DELAY_CLASSES] = {1000, 10 * 1000, 60 * 1000, 600 * 1000};

int delay_class_of(int64_t check_after_ms) {
    int class = DELAY_CLASSES - 1;

    while (class > 0 && delay_class_ms[class] > check_after_ms)
        class --;
    return class;
}

struct tx_content *tx_content_ref(struct tx_content *c) {
    int before = atomic_fetch_add_explicit(&c->refs, 1, memory_order_relaxed);
    ASSERT(before > 0);
    return c;
}

void tx_content_unref(struct tx_content *c) {
    if (!c)
        return;
    int before = atomic_fetch_sub_explicit(&c->refs, 1, memory_order_acq_rel);
    ASSERT(before > 0);
    if (before == 1)
        mem_free(c);
}

/* --- bodies of a decision --- */

static int by_n(const void *a, const void *b) {
    uint32_t x = ((const struct msg_body *)a)->n, y = ((const struct msg_body *)b)->n;
    return (x > y) - (x < y);
}

int tx_bodies_new(const struct msg_body *in, uint32_t n, struct tx_bodies **ret) {
    size_t bytes = 0;

    for (uint32_t i = 0; i < n; i++)
        bytes += in[i].body.n;
    struct tx_bodies *b = mem_alloc(sizeof(*b) + n * sizeof(b->list[0]) + bytes);
    if (!b)
        return -ENOMEM;
    uint8_t *at = (uint8_t *)&b->list[n];
    b->n = n;
    b->bytes = bytes;
    for (uint32_t i = 0; i < n; i++) {
        b->list[i] = (struct msg_body){in[i].n, bytes_of(at, in[i].body.n)};
        if (in[i].body.n)
            memcpy(at, in[i].body.p, in[i].body.n);
        at += in[i].body.n;
    }
    qsort(b->list, n, sizeof(b->list[0]), by_n);
    for (uint32_t i = 1; i < n; i++) {
        if (b->list[i].n == b->list[i - 1].n) {
            mem_free(b);
            return 1;
        }
    }
    *ret = b;
    return 0;
}

bool tx_bodies_fit(const struct tx_content *c, const struct tx_bodies *b) {
    uint32_t k = 0;

    if (c->later_n != (b ? b->n : 0))
        return false;
    for (uint32_t i = 0; i < c->messages_n; i++)
        if (c->messages[i].later && b->list[k++].n != i)
            return false;
    return true;
}

/* What is to be built: the parameters of tx_content_new(), and what the first pass found out. */
struct plan {
    const struct uuid *id;
    struct bytes producer, business_key, trace;
    int64_t check_after_ms;
    const uint8_t *digest; /* NULL = to be computed */
    const struct msg *in;
    uint32_t n;

    size_t headers_n;
    size_t json_n[LIMIT_MESSAGES_HARD];
};

static int by_name(const void *a, const void *b) {
    return bytes_cmp(((const struct header *)a)->name, ((const struct header *)b)->name);
}

static void json_put_headers(struct buf *out, const struct header *h, size_t n) {
    for (size_t i = 0; i < n; i++) {
        buf_put_char(out, i == 0 ? '{' : ',');
        json_put_string(out, h[i].name);
        buf_put_char(out, ':');
        json_put_string(out, h[i].value);
    }
    if (n > 0)
        buf_put_char(out, '}');
}

/* First pass: the headers of all messages, sorted, into s->headers, and their JSON back to back into s->json. */
static int plan_headers(struct plan *p, struct scratch *s) {
    struct header *at;
    int r;

    p->headers_n = 0;
    for (uint32_t i = 0; i < p->n; i++)
        p->headers_n += p->in[i].headers_n;
    r = scratch_headers(s, MAX(p->headers_n, 1));
    if (r < 0)
        return r;
    at = s->headers;
    for (uint32_t i = 0; i < p->n; i++) {
        size_t n = p->in[i].headers_n, before = s->json.n;
        if (n > 0)
            memcpy(at, p->in[i].headers, n * sizeof(*at));
        if (n > 1)
            qsort(at, n, sizeof(*at), by_name);
        json_put_headers(&s->json, at, n);
        p->json_n[i] = s->json.n - before;
        at += n;
    }
    return buf_error(&s->json);
}

/* Bytes of a text in the block: none when it is absent. Bodies and header values are there even when they are empty. */
static size_t room_of(struct bytes v) {
    return v.n > 0 ? v.n + 1 : 0;
}

static size_t plan_size(const struct plan *p, const struct scratch *s) {
    size_t size = sizeof(struct tx_content) + p->n * sizeof(struct msg) + p->headers_n * sizeof(struct header);

    size += room_of(p->producer) + room_of(p->business_key) + room_of(p->trace);
    for (uint32_t i = 0; i < p->n; i++) {
        const struct msg *m = &p->in[i];
        size += room_of(m->topic) + room_of(m->key) + room_of(m->content_type);
        size += m->later ? 0 : m->body.n + 1;
        size += p->json_n[i] > 0 ? p->json_n[i] + 1 : 0;
    }
    for (size_t i = 0; i < p->headers_n; i++)
        size += s->headers[i].name.n + 1 + s->headers[i].value.n + 1;
    return size;
}

/* Copies v and a NUL to *at. */
static struct bytes put(uint8_t **at, struct bytes v) {
    uint8_t *p = *at;

    if (v.n > 0)
        memcpy(p, v.p, v.n);
    p[v.n] = '\0';
    *at = p + v.n + 1;
    return bytes_of(p, v.n);
}

static struct bytes put_text(uint8_t **at, struct bytes v) {
    return v.n > 0 ? put(at, v) : BYTES_NULL;
}

/* Second pass: everything into the block. */
static void fill(struct tx_content *c, const struct plan *p, const struct scratch *s) {
    struct header *headers = (struct header *)(c->messages + p->n);
    uint8_t *at = (uint8_t *)(headers + p->headers_n);
    const struct header *from = s->headers;
    const uint8_t *json = s->json.p;

    c->id = *p->id;
    c->producer = put_text(&at, p->producer);
    c->business_key = put_text(&at, p->business_key);
    c->trace = put_text(&at, p->trace);
    c->check_after_ms = p->check_after_ms;
    c->messages_n = p->n;
    c->later_n = 0;
    for (uint32_t i = 0; i < p->n; i++) {
        const struct msg *in = &p->in[i];
        struct msg *m = &c->messages[i];

        m->topic = put_text(&at, in->topic);
        m->key = put_text(&at, in->key);
        m->content_type = put_text(&at, in->content_type);
        m->later = in->later;
        c->later_n += in->later;
        m->body = in->later ? BYTES_NULL : put(&at, in->body);
        m->deliver_at_us = in->deliver_at_us;
        m->expire_at_us = in->expire_at_us;
        m->headers = in->headers_n > 0 ? headers : NULL;
        m->headers_n = in->headers_n;
        for (uint32_t h = 0; h < in->headers_n; h++, headers++, from++) {
            headers->name = put(&at, from->name);
            headers->value = put(&at, from->value);
        }
        m->headers_json = BYTES_NULL;
        if (p->json_n[i] > 0) {
            m->headers_json = put(&at, bytes_of(json, p->json_n[i]));
            json += p->json_n[i];
        }
    }
    ASSERT(at == (uint8_t *)c + c->bytes);
}

static int build(struct plan *p, struct tx_content **ret) {
    struct scratch *s = scratch_get();
    struct tx_content *c;
    int r;

    if (!s)
        return -ENOMEM;
    r = plan_headers(p, s);
    if (r < 0)
        goto out;
    r = -ENOMEM;
    size_t size = plan_size(p, s);
    c = mem_alloc(size);
    if (!c)
        goto out;
    atomic_init(&c->refs, 1);
    c->bytes = size;
    fill(c, p, s);
    if (p->digest) {
        memcpy(c->digest, p->digest, sizeof(c->digest));
        r = 0;
    } else {
        r = tx_digest(c, c->digest);
    }
    if (r < 0)
        mem_free(c);
    else
        *ret = c;
out:
    scratch_done(s);
    return r;
}

struct tx_content *tx_content_new(const struct uuid *id, struct bytes producer, struct bytes business_key,
                                  struct bytes trace, int64_t check_after_ms, const struct msg *in, uint32_t n) {
    struct plan p = {.id = id,
                     .producer = producer,
                     .business_key = business_key,
                     .trace = trace,
                     .check_after_ms = check_after_ms,
                     .in = in,
                     .n = n};
    struct tx_content *c = NULL;

    ASSERT(n <= LIMIT_MESSAGES_HARD);
    return build(&p, &c) < 0 ? NULL : c;
}

/* --- from stored rows --- */

/* Rows on their way back: copies of the messages that point to headers, which point into the parsed JSON. */
struct stored {
    struct msg *messages;
    struct header *headers;
    json_t *json[LIMIT_MESSAGES_HARD];
};

static void stored_deinit(struct stored *s) {
    for (size_t i = 0; i < LIMIT_MESSAGES_HARD; i++)
        json_decref(s->json[i]);
    mem_free(s->headers);
    mem_free(s->messages);
}

/* The members of one message's JSON as headers; -EINVAL unless all are strings. */
static int stored_headers(const json_t *obj, struct header *out) {
    const char *name;
    json_t *value;

    json_object_foreach ((json_t *)obj, name, value) {
        if (!json_is_string(value))
            return -EINVAL;
        out->name = bytes_str(name);
        out->value = bytes_of(json_string_value(value), json_string_length(value));
        out++;
    }
    return 0;
}

static int stored_parse(struct stored *s, const struct msg *in, uint32_t n) {
    size_t total = 0;

    for (uint32_t i = 0; i < n; i++) {
        if (in[i].headers_json.n == 0)
            continue;
        struct errmsg e = ERRMSG_NULL;
        s->json[i] = json_parse(in[i].headers_json, &e);
        if (!s->json[i] && errno == ENOMEM)
            return -ENOMEM;
        if (!json_is_object(s->json[i]))
            return -EINVAL;
        total += json_object_size(s->json[i]);
    }
    s->messages = mem_calloc(MAX(n, 1), sizeof(*s->messages));
    s->headers = mem_calloc(MAX(total, 1), sizeof(*s->headers));
    if (!s->messages || !s->headers)
        return -ENOMEM;
    struct header *at = s->headers;
    for (uint32_t i = 0; i < n; i++) {
        s->messages[i] = in[i];
        s->messages[i].headers = at;
        s->messages[i].headers_n = (uint32_t)json_object_size(s->json[i]);
        if (s->json[i] && stored_headers(s->json[i], at) < 0)
            return -EINVAL;
        at += s->messages[i].headers_n;
    }
    return 0;
}

int tx_content_restore(const struct uuid *id, struct bytes producer, struct bytes business_key, struct bytes trace,
                       const uint8_t digest[32], const struct msg *in, uint32_t n, struct tx_content **ret) {
    CLEANUP(stored_deinit) struct stored s = {0};
    int r;

    if (n > LIMIT_MESSAGES_HARD)
        return -EINVAL;
    r = stored_parse(&s, in, n);
    if (r < 0)
        return r;
    struct plan p = {.id = id,
                     .producer = producer,
                     .business_key = business_key,
                     .trace = trace,
                     .digest = digest,
                     .in = s.messages,
                     .n = n};
    return build(&p, ret);
}
