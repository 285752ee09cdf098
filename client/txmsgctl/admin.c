/* dead ..., stuck ..., stats */
#include "txmsg/v1/admin_service.pb-c.h"
#include "txmsgctl/ctl.h"

#define SERVICE "/txmsg.v1.AdminService/"

static const struct ctl_option dead_options[] = {
    {"--subscription", "NAME", "only of this subscription"},
    {"--topic", "NAME", "only of this topic"},
    {"--limit", "N", "list: at most so many; default 50"},
    {"--force", NULL, "redrive by filter: act instead of showing count and sample"},
    {"--reason", "TEXT", "redrive: for the audit"},
    {"--actor", "NAME", "redrive: who, for the audit; default the login name"},
    {NULL, NULL, NULL},
};
static const struct ctl_option stuck_options[] = {
    {"--producer", "NAME", "list: only of this producer"},
    {"--limit", "N", "list: at most so many; default 50"},
    {"--decision", "DECISION", "resolve: committed or rolled_back"},
    {"--reason", "TEXT", "resolve: why; required"},
    {"--actor", "NAME", "resolve: who; default the login name"},
    {NULL, NULL, NULL},
};
static const struct ctl_option stats_options[] = {
    {"--subscription", "NAME", "only this subscription"},
    {NULL, NULL, NULL},
};

/* --- dead letters --- */

static void print_letters(struct ctl *c, Txmsg__V1__DeadLetter *const *d, size_t n) {
    struct table t = {0};
    table_row(&t, 5, "NAME", "TOPIC", "DIED", "ATTEMPTS", "LAST ERROR");
    for (size_t i = 0; i < n; i++)
        table_row(&t, 5, d[i]->name, d[i]->message->topic, ctl_time(c, d[i]->dead_time),
                  mem_must(arena_printf(&c->arena, "%d", d[i]->attempts)), ctl_text(c, d[i]->last_error));
    table_print(&t);
}

static void fill_filter(const struct ctl *c, Txmsg__V1__DeadLetterFilter *f) {
    txmsg__v1__dead_letter_filter__init(f);
    f->subscription = ctl_opt(c, "--subscription");
    f->topic = ctl_opt(c, "--topic");
}

static int cmd_dead_list(struct ctl *c) {
    Txmsg__V1__ListDeadLettersRequest q;
    Txmsg__V1__DeadLetterFilter f;
    const ProtobufCMessage *r;
    txmsg__v1__list_dead_letters_request__init(&q);
    fill_filter(c, &f);
    q.filter = &f;
    int code = ctl_limit(c, &q.page_size);
    if (code == CTL_OK)
        code = ctl_call(c, SERVICE "ListDeadLetters", &q.base, &txmsg__v1__list_dead_letters_response__descriptor, &r);
    if (code != CTL_OK || !r)
        return code;
    const Txmsg__V1__ListDeadLettersResponse *resp = (const Txmsg__V1__ListDeadLettersResponse *)r;
    print_letters(c, resp->dead_letters, resp->n_dead_letters);
    return ctl_more(resp->next_page_token);
}

static int cmd_dead_show(struct ctl *c) {
    Txmsg__V1__GetDeadLetterRequest q;
    const ProtobufCMessage *r;
    txmsg__v1__get_dead_letter_request__init(&q);
    if (c->args.words_n != 1)
        return ctl_usage("give one name: SUBSCRIPTION/TRANSACTION_ID.N");
    q.name = (char *)(uintptr_t)c->args.words[0];
    q.include_body = true;
    int code = ctl_call(c, SERVICE "GetDeadLetter", &q.base, &txmsg__v1__get_dead_letter_response__descriptor, &r);
    if (code != CTL_OK || !r)
        return code;
    const Txmsg__V1__DeadLetter *d = ((const Txmsg__V1__GetDeadLetterResponse *)r)->dead_letter;
    printf("name           %s\ntopic          %s\nproducer       %s\ndied           %s\nattempts       %d\nlast error  "
           "   %s\n",
           d->name, d->message->topic, d->producer, ctl_time(c, d->dead_time), d->attempts, ctl_text(c, d->last_error));
    for (size_t i = 0; i < d->message->n_headers; i++)
        printf("header         %s: %s\n", d->message->headers[i]->key, ctl_text(c, d->message->headers[i]->value));
    printf("body           %lld bytes\n", (long long)d->body_size);
    fwrite(d->message->body.data, 1, d->message->body.len, stdout);
    putchar('\n');
    return CTL_OK;
}

static int cmd_dead_redrive(struct ctl *c) {
    Txmsg__V1__RedriveDeadLettersRequest q;
    Txmsg__V1__DeadLetterFilter f;
    const ProtobufCMessage *r;
    txmsg__v1__redrive_dead_letters_request__init(&q);
    fill_filter(c, &f);
    bool by_filter = *f.subscription || *f.topic;
    if (by_filter == (c->args.words_n > 0))
        return ctl_usage("give names, or a filter (--subscription, --topic), not both");
    q.filter = by_filter ? &f : NULL;
    q.names = (char **)(uintptr_t)c->args.words;
    q.n_names = (size_t)c->args.words_n;
    q.force = args_has(&c->args, "--force") || c->args.words_n > 0; /* names are explicit enough */
    q.reason = ctl_opt(c, "--reason");
    q.actor = ctl_actor(c);
    int code =
        ctl_call(c, SERVICE "RedriveDeadLetters", &q.base, &txmsg__v1__redrive_dead_letters_response__descriptor, &r);
    if (code != CTL_OK || !r)
        return code;
    const Txmsg__V1__RedriveDeadLettersResponse *resp = (const Txmsg__V1__RedriveDeadLettersResponse *)r;
    if (by_filter && !q.force) {
        printf("%lld dead letters match; --force delivers them again\n", (long long)resp->count);
        if (resp->n_sample)
            print_letters(c, resp->sample, resp->n_sample);
    } else {
        printf("%lld dead letters are delivered again\n", (long long)resp->count);
    }
    return CTL_OK;
}

/* --- stuck --- */

static int cmd_stuck_list(struct ctl *c) {
    Txmsg__V1__ListStuckRequest q;
    Txmsg__V1__StuckFilter f;
    const ProtobufCMessage *r;
    txmsg__v1__list_stuck_request__init(&q);
    txmsg__v1__stuck_filter__init(&f);
    f.producer = ctl_opt(c, "--producer");
    q.filter = &f;
    int code = ctl_limit(c, &q.page_size);
    if (code == CTL_OK)
        code = ctl_call(c, SERVICE "ListStuck", &q.base, &txmsg__v1__list_stuck_response__descriptor, &r);
    if (code != CTL_OK || !r)
        return code;
    const Txmsg__V1__ListStuckResponse *resp = (const Txmsg__V1__ListStuckResponse *)r;
    struct table t = {0};
    table_row(&t, 6, "TRANSACTION", "PRODUCER", "BUSINESS KEY", "PREPARED", "UNKNOWNS", "LAST ERROR");
    for (size_t i = 0; i < resp->n_stuck; i++) {
        const Txmsg__V1__Transaction *x = resp->stuck[i]->transaction;
        table_row(&t, 6, x->transaction_id, x->producer, *x->business_key ? ctl_text(c, x->business_key) : "-",
                  ctl_time(c, x->prepare_time),
                  mem_must(arena_printf(&c->arena, "%d", x->checks ? x->checks->unknowns : 0)),
                  x->checks && *x->checks->last_error ? ctl_text(c, x->checks->last_error) : "-");
    }
    table_print(&t);
    return CTL_OK;
}

static int cmd_stuck_resolve(struct ctl *c) {
    Txmsg__V1__ResolveStuckRequest q;
    const ProtobufCMessage *r;
    const char *decision = ctl_opt(c, "--decision");
    txmsg__v1__resolve_stuck_request__init(&q);
    if (c->args.words_n != 1)
        return ctl_usage("give exactly one transaction id");
    if (!strcasecmp(decision, "committed"))
        q.decision = TXMSG__V1__DECISION__DECISION_COMMITTED;
    else if (!strcasecmp(decision, "rolled_back"))
        q.decision = TXMSG__V1__DECISION__DECISION_ROLLED_BACK;
    else
        return ctl_usage("--decision must be committed or rolled_back");
    if (!*ctl_opt(c, "--reason"))
        return ctl_usage("--reason is required: it is kept with the decision");
    q.transaction_id = (char *)(uintptr_t)c->args.words[0];
    q.reason = ctl_opt(c, "--reason");
    q.actor = ctl_actor(c);
    int code = ctl_call(c, SERVICE "ResolveStuck", &q.base, &txmsg__v1__resolve_stuck_response__descriptor, &r);
    if (code == CTL_OK && r) {
        const Txmsg__V1__TransactionStatus *s = ((const Txmsg__V1__ResolveStuckResponse *)r)->status;
        printf("%s %s by %s\n", s->transaction_id,
               ctl_enum(c, &txmsg__v1__transaction_state__descriptor, (int)s->state),
               ctl_enum(c, &txmsg__v1__decision_origin__descriptor, (int)s->origin));
    }
    return code;
}

/* --- stats --- */

static const char *number(struct ctl *c, int64_t n, bool more) {
    return mem_must(arena_printf(&c->arena, "%lld%s", (long long)n, more ? "+" : ""));
}

static const char *seconds(struct ctl *c, const Google__Protobuf__Duration *d) {
    return d ? mem_must(arena_printf(&c->arena, "%lld s", (long long)d->seconds)) : "-";
}

static void stats_row(struct ctl *c, struct table *t, const char *name, const Txmsg__V1__SubscriptionStats *s) {
    table_row(t, 6, name, number(c, s->delivered, false), number(c, s->dead, false), number(c, s->discarded, false),
              number(c, s->in_flight, s->in_flight_more), seconds(c, s->oldest_undelivered));
}

static int cmd_stats(struct ctl *c) {
    Txmsg__V1__GetStatsRequest q;
    const ProtobufCMessage *r;
    txmsg__v1__get_stats_request__init(&q);
    q.subscription = ctl_opt(c, "--subscription");
    int code = ctl_call(c, SERVICE "GetStats", &q.base, &txmsg__v1__get_stats_response__descriptor, &r);
    if (code != CTL_OK || !r)
        return code;
    const Txmsg__V1__GetStatsResponse *s = (const Txmsg__V1__GetStatsResponse *)r;
    struct table t = {0};
    table_row(&t, 7, "PREPARED", "CONFIRMED", "CANCELLED", "UNDECIDED", "STUCK", "TOMBSTONES", "OLDEST UNDECIDED");
    table_row(&t, 7, number(c, s->prepared, false), number(c, s->confirmed, false), number(c, s->cancelled, false),
              number(c, s->undecided, false), number(c, s->stuck, false), number(c, s->tombstones, false),
              seconds(c, s->oldest_undecided));
    table_print(&t);
    putchar('\n');
    table_row(&t, 6, "SUBSCRIPTION", "DELIVERED", "DEAD", "DISCARDED", "IN FLIGHT", "OLDEST");
    for (size_t i = 0; i < s->n_subscriptions; i++)
        stats_row(c, &t, s->subscriptions[i]->subscription, s->subscriptions[i]);
    if (s->deleted)
        stats_row(c, &t, "(deleted)", s->deleted);
    table_print(&t);
    return CTL_OK;
}

const struct ctl_command admin_commands[] = {
    {"dead list", "", "dead letters, newest first", dead_options, cmd_dead_list},
    {"dead show", "NAME", "one dead letter with its body", dead_options, cmd_dead_show},
    {"dead redrive", "NAME... | FILTER", "delivers dead letters again", dead_options, cmd_dead_redrive},
    {"stuck list", "", "transactions that checks could not settle", stuck_options, cmd_stuck_list},
    {"stats", "", "counters of transactions and subscriptions", stats_options, cmd_stats},
    {"stuck resolve", "ID", "a person decides", stuck_options, cmd_stuck_resolve},
    {NULL, NULL, NULL, NULL, NULL},
};
