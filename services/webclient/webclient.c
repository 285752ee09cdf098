/*
 * HTTP requests on a worker's loop: libcurl's multi handle, a pool of exchanges, and the calls that callers see.
 *
 * A call is idle (in the pool), active (in the multi handle) or ending (its `done` is on the stack). libcurl tells
 * of ended transfers by a queue that is read after it worked; callers are called from there only, never from inside
 * libcurl or webclient_post(), so a `done` may post, cancel others and even free the client. In that last case the
 * one on the stack cleans up behind itself.
 *
 * Connections: at most max_in_flight in use plus max_idle kept. libcurl counts both together, so its limit moves
 * with the calls.
 */
#include "webclient/webclient.h"

#include "base/mem.h"
#include "webclient/transfer.h"

#include <pthread.h>

struct web_call {
    struct transfer transfer; /* first: libcurl's private pointer */
    struct list link;         /* of client->active or client->idle; alone while ending */
    struct webclient *client;
    bool active, once; /* once: not for the pool */
    void (*done)(void *arg, const struct web_response *resp);
    void *arg;
};

struct webclient {
    struct webclient_options o;
    CURLM *multi;
    struct poller poller;
    struct list active, idle;
    int in_flight;
    int calling; /* depth of `done` calls */
    bool freed;
};

static void global_init(void) {
    CURLcode r = curl_global_init(CURL_GLOBAL_DEFAULT);
    ASSERT(r == CURLE_OK);
}

static struct webclient_options with_defaults(const struct webclient_options *o) {
    struct webclient_options r = o ? *o : (struct webclient_options){0};

    if (r.max_in_flight <= 0)
        r.max_in_flight = 1024;
    if (r.max_idle <= 0)
        r.max_idle = 256;
    if (r.response_bytes <= 0)
        r.response_bytes = 64 << 10;
    return r;
}

static void limit_connections(struct webclient *w) {
    curl_multi_setopt(w->multi, CURLMOPT_MAXCONNECTS, (long)w->in_flight + w->o.max_idle);
}

static void call_free(struct web_call *c) {
    if (c->active)
        curl_multi_remove_handle(c->client->multi, c->transfer.easy);
    list_del(&c->link);
    transfer_deinit(&c->transfer);
    mem_free(c);
}

static int call_new(struct webclient *w, struct web_call **ret) {
    struct web_call *c = mem_zalloc(sizeof(*c));
    if (!c)
        return -ENOMEM;
    list_init(&c->link);
    c->client = w;
    int r = transfer_init(&c->transfer, &w->poller, w->o.response_bytes);
    if (r < 0) {
        call_free(c);
        return r;
    }
    *ret = c;
    return 0;
}

static int call_get(struct webclient *w, struct web_call **ret) {
    struct list *e = list_pop(&w->idle); /* the last one used: warm, and often with the same URL */

    if (!e)
        return call_new(w, ret);
    *ret = LIST_ENTRY(e, struct web_call, link);
    return 0;
}

static void call_put(struct web_call *c) {
    transfer_reset(&c->transfer);
    list_add_head(&c->client->idle, &c->link);
}

static void destroy(struct webclient *w) {
    while (!list_empty(&w->active))
        call_free(LIST_ENTRY(w->active.next, struct web_call, link));
    while (!list_empty(&w->idle))
        call_free(LIST_ENTRY(w->idle.next, struct web_call, link));
    if (w->multi)
        curl_multi_cleanup(w->multi);
    poller_close(&w->poller);
    mem_free(w);
}

static void call_stop(struct web_call *c) {
    struct webclient *w = c->client;

    curl_multi_remove_handle(w->multi, c->transfer.easy);
    list_del(&c->link);
    c->active = false;
    w->in_flight--;
    limit_connections(w);
}

/* The response holds views into the call, so the call goes back to the pool only after `done`. */
static void call_end(struct web_call *c, const struct web_response *resp) {
    struct webclient *w = c->client;

    w->calling++;
    c->done(c->arg, resp);
    w->calling--;
    if (w->freed || c->once)
        call_free(c);
    else
        call_put(c);
}

static void on_worked(void *arg) {
    struct webclient *w = arg;
    struct web_response resp;
    CURLMsg *m;
    int left;

    w->calling++; /* keeps `w` while we are here */
    while (!w->freed && (m = curl_multi_info_read(w->multi, &left))) {
        char *p = NULL;
        if (m->msg != CURLMSG_DONE)
            continue;
        CURLcode code = m->data.result; /* the message goes with its handle */
        curl_easy_getinfo(m->easy_handle, CURLINFO_PRIVATE, &p);
        struct web_call *c = CONTAINER_OF((struct transfer *)(void *)p, struct web_call, transfer);
        call_stop(c);
        transfer_response(&c->transfer, code, &resp);
        call_end(c, &resp);
    }
    if (--w->calling == 0 && w->freed)
        destroy(w);
}

int webclient_new(struct loop *l, const struct webclient_options *o, struct webclient **ret) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    int r;

    pthread_once(&once, global_init);
    struct webclient *w = mem_zalloc(sizeof(*w));
    if (!w)
        return -ENOMEM;
    w->o = with_defaults(o);
    list_init(&w->active);
    list_init(&w->idle);
    w->multi = curl_multi_init();
    r = w->multi ? poller_open(&w->poller, l, w->multi, on_worked, w) : -ENOMEM;
    if (r < 0) {
        destroy(w);
        return r;
    }
    w->poller.guard = &w->o.guard;
    curl_multi_setopt(w->multi, CURLMOPT_PIPELINING, (long)CURLPIPE_NOTHING);
    curl_multi_setopt(w->multi, CURLMOPT_MAX_HOST_CONNECTIONS, (long)w->o.max_in_flight);
    curl_multi_setopt(w->multi, CURLMOPT_MAX_TOTAL_CONNECTIONS, (long)w->o.max_in_flight + w->o.max_idle);
    limit_connections(w);
    *ret = w;
    return 0;
}

void webclient_free(struct webclient *w) {
    if (!w)
        return;
    w->freed = true;
    if (w->calling == 0)
        destroy(w);
}

/* `code`: what became of setting it up. */
static int call_start(struct web_call *c, int code, void (*done)(void *arg, const struct web_response *resp), void *arg,
                      struct web_call **ret) {
    struct webclient *w = c->client;

    if (code == 0 && curl_multi_add_handle(w->multi, c->transfer.easy) != CURLM_OK)
        code = -ENOMEM;
    if (code < 0) {
        if (c->once)
            call_free(c);
        else
            call_put(c);
        return code;
    }
    c->done = done;
    c->arg = arg;
    c->active = true;
    list_add_tail(&w->active, &c->link);
    w->in_flight++;
    limit_connections(w);
    if (ret)
        *ret = c;
    return 0;
}

int webclient_post(struct webclient *w, const struct web_request *r,
                   void (*done)(void *arg, const struct web_response *resp), void *arg, struct web_call **ret) {
    struct web_call *c;

    if (w->in_flight >= w->o.max_in_flight)
        return 1;
    int code = call_get(w, &c);
    return code < 0 ? code : call_start(c, transfer_set(&c->transfer, r), done, arg, ret);
}

int webclient_connect(struct webclient *w, const char *url, int64_t timeout_ms,
                      void (*done)(void *arg, const struct web_response *resp), void *arg, struct web_call **ret) {
    struct web_call *c;

    if (w->in_flight >= w->o.max_in_flight)
        return 1;
    int code = call_new(w, &c); /* not from the pool: what was set for this stays set */
    if (code < 0)
        return code;
    c->once = true;
    return call_start(c, transfer_set_connect(&c->transfer, url, timeout_ms), done, arg, ret);
}

void webclient_cancel(struct web_call *c) {
    struct webclient *w = c->client;
    struct web_response resp;

    ASSERT(c->active);
    call_stop(c);
    transfer_cancelled(&c->transfer, &resp);
    call_end(c, &resp);
    if (w->calling == 0 && w->freed)
        destroy(w);
}

int webclient_in_flight(const struct webclient *w) {
    return w->in_flight;
}
