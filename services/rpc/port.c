/*
 * Why of its own: how core's server is set up, how it comes to its port, and why it does not. The gate is there before
 * core listens, which it does only when it is started.
 */
#include "rpc/credentials.h"
#include "rpc/gate.h"
#include "rpc/server.h"

#include <netdb.h>
#include <unistd.h>

enum { PING_INTERVAL_MIN_MS = 9000 }; /* a client may ping an idle connection every 10 s; one second is for jitter */

static grpc_arg int_arg(const char *key, int64_t value) {
    return (grpc_arg){.type = GRPC_ARG_INTEGER, .key = (char *)(uintptr_t)key, .value.integer = (int)value};
}

/*
 * Not taken: grpc.minimal_stack, which beside what is switched off here saves less than 1 % once deadlines are kept; and
 * server_max_unrequested_time_in_server, which 1.51 does not have.
 */
grpc_server *server_core(const struct rpc_server_options *o) {
    grpc_resource_quota *quota = grpc_resource_quota_create("server");
    grpc_arg args[] = {
        int_arg(GRPC_ARG_ALLOW_REUSEPORT, 0), /* a second daemon on the port must fail, not share it */
        int_arg(GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH, o->receive_bytes),
        int_arg(GRPC_ARG_MAX_CONCURRENT_STREAMS, o->max_concurrent_streams),
        int_arg(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, PING_INTERVAL_MIN_MS),
        int_arg(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1),
        int_arg(GRPC_ARG_KEEPALIVE_TIME_MS, o->keepalive_ms),
        int_arg(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, o->keepalive_ms / 3),
        int_arg(GRPC_ARG_SERVER_HANDSHAKE_TIMEOUT_MS, o->handshake_ms),
        int_arg(GRPC_ARG_MAX_CONNECTION_IDLE_MS,
                o->idle_ms > 0 ? o->idle_ms : INT_MAX),    /* then its filter is left out */
        int_arg(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0), /* any number: a Watch may be silent for days */
        /* Not used, and each costs about 1 % of a call. Compressed requests are still read. */
        int_arg(GRPC_ARG_ENABLE_PER_MESSAGE_COMPRESSION, 0),
        int_arg(GRPC_ARG_ENABLE_CHANNELZ, 0),
        {.type = GRPC_ARG_POINTER,
         .key = (char *)(uintptr_t)GRPC_ARG_RESOURCE_QUOTA,
         .value.pointer = {.p = quota, .vtable = grpc_resource_quota_arg_vtable()}},
    };
    grpc_server *s;

    /* Twice, so that calls are refused with a reason before core drops connections and resets streams. */
    grpc_resource_quota_resize(quota, 2 * (size_t)o->memory_bytes);
    s = grpc_server_create(&(grpc_channel_args){.num_args = ARRAY_LEN(args), .args = args}, NULL);
    grpc_resource_quota_unref(quota);
    return s;
}

/* Core does not say why it could not bind, so ask the system the same question. */
static int bind_error(const char *listen) {
    const char *colon = strrchr(listen, ':');
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE}, *found = NULL;
    bool brackets = colon && colon - listen >= 2 && listen[0] == '[' && colon[-1] == ']';
    CLEANUP_FREE char *host =
        colon ? mem_strndup(listen + brackets, (size_t)(colon - listen) - (brackets ? 2 : 0)) : NULL;
    int err = -EINVAL, fd, one = 1;

    if (!host || getaddrinfo(host, colon + 1, &hints, &found) != 0)
        return -EINVAL;
    fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd >= 0) {
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
        err = bind(fd, found->ai_addr, found->ai_addrlen) ? -errno : -EIO;
        close(fd);
    }
    freeaddrinfo(found);
    return err;
}

int server_open_port(struct rpc_server *s, struct errmsg *e) {
    grpc_server_credentials *creds = credentials_server();
    int err;

    s->port = grpc_server_add_http2_port(s->core, s->options.listen, creds);
    grpc_server_credentials_release(creds);
    if (s->port > 0) {
        err = gate_open(s->options.listen, s->port, s->options.max_connections, &s->gate);
        return err ? err_set(e, err, "cannot bound the connections of %s: %s", s->options.listen, err_text(err)) : 0;
    }
    err = bind_error(s->options.listen);
    return err_set(e, err, "cannot listen on %s: %s", s->options.listen, err_text(err));
}
