/*
 * ApplyTopology and ExportTopology. The stored spec of an object is the JSON form of its message without what is not configuration
 * (name, where a new subscription starts, state). Secrets leave the service as "***" only, and that word in an applied object means
 * what is stored there: an edited export can be applied again. Where nothing is stored the validation refuses the word.
 */
#include "admin/admin_private.h"

#include "rpc/jsonpb.h"
#include "store/topo_plan.h"

enum { OBJECTS_MAX = 10000, SPEC_BYTES_MAX = 256 << 10 };

struct apply {
    struct job job;
    struct topo_object *objects;
    bool masked; /* some object holds "***" */
    size_t objects_n;
    bool validate_only, prune, probe;
    const char *actor;
};

static const char *const not_spec[] = {"name", "start_from", "state", "create_time"};

/* 0, -ENOMEM. */
static int object_of(struct arena *a, enum topo_kind kind, const char *name, const ProtobufCMessage *m,
                     struct topo_object *out) {
    CLEANUP_JSON json_t *j = jsonpb_print(m);
    struct buf text CLEANUP_BUF;
    buf_init(&text, SPEC_BYTES_MAX);
    if (!j)
        return -ENOMEM;
    for (size_t i = 0; i < ARRAY_LEN(not_spec); i++)
        json_object_del(j, not_spec[i]);
    int r = json_write(&text, j);
    if (r < 0)
        return r;
    const char *spec = arena_strndup(a, text.p, text.n);
    if (!spec)
        return -ENOMEM;
    *out = (struct topo_object){.kind = kind, .name = name, .spec = spec};
    return 0;
}

/* "subscription "s": retry.max_attempts is 5000, ..." (see topo.h) -> "subscriptions[3].retry.max_attempts" */
static const char *field_of(const struct apply *j, const char *why, const char **ret_name) {
    static const char *const kinds[] = {"topic", "producer", "subscription"};
    struct arena *a = rpc_call_arena(j->job.call);
    const char *quote = strchr(why, '"'), *end = quote ? strchr(quote + 1, '"') : NULL;
    size_t kind = 0, word = strcspn(why, " ");
    while (kind < ARRAY_LEN(kinds) && (strlen(kinds[kind]) != word || strncmp(why, kinds[kind], word)))
        kind++;
    char *name = end ? arena_strndup(a, quote + 1, (size_t)(end - quote - 1)) : NULL;
    if (kind == ARRAY_LEN(kinds) || !name)
        return "topology";
    size_t index = 0, at = 0;
    for (size_t i = 0; i < j->objects_n; i++) {
        if ((size_t)j->objects[i].kind != kind)
            continue;
        if (!strcmp(j->objects[i].name, name))
            at = index; /* the last of several is the one that is wrong */
        index++;
    }
    *ret_name = name;
    const char *rest = !strncmp(end, "\": ", 3) ? end + 3 : "", *member = "";
    size_t n = strspn(rest, "abcdefghijklmnopqrstuvwxyz_.[]0123456789");
    if (!strncmp(why + word, " name ", 6))
        member = ".name";
    else if (!strncmp(rest, "its topic", 9) || !strncmp(rest, "there is no topic", 17))
        member = ".topic";
    else if (n && rest[n] == ' ' && strncmp(rest, "is ", 3))
        member = arena_printf(a, ".%.*s", (int)n, rest);
    const char *field = arena_printf(a, "%ss[%zu]%s", kinds[kind], at, member ? member : "");
    return field ? field : "topology";
}

static void refuse_object(struct apply *j, int code, const char *why) {
    const char *name = NULL, *field = field_of(j, why, &name);
    bool immutable = code == -EPERM;
    job_refuse(&j->job, immutable ? RPC_FAILED_PRECONDITION : RPC_INVALID_ARGUMENT,
               immutable ? "IMMUTABLE_FIELD" : "INVALID_FIELD", field, why);
    if (name && immutable) {
        const char *const meta[] = {"name", name, "field", "topic"};
        memcpy(j->job.err.meta, meta, sizeof(meta));
        j->job.err.precondition_subject = name;
    }
}

static bool put_differences(struct arena *a, const struct topo_change *in, Txmsg__V1__Change *c) {
    size_t n = MAX(in->differences_n, 1u);
    Txmsg__V1__FieldChange *rows = arena_alloc(a, n * sizeof(*rows));
    c->fields = arena_alloc(a, n * sizeof(*c->fields));
    c->differences = arena_alloc(a, n * sizeof(Txmsg__V1__FieldChange *));
    bool ok = rows && c->fields && c->differences;
    for (size_t i = 0; ok && i < in->differences_n; i++) {
        const struct topo_difference *d = &in->differences[i];
        txmsg__v1__field_change__init(&rows[i]);
        rows[i].field = arena_strndup(a, d->field, strlen(d->field));
        rows[i].before = arena_strndup(a, d->before, strlen(d->before));
        rows[i].after = arena_strndup(a, d->after, strlen(d->after));
        ok = rows[i].field && rows[i].before && rows[i].after;
        c->fields[c->n_fields++] = rows[i].field;
        c->differences[c->n_differences++] = &rows[i];
    }
    return ok;
}

static void on_applied(void *arg, int code, const char *why, const struct topo_change *changes, size_t n,
                       int64_t epoch) {
    struct apply *j = arg;
    struct arena *a = rpc_call_arena(j->job.call);
    if (code == -EINVAL || code == -EPERM) {
        refuse_object(j, code, why ? why : "is not valid");
    } else if (code < 0) {
        job_unavailable(&j->job);
    } else {
        Txmsg__V1__ApplyTopologyResponse *resp = arena_alloc(a, sizeof(*resp));
        Txmsg__V1__Change **list = arena_alloc(a, MAX(n, 1u) * sizeof(Txmsg__V1__Change *));
        Txmsg__V1__Change *rows = arena_alloc(a, MAX(n, 1u) * sizeof(*rows));
        bool ok = resp && list && rows;
        if (ok)
            txmsg__v1__apply_topology_response__init(resp);
        for (size_t i = 0; ok && i < n; i++) {
            if (changes[i].act == TOPO_UNCHANGED)
                continue;
            Txmsg__V1__Change *c = &rows[resp->n_changes];
            txmsg__v1__change__init(c);
            c->action = (Txmsg__V1__ChangeAction)(changes[i].act + 1);
            c->kind = (Txmsg__V1__ChangeKind)(changes[i].kind + 1);
            c->name = arena_strndup(a, changes[i].name, strlen(changes[i].name));
            ok = c->name && put_differences(a, &changes[i], c);
            list[resp->n_changes++] = c;
        }
        if (ok) {
            resp->changes = list;
            resp->epoch = epoch;
            j->job.response = &resp->base;
        } else if (!j->validate_only) {
            job_unknown(&j->job);
        }
        if (!j->validate_only && j->job.service->applied)
            j->job.service->applied(j->job.service->arg);
        if (ok && j->probe) {
            admin_probe(&j->job, resp, j->objects, changes, j->objects_n);
            return;
        }
    }
    job_done(&j->job);
}

static void start_apply(struct apply *j) {
    struct job *job = &j->job;
    int r = topo_apply(job_conn(job), j->objects, j->objects_n, j->validate_only, j->prune, j->actor, on_applied, j);
    if (r < 0) {
        job_unavailable(job);
        job_done(job);
    }
}

/* --- secrets --- */

/* Puts the stored text wherever the new object has the mask that an export shows for it. 0, -1 = out of memory. */
static int unmask(json_t *new, const json_t *stored, const json_t *shown) {
    const char *key;
    json_t *value;
    void *next;
    int r = 0;
    json_object_foreach_safe (new, next, key, value) {
        json_t *was = json_object_get(stored, key), *mask_of = json_object_get(shown, key);
        if (json_is_object(value) && json_is_object(was))
            r |= unmask(value, was, mask_of);
        else if (json_is_string(value) && was && mask_of && !json_equal(was, mask_of) && json_equal(value, mask_of))
            r |= json_object_set(new, key, was);
    }
    return r;
}

/* 0, -ENOMEM: a mask must not be stored in place of a secret. */
static int unmask_object(struct topo_object *o, const struct topo_object *stored, struct arena *a) {
    CLEANUP_JSON json_t *new = json_parse(bytes_str(o->spec), NULL), *was = json_parse(bytes_str(stored->spec), NULL),
                        *shown = was ? topo_redact(was) : NULL;
    struct buf text CLEANUP_BUF;
    buf_init(&text, SPEC_BYTES_MAX);
    if (!new || !shown || unmask(new, was, shown) < 0 || json_write(&text, new) < 0)
        return -ENOMEM;
    const char *spec = arena_strndup(a, text.p, text.n);
    if (!spec)
        return -ENOMEM;
    o->spec = spec;
    return 0;
}

static void on_current(void *arg, int code, const struct topo_object *stored, size_t n, int64_t epoch) {
    struct apply *j = arg;
    struct arena *a = rpc_call_arena(j->job.call);
    UNUSED(epoch);
    if (code < 0) {
        job_unavailable(&j->job);
        job_done(&j->job);
        return;
    }
    int r = 0;
    for (size_t i = 0; i < j->objects_n; i++) {
        struct topo_object *o = &j->objects[i];
        for (size_t k = 0; r == 0 && strstr(o->spec, "***") && k < n; k++) {
            if (stored[k].kind != o->kind || strcmp(stored[k].name, o->name))
                continue;
            r = unmask_object(o, &stored[k], a);
            break;
        }
    }
    if (r == 0)
        start_apply(j);
    else
        job_done(&j->job);
}

static void run_apply(struct job *job) {
    struct apply *j = CONTAINER_OF(job, struct apply, job);
    if (!j->masked) {
        start_apply(j);
    } else if (topo_export(job_conn(job), on_current, j) < 0) {
        job_unavailable(job);
        job_done(job);
    }
}

void admin_apply(struct rpc_call *call, void *service) {
    const Txmsg__V1__ApplyTopologyRequest *q = (const Txmsg__V1__ApplyTopologyRequest *)rpc_call_request(call);
    const Txmsg__V1__Topology *t = q->topology;
    struct arena *a = rpc_call_arena(call);
    size_t n = t ? t->n_topics + t->n_producers + t->n_subscriptions : 0;
    if (q->probe && !q->validate_only) {
        call_refuse(call, RPC_INVALID_ARGUMENT, "INVALID_FIELD", "probe", "needs validate_only");
        return;
    }
    if (n > OBJECTS_MAX) {
        call_refuse(call, RPC_INVALID_ARGUMENT, "INVALID_FIELD", "topology", "has more than 10000 objects");
        return;
    }
    struct topo_object *o = arena_zalloc(a, MAX(n, 1u) * sizeof(*o));
    struct apply *j = job_new(call, service, sizeof(*j), run_apply);
    if (!j)
        return;
    size_t k = 0;
    int r = o ? 0 : -ENOMEM;
    for (size_t i = 0; r == 0 && t && i < t->n_topics; i++)
        r = object_of(a, TOPO_TOPIC, t->topics[i]->name, &t->topics[i]->base, &o[k++]);
    for (size_t i = 0; r == 0 && t && i < t->n_producers; i++)
        r = object_of(a, TOPO_PRODUCER, t->producers[i]->name, &t->producers[i]->base, &o[k++]);
    for (size_t i = 0; r == 0 && t && i < t->n_subscriptions; i++) {
        r = object_of(a, TOPO_SUBSCRIPTION, t->subscriptions[i]->name, &t->subscriptions[i]->base, &o[k]);
        o[k++].from_beginning = t->subscriptions[i]->start_from == TXMSG__V1__START_FROM__START_FROM_BEGINNING;
    }
    if (r == -ENOMEM && !a->full) {
        call_overloaded(call);
        return;
    }
    if (r < 0) {
        call_refuse(call, RPC_INVALID_ARGUMENT, "INVALID_FIELD", "topology", "is too large");
        return;
    }
    j->objects = o;
    j->objects_n = n;
    for (size_t i = 0; i < n; i++)
        j->masked |= strstr(o[i].spec, "***") != NULL;
    j->validate_only = q->validate_only;
    j->prune = q->prune;
    j->probe = q->probe;
    j->actor = *q->actor ? q->actor : "rpc";
    job_start(&j->job);
}

/* --- export --- */

static const ProtobufCMessageDescriptor *descriptor_of(enum topo_kind k) {
    return k == TOPO_TOPIC      ? &txmsg__v1__topic__descriptor
           : k == TOPO_PRODUCER ? &txmsg__v1__producer__descriptor
                                : &txmsg__v1__subscription__descriptor;
}

ProtobufCMessage *admin_object(struct arena *a, const struct topo_object *o) {
    CLEANUP_JSON json_t *stored = json_parse(bytes_str(o->spec), NULL);
    CLEANUP_JSON json_t *j = stored ? topo_redact(stored) : NULL;
    ProtobufCMessage *m = NULL;
    if (!j)
        return NULL;
    if (json_object_set_new(j, "name", json_string(o->name)) < 0)
        return NULL;
    return jsonpb_parse(descriptor_of(o->kind), j, a, &m, NULL) == 0 ? m : NULL;
}

static void on_exported(void *arg, int code, const struct topo_object *objects, size_t n, int64_t epoch) {
    struct job *j = arg;
    struct arena *a = rpc_call_arena(j->call);
    Txmsg__V1__ExportTopologyResponse *resp = arena_alloc(a, sizeof(*resp));
    Txmsg__V1__Topology *t = arena_alloc(a, sizeof(*t));
    void **rows = arena_alloc(a, 3 * MAX(n, 1u) * sizeof(void *));
    if (code < 0) {
        job_unavailable(j);
    } else if (resp && t && rows) {
        txmsg__v1__export_topology_response__init(resp);
        txmsg__v1__topology__init(t);
        t->topics = (Txmsg__V1__Topic **)rows;
        t->producers = (Txmsg__V1__Producer **)(rows + n);
        t->subscriptions = (Txmsg__V1__Subscription **)(rows + 2 * n);
        bool ok = true;
        for (size_t i = 0; ok && i < n; i++) {
            ProtobufCMessage *m = admin_object(a, &objects[i]);
            ok = m != NULL;
            if (objects[i].kind == TOPO_TOPIC)
                t->topics[t->n_topics++] = (Txmsg__V1__Topic *)m;
            else if (objects[i].kind == TOPO_PRODUCER)
                t->producers[t->n_producers++] = (Txmsg__V1__Producer *)m;
            else
                t->subscriptions[t->n_subscriptions++] = (Txmsg__V1__Subscription *)m;
        }
        resp->topology = t;
        resp->epoch = epoch;
        j->response = ok ? &resp->base : NULL;
    }
    job_done(j);
}

static void run_export(struct job *j) {
    if (topo_export(job_conn(j), on_exported, j) < 0) {
        job_unavailable(j);
        job_done(j);
    }
}

void admin_export(struct rpc_call *call, void *service) {
    struct job *j = job_new(call, service, sizeof(*j), run_export);
    if (j)
        job_start(j);
}
