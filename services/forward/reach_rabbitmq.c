/* A thread for one try: librabbitmq blocks. It holds nothing but its own copy of the target and the result. */
#include "base/mem.h"
#include "forward/rabbit_conn.h"
#include "forward/reach_private.h"

#include <pthread.h>
#include <signal.h>

struct rabbit_reach {
    struct rabbit_target target;
    struct reach_result *result;
};

static void reach_free_target(struct rabbit_reach *t) {
    rabbit_target_deinit(&t->target);
    mem_free(t);
}

static void *reach_main(void *arg) {
    struct rabbit_reach *t = arg;
    struct reach_result *x = t->result;
    struct rabbit_conn *c = NULL;
    struct errmsg e = ERRMSG_NULL;

    pthread_setname_np(pthread_self(), "reach-rabbitmq");
    int r = rabbit_conn_open(&t->target, &c, &e);
    if (r == 0)
        r = rabbit_conn_look(c, &e);
    rabbit_conn_close(c, r == 0);
    x->reached = r == 0;
    snprintf(x->error, sizeof(x->error), "%.190s", e.text);
    reach_free_target(t);
    reach_home(x);
    return NULL;
}

static int start(struct rabbit_reach *t) {
    pthread_attr_t attr;
    sigset_t all, before;
    pthread_t thread;

    pthread_attr_init(&attr);
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int r = pthread_create(&thread, &attr, reach_main, t);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attr);
    return -r;
}

int reach_rabbitmq(const char *url, const char *exchange, const struct guard *guard, int64_t timeout_ms,
                   struct reach_result *x) {
    const struct sub_conf sub = {.name = "reach",
                                 .sink.rabbitmq = {.url = url, .exchange = exchange, .timeout_ms = timeout_ms}};
    struct rabbit_reach *t = mem_zalloc(sizeof(*t));

    if (!t)
        return -ENOMEM;
    t->result = x;
    int r = rabbit_target_init(&t->target, &sub, guard, NULL);
    if (r == 0)
        r = start(t);
    if (r < 0)
        reach_free_target(t);
    return r;
}
