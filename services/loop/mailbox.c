/*
 * The bounded way into a loop: senders append under the lock, the loop swaps the whole list out and works unlocked.
 *
 * One wake at most is under way: the list is emptied in one piece, so what is added before that needs no second. The
 * wake is sent under the lock, so once mailbox_close() has set `closed` no sender will touch the handle and it may be
 * closed. The bound counts what the loop has not received; what `receive` got is the receiver's.
 */
#include "base/mem.h"
#include "loop/loop_private.h"

struct mailbox {
    struct loop *loop;
    uv_async_t wake;
    void (*receive)(void *arg, struct list *items);
    void *arg;
    size_t max;
    bool handle_closed, freed; /* of the loop's thread; memory goes when both are true */

    pthread_mutex_t lock;
    struct list items;     /* under lock */
    bool waking;           /* under lock: the loop has been woken and has not come yet */
    bool closed;           /* written under lock on the loop's thread, so that thread may read it without */
    _Atomic size_t length; /* written under lock */
};

static void mailbox_destroy(struct mailbox *m) {
    pthread_mutex_destroy(&m->lock);
    mem_free(m);
}

/* Empties the mailbox into `items`. */
static void swap_out(struct mailbox *m, struct list *items, bool close) {
    pthread_mutex_lock(&m->lock);
    list_splice_tail(items, &m->items);
    atomic_store_explicit(&m->length, 0, memory_order_relaxed);
    m->waking = false;
    m->closed |= close;
    pthread_mutex_unlock(&m->lock);
}

/*
 * `receive` may close and even free the mailbox: the memory stays until the handle is closed, which is never within
 * it.
 */
static void deliver(struct mailbox *m, struct list *items) {
    if (list_empty(items))
        return;
    m->receive(m->arg, items);
    ASSERT(list_empty(items));
}

static void on_wake(uv_async_t *handle) {
    struct mailbox *m = CONTAINER_OF(handle, struct mailbox, wake);
    struct list items = LIST_INIT(items);

    swap_out(m, &items, false);
    deliver(m, &items);
}

static void on_closed(uv_handle_t *handle) {
    struct mailbox *m = CONTAINER_OF((uv_async_t *)handle, struct mailbox, wake);

    m->handle_closed = true;
    if (m->freed)
        mailbox_destroy(m);
}

int mailbox_new(struct loop *l, size_t max_items, void (*receive)(void *arg, struct list *items), void *arg,
                struct mailbox **ret) {
    CLEANUP_FREE struct mailbox *m = NULL;
    int r;

    ASSERT(loop_is_mine(l));
    if (max_items == 0)
        return -EINVAL;
    m = mem_zalloc(sizeof(*m));
    if (!m)
        return -ENOMEM;
    m->loop = l;
    m->receive = receive;
    m->arg = arg;
    m->max = max_items;
    list_init(&m->items);
    r = uv_async_init(&l->uv, &m->wake, on_wake);
    if (r < 0)
        return r;
    r = pthread_mutex_init(&m->lock, NULL);
    ASSERT(r == 0);
    *ret = TAKE(m);
    return 0;
}

static void wake(struct mailbox *m) {
    if (m->waking)
        return;
    m->waking = true;
    uv_async_send(&m->wake);
}

int mailbox_send(struct mailbox *m, struct list *item) {
    int r = 1;

    pthread_mutex_lock(&m->lock);
    size_t length = atomic_load_explicit(&m->length, memory_order_relaxed);
    if (!m->closed && length < m->max) {
        list_add_tail(&m->items, item);
        atomic_store_explicit(&m->length, length + 1, memory_order_relaxed);
        wake(m);
        r = 0;
    }
    pthread_mutex_unlock(&m->lock);
    return r;
}

void mailbox_put_all(struct mailbox *m, struct list *items) {
    struct list *e;

    pthread_mutex_lock(&m->lock);
    size_t length = atomic_load_explicit(&m->length, memory_order_relaxed);
    while (!m->closed && length < m->max && (e = list_pop(items))) {
        list_add_tail(&m->items, e);
        length++;
    }
    atomic_store_explicit(&m->length, length, memory_order_relaxed);
    pthread_mutex_unlock(&m->lock);
}

void mailbox_wake(struct mailbox *m) {
    pthread_mutex_lock(&m->lock);
    if (!m->closed && !list_empty(&m->items))
        wake(m);
    pthread_mutex_unlock(&m->lock);
}

size_t mailbox_length(const struct mailbox *m) {
    return atomic_load_explicit(&m->length, memory_order_relaxed);
}

void mailbox_close(struct mailbox *m) {
    struct list items = LIST_INIT(items);

    ASSERT(loop_is_mine(m->loop));
    if (uv_is_closing((uv_handle_t *)&m->wake))
        return;
    swap_out(m, &items, true);
    uv_close((uv_handle_t *)&m->wake, on_closed);
    deliver(m, &items);
}

void mailbox_free(struct mailbox *m) {
    if (!m)
        return;
    ASSERT(loop_is_mine(m->loop) && m->closed);
    m->freed = true;
    if (m->handle_closed)
        mailbox_destroy(m);
}
