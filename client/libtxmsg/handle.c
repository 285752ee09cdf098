#include "handle.h"

#include "base/list.h"
#include "base/mem.h"
#include "fork.h"

#include <pthread.h>
#include <stdatomic.h>

enum { OPEN = 0x74786d68, CLOSING = 0x636c6f73, DEAD = 0x64656164, KEPT = 1024 };

struct txmsg_client {
    atomic_uint state;
    atomic_int users;
    unsigned made_in; /* fork_count() */
    struct client *client;
    struct list link; /* dead ones, the oldest first */
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t left = PTHREAD_COND_INITIALIZER;
static struct list dead = LIST_INIT(dead);
static int dead_n;

txmsg_client *handle_new(void) {
    txmsg_client *h = NULL;

    pthread_mutex_lock(&lock);
    if (dead_n >= KEPT) {
        h = LIST_ENTRY(list_pop(&dead), txmsg_client, link);
        dead_n--;
    }
    pthread_mutex_unlock(&lock);
    if (!h)
        h = mem_zalloc(sizeof(*h));
    return h;
}

/* A late user of the handle's former client may just be leaving it, so its count goes on. */
void handle_give(txmsg_client *h, struct client *c) {
    h->client = c;
    h->made_in = fork_count();
    atomic_store(&h->state, OPEN);
}

int handle_enter(txmsg_client *h, struct client **ret) {
    if (!h)
        return TXMSG_ERROR_INVALID;
    atomic_fetch_add(&h->users, 1); /* before looking: who closes looks at it afterwards */
    unsigned state = atomic_load(&h->state);
    if (state == OPEN && h->made_in == fork_count_again()) {
        *ret = h->client;
        return TXMSG_OK;
    }
    handle_leave(h);
    return state == OPEN                       ? TXMSG_ERROR_FORKED
           : state == CLOSING || state == DEAD ? TXMSG_ERROR_CLOSED
                                               : TXMSG_ERROR_INVALID;
}

void handle_leave(txmsg_client *h) {
    if (atomic_fetch_sub(&h->users, 1) > 1 || atomic_load(&h->state) != CLOSING)
        return;
    pthread_mutex_lock(&lock);
    pthread_cond_broadcast(&left);
    pthread_mutex_unlock(&lock);
}

int handle_close(txmsg_client *h, struct client **ret) {
    unsigned open = OPEN;

    if (h->made_in != fork_count())
        return TXMSG_ERROR_FORKED;
    if (!atomic_compare_exchange_strong(&h->state, &open, CLOSING))
        return open == CLOSING || open == DEAD ? TXMSG_ERROR_CLOSED : TXMSG_ERROR_INVALID;
    *ret = h->client;
    return TXMSG_OK;
}

void handle_drained(txmsg_client *h) {
    pthread_mutex_lock(&lock);
    while (atomic_load(&h->users) > 0)
        pthread_cond_wait(&left, &lock);
    pthread_mutex_unlock(&lock);
}

void handle_free(txmsg_client *h) {
    atomic_store(&h->state, DEAD);
    h->client = NULL;
    pthread_mutex_lock(&lock);
    list_add_tail(&dead, &h->link);
    dead_n++;
    pthread_mutex_unlock(&lock);
}
