/*
 * What goes over the wire, and what comes back.
 *
 * librabbitmq keeps the socket nonblocking and waits inside with poll(). amqp_basic_publish() waits there for as long
 * as the broker does not read, whatever timeouts the socket has; whoever must not wait shuts the socket down from
 * outside. Frames are read one by one because confirms, returns and closing arrive unasked and in any mixture.
 */
#include "forward/rabbit_conn.h"

#include "base/mem.h"
#include "forward/event.h"
#include "forward/rabbit_dial.h"

#include <amqp.h>
#include <amqp_framing.h>
#include <amqp_ssl_socket.h>
#include <amqp_tcp_socket.h>

enum {
    CHANNEL = 1,
    FRAME_MAX = 131072,
    ENTRIES_MAX = 96,     /* of the headers table */
    FRAME_OVERHEAD = 512, /* of a header frame, all but the table */
    GOODBYE_MS = 100,     /* the broker's answer is waited for so long */
};

struct rabbit_conn {
    const struct rabbit_target *target;
    amqp_connection_state_t amqp;
    bool blocked, acked, channel_closed;
    /* basic.return: its content follows in frames of its own */
    bool returning;
    uint64_t return_left;
    char return_why[160];
    char why[200];
};

/* --- the target --- */

int rabbit_target_init(struct rabbit_target *t, const struct sub_conf *sub, const struct guard *guard,
                       struct errmsg *e) {
    struct amqp_connection_info info;

    *t = (struct rabbit_target){.timeout_ms = sub->sink.rabbitmq.timeout_ms};
    if (guard)
        t->guard = *guard;
    t->url = mem_strdup(sub->sink.rabbitmq.url);
    t->exchange = mem_strdup(sub->sink.rabbitmq.exchange ? sub->sink.rabbitmq.exchange : "");
    t->routing_key = mem_strdup(sub->sink.rabbitmq.routing_key ? sub->sink.rabbitmq.routing_key : "");
    t->subscription = mem_strdup(sub->name);
    if (!t->url || !t->exchange || !t->routing_key || !t->subscription)
        return err_set(e, -ENOMEM, "out of memory");
    if (strlen(t->exchange) > 255 || strlen(t->routing_key) > 255)
        return err_set(e, -EINVAL, "exchange or routing key is longer than 255 bytes");
    if (amqp_parse_url(t->url, &info) != AMQP_STATUS_OK)
        return err_set(e, -EINVAL, "not an amqp:// or amqps:// URL");
    t->host = info.host;
    t->port = info.port;
    t->user = info.user;
    t->password = info.password;
    /* "amqp://host/" names the empty vhost by the letter of the URI rules; nobody has one, everybody means "/". */
    t->vhost = *info.vhost ? info.vhost : "/";
    t->tls = info.ssl;
    return 0;
}

void rabbit_target_deinit(struct rabbit_target *t) {
    mem_free(TAKE(t->url));
    mem_free(TAKE(t->exchange));
    mem_free(TAKE(t->routing_key));
    mem_free(TAKE(t->subscription));
}

/* --- opening --- */

static struct bytes view(amqp_bytes_t b) {
    return bytes_of(b.bytes, b.len);
}

static amqp_bytes_t amqp_of(struct bytes b) {
    return (amqp_bytes_t){.len = b.n, .bytes = (void *)(uintptr_t)b.p};
}

static void put_close(char *out, size_t size, const char *what, int code, amqp_bytes_t text) {
    snprintf(out, size, "%s: %d %.*s", what, code, (int)MIN(text.len, (size_t)150),
             text.len ? (const char *)text.bytes : "");
}

/* Why a synchronous call failed. */
static int reply_error(amqp_rpc_reply_t r, const char *what, struct errmsg *e) {
    char text[200];

    if (r.reply_type == AMQP_RESPONSE_NORMAL)
        return 0;
    if (r.reply_type == AMQP_RESPONSE_LIBRARY_EXCEPTION)
        return err_set(e, -ECONNREFUSED, "%s: %s", what, amqp_error_string2(r.library_error));
    if (r.reply_type == AMQP_RESPONSE_SERVER_EXCEPTION && r.reply.id == AMQP_CONNECTION_CLOSE_METHOD) {
        amqp_connection_close_t *m = r.reply.decoded;
        put_close(text, sizeof(text), what, m->reply_code, m->reply_text);
        return err_set(e, -ECONNREFUSED, "%s", text);
    }
    if (r.reply_type == AMQP_RESPONSE_SERVER_EXCEPTION && r.reply.id == AMQP_CHANNEL_CLOSE_METHOD) {
        amqp_channel_close_t *m = r.reply.decoded;
        put_close(text, sizeof(text), what, m->reply_code, m->reply_text);
        return err_set(e, -ECONNREFUSED, "%s", text);
    }
    return err_set(e, -ECONNREFUSED, "%s: refused", what);
}

static amqp_socket_t *make_socket(struct rabbit_conn *c) {
    static const char system_ca[] = "/etc/ssl/certs/ca-certificates.crt";
    const char *ca = getenv("SSL_CERT_FILE");
    amqp_socket_t *s;

    if (!c->target->tls)
        return amqp_tcp_socket_new(c->amqp);
    s = amqp_ssl_socket_new(c->amqp); /* verifies certificate and host name */
    if (s && amqp_ssl_socket_set_cacert(s, ca && ca[0] ? ca : system_ca) != AMQP_STATUS_OK)
        return NULL;
    return s;
}

static amqp_table_entry_t entry_text(const char *key, struct bytes value) {
    return (amqp_table_entry_t){.key = amqp_cstring_bytes(key),
                                .value = {.kind = AMQP_FIELD_KIND_UTF8, .value = {.bytes = amqp_of(value)}}};
}

static amqp_table_entry_t entry_true(const char *key) {
    return (amqp_table_entry_t){.key = amqp_cstring_bytes(key),
                                .value = {.kind = AMQP_FIELD_KIND_BOOLEAN, .value = {.boolean = 1}}};
}

static amqp_rpc_reply_t login(struct rabbit_conn *c) {
    const struct rabbit_target *t = c->target;
    amqp_table_entry_t abilities[] = {entry_true("publisher_confirms"), entry_true("basic.nack"),
                                      entry_true("connection.blocked"), entry_true("authentication_failure_close")};
    amqp_table_t ability_table = {.num_entries = ARRAY_LEN(abilities), .entries = abilities};
    amqp_table_entry_t properties[] = {
        entry_text("product", BYTES_LIT("txmsg")),
        entry_text("connection_name", bytes_str(t->subscription)),
        {.key = amqp_cstring_bytes("capabilities"),
         .value = {.kind = AMQP_FIELD_KIND_TABLE, .value = {.table = ability_table}}},
    };
    amqp_table_t table = {.num_entries = ARRAY_LEN(properties), .entries = properties};

    return amqp_login_with_properties(c->amqp, t->vhost, 0, FRAME_MAX, RABBIT_HEARTBEAT_S, &table,
                                      AMQP_SASL_METHOD_PLAIN, t->user, t->password);
}

static int open_all(struct rabbit_conn *c, struct errmsg *e) {
    int64_t ms = MAX(MIN(c->target->timeout_ms, (int64_t)RABBIT_OPEN_MAX_MS), (int64_t)500);
    struct timeval tv = {.tv_sec = ms / 1000, .tv_usec = ms % 1000 * 1000};
    amqp_socket_t *s = make_socket(c);
    struct rabbit_dial dial;

    if (!s)
        return err_set(e, -EIO, "no socket, or the CA certificates cannot be read");
    rabbit_dial_begin(&dial, &c->target->guard);
    int r = amqp_socket_open_noblock(s, c->target->host, c->target->port, &tv);
    rabbit_dial_end();
    if (r != AMQP_STATUS_OK)
        return err_set(e, -ECONNREFUSED, "connect to %s:%d: %s", c->target->host, c->target->port,
                       dial.refused[0] ? dial.refused : amqp_error_string2(r));
    amqp_set_handshake_timeout(c->amqp, &tv);
    amqp_set_rpc_timeout(c->amqp, &tv);
    r = reply_error(login(c), "log in", e);
    if (r < 0)
        return r;
    amqp_channel_open(c->amqp, CHANNEL);
    r = reply_error(amqp_get_rpc_reply(c->amqp), "open a channel", e);
    if (r < 0)
        return r;
    amqp_confirm_select(c->amqp, CHANNEL);
    r = reply_error(amqp_get_rpc_reply(c->amqp), "ask for confirms", e);
    amqp_maybe_release_buffers(c->amqp);
    return r;
}

int rabbit_conn_open(const struct rabbit_target *t, struct rabbit_conn **ret, struct errmsg *e) {
    struct rabbit_conn *c = mem_zalloc(sizeof(*c));

    if (!c)
        return err_set(e, -ENOMEM, "out of memory");
    c->target = t;
    c->amqp = amqp_new_connection();
    int r = c->amqp ? open_all(c, e) : err_set(e, -ENOMEM, "out of memory");
    if (r < 0) {
        rabbit_conn_close(c, false);
        return r;
    }
    *ret = c;
    return 0;
}

int rabbit_conn_look(struct rabbit_conn *c, struct errmsg *e) {
    const char *name = c->target->exchange;

    if (!*name) /* the default one, which cannot be asked for */
        return 0;
    amqp_exchange_declare(c->amqp, CHANNEL, amqp_cstring_bytes(name), amqp_cstring_bytes("direct"), 1, 0, 0, 0,
                          amqp_empty_table);
    return reply_error(amqp_get_rpc_reply(c->amqp), "exchange", e);
}

void rabbit_conn_close(struct rabbit_conn *c, bool polite) {
    if (!c)
        return;
    if (polite) {
        static const struct timeval soon = {0, GOODBYE_MS * 1000};
        amqp_set_rpc_timeout(c->amqp, &soon);
        amqp_connection_close(c->amqp, AMQP_REPLY_SUCCESS);
    }
    amqp_destroy_connection(c->amqp);
    mem_free(c);
}

int rabbit_conn_fd(const struct rabbit_conn *c) {
    return amqp_get_sockfd(c->amqp);
}

bool rabbit_conn_blocked(const struct rabbit_conn *c) {
    return c->blocked;
}

const char *rabbit_conn_why(const struct rabbit_conn *c) {
    return c->why[0] ? c->why : "the connection was lost";
}

bool rabbit_conn_refused(const struct rabbit_conn *c) {
    return c->channel_closed && !c->acked;
}

static int over(struct rabbit_conn *c, int status) {
    if (!c->why[0])
        snprintf(c->why, sizeof(c->why), "connection lost: %s", amqp_error_string2(status));
    return -EPIPE;
}

/* --- publishing --- */

struct headers {
    amqp_table_entry_t entries[ENTRIES_MAX];
    int n;
    size_t bytes;       /* on the wire */
    char names[16][40]; /* of those that are not the message's own */
    int names_n;
};

static void add_header(struct headers *h, struct bytes name, struct bytes value) {
    if (h->n == ENTRIES_MAX)
        return;
    h->entries[h->n++] = (amqp_table_entry_t){
        .key = amqp_of(name), .value = {.kind = AMQP_FIELD_KIND_UTF8, .value = {.bytes = amqp_of(value)}}};
    h->bytes += 1 + name.n + 1 + 4 + value.n;
}

static void add_attribute(void *arg, const char *name, struct bytes value) {
    struct headers *h = arg;

    ASSERT(h->names_n < (int)ARRAY_LEN(h->names));
    char *own = h->names[h->names_n++];
    snprintf(own, sizeof(h->names[0]), "cloudEvents:%s", name);
    add_header(h, bytes_str(own), value);
}

/* CC and BCC are orders to the broker, and as a text they would cost the channel. */
static bool header_allowed(struct bytes name) {
    return !bytes_eq_str(name, "CC") && !bytes_eq_str(name, "BCC");
}

static void add_own(struct headers *h, const struct event *ev, const struct msg *m, const char *attempt) {
    add_header(h, BYTES_LIT("txmsg-attempt"), bytes_str(attempt));
    if (ev->traceparent.n)
        add_header(h, BYTES_LIT("traceparent"), ev->traceparent);
    if (ev->tracestate.n)
        add_header(h, BYTES_LIT("tracestate"), ev->tracestate);
    for (uint32_t i = 0; i < m->headers_n; i++) {
        struct bytes name = m->headers[i].name;
        bool twice = ev->traceparent.n && (bytes_eq_str(name, "traceparent") || bytes_eq_str(name, "tracestate"));
        if (header_allowed(name) && !twice)
            add_header(h, name, m->headers[i].value);
    }
}

int rabbit_conn_publish(struct rabbit_conn *c, const struct delivery *d) {
    const struct msg *m = &d->content->messages[d->n];
    const struct rabbit_target *t = c->target;
    struct headers h = {.n = 0};
    char attempt[16], replay[UUID_TEXT];
    struct event ev;

    event_of(d, &ev);
    event_each(&ev, add_attribute, &h);
    snprintf(attempt, sizeof(attempt), "%d", (int)d->attempt);
    if (d->replay) {
        uuid_format(d->replay, replay);
        add_header(&h, BYTES_LIT("txmsg-replay"), bytes_str(replay));
    }
    add_own(&h, &ev, m, attempt);
    if (h.bytes + FRAME_OVERHEAD + LIMIT_CONTENT_TYPE + 2 * LIMIT_NAME > (size_t)amqp_get_frame_max(c->amqp))
        return 1;
    amqp_basic_properties_t p = {
        ._flags = AMQP_BASIC_HEADERS_FLAG | AMQP_BASIC_DELIVERY_MODE_FLAG | AMQP_BASIC_MESSAGE_ID_FLAG |
                  AMQP_BASIC_TIMESTAMP_FLAG | AMQP_BASIC_TYPE_FLAG | AMQP_BASIC_APP_ID_FLAG,
        .headers = {.num_entries = h.n, .entries = h.entries},
        .delivery_mode = AMQP_DELIVERY_PERSISTENT,
        .message_id = amqp_cstring_bytes(ev.id),
        .timestamp = (uint64_t)ev.time_s,
        .type = amqp_of(m->topic),
        .app_id = amqp_of(d->content->producer),
    };
    if (m->content_type.n) {
        p._flags |= AMQP_BASIC_CONTENT_TYPE_FLAG;
        p.content_type = amqp_of(m->content_type);
    }
    struct bytes key = t->routing_key[0] ? bytes_str(t->routing_key) : m->key.n ? m->key : m->topic;
    int r =
        amqp_basic_publish(c->amqp, CHANNEL, amqp_cstring_bytes(t->exchange), amqp_of(key), 1, 0, &p, amqp_of(m->body));
    return r == AMQP_STATUS_OK ? 0 : over(c, r);
}

/* --- reading --- */

static int on_method(struct rabbit_conn *c, const amqp_method_t *m, const struct rabbit_events *ev) {
    switch (m->id) {
    case AMQP_BASIC_ACK_METHOD: {
        amqp_basic_ack_t *a = m->decoded;
        c->acked = true;
        ev->confirmed(ev->arg, a->delivery_tag, a->multiple, true);
        return 0;
    }
    case AMQP_BASIC_NACK_METHOD: {
        amqp_basic_nack_t *a = m->decoded;
        ev->confirmed(ev->arg, a->delivery_tag, a->multiple, false);
        return 0;
    }
    case AMQP_BASIC_RETURN_METHOD: {
        amqp_basic_return_t *a = m->decoded;
        put_close(c->return_why, sizeof(c->return_why), "not routed", a->reply_code, a->reply_text);
        c->returning = true;
        return 0;
    }
    case AMQP_CHANNEL_CLOSE_METHOD: {
        amqp_channel_close_t *a = m->decoded;
        put_close(c->why, sizeof(c->why), "the broker closed the channel", a->reply_code, a->reply_text);
        c->channel_closed = true;
        return -EPIPE;
    }
    case AMQP_CONNECTION_CLOSE_METHOD: {
        amqp_connection_close_t *a = m->decoded;
        put_close(c->why, sizeof(c->why), "the broker closed the connection", a->reply_code, a->reply_text);
        return -EPIPE;
    }
    case AMQP_CONNECTION_BLOCKED_METHOD:
        c->blocked = true;
        return 0;
    case AMQP_CONNECTION_UNBLOCKED_METHOD:
        c->blocked = false;
        return 0;
    default:
        return 0;
    }
}

/* The content of a returned message: its header names it, its body is read past. */
static void on_content_header(struct rabbit_conn *c, const amqp_frame_t *f, const struct rabbit_events *ev) {
    const amqp_basic_properties_t *p = f->payload.properties.decoded;

    if (!c->returning)
        return;
    c->return_left = f->payload.properties.body_size;
    if (p->_flags & AMQP_BASIC_MESSAGE_ID_FLAG)
        ev->returned(ev->arg, view(p->message_id), c->return_why);
    c->returning = c->return_left > 0;
}

static void on_content_body(struct rabbit_conn *c, const amqp_frame_t *f) {
    if (!c->returning)
        return;
    c->return_left -= MIN(c->return_left, (uint64_t)f->payload.body_fragment.len);
    c->returning = c->return_left > 0;
}

static int on_frame(struct rabbit_conn *c, const amqp_frame_t *f, const struct rabbit_events *ev) {
    switch (f->frame_type) {
    case AMQP_FRAME_METHOD:
        return on_method(c, &f->payload.method, ev);
    case AMQP_FRAME_HEADER:
        on_content_header(c, f, ev);
        return 0;
    case AMQP_FRAME_BODY:
        on_content_body(c, f);
        return 0;
    default:
        return 0;
    }
}

int rabbit_conn_read(struct rabbit_conn *c, const struct rabbit_events *ev) {
    static const struct timeval now = {0, 0};
    amqp_frame_t f;

    for (;;) {
        int r = amqp_simple_wait_frame_noblock(c->amqp, &f, &now);
        if (r == AMQP_STATUS_TIMEOUT)
            break;
        if (r != AMQP_STATUS_OK)
            return over(c, r);
        r = on_frame(c, &f, ev);
        if (r < 0)
            return r;
        amqp_maybe_release_buffers(c->amqp);
    }
    return 0;
}
