/* replay start, get, list, cancel */
#include "txmsg/v1/admin_service.pb-c.h"
#include "txmsgctl/ctl.h"

#define SERVICE "/txmsg.v1.AdminService/"

static const struct ctl_option start_options[] = {
    {"--subscription", "NAME", "to whom; required"},
    {"--since", "TIME", "decided from then on; RFC 3339, or an age such as 1h"},
    {"--until", "TIME", "decided before; default now"},
    {"--producer", "NAME", "only of this producer"},
    {"--rate", "N", "messages a second; default 100, at most 1000"},
    {"--force", NULL, "do it; else only count and show a sample"},
    {"--id", "UUID", "of the replay, so that the command can be repeated; made by the service if absent"},
    {"--reason", "TEXT", "why, for the audit"},
    {"--actor", "NAME", "who, for the audit; default the login name"},
    {NULL, NULL, NULL},
};
static const struct ctl_option list_options[] = {
    {"--subscription", "NAME", "only of this subscription"},
    {"--limit", "N", "at most so many; default all"},
    {NULL, NULL, NULL},
};
static const struct ctl_option cancel_options[] = {
    {"--reason", "TEXT", "why, for the audit"},
    {"--actor", "NAME", "who, for the audit; default the login name"},
    {NULL, NULL, NULL},
};
static const struct ctl_option no_options[] = {{NULL, NULL, NULL}};

static const char *number(struct ctl *c, int64_t n) {
    return mem_must(arena_printf(&c->arena, "%lld", (long long)n));
}

static void print_row(struct ctl *c, struct table *t, const Txmsg__V1__Replay *r) {
    table_row(t, 8, r->replay_id, r->subscription, ctl_enum(c, &txmsg__v1__replay_state__descriptor, (int)r->state),
              number(c, r->sent), number(c, r->delivered), number(c, r->failed), number(c, r->skipped),
              ctl_time(c, r->create_time));
}

static void print_head(struct table *t) {
    table_row(t, 8, "REPLAY", "SUBSCRIPTION", "STATE", "SENT", "DELIVERED", "FAILED", "SKIPPED", "STARTED");
}

static int print_one(struct ctl *c, const Txmsg__V1__Replay *r) {
    struct table t = {0};
    print_head(&t);
    print_row(c, &t, r);
    table_print(&t);
    if (*r->last_error)
        printf("last error: %s\n", ctl_text(c, r->last_error));
    return CTL_OK;
}

static int fill_rate(struct ctl *c, int32_t *ret) {
    const char *v = args_get(&c->args, "--rate");
    char *end = NULL;
    long n = v ? strtol(v, &end, 10) : 0;
    if (v && (end == v || *end || n < 1 || n > 1000))
        return ctl_usage("--rate: '%s' is not a number from 1 to 1000", v);
    *ret = (int32_t)n;
    return CTL_OK;
}

static int print_matches(const Txmsg__V1__StartReplayResponse *r) {
    printf("%lld%s messages match\n", (long long)r->count, r->more ? " and more" : "");
    for (size_t i = 0; i < r->n_sample; i++)
        printf("  %s\n", r->sample[i]);
    puts("nothing was sent: add --force");
    return CTL_OK;
}

static int cmd_start(struct ctl *c) {
    Txmsg__V1__StartReplayRequest q;
    const ProtobufCMessage *r;
    txmsg__v1__start_replay_request__init(&q);
    q.subscription = ctl_opt(c, "--subscription");
    q.producer = ctl_opt(c, "--producer");
    q.replay_id = ctl_opt(c, "--id");
    q.reason = ctl_opt(c, "--reason");
    q.actor = ctl_actor(c);
    q.force = args_has(&c->args, "--force");
    q.transaction_ids = (char **)(uintptr_t)c->args.words;
    q.n_transaction_ids = (size_t)c->args.words_n;
    bool by_time = args_has(&c->args, "--since");
    if (!*q.subscription || by_time == (c->args.words_n > 0))
        return ctl_usage("give --subscription, and either --since or transaction ids");
    int code = fill_rate(c, &q.rate);
    if (code == CTL_OK)
        code = ctl_time_option(c, "--since", -1, &q.start_time);
    if (code == CTL_OK)
        code = ctl_time_option(c, "--until", -1, &q.end_time);
    if (code == CTL_OK)
        code = ctl_call(c, SERVICE "StartReplay", &q.base, &txmsg__v1__start_replay_response__descriptor, &r);
    if (code != CTL_OK || !r)
        return code;
    const Txmsg__V1__StartReplayResponse *resp = (const Txmsg__V1__StartReplayResponse *)r;
    return resp->replay ? print_one(c, resp->replay) : print_matches(resp);
}

static int one_id(struct ctl *c, char **ret) {
    if (c->args.words_n != 1)
        return ctl_usage("give one id of a replay");
    *ret = (char *)(uintptr_t)c->args.words[0];
    return CTL_OK;
}

static int cmd_get(struct ctl *c) {
    Txmsg__V1__GetReplayRequest q;
    const ProtobufCMessage *r;
    txmsg__v1__get_replay_request__init(&q);
    int code = one_id(c, &q.replay_id);
    if (code == CTL_OK)
        code = ctl_call(c, SERVICE "GetReplay", &q.base, &txmsg__v1__get_replay_response__descriptor, &r);
    return code == CTL_OK && r ? print_one(c, ((const Txmsg__V1__GetReplayResponse *)r)->replay) : code;
}

static int cmd_list(struct ctl *c) {
    Txmsg__V1__ListReplaysRequest q;
    const ProtobufCMessage *r;
    struct table t = {0};
    txmsg__v1__list_replays_request__init(&q);
    q.subscription = ctl_opt(c, "--subscription");
    int code = ctl_limit(c, &q.page_size);
    if (code == CTL_OK)
        code = args_has(&c->args, "--limit")
                   ? ctl_call(c, SERVICE "ListReplays", &q.base, &txmsg__v1__list_replays_response__descriptor, &r)
                   : ctl_call_all(c, SERVICE "ListReplays", &q.base, &txmsg__v1__list_replays_response__descriptor, &r);
    if (code != CTL_OK || !r)
        return code;
    const Txmsg__V1__ListReplaysResponse *resp = (const Txmsg__V1__ListReplaysResponse *)r;
    print_head(&t);
    for (size_t i = 0; i < resp->n_replays; i++)
        print_row(c, &t, resp->replays[i]);
    table_print(&t);
    return ctl_more(resp->next_page_token);
}

static int cmd_cancel(struct ctl *c) {
    Txmsg__V1__CancelReplayRequest q;
    const ProtobufCMessage *r;
    txmsg__v1__cancel_replay_request__init(&q);
    q.reason = ctl_opt(c, "--reason");
    q.actor = ctl_actor(c);
    int code = one_id(c, &q.replay_id);
    if (code == CTL_OK)
        code = ctl_call(c, SERVICE "CancelReplay", &q.base, &txmsg__v1__cancel_replay_response__descriptor, &r);
    return code == CTL_OK && r ? print_one(c, ((const Txmsg__V1__CancelReplayResponse *)r)->replay) : code;
}

const struct ctl_command replay_commands[] = {
    {"replay start", "[ID...]", "sends confirmed messages to a subscription again", start_options, cmd_start},
    {"replay get", "ID", "how far a replay is", no_options, cmd_get},
    {"replay list", "", "replays, newest first", list_options, cmd_list},
    {"replay cancel", "ID", "ends a replay; what it sent is sent", cancel_options, cmd_cancel},
    {NULL, NULL, NULL, NULL, NULL},
};
