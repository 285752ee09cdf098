/*
 * Prepare, run, decide. Nothing of the library is held while the executor runs: no lock, no memory, no use of the handle. So it may be left by
 * longjmp().
 */
#include "txmsg/transaction.h"

#include "calls.h"
#include "result.h"
#include "rpc/rpc.h"

enum { CANCEL_MS = 30000 };

static void ignore(void *arg, const txmsg_result *result) {
    (void)arg;
    (void)result;
}

/* Nobody knows whether it was prepared, and nothing was done for it: closed behind the caller's back, or else by the check. */
static void close_behind(txmsg_client *client, const txmsg_id *id) {
    txmsg_call_options *o = txmsg_call_options_new();

    (void)txmsg_call_options_set_timeout_ms(o, CANCEL_MS);
    (void)txmsg_call_options_set_reason(o, "not executed: the answer to Prepare was lost");
    (void)txmsg_cancel_async(client, id, o, ignore, NULL); /* without options just as well */
    txmsg_call_options_free(o);
}

/* OK, but decided already: a check was answered before anything was executed, or the id was used before. */
static int decided_before(int state, txmsg_result *result) {
    if (result) {
        result_error(result, RPC_FAILED_PRECONDITION, "DECIDED_OTHERWISE",
                     state == TXMSG_STATE_CANCELLED ? "it was cancelled before it was executed"
                                                    : "a transaction of this id is decided already");
        result->status = TXMSG_REFUSED;
    }
    return TXMSG_REFUSED;
}

static int prepare(txmsg_client *client, const struct call *call, txmsg_result *result) {
    txmsg_result own;
    int status, state;

    result_init(&own);
    status = call_run(client, call, &own);
    state = own.state;
    if (result)
        result_move(result, &own);
    result_deinit(&own);
    if (status == TXMSG_UNKNOWN)
        close_behind(client, call->id);
    if (status == TXMSG_OK && state != TXMSG_STATE_PREPARED)
        status = decided_before(state, result);
    return status;
}

/* What was not stored now is settled by the check: nothing but a verdict of the service is one. */
static int decide(txmsg_client *client, const txmsg_id *id, enum txmsg_decision decision,
                  const txmsg_call_options *options, txmsg_result *result) {
    enum op_kind kind = decision == TXMSG_COMMITTED ? OP_CONFIRM : OP_CANCEL;
    int status = TXMSG_UNKNOWN;

    if (decision == TXMSG_COMMITTED || decision == TXMSG_ROLLED_BACK)
        status = call_run(client, &(struct call){.kind = kind, .id = id, .options = options}, result);
    if (status != TXMSG_OK && status != TXMSG_REFUSED)
        status = TXMSG_UNKNOWN;
    if (result) {
        result->id = *id;
        result->status = status;
        result->executed = true;
    }
    return status;
}

int txmsg_send_in_transaction(txmsg_client *client, txmsg_id *id, const txmsg_message *const *messages, size_t n,
                              txmsg_executor_fn executor, void *arg, const txmsg_call_options *options,
                              txmsg_result *result) {
    txmsg_id own;
    int status;

    if (!executor || !id || (result && !result_valid(result)))
        return TXMSG_ERROR_INVALID;
    if (call_options_valid(options) && options->bodies.n > 0)
        return TXMSG_ERROR_INVALID; /* those of another transaction: the executor is to bring its own */
    status = prepare(client, &(struct call){OP_PREPARE, id, id, messages, n, options}, result);
    if (status != TXMSG_OK)
        return status;
    own = *id; /* the executor may do with its caller's what it likes */
    return decide(client, &own, executor(arg, &own), options, result);
}
