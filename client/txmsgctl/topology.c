/* apply, diff, export */
#include "base/yaml.h"

#include "txmsg/v1/admin_service.pb-c.h"
#include "txmsgctl/ctl.h"

#define SERVICE "/txmsg.v1.AdminService/"

enum { YAML_BYTES_MAX = 64 << 20 };

static const struct ctl_option apply_options[] = {
    {"-f", "FILE", "the topology in YAML, - = standard input; required"},
    {"--dry-run", NULL, "check and show what would change"},
    {"--probe", NULL, "change nothing if an endpoint cannot be reached"},
    {"--no-probe", NULL, "do not connect to endpoints; default: those that cannot be reached are told"},
    {"--prune", NULL, "delete what the file does not name"},
    {"--yes", NULL, "do not ask before something is deleted"},
    {"--actor", "NAME", "who, for the audit; default the login name"},
    {NULL, NULL, NULL},
};
static const struct ctl_option diff_options[] = {
    {"-f", "FILE", "the topology in YAML, - = standard input; required"},
    {"--prune", NULL, "what the file does not name would be deleted"},
    {NULL, NULL, NULL},
};

/* CTL_OK and the request, or CTL_USAGE after saying why not. */
static int read_topology(struct ctl *c, Txmsg__V1__ApplyTopologyRequest *q) {
    const char *path = args_get(&c->args, "-f");
    struct errmsg e = ERRMSG_NULL;
    size_t n;
    if (!path || c->args.words_n)
        return ctl_usage("give -f FILE");
    const char *text = ctl_read_file(c, path, &n);
    if (!text)
        return CTL_USAGE;
    CLEANUP_JSON json_t *j = yaml_parse(bytes_of(text, n), &e);
    ProtobufCMessage *topology = NULL;
    if (!j || jsonpb_parse(&txmsg__v1__topology__descriptor, j, &c->arena, &topology, &e) < 0) {
        fprintf(stderr, "txmsgctl: %s: %s\n", path, e.text);
        return CTL_USAGE;
    }
    txmsg__v1__apply_topology_request__init(q);
    q->topology = (Txmsg__V1__Topology *)topology;
    q->prune = args_has(&c->args, "--prune");
    q->actor = ctl_actor(c);
    return CTL_OK;
}

static void print_changes(struct ctl *c, const Txmsg__V1__ApplyTopologyResponse *resp) {
    for (size_t i = 0; i < resp->n_changes; i++) {
        const Txmsg__V1__Change *o = resp->changes[i];
        printf("%s %s %s\n", ctl_enum(c, &txmsg__v1__change_action__descriptor, (int)o->action),
               ctl_enum(c, &txmsg__v1__change_kind__descriptor, (int)o->kind), o->name);
        for (size_t k = 0; k < o->n_differences; k++) {
            const Txmsg__V1__FieldChange *d = o->differences[k];
            printf("  %s: %s -> %s\n", d->field, *d->before ? ctl_text(c, d->before) : "(none)",
                   *d->after ? ctl_text(c, d->after) : "(none)");
        }
    }
}

/* What would change. CTL_OK and *ret, which was not printed. */
static int preview(struct ctl *c, Txmsg__V1__ApplyTopologyRequest *q, bool probe,
                   const Txmsg__V1__ApplyTopologyResponse **ret) {
    const ProtobufCMessage *r = NULL;
    q->validate_only = true;
    q->probe = probe;
    int code = ctl_query(c, SERVICE "ApplyTopology", &q->base, &txmsg__v1__apply_topology_response__descriptor, &r);
    q->validate_only = q->probe = false;
    *ret = (const Txmsg__V1__ApplyTopologyResponse *)r;
    return code;
}

/* Says what cannot be reached. CTL_REFUSED if that is not to be. */
static int judge_probes(struct ctl *c, const Txmsg__V1__ApplyTopologyResponse *resp) {
    bool strict = args_has(&c->args, "--probe");
    const char *word = strict ? "error" : "warning";
    size_t bad = 0;
    for (size_t i = 0; i < resp->n_probes; i++) {
        const Txmsg__V1__EndpointProbe *p = resp->probes[i];
        if (!*p->error)
            continue;
        bad++;
        fprintf(stderr, "txmsgctl: %s: %s %s: cannot reach %s: %s\n", word,
                ctl_enum(c, &txmsg__v1__change_kind__descriptor, (int)p->kind), p->name, ctl_text(c, p->endpoint),
                ctl_text(c, p->error));
    }
    if (resp->untried)
        fprintf(stderr, "txmsgctl: %s: %d endpoints were not tried: too many for one call, or no time (--timeout)\n",
                word, resp->untried);
    if (!strict || (bad == 0 && resp->untried == 0))
        return CTL_OK;
    fputs("txmsgctl: nothing was changed; without --probe these are warnings\n", stderr);
    return CTL_REFUSED;
}

/* Deleting is asked about, once it is known that something would be. */
static int confirm_prune(struct ctl *c, const Txmsg__V1__ApplyTopologyResponse *resp) {
    size_t n = 0;
    for (size_t i = 0; i < resp->n_changes; i++)
        n += resp->changes[i]->action == TXMSG__V1__CHANGE_ACTION__CHANGE_ACTION_DELETE;
    if (!n)
        return CTL_OK;
    if (!args_has(&c->args, "--yes"))
        print_changes(c, resp);
    fflush(stdout);
    return ctl_confirm(c, mem_must(arena_printf(&c->arena, "delete %zu objects", n)));
}

/* What can be known before anything changes: is it valid, can its endpoints be reached, and shall that be deleted? */
static int look_ahead(struct ctl *c, Txmsg__V1__ApplyTopologyRequest *q, const Txmsg__V1__ApplyTopologyResponse **ret) {
    bool dry = args_has(&c->args, "--dry-run");
    bool probe = !args_has(&c->args, "--no-probe");
    if (!probe && args_has(&c->args, "--probe"))
        return ctl_usage("--probe and --no-probe exclude each other");
    if (!probe && !q->prune && !dry)
        return CTL_OK;
    int code = preview(c, q, probe, ret);
    if (code == CTL_OK)
        code = judge_probes(c, *ret);
    if (code == CTL_OK && q->prune && !dry)
        code = confirm_prune(c, *ret);
    return code;
}

static int cmd_apply(struct ctl *c) {
    Txmsg__V1__ApplyTopologyRequest q;
    const Txmsg__V1__ApplyTopologyResponse *resp = NULL;
    int code = read_topology(c, &q);
    bool dry = args_has(&c->args, "--dry-run");
    if (code == CTL_OK)
        code = look_ahead(c, &q, &resp);
    if (code != CTL_OK)
        return code;
    if (dry && c->json) {
        ctl_print_json(&resp->base);
        return CTL_OK;
    }
    if (!dry) {
        const ProtobufCMessage *r;
        code = ctl_call(c, SERVICE "ApplyTopology", &q.base, &txmsg__v1__apply_topology_response__descriptor, &r);
        if (code != CTL_OK || !r)
            return code;
        resp = (const Txmsg__V1__ApplyTopologyResponse *)r;
    }
    print_changes(c, resp);
    if (!resp->n_changes)
        puts("nothing to change");
    else if (dry)
        puts("dry run: nothing was changed");
    return CTL_OK;
}

static int cmd_diff(struct ctl *c) {
    Txmsg__V1__ApplyTopologyRequest q;
    const Txmsg__V1__ApplyTopologyResponse *resp;
    int code = read_topology(c, &q);
    if (code == CTL_OK)
        code = preview(c, &q, false, &resp);
    if (code != CTL_OK)
        return code;
    if (c->json)
        ctl_print_json(&resp->base);
    else
        print_changes(c, resp);
    return resp->n_changes ? CTL_DIFFERS : CTL_OK;
}

/* `apply` reads it back; secrets are shown as ***. */
static int cmd_export(struct ctl *c) {
    Txmsg__V1__ExportTopologyRequest q;
    const ProtobufCMessage *r;
    txmsg__v1__export_topology_request__init(&q);
    int code = ctl_call(c, SERVICE "ExportTopology", &q.base, &txmsg__v1__export_topology_response__descriptor, &r);
    if (code != CTL_OK || !r)
        return code;
    CLEANUP_JSON json_t *j = mem_must(jsonpb_print(&((const Txmsg__V1__ExportTopologyResponse *)r)->topology->base));
    CLEANUP_BUF struct buf text;
    buf_init(&text, YAML_BYTES_MAX);
    if (yaml_write(&text, j) < 0) {
        fputs("txmsgctl: the topology is larger than 64 MiB\n", stderr);
        return CTL_REFUSED;
    }
    fwrite(text.p, 1, text.n, stdout);
    return CTL_OK;
}

const struct ctl_command topology_commands[] = {
    {"apply", "-f FILE", "applies topics, producers and subscriptions from YAML", apply_options, cmd_apply},
    {"diff", "-f FILE", "what apply would change, field by field", diff_options, cmd_diff},
    {"export", "", "prints the stored topology as YAML, secrets masked", NULL, cmd_export},
    {NULL, NULL, NULL, NULL, NULL},
};
