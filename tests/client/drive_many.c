/* Many operations at once: asynchronous ones from one thread, and waiting ones from many. Each prints how its operations ended, by status. */
#include "drive.h"

#include <poll.h>
#include <pthread.h>

enum { LOWEST = TXMSG_ERROR_ADDRESS, STATUSES = TXMSG_UNKNOWN - TXMSG_ERROR_ADDRESS + 1 };

struct many {
    struct drive *drive;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    int open, counts[STATUSES], waited_in_callback;
    const char *topic;
    int each;
};

struct chain {
    struct many *many;
    txmsg_id id;
    bool last;
};

static void count(struct many *m, int status, bool ended) {
    pthread_mutex_lock(&m->lock);
    m->counts[status - LOWEST]++;
    m->open -= ended;
    pthread_cond_signal(&m->changed);
    pthread_mutex_unlock(&m->lock);
}

static void on_done(void *arg, const txmsg_result *result) {
    struct chain *ch = arg;
    struct many *m = ch->many;
    const txmsg_operation cancel = {.kind = TXMSG_CANCEL, .id = &ch->id};
    int status = txmsg_result_status(result);

    ASSERT(strcmp(txmsg_result_id(result)->text, ch->id.text) == 0);
    if (!m->drive->dispatch && (txmsg_confirm(m->drive->client, &ch->id, NULL, NULL) != TXMSG_ERROR_CALLBACK ||
                                txmsg_get(m->drive->client, &ch->id, NULL, NULL) != TXMSG_ERROR_CALLBACK ||
                                txmsg_batch(m->drive->client, &cancel, 1, NULL) != TXMSG_ERROR_CALLBACK))
        m->waited_in_callback++;
    if (txmsg_client_free(m->drive->client) != TXMSG_ERROR_CALLBACK)
        m->waited_in_callback++;
    if (status == TXMSG_OK && !ch->last) {
        ch->last = true;
        status = txmsg_confirm_async(m->drive->client, &ch->id, NULL, on_done, ch);
        if (status == TXMSG_OK)
            return;
    }
    free(ch);
    count(m, status, true);
}

static void wait_all(struct many *m) {
    struct pollfd fd = {.fd = m->drive->dispatch ? txmsg_client_fd(m->drive->client) : -1, .events = POLLIN};

    pthread_mutex_lock(&m->lock);
    while (m->open > 0) {
        if (!m->drive->dispatch) {
            pthread_cond_wait(&m->changed, &m->lock);
            continue;
        }
        pthread_mutex_unlock(&m->lock);
        ASSERT(poll(&fd, 1, -1) == 1);
        ASSERT(txmsg_client_dispatch(m->drive->client, 7) >= 0);
        pthread_mutex_lock(&m->lock);
    }
    pthread_mutex_unlock(&m->lock);
}

static void say(const struct many *m) {
    for (int i = 0; i < STATUSES; i++)
        if (m->counts[i])
            printf("%s=%d ", txmsg_status_name(i + LOWEST), m->counts[i]);
    printf("wrong=%d\n", m->waited_in_callback);
    fflush(stdout);
}

static void prepare_many(struct drive *d, int n, const char *topic, bool confirm) {
    struct many m = {.drive = d, .lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER, .open = n};
    txmsg_message *message = txmsg_message_new(topic);
    const txmsg_message *const messages[] = {message};

    for (int i = 0; i < n; i++) {
        struct chain *ch = calloc(1, sizeof(*ch));
        int e;

        ch->many = &m;
        ch->last = !confirm;
        ASSERT(txmsg_id_make(&ch->id) == TXMSG_OK);
        e = txmsg_prepare_async(d->client, &ch->id, messages, 1, NULL, on_done, ch);
        if (e != TXMSG_OK) {
            free(ch);
            count(&m, e, true);
        }
    }
    wait_all(&m);
    txmsg_message_free(message);
    say(&m);
}

void drive_async(struct drive *d, int n, const char *topic) {
    prepare_many(d, n, topic, true);
}

void drive_flood(struct drive *d, int n, const char *topic) {
    prepare_many(d, n, topic, false);
}

static void *publish_some(void *arg) {
    struct many *m = arg;
    txmsg_message *message = txmsg_message_new(m->topic);
    const txmsg_message *const messages[] = {message};

    for (int i = 0; i < m->each; i++) {
        txmsg_id id = {""};
        count(m, txmsg_publish(m->drive->client, &id, messages, 1, NULL, NULL), false);
    }
    txmsg_message_free(message);
    return NULL;
}

void drive_threads(struct drive *d, int threads, int n, const char *topic) {
    struct many m = {
        .drive = d, .lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER, .topic = topic, .each = n};
    pthread_t *all = calloc((size_t)threads, sizeof(*all));

    for (int i = 0; i < threads; i++)
        ASSERT(pthread_create(&all[i], NULL, publish_some, &m) == 0);
    for (int i = 0; i < threads; i++)
        pthread_join(all[i], NULL);
    free(all);
    say(&m);
}
