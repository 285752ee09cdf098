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
    struct mailbox *items, *queries;
    uv_prepare_t *prepare;
    bool wake;
};

static void op_done(struct lane_op *op) {
    struct item *i = CONTAINER_OF(op, struct item, op);
    i->worker->wake = true;
    request_item_done(i);
}

static void overloaded(struct item *i) {
    i->refused = true;
    i->err = (struct rpc_error){.code = RPC_RESOURCE_EXHAUSTED,
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
            overloaded(i);
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

static void on_prepare(uv_prepare_t *h) {
    struct message_worker *w = h->data;
    if (!w->wake)
        return;
    w->wake = false;
    rpc_wake(w->service->rpc);
}

static void prepare_closed(uv_handle_t *h) {
    mem_free(h);
}

int message_worker_new(struct message_service *m, int index, struct loop *l, struct reader *r,
                       struct message_worker **ret) {
    struct message_worker *w = mem_zalloc(sizeof(*w));
    if (!w)
        return -ENOMEM;
    *w = (struct message_worker){.service = m, .loop = l, .reader = r};
    int e = mailbox_new(l, (size_t)m->o.mailbox, receive_items, w, &w->items);
    if (e == 0)
        e = mailbox_new(l, (size_t)m->o.queries, receive_queries, w, &w->queries);
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
    if (w->prepare) {
        if (w->wake)
            rpc_wake(w->service->rpc);
        uv_close((uv_handle_t *)w->prepare, prepare_closed);
    }
    if (w->items)
        mailbox_free(w->items);
    if (w->queries)
        mailbox_free(w->queries);
    mem_free(w);
}

int worker_put(struct message_worker *w, struct item *i) {
    int r = mailbox_put(w->items, &i->link);
    if (r)
        overloaded(i);
    return r;
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
