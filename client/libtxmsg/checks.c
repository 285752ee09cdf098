/*
 * The streams of Checks. A check goes from the engine to the listener, and comes back as an answer of its stream; the answers that
 * gather while a frame is being written go together in the next, and give their credit back. An answer whose stream has ended meanwhile is dropped: the
 * service asks again. With an address of its own the client opens no streams: check_server.c.
 */
#include "checks.h"

#include "check_server.h"
#include "listener.h"
#include "rpc/payload.h"
#include "rpc/wire.h"

#include <grpc/byte_buffer.h>

/* FRAME_BYTES: of bodies; the last answer may pass it by its own. */
enum {
    CREDIT = 256, /* with 64 half as many are settled a second: tests/bench/run recovery_pull */
    FRAME_BYTES = 512 << 10
};

struct watch {
    struct stream stream;
    struct checks *checks;
    bool greeted;
    struct list answers;
};

struct checks {
    struct client *client;
    struct listener *listener;
    struct check_server *server; /* NULL = streams */
    size_t watches_n;
    struct watch *watches;
};

static void check_free(struct txmsg_check *check) {
    list_del(&check->link);
    arena_deinit(&check->arena);
    mem_free(check);
}

static void free_all(struct list *checks) {
    while (!list_empty(checks))
        check_free(LIST_ENTRY(checks->next, struct txmsg_check, link));
}

static struct watch *watch_of(struct stream *s) {
    return CONTAINER_OF(s, struct watch, stream);
}

/* Answers on their way are nobody's. */
static void on_closed(struct stream *s, uint64_t now) {
    struct watch *w = watch_of(s);

    w->greeted = false;
    free_all(&w->answers);
}

/* --- what comes --- */

static void on_answered(struct txmsg_check *check);

static struct txmsg_check *read_check(struct watch *w, struct bytes in) {
    struct txmsg_check *check = mem_zalloc(sizeof(*check));
    ProtobufCAllocator allocator;
    Txmsg__V1__TaggedCheck *tagged;

    if (!check)
        return NULL;
    list_init(&check->link);
    arena_init(&check->arena, CHECK_BYTES_MAX);
    allocator = payload_allocator(&check->arena);
    tagged = txmsg__v1__tagged_check__unpack(&allocator, in.n, in.p);
    if (!tagged || !tagged->check || txmsg_id_parse(&check->id, tagged->check->transaction_id)) {
        check_free(check);
        return NULL;
    }
    check->request = tagged->check;
    check->tag = tagged->tag;
    check->answered = on_answered;
    check->watch = w;
    check->opening = w->stream.openings;
    return check;
}

/* What cannot be read stays unanswered, and is asked again. */
static bool on_received(struct stream *s, struct bytes in, uint64_t now) {
    struct watch *w = watch_of(s);
    struct wire_reader frame;
    struct wire_fault fault;
    struct wire_field f;

    if (wire_check(&txmsg__v1__checks_response__descriptor, in, WIRE_FROM_SERVER, &fault))
        return false;
    for (frame = wire_reader(in); wire_next(&frame, &f) == 1;) {
        struct txmsg_check *check = f.id == 1 && f.type == WIRE_BYTES ? read_check(w, f.bytes) : NULL;

        if (check)
            listener_ask(w->checks->listener, check);
    }
    return true;
}

/* --- what goes --- */

struct answer {
    Txmsg__V1__TaggedCheckAnswer tagged;
    Txmsg__V1__CheckResponse response;
};

/* Without memory they are lost, and asked again. */
static grpc_byte_buffer *next_frame(struct stream *s, uint64_t now) {
    struct watch *w = watch_of(s);
    struct answer answers[CREDIT];
    Txmsg__V1__TaggedCheckAnswer *list[CREDIT];
    Txmsg__V1__ChecksRequest frame = TXMSG__V1__CHECKS_REQUEST__INIT;
    struct list done = LIST_INIT(done);
    grpc_byte_buffer *packed;
    size_t bytes = 0;

    if (w->greeted && list_empty(&w->answers))
        return NULL;
    frame.answers = list;
    if (!w->greeted) {
        frame.producer = s->client->o->producer;
        frame.credit = CREDIT;
    }
    while (frame.n_answers < CREDIT && bytes < FRAME_BYTES && !list_empty(&w->answers)) {
        struct txmsg_check *check = LIST_ENTRY(list_pop(&w->answers), struct txmsg_check, link);
        struct answer *a = &answers[frame.n_answers];

        txmsg__v1__tagged_check_answer__init(&a->tagged);
        check_response(check, &a->response);
        a->tagged.tag = check->tag;
        a->tagged.answer = &a->response;
        bytes += check->bodies_size;
        list[frame.n_answers++] = &a->tagged;
        list_add_tail(&done, &check->link);
    }
    frame.credit += (uint32_t)frame.n_answers;
    packed = payload_pack(&frame.base);
    w->greeted |= packed != NULL;
    free_all(&done);
    return packed;
}

static const struct stream_kind asked = {
    .path = "/txmsg.v1.MessageService/Checks", .next = next_frame, .received = on_received, .closed = on_closed};

bool checks_turn(struct checks *k, uint64_t now) {
    bool later = false;

    if (k->server)
        return check_server_turn(k->server, now);
    for (size_t i = 0; i < k->watches_n; i++) {
        struct stream *s = &k->watches[i].stream;

        stream_open(s, now);
        later |= !s->call;
        stream_write(s, now);
    }
    return later;
}

static void on_answered(struct txmsg_check *check) {
    struct watch *w = check->watch;
    struct stream *s = &w->stream;

    if (check->opening != s->openings || !stream_is_open(s) || s->client->closing) {
        check_free(check);
        return;
    }
    list_add_tail(&w->answers, &check->link);
    stream_write(s, clock_mono_ns());
}

/* --- life --- */

static int make_watches(struct checks *k) {
    struct client *c = k->client;

    k->watches = mem_calloc(c->o->addresses_n, sizeof(*k->watches));
    if (!k->watches)
        return TXMSG_ERROR_MEMORY;
    for (; k->watches_n < c->o->addresses_n; k->watches_n++) {
        struct watch *w = &k->watches[k->watches_n];
        stream_init(&w->stream, &asked, c, c->routes[k->watches_n * (size_t)c->o->channels].stream.channel);
        w->checks = k;
        list_init(&w->answers);
    }
    return TXMSG_OK;
}

int checks_make(struct client *c, struct checks **ret) {
    struct checks *k;
    int e;

    *ret = NULL;
    if (!c->o->listener)
        return TXMSG_OK;
    k = *ret = mem_zalloc(sizeof(*k));
    if (!k)
        return TXMSG_ERROR_MEMORY;
    k->client = c;
    e = listener_make(c, &k->listener);
    if (!e)
        e = c->o->check_address ? check_server_make(c, k->listener, &k->server) : make_watches(k);
    return e;
}

int checks_port(const struct checks *k) {
    return k && k->server ? check_server_port(k->server) : TXMSG_ERROR_INVALID;
}

void checks_cancel(struct checks *k) {
    struct list left = LIST_INIT(left);

    if (!k)
        return;
    if (k->server)
        check_server_stop(k->server);
    if (k->listener)
        listener_stop(k->listener, &left);
    free_all(&left); /* of streams; the server has taken its own back */
    for (size_t i = 0; i < k->watches_n; i++)
        stream_cancel(&k->watches[i].stream);
}

void checks_destroy(struct checks *k) {
    if (!k)
        return;
    pthread_mutex_lock(&k->client->lock);
    checks_cancel(k);
    pthread_mutex_unlock(&k->client->lock);
    listener_free(k->listener);
    check_server_free(k->server);
    for (size_t i = 0; i < k->watches_n; i++) {
        free_all(&k->watches[i].answers);
        stream_deinit(&k->watches[i].stream);
    }
    mem_free(k->watches);
    mem_free(k);
}
