/* See codec.h. Requests were checked on the wire before (UTF-8, NUL, enum ranges); here the meaning is checked. */
#include "message/codec.h"

#include "base/clock.h"

int codec_refuse(struct arena *a, struct rpc_error *err, int code, const char *reason, const char *field,
                 const char *why) {
    *err = (struct rpc_error){.code = code, .reason = reason, .field = field, .field_description = field ? why : NULL};
    err->message = field ? arena_printf(a, "%s: %s", field, why) : why;
    if (!err->message)
        err->message = why;
    return 1;
}

void codec_meta(struct rpc_error *err, const char *key, const char *value) {
    size_t i = 0;
    while (i + 1 < ARRAY_LEN(err->meta) && err->meta[i])
        i += 2;
    if (!value || i + 1 >= ARRAY_LEN(err->meta))
        return;
    err->meta[i] = key;
    err->meta[i + 1] = value;
}

int codec_violation(struct arena *a, struct rpc_error *err, const struct violation *v) {
    const char *field = arena_strndup(a, v->field, strlen(v->field));
    const char *why = arena_strndup(a, v->description, strlen(v->description));
    if (!field || !why)
        return -ENOMEM;
    return codec_refuse(a, err, RPC_INVALID_ARGUMENT, "INVALID_FIELD", field, why);
}

static struct bytes text(const char *s) {
    return s && *s ? bytes_str(s) : BYTES_NULL;
}
static struct bytes data(ProtobufCBinaryData d) {
    return d.len ? bytes_of(d.data, d.len) : BYTES_NULL;
}

/* 0 = none. A time before 1970 is as good as the first microsecond after it: neither is ever ahead. */
static int one_time(const Google__Protobuf__Timestamp *in, size_t i, const char *field, struct arena *a, int64_t *ret,
                    struct rpc_error *err) {
    *ret = in ? MAX(codec_timestamp_us(in), 1) : 0;
    if (in && (in->nanos < 0 || in->nanos > 999999999))
        return codec_refuse(a, err, RPC_INVALID_ARGUMENT, "INVALID_FIELD",
                            arena_printf(a, "messages[%zu].%s", i, field), "has nanos outside 0 to 999999999");
    return 0;
}

static int one_message(const Txmsg__V1__Message *in, size_t i, bool may_be_later, struct arena *a, struct msg *out,
                       struct rpc_error *err) {
    if (in->body_later && !may_be_later)
        return codec_refuse(a, err, RPC_INVALID_ARGUMENT, "INVALID_FIELD",
                            arena_printf(a, "messages[%zu].body_later", i),
                            "is for Prepare: here every message brings its body");
    if (in->body_later && in->body.len)
        return codec_refuse(a, err, RPC_INVALID_ARGUMENT, "INVALID_FIELD", arena_printf(a, "messages[%zu].body", i),
                            "must be empty with body_later");
    struct header *h = in->n_headers ? arena_alloc(a, in->n_headers * sizeof(*h)) : NULL;
    if (in->n_headers && !h)
        return -ENOMEM;
    for (size_t k = 0; k < in->n_headers; k++)
        h[k] = (struct header){.name = bytes_str(in->headers[k]->key), .value = bytes_str(in->headers[k]->value)};
    *out = (struct msg){.topic = text(in->topic),
                        .key = data(in->key),
                        .body = data(in->body),
                        .content_type = text(in->content_type),
                        .headers = h,
                        .headers_n = (uint32_t)in->n_headers,
                        .later = in->body_later};
    int r = one_time(in->deliver_at, i, "deliver_at", a, &out->deliver_at_us, err);
    return r ? r : one_time(in->expire_at, i, "expire_at", a, &out->expire_at_us, err);
}

static int check_names(const struct topology *t, const struct codec_content_in *in, const struct msg *m,
                       struct arena *a, struct rpc_error *err) {
    for (size_t i = 0; i < in->messages_n; i++)
        if (!topology_topic(t, m[i].topic)) {
            const char *why = arena_printf(a, "topic \"%s\" does not exist", (const char *)m[i].topic.p);
            (void)!codec_refuse(a, err, RPC_NOT_FOUND, "TOPIC_NOT_FOUND", arena_printf(a, "messages[%zu].topic", i),
                                why ? why : "no such topic");
            codec_meta(err, "name", (const char *)m[i].topic.p);
            return 1;
        }
    return 0;
}

int codec_content(const struct limits *l, const struct topology *t, const struct uuid *id,
                  const struct codec_content_in *in, struct arena *a, struct tx_content **ret, struct rpc_error *err) {
    struct violation v;
    if (validate_name("producer", text(in->producer), &v))
        return codec_violation(a, err, &v);
    const struct producer_conf *p = topology_producer(t, bytes_str(in->producer));
    if (!p) {
        const char *why = arena_printf(a, "producer \"%s\" does not exist", in->producer);
        (void)!codec_refuse(a, err, RPC_NOT_FOUND, "PRODUCER_NOT_FOUND", "producer", why ? why : "no such producer");
        codec_meta(err, "name", in->producer);
        return 1;
    }
    if (validate_text("business_key", text(in->business_key), LIMIT_BUSINESS_KEY, &v))
        return codec_violation(a, err, &v);
    if (in->check_after_ms < 0 || in->check_after_ms > l->check_after_max_ms)
        return codec_refuse(a, err, RPC_INVALID_ARGUMENT, "INVALID_FIELD", "check_after",
                            arena_printf(a, "is outside 0 to %lld ms", (long long)l->check_after_max_ms));
    size_t n = in->messages_n;
    if (n > (size_t)l->messages) /* before anything is allocated by their number */
        return codec_refuse(a, err, RPC_INVALID_ARGUMENT, "INVALID_FIELD", "messages",
                            arena_printf(a, "has %zu messages, the limit is %lld", n, (long long)l->messages));
    struct msg *m = arena_alloc(a, MAX(n, 1u) * sizeof(*m));
    if (!m)
        return -ENOMEM;
    for (size_t i = 0; i < n; i++) {
        int r = one_message(in->messages[i], i, in->may_be_later, a, &m[i], err);
        if (r)
            return r;
    }
    if (validate_messages(l, m, (uint32_t)n, &v) || validate_times(l, uuid_v7_ms(id), m, (uint32_t)n, &v))
        return codec_violation(a, err, &v);
    int r = check_names(t, in, m, a, err);
    if (r)
        return r;
    *ret = tx_content_new(id, text(in->producer), text(in->business_key), text(in->trace), in->check_after_ms, m,
                          (uint32_t)n);
    return *ret ? 0 : -ENOMEM;
}

int codec_bodies(const struct limits *l, Txmsg__V1__MessageBody *const *in, size_t n, struct arena *a,
                 struct tx_bodies **ret, struct rpc_error *err) {
    struct msg_body *list = n ? arena_alloc(a, n * sizeof(*list)) : NULL;
    struct violation v;
    *ret = NULL;
    if (!list)
        return n ? -ENOMEM : 0;
    for (size_t i = 0; i < n; i++)
        list[i] = (struct msg_body){in[i]->n, bytes_of(in[i]->body.data, in[i]->body.len)};
    if (validate_bodies(l, list, n, &v))
        return codec_violation(a, err, &v);
    return tx_bodies_new(list, (uint32_t)n, ret);
}

int64_t codec_timestamp_us(const Google__Protobuf__Timestamp *t) {
    return t ? clock_us(t->seconds, t->nanos) : 0;
}

bool codec_timestamp(struct arena *a, int64_t us, Google__Protobuf__Timestamp **ret) {
    Google__Protobuf__Timestamp *t = us ? arena_alloc(a, sizeof(*t)) : NULL;
    *ret = t;
    if (!t)
        return us == 0;
    google__protobuf__timestamp__init(t);
    t->seconds = us / 1000000;
    t->nanos = (int32_t)(us % 1000000) * 1000;
    return true;
}

static char *id_text(struct arena *a, const struct uuid *id) {
    char *s = arena_alloc(a, UUID_TEXT);
    if (s)
        uuid_format(id, s);
    return s;
}

Txmsg__V1__TransactionStatus *codec_status(struct arena *a, const struct uuid *id, enum tx_state state,
                                           enum tx_origin origin, int64_t prepare_us, int64_t decision_us) {
    Txmsg__V1__TransactionStatus *s = arena_alloc(a, sizeof(*s));
    if (!s)
        return NULL;
    txmsg__v1__transaction_status__init(s);
    s->transaction_id = id_text(a, id);
    s->state = (Txmsg__V1__TransactionState)state;
    s->origin = (Txmsg__V1__DecisionOrigin)origin;
    bool ok = s->transaction_id && codec_timestamp(a, prepare_us, &s->prepare_time) &&
              codec_timestamp(a, decision_us, &s->decision_time);
    return ok ? s : NULL;
}

/* --- views --- */

static char *copy(struct arena *a, const char *s) {
    return arena_strndup(a, s ? s : "", s ? strlen(s) : 0);
}
static char *copy_bytes(struct arena *a, struct bytes b) {
    return arena_strndup(a, b.p, b.n);
}

static int put_headers(struct arena *a, const struct msg *m, Txmsg__V1__Message *out) {
    if (!m->headers_n)
        return 0;
    out->headers = arena_alloc(a, m->headers_n * sizeof(*out->headers));
    if (!out->headers)
        return -ENOMEM;
    for (uint32_t i = 0; i < m->headers_n; i++) {
        Txmsg__V1__Message__HeadersEntry *e = arena_alloc(a, sizeof(*e));
        if (!e)
            return -ENOMEM;
        txmsg__v1__message__headers_entry__init(e);
        e->key = copy_bytes(a, m->headers[i].name);
        e->value = copy_bytes(a, m->headers[i].value);
        if (!e->key || !e->value)
            return -ENOMEM;
        out->headers[out->n_headers++] = e;
    }
    return 0;
}

static int put_message(struct arena *a, const struct view_message *m, Txmsg__V1__TransactionMessage *out) {
    Txmsg__V1__Message *b = arena_alloc(a, sizeof(*b));
    if (!b)
        return -ENOMEM;
    txmsg__v1__message__init(b);
    b->topic = copy_bytes(a, m->msg.topic);
    b->content_type = copy_bytes(a, m->msg.content_type);
    b->key = (ProtobufCBinaryData){.data = (uint8_t *)copy_bytes(a, m->msg.key), .len = m->msg.key.n};
    b->body_later = m->msg.later;
    if (m->msg.body.p)
        b->body = (ProtobufCBinaryData){.data = (uint8_t *)copy_bytes(a, m->msg.body), .len = m->msg.body.n};
    if (!b->topic || !b->content_type || !b->key.data || (m->msg.body.n && !b->body.data) ||
        put_headers(a, &m->msg, b) < 0 || !codec_timestamp(a, m->msg.deliver_at_us, &b->deliver_at) ||
        !codec_timestamp(a, m->msg.expire_at_us, &b->expire_at))
        return -ENOMEM;
    out->n = (uint32_t)m->n;
    out->body_size = m->body_size;
    out->message = b;
    return 0;
}

/* The attempts of a delivery, oldest first. False when the arena is full. */
static bool put_attempts(struct arena *a, const struct view_delivery *d, Txmsg__V1__Delivery *o) {
    if (!d->history_n)
        return true;
    o->history = arena_alloc(a, d->history_n * sizeof(*o->history));
    for (size_t i = 0; o->history && i < d->history_n; i++) {
        const struct view_attempt *v = &d->history[i];
        Txmsg__V1__DeliveryAttempt *t = arena_alloc(a, sizeof(*t));
        if (!t)
            return false;
        txmsg__v1__delivery_attempt__init(t);
        t->attempt = v->attempt;
        t->status = v->status;
        t->latency_ms = v->latency_ms;
        t->error_class = copy(a, v->class);
        t->error = copy(a, v->error);
        t->response = copy(a, v->response);
        t->worker = copy(a, v->worker);
        if (!t->error_class || !t->error || !t->response || !t->worker || !codec_timestamp(a, v->at_us, &t->end_time))
            return false;
        o->history[o->n_history++] = t;
    }
    return o->history != NULL;
}

Txmsg__V1__Delivery *codec_delivery(struct arena *a, const struct view_delivery *d) {
    Txmsg__V1__Delivery *o = arena_alloc(a, sizeof(*o));
    if (!o)
        return NULL;
    txmsg__v1__delivery__init(o);
    o->subscription = copy(a, d->sub_name);
    o->state = (Txmsg__V1__DeliveryState)d->state;
    o->attempts = d->attempts;
    o->last_error = copy(a, d->last_error);
    bool ok = o->subscription && o->last_error && codec_timestamp(a, d->next_attempt_us, &o->next_attempt_time);
    return ok && put_attempts(a, d, o) ? o : NULL;
}

static int put_deliveries(struct arena *a, const struct view_tx *t, const struct view_message *m,
                          Txmsg__V1__TransactionMessage *out) {
    size_t n = 0;
    for (size_t i = 0; i < t->deliveries_n; i++)
        n += t->deliveries[i].n == m->n;
    if (!n)
        return 0;
    out->deliveries = arena_alloc(a, n * sizeof(*out->deliveries));
    if (!out->deliveries)
        return -ENOMEM;
    for (size_t i = 0; i < t->deliveries_n; i++) {
        const struct view_delivery *d = &t->deliveries[i];
        if (d->n != m->n)
            continue;
        Txmsg__V1__Delivery *o = codec_delivery(a, d);
        if (!o)
            return -ENOMEM;
        out->deliveries[out->n_deliveries++] = o;
    }
    return 0;
}

static int put_messages(struct arena *a, const struct view_tx *t, Txmsg__V1__Transaction *out) {
    if (!t->messages_n)
        return 0;
    out->messages = arena_alloc(a, t->messages_n * sizeof(*out->messages));
    if (!out->messages)
        return -ENOMEM;
    for (size_t i = 0; i < t->messages_n; i++) {
        Txmsg__V1__TransactionMessage *m = arena_alloc(a, sizeof(*m));
        if (!m)
            return -ENOMEM;
        txmsg__v1__transaction_message__init(m);
        if (put_message(a, &t->messages[i], m) < 0 || put_deliveries(a, t, &t->messages[i], m) < 0)
            return -ENOMEM;
        out->messages[out->n_messages++] = m;
    }
    return 0;
}

static bool put_checks(struct arena *a, const struct view_tx *t, Txmsg__V1__CheckSummary *c) {
    if (!t->history_n)
        return true;
    c->history = arena_alloc(a, t->history_n * sizeof(*c->history));
    for (size_t i = 0; c->history && i < t->history_n; i++) {
        const struct view_check *v = &t->history[i];
        Txmsg__V1__CheckAttempt *o = arena_alloc(a, sizeof(*o));
        if (!o)
            return false;
        txmsg__v1__check_attempt__init(o);
        o->check = v->count;
        o->unknowns = v->unknowns;
        o->error = copy(a, v->error);
        if (!o->error || !codec_timestamp(a, v->at_us, &o->end_time))
            return false;
        c->history[c->n_history++] = o;
    }
    return c->history != NULL;
}

/* Once decided its row is gone by and by; then the latest that is in the history counts. */
static Txmsg__V1__CheckSummary *check_summary(struct arena *a, const struct view_tx *t) {
    Txmsg__V1__CheckSummary *c = arena_alloc(a, sizeof(*c));
    const struct view_check *last = t->history_n ? &t->history[t->history_n - 1] : NULL;
    if (!c)
        return NULL;
    txmsg__v1__check_summary__init(c);
    c->count = t->checks || !last ? t->checks : last->count;
    c->unknowns = t->checks || !last ? t->unknowns : last->unknowns;
    c->last_error = copy(a, t->checks || !last ? t->check_error : last->error);
    bool ok = c->last_error && codec_timestamp(a, t->next_check_us, &c->next_check_time) &&
              codec_timestamp(a, t->stuck_us, &c->stuck_time);
    return ok && put_checks(a, t, c) ? c : NULL;
}

Txmsg__V1__Transaction *codec_transaction(struct arena *a, const struct view_tx *t) {
    Txmsg__V1__Transaction *o = arena_alloc(a, sizeof(*o));
    if (!o)
        return NULL;
    txmsg__v1__transaction__init(o);
    o->transaction_id = id_text(a, &t->id);
    o->state = (Txmsg__V1__TransactionState)t->state;
    o->producer = copy(a, t->producer);
    o->business_key = copy(a, t->business_key);
    o->decision = (Txmsg__V1__Decision)t->decision;
    o->origin = (Txmsg__V1__DecisionOrigin)t->origin;
    o->actor = copy(a, t->actor);
    o->reason = copy(a, t->reason);
    bool asked = t->checks || t->next_check_us || t->state == TX_STUCK || t->history_n;
    o->checks = asked ? check_summary(a, t) : NULL;
    bool ok = o->transaction_id && o->producer && o->business_key && o->actor && o->reason && (o->checks || !asked);
    ok = ok && codec_timestamp(a, t->prepare_us, &o->prepare_time) &&
         codec_timestamp(a, t->decision_us, &o->decision_time);
    return ok && put_messages(a, t, o) == 0 ? o : NULL;
}
