/* dead ...: what a subscription could not deliver */
#include "txmsg/v1/admin_service.pb-c.h"
#include "txmsgctl/ctl.h"

#define SERVICE "/txmsg.v1.AdminService/"

static const struct ctl_option dead_options[] = {
    {"--subscription", "NAME", "only of this subscription"},
    {"--topic", "NAME", "only of this topic"},
    {"--producer", "NAME", "only of this producer"},
    {"--error-class", "CLASS", "only whose last attempt failed so, as in timeout or status_5xx"},
    {"--limit", "N", "list: at most so many; default 50"},
    {"--force", NULL, "redrive by filter: act instead of showing count and sample"},
    {"--reason", "TEXT", "redrive: for the audit"},
    {"--actor", "NAME", "redrive: who, for the audit; default the login name"},
    {NULL, NULL, NULL},
};

static void print_letters(struct ctl *c, Txmsg__V1__DeadLetter *const *d, size_t n) {
    struct table t = {0};
    table_row(&t, 6, "NAME", "TOPIC", "DIED", "ATTEMPTS", "CLASS", "LAST ERROR");
    for (size_t i = 0; i < n; i++)
        table_row(&t, 6, d[i]->name, d[i]->message->topic, ctl_time(c, d[i]->dead_time),
                  mem_must(arena_printf(&c->arena, "%d", d[i]->attempts)), *d[i]->error_class ? d[i]->error_class : "-",
                  ctl_text(c, d[i]->last_error));
    table_print(&t);
}

static void fill_filter(const struct ctl *c, Txmsg__V1__DeadLetterFilter *f) {
    txmsg__v1__dead_letter_filter__init(f);
    f->subscription = ctl_opt(c, "--subscription");
    f->topic = ctl_opt(c, "--topic");
    f->producer = ctl_opt(c, "--producer");
    f->error_class = ctl_opt(c, "--error-class");
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

static int cmd_dead_redrive(struct ctl *c) {
    Txmsg__V1__RedriveDeadLettersRequest q;
    Txmsg__V1__DeadLetterFilter f;
    const ProtobufCMessage *r;
    txmsg__v1__redrive_dead_letters_request__init(&q);
    fill_filter(c, &f);
    bool by_filter = *f.subscription || *f.topic || *f.producer || *f.error_class;
    if (by_filter == (c->args.words_n > 0))
        return ctl_usage("give names, or a filter (--subscription, --topic, --producer, --error-class), not both");
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

const struct ctl_command dead_commands[] = {
    {"dead list", "", "dead letters, newest first", dead_options, cmd_dead_list},
    {"dead show", "NAME", "one dead letter with its attempts and its body", dead_options, cmd_dead_show},
    {"dead redrive", "NAME... | FILTER", "delivers dead letters again", dead_options, cmd_dead_redrive},
    {NULL, NULL, NULL, NULL, NULL},
};
