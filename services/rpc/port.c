/*
 * Why of its own: how a server comes to its port, and why it does not. The gate is there before core listens, which it
 * does only when it is started.
 */
#include "rpc/credentials.h"
#include "rpc/gate.h"
#include "rpc/server.h"

#include <netdb.h>
#include <unistd.h>

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
