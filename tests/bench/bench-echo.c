/*
 * bench-echo: the message service without a store. Every call is received, checked and unpacked as txmsgd does it, and
 * answered at once on the rpc thread. What txmsg-bench measures against it is what gRPC alone costs on a machine.
 *
 * It also answers checks, as the producer of what txmsg-bench --undecided leaves open: the verdict is in the id. A check of
 * a message that is to be decided by a call is answered UNKNOWN, so that a transaction decided by a check was one of those.
 *
 * bench-echo [--listen 127.0.0.1:0] [--undecided 10]; prints "listening PORT" and runs until SIGTERM or SIGINT.
 */
#include "fate.h"

#include "base/conf.h"
#include "rpc/rpc.h"
#include "txmsg/v1/check_service.pb-c.h"
#include "txmsg/v1/message_service.pb-c.h"

#include <signal.h>

#define SERVICE "/txmsg.v1.MessageService/"

struct options {
    char *listen;
    int64_t undecided;
};
static const struct conf_option table[] = {
    {.name = "listen", .type = CONF_STR, .def = "127.0.0.1:0", .help = "Address to listen on."},
    {.name = "undecided",
     .type = CONF_INT,
     .def = "10",
     .max = 100,
     .offset = offsetof(struct options, undecided),
     .help = "Percent of the messages that checks decide."},
    {0},
};

/* All four requests begin with the id and all four responses are a status, so one type stands for all. */
#define SAME(type_)                                                                                                    \
    _Static_assert(offsetof(Txmsg__V1__##type_##Request, transaction_id) ==                                            \
                           offsetof(Txmsg__V1__CancelRequest, transaction_id) &&                                       \
                       sizeof(Txmsg__V1__##type_##Response) == sizeof(Txmsg__V1__CancelResponse) &&                    \
                       offsetof(Txmsg__V1__##type_##Response, status) == offsetof(Txmsg__V1__CancelResponse, status),  \
                   "one type stands for all")
SAME(Prepare);
SAME(Confirm);
SAME(Publish);

static void handle(struct rpc_call *call, void *response_type) {
    const Txmsg__V1__CancelRequest *request = (const void *)rpc_call_request(call);
    Txmsg__V1__TransactionStatus status = TXMSG__V1__TRANSACTION_STATUS__INIT;
    Txmsg__V1__CancelResponse response = TXMSG__V1__CANCEL_RESPONSE__INIT;
    response.base.descriptor = response_type;
    status.transaction_id = request->transaction_id;
    status.state = TXMSG__V1__TRANSACTION_STATE__TRANSACTION_STATE_CANCELLED;
    response.status = &status;
    rpc_reply(call, &response.base);
}

static struct fates fates; /* written before the server starts */

static void answer(const Txmsg__V1__CheckRequest *check, Txmsg__V1__CheckResponse *ret) {
    struct uuid id;
    txmsg__v1__check_response__init(ret);
    ret->transaction_id = check->transaction_id;
    ret->decision = TXMSG__V1__CHECK_VERDICT__CHECK_VERDICT_UNKNOWN;
    if (uuid_parse(bytes_str(check->transaction_id), &id) == 0 && fate_of(&fates, &id) == FATE_UNDECIDED)
        ret->decision = fate_committed_by_check(&id) ? TXMSG__V1__CHECK_VERDICT__CHECK_VERDICT_COMMITTED
                                                     : TXMSG__V1__CHECK_VERDICT__CHECK_VERDICT_ROLLED_BACK;
}

static void handle_check(struct rpc_call *call, void *user) {
    Txmsg__V1__CheckResponse response;
    answer((const void *)rpc_call_request(call), &response);
    rpc_reply(call, &response.base);
}

static void handle_check_batch(struct rpc_call *call, void *user) {
    const Txmsg__V1__CheckBatchRequest *request = (const void *)rpc_call_request(call);
    const struct rpc_error too_much = {
        .code = RPC_RESOURCE_EXHAUSTED, .reason = "OVERLOADED", .message = "out of memory", .retry_after_ms = 100};
    Txmsg__V1__CheckBatchResponse response = TXMSG__V1__CHECK_BATCH_RESPONSE__INIT;
    size_t n = request->n_checks;
    CLEANUP_FREE Txmsg__V1__CheckResponse *answers = mem_calloc(MAX(n, 1), sizeof(*answers));
    CLEANUP_FREE Txmsg__V1__CheckResponse **all = mem_calloc(MAX(n, 1), sizeof(*all));
    if (!answers || !all) {
        rpc_fail(call, &too_much);
        return;
    }
    for (size_t i = 0; i < n; i++) {
        answer(request->checks[i], &answers[i]);
        all[i] = &answers[i];
    }
    response.answers = all;
    response.n_answers = n;
    rpc_reply(call, &response.base);
}

#define METHOD(name_, kind_)                                                                                           \
    {                                                                                                                  \
        .path = SERVICE name_, .request = &txmsg__v1__##kind_##_request__descriptor,                                   \
        .response = &txmsg__v1__##kind_##_response__descriptor, .handle = handle,                                      \
        .user = (void *)(uintptr_t)&txmsg__v1__##kind_##_response__descriptor                                          \
    }
static const struct rpc_method methods[] = {METHOD("Prepare", prepare),
                                            METHOD("Confirm", confirm),
                                            METHOD("Cancel", cancel),
                                            METHOD("Publish", publish),
                                            {.path = "/txmsg.v1.CheckService/Check",
                                             .request = &txmsg__v1__check_request__descriptor,
                                             .response = &txmsg__v1__check_response__descriptor,
                                             .handle = handle_check},
                                            {.path = "/txmsg.v1.CheckService/CheckBatch",
                                             .request = &txmsg__v1__check_batch_request__descriptor,
                                             .response = &txmsg__v1__check_batch_response__descriptor,
                                             .handle = handle_check_batch}};

static int serve(const char *listen, struct errmsg *e) {
    const struct rpc_server_options o = {.listen = listen, .threads = 1};
    struct rpc_server *server;
    sigset_t stop;
    int number, r = rpc_server_new(&o, methods, ARRAY_LEN(methods), &server, e);
    if (r < 0)
        return r;
    sigemptyset(&stop);
    sigaddset(&stop, SIGTERM);
    sigaddset(&stop, SIGINT);
    sigprocmask(SIG_BLOCK, &stop, NULL); /* before the threads, so that none of them takes it */
    r = rpc_server_start(server, e);
    if (r == 0) {
        rpc_server_health(server, true);
        printf("listening %d\n", rpc_server_port(server));
        fflush(stdout);
        sigwait(&stop, &number);
        rpc_server_stop(server, 2000);
    }
    rpc_server_free(server);
    return r;
}

int main(int argc, char **argv) {
    struct errmsg e = ERRMSG_NULL;
    struct options o;
    struct conf *conf = conf_load(table, &o, argc, argv, NULL, &e);
    if (conf)
        fates = fates_make(o.undecided, 0, 0);
    int r = conf ? serve(o.listen, &e) : -EINVAL;
    if (r < 0)
        fprintf(stderr, "bench-echo: %s\n", e.text);
    conf_free(conf);
    return r < 0;
}
