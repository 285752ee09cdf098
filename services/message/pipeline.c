/*
 * Pipeline: operations and results in streams, many in flight on one call.
 *
 *   frame -> decoded -> its operations, by worker, into the mailboxes -> lanes -> one outbox per stream and worker
 *         -> at the end of the worker's turn (a group commit) into `done`, one signal -> results appended to `out`
 *         -> one reply frame with all of it, and the credit of what it answers; while it is being written the next forms
 *
 * The operations of a frame are one allocation, with the few texts that they point to; the request itself is given back
 * as soon as it was read. A result takes some hundred bytes of `out` until it is sent, and nothing else.
 *
 * Bounds. Credit: what a client may have open, from the operation to its result in a frame; operations beyond it are
 * refused. Over all streams, operations and bytes with the workers: where that is reached streams are not read until
 * something ended, so no client holds what another needs. A client that does not read gets no credit, and an `out` that
 * is long stops reading from it; the rpc room cuts it off after a while.
 *
 * A pipe belongs to its stream's rpc thread; `done` is the crossing, an outbox belongs to its worker. It holds its stream
 * while operations are under way or results unsent, so whatever ends the stream (half-close, a frame that is not well
 * formed, drain) lets them be answered first. A client that has gone gets nothing any more; what it asked for is done.
 */
#include "message/operation.h"
#include "message/result.h"

enum {
    MAIL_MAX = 128,           /* operations mailed together: a commit of some begins while the others are read */
    OUT_MAX = 16 << 20,       /* never reached: results in flight are bounded by credit */
    OUT_PAUSE = 256 << 10,    /* unsent results of more than this: nothing is read */
    OUT_KEPT_MAX = 256 << 10, /* an idle stream gives a larger buffer back */
};

struct pipe;
struct flight { /* an operation under way */
    struct item item;
    struct hnode by_tag;
    uint64_t tag;
    struct frame *frame;
};

/* What is left of a client's frame while operations of it are under way; their texts stand behind them. */
struct frame {
    struct pipe *pipe;
    size_t left;   /* operations under way, and one for the reading */
    int64_t bytes; /* counted in service->flights */
    struct flight flights[];
};

struct pipe_outbox {
    struct outbox box;
    struct pipe *pipe;
};

struct pipe {
    struct message_service *service;
    struct rpc_stream *stream;
    char *trace;          /* NULL = none */
    int64_t credit, owed; /* the client's; to be granted with the next frame */
    size_t open;          /* operations under way */
    struct hmap tags;     /* struct flight */
    struct buf out;       /* results, packed and not sent */
    bool held, closed;
    struct list waiting; /* of service->flights. @locks its lock */

    pthread_mutex_t lock;
    struct list done; /* items, from all workers. @locks lock */
    struct pipe_outbox boxes[];
};

/* --- the bound over all streams --- */

static bool flights_full(const struct message_service *m) {
    return atomic_load(&m->flights.operations) >= m->o.pipeline_operations_all ||
           atomic_load(&m->flights.bytes) >= m->o.pipeline_bytes_all;
}

/* True: the pipe waits, and is signalled when there may be room again. */
static bool flights_wait(struct pipe *p) {
    struct flights *f = &p->service->flights;
    bool wait;
    if (!flights_full(p->service))
        return false;
    pthread_mutex_lock(&f->lock);
    if (list_empty(&p->waiting)) {
        list_add_tail(&f->waiting, &p->waiting);
        atomic_fetch_add(&f->waiting_n, 1);
    }
    wait = flights_full(p->service); /* again: what ended in between saw nobody waiting */
    if (!wait) {
        list_del(&p->waiting);
        atomic_fetch_sub(&f->waiting_n, 1);
    }
    pthread_mutex_unlock(&f->lock);
    return wait;
}

static void flights_leave(struct pipe *p) {
    struct flights *f = &p->service->flights;
    pthread_mutex_lock(&f->lock);
    if (!list_empty(&p->waiting)) {
        list_del(&p->waiting);
        atomic_fetch_sub(&f->waiting_n, 1);
    }
    pthread_mutex_unlock(&f->lock);
}

/* A pipe in the list is open, so its stream is there. */
static void flights_end(struct message_service *m, int64_t operations, int64_t bytes) {
    struct flights *f = &m->flights;
    struct list *e;
    atomic_fetch_sub(&f->operations, operations);
    atomic_fetch_sub(&f->bytes, bytes);
    if (!atomic_load(&f->waiting_n) || flights_full(m))
        return;
    pthread_mutex_lock(&f->lock);
    while ((e = list_pop(&f->waiting))) {
        rpc_stream_signal(LIST_ENTRY(e, struct pipe, waiting)->stream);
        atomic_fetch_sub(&f->waiting_n, 1);
    }
    pthread_mutex_unlock(&f->lock);
    rpc_wake(m->rpc);
}

/* --- results --- */

static const struct rpc_error no_memory = {
    .code = RPC_UNAVAILABLE,
    .reason = "OUTCOME_UNKNOWN",
    .retry_after_ms = 100,
    .message = "no memory for the answers: repeat what was not answered under the same ids"};

static void put_error(struct pipe *p, uint64_t tag, const struct rpc_error *err, struct arena *a) {
    if (!p->closed && result_put_error(&p->out, tag, err, a) < 0)
        rpc_stream_fail(p->stream, &no_memory);
}

static void put_result(struct pipe *p, const struct flight *x, struct arena *a) {
    struct rpc_error err;
    if (p->closed)
        return;
    if (x->item.overloaded) {
        item_overloaded(&err);
        put_error(p, x->tag, &err, a);
    } else if (outcome_error(&x->item.op, a, &err)) {
        put_error(p, x->tag, &err, a);
    } else if (result_put_status(&p->out, x->tag, &x->item.op) < 0) {
        rpc_stream_fail(p->stream, &no_memory);
    }
}

/* One reply frame with all there is, unless one is being written. */
static void flush(struct pipe *p) {
    if (p->closed || !rpc_stream_may_send(p->stream) || (p->out.n == 0 && p->owed == 0))
        return;
    if (p->owed && result_put_credit(&p->out, (uint32_t)p->owed) == 0) {
        p->credit += p->owed;
        p->owed = 0;
    }
    rpc_stream_send_bytes(p->stream, buf_bytes(&p->out));
    if (p->out.cap > OUT_KEPT_MAX)
        buf_deinit(&p->out);
    buf_reset(&p->out);
}

/* After everything that may have changed something. */
static void turn(struct pipe *p) {
    flush(p);
    bool hold = p->open > 0 || (!p->closed && p->out.n > 0);
    if (hold && !p->held)
        rpc_stream_hold(p->stream);
    else if (!hold && p->held)
        rpc_stream_release(p->stream);
    p->held = hold;
    if (!p->closed)
        rpc_stream_pause(p->stream, p->out.n > OUT_PAUSE || flights_wait(p));
}

/* --- from the workers --- */

static void outbox_flush(struct outbox *o) {
    struct pipe *p = CONTAINER_OF(o, struct pipe_outbox, box)->pipe;
    pthread_mutex_lock(&p->lock);
    list_splice_tail(&p->done, &o->items);
    rpc_stream_signal(p->stream); /* inside the lock: once it is left, the pipe may go */
    pthread_mutex_unlock(&p->lock);
}

static void on_done(struct item *i) {
    struct pipe *p = CONTAINER_OF(i, struct flight, item)->frame->pipe;
    outbox_put(&p->boxes[worker_index(i->worker)].box, i);
}

static void pipe_free(struct pipe *p) {
    hmap_deinit(&p->tags);
    buf_deinit(&p->out);
    pthread_mutex_destroy(&p->lock);
    mem_free(p->trace);
    mem_free(p);
}

/* What it counted, when it was the last. */
static int64_t frame_drop(struct frame *f) {
    int64_t bytes = f->bytes;
    if (--f->left > 0)
        return 0;
    mem_free(f);
    return bytes;
}

/* Answers what is done, and gives its memory back. */
static void collect(struct pipe *p, struct list *done) {
    struct message_service *m = p->service;
    struct arena *a = rpc_stream_arena(p->stream);
    int64_t operations = 0, bytes = 0;
    struct list *e;
    while ((e = list_pop(done))) {
        struct flight *x = CONTAINER_OF(LIST_ENTRY(e, struct item, link), struct flight, item);
        put_result(p, x, a);
        operation_drop(&x->item.op);
        hmap_del(&p->tags, &x->by_tag);
        p->owed++;
        p->open--;
        operations++;
        bytes += frame_drop(x->frame);
    }
    if (operations)
        flights_end(m, operations, bytes);
}

static void on_signalled(struct rpc_stream *s) {
    struct pipe *p = rpc_stream_data(s);
    struct list done = LIST_INIT(done);
    if (!p)
        return;
    pthread_mutex_lock(&p->lock);
    list_splice_tail(&done, &p->done);
    pthread_mutex_unlock(&p->lock);
    collect(p, &done);
    arena_reset(rpc_stream_arena(s));
    turn(p);
    if (p->closed && !p->open) {
        rpc_stream_set_data(s, NULL);
        pipe_free(p);
    }
}

/* --- from the client --- */

static struct flight *by_tag(const struct pipe *p, uint64_t tag) {
    uint64_t hash = hash_bytes(&tag, sizeof(tag), 0);
    for (struct hnode *h = hmap_first(&p->tags, hash); h; h = hmap_next(h, hash)) {
        struct flight *x = CONTAINER_OF(h, struct flight, by_tag);
        if (x->tag == tag)
            return x;
    }
    return NULL;
}

/* Texts that an operation points to in the request. */
static size_t texts_of(const Txmsg__V1__Operation *o) {
    if (!o)
        return 0;
    if (o->operation_case == TXMSG__V1__OPERATION__OPERATION_CONFIRM)
        return strlen(o->confirm->producer);
    if (o->operation_case == TXMSG__V1__OPERATION__OPERATION_CANCEL)
        return strlen(o->cancel->producer) + strlen(o->cancel->reason);
    return 0;
}

static struct frame *frame_new(struct pipe *p, const Txmsg__V1__PipelineRequest *q, uint8_t **texts) {
    size_t n = q->n_operations, text = 0;
    for (size_t i = 0; i < n; i++)
        text += texts_of(q->operations[i]->operation);
    size_t size = sizeof(struct frame) + n * sizeof(struct flight);
    struct frame *f = mem_alloc(size + text);
    if (!f)
        return NULL;
    *f = (struct frame){.pipe = p, .left = 1, .bytes = (int64_t)(size + text)};
    atomic_fetch_add(&p->service->flights.bytes, f->bytes);
    *texts = (uint8_t *)&f->flights[n];
    return f;
}

static void keep(struct bytes *view, uint8_t **texts) {
    if (!view->n)
        return;
    memcpy(*texts, view->p, view->n);
    view->p = *texts;
    *texts += view->n;
}

/* 0 = *x is to be mailed, 1 = refused and *err says why. */
static int read_operation(struct pipe *p, const struct operation_reader *o, const Txmsg__V1__TaggedOperation *q,
                          struct flight *x, struct rpc_error *err) {
    static const Txmsg__V1__Operation nothing = TXMSG__V1__OPERATION__INIT;
    if (by_tag(p, q->tag))
        return codec_refuse(o->arena, err, RPC_INVALID_ARGUMENT, "INVALID_FIELD", "tag",
                            "is that of an operation that is not answered yet");
    *x = (struct flight){.tag = q->tag, .item = {.done = on_done}};
    int r = operation_any(o, q->operation ? q->operation : &nothing, &x->item.op, err);
    if (r == 0)
        return 0;
    operation_drop(&x->item.op);
    if (r < 0)
        *err = (struct rpc_error){.code = RPC_RESOURCE_EXHAUSTED,
                                  .reason = "OVERLOADED",
                                  .message = "out of memory for this operation; nothing was stored",
                                  .retry_after_ms = 200};
    return 1;
}

static void beyond_credit(struct rpc_error *err) {
    *err = (struct rpc_error){.code = RPC_RESOURCE_EXHAUSTED,
                              .reason = "OVERLOADED",
                              .message = "more operations than there was credit for; nothing was stored",
                              .retry_after_ms = 100};
}

/* A frame that is being read. */
struct reading {
    struct frame *frame;
    uint8_t *texts;         /* where the next goes */
    size_t read;            /* flights in use */
    int64_t waiting, bytes; /* read and not mailed */
    struct list to[WORKERS_MAX];
};

/* Under way from here on; those that find no room are answered at once. */
static void mail(struct pipe *p, struct reading *r) {
    struct message_service *m = p->service;
    struct list full = LIST_INIT(full);
    p->open += (size_t)r->waiting;
    r->frame->left += (size_t)r->waiting;
    r->frame->bytes += r->bytes;
    atomic_fetch_add(&m->flights.operations, r->waiting);
    atomic_fetch_add(&m->flights.bytes, r->bytes);
    for (int w = 0; w < m->workers_n; w++) {
        if (!list_empty(&r->to[w]))
            worker_put(m->workers[w], &r->to[w]);
        list_splice_tail(&full, &r->to[w]);
    }
    service_hold(m, (size_t)r->waiting);
    r->waiting = r->bytes = 0;
    LIST_FOR (e, &full)
        LIST_ENTRY(e, struct item, link)->overloaded = true;
    collect(p, &full);
}

static void take(struct pipe *p, struct reading *r, struct flight *x, uint64_t deadline) {
    keep(&x->item.op.producer, &r->texts);
    keep(&x->item.op.reason, &r->texts);
    x->frame = r->frame;
    x->item.op.deadline_ns = deadline;
    hmap_add(&p->tags, &x->by_tag, hash_bytes(&x->tag, sizeof(x->tag), 0));
    list_add_tail(&r->to[worker_index(worker_of(p->service, &x->item.op.id))], &x->item.link);
    r->read++;
    r->waiting++;
    r->bytes += x->item.op.content ? (int64_t)x->item.op.content->bytes : 0;
    r->bytes += x->item.op.bodies ? (int64_t)x->item.op.bodies->bytes : 0;
}

static void read_frame(struct pipe *p, const Txmsg__V1__PipelineRequest *q, struct reading *r) {
    struct operation_reader o;
    struct rpc_error err;
    uint64_t deadline = operation_deadline_ns(rpc_stream_deadline_ns(p->stream));
    operation_reader_open(&o, p->service, rpc_stream_arena(p->stream), p->trace);
    for (size_t i = 0; i < q->n_operations; i++) {
        struct flight *x = &r->frame->flights[r->read];
        if (p->credit == 0) {
            beyond_credit(&err);
            put_error(p, q->operations[i]->tag, &err, o.arena);
            continue;
        }
        p->credit--;
        if (read_operation(p, &o, q->operations[i], x, &err)) {
            put_error(p, q->operations[i]->tag, &err, o.arena);
            p->owed++;
            continue;
        }
        take(p, r, x, deadline);
        if (r->waiting == MAIL_MAX)
            mail(p, r);
    }
    operation_reader_close(&o);
}

static void on_message(struct rpc_stream *s, const ProtobufCMessage *message) {
    const Txmsg__V1__PipelineRequest *q = (const Txmsg__V1__PipelineRequest *)message;
    struct pipe *p = rpc_stream_data(s);
    struct message_service *m = p->service;
    struct arena *a = rpc_stream_arena(s);
    struct reading r = {.read = 0};
    struct rpc_error err;
    if (operation_check_count(q->n_operations, a, &err)) {
        rpc_stream_fail(s, &err);
        return;
    }
    r.frame = frame_new(p, q, &r.texts);
    if (!r.frame) {
        rpc_stream_fail(s, &no_memory);
        return;
    }
    for (int w = 0; w < m->workers_n; w++)
        list_init(&r.to[w]);
    if (!p->held) /* until turn() knows better */
        rpc_stream_hold(s);
    p->held = true;
    read_frame(p, q, &r);
    mail(p, &r);
    flights_end(m, 0, frame_drop(r.frame));
    turn(p);
}

/* --- life --- */

static struct pipe *pipe_new(struct message_service *m, struct rpc_stream *s) {
    struct pipe *p = mem_zalloc(sizeof(*p) + (size_t)m->workers_n * sizeof(p->boxes[0]));
    const char *parent = rpc_stream_metadata(s, "traceparent");
    const char *trace =
        operation_trace(parent, parent ? rpc_stream_metadata(s, "tracestate") : NULL, rpc_stream_arena(s));
    if (!p || hmap_init(&p->tags, 64) < 0 || (trace && !(p->trace = mem_strdup(trace)))) {
        if (p)
            hmap_deinit(&p->tags);
        mem_free(p);
        return NULL;
    }
    p->service = m;
    p->stream = s;
    p->owed = m->o.pipeline_operations;
    buf_init(&p->out, OUT_MAX);
    list_init(&p->waiting);
    list_init(&p->done);
    pthread_mutex_init(&p->lock, NULL);
    for (int w = 0; w < m->workers_n; w++) {
        p->boxes[w] = (struct pipe_outbox){.box = {.flush = outbox_flush}, .pipe = p};
        list_init(&p->boxes[w].box.link);
        list_init(&p->boxes[w].box.items);
    }
    return p;
}

static void on_opened(struct rpc_stream *s) {
    struct pipe *p = pipe_new(rpc_stream_user(s), s);
    if (!p) {
        rpc_stream_fail(s, &service_no_memory);
        return;
    }
    rpc_stream_set_data(s, p);
    turn(p); /* the first credit */
}

static void on_sendable(struct rpc_stream *s) {
    struct pipe *p = rpc_stream_data(s);
    if (p)
        turn(p);
}

static void on_closed(struct rpc_stream *s) {
    struct pipe *p = rpc_stream_data(s);
    if (!p)
        return;
    p->closed = true;
    flights_leave(p);
    buf_deinit(&p->out);
    turn(p);
    if (!p->open) {
        rpc_stream_set_data(s, NULL);
        pipe_free(p);
    }
}

struct rpc_stream_method pipeline_method(struct message_service *m) {
    return (struct rpc_stream_method){
        .path = "/txmsg.v1.MessageService/Pipeline",
        .request = &txmsg__v1__pipeline_request__descriptor,
        .max = (int)m->o.pipeline_streams,
        .user = m,
        .opened = on_opened,
        .message = on_message,
        .sendable = on_sendable,
        .signalled = on_signalled,
        .closed = on_closed,
    };
}
