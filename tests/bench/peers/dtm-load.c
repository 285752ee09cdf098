/*
 * dtm-load: the load of txmsg-bench for DTM's two-phase messages over its HTTP API: prepare and, after its answer, submit,
 * each caller on a connection of its own that it keeps. Closed loop, one thread. What it prints is what txmsg-bench prints.
 *
 * dtm-load --server HOST:PORT --action URL [--callers 32] [--seconds 8] [--warmup 2] [--size 1024]
 */
#include "histogram.h"

#include "base/clock.h"
#include "base/conf.h"
#include "base/uuid.h"

#include <uv.h>

enum { ANSWER_MAX = 16 << 10, HEAD_MAX = 256, CALLERS_MAX = 4096 };

struct options {
    char *server, *action;
    int64_t callers, seconds_ms, warmup_ms, size;
    bool json, phases;
};
#define OPTION(name_, type_, member_, def_, min_, max_, help_)                                                         \
    {                                                                                                                  \
        .name = (name_), .type = (type_), .def = (def_), .min = (min_), .max = (max_), .help = (help_),                \
        .offset = offsetof(struct options, member_)                                                                    \
    }
static const struct conf_option table[] = {
    OPTION("server", CONF_STR, server, NULL, 0, 0, "Address of DTM's HTTP port."),
    OPTION("action", CONF_STR, action, NULL, 0, 0, "Where DTM delivers the message, and may ask about it."),
    OPTION("callers", CONF_INT, callers, "32", 1, CALLERS_MAX, "Messages in flight."),
    OPTION("seconds", CONF_DURATION_MS, seconds_ms, "8", 1, 86400000, "Measured time."),
    OPTION("warmup", CONF_DURATION_MS, warmup_ms, "2", 0, 3600000, "Time before the measured time."),
    OPTION("size", CONF_SIZE, size, "1024", 1, 1 << 20, "Characters of the payload."),
    OPTION("json", CONF_BOOL, json, NULL, 0, 0, "Ignored: the report is one line of JSON."),
    OPTION("phases", CONF_BOOL, phases, NULL, 0, 0, "Say \"measuring\" and \"measured\" on stdout when it is so."),
    {0},
};

struct load;
struct caller {
    struct load *load;
    uv_tcp_t tcp;
    uv_connect_t connect;
    uv_write_t write;
    char *request; /* head and body of the last call */
    bool submit;   /* the second call of its message */
    uint64_t began_ns;
    struct uuid id;
    size_t got;
    char answer[ANSWER_MAX];
};

struct load {
    struct options o;
    uv_loop_t loop;
    uv_timer_t timer;
    struct sockaddr_in server;
    struct caller *callers;
    char *payload;
    size_t request_max;
    bool measuring, ended;
    uint64_t begin_ns, elapsed_ns, messages, prepared, submitted, failed;
    struct histogram latency;
};

static void call(struct caller *c);

static void give_up(struct load *l, const char *why) {
    if (!l->failed++)
        fprintf(stderr, "dtm-load: %s\n", why);
    l->ended = true;
    uv_stop(&l->loop);
}

static void on_written(uv_write_t *w, int status) {
    struct caller *c = w->data;
    if (status < 0)
        give_up(c->load, uv_strerror(status));
}

/* A body is digits and letters, so that JSON of JSON needs no escapes but those of its own quotes. */
static void call(struct caller *c) {
    struct load *l = c->load;
    char id[UUID_TEXT], head[HEAD_MAX];
    uuid_format(&c->id, id);
    char *body = c->request + HEAD_MAX;
    int n = snprintf(body, l->request_max - HEAD_MAX,
                     "{\"gid\":\"%s\",\"trans_type\":\"msg\",\"steps\":[{\"action\":\"%s\"}],"
                     "\"payloads\":[\"\\\"%s\\\"\"],\"query_prepared\":\"%s\"}",
                     id, l->o.action, l->payload, l->o.action);
    int m = snprintf(head, sizeof(head),
                     "POST /api/dtmsvr/%s HTTP/1.1\r\nHost: dtm\r\nContent-Type: application/json\r\n"
                     "Content-Length: %d\r\n\r\n",
                     c->submit ? "submit" : "prepare", n);
    memcpy(body - m, head, (size_t)m);
    uv_buf_t b = uv_buf_init(body - m, (unsigned)(m + n));
    c->got = 0;
    c->write.data = c;
    int r = uv_write(&c->write, (uv_stream_t *)&c->tcp, &b, 1, on_written);
    if (r < 0)
        give_up(l, uv_strerror(r));
}

static void message_begin(struct caller *c) {
    c->submit = false;
    c->began_ns = clock_mono_ns();
    uuid_v7_make(clock_real_us() / 1000, &c->id);
    call(c);
}

static void answered(struct caller *c) {
    struct load *l = c->load;
    if (strncmp(c->answer, "HTTP/1.1 200", 12) || !strstr(c->answer, "SUCCESS")) {
        give_up(l, c->answer);
        return;
    }
    *(c->submit ? &l->submitted : &l->prepared) += 1;
    if (!c->submit) {
        c->submit = true;
        call(c);
        return;
    }
    if (l->measuring) {
        l->messages++;
        histogram_add(&l->latency, clock_mono_ns() - c->began_ns);
    }
    if (!l->ended)
        message_begin(c);
}

static void on_alloc(uv_handle_t *h, size_t suggested, uv_buf_t *ret) {
    struct caller *c = h->data;
    *ret = uv_buf_init(c->answer + c->got, (unsigned)(ANSWER_MAX - 1 - c->got));
}

static void on_read(uv_stream_t *h, ssize_t n, const uv_buf_t *b) {
    struct caller *c = h->data;
    if (n < 0) {
        give_up(c->load, uv_strerror((int)n));
        return;
    }
    c->got += (size_t)n;
    c->answer[c->got] = 0;
    const char *end = strstr(c->answer, "\r\n\r\n"), *length = strcasestr(c->answer, "\r\ncontent-length:");
    if (end && length && length < end &&
        c->got >= (size_t)(end + 4 - c->answer) + strtoul(length + strlen("\r\ncontent-length:"), NULL, 10))
        answered(c);
    else if (c->got == ANSWER_MAX - 1)
        give_up(c->load, "an answer of unknown length");
}

static void on_connect(uv_connect_t *r, int status) {
    struct caller *c = r->data;
    if (status < 0 || uv_read_start((uv_stream_t *)&c->tcp, on_alloc, on_read) < 0)
        give_up(c->load, "cannot connect");
    else
        message_begin(c);
}

static void say_phase(const struct load *l, const char *phase) {
    if (l->o.phases) {
        puts(phase);
        fflush(stdout);
    }
}

static void on_timer(uv_timer_t *t) {
    struct load *l = t->data;
    if (!l->measuring) {
        l->measuring = true;
        l->begin_ns = clock_mono_ns();
        say_phase(l, "measuring");
        uv_timer_start(t, on_timer, (uint64_t)l->o.seconds_ms, 0);
        return;
    }
    l->elapsed_ns = clock_mono_ns() - l->begin_ns;
    l->ended = true;
    uv_stop(&l->loop);
    say_phase(l, "measured");
}

static int load_init(struct load *l, struct errmsg *e) {
    char host[64];
    const char *colon = l->o.server ? strrchr(l->o.server, ':') : NULL;
    if (!colon || !l->o.action || (size_t)(colon - l->o.server) >= sizeof(host))
        return err_set(e, -EINVAL, "--server=ADDRESS:PORT and --action=URL are required");
    memcpy(host, l->o.server, (size_t)(colon - l->o.server));
    host[colon - l->o.server] = 0;
    if (uv_ip4_addr(host, (int)strtol(colon + 1, NULL, 10), &l->server) < 0)
        return err_set(e, -EINVAL, "%s is no address", l->o.server);
    l->request_max = (size_t)l->o.size + 2 * strlen(l->o.action) + 2 * HEAD_MAX;
    l->payload = mem_zalloc((size_t)l->o.size + 1);
    l->callers = mem_calloc((size_t)l->o.callers, sizeof(*l->callers));
    if (!l->payload || !l->callers)
        return err_set(e, -ENOMEM, "out of memory");
    struct uuid chance;
    for (int64_t i = 0; i < l->o.size; i++) { /* one digit an id is plenty: it only must not be all the same */
        uuid_v7_make(0, &chance);
        l->payload[i] = (char)('a' + chance.b[15] % 26);
    }
    return 0;
}

static int start(struct load *l, struct errmsg *e) {
    uv_loop_init(&l->loop);
    uv_timer_init(&l->loop, &l->timer);
    l->timer.data = l;
    uv_timer_start(&l->timer, on_timer, (uint64_t)l->o.warmup_ms, 0);
    for (int64_t i = 0; i < l->o.callers; i++) {
        struct caller *c = &l->callers[i];
        c->load = l;
        c->connect.data = c->tcp.data = c;
        c->request = mem_alloc(l->request_max);
        if (!c->request)
            return err_set(e, -ENOMEM, "out of memory");
        uv_tcp_init(&l->loop, &c->tcp);
        uv_tcp_nodelay(&c->tcp, 1);
        int r = uv_tcp_connect(&c->connect, &c->tcp, (const struct sockaddr *)&l->server, on_connect);
        if (r < 0)
            return err_set(e, r, "cannot connect: %s", uv_strerror(r));
    }
    return 0;
}

static void print(const struct load *l) {
    printf("{\"mode\": \"dtm\", \"callers\": %lld, \"size\": %lld, \"seconds\": %.3f, \"messages\": %llu, "
           "\"per_second\": %.1f, \"latency_ms\": ",
           (long long)l->o.callers, (long long)l->o.size, (double)l->elapsed_ns / 1e9, (unsigned long long)l->messages,
           (double)l->messages * 1e9 / (double)MAX(l->elapsed_ns, 1));
    histogram_print_json(&l->latency);
    printf(", \"total\": {\"prepared\": %llu, \"confirmed\": %llu}}\n", (unsigned long long)l->prepared,
           (unsigned long long)l->submitted);
}

int main(int argc, char **argv) {
    static struct load load;
    struct errmsg e = ERRMSG_NULL;
    struct conf *conf = conf_load(table, &load.o, argc, argv, NULL, &e);
    int r = conf ? load_init(&load, &e) : -EINVAL;
    if (r == 0)
        r = start(&load, &e);
    if (r == 0) {
        uv_run(&load.loop, UV_RUN_DEFAULT);
        if (load.messages)
            print(&load);
    }
    if (r < 0)
        fprintf(stderr, "dtm-load: %s\n", e.text);
    return r < 0 || load.failed || !load.messages; /* the process ends here: what it holds goes with it */
}
