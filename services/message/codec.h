/* Between protobuf messages and the words of core/: pure functions, no I/O. Memory comes from the call's arena. */
#pragma once

#include "core/policy.h"
#include "core/tx.h"
#include "core/validate.h"
#include "rpc/rpc.h"
#include "store/view.h"

#include "txmsg/v1/message_service.pb-c.h"

/* Sets *err (its strings in the arena) and returns 1 for "refused", so that a caller writes `return codec_refuse(...)`. */
int codec_refuse(struct arena *a, struct rpc_error *err, int code, const char *reason, const char *field,
                 const char *why) MUSTCHECK;
/* Adds a pair to ErrorInfo's metadata; value NULL adds nothing. */
void codec_meta(struct rpc_error *err, const char *key, const char *value);
int codec_violation(struct arena *a, struct rpc_error *err, const struct violation *v) MUSTCHECK;

/* What Prepare and Publish have in common. 0, 1 = refused and *err is set, -ENOMEM. */
struct codec_content_in {
    const char *producer, *business_key, *trace;
    size_t messages_n;
    Txmsg__V1__Message *const *messages;
    int64_t check_after_ms; /* 0 = not given */
    bool may_be_later;      /* Prepare: a message may leave its body to the decision */
};
/* Bodies that come with a decision; *ret is NULL for none, else the caller's. 0, 1 = refused, -ENOMEM. */
int codec_bodies(const struct limits *l, Txmsg__V1__MessageBody *const *in, size_t n, struct arena *a,
                 struct tx_bodies **ret, struct rpc_error *err) MUSTCHECK;
int codec_content(const struct limits *l, const struct topology *t, const struct uuid *id,
                  const struct codec_content_in *in, struct arena *a, struct tx_content **ret, struct rpc_error *err)
    MUSTCHECK;

int64_t codec_timestamp_us(const Google__Protobuf__Timestamp *t); /* NULL = 0 */
/* 0 is no time: NULL. False when the arena is full. */
bool codec_timestamp(struct arena *a, int64_t us, Google__Protobuf__Timestamp **ret) MUSTCHECK;
/* NULL when the arena is full. */
Txmsg__V1__TransactionStatus *codec_status(struct arena *a, const struct uuid *id, enum tx_state state,
                                           enum tx_origin origin, int64_t prepare_us, int64_t decision_us);
Txmsg__V1__Delivery *codec_delivery(struct arena *a, const struct view_delivery *d);
Txmsg__V1__Transaction *codec_transaction(struct arena *a, const struct view_tx *t);
