/*
 * A worker: one loop thread with a lane of its own, the lanes it adopted, and its share of checks and deliveries.
 * Only wiring; what the parts do stands in their rooms.
 */
#pragma once

#include "admin/admin.h"
#include "checkback/desk.h"
#include "message/message.h"
#include "txmsgd/config.h"

struct rpc_caller;
struct worker;
/* Of the process: how its checks reach producers, and its deliveries gRPC consumers. */
struct worker_peers {
    struct desk *desk;
    struct rpc_caller *caller, *deliverer;
};
/* Before its thread runs. `admin` may be NULL: then this worker serves no admin calls. */
int worker_new(const struct config *c, struct store *s, struct message_service *messages, struct admin_service *admin,
               const struct worker_peers *peers, int index, struct worker **ret) MUSTCHECK;
int worker_start(struct worker *w) MUSTCHECK;
void worker_topology(struct worker *w, struct topology *t); /* @thread any */
bool worker_ready(const struct worker *w);                  /* @thread any: its lane can commit */
/* Drains: deliveries under way end, the lane commits what it has and is sealed, the run is retired. Ends the thread. @thread any */
void worker_close(struct worker *w);
void worker_join(struct worker *w); /* after worker_close */
void worker_free(struct worker *w); /* after worker_join, when nobody asks worker_ready() any more */
