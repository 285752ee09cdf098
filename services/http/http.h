/* Operations over HTTP: /metrics, /healthz, /readyz (libmicrohttpd behind, threads of its own). */
#pragma once

#include "base/bytes.h"

struct http_server;
struct http_options {
    const char *listen;  /* "127.0.0.1:7401"; port 0 = any free port */
    int max_connections; /* default 64 */
    /* True, and text for people. They run on an http thread. NULL healthy: always. */
    bool (*ready)(void *arg, char *why, size_t why_n);
    bool (*healthy)(void *arg, char *why, size_t why_n);
    void *arg;
};
int http_server_new(const struct http_options *o, struct http_server **ret, struct errmsg *e) MUSTCHECK;
int http_server_port(const struct http_server *s);
void http_server_free(struct http_server *s);
