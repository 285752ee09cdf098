/* One operation as the application gives it. */
#pragma once

#include "encode.h"
#include "options.h"
#include "txmsg/client.h"

struct call {
    enum op_kind kind;
    const txmsg_id *id;
    txmsg_id *new_id; /* the same where an empty one is to be filled; else NULL */
    const txmsg_message *const *messages;
    size_t n;
    const txmsg_call_options *options; /* NULL allowed */
};
struct client;
struct op;
/* TXMSG_OK: *ret is the caller's, and its id is made if it was to be. */
int call_op(struct client *c, const struct call *call, struct op **ret);
/* Waits. `result` may be NULL. */
int call_run(txmsg_client *client, const struct call *call, txmsg_result *result);
int call_begin(txmsg_client *client, const struct call *call, txmsg_done_fn done, void *arg);
