/*
 * One lock guards it all, and is held for moments: to put a check down, to take some for a frame (which is packed under
 * it, because what is packed belongs to the asker), to hand answers back. Nothing waits under it.
 *
 * A check goes to the stream of its producer that has the fewest, among those with credit; the one that got a check goes
 * to the end of the line, so equals take turns. Credit is the client's word: each check takes one, and only the client
 * gives more, so an instance that hangs is given no more than it asked for. A stream that ends gives back what it did not
 * answer at once.
 *
 * A stream's tag is never used again, and stands for one check; an answer counts if its tag is awaited on this very
 * stream and it names the transaction. What was taken back meanwhile, or belongs to another stream, is not awaited.
 */
#include "checkback/desk.h"

#include "base/metric.h"
#include "core/limits.h"

#include "txmsg/v1/message_service.pb-c.h"

enum {
    OPEN_MAX = 1000,    /* checks and credit of one stream; answers of one frame */
    FRAME_CHECKS = 100, /* of one frame down */
    FRAME_BYTES = 1 << 20,
};

struct counter { /* a producer with streams */
    struct hnode node;
    struct list streams; /* struct desk_stream */
    struct metric *open;
    char name[LIMIT_NAME + 1];
};

struct desk_stream {
    struct list link; /* of its counter */
    struct counter *of;
    struct rpc_stream *rpc;
    int credit, in_flight;
    uint64_t number, last_tag; /* of the desk, from 1 */
    struct list outgoing;      /* struct desk_check, not sent yet */
    struct hmap sent;          /* by tag */
    bool unwanted;             /* the producer left the configuration */
};

struct desk {
    struct rpc_server *rpc;
    struct rpc_stream_method method;
    pthread_mutex_t lock;
    struct hmap counters;
    struct topology *topology;
    _Atomic int streams_n;
    uint64_t last_number;
};

static uint64_t name_hash(const char *name) {
    return hash_bytes(name, strlen(name), 0);
}

static struct counter *counter_find(const struct desk *d, const char *name) {
    uint64_t hash = name_hash(name);
    for (struct hnode *h = hmap_first(&d->counters, hash); h; h = hmap_next(h, hash)) {
        struct counter *c = CONTAINER_OF(h, struct counter, node);
        if (strcmp(c->name, name) == 0)
            return c;
    }
    return NULL;
}

static struct counter *counter_of(struct desk *d, const char *name) {
    struct counter *c = counter_find(d, name);
    if (c || !(c = mem_zalloc(sizeof(*c))))
        return c;
    snprintf(c->name, sizeof(c->name), "%s", name);
    list_init(&c->streams);
    c->open = metric_get(metric_family(METRIC_GAUGE, "txmsg_check_streams", "producer",
                                       "Open streams of producers in pull mode, at this replica.", 256),
                         c->name);
    hmap_add(&d->counters, &c->node, name_hash(name));
    return c;
}

/* --- checks --- */

static uint64_t tag_hash(uint64_t tag) {
    return hash_bytes(&tag, sizeof(tag), 0);
}

static struct desk_check *awaited(const struct desk_stream *s, uint64_t tag) {
    uint64_t hash = tag_hash(tag);
    for (struct hnode *h = hmap_first(&s->sent, hash); h; h = hmap_next(h, hash)) {
        struct desk_check *c = CONTAINER_OF(h, struct desk_check, by_tag);
        if (c->tag == tag)
            return c;
    }
    return NULL;
}

static void give_back(struct desk_check *c, bool lost) {
    c->stream->in_flight--;
    c->stream = NULL;
    c->lost = lost;
    int r = mailbox_send(c->back, &c->link);
    ASSERT(r == 0);
}

int desk_room(struct desk *d, const char *producer) {
    int room = 0;
    if (!d || !atomic_load_explicit(&d->streams_n, memory_order_relaxed))
        return 0;
    pthread_mutex_lock(&d->lock);
    const struct counter *c = counter_find(d, producer);
    if (c)
        LIST_FOR (e, &c->streams)
            room += LIST_ENTRY(e, struct desk_stream, link)->credit;
    pthread_mutex_unlock(&d->lock);
    return room;
}

static enum desk_given least_loaded(const struct counter *c, uint64_t avoid, struct desk_stream **ret) {
    enum desk_given r = DESK_NOBODY;
    *ret = NULL;
    LIST_FOR (e, &c->streams) {
        struct desk_stream *s = LIST_ENTRY(e, struct desk_stream, link);
        if (s->number == avoid)
            continue;
        if (s->credit > 0 && (!*ret || s->in_flight < (*ret)->in_flight))
            *ret = s;
        r = *ret ? DESK_TAKEN : DESK_BUSY;
    }
    return r;
}

enum desk_given desk_give(struct desk *d, const char *producer, struct desk_check *c) {
    if (!d || !atomic_load_explicit(&d->streams_n, memory_order_relaxed))
        return DESK_NOBODY;
    pthread_mutex_lock(&d->lock);
    struct counter *of = counter_find(d, producer);
    struct desk_stream *s = NULL;
    enum desk_given r = of ? least_loaded(of, c->avoid, &s) : DESK_NOBODY;
    if (s) {
        s->credit--;
        s->in_flight++;
        c->stream = s;
        c->asked = s->number;
        c->tag = ++s->last_tag;
        list_add_tail(&s->outgoing, &c->link);
        list_del(&s->link);
        list_add_tail(&of->streams, &s->link);
        rpc_stream_signal(s->rpc);
    }
    pthread_mutex_unlock(&d->lock);
    return r;
}

bool desk_take_back(struct desk *d, struct desk_check *c) {
    pthread_mutex_lock(&d->lock);
    struct desk_stream *s = c->stream;
    if (s) {
        if (list_empty(&c->link))
            hmap_del(&s->sent, &c->by_tag);
        else
            list_del(&c->link);
        s->in_flight--;
        c->stream = NULL;
    }
    pthread_mutex_unlock(&d->lock);
    return s != NULL;
}

void desk_wake(struct desk *d) {
    if (d && d->rpc)
        rpc_wake(d->rpc);
}

/* --- down --- */

struct frame_down {
    size_t n, bytes;
    Txmsg__V1__TaggedCheck rows[FRAME_CHECKS], *pointers[FRAME_CHECKS];
    Google__Protobuf__Timestamp deadlines[FRAME_CHECKS];
};

static void frame_add(struct frame_down *f, struct desk_check *c) {
    Txmsg__V1__TaggedCheck *row = f->pointers[f->n] = &f->rows[f->n];
    Google__Protobuf__Timestamp *at = &f->deadlines[f->n];
    txmsg__v1__tagged_check__init(row);
    google__protobuf__timestamp__init(at);
    at->seconds = c->deadline_us / 1000000;
    at->nanos = (int32_t)(c->deadline_us % 1000000) * 1000;
    row->tag = c->tag;
    row->check = (Txmsg__V1__CheckRequest *)(uintptr_t)c->request;
    row->deadline = at;
    f->bytes += txmsg__v1__check_request__get_packed_size(c->request);
    f->n++;
}

static void send_checks(struct desk *d, struct desk_stream *s) {
    struct frame_down f;
    Txmsg__V1__ChecksResponse response;
    struct list *e;
    if (!rpc_stream_may_send(s->rpc))
        return;
    f.n = f.bytes = 0;
    pthread_mutex_lock(&d->lock);
    while (f.n < FRAME_CHECKS && f.bytes < FRAME_BYTES && (e = list_pop(&s->outgoing))) {
        struct desk_check *c = LIST_ENTRY(e, struct desk_check, link);
        frame_add(&f, c);
        hmap_add(&s->sent, &c->by_tag, tag_hash(c->tag));
    }
    if (f.n > 0) {
        txmsg__v1__checks_response__init(&response);
        response.checks = f.pointers;
        response.n_checks = f.n;
        rpc_stream_send(s->rpc, &response.base);
    }
    pthread_mutex_unlock(&d->lock);
}

static void fail(struct rpc_stream *rpc, int code, const char *reason, const char *field, const char *why) {
    rpc_stream_fail(rpc, &(struct rpc_error){.code = code,
                                             .reason = reason,
                                             .message = why,
                                             .field = field,
                                             .field_description = why,
                                             .retry_after_ms = code == RPC_RESOURCE_EXHAUSTED ? 1000 : 0});
}

static void fail_unknown(struct rpc_stream *rpc, const char *name) {
    rpc_stream_fail(rpc, &(struct rpc_error){.code = RPC_NOT_FOUND,
                                             .reason = "PRODUCER_NOT_FOUND",
                                             .message = "this producer does not exist",
                                             .field = "producer",
                                             .field_description = "does not exist",
                                             .meta = {"name", name}});
}

static void on_sendable(struct rpc_stream *rpc) {
    struct desk_stream *s = rpc_stream_data(rpc);
    if (s)
        send_checks(rpc_stream_user(rpc), s);
}

static void on_signalled(struct rpc_stream *rpc) {
    struct desk *d = rpc_stream_user(rpc);
    struct desk_stream *s = rpc_stream_data(rpc);
    if (!s)
        return;
    pthread_mutex_lock(&d->lock);
    bool unwanted = s->unwanted;
    pthread_mutex_unlock(&d->lock);
    if (unwanted)
        fail_unknown(rpc, s->of->name);
    else
        send_checks(d, s);
}

/* --- up --- */

/* Enters the line. NULL: the stream was failed. */
static struct desk_stream *introduce(struct desk *d, struct rpc_stream *rpc, const Txmsg__V1__ChecksRequest *q) {
    struct desk_stream *s = mem_zalloc(sizeof(*s));
    if (!s || hmap_init(&s->sent, 64) < 0) {
        mem_free(s);
        fail(rpc, RPC_RESOURCE_EXHAUSTED, "OVERLOADED", NULL, "out of memory for this call");
        return NULL;
    }
    s->rpc = rpc;
    list_init(&s->outgoing);
    list_init(&s->link);
    pthread_mutex_lock(&d->lock);
    bool known =
        strlen(q->producer) <= LIMIT_NAME && d->topology && topology_producer(d->topology, bytes_str(q->producer));
    s->of = known ? counter_of(d, q->producer) : NULL;
    if (s->of) {
        s->number = ++d->last_number;
        list_add_tail(&s->of->streams, &s->link);
        metric_add(s->of->open, 1);
        atomic_fetch_add(&d->streams_n, 1);
    }
    bool configured = d->topology != NULL;
    pthread_mutex_unlock(&d->lock);
    if (s->of) {
        rpc_stream_set_data(rpc, s);
        return s;
    }
    hmap_deinit(&s->sent);
    mem_free(s);
    if (known)
        fail(rpc, RPC_RESOURCE_EXHAUSTED, "OVERLOADED", NULL, "out of memory for this call");
    else if (configured)
        fail_unknown(rpc, q->producer);
    else
        rpc_stream_fail(rpc, &(struct rpc_error){.code = RPC_UNAVAILABLE,
                                                 .reason = "STORE_UNAVAILABLE",
                                                 .message = "the configuration is not read from the store yet",
                                                 .retry_after_ms = 200});
    return NULL;
}

static void take_answers(struct desk *d, struct desk_stream *s, const Txmsg__V1__ChecksRequest *q) {
    pthread_mutex_lock(&d->lock);
    for (size_t i = 0; i < q->n_answers; i++) {
        struct desk_check *c = awaited(s, q->answers[i]->tag);
        if (!c) /* unknown, answered already, or too late */
            continue;
        hmap_del(&s->sent, &c->by_tag);
        answer_message(q->answers[i]->answer, &c->tx, &c->answer);
        give_back(c, false);
    }
    pthread_mutex_unlock(&d->lock);
}

/* False: more than may be open. */
static bool take_credit(struct desk *d, struct desk_stream *s, uint32_t credit) {
    pthread_mutex_lock(&d->lock);
    bool ok = credit <= OPEN_MAX && s->credit + s->in_flight + (int)credit <= OPEN_MAX;
    if (ok)
        s->credit += (int)credit;
    pthread_mutex_unlock(&d->lock);
    return ok;
}

static void on_message(struct rpc_stream *rpc, const ProtobufCMessage *message) {
    const Txmsg__V1__ChecksRequest *q = (const Txmsg__V1__ChecksRequest *)message;
    struct desk *d = rpc_stream_user(rpc);
    struct desk_stream *s = rpc_stream_data(rpc);
    if (!s && !*q->producer) {
        fail(rpc, RPC_INVALID_ARGUMENT, "INVALID_FIELD", "producer", "is required in the first frame");
        return;
    }
    if (!s && q->credit == 0) {
        fail(rpc, RPC_INVALID_ARGUMENT, "INVALID_FIELD", "credit", "is at least 1 in the first frame");
        return;
    }
    if (q->n_answers > OPEN_MAX) {
        fail(rpc, RPC_INVALID_ARGUMENT, "INVALID_FIELD", "answers", "are more than 1000");
        return;
    }
    if (!s && !(s = introduce(d, rpc, q)))
        return;
    if (*q->producer && strcmp(q->producer, s->of->name) != 0) {
        fail(rpc, RPC_INVALID_ARGUMENT, "INVALID_FIELD", "producer", "is another one than in the first frame");
        return;
    }
    take_answers(d, s, q);
    if (!take_credit(d, s, q->credit))
        fail(rpc, RPC_INVALID_ARGUMENT, "INVALID_FIELD", "credit", "makes more than 1000 open checks");
}

/* --- the end of a stream --- */

static void leave_line(struct desk *d, struct desk_stream *s) {
    list_del(&s->link);
    metric_add(s->of->open, -1);
    atomic_fetch_sub(&d->streams_n, 1);
    if (!list_empty(&s->of->streams))
        return;
    hmap_del(&d->counters, &s->of->node);
    mem_free(s->of);
}

static void on_closed(struct rpc_stream *rpc) {
    struct desk *d = rpc_stream_user(rpc);
    struct desk_stream *s = rpc_stream_data(rpc);
    struct hnode *h;
    struct list *e;
    if (!s)
        return;
    pthread_mutex_lock(&d->lock);
    leave_line(d, s);
    while ((e = list_pop(&s->outgoing)))
        give_back(LIST_ENTRY(e, struct desk_check, link), true);
    while (s->sent.count && (h = hmap_any(&s->sent))) {
        hmap_del(&s->sent, h);
        give_back(CONTAINER_OF(h, struct desk_check, by_tag), true);
    }
    pthread_mutex_unlock(&d->lock);
    rpc_stream_set_data(rpc, NULL);
    hmap_deinit(&s->sent);
    mem_free(s);
}

/* --- life --- */

int desk_new(int streams, struct desk **ret) {
    struct desk *d = mem_zalloc(sizeof(*d));
    if (!d || hmap_init(&d->counters, 16) < 0) {
        mem_free(d);
        return -ENOMEM;
    }
    pthread_mutex_init(&d->lock, NULL);
    d->method = (struct rpc_stream_method){
        .path = "/txmsg.v1.MessageService/Checks",
        .request = &txmsg__v1__checks_request__descriptor,
        .asks = true,
        .max = streams,
        .user = d,
        .message = on_message,
        .sendable = on_sendable,
        .signalled = on_signalled,
        .closed = on_closed,
    };
    *ret = d;
    return 0;
}

void desk_free(struct desk *d) {
    if (!d)
        return;
    ASSERT(d->counters.count == 0);
    hmap_deinit(&d->counters);
    topology_unref(d->topology);
    pthread_mutex_destroy(&d->lock);
    mem_free(d);
}

const struct rpc_stream_method *desk_streams(struct desk *d, size_t *n) {
    *n = 1;
    return &d->method;
}

void desk_rpc(struct desk *d, struct rpc_server *rpc) {
    d->rpc = rpc;
}

/* Streams of producers that are gone from the configuration. */
static void dismiss(struct desk *d, struct topology *t) {
    for (size_t i = 0; d->counters.count && i <= d->counters.mask; i++)
        for (struct hnode *h = d->counters.slots[i]; h; h = h->next) {
            struct counter *c = CONTAINER_OF(h, struct counter, node);
            if (topology_producer(t, bytes_str(c->name)))
                continue;
            LIST_FOR (e, &c->streams) {
                struct desk_stream *s = LIST_ENTRY(e, struct desk_stream, link);
                s->unwanted = true;
                rpc_stream_signal(s->rpc);
            }
        }
}

void desk_topology(struct desk *d, struct topology *t) {
    pthread_mutex_lock(&d->lock);
    struct topology *old = d->topology;
    d->topology = topology_ref(t);
    dismiss(d, t);
    pthread_mutex_unlock(&d->lock);
    topology_unref(old);
    desk_wake(d);
}
