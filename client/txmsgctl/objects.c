/* topics, producers, subscriptions, pause, resume, audit */
#include "txmsg/v1/admin_service.pb-c.h"
#include "txmsgctl/ctl.h"

#define SERVICE "/txmsg.v1.AdminService/"

static const struct ctl_option list_options[] = {{NULL, NULL, NULL}};
static const struct ctl_option subscription_options[] = {
    {"--topic", "NAME", "only of this topic"},
    {NULL, NULL, NULL},
};
static const struct ctl_option pause_options[] = {
    {"--reason", "TEXT", "why, for the audit"},
    {"--actor", "NAME", "who, for the audit; default the login name"},
    {NULL, NULL, NULL},
};
static const struct ctl_option delete_options[] = {
    {"--dry-run", NULL, "only say whether it could be deleted"},
    {"--yes", NULL, "do not ask"},
    {"--actor", "NAME", "who, for the audit; default the login name"},
    {NULL, NULL, NULL},
};
static const struct ctl_option audit_options[] = {
    {"--by", "NAME", "only what this person did"},
    {"--action", "NAME", "only this act, as in stuck.resolve"},
    {"--target", "NAME", "only on this, as in subscription/orders-http"},
    {"--limit", "N", "at most so many; default 50"},
    {NULL, NULL, NULL},
};

/* One name given: that object as JSON, which is what `apply` takes. */
static int show(struct ctl *c, const char *method, const ProtobufCMessage *q, const ProtobufCMessageDescriptor *d) {
    const ProtobufCMessage *r;
    int code = ctl_call(c, method, q, d, &r);
    if (code == CTL_OK && r) /* every response of this kind has the object as its only member */
        ctl_print_json(*(ProtobufCMessage *const *)(const void *)((const char *)r + d->fields[0].offset));
    return code;
}

static int cmd_topics(struct ctl *c) {
    Txmsg__V1__ListTopicsRequest q;
    const ProtobufCMessage *r;
    struct table t = {0};
    if (c->args.words_n == 1) {
        Txmsg__V1__GetTopicRequest one;
        txmsg__v1__get_topic_request__init(&one);
        one.name = (char *)(uintptr_t)c->args.words[0];
        return show(c, SERVICE "GetTopic", &one.base, &txmsg__v1__get_topic_response__descriptor);
    }
    txmsg__v1__list_topics_request__init(&q);
    int code = ctl_call_all(c, SERVICE "ListTopics", &q.base, &txmsg__v1__list_topics_response__descriptor, &r);
    if (code != CTL_OK || !r)
        return code;
    const Txmsg__V1__ListTopicsResponse *resp = (const Txmsg__V1__ListTopicsResponse *)r;
    table_row(&t, 2, "NAME", "DESCRIPTION");
    for (size_t i = 0; i < resp->n_topics; i++)
        table_row(&t, 2, resp->topics[i]->name, ctl_text(c, resp->topics[i]->description));
    table_print(&t);
    return CTL_OK;
}

static int cmd_producers(struct ctl *c) {
    Txmsg__V1__ListProducersRequest q;
    const ProtobufCMessage *r;
    struct table t = {0};
    if (c->args.words_n == 1) {
        Txmsg__V1__GetProducerRequest one;
        txmsg__v1__get_producer_request__init(&one);
        one.name = (char *)(uintptr_t)c->args.words[0];
        return show(c, SERVICE "GetProducer", &one.base, &txmsg__v1__get_producer_response__descriptor);
    }
    txmsg__v1__list_producers_request__init(&q);
    int code = ctl_call_all(c, SERVICE "ListProducers", &q.base, &txmsg__v1__list_producers_response__descriptor, &r);
    if (code != CTL_OK || !r)
        return code;
    const Txmsg__V1__ListProducersResponse *resp = (const Txmsg__V1__ListProducersResponse *)r;
    table_row(&t, 2, "NAME", "CHECK ENDPOINTS");
    for (size_t i = 0; i < resp->n_producers; i++) {
        const Txmsg__V1__CheckPolicy *p = resp->producers[i]->check;
        const char *all = "";
        for (size_t k = 0; p && k < p->n_endpoints; k++)
            all = mem_must(arena_printf(&c->arena, "%s%s%s", all, k ? " " : "", ctl_text(c, p->endpoints[k])));
        table_row(&t, 2, resp->producers[i]->name, *all ? all : "-");
    }
    table_print(&t);
    return CTL_OK;
}

/* "http http://a/hook", "rabbitmq amqp://..." */
static const char *sink_text(struct ctl *c, const Txmsg__V1__Sink *s) {
    switch (s ? (int)s->sink_case : 0) {
    case TXMSG__V1__SINK__SINK_HTTP:
        return mem_must(arena_printf(&c->arena, "http %s", ctl_text(c, s->http->url)));
    case TXMSG__V1__SINK__SINK_RABBITMQ:
        return mem_must(arena_printf(&c->arena, "rabbitmq %s", ctl_text(c, s->rabbitmq->url)));
    case TXMSG__V1__SINK__SINK_GRPC:
        return mem_must(arena_printf(&c->arena, "grpc %s%s",
                                     s->grpc->n_endpoints ? ctl_text(c, s->grpc->endpoints[0]) : "-",
                                     s->grpc->n_endpoints > 1 ? ", ..." : ""));
    case TXMSG__V1__SINK__SINK_LOG:
        return "log";
    case TXMSG__V1__SINK__SINK_DISCARD:
        return "discard";
    default:
        return "-";
    }
}

static int cmd_subscriptions(struct ctl *c) {
    Txmsg__V1__ListSubscriptionsRequest q;
    const ProtobufCMessage *r;
    struct table t = {0};
    if (c->args.words_n == 1) {
        Txmsg__V1__GetSubscriptionRequest one;
        txmsg__v1__get_subscription_request__init(&one);
        one.name = (char *)(uintptr_t)c->args.words[0];
        return show(c, SERVICE "GetSubscription", &one.base, &txmsg__v1__get_subscription_response__descriptor);
    }
    txmsg__v1__list_subscriptions_request__init(&q);
    q.topic = ctl_opt(c, "--topic");
    int code =
        ctl_call_all(c, SERVICE "ListSubscriptions", &q.base, &txmsg__v1__list_subscriptions_response__descriptor, &r);
    if (code != CTL_OK || !r)
        return code;
    const Txmsg__V1__ListSubscriptionsResponse *resp = (const Txmsg__V1__ListSubscriptionsResponse *)r;
    table_row(&t, 5, "NAME", "TOPIC", "STATE", "CREATED", "SINK");
    for (size_t i = 0; i < resp->n_subscriptions; i++) {
        const Txmsg__V1__Subscription *s = resp->subscriptions[i];
        table_row(&t, 5, s->name, s->topic, ctl_enum(c, &txmsg__v1__subscription_state__descriptor, (int)s->state),
                  ctl_time(c, s->create_time), sink_text(c, s->sink));
    }
    table_print(&t);
    return CTL_OK;
}

static int pause_or_resume(struct ctl *c, bool pause) {
    Txmsg__V1__PauseSubscriptionRequest p = TXMSG__V1__PAUSE_SUBSCRIPTION_REQUEST__INIT;
    Txmsg__V1__ResumeSubscriptionRequest q = TXMSG__V1__RESUME_SUBSCRIPTION_REQUEST__INIT;
    const ProtobufCMessage *r;
    if (c->args.words_n != 1)
        return ctl_usage("give one subscription");
    p.name = q.name = (char *)(uintptr_t)c->args.words[0];
    p.reason = q.reason = ctl_opt(c, "--reason");
    p.actor = q.actor = ctl_actor(c);
    int code = pause ? ctl_call(c, SERVICE "PauseSubscription", &p.base,
                                &txmsg__v1__pause_subscription_response__descriptor, &r)
                     : ctl_call(c, SERVICE "ResumeSubscription", &q.base,
                                &txmsg__v1__resume_subscription_response__descriptor, &r);
    if (code == CTL_OK && r)
        printf(pause ? "%s is paused on every replica\n" : "%s delivers again\n", p.name);
    return code;
}

static int cmd_pause(struct ctl *c) {
    return pause_or_resume(c, true);
}

static int cmd_resume(struct ctl *c) {
    return pause_or_resume(c, false);
}

/* --- delete --- */

/* Requests and responses of the three have one shape: that of a topic's. */
static int delete_object(struct ctl *c, const char *what, const char *method, ProtobufCMessage *request,
                         const ProtobufCMessageDescriptor *response) {
    Txmsg__V1__DeleteTopicRequest *q = (Txmsg__V1__DeleteTopicRequest *)request;
    const ProtobufCMessage *r;
    if (c->args.words_n != 1)
        return ctl_usage("give one %s", what);
    q->name = (char *)(uintptr_t)c->args.words[0];
    q->validate_only = args_has(&c->args, "--dry-run");
    q->actor = ctl_actor(c);
    int code = q->validate_only
                   ? CTL_OK
                   : ctl_confirm(c, mem_must(arena_printf(&c->arena, "delete %s %s", what, ctl_text(c, q->name))));
    if (code == CTL_OK)
        code = ctl_call(c, method, request, response, &r);
    if (code == CTL_OK && r)
        printf(q->validate_only ? "%s %s can be deleted\n" : "%s %s is deleted\n", what, q->name);
    return code;
}

static int cmd_delete_topic(struct ctl *c) {
    Txmsg__V1__DeleteTopicRequest q = TXMSG__V1__DELETE_TOPIC_REQUEST__INIT;
    return delete_object(c, "topic", SERVICE "DeleteTopic", &q.base, &txmsg__v1__delete_topic_response__descriptor);
}

static int cmd_delete_producer(struct ctl *c) {
    Txmsg__V1__DeleteProducerRequest q = TXMSG__V1__DELETE_PRODUCER_REQUEST__INIT;
    return delete_object(c, "producer", SERVICE "DeleteProducer", &q.base,
                         &txmsg__v1__delete_producer_response__descriptor);
}

static int cmd_delete_subscription(struct ctl *c) {
    Txmsg__V1__DeleteSubscriptionRequest q = TXMSG__V1__DELETE_SUBSCRIPTION_REQUEST__INIT;
    return delete_object(c, "subscription", SERVICE "DeleteSubscription", &q.base,
                         &txmsg__v1__delete_subscription_response__descriptor);
}

static int cmd_audit(struct ctl *c) {
    Txmsg__V1__ListAuditRequest q;
    const ProtobufCMessage *r;
    struct table t = {0};
    txmsg__v1__list_audit_request__init(&q);
    q.actor = ctl_opt(c, "--by");
    q.action = ctl_opt(c, "--action");
    q.target = ctl_opt(c, "--target");
    int code = ctl_limit(c, &q.page_size);
    if (code == CTL_OK)
        code = ctl_call(c, SERVICE "ListAudit", &q.base, &txmsg__v1__list_audit_response__descriptor, &r);
    if (code != CTL_OK || !r)
        return code;
    const Txmsg__V1__ListAuditResponse *resp = (const Txmsg__V1__ListAuditResponse *)r;
    table_row(&t, 6, "TIME", "WHO", "ACT", "COUNT", "ON", "WHY");
    for (size_t i = 0; i < resp->n_entries; i++) {
        const Txmsg__V1__AuditEntry *e = resp->entries[i];
        table_row(&t, 6, ctl_time(c, e->time), ctl_text(c, e->actor), ctl_text(c, e->action),
                  mem_must(arena_printf(&c->arena, "%lld", (long long)e->count)), ctl_text(c, e->target),
                  ctl_text(c, e->reason));
    }
    table_print(&t);
    return ctl_more(resp->next_page_token);
}

const struct ctl_command object_commands[] = {
    {"topics", "[NAME]", "the topics, or one as JSON", list_options, cmd_topics},
    {"producers", "[NAME]", "the producers, or one as JSON", list_options, cmd_producers},
    {"subscriptions", "[NAME]", "the subscriptions and their states, or one as JSON", subscription_options,
     cmd_subscriptions},
    {"pause", "SUBSCRIPTION", "stops deliveries, on every replica", pause_options, cmd_pause},
    {"resume", "SUBSCRIPTION", "starts them again", pause_options, cmd_resume},
    {"delete topic", "NAME", "deletes a topic that no subscription reads", delete_options, cmd_delete_topic},
    {"delete producer", "NAME", "deletes a producer of which nothing is undecided", delete_options,
     cmd_delete_producer},
    {"delete subscription", "NAME", "deletes a subscription; what it has not delivered is discarded", delete_options,
     cmd_delete_subscription},
    {"audit", "", "what people did, newest first", audit_options, cmd_audit},
    {NULL, NULL, NULL, NULL, NULL},
};
