/* See wire.h. One thread, one mutex; the thread holds it while it carries bytes, never while it waits. */
#include "wire.h"

#include <arpa/inet.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { LINKS = 1024, TURN_MS = 5, SYNC_BYTES = 5 };

struct bag {
    uint8_t *p;
    size_t n, cap, seen; /* seen: up to here messages have been looked at */
};

struct link {
    int client, server; /* -1 = closed */
    bool lane, typed, frozen_in, frozen_out, snapped, matched, ended;
    int pid;
    char state[6];
    struct bag in, out;
};

struct wire {
    struct place to;
    int listener;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    _Atomic bool stop;
    bool refuse;
    char stmt[64]; /* "" = no trap */
    enum wire_at at;
    int snapped; /* which link; -1 = none yet */
    struct link *links[LINKS];
    int links_n;
};

/* --- messages --- */

static uint32_t big_endian(const uint8_t *p) {
    uint32_t v;
    memcpy(&v, p, sizeof(v));
    return ntohl(v);
}

/* Bytes of the message at p, 0 = not all there yet. */
static size_t message_at(const uint8_t *p, size_t n, bool typed) {
    size_t head = typed ? 5 : 4;
    if (n < head)
        return 0;
    size_t all = big_endian(p + head - 4) + (typed ? 1u : 0u);
    return all <= n ? all : 0;
}

static void put(struct bag *b, const uint8_t *p, size_t n) {
    if (b->n + n > b->cap) {
        b->cap = (b->n + n) * 2;
        b->p = realloc(b->p, b->cap);
    }
    memcpy(b->p + b->n, p, n);
    b->n += n;
}

static void take(struct bag *b, size_t n) {
    memmove(b->p, b->p + n, b->n - n);
    b->n -= n;
    b->seen = b->seen > n ? b->seen - n : 0;
}

/* Bind names its statement behind the portal's name; Parse of an unnamed statement has the text there. */
static bool names(const uint8_t *m, size_t n, const char *stmt) {
    if (m[0] != 'B' && m[0] != 'P')
        return false;
    const char *first = (const char *)m + 5;
    size_t k = strnlen(first, n - 5) + 1;
    return 5 + k < n && (m[0] == 'B' || k == 1) && !strcmp(first + k, stmt);
}

static bool is_lane(const uint8_t *m, size_t n) {
    static const char mark[] = "txmsg-lane-";
    for (size_t i = 0; i + sizeof(mark) <= n; i++)
        if (!memcmp(m + i, mark, sizeof(mark) - 1))
            return true;
    return false;
}

static void note_error(struct link *l, const uint8_t *m, size_t n) {
    for (size_t i = 5; i < n && m[i]; i += strnlen((const char *)m + i, n - i) + 1)
        if (m[i] == 'C')
            snprintf(l->state, sizeof(l->state), "%s", (const char *)m + i + 1);
}

/* --- links --- */

static void close_side(int *fd) {
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

static void close_both(struct link *l) {
    close_side(&l->client);
    close_side(&l->server);
    l->ended = true;
}

static void snap(struct wire *w, int id) {
    w->links[id]->snapped = true;
    w->snapped = id;
    w->stmt[0] = 0;
    pthread_cond_broadcast(&w->changed);
}

/* A whole group is in the bag. */
static void group(struct wire *w, int id, size_t n) {
    struct link *l = w->links[id];
    bool trapped = l->matched && w->stmt[0];
    l->matched = false;
    size_t pass = !trapped ? n : w->at == WIRE_HELD ? 0 : w->at == WIRE_BEFORE_SYNC ? n - SYNC_BYTES : n;
    if (trapped) {
        l->snapped = false;
        l->frozen_in = true;
        l->frozen_out = w->at >= WIRE_AFTER_SYNC;
    }
    if (!tcp_send(l->server, l->in.p, pass))
        close_both(l);
    take(&l->in, pass);
    if (trapped && w->at != WIRE_BEFORE_ANSWER)
        snap(w, id);
}

static void from_client(struct wire *w, int id) {
    struct link *l = w->links[id];
    while (!l->frozen_in && l->server >= 0) {
        const uint8_t *m = l->in.p + l->in.seen;
        size_t n = message_at(m, l->in.n - l->in.seen, l->typed);
        if (n == 0)
            return;
        if (l->typed && l->lane && w->stmt[0] && names(m, n, w->stmt))
            l->matched = true;
        bool sync = l->typed && m[0] == 'S', alone = !l->typed || m[0] == 'p' || m[0] == 'X';
        if (!l->typed)
            l->lane = is_lane(m, n);
        l->typed = true;
        l->in.seen += n;
        if (sync || alone)
            group(w, id, l->in.seen);
    }
}

static void from_server(struct wire *w, int id) {
    struct link *l = w->links[id];
    size_t n;
    for (; (n = message_at(l->out.p + l->out.seen, l->out.n - l->out.seen, true)); l->out.seen += n) {
        const uint8_t *m = l->out.p + l->out.seen;
        if (m[0] == 'K')
            l->pid = (int)big_endian(m + 5);
        else if (m[0] == 'E')
            note_error(l, m, n);
        else if (m[0] == 'Z' && l->frozen_out && !l->snapped)
            snap(w, id);
    }
    if (l->frozen_out)
        return;
    if (l->client >= 0 && !tcp_send(l->client, l->out.p, l->out.n))
        close_both(l);
    take(&l->out, l->out.n);
}

static void carry(struct wire *w, int id, bool client) {
    static uint8_t b[65536];
    struct link *l = w->links[id];
    int fd = client ? l->client : l->server;
    ssize_t n = fd < 0 ? -1 : recv(fd, b, sizeof(b), MSG_DONTWAIT);
    if (n <= 0) {
        close_both(l);
        pthread_cond_broadcast(&w->changed);
        return;
    }
    put(client ? &l->in : &l->out, b, (size_t)n);
    if (client)
        from_client(w, id);
    else
        from_server(w, id);
}

static void accept_one(struct wire *w) {
    int fd = tcp_accept(w->listener);
    int server = fd >= 0 && !w->refuse && w->links_n < LINKS ? tcp_dial(&w->to) : -1;
    if (server < 0) {
        close_side(&fd);
        return;
    }
    struct link *l = calloc(1, sizeof(*l));
    *l = (struct link){.client = fd, .server = server};
    w->links[w->links_n++] = l;
}

static void *work(void *arg) {
    struct wire *w = arg;
    static struct pollfd f[2 * LINKS + 1];
    static int whose[2 * LINKS + 1];
    while (!atomic_load(&w->stop)) {
        int n = 1;
        f[0] = (struct pollfd){.fd = w->listener, .events = POLLIN};
        pthread_mutex_lock(&w->lock);
        for (int i = 0; i < w->links_n; i++) {
            const struct link *l = w->links[i];
            whose[n] = i;
            if (l->client >= 0 && !l->frozen_in)
                f[n++] = (struct pollfd){.fd = l->client, .events = POLLIN};
            whose[n] = -i - 1;
            if (l->server >= 0)
                f[n++] = (struct pollfd){.fd = l->server, .events = POLLIN};
        }
        pthread_mutex_unlock(&w->lock);
        if (poll(f, (nfds_t)n, TURN_MS) <= 0)
            continue;
        pthread_mutex_lock(&w->lock);
        if (f[0].revents)
            accept_one(w);
        for (int i = 1; i < n; i++) {
            const struct link *l = w->links[whose[i] >= 0 ? whose[i] : -whose[i] - 1];
            /* meanwhile the test may have closed it */
            if (f[i].revents && f[i].fd == (whose[i] >= 0 ? l->client : l->server))
                carry(w, whose[i] >= 0 ? whose[i] : -whose[i] - 1, whose[i] >= 0);
        }
        pthread_mutex_unlock(&w->lock);
    }
    return NULL;
}

/* --- outside --- */

int wire_start(PGconn *to, struct wire **ret, int *port) {
    struct wire *w = calloc(1, sizeof(*w));
    *w = (struct wire){.to = place_of(to), .snapped = -1};
    pthread_mutex_init(&w->lock, NULL);
    pthread_cond_init(&w->changed, NULL);
    w->listener = tcp_listen(port);
    *ret = w;
    return w->listener >= 0 && pthread_create(&w->thread, NULL, work, w) == 0 ? 0 : -1;
}

void wire_stop(struct wire *w) {
    atomic_store(&w->stop, true);
    pthread_join(w->thread, NULL);
    for (int i = 0; i < w->links_n; i++) {
        close_both(w->links[i]);
        free(w->links[i]->in.p);
        free(w->links[i]->out.p);
        free(w->links[i]);
    }
    close(w->listener);
    free(w);
}

void wire_arm(struct wire *w, const char *stmt, enum wire_at at) {
    pthread_mutex_lock(&w->lock);
    snprintf(w->stmt, sizeof(w->stmt), "%s", stmt);
    w->at = at;
    w->snapped = -1;
    pthread_mutex_unlock(&w->lock);
}

int wire_wait(struct wire *w, unsigned seconds) {
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += (time_t)seconds;
    pthread_mutex_lock(&w->lock);
    int r = 0;
    while (w->snapped < 0 && r == 0)
        r = pthread_cond_timedwait(&w->changed, &w->lock, &until);
    int id = w->snapped;
    pthread_mutex_unlock(&w->lock);
    return id;
}

int wire_backend(struct wire *w, int id) {
    pthread_mutex_lock(&w->lock);
    int pid = w->links[id]->pid;
    pthread_mutex_unlock(&w->lock);
    return pid;
}

void wire_go(struct wire *w, int id) {
    pthread_mutex_lock(&w->lock);
    struct link *l = w->links[id];
    l->frozen_in = l->frozen_out = l->snapped = false;
    if (l->server >= 0 && l->client >= 0) {
        if (!tcp_send(l->server, l->in.p, l->in.n) || !tcp_send(l->client, l->out.p, l->out.n))
            close_both(l);
        take(&l->in, l->in.n);
        take(&l->out, l->out.n);
    }
    pthread_mutex_unlock(&w->lock);
}

void wire_cut(struct wire *w, int id) {
    pthread_mutex_lock(&w->lock);
    close_both(w->links[id]);
    pthread_mutex_unlock(&w->lock);
}

void wire_drop(struct wire *w, int id) {
    pthread_mutex_lock(&w->lock);
    close_side(&w->links[id]->client);
    w->links[id]->frozen_out = false;
    w->links[id]->state[0] = 0;
    pthread_mutex_unlock(&w->lock);
}

bool wire_ended(struct wire *w, int id, char state[6]) {
    pthread_mutex_lock(&w->lock);
    bool ended = w->links[id]->ended;
    memcpy(state, w->links[id]->state, 6);
    pthread_mutex_unlock(&w->lock);
    return ended;
}

void wire_refuse(struct wire *w, bool refuse) {
    pthread_mutex_lock(&w->lock);
    w->refuse = refuse;
    pthread_mutex_unlock(&w->lock);
}
