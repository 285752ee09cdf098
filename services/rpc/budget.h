/* What the calls of one rpc thread may hold together, and how long a caller may take to read its answer. @thread rpc */
#pragma once

#include "rpc/server.h"

void budget_init(struct rpc_thread *t); /* a thread has an equal share of the server's bounds */
/* Charges a call that has just arrived with its message. False: there is no room, and the call was refused. */
bool budget_admit(struct rpc_call *c) MUSTCHECK;
void budget_unpacked(struct rpc_call *c); /* its message has become a request in its arena */
void budget_replying(struct rpc_call *c); /* its reply is about to be sent: its time runs */
void budget_release(struct rpc_call *c);
void budget_sweep(struct rpc_thread *t); /* gives up replies that nobody reads */
