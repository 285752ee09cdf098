/* One list for the process, short and seldom used: a plain lock is enough. */
#include "forward/lag.h"

#include "base/list.h"
#include "base/mem.h"

#include <pthread.h>

enum { SERIES_MAX = 1000 };

struct lag {
    struct list link;
    struct metric *series; /* shared by the workers */
    double seconds;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct list all = LIST_INIT(all); /* under lock, as are the numbers */

static void publish(struct metric *series) {
    double max = 0;

    LIST_FOR (e, &all) {
        struct lag *l = LIST_ENTRY(e, struct lag, link);
        if (l->series == series)
            max = MAX(max, l->seconds);
    }
    metric_set(series, max);
}

struct lag *lag_new(const char *subscription) {
    struct lag *l = mem_zalloc(sizeof(*l));

    if (!l)
        return NULL;
    struct metric_family *f =
        metric_family(METRIC_GAUGE, "txmsg_oldest_undelivered_seconds", "subscription",
                      "Age of the oldest message that a subscription has not passed.", SERIES_MAX);
    l->series = metric_get(f, subscription);
    pthread_mutex_lock(&lock);
    list_add_tail(&all, &l->link);
    publish(l->series);
    pthread_mutex_unlock(&lock);
    return l;
}

void lag_set(struct lag *l, double seconds) {
    pthread_mutex_lock(&lock);
    l->seconds = seconds;
    publish(l->series);
    pthread_mutex_unlock(&lock);
}

void lag_free(struct lag *l) {
    if (!l)
        return;
    pthread_mutex_lock(&lock);
    list_del(&l->link);
    publish(l->series);
    pthread_mutex_unlock(&lock);
    mem_free(l);
}
