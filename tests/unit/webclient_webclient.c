/*
 * The client against a server that behaves as its path says: well, badly, slowly or not at all.
 *
 * The server has a thread per connection; the client's loop runs on the test's thread until every request of the
 * test has ended.
 */
#include "webclient/webclient.h"

#include <arpa/inet.h>
#include <dlfcn.h>
#include <netdb.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

/* --- the server --- */

enum { CONNS = 256, KEEP = 8192 };

static struct {
    pthread_mutex_t lock;
    pthread_t acceptor, threads[CONNS];
    int listener, port, conns[CONNS], conns_n;
    int requests, gone; /* requests read; connections that the client closed */
    char last[KEEP];    /* head of the last request */
    size_t last_body;
} server = {.lock = PTHREAD_MUTEX_INITIALIZER};

static bool put(int fd, const char *text) {
    return send(fd, text, strlen(text), MSG_NOSIGNAL) == (ssize_t)strlen(text);
}

/* True if the client closed within `ms`. */
static bool client_gone(int fd, int ms) {
    struct pollfd p = {.fd = fd, .events = POLLIN};
    char c;

    return poll(&p, 1, ms) > 0 && recv(fd, &c, 1, MSG_PEEK) <= 0;
}

static void put_until_gone(int fd, const char *head, const char *piece, int pause_ms) {
    if (!put(fd, head))
        return;
    while (!client_gone(fd, pause_ms) && put(fd, piece))
        ;
}

static void put_date_answer(int fd) {
    put(fd, "HTTP/1.1 503 Later\r\nDate: Tue, 01 Jan 2030 00:00:00 GMT\r\n"
            "Retry-After: Tue, 01 Jan 2030 00:01:30 GMT\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
}

/* Answers by path; false = close. */
static bool answer(int fd, const char *path, size_t body_n) {
    char text[128];

    if (!strcmp(path, "/ok"))
        return put(fd, "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\nhello");
    if (!strcmp(path, "/204"))
        return put(fd, "HTTP/1.1 204 No Content\r\n\r\n");
    if (!strcmp(path, "/size")) {
        snprintf(text, sizeof(text), "%zu", body_n);
        put(fd, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        put(fd, strlen(text) == 1 ? "1\r\n" : "7\r\n");
        put(fd, text);
        return put(fd, "\r\n0\r\n\r\n");
    }
    if (!strcmp(path, "/redirect"))
        return put(fd, "HTTP/1.1 307 Elsewhere\r\nLocation: /ok\r\nContent-Length: 0\r\n\r\n");
    if (!strcmp(path, "/later"))
        return put(fd, "HTTP/1.1 100 Continue\r\nRetry-After: 9\r\n\r\n"
                       "HTTP/1.1 503 Later\r\nretry-after:  7 \r\nContent-Length: 0\r\n\r\n");
    if (!strcmp(path, "/later-date"))
        put_date_answer(fd);
    else if (!strcmp(path, "/garbage"))
        put(fd, "\x16\x03\x01 garbage\r\n\r\n");
    else if (!strcmp(path, "/status"))
        put(fd, "HTTP/1.1 abc\r\n\r\n");
    else if (!strcmp(path, "/hang"))
        put_until_gone(fd, "", "", 60000);
    else if (!strcmp(path, "/drip"))
        put_until_gone(fd, "HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n", "x", 10);
    else if (!strcmp(path, "/flood"))
        put_until_gone(fd, "HTTP/1.1 200 OK\r\n\r\n", "0123456789abcdef0123456789abcdef", 0);
    else if (!strcmp(path, "/flood-length"))
        put_until_gone(fd, "HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n", "", 1000);
    else if (!strcmp(path, "/flood-head"))
        put_until_gone(fd, "HTTP/1.1 200 OK\r\n", "X-A: 0123456789abcdef0123456789abcdef\r\n", 0);
    else if (!strcmp(path, "/flood-100"))
        put_until_gone(fd, "", "HTTP/1.1 100 Continue\r\n\r\n", 0);
    else if (!strcmp(path, "/cut"))
        put(fd, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n0123456789");
    /* "/close": nothing */
    return false;
}

static size_t content_length(const char *head) {
    const char *p = strcasestr(head, "\r\nContent-Length:");
    return p ? strtoul(p + 17, NULL, 10) : 0;
}

/* One request -> its path; false when the client has gone. */
static bool read_request(int fd, char path[64], size_t *body_n) {
    char head[KEEP], rest[4096];
    size_t n = 0;
    char *end = NULL;

    while (!end) {
        ssize_t r = n < sizeof(head) - 1 ? recv(fd, head + n, sizeof(head) - 1 - n, 0) : -1;
        if (r <= 0)
            return false;
        head[n += (size_t)r] = 0;
        end = strstr(head, "\r\n\r\n");
    }
    *body_n = content_length(head);
    for (size_t got = n - (size_t)(end + 4 - head); got < *body_n;) {
        ssize_t r = recv(fd, rest, MIN(sizeof(rest), *body_n - got), 0);
        if (r <= 0)
            return false;
        got += (size_t)r;
    }
    end[2] = 0;
    if (sscanf(head, "POST %63s HTTP/1.1\r\n", path) != 1)
        return false;
    pthread_mutex_lock(&server.lock);
    server.requests++;
    server.last_body = *body_n;
    snprintf(server.last, sizeof(server.last), "%s", head);
    pthread_mutex_unlock(&server.lock);
    return true;
}

static void *conn_main(void *arg) {
    int fd = *(int *)arg;
    char path[64];
    size_t body_n;

    while (read_request(fd, path, &body_n) && answer(fd, path, body_n))
        ;
    bool gone = client_gone(fd, 0);
    pthread_mutex_lock(&server.lock);
    server.gone += gone;
    pthread_mutex_unlock(&server.lock);
    shutdown(fd, SHUT_RDWR); /* closed by server_stop(), so that the number is not used again */
    return NULL;
}

static void *accept_main(void *arg) {
    int fd;

    for (int i = 0; i < CONNS && (fd = accept(server.listener, NULL, NULL)) >= 0; i++) {
        pthread_mutex_lock(&server.lock);
        server.conns_n = i + 1;
        server.conns[i] = fd;
        pthread_mutex_unlock(&server.lock);
        pthread_create(&server.threads[i], NULL, conn_main, &server.conns[i]);
    }
    return NULL;
}

static int listen_any(int *port) {
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t n = sizeof(a);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    assert_true(fd >= 0 && bind(fd, (struct sockaddr *)&a, n) == 0 && listen(fd, 128) == 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&a, &n), 0);
    *port = ntohs(a.sin_port);
    return fd;
}

static void server_start(void) {
    server.conns_n = server.requests = server.gone = 0;
    server.listener = listen_any(&server.port);
    assert_int_equal(pthread_create(&server.acceptor, NULL, accept_main, NULL), 0);
}

static void server_stop(void) {
    shutdown(server.listener, SHUT_RDWR);
    pthread_join(server.acceptor, NULL);
    close(server.listener);
    for (int i = 0; i < server.conns_n; i++) {
        shutdown(server.conns[i], SHUT_RDWR);
        pthread_join(server.threads[i], NULL);
        close(server.conns[i]);
    }
}

static int requests(void) {
    pthread_mutex_lock(&server.lock);
    int n = server.requests;
    pthread_mutex_unlock(&server.lock);
    return n;
}

/* Under the lock once: nothing comes after the last request. */
static const char *last_head(void) {
    requests();
    return server.last;
}

/* --- a name that never resolves --- */

static struct {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    int inside;
    bool open;
} gate = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 0, false};

static int rebinds; /* lookups of rebind.test; one at a time */

typedef int lookup_fn(const char *, const char *, const struct addrinfo *, struct addrinfo **);

__attribute__((visibility("default"))) int getaddrinfo(const char *name, const char *service,
                                                       const struct addrinfo *hints, struct addrinfo **ret) {
    lookup_fn *real = (lookup_fn *)dlsym(RTLD_NEXT, "getaddrinfo");

    if (name && !strcmp(name, "rebind.test")) /* another address each time */
        return real(rebinds++ ? "169.254.169.254" : "127.0.0.1", service, hints, ret);
    if (!name || strcmp(name, "slow.test") != 0)
        return real(name, service, hints, ret);
    pthread_mutex_lock(&gate.lock);
    gate.inside++;
    pthread_cond_broadcast(&gate.changed);
    while (!gate.open)
        pthread_cond_wait(&gate.changed, &gate.lock);
    gate.inside--;
    pthread_cond_broadcast(&gate.changed);
    pthread_mutex_unlock(&gate.lock);
    return EAI_NONAME;
}

/* --- the client --- */

struct outcome {
    int count;
    struct web_response resp; /* its views are not kept */
    char body[256], type[64], error[256];
};

static struct {
    struct loop *loop;
    struct webclient *web;
    int pending;
    bool in_post;
    struct outcome out[64];
    void (*then)(int i); /* after each outcome */
} t;

static void end_loop(void) {
    webclient_free(TAKE(t.web));
    loop_stop(t.loop);
}

static void on_done(void *arg, const struct web_response *resp) {
    struct outcome *o = arg;

    assert_false(t.in_post);
    assert_non_null(resp->error);
    o->count++;
    o->resp = *resp;
    snprintf(o->body, sizeof(o->body), "%.*s", (int)resp->body.n, resp->body.n ? (const char *)resp->body.p : "");
    snprintf(o->type, sizeof(o->type), "%s", resp->content_type ? resp->content_type : "");
    snprintf(o->error, sizeof(o->error), "%s", resp->error);
    t.pending--;
    if (t.then)
        t.then((int)(o - t.out));
    if (t.pending == 0 && t.web)
        end_loop();
}

static int post_url(int i, const char *url, struct bytes body, int64_t timeout_ms, const char *const *headers,
                    struct web_call **c) {
    struct web_request r = {.url = url, .body = body, .headers = headers, .timeout_ms = timeout_ms};

    t.in_post = true;
    int code = webclient_post(t.web, &r, on_done, &t.out[i], c);
    t.in_post = false;
    t.pending += code == 0;
    return code;
}

static void post(int i, const char *path, int64_t timeout_ms) {
    char url[128];

    snprintf(url, sizeof(url), "http://127.0.0.1:%d%s", server.port, path);
    assert_int_equal(post_url(i, url, BYTES_LIT("{}"), timeout_ms, NULL, NULL), 0);
}

static void run(void) {
    assert_int_equal(loop_run(t.loop), 0);
    for (size_t i = 0; i < ARRAY_LEN(t.out); i++)
        assert_in_range(t.out[i].count, 0, 1);
}

/* One request on its own. */
static struct outcome *ask(const char *path, int64_t timeout_ms) {
    post(0, path, timeout_ms);
    run();
    assert_int_equal(t.out[0].count, 1);
    return &t.out[0];
}

static int setup(void **state) {
    struct webclient_options o = {.max_in_flight = 40, .max_idle = 4, .response_bytes = 1000};

    assert_int_equal(guard_parse("127.0.0.0/8, ::1", &o.guard, NULL), 0);
    memset(&t, 0, sizeof(t));
    server_start();
    assert_int_equal(loop_new("test", &t.loop), 0);
    assert_int_equal(webclient_new(t.loop, &o, &t.web), 0);
    return 0;
}

static int teardown(void **state) {
    webclient_free(t.web);
    loop_free(t.loop);
    server_stop();
    return 0;
}

/* --- tests --- */

static void test_answered(void **state) {
    struct outcome *o = ask("/ok", 10000);

    assert_int_equal(o->resp.result, WEB_ANSWERED);
    assert_int_equal(o->resp.status, 200);
    assert_string_equal(o->body, "hello");
    assert_string_equal(o->type, "text/plain");
    assert_int_equal(o->resp.retry_after_ms, -1);
    assert_true(o->resp.took_ns > 0);
}

static void test_request(void **state) {
    static const char *const headers[] = {"Content-Type: application/json", "webhook-id: a", "X-Empty:", NULL};
    char url[128];

    snprintf(url, sizeof(url), "http://127.0.0.1:%d/size", server.port);
    size_t n = 3 << 20;
    char *big = mem_zalloc(n);
    assert_int_equal(post_url(0, url, bytes_of(big, n), 10000, headers, NULL), 0);
    memset(big, 'x', n); /* the body was copied */
    mem_free(big);
    run();
    assert_int_equal(t.out[0].resp.status, 200);
    assert_string_equal(t.out[0].body, "3145728");
    assert_non_null(strstr(last_head(), "\r\nContent-Type: application/json\r\nwebhook-id: a\r\nX-Empty:\r\n"));
    assert_non_null(strstr(last_head(), "\r\nUser-Agent: txmsg/"));
    assert_null(strcasestr(last_head(), "Expect"));
    assert_null(strcasestr(last_head(), "Accept-Encoding"));
}

static void test_no_content(void **state) {
    struct outcome *o = ask("/204", 10000);

    assert_int_equal(o->resp.result, WEB_ANSWERED);
    assert_int_equal(o->resp.status, 204);
    assert_int_equal(o->resp.body.n, 0);
    assert_string_equal(o->type, "");
    assert_null(strcasestr(last_head(), "Content-Type"));
}

static void test_refused_requests(void **state) {
    static const char *const bad[][2] = {{"a: b\r\nc: d"},
                                         {"Content-Length: 1"},
                                         {"transfer-encoding: chunked"},
                                         {"a b: c"},
                                         {": x"},
                                         {"nothing"},
                                         {"a;"}};

    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        assert_int_equal(post_url(0, "http://127.0.0.1:1/", BYTES_NULL, 1000, bad[i], NULL), -EINVAL);
    assert_int_equal(post_url(0, "file:///etc/passwd", BYTES_NULL, 1000, NULL, NULL), -EINVAL);
    assert_int_equal(post_url(0, "ftp.example", BYTES_NULL, 1000, NULL, NULL), -EINVAL);
    assert_int_equal(post_url(0, "http://127.0.0.1:1/", BYTES_NULL, 0, NULL, NULL), -EINVAL);
    assert_int_equal(webclient_in_flight(t.web), 0);
    ask("/ok", 10000); /* and none of it stays behind */
    assert_int_equal(t.out[0].resp.status, 200);
}

static void assert_result(const char *path, enum web_result want) {
    struct outcome *o = ask(path, want == WEB_TIMEOUT ? 150 : 10000);

    assert_int_equal(o->resp.result, want);
    assert_int_equal(o->resp.status, 0);
    assert_int_equal(o->resp.body.n, 0);
    assert_true(*o->error);
    assert_int_equal(requests(), 1);
}

static void test_garbage(void **state) {
    assert_result("/garbage", WEB_BROKEN);
}
static void test_status_line(void **state) {
    assert_result("/status", WEB_BROKEN);
}
static void test_cut(void **state) {
    assert_result("/cut", WEB_BROKEN);
}
static void test_closed(void **state) {
    assert_result("/close", WEB_BROKEN);
}
static void test_hang(void **state) {
    assert_result("/hang", WEB_TIMEOUT);
}
static void test_drip(void **state) {
    assert_result("/drip", WEB_TIMEOUT);
}
static void test_flood(void **state) {
    assert_result("/flood", WEB_TOO_LARGE);
}
static void test_flood_length(void **state) {
    assert_result("/flood-length", WEB_TOO_LARGE);
}
static void test_flood_head(void **state) {
    assert_result("/flood-head", WEB_TOO_LARGE);
}
static void test_flood_100(void **state) {
    assert_result("/flood-100", WEB_TOO_LARGE);
}

static void test_redirect(void **state) {
    assert_int_equal(ask("/redirect", 10000)->resp.status, 307);
    assert_int_equal(requests(), 1);
}

static void test_retry_after(void **state) {
    post(0, "/later", 10000);
    post(1, "/later-date", 10000);
    run();
    assert_int_equal(t.out[0].resp.retry_after_ms, 7000);
    assert_int_equal(t.out[1].resp.retry_after_ms, 90000);
}

static void test_unreachable(void **state) {
    char url[64];
    int port, fd = listen_any(&port);

    close(fd); /* a port on which nobody listens */
    snprintf(url, sizeof(url), "http://127.0.0.1:%d/", port);
    assert_int_equal(post_url(0, url, BYTES_NULL, 10000, NULL, NULL), 0);
    snprintf(url, sizeof(url), "https://127.0.0.1:%d/close", server.port); /* no TLS there */
    assert_int_equal(post_url(1, url, BYTES_NULL, 2000, NULL, NULL), 0);
    run();
    assert_int_equal(t.out[0].resp.result, WEB_UNREACHABLE);
    assert_int_equal(t.out[1].resp.result, WEB_UNREACHABLE);
}

/* A lookup that hangs costs its own request and nobody else's; nor does its end wait for it, by time or by cancelling. */
static struct web_call *hanging;
static void then_ask_again(int i) {
    if (i > 0 && i < 20)
        post(i + 1, "/ok", 10000);
    if (i == 20)
        webclient_cancel(hanging);
}

static void test_slow_name(void **state) {
    t.then = then_ask_again;
    assert_int_equal(post_url(0, "http://slow.test/", BYTES_NULL, 200, NULL, NULL), 0);
    assert_int_equal(post_url(30, "http://slow.test/", BYTES_NULL, 60000, NULL, &hanging), 0);
    post(1, "/ok", 10000);
    run();
    assert_int_equal(t.out[0].resp.result, WEB_UNREACHABLE);
    assert_int_equal(t.out[30].resp.result, WEB_CANCELLED);
    for (int i = 1; i <= 20; i++)
        assert_int_equal(t.out[i].resp.status, 200);
    pthread_mutex_lock(&gate.lock);
    while (gate.inside < 2) /* both lookups are still under way, or just begin */
        pthread_cond_wait(&gate.changed, &gate.lock);
    gate.open = true;
    pthread_cond_broadcast(&gate.changed);
    while (gate.inside > 0)
        pthread_cond_wait(&gate.changed, &gate.lock);
    pthread_mutex_unlock(&gate.lock);
}

static void then_next(int i) {
    if (i < 30)
        post(i + 1, "/ok", 10000);
}

static void test_keep_alive(void **state) {
    t.then = then_next;
    post(0, "/ok", 10000);
    run();
    assert_int_equal(requests(), 31);
    assert_int_equal(server.conns_n, 1);
}

/* More at once than are kept: no connection is lost while it could be used. */
static void then_next_of_32(int i) {
    if (i < 32)
        post(i + 32, "/ok", 10000);
}

static void test_many(void **state) {
    t.then = then_next_of_32;
    for (int i = 0; i < 32; i++)
        post(i, "/ok", 10000);
    run();
    assert_int_equal(requests(), 64);
    for (int i = 0; i < 64; i++)
        assert_string_equal(t.out[i].body, "hello");
}

static void then_close(int i) {
    if (i == 0)
        post(1, "/close", 10000);
}

/* On a kept connection too, a request is sent once. */
static void test_sent_once(void **state) {
    t.then = then_close;
    post(0, "/ok", 10000);
    run();
    assert_int_equal(t.out[1].resp.result, WEB_BROKEN);
    assert_string_equal(t.out[1].error, "connection closed before an answer");
    assert_int_equal(requests(), 2);
}

static void test_max_in_flight(void **state) {
    struct web_call *calls[40];
    char url[64];

    snprintf(url, sizeof(url), "http://127.0.0.1:%d/hang", server.port);
    for (int i = 0; i < 40; i++)
        assert_int_equal(post_url(i, url, BYTES_NULL, 10000, NULL, &calls[i]), 0);
    assert_int_equal(post_url(40, url, BYTES_NULL, 10000, NULL, NULL), 1);
    assert_int_equal(webclient_in_flight(t.web), 40);
    t.pending++; /* the loop goes on */
    for (int i = 0; i < 40; i++) {
        webclient_cancel(calls[i]);
        assert_int_equal(t.out[i].count, 1);
        assert_int_equal(t.out[i].resp.result, WEB_CANCELLED);
    }
    t.pending--;
    post(41, "/ok", 10000);
    run();
    assert_int_equal(t.out[41].resp.status, 200);
    assert_int_equal(t.out[40].count, 0);
}

/* Cancelled while the server has it: from another request's callback, the connection goes with it. */
static void then_cancel(int i) {
    if (i == 1)
        webclient_cancel(hanging);
    if (i == 0)
        post(2, "/ok", 10000);
}

static void test_cancel(void **state) {
    char url[64];

    t.then = then_cancel;
    snprintf(url, sizeof(url), "http://127.0.0.1:%d/hang", server.port);
    assert_int_equal(post_url(0, url, BYTES_NULL, 10000, NULL, &hanging), 0);
    post(1, "/later-date", 10000);
    run();
    assert_int_equal(t.out[0].resp.result, WEB_CANCELLED);
    assert_int_equal(t.out[2].resp.status, 200);
}

static void then_free(int i) {
    end_loop();
}

/* The client is freed by a callback; what was under way ends without one. */
static void test_free_in_callback(void **state) {
    t.then = then_free;
    for (int i = 1; i < 8; i++)
        post(i, "/hang", 10000);
    post(0, "/ok", 10000);
    run();
    assert_int_equal(t.out[0].count, 1);
    for (int i = 1; i < 8; i++)
        assert_int_equal(t.out[i].count, 0);
}

static void test_free_unused(void **state) {
    post(0, "/hang", 10000);
    end_loop();
    run();
    assert_int_equal(t.out[0].count, 0);
    webclient_free(NULL);
}

/* A new client, so that nothing of the one before is kept: neither its connections nor its names. */
static struct outcome *ask_anew(const char *allow, const char *url) {
    struct webclient_options o = {.response_bytes = 1000};

    webclient_free(t.web);
    loop_free(t.loop);
    memset(&t, 0, sizeof(t));
    assert_int_equal(guard_parse(allow, &o.guard, NULL), 0);
    assert_int_equal(loop_new("test", &t.loop), 0);
    assert_int_equal(webclient_new(t.loop, &o, &t.web), 0);
    assert_int_equal(post_url(0, url, BYTES_LIT("{}"), 10000, NULL, NULL), 0);
    run();
    assert_int_equal(t.out[0].count, 1);
    return &t.out[0];
}

/* Refused before a byte is sent, with the address and why, whatever it is written like. */
static void test_refused_addresses(void **state) {
    static const struct {
        const char *allow, *host, *error;
    } cases[] = {
        {"", "127.0.0.1", "address 127.0.0.1 is loopback: not allowed"},
        {"", "2130706433", "address 127.0.0.1 is loopback: not allowed"},
        {"", "0x7f.1", "address 127.0.0.1 is loopback: not allowed"},
        {"", "[::ffff:127.0.0.1]", "address 127.0.0.1 is loopback: not allowed"},
        {"10.0.0.0/8", "127.0.0.1", "address 127.0.0.1 is loopback: not allowed"},
        {"127.0.0.0/8,0.0.0.0/0,::/0", "169.254.169.254", "address 169.254.169.254 is link-local: not allowed"},
        {"127.0.0.0/8,0.0.0.0/0,::/0", "0.0.0.0", "address 0.0.0.0 is of this network: not allowed"},
        {"127.0.0.0/8,0.0.0.0/0,::/0", "[::ffff:169.254.169.254]",
         "address 169.254.169.254 is link-local: not allowed"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        char url[128];
        snprintf(url, sizeof(url), "http://%s:%d/ok", cases[i].host, server.port);
        struct outcome *o = ask_anew(cases[i].allow, url);
        assert_int_equal(o->resp.result, WEB_UNREACHABLE);
        assert_string_equal(o->error, cases[i].error);
        assert_int_equal(server.requests, 0);
    }
}

/* A connection and no request; TLS that is none; nobody; one that is cancelled. What comes after them is as always. */
static void test_connect(void **state) {
    struct web_call *c = NULL;
    char url[3][128];

    for (int i = 0; i < 3; i++)
        snprintf(url[i], sizeof(url[i]), "%s://127.0.0.1:%d/ok", i == 1 ? "https" : "http", i == 2 ? 1 : server.port);
    for (int i = 0; i < 3; i++)
        assert_int_equal(webclient_connect(t.web, url[i], 10000, on_done, &t.out[i], NULL), 0);
    assert_int_equal(webclient_connect(t.web, url[0], 10000, on_done, &t.out[3], &c), 0);
    t.pending = 4;
    webclient_cancel(c);
    assert_int_equal(webclient_connect(t.web, "ftp://127.0.0.1/", 10000, on_done, &t.out[4], NULL), -EINVAL);
    assert_int_equal(webclient_connect(t.web, url[0], 0, on_done, &t.out[4], NULL), -EINVAL);
    run();
    assert_int_equal(t.out[0].resp.result, WEB_ANSWERED);
    assert_int_equal(t.out[0].resp.status, 0);
    assert_int_equal(t.out[1].resp.result, WEB_UNREACHABLE);
    assert_int_equal(t.out[2].resp.result, WEB_UNREACHABLE);
    assert_int_equal(t.out[3].resp.result, WEB_CANCELLED);
    assert_int_equal(requests(), 0);
}

/* The name is good when it is first looked up, and elsewhere the next time: it is the address that counts. */
static void test_rebinding(void **state) {
    char url[128];

    rebinds = 0;
    snprintf(url, sizeof(url), "http://rebind.test:%d/ok", server.port);
    assert_int_equal(ask_anew("127.0.0.0/8", url)->resp.status, 200);
    struct outcome *o = ask_anew("127.0.0.0/8", url);
    assert_int_equal(o->resp.result, WEB_UNREACHABLE);
    assert_string_equal(o->error, "address 169.254.169.254 is link-local: not allowed");
    assert_int_equal(rebinds, 2);
}

int main(void) {
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(test_answered),    T(test_request),
        T(test_no_content),  T(test_refused_requests),
        T(test_garbage),     T(test_status_line),
        T(test_cut),         T(test_closed),
        T(test_hang),        T(test_drip),
        T(test_flood),       T(test_flood_length),
        T(test_flood_head),  T(test_flood_100),
        T(test_redirect),    T(test_retry_after),
        T(test_unreachable), T(test_slow_name),
        T(test_keep_alive),  T(test_many),
        T(test_sent_once),   T(test_max_in_flight),
        T(test_cancel),      T(test_free_in_callback),
        T(test_free_unused), T(test_refused_addresses),
        T(test_rebinding),   T(test_connect),
    };
    /* A proxy of the environment must not matter. */
    setenv("http_proxy", "http://127.0.0.1:1", 1);
    setenv("https_proxy", "http://127.0.0.1:1", 1);
    setenv("all_proxy", "http://127.0.0.1:1", 1);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
