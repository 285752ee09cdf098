/*
 * A thread that waits in one place only.
 *
 * Everything that belongs to a loop is touched on the loop's thread, so it needs no locks. What other threads want done
 * is posted: append under the lock, wake under the lock, swap the whole list out, run the functions unlocked. The wake
 * is sent under the lock so that whoever sets `stopped` (also under the lock) knows that no other thread will touch the
 * handle again.
 *
 * End of life: loop_stop() refuses further posts and wakes the loop a last time. That wake runs every post that got in
 * and then closes the handle. uv_run() returns when the owners have closed their handles as well.
 */
#include "base/mem.h"
#include "loop/loop_private.h"

struct post {
    struct list link;
    void (*fn)(void *arg);
    void *arg;
};

static __thread struct loop *current; /* the loop that runs on this thread */

static void on_wake(uv_async_t *handle) {
    struct loop *l = CONTAINER_OF(handle, struct loop, wake);
    struct list posts = LIST_INIT(posts);
    struct list *e;
    bool last;

    pthread_mutex_lock(&l->lock);
    list_splice_tail(&posts, &l->posts);
    last = l->stopped;
    pthread_mutex_unlock(&l->lock);

    while ((e = list_pop(&posts))) {
        struct post *p = LIST_ENTRY(e, struct post, link);
        void (*fn)(void *) = p->fn;
        void *arg = p->arg;
        mem_free(p);
        fn(arg);
    }
    /* `last` was read with the list: if a post called loop_stop() just now, one more wake is under way. */
    if (last && !uv_is_closing((uv_handle_t *)&l->wake))
        uv_close((uv_handle_t *)&l->wake, NULL);
}

int loop_new(const char *name, struct loop **ret) {
    CLEANUP_FREE struct loop *l = mem_zalloc(sizeof(*l));
    int r;

    if (!l)
        return -ENOMEM;
    snprintf(l->name, sizeof(l->name), "%s", name);
    list_init(&l->posts);
    r = uv_loop_init(&l->uv);
    if (r < 0)
        return r;
    r = uv_async_init(&l->uv, &l->wake, on_wake);
    if (r < 0) {
        uv_loop_close(&l->uv);
        return r;
    }
    r = pthread_mutex_init(&l->lock, NULL);
    ASSERT(r == 0);
    *ret = TAKE(l);
    return 0;
}

void loop_free(struct loop *l) {
    if (!l)
        return;
    ASSERT(!l->started && !atomic_load(&l->running));
    loop_stop(l);
    /*
     * Close callbacks that are still due, and the posts of a loop that never ran. Each turn leads to at most one more.
     */
    for (int turns = 0; turns < 64 && uv_run(&l->uv, UV_RUN_NOWAIT); turns++)
        ;
    int r = uv_loop_close(&l->uv);
    ASSERT(r == 0); /* else an owner has left a handle open */
    pthread_mutex_destroy(&l->lock);
    mem_free(l);
}

uv_loop_t *loop_uv(struct loop *l) {
    return &l->uv;
}

static void run(struct loop *l) {
    struct loop *before = current;

    current = l;
    uv_run(&l->uv, UV_RUN_DEFAULT);
    current = before;
    atomic_store(&l->running, false);
}

static void *thread_main(void *arg) {
    struct loop *l = arg;

    pthread_setname_np(pthread_self(), l->name);
    run(l);
    return NULL;
}

int loop_start(struct loop *l) {
    if (l->started || atomic_exchange(&l->running, true))
        return -EALREADY;
    l->started = true;
    int r = pthread_create(&l->thread, NULL, thread_main, l);
    if (r != 0) {
        l->started = false;
        atomic_store(&l->running, false);
        return -r;
    }
    return 0;
}

int loop_run(struct loop *l) {
    if (l->started || atomic_exchange(&l->running, true))
        return -EALREADY;
    run(l);
    return 0;
}

void loop_join(struct loop *l) {
    if (!l->started)
        return;
    int r = pthread_join(l->thread, NULL);
    ASSERT(r == 0); /* not from the loop's own thread */
    l->started = false;
}

void loop_stop(struct loop *l) {
    ASSERT(loop_is_mine(l));
    pthread_mutex_lock(&l->lock);
    if (!l->stopped) {
        l->stopped = true;
        uv_async_send(&l->wake);
    }
    pthread_mutex_unlock(&l->lock);
}

bool loop_is_mine(const struct loop *l) {
    return current == l || !atomic_load(&l->running);
}

uint64_t loop_now_ns(struct loop *l) {
    return uv_now(&l->uv) * 1000000u;
}

int loop_post(struct loop *l, void (*fn)(void *arg), void *arg) {
    CLEANUP_FREE struct post *p = mem_alloc(sizeof(*p));
    int r = -ECANCELED;

    if (!p)
        return -ENOMEM;
    p->fn = fn;
    p->arg = arg;
    pthread_mutex_lock(&l->lock);
    if (!l->stopped) {
        list_add_tail(&l->posts, &p->link);
        p = NULL;
        uv_async_send(&l->wake);
        r = 0;
    }
    pthread_mutex_unlock(&l->lock);
    return r;
}
