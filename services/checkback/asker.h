/*
 * Asks producers: claims due checks, posts them, and brings the answers into the own lane. @thread of the worker's loop
 */
#pragma once

#include "checkback/age.h"
#include "checkback/checkback.h"

struct asker;
struct asker_options {
    int64_t poll_ms;
    int in_flight;
    struct desk *desk;         /* NULL = no pull mode */
    struct rpc_caller *caller; /* NULL = no gRPC check: such endpoints cannot be asked */
    struct limits limits;      /* of bodies that answers bring */
};
/* `age` and the others outlive the asker. */
int asker_new(struct loop *l, struct store *s, struct reader *r, struct webclient *w, struct lane *own, struct age *age,
              const struct asker_options *o, struct asker **ret) MUSTCHECK;
void asker_topology(struct asker *a, struct topology *t);
void asker_sharers(struct asker *a, int workers);
void asker_allow(struct asker *a, bool allowed);
void asker_free(struct asker *a); /* NULL allowed */
