/*
 * libcurl's socket interface on uv_poll handles.
 *
 * libcurl lets go of a socket at the end of every request, and asks for it again at the next one on the same
 * connection. Taken literally this costs two epoll_ctl calls a request. So a handle stays armed while its connection
 * is idle, and is dropped only when libcurl closes the socket, which it does through us. An idle socket that wakes
 * (the peer closed it) is disarmed; libcurl looks at it when it wants to use it. Sockets that were not opened
 * through us (the pair that a name lookup waits on) are dropped at once.
 *
 * A timeout of 0 is an idle handle and not a timer: it runs in the same turn of the loop, also when it was asked for
 * by a timer.
 */
#include "webclient/poller.h"

#include "base/mem.h"

#include <sys/socket.h>
#include <unistd.h>

struct poller_sock {
    uv_poll_t uv;
    struct poller *poller;
    curl_socket_t fd;
    int wanted; /* UV_READABLE | UV_WRITABLE: what libcurl waits for */
    int armed;  /* what the handle waits for */
    bool ours;  /* opened by open_socket(): close_socket() will come */
};

static void on_sock_closed(uv_handle_t *h) {
    mem_free(CONTAINER_OF((uv_poll_t *)h, struct poller_sock, uv));
}

static struct poller_sock *sock_find(const struct poller *p, curl_socket_t fd) {
    return fd >= 0 && (size_t)fd < p->socks_n ? p->socks[fd] : NULL;
}

static void sock_drop(struct poller *p, struct poller_sock *s) {
    p->socks[s->fd] = NULL;
    uv_close((uv_handle_t *)&s->uv, on_sock_closed);
}

static bool table_grow(struct poller *p, size_t fd) {
    size_t n = p->socks_n ? p->socks_n : 64;

    while (n <= fd)
        n *= 2;
    if (n == p->socks_n)
        return true;
    struct poller_sock **socks = mem_realloc(p->socks, n * sizeof(*socks));
    if (!socks)
        return false;
    memset(socks + p->socks_n, 0, (n - p->socks_n) * sizeof(*socks));
    p->socks = socks;
    p->socks_n = n;
    return true;
}

static struct poller_sock *sock_new(struct poller *p, curl_socket_t fd, bool ours) {
    struct poller_sock *s;

    if (!table_grow(p, (size_t)fd))
        return NULL;
    s = mem_zalloc(sizeof(*s));
    if (!s)
        return NULL;
    if (uv_poll_init_socket(loop_uv(p->loop), &s->uv, fd) < 0) {
        mem_free(s);
        return NULL;
    }
    s->poller = p;
    s->fd = fd;
    s->ours = ours;
    p->socks[fd] = s;
    return s;
}

static void on_poll(uv_poll_t *h, int status, int events);

static void sock_arm(struct poller_sock *s) {
    if (s->armed == s->wanted)
        return;
    s->armed = uv_poll_start(&s->uv, s->wanted, on_poll) < 0 ? 0 : s->wanted;
}

static void on_poll(uv_poll_t *h, int status, int events) {
    struct poller_sock *s = CONTAINER_OF(h, struct poller_sock, uv);
    struct poller *p = s->poller;
    curl_socket_t fd = s->fd;
    int flags = 0, running;

    if (status < 0) /* libuv has stopped the handle */
        s->armed = 0;
    if (!s->wanted) {
        uv_poll_stop(h);
        s->armed = 0;
        return;
    }
    if (status < 0)
        flags = CURL_CSELECT_ERR;
    if (events & UV_READABLE)
        flags |= CURL_CSELECT_IN;
    if (events & UV_WRITABLE)
        flags |= CURL_CSELECT_OUT;
    curl_multi_socket_action(p->multi, fd, flags, &running);
    s = sock_find(p, fd); /* may be gone, or another one by now */
    if (s && s->wanted)
        sock_arm(s);
    p->worked(p->arg);
}

/*
 * A socket that never connected is closed by libcurl 7.88 behind our back, before or after this. Its handle must not wait for anything
 * then: libuv ends the process when it arms one for a number that is closed, and refuses that number to anybody else.
 */
static void sock_release(struct poller *p, struct poller_sock *s) {
    s->wanted = 0;
    if (!s->ours) {
        sock_drop(p, s);
    } else if (s->armed & UV_WRITABLE) {
        uv_poll_stop(&s->uv);
        s->armed = 0;
    }
}

static int on_socket(CURL *easy, curl_socket_t fd, int what, void *arg, void *unused) {
    struct poller *p = arg;
    struct poller_sock *s = sock_find(p, fd);

    UNUSED(easy);
    UNUSED(unused);
    if (what == CURL_POLL_REMOVE) {
        if (s)
            sock_release(p, s);
        return 0;
    }
    if (!s)
        s = sock_new(p, fd, false);
    /* An error here would kill the multi handle with all its transfers; without a handle this one times out. */
    if (!s)
        return 0;
    s->wanted = (what & CURL_POLL_IN ? UV_READABLE : 0) | (what & CURL_POLL_OUT ? UV_WRITABLE : 0);
    sock_arm(s);
    return 0;
}

static curl_socket_t open_socket(void *arg, curlsocktype purpose, struct curl_sockaddr *a) {
    struct poller_user *u = arg;
    struct poller *p = u->poller;

    if (purpose != CURLSOCKTYPE_IPCXN)
        return CURL_SOCKET_BAD;
    if (!guard_allows(p->guard, &a->addr, u->refused))
        return CURL_SOCKET_BAD;
    int fd = socket(a->family, a->socktype | SOCK_CLOEXEC | SOCK_NONBLOCK, a->protocol);
    if (fd < 0)
        return CURL_SOCKET_BAD;
    /* A number that comes again without having been closed through us: its old handle knows nothing of this socket. */
    struct poller_sock *stale = sock_find(p, fd);
    if (stale)
        sock_drop(p, stale);
    if (!sock_new(p, fd, true)) {
        close(fd);
        return CURL_SOCKET_BAD;
    }
    return fd;
}

static int close_socket(void *arg, curl_socket_t fd) {
    struct poller *p = arg;
    struct poller_sock *s = sock_find(p, fd);

    if (s)
        sock_drop(p, s);
    return close(fd);
}

CURLcode poller_adopt(struct poller *p, CURL *easy, struct poller_user *u) {
    *u = (struct poller_user){.poller = p};
    CURLcode r = curl_easy_setopt(easy, CURLOPT_OPENSOCKETFUNCTION, open_socket);
    r = r ? r : curl_easy_setopt(easy, CURLOPT_OPENSOCKETDATA, u);
    r = r ? r : curl_easy_setopt(easy, CURLOPT_CLOSESOCKETFUNCTION, close_socket);
    return r ? r : curl_easy_setopt(easy, CURLOPT_CLOSESOCKETDATA, p);
}

static void timeout(struct poller *p) {
    int running;

    curl_multi_socket_action(p->multi, CURL_SOCKET_TIMEOUT, 0, &running);
    p->worked(p->arg);
}

static void on_timer(void *arg) {
    timeout(arg);
}

static void on_soon(uv_idle_t *h) {
    uv_idle_stop(h);
    timeout(h->data);
}

static int on_timeout(CURLM *multi, long after_ms, void *arg) {
    struct poller *p = arg;

    UNUSED(multi);
    uv_idle_stop(p->soon);
    timer_stop(p->timer);
    if (after_ms == 0)
        uv_idle_start(p->soon, on_soon);
    else if (after_ms > 0)
        timer_arm(p->timer, (uint64_t)after_ms);
    return 0;
}

static void on_soon_closed(uv_handle_t *h) {
    mem_free(h);
}

int poller_open(struct poller *p, struct loop *l, CURLM *multi, void (*worked)(void *arg), void *arg) {
    int r;

    *p = (struct poller){.loop = l, .multi = multi, .worked = worked, .arg = arg};
    r = timer_new(l, on_timer, p, &p->timer);
    if (r < 0)
        return r;
    p->soon = mem_zalloc(sizeof(*p->soon));
    if (!p->soon)
        return -ENOMEM;
    r = uv_idle_init(loop_uv(l), p->soon);
    ASSERT(r == 0);
    p->soon->data = p;
    if (curl_multi_setopt(multi, CURLMOPT_SOCKETFUNCTION, on_socket) != CURLM_OK ||
        curl_multi_setopt(multi, CURLMOPT_SOCKETDATA, p) != CURLM_OK ||
        curl_multi_setopt(multi, CURLMOPT_TIMERFUNCTION, on_timeout) != CURLM_OK ||
        curl_multi_setopt(multi, CURLMOPT_TIMERDATA, p) != CURLM_OK)
        return -ENOSYS;
    return 0;
}

void poller_close(struct poller *p) {
    for (size_t fd = 0; fd < p->socks_n; fd++) {
        if (p->socks[fd])
            sock_drop(p, p->socks[fd]);
    }
    mem_free(TAKE(p->socks));
    p->socks_n = 0;
    timer_free(TAKE(p->timer));
    if (p->soon)
        uv_close((uv_handle_t *)TAKE(p->soon), on_soon_closed);
}
