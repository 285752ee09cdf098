/* What applying declared objects to stored ones means: checks and changes, without a database. Behind topo_apply(). */
#pragma once

#include "base/arena.h"
#include "base/json.h"
#include "store/topo.h"

enum { TOPO_OBJECTS_MAX = 30000 };

struct topo_item {
    enum topo_kind kind;
    enum topo_act act;
    const char *name;    /* borrowed from the object */
    json_t *want, *have; /* owned; NULL: to be deleted, not stored yet */
    const char *spec;    /* text of `want` as given; borrowed */
    bool from_beginning;
};
struct topo_plan {
    struct topo_item *items; /* in the order given, then what is to be deleted */
    size_t n;
    bool changed;
};
void topo_plan_deinit(struct topo_plan *p);

/*
 * Compares `objects` with `stored` (whose spec may come from a newer version). -EINVAL, -EPERM, -ENOENT, -EBUSY and
 * *e: the first object that is wrong; also -ENOMEM, -E2BIG. Both arrays must outlive the plan.
 */
int topo_plan_make(const struct topo_object *objects, size_t n, const struct topo_object *stored, size_t stored_n,
                   bool prune, struct topo_plan *ret, struct errmsg *e) MUSTCHECK;

/* The members in which two specs differ, in the arena: paths, and what stands there, redacted. 0, -ENOMEM. */
int topo_json_differences(const json_t *want, const json_t *have, struct arena *a, struct topo_difference **ret,
                          size_t *ret_n) MUSTCHECK;
/* Same value: numbers by value (jsonb prints 1e3 as 1000), objects regardless of order. */
bool topo_json_same(const json_t *a, const json_t *b);
/* A copy for the audit: secrets, tokens, passwords in URLs and values of headers become "***". NULL when out of memory.
 */
json_t *topo_redact(const json_t *spec) MUSTCHECK;
const char *topo_kind_name(enum topo_kind k); /* "topic", "producer", "subscription" */
const char *topo_act_name(enum topo_act a);   /* "create", ... */
