/*
 * The thread of a RabbitMQ sink.
 *
 *     connecting --ok--> running --lost, refused, a confirm overdue--> waiting (backoff) --> connecting
 *
 * Running: read what came (confirms, returns, closing), publish from the queue while fewer than RABBIT_UNCONFIRMED_MAX
 * wait, sleep on socket and eventfd. While there is no connection and the last try failed, deliveries fail at once,
 * known not to have arrived. The unconfirmed ones stand in a ring by their delivery tag, which counts from 1 on each
 * channel.
 */
#include "forward/rabbit_thread.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "core/retry.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

enum { PUBLISH_BURST = 64, POLL_MAX_MS = 1000 };

struct slot {
    struct delivery *d; /* NULL = ended before an older one */
    uint64_t sent_ms;
    bool returned;
};

struct rabbit_work {
    struct rabbit_shared *s;
    struct rabbit_conn *conn;
    struct slot ring[RABBIT_UNCONFIRMED_MAX]; /* of tag at tag % size */
    uint64_t first_tag, next_tag;
    char error[200]; /* why there is no connection, "" = not tried yet */
    int failures;    /* to connect, or of connections that confirmed nothing */
    struct log_limit log;
};

/* --- the shared part --- */

int rabbit_shared_new(const struct sub_conf *sub, const struct guard *guard, struct rabbit_shared **ret,
                      struct errmsg *e) {
    struct rabbit_shared *s = mem_zalloc(sizeof(*s));
    pthread_condattr_t attr;

    if (!s)
        return err_set(e, -ENOMEM, "out of memory");
    pthread_mutex_init(&s->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&s->changed, &attr);
    pthread_condattr_destroy(&attr);
    list_init(&s->queue);
    s->kill_fd = -1;
    s->opening = true;
    s->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    s->work = mem_zalloc(sizeof(*s->work));
    int r = s->wake_fd < 0 || !s->work ? err_set(e, -ENOMEM, "out of memory or descriptors")
                                       : rabbit_target_init(&s->target, sub, guard, e);
    if (r < 0) {
        rabbit_shared_free(s);
        return r;
    }
    *ret = s;
    return 0;
}

void rabbit_shared_free(struct rabbit_shared *s) {
    if (!s)
        return;
    if (s->kill_fd >= 0)
        close(s->kill_fd);
    if (s->wake_fd >= 0)
        close(s->wake_fd);
    rabbit_target_deinit(&s->target);
    mem_free(s->work);
    pthread_cond_destroy(&s->changed);
    pthread_mutex_destroy(&s->lock);
    mem_free(s);
}

void rabbit_wake(struct rabbit_shared *s) {
    static const uint64_t one = 1;
    ssize_t n = write(s->wake_fd, &one, sizeof(one));

    UNUSED(n); /* full: it is awake */
}

static uint64_t now_ms(void) {
    return clock_mono_ns() / NS_PER_MS;
}

/* --- ends of deliveries --- */

/* error NULL: what stands in the delivery. The mailbox has room for all that the loop hands out. */
static void give_back(struct rabbit_work *w, struct delivery *d, enum sink_verdict v, bool unknown, const char *error) {
    d->verdict = v;
    d->unknown = unknown;
    if (d->end.class == ATTEMPT_UNSAID && v == SINK_RETRY)
        d->end.class = unknown ? ATTEMPT_BROKEN : ATTEMPT_UNREACHABLE;
    if (error)
        snprintf(d->error, sizeof(d->error), "%s", error);
    int r = mailbox_send(w->s->back, &d->link);
    ASSERT(r == 0);
}

static struct slot *slot_of(struct rabbit_work *w, uint64_t tag) {
    return &w->ring[tag % RABBIT_UNCONFIRMED_MAX];
}

static void settle(struct rabbit_work *w, uint64_t tag, bool ack) {
    struct slot *slot = slot_of(w, tag);
    struct delivery *d = TAKE(slot->d);

    if (!d)
        return;
    if (slot->returned) {
        give_back(w, d, SINK_REJECT, false, NULL);
    } else if (ack) {
        give_back(w, d, SINK_OK, false, "");
    } else {
        sink_says(d, ATTEMPT_NACKED, 0);
        give_back(w, d, SINK_RETRY, false, "the broker refused it (basic.nack)");
    }
}

static void on_confirmed(void *arg, uint64_t tag, bool multiple, bool ack) {
    struct rabbit_work *w = arg;

    if (multiple && tag == 0) /* all of them */
        tag = w->next_tag - 1;
    if (tag >= w->next_tag) /* never published */
        return;
    for (uint64_t t = multiple ? w->first_tag : MAX(tag, w->first_tag); t <= tag; t++)
        settle(w, t, ack);
    while (w->first_tag < w->next_tag && !slot_of(w, w->first_tag)->d)
        w->first_tag++;
    w->failures = 0;
}

/* Marks the oldest one of that id; its confirm comes next and gives it back. */
static void on_returned(void *arg, struct bytes message_id, const char *why) {
    struct rabbit_work *w = arg;
    char id[MESSAGE_ID_TEXT];

    for (uint64_t t = w->first_tag; t < w->next_tag; t++) {
        struct slot *slot = slot_of(w, t);
        if (!slot->d || slot->returned)
            continue;
        delivery_message_id(slot->d, '.', id);
        if (bytes_eq_str(message_id, id)) {
            slot->returned = true;
            sink_says(slot->d, ATTEMPT_UNROUTABLE, 0);
            snprintf(slot->d->error, sizeof(slot->d->error), "%s", why);
            return;
        }
    }
}

static void fail_unconfirmed(struct rabbit_work *w, bool unknown, const char *error) {
    for (; w->first_tag < w->next_tag; w->first_tag++) {
        struct slot *slot = slot_of(w, w->first_tag);
        if (slot->d && slot->returned)
            give_back(w, TAKE(slot->d), SINK_REJECT, false, NULL);
        else if (slot->d)
            give_back(w, TAKE(slot->d), SINK_RETRY, unknown, error);
    }
}

static struct delivery *queue_pop(struct rabbit_shared *s) {
    pthread_mutex_lock(&s->lock);
    struct list *e = list_pop(&s->queue);
    pthread_mutex_unlock(&s->lock);
    return e ? LIST_ENTRY(e, struct delivery, link) : NULL;
}

static void fail_queue(struct rabbit_work *w, const char *error) {
    struct delivery *d;

    while ((d = queue_pop(w->s)))
        give_back(w, d, SINK_RETRY, false, error);
}

/* --- running --- */

static void set_sending(struct rabbit_shared *s, uint64_t since_ns, bool blocked) {
    pthread_mutex_lock(&s->lock);
    s->sending_since_ns = since_ns;
    s->blocked = blocked;
    pthread_mutex_unlock(&s->lock);
}

static int publish(struct rabbit_work *w, struct delivery *d) {
    struct slot *slot = slot_of(w, w->next_tag);

    *slot = (struct slot){.d = d, .sent_ms = now_ms()};
    w->next_tag++; /* before the call: if it fails half-way, the broker may have it */
    int r = rabbit_conn_publish(w->conn, d);
    if (r == 1) {
        w->next_tag--;
        slot->d = NULL;
        give_back(w, d, SINK_REJECT, false, "its headers are larger than a frame of this broker");
        return 0;
    }
    return r;
}

/* Some of the queue; more = there is more that may go. */
static int publish_burst(struct rabbit_work *w, bool *more) {
    int r = 0;

    *more = false;
    if (rabbit_conn_blocked(w->conn)) {
        set_sending(w->s, 0, true);
        return 0;
    }
    set_sending(w->s, clock_mono_ns(), false);
    for (int i = 0; r == 0 && w->next_tag - w->first_tag < RABBIT_UNCONFIRMED_MAX; i++) {
        struct delivery *d = NULL;
        if (i == PUBLISH_BURST || !(d = queue_pop(w->s))) {
            *more = i == PUBLISH_BURST;
            break;
        }
        r = publish(w, d);
    }
    set_sending(w->s, 0, false);
    return r;
}

/*
 * Unconfirmed ones whose time is over. A broker that is blocked, or that got one late because it was blocked, will
 * confirm late: only that delivery is given up. One that was silent for long is given up with its connection.
 */
static int end_overdue(struct rabbit_work *w) {
    uint64_t now = now_ms(), silent_ms = (uint64_t)w->s->target.timeout_ms / 2;

    for (; w->first_tag < w->next_tag; w->first_tag++) {
        struct slot *slot = slot_of(w, w->first_tag);
        if (!slot->d)
            continue;
        if (rabbit_deadline(slot->d) > now)
            return 0;
        if (!rabbit_conn_blocked(w->conn) && now >= slot->sent_ms + silent_ms)
            return -ETIMEDOUT;
        sink_says(slot->d, ATTEMPT_TIMEOUT, 0);
        give_back(w, TAKE(slot->d), SINK_RETRY, true, RABBIT_LATE);
    }
    return 0;
}

/* The unconfirmed one that must end first; 0 = none. */
static uint64_t next_deadline(struct rabbit_work *w) {
    return w->first_tag < w->next_tag ? rabbit_deadline(slot_of(w, w->first_tag)->d) : 0;
}

static void sleep_on(struct rabbit_work *w, int fd, uint64_t until_ms) {
    struct pollfd p[2] = {{.fd = w->s->wake_fd, .events = POLLIN}, {.fd = fd, .events = POLLIN}};
    uint64_t now = now_ms(), count;
    uint64_t ms = until_ms == 0 ? POLL_MAX_MS : until_ms > now ? MIN(until_ms - now, (uint64_t)POLL_MAX_MS) : 0;

    poll(p, fd >= 0 ? 2 : 1, (int)ms);
    if (p[0].revents) {
        ssize_t n = read(w->s->wake_fd, &count, sizeof(count));
        UNUSED(n);
    }
}

static bool is_closing(struct rabbit_shared *s) {
    pthread_mutex_lock(&s->lock);
    bool closing = s->closing;
    pthread_mutex_unlock(&s->lock);
    return closing;
}

/* Until the connection is over or the sink closes; w->error says why. */
static void run(struct rabbit_work *w) {
    const struct rabbit_events ev = {.confirmed = on_confirmed, .returned = on_returned, .arg = w};

    while (!is_closing(w->s)) {
        bool more = false;
        int r = rabbit_conn_read(w->conn, &ev);
        if (r == 0) {
            r = publish_burst(w, &more);
            int last = r < 0 ? rabbit_conn_read(w->conn, &ev) : 0; /* what still came counts, and may say why */
            UNUSED(last);
        }
        if (r < 0) {
            snprintf(w->error, sizeof(w->error), "%s", rabbit_conn_why(w->conn));
            return;
        }
        if (end_overdue(w) < 0) {
            snprintf(w->error, sizeof(w->error), "no confirm within %lld ms", (long long)w->s->target.timeout_ms);
            return;
        }
        if (!more)
            sleep_on(w, rabbit_conn_fd(w->conn), next_deadline(w));
    }
    snprintf(w->error, sizeof(w->error), "the sink was closed");
}

/* --- connecting --- */

/* The loop may have gone while we were away: false, and all is freed. */
static bool opened(struct rabbit_shared *s, int fd) {
    pthread_mutex_lock(&s->lock);
    bool orphaned = s->orphaned;
    s->opening = false;
    s->kill_fd = !orphaned && fd >= 0 ? fcntl(fd, F_DUPFD_CLOEXEC, 3) : -1;
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->lock);
    return !orphaned;
}

static void set_opening(struct rabbit_shared *s) {
    pthread_mutex_lock(&s->lock);
    s->opening = true;
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->lock);
}

static void disconnect(struct rabbit_work *w, bool polite) {
    struct rabbit_shared *s = w->s;

    rabbit_conn_close(TAKE(w->conn), polite);
    pthread_mutex_lock(&s->lock);
    if (s->kill_fd >= 0)
        close(s->kill_fd);
    s->kill_fd = -1;
    pthread_mutex_unlock(&s->lock);
}

/* Fails at once what comes while there is no connection. */
static void wait_backoff(struct rabbit_work *w) {
    static const struct backoff backoff = {.initial_ms = 200, .max_ms = 10000, .factor = 2, .jitter = 0.5};
    uint64_t until = now_ms() + (uint64_t)backoff_delay_ms(&backoff, w->failures, backoff_random());

    while (!is_closing(w->s) && now_ms() < until) {
        fail_queue(w, w->error);
        sleep_on(w, -1, until);
    }
}

/* One connection from its opening to its end. False: the loop has gone. */
static bool live(struct rabbit_work *w) {
    const struct rabbit_target *t = &w->s->target;
    struct errmsg e = ERRMSG_NULL;

    set_opening(w->s);
    int r = rabbit_conn_open(t, &w->conn, &e);
    if (!opened(w->s, r == 0 ? rabbit_conn_fd(w->conn) : -1))
        return false;
    w->failures++; /* until something is confirmed */
    if (r < 0) {
        snprintf(w->error, sizeof(w->error), "%.190s", e.text);
        if (log_limit_pass(&w->log, 30 * NS_PER_S))
            LOG_WARN("forward", "subscription %s: %s", t->subscription, w->error);
        return true;
    }
    LOG_INFO("forward", "subscription %s: connected to %s:%d", t->subscription, t->host, t->port);
    w->first_tag = w->next_tag = 1;
    run(w);
    bool closing = is_closing(w->s), refused = rabbit_conn_refused(w->conn);
    if (!closing && log_limit_pass(&w->log, 30 * NS_PER_S))
        LOG_WARN("forward", "subscription %s: %s", t->subscription, w->error);
    disconnect(w, closing);
    fail_unconfirmed(w, !refused, w->error);
    return true;
}

void *rabbit_thread(void *shared) {
    struct rabbit_shared *s = shared;
    struct rabbit_work *w = s->work;

    w->s = s;
    while (!is_closing(s)) {
        if (!live(w)) {
            rabbit_conn_close(w->conn, false);
            rabbit_shared_free(s);
            return NULL;
        }
        if (!is_closing(s))
            wait_backoff(w);
    }
    fail_queue(w, "the sink was closed");
    pthread_mutex_lock(&s->lock);
    s->exited = true;
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->lock);
    return NULL;
}
