/* dead ...: what a subscription could not deliver */
#include "txmsg/v1/admin_service.pb-c.h"
#include "txmsgctl/ctl.h"

#define SERVICE "/txmsg.v1.AdminService/"

#define FILTER_OPTIONS                                                                                                 \
    {"--subscription", "NAME", "only of this subscription"}, {"--topic", "NAME", "only of this topic"},                \
        {"--producer", "NAME", "only of this producer"},                                                               \
        {"--error-class", "CLASS", "only whose last attempt failed so, as in timeout or status_5xx"},                  \
        {"--since", "TIME", "only given up at or after it: RFC 3339, or an age such as 1h"}, {                         \
        "--until", "TIME", "only given up before it"                                                                   \
    }
static const struct ctl_option list_options[] = {
    FILTER_OPTIONS,
    {"--limit", "N", "at most so many; default 50"},
    {NULL, NULL, NULL},
};
static const struct ctl_option bulk_options[] = {
    FILTER_OPTIONS,
    {"--all", NULL, "all of them: a filter that leaves nothing out"},
    {"--force", NULL, "with a filter: act instead of showing count and sample"},
    {"--rate", "N", "at most so many a second; default 1000"},
    {"--reason", "TEXT", "why, for the audit; discard needs it"},
    {"--actor", "NAME", "who, for the audit; default the login name"},
    {NULL, NULL, NULL},
};
static const struct ctl_option no_options[] = {{NULL, NULL, NULL}};

static void print_letters(struct ctl *c, Txmsg__V1__DeadLetter *const *d, size_t n) {
    struct table t = {0};
    table_row(&t, 6, "NAME", "TOPIC", "DIED", "ATTEMPTS", "CLASS", "LAST ERROR");
    for (size_t i = 0; i < n; i++)
        table_row(&t, 6, d[i]->name, d[i]->message->topic, ctl_time(c, d[i]->dead_time),
                  mem_must(arena_printf(&c->arena, "%d", d[i]->attempts)), *d[i]->error_class ? d[i]->error_class : "-",
                  ctl_text(c, d[i]->last_error));
    table_print(&t);
}

static int fill_filter(struct ctl *c, Txmsg__V1__DeadLetterFilter *f) {
    txmsg__v1__dead_letter_filter__init(f);
    f->subscription = ctl_opt(c, "--subscription");
    f->topic = ctl_opt(c, "--topic");
    f->producer = ctl_opt(c, "--producer");
    f->error_class = ctl_opt(c, "--error-class");
    int code = ctl_time_option(c, "--since", -1, &f->start_time);
    return code == CTL_OK ? ctl_time_option(c, "--until", -1, &f->end_time) : code;
}

static int cmd_dead_list(struct ctl *c) {
    Txmsg__V1__ListDeadLettersRequest q;
    Txmsg__V1__DeadLetterFilter f;
    const ProtobufCMessage *r;
    txmsg__v1__list_dead_letters_request__init(&q);
    int code = fill_filter(c, &f);
    q.filter = &f;
    if (code == CTL_OK)
        code = ctl_limit(c, &q.page_size);
    if (code == CTL_OK)
        code = ctl_call(c, SERVICE "ListDeadLetters", &q.base, &txmsg__v1__list_dead_letters_response__descriptor, &r);
    if (code != CTL_OK || !r)
        return code;
    const Txmsg__V1__ListDeadLettersResponse *resp = (const Txmsg__V1__ListDeadLettersResponse *)r;
    print_letters(c, resp->dead_letters, resp->n_dead_letters);
    return ctl_more(resp->next_page_token);
}

/* Every attempt: when, what came of it, how long it took, and how the answer began. */
static void print_history(struct ctl *c, Txmsg__V1__DeliveryAttempt *const *h, size_t n) {
    struct table t = {0};
    table_row(&t, 6, "ATTEMPT", "ENDED", "CLASS", "STATUS", "TOOK", "RESPONSE OR ERROR");
    for (size_t i = 0; i < n; i++)
        table_row(&t, 6, mem_must(arena_printf(&c->arena, "%d", h[i]->attempt)), ctl_time(c, h[i]->end_time),
                  *h[i]->error_class ? h[i]->error_class : "-",
                  h[i]->status ? mem_must(arena_printf(&c->arena, "%d", h[i]->status)) : "-",
                  mem_must(arena_printf(&c->arena, "%d ms", h[i]->latency_ms)),
                  ctl_text(c, *h[i]->response ? h[i]->response : h[i]->error));
    table_print(&t);
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
    if (d->n_history)
        print_history(c, d->history, d->n_history);
    printf("body           %lld bytes\n", (long long)d->body_size);
    fwrite(d->message->body.data, 1, d->message->body.len, stdout);
    putchar('\n');
    return CTL_OK;
}

/* Redrive and discard have requests and responses of one shape; `done` and `todo` say what is done with them. */
struct bulk {
    const char *method, *done, *todo;
    const ProtobufCMessageDescriptor *response;
};

/* Calls again until nothing is left, and says on standard error how far it is. CTL_OK: *ret is the last response, of all calls. */
static int act(struct ctl *c, const struct bulk *b, Txmsg__V1__RedriveDeadLettersRequest *q,
               Txmsg__V1__RedriveDeadLettersResponse **ret) {
    bool json = c->json;
    int64_t count = 0;
    for (;;) {
        const ProtobufCMessage *r;
        c->json = false;
        int code = ctl_call(c, b->method, &q->base, b->response, &r);
        c->json = json;
        if (code != CTL_OK) {
            if (count)
                fprintf(stderr, "%lld were %s before that and stay so\n", (long long)count, b->done);
            return code;
        }
        *ret = (Txmsg__V1__RedriveDeadLettersResponse *)(uintptr_t)r;
        count += (*ret)->count;
        (*ret)->count = q->force ? count : (*ret)->count;
        if (!q->force || !(*ret)->more)
            return CTL_OK;
        fprintf(stderr, "%lld %s, going on\n", (long long)count, b->done);
        if (q->filter && !q->filter->end_time)
            q->filter->end_time = (*ret)->act_time;
    }
}

static int cmd_bulk(struct ctl *c, const struct bulk *b, Txmsg__V1__RedriveDeadLettersRequest *q) {
    Txmsg__V1__DeadLetterFilter f;
    Txmsg__V1__RedriveDeadLettersResponse *resp;
    const char *rate = args_get(&c->args, "--rate");
    char *end = NULL;
    int code = fill_filter(c, &f);
    if (code != CTL_OK)
        return code;
    bool by_filter = *f.subscription || *f.topic || *f.producer || *f.error_class || f.start_time || f.end_time ||
                     args_has(&c->args, "--all");
    if (by_filter == (c->args.words_n > 0))
        return ctl_usage("give names, or a filter (see --help; --all is one), not both");
    q->rate = rate ? (int32_t)strtol(rate, &end, 10) : 0;
    if (rate && (*end || q->rate < 1))
        return ctl_usage("--rate: '%s' is not a number of dead letters a second", rate);
    q->filter = by_filter ? &f : NULL;
    q->names = (char **)(uintptr_t)c->args.words;
    q->n_names = (size_t)c->args.words_n;
    q->force = args_has(&c->args, "--force") || c->args.words_n > 0; /* names are explicit enough */
    q->reason = ctl_opt(c, "--reason");
    q->actor = ctl_actor(c);
    code = act(c, b, q, &resp);
    if (code != CTL_OK)
        return code;
    if (c->json) {
        ctl_print_json(&resp->base);
    } else if (q->force) {
        printf("%lld dead letters are %s\n", (long long)resp->count, b->done);
    } else {
        printf("%lld%s dead letters match; --force %s\n", (long long)resp->count, resp->more ? "+" : "", b->todo);
        if (resp->n_sample)
            print_letters(c, resp->sample, resp->n_sample);
    }
    return CTL_OK;
}

static int cmd_dead_redrive(struct ctl *c) {
    static const struct bulk b = {SERVICE "RedriveDeadLetters", "delivered again", "delivers them again",
                                  &txmsg__v1__redrive_dead_letters_response__descriptor};
    Txmsg__V1__RedriveDeadLettersRequest q = TXMSG__V1__REDRIVE_DEAD_LETTERS_REQUEST__INIT;
    return cmd_bulk(c, &b, &q);
}

static int cmd_dead_discard(struct ctl *c) {
    static const struct bulk b = {SERVICE "DiscardDeadLetters", "discarded", "discards them for good",
                                  &txmsg__v1__discard_dead_letters_response__descriptor};
    Txmsg__V1__DiscardDeadLettersRequest q = TXMSG__V1__DISCARD_DEAD_LETTERS_REQUEST__INIT;
    return cmd_bulk(c, &b, (Txmsg__V1__RedriveDeadLettersRequest *)(void *)&q);
}

const struct ctl_command dead_commands[] = {
    {"dead list", "", "dead letters, newest first", list_options, cmd_dead_list},
    {"dead show", "NAME", "one dead letter with its attempts and its body", no_options, cmd_dead_show},
    {"dead redrive", "NAME... | FILTER", "delivers dead letters again", bulk_options, cmd_dead_redrive},
    {"dead discard", "NAME... | FILTER", "gives dead letters up for good", bulk_options, cmd_dead_discard},
    {NULL, NULL, NULL, NULL, NULL},
};
