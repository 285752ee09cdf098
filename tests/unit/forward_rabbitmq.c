/*
 * The RabbitMQ sink against a broker of a few lines that speaks just enough AMQP 0-9-1 and misbehaves on order:
 * confirms in any form, returns, refusals, silence, a cut connection, and one that stops reading.
 */
#include "forward/sink.h"

#include "base/clock.h"
#include "base/guard.h"
#include "base/log.h"
#include "base/mem.h"

#include <arpa/inet.h>
#include <poll.h>
#include <pthread.h>
#include <sys/socket.h>
#include <unistd.h>

#include <setjmp.h>
#include <cmocka.h>

enum mode {
    ACK_EACH,
    ACK_TENS, /* one confirm for ten */
    NACK,
    RETURN_ODD, /* every second one cannot be routed */
    MUTE,       /* no confirm */
    CUT_AT_20,
    NO_EXCHANGE, /* the channel is closed at the first one */
    STOP_READING,
    BLOCK_AT_20, /* connection.blocked, then unblocked after a while */
    REFUSE_LOGIN,
};

/* --- the broker --- */

struct broker {
    int listener, port, control[2]; /* a byte in the pipe: close all and end */
    pthread_t thread;
    enum mode mode;
    _Atomic int connections, published;
};

struct peer {
    struct broker *b;
    int fd;
    uint8_t in[1 << 16];
    size_t in_n;
    uint64_t tag, left; /* of the message being read: bytes of its body */
    bool in_message, stopped;
    char id[64];
    struct buf out;
};

static void frame(struct peer *p, uint8_t type, uint16_t channel, struct bytes payload) {
    buf_put_char(&p->out, (char)type);
    buf_put_be16(&p->out, channel);
    buf_put_be32(&p->out, (uint32_t)payload.n);
    buf_put_bytes(&p->out, payload);
    buf_put_char(&p->out, (char)0xce);
}

/* Format letters: s short, l long, L longlong, o octet, S shortstr, X longstr, T empty table. */
static void method(struct peer *p, uint16_t channel, uint16_t class, uint16_t id, const char *format, ...) {
    CLEANUP_BUF struct buf m;
    va_list ap;

    buf_init(&m, 4096);
    buf_put_be16(&m, class);
    buf_put_be16(&m, id);
    va_start(ap, format);
    for (const char *f = format; *f; f++) {
        const char *s;
        switch (*f) {
        case 'o':
            buf_put_char(&m, (char)va_arg(ap, int));
            break;
        case 's':
            buf_put_be16(&m, (uint16_t)va_arg(ap, int));
            break;
        case 'l':
            buf_put_be32(&m, (uint32_t)va_arg(ap, int));
            break;
        case 'L':
            buf_put_be64(&m, va_arg(ap, uint64_t));
            break;
        case 'T':
            buf_put_be32(&m, 0);
            break;
        case 'S':
            s = va_arg(ap, const char *);
            buf_put_char(&m, (char)strlen(s));
            buf_put_str(&m, s);
            break;
        case 'X':
            s = va_arg(ap, const char *);
            buf_put_be32(&m, (uint32_t)strlen(s));
            buf_put_str(&m, s);
        }
    }
    va_end(ap);
    frame(p, 1, channel, buf_bytes(&m));
}

/* A returned message: method, header with its id alone, body. */
static void give_back(struct peer *p) {
    CLEANUP_BUF struct buf h;

    method(p, 1, 60, 50, "sSSS", 312, "NO_ROUTE", "", "nowhere");
    buf_init(&h, 4096);
    buf_put_be16(&h, 60);
    buf_put_be16(&h, 0);
    buf_put_be64(&h, 5);
    buf_put_be16(&h, 1 << 7); /* message_id */
    buf_put_char(&h, (char)strlen(p->id));
    buf_put_str(&h, p->id);
    frame(p, 2, 1, buf_bytes(&h));
    frame(p, 3, 1, BYTES_LIT("hello"));
}

static void ack(struct peer *p, uint64_t tag, bool multiple) {
    method(p, 1, 60, 80, "Lo", tag, multiple);
}

/* False: close the connection. */
static bool on_message(struct peer *p) {
    uint64_t tag = ++p->tag;

    atomic_fetch_add(&p->b->published, 1);
    switch (p->b->mode) {
    case ACK_EACH:
        ack(p, tag, false);
        break;
    case ACK_TENS:
        if (tag % 10 == 0)
            ack(p, tag, true);
        break;
    case NACK:
        method(p, 1, 60, 120, "Lo", tag, 0);
        break;
    case RETURN_ODD:
        if (tag % 2)
            give_back(p);
        ack(p, tag, false);
        break;
    case NO_EXCHANGE:
        if (tag == 1)
            method(p, 1, 20, 40, "sSss", 404, "NOT_FOUND - no exchange 'x'", 60, 40);
        break;
    case CUT_AT_20:
        if (tag == 20)
            return false;
        ack(p, tag, false);
        break;
    case BLOCK_AT_20:
        if (tag == 20)
            method(p, 0, 10, 60, "S", "low on memory");
        ack(p, tag, false);
        break;
    case MUTE:
    case STOP_READING:
    case REFUSE_LOGIN:
        break;
    }
    return true;
}

/* The message id stands behind the headers table in the properties; the test's are the only text like it. */
static void take_id(struct peer *p, const uint8_t *h, size_t n) {
    for (size_t i = 0; i + 38 < n; i++)
        if (h[i] == 38 && h[i + 9] == '-' && h[i + 37] == '.') {
            memcpy(p->id, h + i + 1, 38);
            p->id[38] = 0;
        }
}

static bool on_method(struct peer *p, const uint8_t *m) {
    switch (m[1] << 8 | m[3]) {
    case 10 << 8 | 11: /* start-ok */
        if (p->b->mode == REFUSE_LOGIN)
            method(p, 0, 10, 50, "sSss", 403, "ACCESS_REFUSED", 0, 0);
        else
            method(p, 0, 10, 30, "sls", 10, 131072, 10);
        break;
    case 10 << 8 | 40: /* open */
        method(p, 0, 10, 41, "S", "");
        break;
    case 20 << 8 | 10: /* channel.open */
        method(p, 1, 20, 11, "X", "");
        break;
    case 85 << 8 | 10: /* confirm.select */
        method(p, 1, 85, 11, "");
        p->stopped = p->b->mode == STOP_READING;
        break;
    case 10 << 8 | 50: /* close */
        method(p, 0, 10, 51, "");
        break;
    case 60 << 8 | 40: /* publish */
        p->in_message = true;
    }
    return true;
}

static bool on_frame(struct peer *p, uint8_t type, const uint8_t *payload, uint32_t n) {
    if (type == 1)
        return on_method(p, payload);
    if (type == 2) {
        p->left = 0;
        for (int i = 4; i < 12; i++)
            p->left = p->left << 8 | payload[i];
        take_id(p, payload, n);
    } else if (type == 3) {
        p->left -= MIN(p->left, (uint64_t)n);
    }
    if (!p->in_message || p->left)
        return true;
    p->in_message = false;
    return on_message(p);
}

static bool take_input(struct peer *p) {
    size_t at = 0;

    if (p->tag == 0 && p->in_n >= 8 && memcmp(p->in, "AMQP", 4) == 0) {
        method(p, 0, 10, 10, "ooTXX", 0, 9, "PLAIN", "en_US");
        at = 8;
    }
    while (p->in_n - at >= 8) {
        uint32_t n = (uint32_t)p->in[at + 3] << 24 | (uint32_t)p->in[at + 4] << 16 | (uint32_t)p->in[at + 5] << 8 |
                     p->in[at + 6];
        if (p->in_n - at < n + 8)
            break;
        if (!on_frame(p, p->in[at], p->in + at + 7, n))
            return false;
        at += n + 8;
    }
    memmove(p->in, p->in + at, p->in_n - at);
    p->in_n -= at;
    return true;
}

static bool serve(struct peer *p) {
    struct pollfd f[2] = {{.fd = p->b->control[0], .events = POLLIN}, {.fd = p->fd, .events = POLLIN}};
    uint64_t unblock_ns = 0;

    for (;;) {
        if (poll(f, p->stopped ? 1 : 2, 50) < 0 || f[0].revents)
            return false;
        if (p->b->mode == BLOCK_AT_20 && p->tag >= 20 && !unblock_ns)
            unblock_ns = clock_mono_ns() + 150 * NS_PER_MS;
        if (unblock_ns && clock_mono_ns() > unblock_ns) {
            unblock_ns = UINT64_MAX;
            method(p, 0, 10, 61, "");
        }
        if (!p->stopped && f[1].revents) {
            ssize_t n = read(p->fd, p->in + p->in_n, sizeof(p->in) - p->in_n);
            if (n <= 0)
                return true;
            p->in_n += (size_t)n;
            if (!take_input(p))
                return true;
        }
        for (size_t at = 0; at < p->out.n;) {
            ssize_t n = send(p->fd, p->out.p + at, p->out.n - at, MSG_NOSIGNAL);
            if (n <= 0)
                return true;
            at += (size_t)n;
        }
        buf_reset(&p->out);
    }
}

static void *broker_main(void *arg) {
    struct broker *b = arg;
    bool on = true;

    while (on) {
        struct pollfd f[2] = {{.fd = b->control[0], .events = POLLIN}, {.fd = b->listener, .events = POLLIN}};
        poll(f, 2, -1);
        if (f[0].revents)
            break;
        struct peer *p = mem_zalloc(sizeof(*p));
        p->b = b;
        p->fd = accept(b->listener, NULL, NULL);
        buf_init(&p->out, 1 << 20);
        atomic_fetch_add(&b->connections, 1);
        on = serve(p);
        close(p->fd);
        buf_deinit(&p->out);
        mem_free(p);
    }
    return NULL;
}

static void broker_start(struct broker *b, enum mode mode) {
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t n = sizeof(a);
    int small = 4096;

    *b = (struct broker){.mode = mode};
    b->listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    setsockopt(b->listener, SOL_SOCKET, SO_RCVBUF, &small, sizeof(small));
    assert_int_equal(bind(b->listener, (struct sockaddr *)&a, sizeof(a)), 0);
    assert_int_equal(listen(b->listener, 8), 0);
    assert_int_equal(getsockname(b->listener, (struct sockaddr *)&a, &n), 0);
    b->port = ntohs(a.sin_port);
    assert_int_equal(pipe(b->control), 0);
    assert_int_equal(pthread_create(&b->thread, NULL, broker_main, b), 0);
}

static void broker_stop(struct broker *b) {
    assert_int_equal(write(b->control[1], "x", 1), 1);
    pthread_join(b->thread, NULL);
    close(b->listener);
    close(b->control[0]);
    close(b->control[1]);
}

/* --- the bench --- */

enum { MANY = 3000 };

struct bench {
    struct broker broker;
    struct loop *loop;
    struct topology *topology;
    struct sink *sink;
    struct timer *heart;
    struct tx_content *content;
    struct delivery d[MANY];
    size_t n, sent, ended, verdict[4], unknown, out, most;
    bool refused;
    char error[200]; /* the last one */
};

static void on_done(void *arg, struct delivery *d) {
    struct bench *b = arg;

    assert_int_equal(d->attempt, 1);
    d->attempt = -1; /* once */
    b->out--;
    b->ended++;
    b->verdict[d->verdict]++;
    b->unknown += d->unknown;
    if (d->verdict != SINK_OK)
        snprintf(b->error, sizeof(b->error), "%s", d->error);
}

static void on_ready(void *arg) {
    ((struct bench *)arg)->refused = false;
}

static void on_heart(void *arg) {
    timer_arm(((struct bench *)arg)->heart, 5);
}

static void start(struct bench *b, enum mode mode, size_t n, size_t body_bytes, int port) {
    CLEANUP_FREE uint8_t *body = mem_zalloc(body_bytes + 1);
    CLEANUP_JSON json_t *topic = json_object(), *spec = NULL;
    struct errmsg e = ERRMSG_NULL;
    struct uuid id;
    char url[80];

    memset(b, 0, sizeof(*b));
    b->n = n;
    broker_start(&b->broker, mode);
    snprintf(url, sizeof(url), "amqp://u:p@127.0.0.1:%d/", port ? port : b->broker.port);
    spec = json_pack("{s:s,s:{s:{s:s,s:s,s:s}}}", "topic", "t", "sink", "rabbitmq", "url", url, "exchange", "x",
                     "timeout", "600ms");
    assert_int_equal(loop_new("t", &b->loop), 0);
    assert_int_equal(timer_new(b->loop, on_heart, b, &b->heart), 0);
    timer_arm(b->heart, 5);
    b->topology = topology_new(1);
    assert_int_equal(topology_add_topic(b->topology, "t", topic, &e), 0);
    if (topology_add_sub(b->topology, 1, "s", spec, &e) != 0)
        fail_msg("%s", e.text);
    struct guard guard;
    assert_int_equal(guard_parse("127.0.0.1", &guard, &e), 0);
    struct sink_env env = {.loop = b->loop, .guard = &guard, .sub = topology_sub(b->topology, 1)};
    struct sink_owner o = {.done = on_done, .ready = on_ready, .arg = b};
    int r = sink_new(&env, &o, &b->sink, &e);
    if (r == -ENOTSUP)
        skip();
    assert_int_equal(r, 0);
    uuid_v7_make(1700000000000, &id);
    struct msg m[8];
    for (int i = 0; i < 8; i++)
        m[i] = (struct msg){.topic = BYTES_LIT("t"), .key = BYTES_LIT("k"), .body = bytes_of(body, body_bytes)};
    b->content = tx_content_new(&id, BYTES_LIT("p"), BYTES_NULL, BYTES_NULL, 0, m, 8);
    for (size_t i = 0; i < n; i++)
        b->d[i] = (struct delivery){.content = b->content, .n = i % 8, .attempt = 1};
}

static void push(struct bench *b, size_t upto) {
    while (b->sent < upto && !b->refused) {
        if (sink_deliver(b->sink, &b->d[b->sent]) == SINK_BUSY) {
            b->refused = true;
            break;
        }
        b->sent++;
        b->out++;
        b->most = MAX(b->most, b->out);
    }
    sink_flush(b->sink);
}

static void turn(struct bench *b) {
    uv_run(loop_uv(b->loop), UV_RUN_ONCE);
}

static void run_to(struct bench *b, size_t n) {
    while (b->ended < n) {
        push(b, n);
        turn(b);
    }
}

static void stop(struct bench *b) {
    if (b->sink)
        sink_close(TAKE(b->sink));
    assert_int_equal(b->ended, b->sent);
    broker_stop(&b->broker);
    timer_free(b->heart);
    tx_content_unref(b->content);
    topology_unref(b->topology);
    loop_free(b->loop);
}

static struct bench bench;

static void expect(enum mode mode, size_t n, size_t ok, size_t retry, size_t reject) {
    struct bench *b = &bench;

    start(b, mode, n, 5, 0);
    run_to(b, n);
    assert_int_equal(b->verdict[SINK_OK], ok);
    assert_int_equal(b->verdict[SINK_RETRY], retry);
    assert_int_equal(b->verdict[SINK_REJECT], reject);
}

static void test_confirms(void **state) {
    expect(ACK_EACH, MANY, MANY, 0, 0);
    assert_int_equal(bench.most, 1024); /* the bound, and it was met */
    assert_int_equal(atomic_load(&bench.broker.published), MANY);
    stop(&bench);
    expect(ACK_TENS, MANY, MANY, 0, 0);
    stop(&bench);
}

static void test_nack(void **state) {
    expect(NACK, 100, 0, 100, 0);
    assert_int_equal(bench.unknown, 0);
    stop(&bench);
}

static void test_returned(void **state) {
    expect(RETURN_ODD, 1000, 500, 0, 500);
    assert_string_equal(bench.error, "not routed: 312 NO_ROUTE");
    stop(&bench);
}

static void test_no_exchange(void **state) {
    expect(NO_EXCHANGE, 100, 0, 100, 0);
    assert_int_equal(bench.unknown, 0);
    assert_non_null(strstr(bench.error, "404 NOT_FOUND - no exchange 'x'"));
    stop(&bench);
}

static void test_mute(void **state) {
    expect(MUTE, 50, 0, 50, 0);
    assert_int_equal(bench.unknown, 50);
    stop(&bench);
}

/* What was acknowledged before the cut is delivered, the rest is unknown; then it connects again. */
static void test_cut(void **state) {
    struct bench *b = &bench;

    start(b, CUT_AT_20, 400, 5, 0);
    run_to(b, 50);
    assert_int_equal(b->verdict[SINK_OK] + b->verdict[SINK_RETRY], 50);
    assert_true(b->verdict[SINK_OK] <= 19 && b->unknown >= 1);
    while (atomic_load(&b->broker.connections) < 2)
        turn(b);
    size_t before = b->verdict[SINK_OK];
    for (size_t n = 51; n <= b->n && b->verdict[SINK_OK] == before; n++) {
        run_to(b, n);
        for (int i = 0; i < 10; i++)
            turn(b);
    }
    assert_true(b->verdict[SINK_OK] > before);
    stop(b);
}

/* The send hangs: the watch ends it, in time and as unknown. */
static void test_stops_reading(void **state) {
    struct bench *b = &bench;

    start(b, STOP_READING, 64, 1 << 20, 0);
    run_to(b, 64);
    assert_int_equal(b->verdict[SINK_RETRY], 64);
    assert_true(b->unknown >= 1);
    stop(b);
}

static void test_blocked(void **state) {
    struct bench *b = &bench;

    start(b, BLOCK_AT_20, 300, 5, 0);
    run_to(b, 300);
    assert_int_equal(b->verdict[SINK_OK], 300); /* it waited */
    assert_int_equal(atomic_load(&b->broker.connections), 1);
    stop(b);
}

static void test_refused(void **state) {
    expect(REFUSE_LOGIN, 20, 0, 20, 0);
    assert_int_equal(bench.unknown, 0);
    assert_non_null(strstr(bench.error, "403 ACCESS_REFUSED"));
    stop(&bench);
    start(&bench, MUTE, 20, 5, 1); /* nobody there */
    run_to(&bench, 20);
    assert_int_equal(bench.verdict[SINK_RETRY], 20);
    assert_int_equal(bench.unknown, 0);
    stop(&bench);
}

/* In every state closing ends what is out, once, and leaves nothing. */
static void test_close(void **state) {
    static const enum mode modes[] = {MUTE, STOP_READING, ACK_EACH, NO_EXCHANGE, REFUSE_LOGIN};
    struct bench *b = &bench;

    for (size_t i = 0; i < ARRAY_LEN(modes); i++) {
        for (int turns = 0; turns < 40; turns += 13) {
            start(b, modes[i], 40, modes[i] == STOP_READING ? 1 << 20 : 5, 0);
            push(b, 20);
            for (int k = 0; k < turns; k++)
                turn(b);
            push(b, 40);
            stop(b);
        }
    }
}

int main(void) {
    log_set_level(LOG_LEVEL_ERROR);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_confirms),      cmocka_unit_test(test_nack),    cmocka_unit_test(test_returned),
        cmocka_unit_test(test_no_exchange),   cmocka_unit_test(test_mute),    cmocka_unit_test(test_cut),
        cmocka_unit_test(test_stops_reading), cmocka_unit_test(test_blocked), cmocka_unit_test(test_refused),
        cmocka_unit_test(test_close),
    };
    return cmocka_run_group_tests_name("forward_rabbitmq", tests, NULL, NULL);
}
