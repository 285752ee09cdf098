/*
 * A topology file from YAML to the rules that workers read: what `txmsgctl apply` does, then what the service does. What is
 * accepted once is accepted again from its stored form, and differs in nothing.
 */
#include "base/yaml.h"
#include "core/policy.h"
#include "fuzz.h"
#include "rpc/jsonpb.h"
#include "store/topo_plan.h"
#include "txmsg/v1/admin_service.pb-c.h"

enum { OBJECTS_MAX = 64 };

static struct topo_object objects[OBJECTS_MAX];
static size_t objects_n;

/* As the admin service stores it. */
static bool add(struct arena *a, enum topo_kind kind, const char *name, const ProtobufCMessage *m) {
    static const char *const not_spec[] = {"name", "start_from", "state", "create_time"};
    CLEANUP_JSON json_t *j = jsonpb_print(m);
    struct buf text CLEANUP_BUF;
    FUZZ_CHECK(j);
    buf_init(&text, 1 << 20);
    for (size_t i = 0; i < ARRAY_LEN(not_spec); i++)
        json_object_del(j, not_spec[i]);
    if (objects_n == OBJECTS_MAX || json_write(&text, j) < 0)
        return false;
    char *spec = arena_strndup(a, buf_str(&text), text.n);
    FUZZ_CHECK(spec);
    objects[objects_n++] = (struct topo_object){.kind = kind, .name = name, .spec = spec};
    return true;
}

/* Each object alone, with the members that topo_redact() hides. */
static void add_alone(const struct topo_object *o) {
    struct errmsg e = ERRMSG_NULL;
    struct topology *t = topology_new(1);
    CLEANUP_JSON json_t *spec = json_parse(bytes_str(o->spec), &e);
    CLEANUP_JSON json_t *shown = topo_redact(spec);
    FUZZ_CHECK(t && spec && shown);
    int r = o->kind == TOPO_TOPIC      ? topology_add_topic(t, o->name, spec, &e)
            : o->kind == TOPO_PRODUCER ? topology_add_producer(t, o->name, spec, &e)
                                       : topology_add_sub(t, 1, o->name, spec, &e);
    FUZZ_CHECK(r == 0 || e.text[0]);
    FUZZ_CHECK(r != 0 || o->kind != TOPO_SUBSCRIPTION || topology_sub(t, 1)->concurrency > 0);
    topology_unref(t);
}

static void plan(void) {
    struct errmsg e = ERRMSG_NULL;
    struct topo_plan first, second;
    int r = topo_plan_make(objects, objects_n, NULL, 0, false, &first, &e);
    if (r != 0) {
        FUZZ_CHECK(e.text[0]);
        return;
    }
    topo_plan_deinit(&first);
    FUZZ_CHECK(topo_plan_make(objects, objects_n, objects, objects_n, true, &second, &e) == 0);
    FUZZ_CHECK(!second.changed);
    topo_plan_deinit(&second);
}

static void apply(const Txmsg__V1__Topology *t, struct arena *a) {
    objects_n = 0;
    for (size_t i = 0; i < t->n_topics; i++)
        if (!add(a, TOPO_TOPIC, t->topics[i]->name, &t->topics[i]->base))
            return;
    for (size_t i = 0; i < t->n_producers; i++)
        if (!add(a, TOPO_PRODUCER, t->producers[i]->name, &t->producers[i]->base))
            return;
    for (size_t i = 0; i < t->n_subscriptions; i++)
        if (!add(a, TOPO_SUBSCRIPTION, t->subscriptions[i]->name, &t->subscriptions[i]->base))
            return;
    for (size_t i = 0; i < objects_n; i++)
        add_alone(&objects[i]);
    plan();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct errmsg e = ERRMSG_NULL;
    ProtobufCMessage *m;
    struct arena a;
    CLEANUP_JSON json_t *j = yaml_parse(bytes_of(data, size), &e);
    if (!j) {
        FUZZ_CHECK(e.text[0]);
        return 0;
    }
    arena_init(&a, 16 << 20);
    int r = jsonpb_parse(&txmsg__v1__topology__descriptor, j, &a, &m, &e);
    FUZZ_CHECK(r == 0 || e.text[0] || r == -ENOMEM);
    if (r == 0)
        apply((const Txmsg__V1__Topology *)m, &a);
    arena_deinit(&a);
    return 0;
}
