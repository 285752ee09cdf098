/*
 * What libcurl needs of the loop: readiness of its sockets and its one timeout. Private to this room. @thread of the
 * loop
 */
#pragma once

#include "loop/loop.h"
#include "base/guard.h"

#include <curl/curl.h>

struct poller_sock;
struct poller {
    struct loop *loop;
    CURLM *multi;
    const struct guard *guard;
    void (*worked)(void *arg); /* libcurl had its turn: transfers may have ended */
    void *arg;
    struct timer *timer;
    uv_idle_t *soon;            /* a timeout of 0; on the heap because its handle outlives us */
    struct poller_sock **socks; /* by file descriptor */
    size_t socks_n;
};

/* Registers with `multi`. The poller must not move. `worked` may end in poller_close(). */
int poller_open(struct poller *p, struct loop *l, CURLM *multi, void (*worked)(void *arg), void *arg) MUSTCHECK;
/* After curl_multi_cleanup(). May be called after a failed open. */
void poller_close(struct poller *p);
/* What a socket is opened for. */
struct poller_user {
    struct poller *poller;
    char refused[GUARD_TEXT]; /* why an address was not connected to; "" = none was */
};
/* Sockets of this easy handle are opened and closed through the poller; `u` outlives the handle. */
CURLcode poller_adopt(struct poller *p, CURL *easy, struct poller_user *u) MUSTCHECK;
