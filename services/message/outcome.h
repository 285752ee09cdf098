/* What an operation's outcome means for its caller: a status, or an error that says what happened and what to do. */
#pragma once

#include "message/codec.h"
#include "store/lane.h"

/* 0 = OK, 1 = *err is set. */
int outcome_error(const struct lane_op *op, struct arena *a, struct rpc_error *err) MUSTCHECK;
Txmsg__V1__TransactionStatus *outcome_status(const struct lane_op *op, struct arena *a);
