/*
 * bench-echo: the message service without a store. Every call is received, checked and unpacked as txmsgd does it, and
 * answered at once on the rpc thread. What txmsg-bench measures against it is what gRPC alone costs on a machine.
 *
 * bench-echo [--listen 127.0.0.1:0]; prints "listening PORT" and runs until SIGTERM or SIGINT.
 */
#include "base/conf.h"
#include "rpc/rpc.h"
#include "txmsg/v1/message_service.pb-c.h"

#include <signal.h>

#define SERVICE "/txmsg.v1.MessageService/"

struct options {
    char *listen;
};
static const struct conf_option table[] = {
    {.name = "listen", .type = CONF_STR, .def = "127.0.0.1:0", .help = "Address to listen on."},
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

#define METHOD(name_, kind_)                                                                                           \
    {                                                                                                                  \
        .path = SERVICE name_, .request = &txmsg__v1__##kind_##_request__descriptor,                                   \
        .response = &txmsg__v1__##kind_##_response__descriptor, .handle = handle,                                      \
        .user = (void *)(uintptr_t)&txmsg__v1__##kind_##_response__descriptor                                          \
    }
static const struct rpc_method methods[] = {METHOD("Prepare", prepare), METHOD("Confirm", confirm),
                                            METHOD("Cancel", cancel), METHOD("Publish", publish)};

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
    int r = conf ? serve(o.listen, &e) : -EINVAL;
    if (r < 0)
        fprintf(stderr, "bench-echo: %s\n", e.text);
    conf_free(conf);
    return r < 0;
}
