/*
 * See alert.h. Each tick: look, then claim and tell one notice after the other until none is due. A notice that cannot be told is tried
 * again after 1 s, 2 s, .. 5 min, TRIES_MAX times; then it counts as told, so that a dead hook ends in the log.
 */
#include "admin/alert.h"

#include "base/clock.h"
#include "base/json.h"
#include "base/log.h"
#include "base/metric.h"
#include "store/alerts.h"
#include "webclient/signature.h"

enum { TIMEOUT_MS = 10000, TRIES_MAX = 10, AGAIN_MAX_MS = 300000, TEXT_MAX = 8192 };

struct alerter {
    struct pg_conn *conn;
    struct webclient *web;
    const struct store *store;
    struct alert_options o;
    struct timer *timer;
    struct alert alert; /* the one that is being told */
    struct web_call *call;
    bool asking, freed;
    struct metric *told, *failed;
};

static void release(struct alerter *a) {
    if (a->freed && !a->asking)
        mem_free(a);
}

static void rest(struct alerter *a) {
    if (!a->freed)
        timer_arm(a->timer, (uint64_t)a->o.poll_ms);
}

static void claim(struct alerter *a);

/* A step is done: the next notice that is due, if there is one. */
static void go_on(void *arg, int code) {
    struct alerter *a = arg;
    a->asking = false;
    if (code == 0 && !a->freed)
        claim(a);
    else
        rest(a);
    release(a);
}

static void end(struct alerter *a, const char *error) {
    int64_t again_ms = MIN((int64_t)1000 << MIN(a->alert.tries, 20), (int64_t)AGAIN_MAX_MS);
    bool given_up = error && a->alert.tries + 1 >= TRIES_MAX;
    metric_add(error ? a->failed : a->told, 1);
    if (error)
        LOG_WARN("admin", "alerts.url: %s; %s", error, given_up ? "given up" : "tried again");
    a->asking = alert_end(a->conn, &a->alert, !error || given_up, error && !given_up ? again_ms : a->o.digest_ms, go_on,
                          a) == 0;
    if (!a->asking)
        rest(a); /* its lease ends */
}

static const char *event_of(const struct alert *v) {
    return v->resolved ? "resolved" : v->seq == 0 ? "first" : "digest";
}

/* {"type": "txmsg.dead_letters.first", "timestamp": .., "data": {..}} */
static int put_body(struct buf *out, const struct alert *v) {
    char type[48], now[32], since[32];
    bool stuck = !strcmp(v->kind, "stuck");
    snprintf(type, sizeof(type), "txmsg.%s.%s", v->kind, event_of(v));
    clock_format(v->now_us, now);
    clock_format(v->since_us, since);
    CLEANUP_JSON json_t *j = json_pack("{s:s,s:s,s:{s:s,s:s,s:I,s:s*}}", "type", type, "timestamp", now, "data",
                                       stuck ? "producer" : "subscription", v->object, "since", since, "count",
                                       (json_int_t)v->count, "lastError", *v->error ? v->error : NULL);
    return j ? json_write(out, j) : -ENOMEM;
}

static void on_answer(void *arg, const struct web_response *resp) {
    struct alerter *a = arg;
    char why[80];
    a->call = NULL;
    if (a->freed)
        return;
    if (resp->result == WEB_ANSWERED && resp->status >= 200 && resp->status <= 299) {
        end(a, NULL);
        return;
    }
    snprintf(why, sizeof(why), "status %d", resp->status);
    end(a, resp->result == WEB_ANSWERED ? why : resp->error);
}

static int post(struct alerter *a) {
    CLEANUP_BUF struct buf body, signature;
    char id[64], stamp[48];
    int64_t now_s = store_now_us(a->store) / 1000000;
    buf_init(&body, TEXT_MAX);
    buf_init(&signature, TEXT_MAX);
    int r = put_body(&body, &a->alert);
    snprintf(id, sizeof(id), "webhook-id: %s", a->alert.id);
    snprintf(stamp, sizeof(stamp), "webhook-timestamp: %lld", (long long)now_s);
    buf_put_str(&signature, "webhook-signature: ");
    if (r == 0 && *a->o.secret)
        r = webhook_sign(&signature, a->o.secret, a->alert.id, now_s, buf_bytes(&body));
    buf_put_char(&signature, 0);
    if (r == 0)
        r = buf_error(&signature);
    const char *headers[] = {"Content-Type: application/json", id, stamp,
                             *a->o.secret ? (const char *)signature.p : NULL, NULL};
    const struct web_request q = {
        .url = a->o.url, .body = buf_bytes(&body), .headers = headers, .timeout_ms = TIMEOUT_MS};
    return r == 0 ? webclient_post(a->web, &q, on_answer, a, &a->call) : r;
}

static void say(const struct alert *v) {
    bool stuck = !strcmp(v->kind, "stuck");
    if (v->resolved)
        LOG_INFO("admin", "alert: %s %s has no %s any more", stuck ? "producer" : "subscription", v->object,
                 stuck ? "stuck transactions" : "dead letters");
    else
        LOG_WARN("admin", "alert: %s %s has %lld %s%s%s", stuck ? "producer" : "subscription", v->object,
                 (long long)v->count, stuck ? "stuck transactions" : "dead letters", *v->error ? ", the latest: " : "",
                 v->error);
}

static void on_claimed(void *arg, int code, const struct alert *v) {
    struct alerter *a = arg;
    a->asking = false;
    if (a->freed || code < 0 || !v) {
        rest(a);
        release(a);
        return;
    }
    a->alert = *v;
    if (v->tries == 0)
        say(v);
    int r = *a->o.url ? post(a) : 0;
    if (r != 0)
        end(a, r > 0 ? "too many requests are under way" : err_text(r));
    else if (!*a->o.url)
        end(a, NULL);
}

static void claim(struct alerter *a) {
    a->asking = alert_claim(a->conn, on_claimed, a) == 0;
    if (!a->asking)
        rest(a);
}

static void on_timer(void *arg) {
    struct alerter *a = arg;
    a->asking = pg_conn_ready(a->conn) && alert_look(a->conn, go_on, a) == 0;
    if (!a->asking)
        rest(a);
}

int alerter_new(struct loop *l, struct pg_conn *people, struct webclient *web, const struct store *s,
                const struct alert_options *o, struct alerter **ret) {
    struct alerter *a = mem_zalloc(sizeof(*a));
    if (!a)
        return -ENOMEM;
    a->conn = people;
    a->web = web;
    a->store = s;
    a->o = *o;
    struct metric_family *f =
        metric_family(METRIC_COUNTER, "txmsg_alerts_total", "result", "Notices of the alert hook.", 2);
    a->told = metric_get(f, "told");
    a->failed = metric_get(f, "failed");
    int r = timer_new(l, on_timer, a, &a->timer);
    if (r < 0) {
        mem_free(a);
        return r;
    }
    rest(a);
    *ret = a;
    return 0;
}

void alerter_free(struct alerter *a) {
    if (!a)
        return;
    a->freed = true;
    if (a->call)
        webclient_cancel(a->call);
    timer_free(TAKE(a->timer));
    release(a);
}
