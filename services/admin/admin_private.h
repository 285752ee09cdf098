/* Inside of the admin room: service.c (mailbox, life), topology.c, dead.c, dead_act.c, stuck.c, stats.c. */
#pragma once

#include "admin/admin.h"
#include "core/validate.h"
#include "store/stat.h"
#include "store/topo.h"
#include "store/view.h"

#include "txmsg/v1/admin_service.pb-c.h"

#include <pthread.h>

struct admin_service {
    struct store *store;
    struct limits limits;
    void (*applied)(void *arg);
    void *arg;
    struct rpc_server *rpc;
    struct loop *loop;
    struct mailbox *jobs;
    struct reader *reader;
    struct lane *lane;
    admin_reach_fn *reach;
    void *reach_arg;
    struct list pausing; /* acts on dead letters that keep to their rate */
    struct rpc_method methods[32];
    size_t methods_n;
};

/*
 * A call on its way: made on the rpc thread, run on the worker's loop, answered on the rpc thread. It lives in the call's arena and so
 * does the response, which the worker builds: nobody else touches the call between the hand-overs.
 */
struct job {
    struct list link;
    struct rpc_call *call;
    struct admin_service *service;
    void (*run)(struct job *j); /* @thread worker; must lead to job_done() once */
    const ProtobufCMessage *response;
    struct rpc_error err; /* when response is NULL */
};

/* `size` bytes whose first member is a struct job; NULL = the call was failed. */
void *job_new(struct rpc_call *call, struct admin_service *s, size_t size, void (*run)(struct job *j)) MUSTCHECK;
void job_start(struct job *j); /* @thread rpc */
void job_done(struct job *j);  /* @thread worker */
/* Sets the error; returns so that `job_refuse(...); return;` reads well. */
void job_refuse(struct job *j, int code, const char *reason, const char *field, const char *why);
void job_unavailable(struct job *j);
void job_unknown(struct job *j); /* it was done, the answer could not be built */
struct pg_conn *job_conn(struct job *j);

/* Refuses on the rpc thread, before a job exists. */
void call_refuse(struct rpc_call *call, int code, const char *reason, const char *field, const char *why);
void call_overloaded(struct rpc_call *call); /* out of memory, before a job exists */
char *admin_id(struct arena *a, const struct uuid *id);
/* 0 is no time: NULL. False when the arena is full. */
bool admin_time(struct arena *a, int64_t us, Google__Protobuf__Timestamp **ret) MUSTCHECK;
int64_t admin_time_us(const Google__Protobuf__Timestamp *t);
int32_t admin_page_size(int32_t asked);

void admin_apply(struct rpc_call *call, void *service);
void admin_export(struct rpc_call *call, void *service);
void admin_list_dead(struct rpc_call *call, void *service);
void admin_get_dead(struct rpc_call *call, void *service);
void admin_redrive(struct rpc_call *call, void *service);
void admin_discard(struct rpc_call *call, void *service);
void admin_list_stuck(struct rpc_call *call, void *service);
void admin_resolve(struct rpc_call *call, void *service);
void admin_recheck(struct rpc_call *call, void *service);
void admin_stats(struct rpc_call *call, void *service);
void admin_get_topic(struct rpc_call *call, void *service);
void admin_get_producer(struct rpc_call *call, void *service);
void admin_get_subscription(struct rpc_call *call, void *service);
void admin_delete_topic(struct rpc_call *call, void *service);
void admin_delete_producer(struct rpc_call *call, void *service);
void admin_delete_subscription(struct rpc_call *call, void *service);
void admin_list_topics(struct rpc_call *call, void *service);
void admin_list_producers(struct rpc_call *call, void *service);
void admin_list_subscriptions(struct rpc_call *call, void *service);
void admin_pause(struct rpc_call *call, void *service);
void admin_resume(struct rpc_call *call, void *service);
void admin_list_audit(struct rpc_call *call, void *service);
void admin_start_replay(struct rpc_call *call, void *service);
void admin_get_replay(struct rpc_call *call, void *service);
void admin_list_replays(struct rpc_call *call, void *service);
void admin_cancel_replay(struct rpc_call *call, void *service);
/* Also the error's metadata `name`, and what it is about. */
void job_refuse_missing(struct job *j, enum topo_kind kind, const char *name);

/* dead.c, for dead_act.c. False = the call was refused. The name's parts are copied to the arena; 0 or -EINVAL. NULL = out of memory. */
bool dead_set_filter(struct rpc_call *call, const Txmsg__V1__DeadLetterFilter *in, struct view_dead_filter *f)
    MUSTCHECK;
int dead_parse_name(struct arena *a, const char *name, struct dead_key *ret) MUSTCHECK;
Txmsg__V1__DeadLetter *dead_letter_of(struct arena *a, const struct view_dead *d, bool body) MUSTCHECK;
void dead_acts_stop(struct admin_service *s); /* the loop ends: acts that pause are answered with what they have done */

/*
 * probe.c: connects to the endpoints of what `changes` (of `objects`, in their order) makes new or different, then fills the response and
 * ends the job. Neither array is kept.
 */
void admin_probe(struct job *j, Txmsg__V1__ApplyTopologyResponse *resp, const struct topo_object *objects,
                 const struct topo_change *changes, size_t n);

/* topology.c: the stored object as its message of the contract, secrets masked; NULL = out of memory */
ProtobufCMessage *admin_object(struct arena *a, const struct topo_object *o);
