/*
 * HTTP requests from a worker's loop (libcurl multi behind), for check-back and for the HTTP sink.
 *
 * Hard limits on everything that a foreign server controls: connect time, whole time, response size, no redirects,
 * only http and https, no proxies from the environment; and the address of every connection is judged as it is opened (guard.h). A server that answers garbage, hangs, drips or floods costs
 * one slot until its timeout. Connections are kept alive and reused; nothing blocks. @thread of the loop
 */
#pragma once

#include "base/bytes.h"
#include "loop/loop.h"
#include "base/guard.h"

struct webclient;
struct webclient_options {
    int max_in_flight;      /* of the whole client; default 1024 */
    int max_idle;           /* connections kept alive; default 256 */
    int64_t response_bytes; /* largest body kept; a longer one is an error; default 64 KiB */
    struct guard guard;     /* loopback and private networks that may be connected to; default none */
};
int webclient_new(struct loop *l, const struct webclient_options *o, struct webclient **ret) MUSTCHECK;
void webclient_free(struct webclient *w); /* requests under way end without callback. NULL allowed */

enum web_result {
    WEB_ANSWERED, /* a complete response came: status, body */
    WEB_TIMEOUT,
    WEB_UNREACHABLE, /* name, connect, TLS, also when they took too long: nothing of the request was sent */
    WEB_BROKEN,      /* connection cut, protocol garbage; the other side may have worked on the request */
    WEB_TOO_LARGE,
    WEB_CANCELLED,
};
struct web_response {
    enum web_result result;
    int status;               /* 0 unless answered */
    struct bytes body;        /* valid during the callback */
    const char *content_type; /* NULL = none */
    int64_t retry_after_ms;   /* of Retry-After in seconds form or as a date; -1 = none */
    const char *error;        /* for people, never NULL */
    uint64_t took_ns;
};
struct web_request {
    const char *url;
    struct bytes body; /* copied */
    /* "Name: value", NULL-ended, at most 126 lines and 64 KiB; copied. No control characters, and none that frames
     * the request (Content-Length, Transfer-Encoding, Connection, Expect, Upgrade, TE, Trailer). NULL allowed. */
    const char *const *headers;
    int64_t timeout_ms; /* the whole request; connect gets at most half of it */
};
struct web_call;
/*
 * POST. 0: `done` comes exactly once, never from inside this call, and may post, cancel others and free the client;
 * `*ret` is valid until then. 1 = max_in_flight reached. Negative: not started; -EINVAL: not an http(s) URL, not
 * such a header, no timeout; -E2BIG; -ENOMEM. A request is sent at most once: when a kept connection ends before the
 * answer, that is WEB_BROKEN. The process must ignore SIGPIPE.
 */
int webclient_post(struct webclient *w, const struct web_request *r,
                   void (*done)(void *arg, const struct web_response *resp), void *arg, struct web_call **ret)
    MUSTCHECK; /* ret: NULL allowed */
/*
 * Connects, with TLS where the URL says so, and closes again: the other side sees no request. As webclient_post(); WEB_ANSWERED, with no
 * status and nothing else, means that the connection stood.
 */
int webclient_connect(struct webclient *w, const char *url, int64_t timeout_ms,
                      void (*done)(void *arg, const struct web_response *resp), void *arg, struct web_call **ret)
    MUSTCHECK;
/* `done` comes with WEB_CANCELLED before this returns. */
void webclient_cancel(struct web_call *c);
int webclient_in_flight(const struct webclient *w);
