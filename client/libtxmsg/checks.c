/*
 * The streams of Checks. A check goes from the engine to the listener, and comes back as an answer of its stream; the answers that
 * gather while a frame is being written go together in the next, and give their credit back. An answer whose stream has ended meanwhile is dropped: the
 * service asks again. With an address of its own the client opens no streams: check_server.c.
 */
#include "checks.h"

#include "check_server.h"
#include "core/retry.h"
#include "listener.h"
#include "rpc/crossing.h"
#include "rpc/payload.h"
#include "rpc/rpc.h"
#include "rpc/wire.h"

#include <grpc/byte_buffer.h>

/* FRAME_BYTES: of bodies; the last answer may pass it by its own. */
enum { CREDIT = 64, FRAME_BYTES = 512 << 10, RETRY_MAX_MS = 2000 };

enum batch { OPENED, WRITTEN, READ, ENDED, BATCHES };
struct watch_event {
    struct event event;
    struct watch *watch;
};
struct watch { /* a stream */
    struct watch_event events[BATCHES];
    struct checks *checks;
    grpc_channel *channel;
    grpc_call *call; /* NULL = closed */
    grpc_metadata_array headers, trailers;
    grpc_status_code code;
    grpc_slice details;
    grpc_byte_buffer *writing, *received;
    int pending, failures;
    bool greeted, ended;
    uint64_t opening, retry_ns;
    struct list answers;
    size_t answers_n;
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

/* --- a stream --- */

static void start(struct watch *w, enum batch batch, const grpc_op *ops, size_t n) {
    w->pending++;
    client_start(w->checks->client, w->call, ops, n, &w->events[batch].event);
}

static void start_read(struct watch *w) {
    const grpc_op op = {.op = GRPC_OP_RECV_MESSAGE, .data.recv_message.recv_message = &w->received};

    start(w, READ, &op, 1);
}

static void open_watch(struct watch *w) {
    const grpc_op opening[] = {
        {.op = GRPC_OP_SEND_INITIAL_METADATA},
        {.op = GRPC_OP_RECV_INITIAL_METADATA, .data.recv_initial_metadata.recv_initial_metadata = &w->headers},
    };
    const grpc_op status = {.op = GRPC_OP_RECV_STATUS_ON_CLIENT,
                            .data.recv_status_on_client = {
                                .trailing_metadata = &w->trailers, .status = &w->code, .status_details = &w->details}};
    grpc_slice path = grpc_slice_from_static_string("/txmsg.v1.MessageService/Checks");

    w->headers.count = w->trailers.count = 0;
    w->greeted = w->ended = false;
    w->opening++;
    w->call = grpc_channel_create_call(w->channel, NULL, GRPC_PROPAGATE_DEFAULTS, w->checks->client->queue, path, NULL,
                                       gpr_inf_future(GPR_CLOCK_MONOTONIC), NULL);
    start(w, ENDED, &status, 1);
    start(w, OPENED, opening, ARRAY_LEN(opening));
    start_read(w);
}

static void batch_done(struct watch *w, uint64_t now) {
    static const struct backoff pause = {.initial_ms = 100, .max_ms = RETRY_MAX_MS, .factor = 2, .jitter = 0.5};

    if (--w->pending > 0)
        return;
    grpc_slice_unref(w->details);
    grpc_call_unref(w->call);
    w->call = NULL;
    w->opening++; /* answers on their way are nobody's */
    free_all(&w->answers);
    w->answers_n = 0;
    w->failures++;
    w->retry_ns = now + (uint64_t)backoff_delay_ms(&pause, w->failures, backoff_random()) * NS_PER_MS;
}

static void on_ended(struct client *c, struct event *ev, bool ok) {
    struct watch *w = ((struct watch_event *)ev)->watch;

    w->ended = true;
    batch_done(w, clock_mono_ns());
}

static void on_opened(struct client *c, struct event *ev, bool ok) {
    batch_done(((struct watch_event *)ev)->watch, clock_mono_ns());
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
    check->opening = w->opening;
    return check;
}

/* What cannot be read stays unanswered, and is asked again. False: the frame is none. */
static bool take_frame(struct watch *w) {
    struct wire_reader frame;
    struct wire_fault fault;
    struct wire_field f;
    struct bytes in;

    if (payload_view(w->received, &w->checks->client->scratch, &in) < 0 ||
        wire_check(&txmsg__v1__checks_response__descriptor, in, WIRE_FROM_SERVER, &fault))
        return false;
    for (frame = wire_reader(in); wire_next(&frame, &f) == 1;) {
        struct txmsg_check *check = f.id == 1 && f.type == WIRE_BYTES ? read_check(w, f.bytes) : NULL;

        if (check)
            listener_ask(w->checks->listener, check);
    }
    return true;
}

static void on_read(struct client *c, struct event *ev, bool ok) {
    struct watch *w = ((struct watch_event *)ev)->watch;

    if (ok && w->received) {
        w->failures = 0;
        if (!take_frame(w))
            grpc_call_cancel(w->call, NULL);
        grpc_byte_buffer_destroy(w->received);
        w->received = NULL;
        start_read(w);
    }
    batch_done(w, clock_mono_ns());
}

/* --- what goes --- */

struct answer {
    Txmsg__V1__TaggedCheckAnswer tagged;
    Txmsg__V1__CheckResponse response;
};

static grpc_byte_buffer *pack_answers(struct watch *w) {
    struct answer answers[CREDIT];
    Txmsg__V1__TaggedCheckAnswer *list[CREDIT];
    Txmsg__V1__ChecksRequest frame = TXMSG__V1__CHECKS_REQUEST__INIT;
    struct list done = LIST_INIT(done);
    grpc_byte_buffer *packed;
    size_t bytes = 0;

    frame.answers = list;
    if (!w->greeted) {
        frame.producer = w->checks->client->o->producer;
        frame.credit = CREDIT;
    }
    w->greeted = true;
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
    w->answers_n -= frame.n_answers;
    packed = payload_pack(&frame.base);
    free_all(&done);
    return packed;
}

/* True: w->writing is to be sent, without the lock. */
static bool begin_write(struct watch *w) {
    if (!w->call || w->ended || w->writing || (w->greeted && list_empty(&w->answers)))
        return false;
    w->writing = pack_answers(w);
    w->pending++;
    w->checks->client->batches++;
    return true;
}

/* Starts a write if there is one to be made; gives the lock away meanwhile, so it keeps the call by a reference of its own. */
static void write_one(struct watch *w) {
    grpc_op op = {.op = GRPC_OP_SEND_MESSAGE};
    grpc_call *call;

    if (!begin_write(w))
        return;
    op.data.send_message.send_message = w->writing;
    call = w->call;
    grpc_call_ref(call);
    pthread_mutex_unlock(&w->checks->client->lock);
    crossing_begin(&w->events[WRITTEN].event);
    ASSERT(grpc_call_start_batch(call, &op, 1, &w->events[WRITTEN].event, NULL) == GRPC_CALL_OK);
    grpc_call_unref(call);
    pthread_mutex_lock(&w->checks->client->lock);
}

static void on_written(struct client *c, struct event *ev, bool ok) {
    struct watch *w = ((struct watch_event *)ev)->watch;

    grpc_byte_buffer_destroy(w->writing);
    w->writing = NULL;
    batch_done(w, clock_mono_ns());
}

bool checks_turn(struct checks *k, uint64_t now) {
    bool later = false;

    if (k->server)
        return check_server_turn(k->server, now);
    for (size_t i = 0; i < k->watches_n; i++) {
        struct watch *w = &k->watches[i];

        if (!w->call && now >= w->retry_ns)
            open_watch(w);
        later |= !w->call;
        write_one(w);
    }
    return later;
}

static void on_answered(struct txmsg_check *check) {
    struct watch *w = check->watch;

    if (check->opening != w->opening || w->ended || w->checks->client->closing) {
        check_free(check);
        return;
    }
    list_add_tail(&w->answers, &check->link);
    w->answers_n++;
    write_one(w);
}

/* --- life --- */

static void init_watch(struct watch *w, struct checks *k, grpc_channel *channel) {
    static void (*const fns[])(struct client *, struct event *, bool) = {
        [OPENED] = on_opened, [WRITTEN] = on_written, [READ] = on_read, [ENDED] = on_ended};

    for (int i = 0; i < BATCHES; i++)
        w->events[i] = (struct watch_event){.event.fn = fns[i], .watch = w};
    w->checks = k;
    w->channel = channel;
    list_init(&w->answers);
    grpc_metadata_array_init(&w->headers);
    grpc_metadata_array_init(&w->trailers);
}

static int make_watches(struct checks *k) {
    const struct client *c = k->client;

    k->watches = mem_calloc(c->o->addresses_n, sizeof(*k->watches));
    if (!k->watches)
        return TXMSG_ERROR_MEMORY;
    for (; k->watches_n < c->o->addresses_n; k->watches_n++)
        init_watch(&k->watches[k->watches_n], k, c->routes[k->watches_n * (size_t)c->o->channels].channel);
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
        if (k->watches[i].call)
            grpc_call_cancel(k->watches[i].call, NULL);
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
        grpc_metadata_array_destroy(&k->watches[i].headers);
        grpc_metadata_array_destroy(&k->watches[i].trailers);
    }
    mem_free(k->watches);
    mem_free(k);
}
