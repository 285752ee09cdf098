#include "forward/way_home.h"

#include "base/mem.h"

#include <pthread.h>

struct way_home {
    pthread_mutex_t lock;
    struct mailbox *back; /* NULL: nobody is there */
    int refs;             /* both under lock */
};

int way_home_new(struct loop *l, size_t max_items, void (*receive)(void *arg, struct list *items), void *arg,
                 struct way_home **ret) {
    struct way_home *w = mem_zalloc(sizeof(*w));
    int r = w ? mailbox_new(l, max_items, receive, arg, &w->back) : -ENOMEM;

    if (r < 0) {
        mem_free(w);
        return r;
    }
    pthread_mutex_init(&w->lock, NULL);
    w->refs = 1;
    *ret = w;
    return 0;
}

void way_home_close(struct way_home *w) {
    pthread_mutex_lock(&w->lock);
    struct mailbox *back = TAKE(w->back);
    pthread_mutex_unlock(&w->lock);
    mailbox_close(back);
    mailbox_free(back);
}

struct way_home *way_home_ref(struct way_home *w) {
    pthread_mutex_lock(&w->lock);
    w->refs++;
    pthread_mutex_unlock(&w->lock);
    return w;
}

void way_home_unref(struct way_home *w) {
    if (!w)
        return;
    pthread_mutex_lock(&w->lock);
    bool last = --w->refs == 0;
    pthread_mutex_unlock(&w->lock);
    if (!last)
        return;
    pthread_mutex_destroy(&w->lock);
    mem_free(w);
}

void way_home_bring(struct way_home *w, struct list *link, void *item) {
    pthread_mutex_lock(&w->lock);
    bool home = w->back && mailbox_send(w->back, link) == 0;
    pthread_mutex_unlock(&w->lock);
    if (!home)
        mem_free(item);
    way_home_unref(w);
}
