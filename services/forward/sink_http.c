/*
 * HTTP: one POST for each message, a CloudEvent in binary or structured mode, with the headers of Standard Webhooks.
 *
 * Every delivery that was taken has a call: with the web client, or in `failed` until the next turn when it could not
 * even be started (no `done` may come from inside `deliver`). Calls are pooled. Who was refused because the client had
 * no slot is told when a call of ours ends, or after a short while if none is under way.
 */
#include "base/clock.h"
#include "base/mem.h"
#include "forward/event.h"
#include "forward/http_answer.h"
#include "store/store.h"
#include "webclient/signature.h"
#include "webclient/webclient.h"

#include <strings.h>

enum {
    LINES_MAX = 120, /* headers of one request */
    LINE_BYTES_MAX = 60 << 10,
    POOL_MAX = 256, /* idle calls kept */
    READY_AGAIN_MS = 20,
};

struct http_call {
    struct list link; /* active, failed or idle */
    struct http_sink *sink;
    struct delivery *delivery;
    struct web_call *web;
    int code; /* failed: why */
};

struct http_sink {
    struct sink sink;
    const struct sink_conf *conf;
    struct webclient *web;
    const struct store *store;
    struct list active, failed, idle;
    uint32_t idle_n;
    bool refused, closing;
    struct timer *timer; /* failed calls, or `ready` without a call under way */
    struct buf lines;    /* "Name: value\0Name: value\0" of the request being built */
    struct buf body;     /* of a structured event, for the request being built */
    size_t starts[LINES_MAX + 1];
    size_t starts_n;
    const char *headers[LINES_MAX + 1];
};

/* --- the request --- */

/* Names that a message may not bring: they frame the request, or are ours. */
static bool name_is_reserved(struct bytes name) {
    static const char *const names[] = {
        "content-length", "transfer-encoding", "connection",       "expect",      "upgrade", "te", "trailer",
        "host",           "keep-alive",        "proxy-connection", "content-type"};

    for (size_t i = 0; i < ARRAY_LEN(names); i++)
        if (name.n == strlen(names[i]) && strncasecmp((const char *)name.p, names[i], name.n) == 0)
            return true;
    return false;
}

/* True if the subscription's own headers name it: they are the operator's word and win. */
static bool name_is_configured(const struct http_sink *s, struct bytes name) {
    const char *key;
    json_t *value;

    json_object_foreach (s->conf->http.headers, key, value)
        if (strlen(key) == name.n && strncasecmp(key, (const char *)name.p, name.n) == 0)
            return true;
    return false;
}

static bool line_begin(struct http_sink *s) {
    if (s->starts_n == LINES_MAX)
        return false;
    s->starts[s->starts_n++] = s->lines.n;
    return true;
}

static void line_put(struct http_sink *s, struct bytes name, struct bytes value) {
    if (!line_begin(s))
        return;
    buf_put_bytes(&s->lines, name);
    buf_put_str(&s->lines, ": ");
    buf_put_bytes(&s->lines, value);
    buf_put_char(&s->lines, 0);
}

static void line_str(struct http_sink *s, const char *name, const char *value) {
    line_put(s, bytes_str(name), bytes_str(value));
}

static void put_attribute(void *arg, const char *name, struct bytes value) {
    struct http_sink *s = arg;

    if (!line_begin(s))
        return;
    buf_printf(&s->lines, "ce-%s: ", name);
    event_put_percent(&s->lines, value);
    buf_put_char(&s->lines, 0);
}

static void put_attempt(struct http_sink *s, const struct delivery *d) {
    char text[16], replay[UUID_TEXT];

    snprintf(text, sizeof(text), "%d", (int)d->attempt);
    line_str(s, "txmsg-attempt", text);
    if (d->replay) {
        uuid_format(d->replay, replay);
        line_str(s, "txmsg-replay", replay);
    }
}

/* 0, or why it could not be signed. */
static int put_webhook(struct http_sink *s, const struct delivery *d, struct bytes body) {
    int64_t now_s = (s->store ? store_now_us(s->store) : clock_real_us()) / 1000000;
    char id[MESSAGE_ID_TEXT], stamp[24];

    delivery_message_id(d, '-', id); /* such ids hold no dot */
    snprintf(stamp, sizeof(stamp), "%lld", (long long)now_s);
    line_str(s, "webhook-id", id);
    line_str(s, "webhook-timestamp", stamp);
    if (!s->conf->http.secret || !s->conf->http.secret[0] || !line_begin(s))
        return 0;
    buf_put_str(&s->lines, "webhook-signature: ");
    int r = webhook_sign(&s->lines, s->conf->http.secret, id, now_s, body);
    if (r == 0 && s->conf->http.previous_secret[0]) {
        buf_put_char(&s->lines, ' ');
        r = webhook_sign(&s->lines, s->conf->http.previous_secret, id, now_s, body);
    }
    buf_put_char(&s->lines, 0);
    return r;
}

static bool name_is_trace(struct bytes name) {
    return (name.n == 11 && strncasecmp((const char *)name.p, "traceparent", 11) == 0) ||
           (name.n == 10 && strncasecmp((const char *)name.p, "tracestate", 10) == 0);
}

/* The subscription's headers and the message's. */
static void put_headers(struct http_sink *s, const struct msg *m, bool traced) {
    const char *key;
    json_t *value;

    json_object_foreach (s->conf->http.headers, key, value)
        if (json_is_string(value))
            line_str(s, key, json_string_value(value));
    for (uint32_t i = 0; i < m->headers_n; i++) {
        struct bytes name = m->headers[i].name;
        if (!name_is_reserved(name) && !name_is_configured(s, name) && !(traced && name_is_trace(name)))
            line_put(s, name, m->headers[i].value);
    }
}

/* The headers into s->lines and the body, which is the message's own or lives in s->body. */
static int build(struct http_sink *s, const struct delivery *d, struct bytes *body) {
    const struct msg *m = &d->content->messages[d->n];
    struct event ev;

    buf_reset(&s->lines);
    buf_reset(&s->body);
    s->starts_n = 0;
    event_of(d, &ev);
    *body = m->body;
    if (s->conf->http.mode == CONTENT_STRUCTURED) {
        event_put_structured(&s->body, &ev, m);
        *body = buf_bytes(&s->body);
        line_str(s, "Content-Type", "application/cloudevents+json");
    } else {
        if (!name_is_configured(s, BYTES_LIT("content-type")))
            line_put(s, BYTES_LIT("Content-Type"),
                     m->content_type.n ? m->content_type : BYTES_LIT("application/octet-stream"));
        event_each(&ev, put_attribute, s);
    }
    if (ev.traceparent.n)
        line_put(s, BYTES_LIT("traceparent"), ev.traceparent);
    if (ev.tracestate.n)
        line_put(s, BYTES_LIT("tracestate"), ev.tracestate);
    put_attempt(s, d);
    int r = put_webhook(s, d, *body);
    put_headers(s, m, ev.traceparent.n > 0);
    if (r == 0)
        r = buf_error(&s->lines);
    if (r == 0)
        r = buf_error(&s->body);
    for (size_t i = 0; r == 0 && i < s->starts_n; i++)
        s->headers[i] = (const char *)s->lines.p + s->starts[i];
    s->headers[s->starts_n] = NULL;
    return r;
}

/* --- the answer --- */

static void judge_answer(struct http_sink *s, struct delivery *d, const struct web_response *resp) {
    char why[HTTP_ANSWER_TEXT];
    enum sink_verdict v = http_answer_judge(s->conf, resp->status, resp->body, why);

    sink_says(d, v == SINK_REJECT ? ATTEMPT_PERMANENT : attempt_class_of_status(resp->status), resp->status);
    if (v != SINK_OK || d->attempt > 1) /* nobody reads it of a delivery that succeeded at once */
        attempt_keep_response(&d->end, resp->body);
    sink_done(&s->sink, d, v, false, v == SINK_RETRY ? resp->retry_after_ms : -1, v == SINK_OK ? NULL : why);
}

static enum attempt_class class_of(enum web_result r) {
    return r == WEB_TIMEOUT ? ATTEMPT_TIMEOUT : r == WEB_CANCELLED ? ATTEMPT_OTHER : ATTEMPT_BROKEN;
}

/* Before the request was sent, nobody can have it; in all other cases somebody may. */
static void judge(struct http_sink *s, struct delivery *d, const struct web_response *resp) {
    switch (resp->result) {
    case WEB_ANSWERED:
        judge_answer(s, d, resp);
        return;
    case WEB_UNREACHABLE:
        sink_says(d, ATTEMPT_UNREACHABLE, 0);
        sink_done(&s->sink, d, SINK_RETRY, false, -1, resp->error);
        return;
    case WEB_TIMEOUT:
    case WEB_BROKEN:
    case WEB_TOO_LARGE:
    case WEB_CANCELLED:
        sink_says(d, class_of(resp->result), 0);
        sink_done(&s->sink, d, SINK_RETRY, true, -1, resp->error);
        return;
    }
    UNREACHABLE();
}

/* --- calls --- */

static void call_put(struct http_call *c) {
    struct http_sink *s = c->sink;

    list_del(&c->link);
    if (s->idle_n == POOL_MAX) {
        mem_free(c);
        return;
    }
    list_add_head(&s->idle, &c->link);
    s->idle_n++;
}

static struct http_call *call_get(struct http_sink *s) {
    struct list *e = list_pop(&s->idle);
    struct http_call *c;

    if (e) {
        s->idle_n--;
        c = LIST_ENTRY(e, struct http_call, link);
    } else {
        c = mem_alloc(sizeof(*c));
    }
    if (c) {
        *c = (struct http_call){.sink = s};
        list_init(&c->link);
    }
    return c;
}

static void tell_ready(struct http_sink *s) {
    if (!s->refused || s->closing)
        return;
    s->refused = false;
    s->sink.owner.ready(s->sink.owner.arg);
}

static void on_response(void *arg, const struct web_response *resp) {
    struct http_call *c = arg;
    struct http_sink *s = c->sink;
    struct delivery *d = c->delivery;

    call_put(c);
    judge(s, d, resp);
    tell_ready(s);
}

static void fail_all(struct http_sink *s) {
    struct list failed = LIST_INIT(failed);

    list_splice_tail(&failed, &s->failed);
    while (!list_empty(&failed)) {
        struct http_call *c = LIST_ENTRY(failed.next, struct http_call, link);
        struct delivery *d = c->delivery;
        char error[80];
        snprintf(error, sizeof(error), "the request could not be made: %s", err_text(c->code));
        call_put(c);
        sink_done(&s->sink, d, SINK_RETRY, false, -1, error);
    }
}

static void on_timer(void *arg) {
    struct http_sink *s = arg;

    fail_all(s);
    tell_ready(s);
}

static int refuse(struct http_sink *s) {
    s->refused = true;
    if (list_empty(&s->active) && !timer_armed(s->timer))
        timer_arm(s->timer, READY_AGAIN_MS);
    return SINK_BUSY;
}

static int http_deliver(struct sink *sink, struct delivery *d) {
    struct http_sink *s = CONTAINER_OF(sink, struct http_sink, sink);
    struct http_call *c = call_get(s);

    if (!c)
        return refuse(s);
    c->delivery = d;
    struct bytes body;
    c->code = build(s, d, &body);
    if (c->code == 0) {
        struct web_request r = {
            .url = s->conf->http.url, .body = body, .headers = s->headers, .timeout_ms = s->conf->http.timeout_ms};
        c->code = webclient_post(s->web, &r, on_response, c, &c->web);
    }
    if (c->code > 0) {
        call_put(c);
        return refuse(s);
    }
    list_add_tail(c->code == 0 ? &s->active : &s->failed, &c->link);
    if (c->code < 0)
        timer_arm(s->timer, 0);
    return SINK_TAKEN;
}

static void http_close(struct sink *sink) {
    struct http_sink *s = CONTAINER_OF(sink, struct http_sink, sink);

    s->closing = true;
    while (!list_empty(&s->active))
        webclient_cancel(LIST_ENTRY(s->active.next, struct http_call, link)->web);
    fail_all(s);
    timer_free(s->timer);
    while (!list_empty(&s->idle)) {
        struct list *e = list_pop(&s->idle);
        mem_free(LIST_ENTRY(e, struct http_call, link));
    }
    buf_deinit(&s->lines);
    buf_deinit(&s->body);
    mem_free(s);
}

static const struct sink_ops http_ops = {.deliver = http_deliver, .close = http_close};

int sink_http_new(const struct sink_env *env, const struct sink_owner *o, struct sink **ret, struct errmsg *e) {
    struct http_sink *s = mem_zalloc(sizeof(*s));
    int r = s ? timer_new(env->loop, on_timer, s, &s->timer) : -ENOMEM;

    if (r < 0) {
        mem_free(s);
        return err_set(e, r, "%s", err_text(r));
    }
    s->sink = (struct sink){.ops = &http_ops, .owner = *o};
    s->conf = &env->sub->sink;
    s->web = env->web;
    s->store = env->store;
    list_init(&s->active);
    list_init(&s->failed);
    list_init(&s->idle);
    buf_init(&s->lines, LINE_BYTES_MAX);
    buf_init(&s->body, EVENT_BODY_MAX);
    *ret = &s->sink;
    return 0;
}
