/* The way of an admin call between threads, and the table of methods. */
#include "admin/admin_private.h"

#include "base/clock.h"

enum { JOBS_MAX = 64, PAGE_DEFAULT = 50, PAGE_MAX = 1000 };

static void reply(struct rpc_call *call, void *arg) {
    struct job *j = arg;
    if (j->response)
        rpc_reply(call, j->response);
    else
        rpc_fail(call, &j->err);
}

void job_done(struct job *j) {
    if (!j->response && !j->err.code && !rpc_call_arena(j->call)->full)
        j->err = (struct rpc_error){.code = RPC_RESOURCE_EXHAUSTED,
                                    .reason = "OVERLOADED",
                                    .message = "out of memory for the answer",
                                    .retry_after_ms = 200};
    else if (!j->response && !j->err.code)
        j->err = (struct rpc_error){.code = RPC_RESOURCE_EXHAUSTED,
                                    .reason = "RESPONSE_TOO_LARGE",
                                    .message = "the answer does not fit into this call's memory; ask for less"};
    struct rpc_server *rpc = j->service->rpc;
    rpc_call_finish(j->call, reply, j);
    rpc_wake(rpc);
}

static void set_error(struct arena *a, struct rpc_error *err, int code, const char *reason, const char *field,
                      const char *why) {
    *err = (struct rpc_error){
        .code = code, .reason = reason, .message = why, .field = field, .field_description = field ? why : NULL};
    const char *both = field ? arena_printf(a, "%s: %s", field, why) : NULL;
    if (both)
        err->message = both;
}

void job_refuse(struct job *j, int code, const char *reason, const char *field, const char *why) {
    struct arena *a = rpc_call_arena(j->call);
    const char *kept = arena_strndup(a, why, strlen(why)); /* `why` may be on the caller's stack */
    set_error(a, &j->err, code, reason, field, kept ? kept : "refused");
}

void job_unavailable(struct job *j) {
    job_refuse(j, RPC_UNAVAILABLE, "STORE_UNAVAILABLE", NULL, "the store is away or busy; nothing was changed");
    j->err.retry_after_ms = 200;
}

void job_unknown(struct job *j) {
    job_refuse(j, RPC_UNAVAILABLE, "OUTCOME_UNKNOWN", NULL, "it was done, but there was no memory for the answer");
    j->err.retry_after_ms = 200;
}

void call_overloaded(struct rpc_call *call) {
    const struct rpc_error err = {.code = RPC_RESOURCE_EXHAUSTED,
                                  .reason = "OVERLOADED",
                                  .message = "out of memory for this call; nothing was changed",
                                  .retry_after_ms = 500};
    rpc_fail(call, &err);
}

void call_refuse(struct rpc_call *call, int code, const char *reason, const char *field, const char *why) {
    struct rpc_error err;
    set_error(rpc_call_arena(call), &err, code, reason, field, why);
    rpc_fail(call, &err);
}

void *job_new(struct rpc_call *call, struct admin_service *s, size_t size, void (*run)(struct job *j)) {
    struct job *j = arena_zalloc(rpc_call_arena(call), size);
    if (!j) {
        call_overloaded(call);
        return NULL;
    }
    list_init(&j->link);
    j->call = call;
    j->service = s;
    j->run = run;
    return j;
}

void job_start(struct job *j) {
    if (mailbox_send(j->service->jobs, &j->link) == 0)
        return;
    const struct rpc_error err = {.code = RPC_RESOURCE_EXHAUSTED,
                                  .reason = "OVERLOADED",
                                  .retry_after_ms = 500,
                                  .message = "too many admin calls are waiting"};
    rpc_fail(j->call, &err);
}

struct pg_conn *job_conn(struct job *j) {
    return reader_people(j->service->reader);
}

static void receive(void *arg, struct list *items) {
    UNUSED(arg);
    for (struct list *e; (e = list_pop(items));) {
        struct job *j = LIST_ENTRY(e, struct job, link);
        j->run(j);
    }
}

char *admin_id(struct arena *a, const struct uuid *id) {
    char *s = arena_alloc(a, UUID_TEXT);
    if (s)
        uuid_format(id, s);
    return s;
}

bool admin_time(struct arena *a, int64_t us, Google__Protobuf__Timestamp **ret) {
    Google__Protobuf__Timestamp *t = us ? arena_alloc(a, sizeof(*t)) : NULL;
    *ret = t;
    if (!t)
        return us == 0;
    google__protobuf__timestamp__init(t);
    t->seconds = us / 1000000;
    t->nanos = (int32_t)(us % 1000000) * 1000;
    return true;
}

int64_t admin_time_us(const Google__Protobuf__Timestamp *t) {
    return t ? clock_us(t->seconds, t->nanos) : 0;
}

int32_t admin_page_size(int32_t asked) {
    return asked <= 0 ? PAGE_DEFAULT : MIN(asked, (int32_t)PAGE_MAX);
}

int admin_service_new(struct store *s, const struct limits *l, void (*applied)(void *arg), void *arg,
                      struct admin_service **ret) {
    struct admin_service *a = mem_zalloc(sizeof(*a));
    if (!a)
        return -ENOMEM;
    *a = (struct admin_service){.store = s, .limits = *l, .applied = applied, .arg = arg};
    list_init(&a->pausing);
    const struct rpc_method methods[] = {
#define METHOD(name, request, handler)                                                                                 \
    {"/txmsg.v1.AdminService/" name,                                                                                   \
     &txmsg__v1__##request##_request__descriptor,                                                                      \
     &txmsg__v1__##request##_response__descriptor,                                                                     \
     handler,                                                                                                          \
     a,                                                                                                                \
     true}
        METHOD("ApplyTopology", apply_topology, admin_apply),
        METHOD("ExportTopology", export_topology, admin_export),
        METHOD("ListDeadLetters", list_dead_letters, admin_list_dead),
        METHOD("GetDeadLetter", get_dead_letter, admin_get_dead),
        METHOD("RedriveDeadLetters", redrive_dead_letters, admin_redrive),
        METHOD("DiscardDeadLetters", discard_dead_letters, admin_discard),
        METHOD("ListStuck", list_stuck, admin_list_stuck),
        METHOD("ResolveStuck", resolve_stuck, admin_resolve),
        METHOD("RecheckStuck", recheck_stuck, admin_recheck),
        METHOD("GetTopic", get_topic, admin_get_topic),
        METHOD("DeleteTopic", delete_topic, admin_delete_topic),
        METHOD("DeleteProducer", delete_producer, admin_delete_producer),
        METHOD("DeleteSubscription", delete_subscription, admin_delete_subscription),
        METHOD("ListTopics", list_topics, admin_list_topics),
        METHOD("GetProducer", get_producer, admin_get_producer),
        METHOD("ListProducers", list_producers, admin_list_producers),
        METHOD("GetSubscription", get_subscription, admin_get_subscription),
        METHOD("ListSubscriptions", list_subscriptions, admin_list_subscriptions),
        METHOD("PauseSubscription", pause_subscription, admin_pause),
        METHOD("ResumeSubscription", resume_subscription, admin_resume),
        METHOD("ListAudit", list_audit, admin_list_audit),
        METHOD("StartReplay", start_replay, admin_start_replay),
        METHOD("GetReplay", get_replay, admin_get_replay),
        METHOD("ListReplays", list_replays, admin_list_replays),
        METHOD("CancelReplay", cancel_replay, admin_cancel_replay),
        METHOD("GetStats", get_stats, admin_stats),
#undef METHOD
    };
    memcpy(a->methods, methods, sizeof(methods));
    a->methods_n = ARRAY_LEN(methods);
    *ret = a;
    return 0;
}

void admin_service_reach(struct admin_service *a, admin_reach_fn *fn, void *arg) {
    a->reach = fn;
    a->reach_arg = arg;
}

void admin_service_free(struct admin_service *a) {
    mem_free(a);
}

const struct rpc_method *admin_service_methods(struct admin_service *a, size_t *n) {
    *n = a->methods_n;
    return a->methods;
}

void admin_service_rpc(struct admin_service *a, struct rpc_server *rpc) {
    a->rpc = rpc;
}

int admin_service_attach(struct admin_service *a, struct loop *l, struct reader *r) {
    a->loop = l;
    a->reader = r;
    return mailbox_new(l, JOBS_MAX, receive, a, &a->jobs);
}

void admin_service_lane(struct admin_service *a, struct lane *lane) {
    a->lane = lane;
}

void admin_service_detach(struct admin_service *a) {
    dead_acts_stop(a);
    mailbox_close(a->jobs);
    mailbox_free(a->jobs);
    a->lane = NULL;
}
