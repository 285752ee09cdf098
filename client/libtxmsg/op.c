/* The life of an operation: into the slots, to a stream, repeated or ended. Under the lock but for op_new() and op_free(). */
#include "engine.h"

#include "base/uuid.h"
#include "core/retry.h"
#include "rpc/rpc.h"

enum { FIELDS_MAX = 128 << 10 };

/*
 * Memory of an operation is used again where one follows another in a callback: those of a frame end together and begin together, which is more than
 * malloc() keeps at hand. Not with the address sanitizer: it would find nothing.
 */
#ifdef __SANITIZE_ADDRESS__
enum { SPARE_MAX = 0 };
#else
enum { SPARE_MAX = 512 };
#endif
static const size_t blocks[SPARE_SIZES] = {1024, 2048}; /* for one without a body, and for a body of a usual size */

/* SPARE_SIZES: of no such size. */
static size_t block_of(size_t size) {
    size_t i = 0;

    while (i < SPARE_SIZES && size > blocks[i])
        i++;
    return i;
}

static struct op *take_memory(struct client *c, size_t size) {
    size_t block = block_of(size);
    struct op *op;

    if (block < SPARE_SIZES && client_is_engine(c) && !list_empty(&c->spare[block].list)) {
        op = LIST_ENTRY(list_pop(&c->spare[block].list), struct op, link);
        c->spare[block].n--;
    } else {
        op = mem_alloc(block < SPARE_SIZES ? blocks[block] : size);
        if (!op)
            return NULL;
    }
    op->block = block;
    return op;
}

static void give_memory(struct client *c, struct op *op) {
    if (op->block == SPARE_SIZES || !client_is_engine(c) || c->spare[op->block].n >= SPARE_MAX) {
        mem_free(op);
        return;
    }
    list_add_head(&c->spare[op->block].list, &op->link);
    c->spare[op->block].n++;
}

static void encode(struct op *op, const struct call *call, struct bytes producer, uint8_t *end) {
    op->request = encode_request(call, producer, end);
    op->n = (size_t)(end - op->request);
    op->operation = encode_operation(call->kind, op->n, op->request);
}

int op_new(struct client *c, const struct call *call, struct op **ret) {
    struct bytes producer = bytes_of(c->o->producer, c->o->producer_n);
    int64_t timeout_ms = call->options ? call->options->timeout_ms : 0;
    size_t fields, bound = encode_bound(call, producer, &fields) + ENCODE_OPERATION_MAX;
    struct op *op;

    if (bound > MESSAGE_BYTES_MAX || fields > FIELDS_MAX)
        return TXMSG_ERROR_INVALID;
    op = take_memory(c, sizeof(*op) + bound);
    if (!op)
        return TXMSG_ERROR_MEMORY;
    list_init(&op->link);
    op->route = NULL;
    op->place = OP_WAITING;
    op->kind = call->kind;
    op->alone = call->kind == OP_GET;
    op->maybe = false;
    op->tries = 0;
    op->tag = 0;
    op->fields = fields;
    op->waiter = NULL;
    op->done = NULL;
    op->arg = NULL;
    memcpy(&op->hash, call->id->text + UUID_TEXT - 1 - sizeof(op->hash), sizeof(op->hash)); /* its end is random */
    result_init(&op->result);
    op->result.id = *call->id;
    encode(op, call, producer, op->bytes + bound);
    op->due_ns = client_now_ns(c);
    op->deadline_ns = op->due_ns + (uint64_t)(timeout_ms ? timeout_ms : c->o->timeout_ms) * NS_PER_MS;
    *ret = op;
    return TXMSG_OK;
}

void op_free(struct client *c, struct op *op) {
    if (!op)
        return;
    result_deinit(&op->result);
    give_memory(c, op);
}

/* --- where to --- */

static struct route *choose(struct client *c, const struct op *op) {
    size_t n = 0, at;

    if (c->routes_n == 1)
        return route_takes(&c->routes[0]) ? &c->routes[0] : NULL;
    for (size_t i = 0; i < c->routes_n; i++)
        n += route_takes(&c->routes[i]);
    if (n == 0)
        return NULL;
    at = (size_t)((op->hash + (uint64_t)op->tries) % n);
    for (size_t i = 0; i < c->routes_n; i++)
        if (route_takes(&c->routes[i]) && at-- == 0)
            return &c->routes[i];
    UNREACHABLE();
}

static void leave_place(struct op *op) {
    if (op->place == OP_SENT)
        op->route->sent--;
    else
        list_del(&op->link);
}

void op_route(struct client *c, struct op *op, uint64_t now) {
    struct route *r;

    leave_place(op);
    if (op->alone || c->unary) {
        single_start(c, op, now);
        return;
    }
    r = choose(c, op);
    if (r) {
        route_take(r, op);
        return;
    }
    op->place = OP_WAITING;
    list_add_tail(&c->waiting, &op->link);
}

void client_reroute(struct client *c, struct list *ops, uint64_t now) {
    struct list moving = LIST_INIT(moving);

    list_splice_tail(&moving, ops);
    while (!list_empty(&moving))
        op_route(c, LIST_ENTRY(moving.next, struct op, link), now);
}

/* --- how it ends --- */

static void finish(struct client *c, struct op *op, int status) {
    leave_place(op);
    c->slots[op->tag & c->slot_mask] = NULL;
    c->free_slots[c->free_n++] = (uint32_t)(op->tag & c->slot_mask);
    op->place = OP_FINISHED;
    op->result.status = status;
    op->result.attempts = op->tries;
    if (op->waiter) {
        client_left(c, op);
        if (--op->waiter->open == 0)
            pthread_cond_signal(&op->waiter->changed);
    } else {
        list_add_tail(&c->finished, &op->link);
    }
}

static void failed(struct client *c, struct op *op, enum outcome o, uint64_t now) {
    static const struct backoff pause = {.initial_ms = 50, .max_ms = 2000, .factor = 2, .jitter = 0.5};
    txmsg_result *r = &op->result;
    int64_t delay_ms;

    if (o == OUTCOME_REFUSED) {
        finish(c, op, op->maybe && !outcome_settles(r->code, r->reason) ? TXMSG_UNKNOWN : TXMSG_REFUSED);
        return;
    }
    op->maybe |= o == OUTCOME_UNKNOWN && op->kind != OP_GET;
    delay_ms = MAX(backoff_delay_ms(&pause, op->tries, backoff_random()), r->retry_after_ms);
    op->due_ns = now + (uint64_t)delay_ms * NS_PER_MS;
    if (op->due_ns >= op->deadline_ns || c->closing) {
        finish(c, op, op->maybe ? TXMSG_UNKNOWN : TXMSG_UNAVAILABLE);
        return;
    }
    leave_place(op);
    op->place = OP_DELAYED;
    list_add_tail(&c->delayed, &op->link);
}

void op_attempted(struct client *c, struct op *op, enum outcome o, uint64_t now) {
    if (o == OUTCOME_DONE)
        finish(c, op, TXMSG_OK);
    else
        failed(c, op, o, now);
}

/* Its time is over, or that of the client. What an earlier attempt was told says more than that. */
void op_expire(struct client *c, struct op *op) {
    txmsg_result *r = &op->result;

    op->maybe |= (op->place == OP_SENT || op->place == OP_CALLING) && op->kind != OP_GET;
    if (c->closing)
        result_error(r, RPC_CANCELLED, "CLIENT_CLOSED", "the client was freed");
    else if (op->tries == 0)
        result_error(r, RPC_UNAVAILABLE, "", c->last_error[0] ? c->last_error : "no connection within the deadline");
    else if (r->code == RPC_OK)
        result_error(r, RPC_DEADLINE_EXCEEDED, "", "no answer within the deadline");
    finish(c, op, op->maybe ? TXMSG_UNKNOWN : TXMSG_UNAVAILABLE);
}

/* Gives deadlines and repeats their due. */
void client_tick(struct client *c, uint64_t now) {
    if (now >= c->earliest_ns) {
        c->earliest_ns = UINT64_MAX;
        for (size_t i = 0; i <= c->slot_mask; i++) {
            struct op *op = c->slots[i];

            if (op && now >= op->deadline_ns)
                op_expire(c, op);
            else if (op)
                c->earliest_ns = MIN(c->earliest_ns, op->deadline_ns);
        }
    }
    LIST_FOR_SAFE (e, &c->delayed) {
        struct op *op = LIST_ENTRY(e, struct op, link);

        if (now >= op->due_ns)
            op_route(c, op, now);
    }
    for (size_t i = 0; i < c->routes_n; i++)
        route_watch(&c->routes[i], now);
}
