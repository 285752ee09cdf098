#include "listener.h"

#include <signal.h>

struct listener {
    struct client *client;
    pthread_t *threads;
    size_t threads_n;
    pthread_cond_t changed;
    struct list waiting;
    bool stopped;
};

static _Thread_local bool calling;

bool listener_calls(void) {
    return calling;
}

/* @locks client->lock, which is given away while the listener thinks */
static void ask(struct client *c, struct txmsg_check *check) {
    enum txmsg_decision d;

    check->asked = true;
    pthread_mutex_unlock(&c->lock);
    d = c->o->listener(c->o->listener_arg, check);
    pthread_mutex_lock(&c->lock);
    check->decision = (unsigned)d <= TXMSG_NO_ANSWER ? d : TXMSG_UNDECIDED;
    check->answered(check);
}

static void *thread_main(void *arg) {
    struct listener *l = arg;

    pthread_setname_np(pthread_self(), "txmsg-checks");
    calling = true;
    pthread_mutex_lock(&l->client->lock);
    while (!l->stopped) {
        struct list *e = list_pop(&l->waiting);

        if (e)
            ask(l->client, LIST_ENTRY(e, struct txmsg_check, link));
        else
            pthread_cond_wait(&l->changed, &l->client->lock);
    }
    pthread_mutex_unlock(&l->client->lock);
    return NULL;
}

void listener_ask(struct listener *l, struct txmsg_check *check) {
    list_add_tail(&l->waiting, &check->link);
    pthread_cond_signal(&l->changed);
}

static int start_threads(struct listener *l) {
    size_t wanted = (size_t)l->client->o->check_threads;
    sigset_t all, before;
    int e = 0;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    for (; !e && l->threads_n < wanted; l->threads_n += !e)
        e = pthread_create(&l->threads[l->threads_n], NULL, thread_main, l);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return e ? TXMSG_ERROR_SYSTEM : TXMSG_OK;
}

int listener_make(struct client *c, struct listener **ret) {
    struct listener *l = *ret = mem_zalloc(sizeof(*l));

    if (!l)
        return TXMSG_ERROR_MEMORY;
    l->client = c;
    list_init(&l->waiting);
    pthread_cond_init(&l->changed, NULL);
    l->threads = mem_calloc((size_t)c->o->check_threads, sizeof(*l->threads));
    return l->threads ? start_threads(l) : TXMSG_ERROR_MEMORY;
}

void listener_stop(struct listener *l, struct list *left) {
    l->stopped = true;
    list_splice_tail(left, &l->waiting);
    pthread_cond_broadcast(&l->changed);
}

void listener_free(struct listener *l) {
    if (!l)
        return;
    for (size_t i = 0; i < l->threads_n; i++)
        pthread_join(l->threads[i], NULL);
    pthread_cond_destroy(&l->changed);
    mem_free(l->threads);
    mem_free(l);
}
