/*
 * bench-sink: an HTTP/1.1 consumer that keeps its connections, and does as little as one can: it finds the end of each
 * request and answers. How it answers depends on the path, so that one process is the healthy consumer and all bad ones:
 *
 *   /ok      200 at once
 *   /hole    takes every request and never answers
 *   /slow    200 after --slow
 *   /flap    for --flap 200 at once, for as long 503, and so on
 *   /drip    200 with a body of 60,000 bytes of which one comes every --drip
 *
 * GET /counts answers what was seen of each: {"ok": {"requests": 7, "connections": 1, "connections_max": 3}, ...}.
 * Requests end with their last byte; a connection counts for the path of its last request. One thread.
 *
 * bench-sink [--listen 127.0.0.1:0] [--slow 30s] [--flap 2s] [--drip 1s]; prints "listening PORT" and runs until SIGTERM
 * or SIGINT.
 */
#include "base/clock.h"
#include "base/conf.h"
#include "base/err.h"
#include "base/list.h"

#include <arpa/inet.h>
#include <strings.h>
#include <uv.h>

enum { HEAD_MAX = 64 << 10, READ_SIZE = 64 << 10, ANSWER_MAX = 2048, BACKLOG = 1024 };

struct options {
    char *listen;
    int64_t slow_ms, flap_ms, drip_ms;
};
#define OPTION(name_, type_, member_, def_, min_, max_, help_)                                                         \
    {                                                                                                                  \
        .name = (name_), .type = (type_), .def = (def_), .min = (min_), .max = (max_), .help = (help_),                \
        .offset = offsetof(struct options, member_)                                                                    \
    }
static const struct conf_option table[] = {
    OPTION("listen", CONF_STR, listen, "127.0.0.1:0", 0, 0, "Address to listen on."),
    OPTION("slow", CONF_DURATION_MS, slow_ms, "30s", 1, 3600000, "How long /slow takes."),
    OPTION("flap", CONF_DURATION_MS, flap_ms, "2s", 1, 3600000, "How long /flap is well, and then is not."),
    OPTION("drip", CONF_DURATION_MS, drip_ms, "1s", 1, 3600000, "Time between two bytes of /drip."),
    {0},
};

enum path { PATH_OK, PATH_HOLE, PATH_SLOW, PATH_FLAP, PATH_DRIP, PATHS, PATH_COUNTS = PATHS, PATH_OTHER };
static const char *const path_names[PATHS] = {"ok", "hole", "slow", "flap", "drip"};

struct seen {
    uint64_t requests, connections, connections_max;
};

struct sink {
    struct options o;
    uv_loop_t loop;
    uv_tcp_t listener;
    uv_signal_t terminate, interrupt;
    struct list connections;
    struct seen seen[PATHS];
    uint64_t began_ms;
    char buffer[READ_SIZE];
};

struct connection {
    struct list link;
    struct sink *sink;
    uv_tcp_t tcp;
    uv_timer_t timer;
    enum path path; /* of the last request, PATH_OTHER before the first */
    uint64_t body;  /* bytes of it that are still to come */
    size_t head_n;  /* of the head that is coming */
    size_t later;   /* answers of /slow that are owed */
    int handles;    /* open ones, of tcp and timer */
    bool dripping;
    char head[HEAD_MAX]; /* only what one read did not bring whole */
};

/* --- answers --- */

static void on_handle_closed(uv_handle_t *h) {
    struct connection *c = h->data;
    if (--c->handles == 0)
        mem_free(c);
}

static void connection_close(struct connection *c) {
    if (uv_is_closing((uv_handle_t *)&c->tcp))
        return;
    list_del(&c->link);
    if (c->path < PATHS)
        c->sink->seen[c->path].connections--;
    uv_close((uv_handle_t *)&c->tcp, on_handle_closed);
    uv_close((uv_handle_t *)&c->timer, on_handle_closed);
}

static void on_written(uv_write_t *w, int status) {
    if (status < 0)
        connection_close(w->data);
    mem_free(w);
}

/* Mostly the socket takes it at once. What it does not take is copied. */
static void write_text(struct connection *c, const char *text, size_t n) {
    uv_buf_t b = uv_buf_init((char *)(uintptr_t)text, (unsigned)n);
    int r = uv_try_write((uv_stream_t *)&c->tcp, &b, 1);
    size_t done = r > 0 ? (size_t)r : 0;
    if (done == n)
        return;
    uv_write_t *w = r < 0 && r != UV_EAGAIN ? NULL : mem_alloc(sizeof(*w) + n - done);
    if (!w) {
        connection_close(c);
        return;
    }
    w->data = c;
    memcpy(w + 1, text + done, n - done);
    b = uv_buf_init((char *)(w + 1), (unsigned)(n - done));
    if (uv_write(w, (uv_stream_t *)&c->tcp, &b, 1, on_written) < 0) {
        mem_free(w);
        connection_close(c);
    }
}

#define WRITE(c_, text_) write_text((c_), (text_), sizeof(text_) - 1)

static void answer_ok(struct connection *c) {
    WRITE(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
}

static void answer_counts(struct connection *c) {
    char body[ANSWER_MAX], all[ANSWER_MAX + 128];
    int n = 0;
    for (size_t i = 0; i < PATHS; i++) {
        const struct seen *s = &c->sink->seen[i];
        n += snprintf(body + n, sizeof(body) - (size_t)n,
                      "%s\"%s\": {\"requests\": %llu, \"connections\": %llu, \"connections_max\": %llu}",
                      i ? ", " : "{", path_names[i], (unsigned long long)s->requests,
                      (unsigned long long)s->connections, (unsigned long long)s->connections_max);
    }
    n = snprintf(all, sizeof(all), "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s}",
                 n + 1, body);
    write_text(c, all, (size_t)n);
}

/* /slow answers all that it owes: one connection carries one request after the other. */
static void on_timer(uv_timer_t *t) {
    struct connection *c = t->data;
    if (c->dripping)
        WRITE(c, ".");
    for (; c->later && !uv_is_closing((uv_handle_t *)t); c->later--)
        answer_ok(c);
}

static void drip(struct connection *c) {
    uint64_t every = (uint64_t)c->sink->o.drip_ms;
    WRITE(c, "HTTP/1.1 200 OK\r\nContent-Length: 60000\r\n\r\n");
    c->dripping = true;
    if (!uv_is_closing((uv_handle_t *)&c->timer))
        uv_timer_start(&c->timer, on_timer, every, every);
}

static void answer(struct connection *c) {
    struct sink *s = c->sink;
    switch (c->path) {
    case PATH_OK:
        answer_ok(c);
        break;
    case PATH_SLOW:
        c->later++;
        uv_timer_start(&c->timer, on_timer, (uint64_t)s->o.slow_ms, 0);
        break;
    case PATH_FLAP:
        if ((uv_now(&s->loop) - s->began_ms) / (uint64_t)s->o.flap_ms % 2 == 0)
            answer_ok(c);
        else
            WRITE(c, "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n");
        break;
    case PATH_DRIP:
        drip(c);
        break;
    case PATH_COUNTS:
        answer_counts(c);
        break;
    case PATH_OTHER:
        WRITE(c, "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n");
        break;
    case PATH_HOLE:
        break;
    }
}

/* --- requests --- */

static enum path path_of(const char *head, size_t n) {
    const char *p = memchr(head, ' ', n), *end = p ? memchr(p + 1, ' ', n - (size_t)(p + 1 - head)) : NULL;
    if (!end || p[1] != '/')
        return PATH_OTHER;
    p += 2;
    for (size_t i = 0; i < PATHS; i++)
        if (strlen(path_names[i]) == (size_t)(end - p) && !memcmp(p, path_names[i], (size_t)(end - p)))
            return (enum path)i;
    return end - p == 6 && !memcmp(p, "counts", 6) ? PATH_COUNTS : PATH_OTHER;
}

static uint64_t body_of(const char *head, size_t n) {
    static const char name[] = "\ncontent-length:";
    for (const char *p = head; (p = memchr(p, '\n', n - (size_t)(p - head))); p++)
        if (n - (size_t)(p - head) > sizeof(name) && !strncasecmp(p, name, sizeof(name) - 1))
            return strtoull(p + sizeof(name) - 1, NULL, 10);
    return 0;
}

static void note_path(struct connection *c, enum path path) {
    if (path == c->path)
        return;
    if (c->path < PATHS)
        c->sink->seen[c->path].connections--;
    c->path = path;
    if (path < PATHS) {
        struct seen *s = &c->sink->seen[path];
        s->connections++;
        s->connections_max = MAX(s->connections_max, s->connections);
    }
}

static void head_done(struct connection *c, const char *head, size_t n) {
    note_path(c, path_of(head, n));
    c->body = body_of(head, n);
}

static void request_done(struct connection *c) {
    if (c->path < PATHS)
        c->sink->seen[c->path].requests++;
    answer(c);
}

/* Takes a whole head from p, or keeps what there is of it. Answers how many bytes it has used. */
static size_t take_head(struct connection *c, const char *p, size_t n, bool *whole) {
    const char *end;
    size_t before = c->head_n;
    *whole = false;
    if (!before && (end = memmem(p, n, "\r\n\r\n", 4))) {
        *whole = true;
        head_done(c, p, (size_t)(end + 4 - p));
        return (size_t)(end + 4 - p);
    }
    size_t taken = MIN(n, HEAD_MAX - before);
    memcpy(c->head + before, p, taken);
    c->head_n += taken;
    end = memmem(c->head, c->head_n, "\r\n\r\n", 4);
    if (!end) {
        if (c->head_n == HEAD_MAX)
            connection_close(c);
        return taken;
    }
    *whole = true;
    c->head_n = 0;
    head_done(c, c->head, (size_t)(end + 4 - c->head));
    return (size_t)(end + 4 - c->head) - before;
}

static void take(struct connection *c, const char *p, size_t n) {
    while (n && !uv_is_closing((uv_handle_t *)&c->tcp)) {
        bool whole = false;
        size_t used = c->body ? (size_t)MIN(c->body, n) : take_head(c, p, n, &whole);
        if (!whole && c->body)
            c->body -= used;
        p += used;
        n -= used;
        if (!c->body && !c->head_n)
            request_done(c);
    }
}

static void on_alloc(uv_handle_t *h, size_t suggested, uv_buf_t *ret) {
    const struct connection *c = h->data;
    *ret = uv_buf_init(c->sink->buffer, READ_SIZE);
}

static void on_read(uv_stream_t *h, ssize_t n, const uv_buf_t *b) {
    struct connection *c = h->data;
    if (n < 0)
        connection_close(c);
    else
        take(c, b->base, (size_t)n);
}

static void on_connection(uv_stream_t *h, int status) {
    struct sink *s = h->data;
    struct connection *c = status < 0 ? NULL : mem_alloc(sizeof(*c));
    if (!c)
        return;
    memset(c, 0, offsetof(struct connection, head));
    c->sink = s;
    c->path = PATH_OTHER;
    c->handles = 2;
    c->tcp.data = c->timer.data = c;
    uv_tcp_init(&s->loop, &c->tcp);
    uv_timer_init(&s->loop, &c->timer);
    list_add_tail(&s->connections, &c->link);
    if (uv_accept(h, (uv_stream_t *)&c->tcp) < 0 || uv_tcp_nodelay(&c->tcp, 1) < 0 ||
        uv_read_start((uv_stream_t *)&c->tcp, on_alloc, on_read) < 0)
        connection_close(c);
}

/* --- the process --- */

static void on_signal(uv_signal_t *h, int number) {
    struct sink *s = h->data;
    uv_close((uv_handle_t *)&s->listener, NULL);
    uv_close((uv_handle_t *)&s->terminate, NULL);
    uv_close((uv_handle_t *)&s->interrupt, NULL);
    LIST_FOR_SAFE (e, &s->connections)
        connection_close(LIST_ENTRY(e, struct connection, link));
}

static int bind_to(struct sink *s, struct errmsg *e) {
    struct sockaddr_in a;
    char host[64];
    const char *colon = strrchr(s->o.listen, ':');
    if (!colon || (size_t)(colon - s->o.listen) >= sizeof(host))
        return err_set(e, -EINVAL, "--listen is ADDRESS:PORT");
    memcpy(host, s->o.listen, (size_t)(colon - s->o.listen));
    host[colon - s->o.listen] = 0;
    int r = uv_ip4_addr(host, (int)strtol(colon + 1, NULL, 10), &a);
    if (r == 0)
        r = uv_tcp_bind(&s->listener, (const struct sockaddr *)&a, 0);
    if (r == 0)
        r = uv_listen((uv_stream_t *)&s->listener, BACKLOG, on_connection);
    return r < 0 ? err_set(e, r, "cannot listen on %s: %s", s->o.listen, uv_strerror(r)) : 0;
}

static int serve(struct sink *s, struct errmsg *e) {
    struct sockaddr_in a;
    int n = sizeof(a);
    uv_loop_init(&s->loop);
    uv_tcp_init(&s->loop, &s->listener);
    uv_signal_init(&s->loop, &s->terminate);
    uv_signal_init(&s->loop, &s->interrupt);
    s->listener.data = s->terminate.data = s->interrupt.data = s;
    s->began_ms = uv_now(&s->loop);
    list_init(&s->connections);
    int r = bind_to(s, e);
    if (r < 0)
        return r;
    uv_signal_start(&s->terminate, on_signal, SIGTERM);
    uv_signal_start(&s->interrupt, on_signal, SIGINT);
    uv_tcp_getsockname(&s->listener, (struct sockaddr *)&a, &n);
    printf("listening %d\n", ntohs(a.sin_port));
    fflush(stdout);
    uv_run(&s->loop, UV_RUN_DEFAULT);
    uv_loop_close(&s->loop);
    return 0;
}

int main(int argc, char **argv) {
    static struct sink sink;
    struct errmsg e = ERRMSG_NULL;
    struct conf *conf = conf_load(table, &sink.o, argc, argv, NULL, &e);
    int r = conf ? serve(&sink, &e) : -EINVAL;
    if (r < 0)
        fprintf(stderr, "bench-sink: %s\n", e.text);
    conf_free(conf);
    return r < 0;
}
