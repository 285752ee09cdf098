/*
 * A batch is out from rpc_caller_call() until its function runs on the loop; in between it belongs to the caller's
 * thread, which reads the answers into it and posts it back. It holds no check by itself: when the asker goes first, it
 * finds that it has none any more.
 *
 * Answers are matched by id. One that is missing, comes twice or is not well formed is no answer of that transaction
 * alone; an error of the call is none of all. UNIMPLEMENTED says that the application has only Check: that is
 * remembered for its endpoint until the configuration changes, and its checks are asked again one by one, at once.
 */
#include "checkback/batch.h"

#include "rpc/caller.h"

#include "txmsg/v1/check_service.pb-c.h"

enum { BATCH_MAX = 100 };

struct batch {
    struct list link; /* of asker->batches */
    struct loop *loop;
    struct asker *asker; /* NULL: it is gone */
    bool single;         /* asked by Check */
    int endpoint;
    size_t n;
    struct check *checks[BATCH_MAX];
    struct uuid ids[BATCH_MAX];
    struct answer answers[BATCH_MAX];
    bool found[BATCH_MAX], unimplemented;
};

static bool is_single(const struct producer *of, const struct check *c) {
    return of->policy == c->policy && (of->single >> c->endpoint & 1);
}

/* --- on the loop --- */

static void back(struct batch *b, size_t i) {
    struct check *c = b->checks[i];

    if (b->unimplemented)
        check_call_again(c);
    else
        check_called(c, &b->answers[i]);
}

static void on_back(void *arg) {
    struct batch *b = arg;
    struct asker *a = b->asker;

    list_del(&b->link);
    if (!a) {
        for (size_t i = 0; i < b->n; i++)
            answer_end(&b->answers[i]);
        mem_free(b);
        return;
    }
    if (b->unimplemented && b->checks[0]->producer->policy == b->checks[0]->policy)
        b->checks[0]->producer->single |= 1u << b->endpoint;
    for (size_t i = 0; i < b->n; i++)
        back(b, i);
    mem_free(b);
    asker_send(a);
}

/* --- on the caller's thread --- */

static void no_answers(struct batch *b, const char *why) {
    for (size_t i = 0; i < b->n; i++) {
        b->answers[i].verdict = ANSWER_UNREACHABLE;
        snprintf(b->answers[i].why, sizeof(b->answers[i].why), "%s", why);
    }
}

static void read_one(struct batch *b, const Txmsg__V1__CheckResponse *m) {
    struct uuid id;

    if (!m || uuid_parse(bytes_str(m->transaction_id), &id) < 0)
        return;
    for (size_t i = 0; i < b->n; i++) {
        if (!uuid_eq(&id, &b->ids[i]))
            continue;
        if (b->found[i]) {
            answer_refuse(&b->answers[i], "two answers for one transaction");
        } else {
            answer_message(m, &b->ids[i], &b->answers[i]);
        }
        b->found[i] = true;
    }
}

static void read_outcome(struct batch *b, const struct rpc_outcome *o) {
    char why[sizeof(b->answers[0].why)];

    if (o->code != RPC_OK) {
        b->unimplemented = !b->single && o->code == RPC_UNIMPLEMENTED;
        snprintf(why, sizeof(why), "gRPC %s: %s", rpc_code_name(o->code), o->message);
        no_answers(b, why);
    } else if (b->single) {
        answer_message((const Txmsg__V1__CheckResponse *)o->response, &b->ids[0], &b->answers[0]);
    } else {
        const Txmsg__V1__CheckBatchResponse *all = (const Txmsg__V1__CheckBatchResponse *)o->response;
        no_answers(b, "no answer for this transaction");
        for (size_t i = 0; i < all->n_answers; i++)
            read_one(b, all->answers[i]);
    }
}

static void on_done(void *arg, const struct rpc_outcome *o) {
    struct batch *b = arg;
    int r;

    read_outcome(b, o);
    r = loop_post(b->loop, on_back, b);
    ASSERT(r == 0); /* the caller was stopped before the loops */
}

/* --- sending --- */

static void add(struct batch *b, struct check *c) {
    b->ids[b->n] = c->tx;
    b->checks[b->n++] = c;
}

/* Takes the first that waits, and those that may go with it. */
static void gather(struct asker *a, struct batch *b) {
    struct check *first = LIST_ENTRY(a->calling.next, struct check, link);
    size_t max = is_single(first->producer, first) ? 1 : BATCH_MAX, bytes = 0;

    b->single = max == 1;
    b->endpoint = first->endpoint;
    LIST_FOR_SAFE (e, &a->calling) {
        struct check *c = LIST_ENTRY(e, struct check, link);
        if (b->n == max || bytes > 1 << 20)
            break;
        if (c->policy != first->policy || c->endpoint != first->endpoint)
            continue;
        bytes += c->content->bytes;
        add(b, c);
        list_del(&c->link);
        list_add_tail(&a->asking, &c->link);
    }
}

static int call(struct asker *a, struct batch *b) {
    const struct check *first = b->checks[0];
    Txmsg__V1__CheckRequest *requests[BATCH_MAX];
    Txmsg__V1__CheckBatchRequest batch;
    struct rpc_call_request r = {.target = first->policy->endpoints[b->endpoint] + strlen(POLICY_GRPC),
                                 .timeout_ms = first->policy->timeout_ms,
                                 .path = "/txmsg.v1.CheckService/Check",
                                 .request = &first->message->base,
                                 .response = &txmsg__v1__check_response__descriptor,
                                 .done = on_done,
                                 .arg = b};

    if (!b->single) {
        for (size_t i = 0; i < b->n; i++)
            requests[i] = b->checks[i]->message;
        txmsg__v1__check_batch_request__init(&batch);
        batch.checks = requests;
        batch.n_checks = b->n;
        r.path = "/txmsg.v1.CheckService/CheckBatch";
        r.request = &batch.base;
        r.response = &txmsg__v1__check_batch_response__descriptor;
    }
    return rpc_caller_call(a->caller, &r);
}

/* Back to `ready`, for the next tick. */
static void undo(struct asker *a, struct batch *b) {
    for (size_t i = 0; i < b->n; i++) {
        list_del(&b->checks[i]->link);
        list_add_tail(&a->ready, &b->checks[i]->link);
    }
    mem_free(b);
}

void batches_send(struct asker *a) {
    if (!a->caller) { /* none is made: the configuration of tests */
        list_splice_tail(&a->ready, &a->calling);
        return;
    }
    while (!list_empty(&a->calling)) {
        struct batch *b = mem_zalloc(sizeof(*b));
        if (!b) {
            list_splice_head(&a->ready, &a->calling);
            return;
        }
        b->loop = a->loop;
        b->asker = a;
        list_init(&b->link);
        gather(a, b);
        if (call(a, b) != 0) {
            undo(a, b);
            list_splice_head(&a->ready, &a->calling);
            return;
        }
        list_add_tail(&a->batches, &b->link);
    }
}

void batches_abandon(struct asker *a) {
    struct list *e;

    while ((e = list_pop(&a->batches)))
        LIST_ENTRY(e, struct batch, link)->asker = NULL;
    list_splice_tail(&a->asking, &a->calling);
}
