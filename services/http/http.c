/*
 * The operations address. One libmicrohttpd thread serves everything: requests are few, answers are built in memory. Bounded by
 * connections, a short timeout and no request bodies.
 */
#include "http/http.h"

#include "base/metric.h"

#include <arpa/inet.h>
#include <microhttpd.h>
#include <netinet/in.h>

enum { TIMEOUT_S = 10, METRICS_BYTES_MAX = 4 << 20 };

struct http_server {
    struct MHD_Daemon *mhd;
    struct http_options o;
    int port;
};

static enum MHD_Result answer(struct MHD_Connection *c, unsigned status, const char *type, struct bytes body) {
    struct MHD_Response *r = MHD_create_response_from_buffer(body.n, (void *)(uintptr_t)body.p, MHD_RESPMEM_MUST_COPY);
    if (!r)
        return MHD_NO;
    MHD_add_response_header(r, "Content-Type", type);
    MHD_add_response_header(r, "Cache-Control", "no-store");
    MHD_add_response_header(r, "X-Content-Type-Options", "nosniff");
    enum MHD_Result ok = MHD_queue_response(c, status, r);
    MHD_destroy_response(r);
    return ok;
}

static enum MHD_Result answer_text(struct MHD_Connection *c, unsigned status, const char *text) {
    return answer(c, status, "text/plain; charset=utf-8", bytes_str(text));
}

static enum MHD_Result answer_metrics(struct MHD_Connection *c) {
    struct buf out CLEANUP_BUF;
    buf_init(&out, METRICS_BYTES_MAX);
    metric_print(&out);
    if (buf_error(&out))
        return answer_text(c, 500, "too many metrics\n");
    return answer(c, 200, "text/plain; version=0.0.4; charset=utf-8", buf_bytes(&out));
}

static enum MHD_Result answer_state(struct MHD_Connection *c, struct http_server *s,
                                    bool (*state)(void *arg, char *why, size_t why_n)) {
    char why[200] = "ok";
    char line[sizeof(why) + 2];
    bool good = !state || state(s->o.arg, why, sizeof(why));

    snprintf(line, sizeof(line), "%s\n", why);
    return answer_text(c, good ? 200 : 503, line);
}

static enum MHD_Result handle(void *arg, struct MHD_Connection *c, const char *url, const char *method,
                              const char *version, const char *upload, size_t *upload_n, void **state) {
    static int seen;
    struct http_server *s = arg;
    UNUSED(version);
    UNUSED(upload);
    if (!*state) { /* the first call brings headers only */
        *state = &seen;
        return MHD_YES;
    }
    if (*upload_n) { /* a body is read and dropped */
        *upload_n = 0;
        return MHD_YES;
    }
    if (strcmp(method, "GET") && strcmp(method, "HEAD"))
        return answer_text(c, 405, "only GET is served here\n");
    if (!strcmp(url, "/metrics"))
        return answer_metrics(c);
    if (!strcmp(url, "/healthz"))
        return answer_state(c, s, s->o.healthy);
    if (!strcmp(url, "/readyz"))
        return answer_state(c, s, s->o.ready);
    return answer_text(c, 404, "not found; here are /metrics, /healthz and /readyz\n");
}

/* "127.0.0.1:7401", "[::1]:7401" or "localhost:7401": numbers only, names are not looked up. */
static int parse_listen(const char *listen, struct sockaddr_storage *ret, struct errmsg *e) {
    char host[64];
    const char *colon = strrchr(listen, ':');
    size_t n = colon ? (size_t)(colon - listen) : 0;
    bool v6 = n > 2 && listen[0] == '[' && listen[n - 1] == ']';
    if (!colon || n == 0 || n >= sizeof(host))
        return err_set(e, -EINVAL, "http.listen: \"%s\" is not host:port", listen);
    snprintf(host, sizeof(host), "%.*s", (int)(v6 ? n - 2 : n), v6 ? listen + 1 : listen);
    char *end;
    long port = strtol(colon + 1, &end, 10);
    if (*end || end == colon + 1 || port < 0 || port > 65535)
        return err_set(e, -EINVAL, "http.listen: \"%s\" has no valid port", listen);
    struct sockaddr_in *in = (struct sockaddr_in *)ret;
    struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)ret;
    *ret = (struct sockaddr_storage){0};
    if (v6) {
        *in6 = (struct sockaddr_in6){.sin6_family = AF_INET6, .sin6_port = htons((uint16_t)port)};
        return inet_pton(AF_INET6, host, &in6->sin6_addr) == 1
                   ? 0
                   : err_set(e, -EINVAL, "http.listen: bad address %s", host);
    }
    *in = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    const char *number = !strcmp(host, "localhost") ? "127.0.0.1" : host;
    return inet_pton(AF_INET, number, &in->sin_addr) == 1 ? 0
                                                          : err_set(e, -EINVAL, "http.listen: bad address %s", host);
}

int http_server_new(const struct http_options *o, struct http_server **ret, struct errmsg *e) {
    struct sockaddr_storage address;
    int r = parse_listen(o->listen, &address, e);
    if (r < 0)
        return r;
    struct http_server *s = mem_zalloc(sizeof(*s));
    if (!s)
        return err_set(e, -ENOMEM, "out of memory");
    s->o = *o;
    unsigned flags =
        MHD_USE_INTERNAL_POLLING_THREAD | MHD_USE_EPOLL | (address.ss_family == AF_INET6 ? MHD_USE_IPv6 : 0);
    s->mhd = MHD_start_daemon(flags, 0, NULL, NULL, handle, s, MHD_OPTION_SOCK_ADDR, (struct sockaddr *)&address,
                              MHD_OPTION_CONNECTION_LIMIT, (unsigned)o->max_connections, MHD_OPTION_CONNECTION_TIMEOUT,
                              (unsigned)TIMEOUT_S, MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)32768, MHD_OPTION_END);
    if (!s->mhd) {
        mem_free(s);
        return err_set(e, -EADDRINUSE, "cannot listen on %s (http.listen): is the port taken?", o->listen);
    }
    const union MHD_DaemonInfo *info = MHD_get_daemon_info(s->mhd, MHD_DAEMON_INFO_BIND_PORT);
    s->port = info ? info->port : 0;
    *ret = s;
    return 0;
}

int http_server_port(const struct http_server *s) {
    return s->port;
}

void http_server_free(struct http_server *s) {
    if (!s)
        return;
    MHD_stop_daemon(s->mhd);
    mem_free(s);
}
