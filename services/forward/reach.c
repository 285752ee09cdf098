/*
 * Like a sink's calls, what other threads bring home goes by a mailbox that a freed object takes away: then the result
 * frees itself. `of` is looked at on the loop only.
 */
#include "forward/reach_private.h"

#include "base/mem.h"
#include "core/policy.h"
#include "rpc/caller.h"
#include "webclient/webclient.h"

#include "grpc/health/v1/health.pb-c.h"

#include <strings.h>

struct reach {
    struct loop *loop;
    struct webclient *web;
    struct rpc_caller *caller;
    struct guard guard;
    struct way_home *way;
    struct list under_way;
    int n;
    bool closing;
};
struct reaching {
    struct list link;
    struct reach *reach;
    struct web_call *call; /* of HTTP */
    void (*done)(void *arg, const char *error);
    void *arg;
};

/* --- the way home --- */

void reach_home(struct reach_result *x) {
    way_home_bring(x->way, &x->link, x);
}

static struct reach_result *result_new(struct reach *r, struct reaching *of) {
    struct reach_result *x = mem_zalloc(sizeof(*x));

    if (!x)
        return NULL;
    list_init(&x->link);
    x->of = of;
    x->way = way_home_ref(r->way);
    return x;
}

static void result_drop(struct reach_result *x) {
    way_home_unref(x->way);
    mem_free(x);
}

/* --- ends --- */

static void finish(struct reaching *g, const char *error) {
    void (*done)(void *arg, const char *error) = g->done;
    void *arg = g->arg;

    list_del(&g->link);
    g->reach->n--;
    mem_free(g);
    done(arg, error);
}

static void on_back(void *arg, struct list *items) {
    struct list *e;

    UNUSED(arg);
    while ((e = list_pop(items))) {
        struct reach_result *x = LIST_ENTRY(e, struct reach_result, link);
        finish(x->of, x->reached ? NULL : x->error);
        mem_free(x);
    }
}

static void on_connected(void *arg, const struct web_response *resp) {
    struct reaching *g = arg;

    g->call = NULL;
    finish(g, resp->result == WEB_ANSWERED ? NULL : resp->error);
}

/* Any answer is one, also that there is no such service: only the consumer's own would tell more, and it would work. @thread of the caller */
static void on_outcome(void *arg, const struct rpc_outcome *o) {
    struct reach_result *x = arg;

    x->reached =
        !o->unsent && o->code != RPC_UNAVAILABLE && o->code != RPC_DEADLINE_EXCEEDED && o->code != RPC_CANCELLED;
    snprintf(x->error, sizeof(x->error), "gRPC %s: %s", rpc_code_name(o->code), o->message);
    reach_home(x);
}

/* --- starting --- */

static int start_grpc(struct reach *r, const char *target, int64_t timeout_ms, struct reach_result *x) {
    Grpc__Health__V1__HealthCheckRequest request = GRPC__HEALTH__V1__HEALTH_CHECK_REQUEST__INIT;

    return rpc_caller_call(r->caller,
                           &(struct rpc_call_request){.target = target,
                                                      .path = "/grpc.health.v1.Health/Check",
                                                      .request = &request.base,
                                                      .response = &grpc__health__v1__health_check_response__descriptor,
                                                      .timeout_ms = timeout_ms,
                                                      .done = on_outcome,
                                                      .arg = x});
}

static int start(struct reach *r, struct reaching *g, const char *url, const char *exchange, int64_t timeout_ms) {
    bool grpc = strncmp(url, POLICY_GRPC, strlen(POLICY_GRPC)) == 0;
    struct reach_result *x;
    int e;

    if (!grpc && strncasecmp(url, "amqp", 4) != 0)
        return webclient_connect(r->web, url, timeout_ms, on_connected, g, &g->call);
    if (!(x = result_new(r, g)))
        return -ENOMEM;
    e = grpc ? start_grpc(r, url + strlen(POLICY_GRPC), timeout_ms, x)
             : reach_rabbitmq(url, exchange, &r->guard, timeout_ms, x);
    if (e != 0)
        result_drop(x);
    return e;
}

int reach_start(struct reach *r, const char *url, const char *exchange, int64_t timeout_ms,
                void (*done)(void *arg, const char *error), void *arg) {
    struct reaching *g;

    if (r->closing)
        return -EAGAIN;
    if (r->n == REACH_MAX)
        return 1;
    if (!(g = mem_zalloc(sizeof(*g))))
        return -ENOMEM;
    *g = (struct reaching){.reach = r, .done = done, .arg = arg};
    list_add_tail(&r->under_way, &g->link);
    r->n++;
    int e = start(r, g, url, exchange, timeout_ms);
    if (e == 0)
        return 0;
    list_del(&g->link);
    r->n--;
    mem_free(g);
    return e;
}

/* --- life --- */

int reach_new(struct loop *l, struct webclient *web, struct rpc_caller *caller, const struct guard *guard,
              struct reach **ret) {
    struct reach *r = mem_zalloc(sizeof(*r));
    struct way_home *w;
    int e = r ? way_home_new(l, REACH_MAX, on_back, r, &w) : -ENOMEM;

    if (e < 0) {
        mem_free(r);
        return e;
    }
    *r = (struct reach){.loop = l, .web = web, .caller = caller, .guard = *guard, .way = w};
    list_init(&r->under_way);
    *ret = r;
    return 0;
}

void reach_free(struct reach *r) {
    if (!r)
        return;
    r->closing = true;
    way_home_close(r->way); /* those that are back end here */
    while (!list_empty(&r->under_way)) {
        struct reaching *g = LIST_ENTRY(r->under_way.next, struct reaching, link);
        if (g->call)
            webclient_cancel(TAKE(g->call)); /* on_connected() */
        else
            finish(g, "stopped");
    }
    way_home_unref(r->way);
    mem_free(r);
}
