/*
 * A worker's end of the message service: takes operations from the mailbox into the lane, queries to the reader.
 *
 * Calls are handed back with rpc_call_finish(); the rpc threads are woken once per turn of the loop, from a prepare handle: it runs after
 * every callback of the turn and before the loop sleeps, so all answers of a group commit share one wake.
 */
#include "message/message_private.h"

struct message_worker {
    struct message_service *service;
    struct loop *loop;
    struct reader *reader;
    struct lane *lane;
    int index;
    struct mailbox *items, *queries;
    struct list outboxes; /* with something in them */
    uv_prepare_t *prepare;
    bool wake;
};

static void op_done(struct lane_op *op) {
    struct item *i = CONTAINER_OF(op, struct item, op);
    i->worker->wake = true;
    i->done(i);
}

void outbox_put(struct outbox *o, struct item *i) {
    if (list_empty(&o->items))
        list_add_tail(&i->worker->outboxes, &o->link);
    list_add_tail(&o->items, &i->link);
}

int worker_index(const struct message_worker *w) {
    return w->index;
}

struct message_worker *worker_of(const struct message_service *m, const struct uuid *id) {
    return m->workers[(uuid_hash(id) >> 32) % (unsigned)m->workers_n];
}

void item_overloaded(struct rpc_error *err) {
    *err = (struct rpc_error){.code = RPC_RESOURCE_EXHAUSTED,
                              .reason = "OVERLOADED",
                              .message = "too many operations are waiting; nothing was stored",
                              .retry_after_ms = 100};
}

static void receive_items(void *arg, struct list *items) {
    struct message_worker *w = arg;
    for (struct list *e; (e = list_pop(items));) {
        struct item *i = LIST_ENTRY(e, struct item, link);
        i->worker = w;
        i->op.done = op_done;
        if (!w->lane) {
            i->op.outcome = OP_SHUTDOWN;
            op_done(&i->op);
        } else if (lane_submit(w->lane, &i->op)) {
            i->overloaded = true;
            op_done(&i->op);
        }
    }
    if (w->lane)
        lane_kick(w->lane, 0);
}

static void receive_queries(void *arg, struct list *items) {
    struct message_worker *w = arg;
    for (struct list *e; (e = list_pop(items));)
        query_run(e, w->reader, w);
}

static void hand_back(struct message_worker *w) {
    struct list *e;
    if (!w->wake)
        return;
    w->wake = false;
    while ((e = list_pop(&w->outboxes))) {
        struct outbox *o = LIST_ENTRY(e, struct outbox, link);
        o->flush(o); /* it may be gone afterwards */
    }
    rpc_wake(w->service->rpc);
}

static void on_prepare(uv_prepare_t *h) {
    hand_back(h->data);
}

static void prepare_closed(uv_handle_t *h) {
    mem_free(h);
}

int message_worker_new(struct message_service *m, int index, struct loop *l, struct reader *r,
                       struct message_worker **ret) {
    struct message_worker *w = mem_zalloc(sizeof(*w));
    if (!w)
        return -ENOMEM;
    *w = (struct message_worker){.service = m, .loop = l, .reader = r, .index = index};
    list_init(&w->outboxes);
    int e = mailbox_new(l, (size_t)m->o.mailbox, receive_items, w, &w->items);
    if (e == 0)
        e = mailbox_new(l, (size_t)m->o.queries, receive_queries, w, &w->queries);
    if (e == 0 && index == 0)
        e = watches_attach(m->watches, l, r);
    if (e == 0 && !(w->prepare = mem_zalloc(sizeof(*w->prepare))))
        e = -ENOMEM;
    if (e < 0) {
        message_worker_free(w);
        return e;
    }
    uv_prepare_init(loop_uv(l), w->prepare);
    w->prepare->data = w;
    uv_prepare_start(w->prepare, on_prepare);
    m->workers[index] = w;
    *ret = w;
    return 0;
}

void message_worker_lane(struct message_worker *w, struct lane *lane) {
    w->lane = lane;
}

void message_worker_close(struct message_worker *w) {
    mailbox_close(w->items);
    mailbox_close(w->queries);
}

void message_worker_free(struct message_worker *w) {
    if (!w)
        return;
    if (w->index == 0)
        watches_detach(w->service->watches);
    if (w->prepare) {
        hand_back(w);
        uv_close((uv_handle_t *)w->prepare, prepare_closed);
    }
    if (w->items)
        mailbox_free(w->items);
    if (w->queries)
        mailbox_free(w->queries);
    mem_free(w);
}

void worker_put(struct message_worker *w, struct list *items) {
    mailbox_put_all(w->items, items);
}

void worker_flush(struct message_worker *w) {
    mailbox_wake(w->items);
}

int worker_query(struct message_worker *w, struct list *query) {
    return mailbox_send(w->queries, query);
}

void worker_wake(struct message_worker *w) {
    w->wake = true;
}
