/* prepare, publish, confirm, cancel, get, list. */
#include "txmsgctl/ctl.h"

#include "base/clock.h"
#include "base/uuid.h"
#include "txmsg/v1/message_service.pb-c.h"

#define SERVICE "/txmsg.v1.MessageService/"

static const struct ctl_option send_options[] = {
    {"--producer", "NAME", "who sends; required"},
    {"--topic", "NAME", "where to; required"},
    {"--body", "TEXT", "the body"},
    {"--body-file", "FILE", "the body from a file, - = standard input"},
    {"--body-later", NULL, "prepare only: the body comes with the decision"},
    {"--key", "TEXT", "message key"},
    {"--header", "NAME=VALUE", "a header; may be given several times"},
    {"--content-type", "TYPE", "of the body"},
    {"--business-key", "TEXT", "a name of your own for the transaction"},
    {"--id", "UUID", "transaction id (UUIDv7); made here if absent"},
    {"--deliver-at", "TIME", "not before; RFC 3339, or how far ahead, such as 10m"},
    {"--expire-at", "TIME", "discarded where it is undelivered then; RFC 3339, or how far ahead"},
    {"--check-after", "DURATION", "prepare only: when the first check may come"},
    {NULL, NULL, NULL},
};
static const struct ctl_option confirm_options[] = {
    {"--producer", "NAME", "must match the transaction's"},
    CTL_BODY_OPTIONS,
    {NULL, NULL, NULL},
};
static const struct ctl_option cancel_options[] = {
    {"--producer", "NAME", "must match the transaction's"},
    {"--reason", "TEXT", "kept with the decision"},
    {NULL, NULL, NULL},
};
static const struct ctl_option get_options[] = {
    {"--bodies", NULL, "show the bodies too"},
    {NULL, NULL, NULL},
};
static const struct ctl_option list_options[] = {
    {"--producer", "NAME", "only of this producer"},
    {"--topic", "NAME", "only with a message to this topic"},
    {"--state", "STATE", "prepared, confirmed, cancelled or stuck"},
    {"--business-key", "TEXT", "only with this business key (needs --producer)"},
    {"--since", "TIME", "RFC 3339, or an age such as 1h; default 1h"},
    {"--until", "TIME", "RFC 3339, or an age; default now"},
    {"--limit", "N", "at most so many; default 50"},
    {"--deliveries", NULL, "also what became of the messages, by subscription; at most 100"},
    {NULL, NULL, NULL},
};

static int print_status(struct ctl *c, const Txmsg__V1__TransactionStatus *s) {
    struct table t = {0};
    table_row(&t, 5, "TRANSACTION", "STATE", "ORIGIN", "PREPARED", "DECIDED");
    table_row(&t, 5, s->transaction_id, ctl_enum(c, &txmsg__v1__transaction_state__descriptor, (int)s->state),
              ctl_enum(c, &txmsg__v1__decision_origin__descriptor, (int)s->origin), ctl_time(c, s->prepare_time),
              ctl_time(c, s->decision_time));
    table_print(&t);
    return CTL_OK;
}

static int fill_headers(struct ctl *c, Txmsg__V1__Message *m) {
    m->headers = mem_must(arena_alloc(&c->arena, CTL_OPTIONS_MAX * sizeof(*m->headers)));
    for (int i = 0; i < c->args.options_n; i++) {
        if (strcmp(c->args.options[i].name, "--header"))
            continue;
        const char *text = c->args.options[i].value, *eq = strchr(text, '=');
        if (!eq || eq == text)
            return ctl_usage("--header: '%s' is not NAME=VALUE", text);
        Txmsg__V1__Message__HeadersEntry *h = mem_must(arena_alloc(&c->arena, sizeof(*h)));
        txmsg__v1__message__headers_entry__init(h);
        h->key = mem_must(arena_strndup(&c->arena, text, (size_t)(eq - text)));
        h->value = (char *)(uintptr_t)(eq + 1);
        m->headers[m->n_headers++] = h;
    }
    return CTL_OK;
}

/* RFC 3339, or a distance from now: `sign` 1 = ahead, -1 = back. Not given: NULL. */
int ctl_time_option(struct ctl *c, const char *name, int sign, Google__Protobuf__Timestamp **ret) {
    const char *v = args_get(&c->args, name);
    int64_t us, ms;
    if (!v)
        return CTL_OK;
    if (clock_parse(v, &us) < 0) {
        if (text_duration_ms(v, &ms) < 0)
            return ctl_usage("%s: '%s' is neither RFC 3339 nor a duration such as 1h", name, v);
        us = clock_real_us() + sign * ms * 1000;
    }
    Google__Protobuf__Timestamp *t = mem_must(arena_alloc(&c->arena, sizeof(*t)));
    google__protobuf__timestamp__init(t);
    t->seconds = us / 1000000;
    t->nanos = (int32_t)(us % 1000000) * 1000;
    *ret = t;
    return CTL_OK;
}

static int fill_message(struct ctl *c, Txmsg__V1__Message *m) {
    txmsg__v1__message__init(m);
    const char *file = args_get(&c->args, "--body-file"), *body = ctl_opt(c, "--body"), *key = ctl_opt(c, "--key");
    size_t n = strlen(body);
    if (file && *body)
        return ctl_usage("give --body or --body-file, not both");
    if (file && !(body = ctl_read_file(c, file, &n)))
        return CTL_USAGE;
    m->body_later = args_has(&c->args, "--body-later");
    if (m->body_later && (file || *body))
        return ctl_usage("--body-later has no body yet: give it to confirm");
    m->topic = ctl_opt(c, "--topic");
    m->content_type = ctl_opt(c, "--content-type");
    m->body = (ProtobufCBinaryData){.len = n, .data = (uint8_t *)(uintptr_t)body};
    m->key = (ProtobufCBinaryData){.len = strlen(key), .data = (uint8_t *)(uintptr_t)key};
    if (!*m->topic || !*ctl_opt(c, "--producer"))
        return ctl_usage("--producer and --topic are required");
    int code = ctl_time_option(c, "--deliver-at", 1, &m->deliver_at);
    if (code == CTL_OK)
        code = ctl_time_option(c, "--expire-at", 1, &m->expire_at);
    return code == CTL_OK ? fill_headers(c, m) : code;
}

static void body_add(struct ctl *c, Txmsg__V1__MessageBody **list, size_t *n, uint32_t message, const char *p,
                     size_t bytes) {
    Txmsg__V1__MessageBody *b = list[(*n)++] = mem_must(arena_alloc(&c->arena, sizeof(*b)));
    txmsg__v1__message_body__init(b);
    b->n = message;
    b->body = (ProtobufCBinaryData){.data = (uint8_t *)(uintptr_t)p, .len = bytes};
}

int ctl_bodies(struct ctl *c, Txmsg__V1__MessageBody ***ret, size_t *n) {
    Txmsg__V1__MessageBody **list = mem_must(arena_alloc(&c->arena, (CTL_OPTIONS_MAX + 1) * sizeof(*list)));
    const char *text = args_get(&c->args, "--body"), *file = args_get(&c->args, "--body-file"), *p;
    size_t bytes;
    *ret = list;
    *n = 0;
    if (text && file)
        return ctl_usage("give --body or --body-file, not both");
    if (text)
        body_add(c, list, n, 0, text, strlen(text));
    if (file) {
        if (!(p = ctl_read_file(c, file, &bytes)))
            return CTL_USAGE;
        body_add(c, list, n, 0, p, bytes);
    }
    for (int i = 0; i < c->args.options_n; i++) {
        if (strcmp(c->args.options[i].name, "--body-of"))
            continue;
        char *end;
        unsigned long message = strtoul(c->args.options[i].value, &end, 10);
        if (end == c->args.options[i].value || *end != '=' || message > UINT16_MAX)
            return ctl_usage("--body-of: '%s' is not N=FILE", c->args.options[i].value);
        if (!(p = ctl_read_file(c, end + 1, &bytes)))
            return CTL_USAGE;
        body_add(c, list, n, (uint32_t)message, p, bytes);
    }
    return CTL_OK;
}

/* An id made here can be repeated after an unknown outcome, so it is always shown. */
static char *transaction_id(struct ctl *c) {
    char *id = ctl_opt(c, "--id");
    if (*id)
        return id;
    struct uuid u;
    uuid_v7_make(clock_real_us() / 1000, &u);
    id = mem_must(arena_alloc(&c->arena, UUID_TEXT));
    uuid_format(&u, id);
    return id;
}

static int cmd_prepare(struct ctl *c) {
    Txmsg__V1__Message m, *list[] = {&m};
    Txmsg__V1__PrepareRequest q;
    Google__Protobuf__Duration after;
    int64_t ms = 0;
    int code = fill_message(c, &m);
    if (code != CTL_OK)
        return code;
    txmsg__v1__prepare_request__init(&q);
    google__protobuf__duration__init(&after);
    if (*ctl_opt(c, "--check-after")) {
        if (text_duration_ms(ctl_opt(c, "--check-after"), &ms) < 0)
            return ctl_usage("--check-after: '%s' is not a duration such as 10s", ctl_opt(c, "--check-after"));
        after.seconds = ms / 1000;
        after.nanos = (int32_t)(ms % 1000) * 1000000;
        q.check_after = &after;
    }
    q.transaction_id = transaction_id(c);
    q.producer = ctl_opt(c, "--producer");
    q.business_key = ctl_opt(c, "--business-key");
    q.messages = list;
    q.n_messages = 1;
    const ProtobufCMessage *r;
    code = ctl_call(c, SERVICE "Prepare", &q.base, &txmsg__v1__prepare_response__descriptor, &r);
    if (code == CTL_UNKNOWN)
        fprintf(stderr, "repeat with --id %s\n", q.transaction_id);
    return code == CTL_OK && r ? print_status(c, ((const Txmsg__V1__PrepareResponse *)r)->status) : code;
}

static int cmd_publish(struct ctl *c) {
    Txmsg__V1__Message m, *list[] = {&m};
    Txmsg__V1__PublishRequest q;
    int code = fill_message(c, &m);
    if (code != CTL_OK)
        return code;
    if (args_has(&c->args, "--check-after"))
        return ctl_usage("--check-after has no meaning for publish");
    if (m.body_later)
        return ctl_usage("--body-later has no meaning for publish");
    txmsg__v1__publish_request__init(&q);
    q.transaction_id = transaction_id(c);
    q.producer = ctl_opt(c, "--producer");
    q.business_key = ctl_opt(c, "--business-key");
    q.messages = list;
    q.n_messages = 1;
    const ProtobufCMessage *r;
    code = ctl_call(c, SERVICE "Publish", &q.base, &txmsg__v1__publish_response__descriptor, &r);
    if (code == CTL_UNKNOWN)
        fprintf(stderr, "repeat with --id %s\n", q.transaction_id);
    return code == CTL_OK && r ? print_status(c, ((const Txmsg__V1__PublishResponse *)r)->status) : code;
}

static int one_id(struct ctl *c, char **ret) {
    if (c->args.words_n != 1)
        return ctl_usage("give exactly one transaction id");
    *ret = (char *)(uintptr_t)c->args.words[0];
    return CTL_OK;
}

static int cmd_confirm(struct ctl *c) {
    Txmsg__V1__ConfirmRequest q;
    const ProtobufCMessage *r;
    txmsg__v1__confirm_request__init(&q);
    int code = one_id(c, &q.transaction_id);
    if (code != CTL_OK)
        return code;
    q.producer = ctl_opt(c, "--producer");
    code = ctl_bodies(c, &q.bodies, &q.n_bodies);
    if (code != CTL_OK)
        return code;
    code = ctl_call(c, SERVICE "Confirm", &q.base, &txmsg__v1__confirm_response__descriptor, &r);
    return code == CTL_OK && r ? print_status(c, ((const Txmsg__V1__ConfirmResponse *)r)->status) : code;
}

static int cmd_cancel(struct ctl *c) {
    Txmsg__V1__CancelRequest q;
    const ProtobufCMessage *r;
    txmsg__v1__cancel_request__init(&q);
    int code = one_id(c, &q.transaction_id);
    if (code != CTL_OK)
        return code;
    q.producer = ctl_opt(c, "--producer");
    q.reason = ctl_opt(c, "--reason");
    code = ctl_call(c, SERVICE "Cancel", &q.base, &txmsg__v1__cancel_response__descriptor, &r);
    return code == CTL_OK && r ? print_status(c, ((const Txmsg__V1__CancelResponse *)r)->status) : code;
}

static void print_deliveries(struct ctl *c, const Txmsg__V1__TransactionMessage *m) {
    struct table t = {0};
    table_row(&t, 5, "  SUBSCRIPTION", "DELIVERY", "ATTEMPTS", "NEXT", "LAST ERROR");
    for (size_t i = 0; i < m->n_deliveries; i++) {
        const Txmsg__V1__Delivery *d = m->deliveries[i];
        table_row(&t, 5, mem_must(arena_printf(&c->arena, "  %s", d->subscription)),
                  ctl_enum(c, &txmsg__v1__delivery_state__descriptor, (int)d->state),
                  mem_must(arena_printf(&c->arena, "%d", d->attempts)), ctl_time(c, d->next_attempt_time),
                  *d->last_error ? ctl_text(c, d->last_error) : "-");
    }
    if (m->n_deliveries)
        table_print(&t);
    else
        mem_free(t.cells);
}

static void line(const char *name, const char *value) {
    if (value && *value && strcmp(value, "-"))
        printf("%-14s %s\n", name, value);
}

static int cmd_get(struct ctl *c) {
    Txmsg__V1__GetTransactionRequest q;
    const ProtobufCMessage *r;
    txmsg__v1__get_transaction_request__init(&q);
    int code = one_id(c, &q.transaction_id);
    if (code != CTL_OK)
        return code;
    q.include_bodies = args_has(&c->args, "--bodies");
    code = ctl_call(c, SERVICE "GetTransaction", &q.base, &txmsg__v1__get_transaction_response__descriptor, &r);
    if (code != CTL_OK || !r)
        return code;
    const Txmsg__V1__Transaction *t = ((const Txmsg__V1__GetTransactionResponse *)r)->transaction;
    line("transaction", t->transaction_id);
    line("state", ctl_enum(c, &txmsg__v1__transaction_state__descriptor, (int)t->state));
    line("producer", t->producer);
    line("business key", ctl_text(c, t->business_key));
    line("prepared", ctl_time(c, t->prepare_time));
    line("decision", ctl_enum(c, &txmsg__v1__decision__descriptor, (int)t->decision));
    line("origin", ctl_enum(c, &txmsg__v1__decision_origin__descriptor, (int)t->origin));
    line("decided", ctl_time(c, t->decision_time));
    line("actor", ctl_text(c, t->actor));
    line("reason", ctl_text(c, t->reason));
    if (t->checks && t->checks->count) {
        printf("%-14s %d, answered UNKNOWN %d\n", "checks", t->checks->count, t->checks->unknowns);
        line("next check", ctl_time(c, t->checks->next_check_time));
        line("stuck since", ctl_time(c, t->checks->stuck_time));
        line("check error", ctl_text(c, t->checks->last_error));
    }
    for (size_t i = 0; i < t->n_messages; i++) {
        const Txmsg__V1__TransactionMessage *m = t->messages[i];
        bool waits = m->message->body_later && t->decision != TXMSG__V1__DECISION__DECISION_COMMITTED;
        printf("message %u      topic %s, ", m->n, m->message->topic);
        printf(waits ? "body to come\n" : "%lld bytes\n", (long long)m->body_size);
        if (q.include_bodies && !waits) {
            fwrite(m->message->body.data, 1, m->message->body.len, stdout);
            putchar('\n');
        }
        line("  deliver at", ctl_time(c, m->message->deliver_at));
        line("  expires at", ctl_time(c, m->message->expire_at));
        print_deliveries(c, m);
    }
    return CTL_OK;
}

static int parse_state(const char *v, Txmsg__V1__TransactionState *ret) {
    static const char *const names[] = {NULL, "prepared", "confirmed", "cancelled", "stuck"};
    for (size_t i = 1; i < ARRAY_LEN(names); i++)
        if (!strcasecmp(v, names[i])) {
            *ret = (Txmsg__V1__TransactionState)i;
            return CTL_OK;
        }
    return ctl_usage("--state: '%s' is none of prepared, confirmed, cancelled, stuck", v);
}

/* "stock delivered, points retrying": in the order of messages. */
static const char *deliveries_text(struct ctl *c, const Txmsg__V1__Transaction *x) {
    const char *all = "";
    for (size_t i = 0; i < x->n_messages; i++)
        for (size_t k = 0; k < x->messages[i]->n_deliveries; k++) {
            const Txmsg__V1__Delivery *d = x->messages[i]->deliveries[k];
            all = mem_must(arena_printf(&c->arena, "%s%s%s %s", all, *all ? ", " : "", d->subscription,
                                        ctl_enum(c, &txmsg__v1__delivery_state__descriptor, (int)d->state)));
        }
    return *all ? all : "-";
}

static int cmd_list(struct ctl *c) {
    Txmsg__V1__ListTransactionsRequest q;
    txmsg__v1__list_transactions_request__init(&q);
    q.producer = ctl_opt(c, "--producer");
    q.topic = ctl_opt(c, "--topic");
    q.business_key = ctl_opt(c, "--business-key");
    int code = ctl_limit(c, &q.page_size);
    if (code == CTL_OK && *ctl_opt(c, "--state"))
        code = parse_state(ctl_opt(c, "--state"), &q.state);
    if (code == CTL_OK)
        code = ctl_time_option(c, "--since", -1, &q.start_time);
    if (code == CTL_OK)
        code = ctl_time_option(c, "--until", -1, &q.end_time);
    if (code != CTL_OK)
        return code;
    q.include_deliveries = args_has(&c->args, "--deliveries");
    const ProtobufCMessage *r;
    code = ctl_call(c, SERVICE "ListTransactions", &q.base, &txmsg__v1__list_transactions_response__descriptor, &r);
    if (code != CTL_OK || !r)
        return code;
    const Txmsg__V1__ListTransactionsResponse *resp = (const Txmsg__V1__ListTransactionsResponse *)r;
    struct table t = {0};
    table_row(&t, q.include_deliveries ? 8 : 7, "TRANSACTION", "STATE", "ORIGIN", "PRODUCER", "TOPIC", "PREPARED",
              "BUSINESS KEY", "DELIVERIES");
    for (size_t i = 0; i < resp->n_transactions; i++) {
        const Txmsg__V1__Transaction *x = resp->transactions[i];
        const char *topic = x->n_messages ? x->messages[0]->message->topic : "-";
        table_row(&t, q.include_deliveries ? 8 : 7, x->transaction_id,
                  ctl_enum(c, &txmsg__v1__transaction_state__descriptor, (int)x->state),
                  ctl_enum(c, &txmsg__v1__decision_origin__descriptor, (int)x->origin), x->producer, topic,
                  ctl_time(c, x->prepare_time), *x->business_key ? ctl_text(c, x->business_key) : "-",
                  deliveries_text(c, x));
    }
    table_print(&t);
    return ctl_more(resp->next_page_token);
}

const struct ctl_command message_commands[] = {
    {"prepare", "", "stores a message that is delivered once it is confirmed", send_options, cmd_prepare},
    {"publish", "", "prepare and confirm in one durable step", send_options, cmd_publish},
    {"confirm", "ID", "the local transaction committed: deliver", confirm_options, cmd_confirm},
    {"cancel", "ID", "the local transaction rolled back: never deliver", cancel_options, cmd_cancel},
    {"get", "ID", "what became of a transaction", get_options, cmd_get},
    {"list", "", "transactions, newest first", list_options, cmd_list},
    {NULL, NULL, NULL, NULL, NULL},
};
