/*
 * Many operations at once. Each goes its own way through the engine, from the same moment, so they fill the same frames. What follows another one of its
 * id waits for the next turn: a repeat of the first would otherwise come behind it.
 */
#include "txmsg/batch.h"

#include "base/list.h"
#include "calls.h"
#include "engine.h"
#include "handle.h"
#include "rpc/rpc.h"

enum { OPERATIONS_MAX = 1000 };

struct item {
    struct hnode node; /* by id */
    struct op *op;
    int turn;
};
struct batch {
    struct item *items;
    size_t n;
    struct hmap ids;
    struct op **turn; /* those of one turn */
    int turns;
};

static void batch_deinit(struct client *c, struct batch *b) {
    for (size_t i = 0; b->items && i < b->n; i++)
        op_free(c, b->items[i].op);
    hmap_deinit(&b->ids);
    mem_free(b->items);
    mem_free(b->turn);
}

/* In the turn after that of the last one of its id. */
static void set_turn(struct batch *b, struct item *item) {
    uint64_t hash = item->op->hash;

    for (struct hnode *h = hmap_first(&b->ids, hash); h; h = hmap_next(h, hash)) {
        const struct item *other = CONTAINER_OF(h, struct item, node);
        if (strcmp(other->op->result.id.text, item->op->result.id.text) == 0)
            item->turn = MAX(item->turn, other->turn + 1);
    }
    hmap_add(&b->ids, &item->node, hash);
    b->turns = MAX(b->turns, item->turn + 1);
}

static int make_all(struct client *c, const txmsg_operation *operations, size_t n, struct batch *b) {
    size_t bytes = 0;

    b->items = mem_calloc(n, sizeof(*b->items));
    b->turn = mem_calloc(n, sizeof(*b->turn));
    if (hmap_init(&b->ids, n) < 0 || !b->items || !b->turn)
        return TXMSG_ERROR_MEMORY;
    for (; b->n < n; b->n++) {
        const txmsg_operation *o = &operations[b->n];
        bool makes_id = o->kind == TXMSG_PREPARE || o->kind == TXMSG_PUBLISH;
        int e = o->kind >= TXMSG_PREPARE && o->kind <= TXMSG_PUBLISH ? TXMSG_OK : TXMSG_ERROR_INVALID;

        if (!e)
            e = call_op(
                c, &(struct call){(enum op_kind)o->kind, o->id, makes_id ? o->id : NULL, o->messages, o->n, o->options},
                &b->items[b->n].op);
        if (e)
            return e;
        bytes += b->items[b->n].op->n;
        set_turn(b, &b->items[b->n]);
    }
    return bytes <= MESSAGE_BYTES_MAX ? TXMSG_OK : TXMSG_ERROR_INVALID;
}

static void run_turn(struct client *c, struct batch *b, int turn) {
    struct waiter waiter = {.changed = PTHREAD_COND_INITIALIZER};
    size_t n = 0, entered;
    int e;

    for (size_t i = 0; i < b->n; i++) {
        if (b->items[i].turn != turn)
            continue;
        b->items[i].op->waiter = &waiter;
        b->turn[n++] = b->items[i].op;
    }
    entered = client_submit(c, b->turn, n, &e);
    client_wait(c, &waiter);
    for (; entered < n; entered++) {
        txmsg_result *r = &b->turn[entered]->result;
        result_error(r, RPC_UNAVAILABLE, "",
                     e == TXMSG_ERROR_CLOSED ? "the client was freed" : "no room in flight within the deadline");
        r->status = TXMSG_UNAVAILABLE;
    }
    pthread_cond_destroy(&waiter.changed);
}

/* What they came to: the highest of their statuses. */
static int give_results(struct batch *b, txmsg_result *const *results) {
    int status = TXMSG_OK;

    for (size_t i = 0; i < b->n; i++) {
        txmsg_result *r = &b->items[i].op->result;
        status = MAX(status, r->status);
        if (results && results[i])
            result_move(results[i], r);
    }
    return status;
}

static int run(struct client *c, const txmsg_operation *operations, size_t n, txmsg_result *const *results) {
    struct batch b = {0};
    int status = make_all(c, operations, n, &b);

    if (!status) {
        for (int turn = 0; turn < b.turns; turn++)
            run_turn(c, &b, turn);
        status = give_results(&b, results);
    }
    batch_deinit(c, &b);
    return status;
}

int txmsg_batch(txmsg_client *client, const txmsg_operation *operations, size_t n, txmsg_result *const *results) {
    struct client *c;
    int e;

    if (!operations || n == 0 || n > OPERATIONS_MAX)
        return TXMSG_ERROR_INVALID;
    for (size_t i = 0; results && i < n; i++)
        if (results[i] && !result_valid(results[i]))
            return TXMSG_ERROR_INVALID;
    e = client_on_engine() ? TXMSG_ERROR_CALLBACK : handle_enter(client, &c);
    if (!e) {
        e = run(c, operations, n, results);
        handle_leave(client);
    }
    for (size_t i = 0; e < 0 && results && i < n; i++) {
        if (!results[i])
            continue;
        result_reset(results[i]);
        results[i]->status = e;
    }
    return e;
}
