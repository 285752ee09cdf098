/* stuck ..., stats */
#include "txmsg/v1/admin_service.pb-c.h"
#include "txmsgctl/ctl.h"

#define SERVICE "/txmsg.v1.AdminService/"

static const struct ctl_option stuck_options[] = {
    {"--producer", "NAME", "list: only of this producer"},
    {"--limit", "N", "list: at most so many; default 50"},
    {"--decision", "DECISION", "resolve: committed or rolled_back"},
    CTL_BODY_OPTIONS,
    {"--reason", "TEXT", "resolve: why; required"},
    {"--actor", "NAME", "resolve: who; default the login name"},
    {NULL, NULL, NULL},
};
static const struct ctl_option recheck_options[] = {
    {"--producer", "NAME", "all of this producer"},
    {"--all", NULL, "all there are"},
    {"--force", NULL, "by --producer or --all: act instead of showing count and sample"},
    {"--reason", "TEXT", "for the audit"},
    {"--actor", "NAME", "who, for the audit; default the login name"},
    {NULL, NULL, NULL},
};
static const struct ctl_option stats_options[] = {
    {"--subscription", "NAME", "only this subscription"},
    {NULL, NULL, NULL},
};

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
    table_row(&t, 7, "TRANSACTION", "PRODUCER", "BUSINESS KEY", "PREPARED", "STUCK SINCE", "UNKNOWNS", "LAST ERROR");
    for (size_t i = 0; i < resp->n_stuck; i++) {
        const Txmsg__V1__Transaction *x = resp->stuck[i]->transaction;
        table_row(&t, 7, x->transaction_id, x->producer, *x->business_key ? ctl_text(c, x->business_key) : "-",
                  ctl_time(c, x->prepare_time), ctl_time(c, resp->stuck[i]->stuck_time),
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
    int code = ctl_bodies(c, &q.bodies, &q.n_bodies);
    if (code != CTL_OK)
        return code;
    code = ctl_call(c, SERVICE "ResolveStuck", &q.base, &txmsg__v1__resolve_stuck_response__descriptor, &r);
    if (code == CTL_OK && r) {
        const Txmsg__V1__TransactionStatus *s = ((const Txmsg__V1__ResolveStuckResponse *)r)->status;
        printf("%s %s by %s\n", s->transaction_id,
               ctl_enum(c, &txmsg__v1__transaction_state__descriptor, (int)s->state),
               ctl_enum(c, &txmsg__v1__decision_origin__descriptor, (int)s->origin));
    }
    return code;
}

static int cmd_stuck_recheck(struct ctl *c) {
    Txmsg__V1__RecheckStuckRequest q;
    Txmsg__V1__StuckFilter f;
    const ProtobufCMessage *r;
    txmsg__v1__recheck_stuck_request__init(&q);
    txmsg__v1__stuck_filter__init(&f);
    f.producer = ctl_opt(c, "--producer");
    bool by_filter = args_has(&c->args, "--all") || *f.producer;
    if (by_filter == (c->args.words_n > 0) || (args_has(&c->args, "--all") && *f.producer))
        return ctl_usage("give ids, --producer NAME, or --all");
    q.filter = by_filter ? &f : NULL;
    q.transaction_ids = (char **)(uintptr_t)c->args.words;
    q.n_transaction_ids = (size_t)c->args.words_n;
    q.force = args_has(&c->args, "--force") || c->args.words_n > 0; /* ids are explicit enough */
    q.reason = ctl_opt(c, "--reason");
    q.actor = ctl_actor(c);
    int code = ctl_call(c, SERVICE "RecheckStuck", &q.base, &txmsg__v1__recheck_stuck_response__descriptor, &r);
    if (code != CTL_OK || !r)
        return code;
    const Txmsg__V1__RecheckStuckResponse *resp = (const Txmsg__V1__RecheckStuckResponse *)r;
    if (q.force) {
        printf("%lld transactions are asked about again\n", (long long)resp->count);
        if (resp->more)
            printf("there may be more: run it again\n");
        return CTL_OK;
    }
    printf("%lld%s transactions match; --force asks about them again\n", (long long)resp->count, resp->more ? "+" : "");
    for (size_t i = 0; i < resp->n_sample; i++)
        printf("%s\n", resp->sample[i]);
    return CTL_OK;
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
    {"stuck list", "", "transactions that checks could not settle", stuck_options, cmd_stuck_list},
    {"stats", "", "counters of transactions and subscriptions", stats_options, cmd_stats},
    {"stuck recheck", "[ID...]", "their producers are asked again", recheck_options, cmd_stuck_recheck},
    {"stuck resolve", "ID", "a person decides", stuck_options, cmd_stuck_resolve},
    {NULL, NULL, NULL, NULL, NULL},
};
