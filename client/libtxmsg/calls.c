/* The functions of client.h: what they are given is judged here, and nowhere below. */
#include "txmsg/client.h"

#include "calls.h"
#include "checks.h"
#include "engine.h"
#include "handle.h"
#include "listener.h"
#include "base/uuid.h"
#include "message.h"

enum { MESSAGES_MAX = 4096 };

/* Callbacks of dispatching come on a thread of the application's, where one more dispatch or a free would pull the ground away. */
static _Thread_local int dispatching;

/* --- life --- */

int txmsg_client_new(const txmsg_options *options, txmsg_client **client) {
    struct client *c = NULL;
    txmsg_client *h;
    int e;

    if (!client || !options_valid(options) || !options->producer || (options->check_address && !options->listener))
        return TXMSG_ERROR_INVALID;
    h = handle_new();
    if (!h)
        return TXMSG_ERROR_MEMORY;
    e = client_make(options, &c);
    if (e) {
        handle_free(h);
        return e;
    }
    handle_give(h, c);
    *client = h;
    return TXMSG_OK;
}

int txmsg_client_free(txmsg_client *client) {
    struct client *c;
    int e;

    if (!client)
        return TXMSG_OK;
    if (client_on_engine() || dispatching || listener_calls())
        return TXMSG_ERROR_CALLBACK;
    e = handle_close(client, &c);
    if (e == TXMSG_ERROR_FORKED)
        return TXMSG_OK; /* the threads and sockets are the parent's */
    if (e)
        return e;
    client_close(c);
    handle_drained(client);
    client_destroy(c);
    handle_free(client);
    return TXMSG_OK;
}

int txmsg_client_flush(txmsg_client *client, int64_t timeout_ms) {
    struct client *c;
    int e;

    if (timeout_ms < 0 || timeout_ms > TIMEOUT_MAX_MS)
        return TXMSG_ERROR_INVALID;
    if (client_on_engine())
        return TXMSG_ERROR_CALLBACK;
    e = handle_enter(client, &c);
    if (e)
        return e;
    e = client_flush(c, timeout_ms);
    handle_leave(client);
    return e;
}

int64_t txmsg_client_in_flight(txmsg_client *client) {
    struct client *c;
    int64_t n = handle_enter(client, &c);

    if (n)
        return n;
    pthread_mutex_lock(&c->lock);
    n = c->live;
    pthread_mutex_unlock(&c->lock);
    handle_leave(client);
    return n;
}

/* --- operations --- */

static bool messages_ok(const struct call *call) {
    if (call->kind != OP_PREPARE && call->kind != OP_PUBLISH)
        return true;
    if (!call->messages || call->n == 0 || call->n > MESSAGES_MAX)
        return false;
    for (size_t i = 0; i < call->n; i++)
        if (!message_valid(call->messages[i]))
            return false;
    return true;
}

/* As txmsg_id_parse(), without making anything of it. The loop has no branches, so that a compiler does many places at once. */
static bool is_v7(const txmsg_id *id) {
    static const uint8_t hex_places[UUID_TEXT - 1] = {
        [0 ... 7] = 1, [9 ... 12] = 1, [14 ... 17] = 1, [19 ... 22] = 1, [24 ... 35] = 1};
    const char *text = id->text;
    uint8_t wrong = 0;

    for (size_t i = 0; i < UUID_TEXT - 1; i++) {
        uint8_t digit = (uint8_t)(text[i] - '0'), letter = (uint8_t)(text[i] - 'a');
        wrong |= (uint8_t)((digit < 10) | (letter < 6)) ^ hex_places[i];
    }
    return !wrong && text[8] == '-' && text[13] == '-' && text[18] == '-' && text[23] == '-' && text[14] == '7' &&
           (text[19] == '8' || text[19] == '9' || text[19] == 'a' || text[19] == 'b') && !text[UUID_TEXT - 1];
}

/* The client makes ids of new transactions; those of others are to be given. */
static bool id_ok(const struct call *call) {
    if (!call->id)
        return false;
    if (!call->id->text[0])
        return call->new_id && txmsg_id_make(call->new_id) == TXMSG_OK;
    return is_v7(call->id);
}

int call_op(struct client *c, const struct call *call, struct op **ret) {
    if ((call->options && !call_options_valid(call->options)) || !messages_ok(call) || !id_ok(call))
        return TXMSG_ERROR_INVALID;
    return op_new(c, call, ret);
}

static int wait_for(struct client *c, struct op *op, txmsg_result *result) {
    struct waiter waiter = {.changed = PTHREAD_COND_INITIALIZER};
    int e;

    op->waiter = &waiter;
    if (client_submit(c, &op, 1, &e)) {
        client_wait(c, &waiter);
        e = op->result.status;
        if (result)
            result_move(result, &op->result);
    }
    op_free(c, op);
    pthread_cond_destroy(&waiter.changed);
    return e;
}

int call_run(txmsg_client *client, const struct call *call, txmsg_result *result) {
    struct client *c;
    struct op *op;
    int e;

    if (result && !result_valid(result))
        return TXMSG_ERROR_INVALID;
    e = client_on_engine() ? TXMSG_ERROR_CALLBACK : handle_enter(client, &c);
    if (result)
        result_reset(result);
    if (!e) {
        e = call_op(c, call, &op);
        if (!e)
            e = wait_for(c, op, result);
        handle_leave(client);
    }
    if (result)
        result->status = e;
    return e;
}

int call_begin(txmsg_client *client, const struct call *call, txmsg_done_fn done, void *arg) {
    struct client *c;
    struct op *op;
    int e;

    if (!done)
        return TXMSG_ERROR_INVALID;
    e = handle_enter(client, &c);
    if (e)
        return e;
    e = call_op(c, call, &op);
    if (!e) {
        op->done = done;
        op->arg = arg;
        e = client_begin(c, op);
        if (e)
            op_free(c, op);
    }
    handle_leave(client);
    return e;
}

int txmsg_prepare(txmsg_client *client, txmsg_id *id, const txmsg_message *const *messages, size_t n,
                  const txmsg_call_options *options, txmsg_result *result) {
    return call_run(client, &(struct call){OP_PREPARE, id, id, messages, n, options}, result);
}

int txmsg_confirm(txmsg_client *client, const txmsg_id *id, const txmsg_call_options *options, txmsg_result *result) {
    return call_run(client, &(struct call){.kind = OP_CONFIRM, .id = id, .options = options}, result);
}

int txmsg_cancel(txmsg_client *client, const txmsg_id *id, const txmsg_call_options *options, txmsg_result *result) {
    return call_run(client, &(struct call){.kind = OP_CANCEL, .id = id, .options = options}, result);
}

int txmsg_publish(txmsg_client *client, txmsg_id *id, const txmsg_message *const *messages, size_t n,
                  const txmsg_call_options *options, txmsg_result *result) {
    return call_run(client, &(struct call){OP_PUBLISH, id, id, messages, n, options}, result);
}

int txmsg_prepare_async(txmsg_client *client, txmsg_id *id, const txmsg_message *const *messages, size_t n,
                        const txmsg_call_options *options, txmsg_done_fn done, void *arg) {
    return call_begin(client, &(struct call){OP_PREPARE, id, id, messages, n, options}, done, arg);
}

int txmsg_confirm_async(txmsg_client *client, const txmsg_id *id, const txmsg_call_options *options, txmsg_done_fn done,
                        void *arg) {
    return call_begin(client, &(struct call){.kind = OP_CONFIRM, .id = id, .options = options}, done, arg);
}

int txmsg_cancel_async(txmsg_client *client, const txmsg_id *id, const txmsg_call_options *options, txmsg_done_fn done,
                       void *arg) {
    return call_begin(client, &(struct call){.kind = OP_CANCEL, .id = id, .options = options}, done, arg);
}

int txmsg_publish_async(txmsg_client *client, txmsg_id *id, const txmsg_message *const *messages, size_t n,
                        const txmsg_call_options *options, txmsg_done_fn done, void *arg) {
    return call_begin(client, &(struct call){OP_PUBLISH, id, id, messages, n, options}, done, arg);
}

int txmsg_client_check_port(txmsg_client *client) {
    struct client *c;
    int port = handle_enter(client, &c);

    if (port)
        return port;
    port = checks_port(c->checks);
    handle_leave(client);
    return port;
}

/* --- joining an event loop --- */

int txmsg_client_fd(txmsg_client *client) {
    struct client *c;
    int fd = handle_enter(client, &c);

    if (fd)
        return fd;
    fd = c->fd >= 0 ? c->fd : TXMSG_ERROR_INVALID;
    handle_leave(client);
    return fd;
}

int txmsg_client_dispatch(txmsg_client *client, int max) {
    struct client *c;
    int n;

    if (max < 0)
        return TXMSG_ERROR_INVALID;
    if (client_on_engine() || dispatching)
        return TXMSG_ERROR_CALLBACK;
    n = handle_enter(client, &c);
    if (n)
        return n;
    dispatching++;
    n = c->fd >= 0 ? client_dispatch(c, max) : TXMSG_ERROR_INVALID;
    dispatching--;
    handle_leave(client);
    return n;
}
