/*
 * Blocking client: a channel, and a queue of its own per call, so that a call that failed leaves nothing behind.
 * One thread at a time. What the server sent is validated like a request: a tool must not trust its peer either.
 */
#include "rpc/client.h"

#include "rpc/credentials.h"
#include "rpc/exchange.h"
#include "rpc/library.h"
#include "rpc/payload.h"
#include "rpc/status.h"
#include "rpc/wire.h"

#include <grpc/grpc_posix.h>
#include <grpc/support/time.h>
#include <unistd.h>

enum { RECEIVE_MAX = 64 << 20, STREAM_ARENA_MAX = 256 << 20, NO_TIMEOUT = -1 };

struct rpc_client {
    grpc_channel *channel;
};

/* `fd` < 0: core connects by itself. */
static int make(const char *target, int fd, struct rpc_client **ret, struct errmsg *e) {
    struct rpc_client *c = mem_zalloc(sizeof(*c));
    grpc_arg args[] = {
        {.type = GRPC_ARG_INTEGER,
         .key = (char *)(uintptr_t)GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH,
         .value.integer = RECEIVE_MAX},
        {.type = GRPC_ARG_INTEGER, .key = (char *)(uintptr_t)GRPC_ARG_ENABLE_HTTP_PROXY, .value.integer = 0},
    };
    const grpc_channel_args all = {.num_args = ARRAY_LEN(args), .args = args};
    grpc_channel_credentials *creds;

    if (!c)
        return err_set(e, -ENOMEM, "out of memory");
    library_init();
    creds = credentials_client();
    c->channel =
        fd < 0 ? grpc_channel_create(target, creds, &all) : grpc_channel_create_from_fd(target, fd, creds, &all);
    grpc_channel_credentials_release(creds);
    if (!c->channel) {
        mem_free(c);
        library_deinit();
        return err_set(e, -EINVAL, "cannot make a channel to %s", target);
    }
    *ret = c;
    return 0;
}

int rpc_client_new(const char *target, struct rpc_client **ret, struct errmsg *e) {
    return make(target, -1, ret, e);
}

int rpc_client_of_socket(int fd, struct rpc_client **ret, struct errmsg *e) {
    int err = make("socket", fd, ret, e);

    if (err == -ENOMEM)
        close(fd);
    return err;
}

void rpc_client_free(struct rpc_client *c) {
    if (!c)
        return;
    grpc_channel_destroy(c->channel);
    mem_free(c);
    library_deinit();
}

static grpc_completion_queue *begin(struct rpc_client *c, struct exchange *x, const char *path, int64_t timeout_ms) {
    gpr_timespec deadline =
        timeout_ms == NO_TIMEOUT
            ? gpr_inf_future(GPR_CLOCK_MONOTONIC)
            : gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC), gpr_time_from_millis(MAX(timeout_ms, 0), GPR_TIMESPAN));
    grpc_slice method = grpc_slice_from_copied_string(path);
    grpc_completion_queue *queue = grpc_completion_queue_create_for_pluck(NULL);

    exchange_init(x);
    x->call = grpc_channel_create_call(c->channel, NULL, GRPC_PROPAGATE_DEFAULTS, queue, method, NULL, deadline, NULL);
    grpc_slice_unref(method);
    return queue;
}

static void end(struct exchange *x, grpc_completion_queue *queue) {
    exchange_deinit(x);
    grpc_completion_queue_shutdown(queue);
    while (grpc_completion_queue_pluck(queue, NULL, gpr_inf_future(GPR_CLOCK_MONOTONIC), NULL).type !=
           GRPC_QUEUE_SHUTDOWN)
        ;
    grpc_completion_queue_destroy(queue);
}

/* The details of an error; what is not there or not readable stays as grpc itself reported it. */
static int read_error(struct exchange *x, struct arena *a, struct rpc_result *ret) {
    struct status_details d;

    ret->message = payload_text(a, x->details);
    if (!ret->message)
        return -ENOMEM;
    for (size_t i = 0; i < x->trailers.count; i++) {
        const grpc_metadata *md = &x->trailers.metadata[i];

        if (grpc_slice_str_cmp(md->key, STATUS_TRAILER) != 0)
            continue;
        if (status_unpack(bytes_of(GRPC_SLICE_START_PTR(md->value), GRPC_SLICE_LENGTH(md->value)), a, &d))
            continue;
        ret->reason = d.reason;
        ret->field = d.field;
        ret->field_description = d.field_description;
        ret->retry_after_ms = d.retry_after_ms;
    }
    return 0;
}

static int read_response(struct exchange *x, const ProtobufCMessageDescriptor *d, struct arena *a,
                         struct rpc_result *ret) {
    ProtobufCAllocator allocator = payload_allocator(a);
    CLEANUP_BUF struct buf scratch;
    struct wire_fault fault;
    struct bytes in = BYTES_NULL;
    int err = 0;

    buf_init(&scratch, RECEIVE_MAX);
    if (x->response)
        err = payload_view(x->response, &scratch, &in);
    if (err)
        return err;
    if (!x->response || wire_check(d, in, WIRE_FROM_SERVER, &fault)) {
        ret->code = RPC_INTERNAL;
        ret->message = "the server answered OK with a message that is not the expected one";
        return 0;
    }
    ret->response = protobuf_c_message_unpack(d, &allocator, in.n, in.p);
    return ret->response ? 0 : -ENOMEM;
}

int rpc_client_call(struct rpc_client *c, const char *path, const ProtobufCMessage *request,
                    const ProtobufCMessageDescriptor *response, int64_t timeout_ms, struct arena *a,
                    struct rpc_result *ret) {
    struct exchange x;
    grpc_completion_queue *queue = begin(c, &x, path, timeout_ms);
    int err;

    x.request = payload_pack(request);
    exchange_start(&x, &x);
    /* The call has a deadline, so this ends. */
    grpc_completion_queue_pluck(queue, &x, gpr_inf_future(GPR_CLOCK_MONOTONIC), NULL);
    *ret = (struct rpc_result){.code = (int)x.code, .message = ""};
    err = x.code == GRPC_STATUS_OK ? read_response(&x, response, a, ret) : read_error(&x, a, ret);
    end(&x, queue);
    return err;
}

/* Starts a batch and waits for its end: the call ends by its deadline or by the server, and then so does this. */
static bool run_batch(struct exchange *x, grpc_completion_queue *queue, const grpc_op *ops, size_t n) {
    grpc_call_error err = grpc_call_start_batch(x->call, ops, n, x, NULL);

    ASSERT(err == GRPC_CALL_OK);
    return grpc_completion_queue_pluck(queue, x, gpr_inf_future(GPR_CLOCK_MONOTONIC), NULL).success;
}

static bool stream_begin(struct exchange *x, grpc_completion_queue *queue) {
    const grpc_op ops[] = {
        {.op = GRPC_OP_SEND_INITIAL_METADATA},
        {.op = GRPC_OP_SEND_MESSAGE, .data.send_message.send_message = x->request},
        {.op = GRPC_OP_SEND_CLOSE_FROM_CLIENT},
        {.op = GRPC_OP_RECV_INITIAL_METADATA, .data.recv_initial_metadata.recv_initial_metadata = &x->headers},
    };

    return run_batch(x, queue, ops, ARRAY_LEN(ops));
}

/* The next message into x->response; false: there is none, the status comes. */
static bool stream_next(struct exchange *x, grpc_completion_queue *queue) {
    const grpc_op op = {.op = GRPC_OP_RECV_MESSAGE, .data.recv_message.recv_message = &x->response};

    if (x->response)
        grpc_byte_buffer_destroy(TAKE(x->response));
    return run_batch(x, queue, &op, 1) && x->response;
}

static void stream_end(struct exchange *x, grpc_completion_queue *queue) {
    const grpc_op op = {.op = GRPC_OP_RECV_STATUS_ON_CLIENT,
                        .data.recv_status_on_client = {
                            .trailing_metadata = &x->trailers, .status = &x->code, .status_details = &x->details}};

    (void)run_batch(x, queue, &op, 1);
}

int rpc_client_stream(struct rpc_client *c, const char *path, const ProtobufCMessage *request,
                      const ProtobufCMessageDescriptor *response, int64_t timeout_ms,
                      int (*message)(void *arg, const ProtobufCMessage *m), void *arg, struct arena *a,
                      struct rpc_result *ret) {
    struct arena one;
    struct exchange x;
    grpc_completion_queue *queue = begin(c, &x, path, timeout_ms ? timeout_ms : NO_TIMEOUT);
    bool enough = false;
    int err = 0;

    arena_init(&one, STREAM_ARENA_MAX);
    x.request = payload_pack(request);
    *ret = (struct rpc_result){.message = ""};
    for (bool more = stream_begin(&x, queue); more && !enough && stream_next(&x, queue); arena_reset(&one)) {
        struct rpc_result r = {.message = ""};

        err = read_response(&x, response, &one, &r);
        enough = err || !r.response || message(arg, r.response);
        if (!err && !r.response)
            *ret = r; /* its texts are literals */
    }
    if (enough)
        grpc_call_cancel(x.call, NULL);
    stream_end(&x, queue);
    if (!enough) {
        ret->code = (int)x.code;
        err = x.code == GRPC_STATUS_OK ? 0 : read_error(&x, a, ret);
    }
    end(&x, queue);
    arena_deinit(&one);
    return err;
}
