/* Operations as the application gives them. */
#pragma once

#include "encode.h"
#include "txmsg/client.h"

struct client;
struct op;
/* TXMSG_OK: *ret is the caller's, and its id is made if it was to be. */
int call_op(struct client *c, const struct call *call, struct op **ret);
/* Waits. `result` may be NULL. */
int call_run(txmsg_client *client, const struct call *call, txmsg_result *result);
int call_begin(txmsg_client *client, const struct call *call, txmsg_done_fn done, void *arg);
