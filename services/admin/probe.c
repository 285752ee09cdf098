/*
 * Endpoints of a topology that is to be applied are tried before anybody depends on them. Everything is in the call's
 * arena; some are under way at a time, each with its own bound, and all of them end before the call's deadline. An
 * endpoint that several objects have is tried once.
 */
#include "admin/admin_private.h"

#include "base/clock.h"
#include "store/topo_plan.h"

enum { PROBES_MAX = 64, PROBE_MS_MAX = 5000, PROBE_MS_MIN = 200, ANSWER_MS = 1000 };

struct probe {
    struct probing *all;
    Txmsg__V1__EndpointProbe *out;
    const char *url, *exchange; /* of the scratch topology */
    const struct probe *same;   /* an earlier one of the same endpoint */
    bool tried;
};
struct probing {
    struct job *job;
    Txmsg__V1__ApplyTopologyResponse *resp;
    struct topology *scratch;
    struct probe list[PROBES_MAX];
    size_t n, next, under_way;
    uint64_t end_ns;
    bool failed; /* out of memory */
};

/* --- which --- */

static char *endpoint_text(struct arena *a, const char *url, const char *exchange) {
    CLEANUP_JSON json_t *plain = json_pack("{s:s}", "url", url), *shown = plain ? topo_redact(plain) : NULL;
    const char *text = json_string_value(json_object_get(shown, "url"));
    if (!text)
        return NULL;
    return *exchange ? arena_printf(a, "%s exchange %s", text, exchange) : arena_strndup(a, text, strlen(text));
}

static void add(struct probing *p, const struct topo_change *c, const char *url, const char *exchange) {
    struct arena *a = rpc_call_arena(p->job->call);
    if (p->n == PROBES_MAX) {
        p->resp->untried++;
        return;
    }
    Txmsg__V1__EndpointProbe *out = arena_alloc(a, sizeof(*out));
    if (!out) {
        p->failed = true;
        return;
    }
    txmsg__v1__endpoint_probe__init(out);
    out->kind = (Txmsg__V1__ChangeKind)(c->kind + 1);
    out->name = arena_strndup(a, c->name, strlen(c->name));
    out->endpoint = endpoint_text(a, url, exchange);
    p->failed |= !out->name || !out->endpoint;
    struct probe *one = &p->list[p->n++];
    *one = (struct probe){.all = p, .out = out, .url = url, .exchange = exchange};
    for (const struct probe *o = p->list; o < one && !one->same; o++)
        if (!o->same && !strcmp(o->url, url) && !strcmp(o->exchange, exchange))
            one->same = o;
}

static void add_sink(struct probing *p, const struct topo_change *c, const struct sink_conf *s) {
    if (s->kind == SINK_HTTP)
        add(p, c, s->http.url, "");
    else if (s->kind == SINK_RABBITMQ)
        add(p, c, s->rabbitmq.url, s->rabbitmq.exchange);
    for (int i = 0; s->kind == SINK_GRPC && i < s->grpc.endpoints_n; i++)
        add(p, c, s->grpc.endpoints[i], "");
}

/* New, or other where it says whom to connect to. */
static bool concerned(const struct topo_change *c) {
    const char *part = c->kind == TOPO_PRODUCER ? "check" : "sink";
    if (c->kind == TOPO_TOPIC || c->act == TOPO_DELETE || c->act == TOPO_UNCHANGED)
        return false;
    if (c->act == TOPO_CREATE)
        return true;
    for (size_t i = 0; i < c->differences_n; i++)
        if (!strncmp(c->differences[i].field, part, strlen(part)))
            return true;
    return false;
}

static void add_object(struct probing *p, const struct topo_object *o, const struct topo_change *c, int32_t id) {
    CLEANUP_JSON json_t *spec = json_parse(bytes_str(o->spec), NULL);
    int r = !spec                      ? -ENOMEM
            : o->kind == TOPO_PRODUCER ? topology_add_producer(p->scratch, o->name, spec, NULL)
                                       : topology_add_sub(p->scratch, id, o->name, spec, NULL);
    if (r < 0) { /* it was found good already */
        p->failed |= r == -ENOMEM;
        return;
    }
    if (o->kind == TOPO_SUBSCRIPTION) {
        add_sink(p, c, &topology_sub(p->scratch, id)->sink);
        return;
    }
    const struct check_policy *k = &topology_producer(p->scratch, bytes_str(o->name))->check;
    for (int i = 0; i < k->endpoints_n; i++)
        add(p, c, k->endpoints[i], "");
}

/* --- trying --- */

static void finish(struct probing *p) {
    struct arena *a = rpc_call_arena(p->job->call);
    Txmsg__V1__ApplyTopologyResponse *resp = p->resp;
    resp->probes = arena_alloc(a, MAX(p->n, 1u) * sizeof(Txmsg__V1__EndpointProbe *));
    for (size_t i = 0; resp->probes && i < p->n; i++) {
        struct probe *one = &p->list[i];
        if (one->same) {
            one->tried = one->same->tried;
            one->out->error = one->same->out->error;
        }
        if (one->tried)
            resp->probes[resp->n_probes++] = one->out;
        else
            resp->untried++;
    }
    topology_unref(p->scratch);
    p->job->response = resp->probes && !p->failed ? &resp->base : NULL;
    job_done(p->job);
}

static void go_on(struct probing *p);

static void on_reached(void *arg, const char *error) {
    struct probe *one = arg;
    struct probing *p = one->all;
    p->under_way--;
    one->tried = true;
    if (error) {
        const char *text = *error ? error : "failed";
        one->out->error = arena_strndup(rpc_call_arena(p->job->call), text, strlen(text));
        p->failed |= !one->out->error;
    }
    go_on(p);
}

/* False: as many are under way as may be. */
static bool try_one(struct probing *p, struct probe *one, int64_t left_ms) {
    const struct admin_service *s = p->job->service;
    int r = s->reach(s->reach_arg, one->url, one->exchange, MIN(left_ms, (int64_t)PROBE_MS_MAX), on_reached, one);
    if (r == 0) {
        p->under_way++;
        return true;
    }
    if (r == 1 && p->under_way > 0) /* the end of one of ours comes back here */
        return false;
    if (r < 0) {
        one->tried = true;
        one->out->error = arena_printf(rpc_call_arena(p->job->call), "cannot be tried: %s", err_text(r));
        p->failed |= !one->out->error;
    }
    return true;
}

static void go_on(struct probing *p) {
    while (p->next < p->n && !p->failed) {
        uint64_t now_ns = clock_mono_ns();
        int64_t left_ms = p->end_ns > now_ns ? (int64_t)((p->end_ns - now_ns) / NS_PER_MS) : 0;
        struct probe *one = &p->list[p->next];
        if (left_ms >= PROBE_MS_MIN && !one->same && !try_one(p, one, left_ms))
            return;
        p->next++;
    }
    if (p->under_way == 0)
        finish(p);
}

void admin_probe(struct job *j, Txmsg__V1__ApplyTopologyResponse *resp, const struct topo_object *objects,
                 const struct topo_change *changes, size_t n) {
    struct probing *p = arena_zalloc(rpc_call_arena(j->call), sizeof(*p));
    j->response = NULL;
    if (!p || !(p->scratch = topology_new(1))) {
        job_done(j);
        return;
    }
    p->job = j;
    p->resp = resp;
    p->end_ns = rpc_call_deadline_ns(j->call) - (uint64_t)ANSWER_MS * NS_PER_MS;
    for (size_t i = 0; i < n && !p->failed; i++)
        if (concerned(&changes[i]))
            add_object(p, &objects[i], &changes[i], (int32_t)i + 1);
    if (!j->service->reach) {
        resp->untried += (int32_t)p->n;
        p->n = 0;
    }
    go_on(p);
}
