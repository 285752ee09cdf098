/*
 * Applying topology is comparing two sets of objects by (kind, name). One entry stands for each name; it points to what
 * is wanted, to what is stored, or to both. The rules are read off the entries, so that their order in the request does
 * not matter.
 */
#include "store/topo_plan.h"

#include "base/list.h"
#include "core/policy.h"

enum { VALUE_MAX = 256 };

struct entry {
    struct hnode node;
    const struct topo_object *want, *have;
    json_t *want_spec, *have_spec;
    const char *topic, *dead_topic; /* subscriptions: theirs; dead_topic NULL or "" = none */
    const char *outcomes[2];        /* producers: topics of their outcome events; likewise */
    bool reached;                   /* topics: while a path of dead letters is followed */
    bool gone;                      /* stored, and to be removed */
};

struct work {
    struct hmap map;
    struct entry *entries; /* room for every object of both sides; never moves */
    size_t n;
    struct topology *scratch;
};

static void work_deinit(struct work *w) {
    for (size_t i = 0; i < w->n; i++) {
        json_decref(w->entries[i].want_spec);
        json_decref(w->entries[i].have_spec);
    }
    mem_free(w->entries);
    hmap_deinit(&w->map);
    topology_unref(w->scratch);
}

void topo_plan_deinit(struct topo_plan *p) {
    for (size_t i = 0; i < p->n; i++) {
        json_decref(p->items[i].want);
        json_decref(p->items[i].have);
    }
    mem_free(p->items);
    *p = (struct topo_plan){0};
}

const char *topo_kind_name(enum topo_kind k) {
    return k == TOPO_TOPIC ? "topic" : k == TOPO_PRODUCER ? "producer" : "subscription";
}

const char *topo_act_name(enum topo_act a) {
    return a == TOPO_CREATE ? "create" : a == TOPO_UPDATE ? "update" : a == TOPO_DELETE ? "delete" : "unchanged";
}

/* --- JSON --- */

bool topo_json_same(const json_t *a, const json_t *b) {
    if (json_is_number(a) && json_is_number(b)) {
        if (json_is_integer(a) && json_is_integer(b))
            return json_integer_value(a) == json_integer_value(b);
        return json_number_value(a) == json_number_value(b);
    }
    if (json_typeof(a) != json_typeof(b))
        return false;
    if (json_is_array(a)) {
        bool same = json_array_size(a) == json_array_size(b);
        for (size_t i = 0; same && i < json_array_size(a); i++)
            same = topo_json_same(json_array_get(a, i), json_array_get(b, i));
        return same;
    }
    if (json_is_object(a)) {
        bool same = json_object_size(a) == json_object_size(b);
        const char *key;
        json_t *v;
        json_object_foreach ((json_t *)a, key, v) {
            const json_t *other = json_object_get(b, key);
            same = same && other && topo_json_same(v, other);
        }
        return same;
    }
    return json_equal(a, b);
}

static bool one_of(const char *key, const char *const *names) {
    while (*names && strcasecmp(key, *names) != 0)
        names++;
    return *names != NULL;
}

/* "scheme://user:password@host" -> the same with *** for the password; NULL when there is none. 0, -1 = out of memory. */
static int hide_password(const char *url, json_t **ret) {
    const char *host = strstr(url, "://");
    *ret = NULL;
    if (!host)
        return 0;
    host += 3;
    size_t authority = strcspn(host, "/?#");
    const char *at = memrchr(host, '@', authority);
    const char *colon = at ? memchr(host, ':', (size_t)(at - host)) : NULL;
    if (!colon)
        return 0;
    *ret = json_sprintf("%.*s:***%s", (int)(colon - url), url, at);
    return *ret ? 0 : -1;
}

static int redact(json_t *j, bool all) {
    static const char *const secrets[] = {"secret",    "previous_secret", "previousSecret", "secret_key",
                                          "secretKey", "token",           "password",       NULL};
    static const char *const maps[] = {"headers", "properties", NULL};
    const char *key;
    json_t *v;
    void *next;
    int r = 0;
    json_object_foreach_safe (j, next, key, v) {
        if (json_is_string(v)) {
            json_t *hidden = NULL;
            if (all || one_of(key, secrets))
                r |= json_object_set_new(j, key, json_string("***"));
            else
                r |= hide_password(json_string_value(v), &hidden);
            if (hidden)
                r |= json_object_set_new(j, key, hidden);
        } else {
            r |= redact(v, all || one_of(key, maps));
        }
    }
    for (size_t i = 0; i < json_array_size(j); i++) {
        v = json_array_get(j, i);
        json_t *hidden = NULL;
        r |= json_is_string(v) ? hide_password(json_string_value(v), &hidden) : redact(v, all);
        if (hidden)
            r |= json_array_set_new(j, i, hidden);
    }
    return r;
}

json_t *topo_redact(const json_t *spec) {
    CLEANUP_JSON json_t *copy = json_clone(spec);
    if (!copy || redact(copy, false) != 0)
        return NULL;
    return TAKE(copy);
}

/* --- differences --- */

/* A walk over two specs, and in step with it over what may be shown of them. */
struct differing {
    struct arena *arena;
    struct topo_difference *list;
    size_t n, cap;
    bool failed;
};

static const char *shown_value(struct differing *d, const json_t *shown) {
    if (!shown)
        return "";
    char *text = json_dumps(shown, JSON_COMPACT | JSON_ENCODE_ANY | JSON_PRESERVE_ORDER);
    size_t n = text ? strlen(text) : 0;
    while (n > VALUE_MAX || (n == VALUE_MAX && ((unsigned char)text[n] & 0xc0) == 0x80)) /* at a whole character */
        n = n > VALUE_MAX ? VALUE_MAX : n - 1;
    const char *kept = text ? arena_strndup(d->arena, text, n) : NULL;
    d->failed = d->failed || !kept;
    free(text);
    return kept;
}

static void put_difference(struct differing *d, const char *path, const json_t *want, const json_t *have) {
    if (d->n == d->cap) {
        size_t cap = MAX(d->cap * 2, 8u);
        struct topo_difference *list = arena_alloc(d->arena, cap * sizeof(*list));
        if (!list) {
            d->failed = true;
            return;
        }
        if (d->n)
            memcpy(list, d->list, d->n * sizeof(*list));
        d->list = list;
        d->cap = cap;
    }
    struct topo_difference *o = &d->list[d->n++];
    *o = (struct topo_difference){.field = arena_strndup(d->arena, path, strlen(path)),
                                  .before = shown_value(d, have),
                                  .after = shown_value(d, want)};
    d->failed = d->failed || !o->field;
}

static void note_difference(struct differing *d, const char *prefix, const json_t *want, const json_t *want_shown,
                            const json_t *have, const json_t *have_shown) {
    const char *key;
    json_t *v;
    char path[200];
    json_object_foreach ((json_t *)want, key, v) {
        const json_t *other = json_object_get(have, key);
        const json_t *shown = json_object_get(want_shown, key), *other_shown = json_object_get(have_shown, key);
        snprintf(path, sizeof(path), "%s%s%s", prefix, *prefix ? "." : "", key);
        if (json_is_object(v) && (json_is_object(other) || (!other && json_object_size(v))))
            note_difference(d, path, v, shown, other, other_shown);
        else if (!other || !topo_json_same(v, other))
            put_difference(d, path, shown, other_shown);
    }
    json_object_foreach ((json_t *)have, key, v) {
        snprintf(path, sizeof(path), "%s%s%s", prefix, *prefix ? "." : "", key);
        if (!json_object_get(want, key))
            put_difference(d, path, NULL, json_object_get(have_shown, key));
    }
}

int topo_json_differences(const json_t *want, const json_t *have, struct arena *a, struct topo_difference **ret,
                          size_t *ret_n) {
    CLEANUP_JSON json_t *want_shown = topo_redact(want), *have_shown = topo_redact(have);
    struct differing d = {.arena = a};
    if (!want_shown || !have_shown)
        return -ENOMEM;
    note_difference(&d, "", want, want_shown, have, have_shown);
    *ret = d.list;
    *ret_n = d.n;
    return d.failed ? -ENOMEM : 0;
}

/* --- entries --- */

static struct entry *find(const struct work *w, enum topo_kind kind, const char *name) {
    uint64_t hash = hash_bytes(name, strlen(name), (uint64_t)kind);
    for (struct hnode *h = hmap_first(&w->map, hash); h; h = hmap_next(h, hash)) {
        struct entry *en = CONTAINER_OF(h, struct entry, node);
        const struct topo_object *o = en->want ? en->want : en->have;
        if (o->kind == kind && !strcmp(o->name, name))
            return en;
    }
    return NULL;
}

static struct entry *find_or_add(struct work *w, enum topo_kind kind, const char *name) {
    struct entry *en = find(w, kind, name);
    if (en)
        return en;
    en = &w->entries[w->n++];
    hmap_add(&w->map, &en->node, hash_bytes(name, strlen(name), (uint64_t)kind));
    return en;
}

static const char *const outcome_names[] = {"delivered", "dead"};

static void read_outcomes(struct entry *en, const json_t *spec) {
    const json_t *outcomes = json_object_get(spec, "outcomes");
    for (size_t i = 0; i < ARRAY_LEN(en->outcomes); i++)
        en->outcomes[i] = json_string_value(json_object_get(outcomes, outcome_names[i]));
}

/* A stored spec is compared, never judged: what this version cannot read counts as different. */
static int add_stored(struct work *w, const struct topo_object *o) {
    struct entry *en = find_or_add(w, o->kind, o->name);
    en->have = o;
    en->have_spec = json_parse(bytes_str(o->spec), NULL);
    if (o->kind == TOPO_SUBSCRIPTION && en->have_spec) { /* until another spec is wanted */
        en->topic = json_string_value(json_object_get(en->have_spec, "topic"));
        en->dead_topic = json_string_value(json_object_get(en->have_spec, "dead_letter_topic"));
    }
    if (o->kind == TOPO_PRODUCER)
        read_outcomes(en, en->have_spec);
    return en->have_spec || errno != ENOMEM ? 0 : -ENOMEM;
}

static int parse_wanted(struct work *w, struct entry *en, size_t i, struct errmsg *e) {
    const struct topo_object *o = en->want;
    en->want_spec = json_parse(bytes_str(o->spec), e);
    if (!en->want_spec)
        return errno == ENOMEM ? -ENOMEM : -EINVAL;
    if (!json_is_object(en->want_spec))
        return err_set(e, -EINVAL, "is not a JSON object");
    int r;
    switch (o->kind) {
    case TOPO_TOPIC:
        return topology_add_topic(w->scratch, o->name, en->want_spec, e);
    case TOPO_PRODUCER:
        r = topology_add_producer(w->scratch, o->name, en->want_spec, e);
        if (r == 0)
            read_outcomes(en, en->want_spec);
        return r;
    case TOPO_SUBSCRIPTION:
        r = topology_add_sub(w->scratch, (int32_t)i + 1, o->name, en->want_spec, e);
        if (r == 0) /* read from the spec itself: the scratch array may move while it grows */
            r = json_member_str(en->want_spec, "topic", "", &en->topic, e);
        if (r == 0)
            r = json_member_str(en->want_spec, "dead_letter_topic", "", &en->dead_topic, e);
        return r;
    }
    return err_set(e, -EINVAL, "is of no known kind");
}

static int add_removed(struct work *w, const struct topo_object *o, struct errmsg *e) {
    struct entry *en = find(w, o->kind, o->name);
    if (!en || !en->have || en->gone)
        return err_set(e, -ENOENT, "%s \"%.140s\" does not exist", topo_kind_name(o->kind), o->name);
    en->gone = true;
    return 0;
}

static int add_wanted(struct work *w, const struct topo_object *o, size_t i, struct errmsg *e) {
    if (!text_is_name(bytes_str(o->name)))
        return err_set(e, -EINVAL, "%s name \"%.140s\": 1 to 128 of [a-z0-9._-], the first a letter or digit",
                       topo_kind_name(o->kind), o->name);
    struct entry *en = find_or_add(w, o->kind, o->name);
    int r = en->want || en->gone ? err_set(e, -EINVAL, "is there twice") : 0;
    if (r == 0) {
        en->want = o;
        r = parse_wanted(w, en, i, e);
    }
    if (r < 0)
        err_prefix(e, "%s \"%s\"", topo_kind_name(o->kind), o->name);
    return r;
}

/* --- rules --- */

/* What dies at a topic's subscriptions goes on to their dead letter topics: true if that way leads from one topic to another. */
static bool leads_to(const struct work *w, const char *from, const char *to, bool prune) {
    for (size_t i = 0; i < w->n; i++)
        w->entries[i].reached = false;
    struct entry *start = find(w, TOPO_TOPIC, from);
    if (start)
        start->reached = true;
    for (bool more = true; more;) {
        more = false;
        for (size_t i = 0; i < w->n; i++) {
            const struct entry *en = &w->entries[i];
            if (!en->topic || en->gone || (prune && !en->want) || !en->dead_topic || !*en->dead_topic)
                continue;
            const struct entry *at = find(w, TOPO_TOPIC, en->topic);
            struct entry *next = find(w, TOPO_TOPIC, en->dead_topic);
            if (!at || !at->reached || !next || next->reached)
                continue;
            next->reached = more = true;
        }
    }
    const struct entry *end = find(w, TOPO_TOPIC, to);
    return end && end->reached;
}

/* A topic that the service itself publishes to, for `en`: it must be there and stay. */
static int check_own_topic(const struct work *w, const struct entry *en, const char *member, const char *name,
                           bool prune, struct errmsg *e) {
    const struct entry *topic = find(w, TOPO_TOPIC, name);
    const char *kind = topo_kind_name(en->want->kind);
    if (!topic || topic->gone)
        return err_set(e, -EINVAL, "%s \"%s\": there is no %s \"%.128s\"", kind, en->want->name, member, name);
    if (!topic->want && prune)
        return err_set(e, -EINVAL, "%s \"%s\": its %s \"%.128s\" is not named and would be pruned", kind,
                       en->want->name, member, name);
    return 0;
}

static int check_outcomes(const struct work *w, const struct entry *en, bool prune, struct errmsg *e) {
    static const char *const members[] = {"topic of outcomes.delivered", "topic of outcomes.dead"};
    int r = 0;
    for (size_t i = 0; r == 0 && i < ARRAY_LEN(en->outcomes); i++)
        if (en->outcomes[i] && *en->outcomes[i])
            r = check_own_topic(w, en, members[i], en->outcomes[i], prune, e);
    return r;
}

static int check_dead_topic(const struct work *w, const struct entry *en, bool prune, struct errmsg *e) {
    const char *name = en->want->name;
    int r = check_own_topic(w, en, "dead_letter_topic", en->dead_topic, prune, e);
    if (r < 0)
        return r;
    if (leads_to(w, en->dead_topic, en->topic, prune))
        return err_set(e, -EINVAL,
                       "subscription \"%s\": what dies there would come back: its dead_letter_topic \"%.128s\" leads to"
                       " its topic \"%.128s\"",
                       name, en->dead_topic, en->topic);
    return 0;
}

static int check_subscription(const struct work *w, const struct entry *en, bool prune, struct errmsg *e) {
    const char *name = en->want->name, *before = NULL;
    if (en->have_spec)
        before = json_string_value(json_object_get(en->have_spec, "topic"));
    if (before && strcmp(before, en->topic) != 0)
        return err_set(
            e, -EPERM,
            "subscription \"%s\": its topic is \"%.128s\" and cannot become \"%.128s\": make a new subscription", name,
            before, en->topic);
    const struct entry *topic = find(w, TOPO_TOPIC, en->topic);
    if (!topic)
        return err_set(e, -EINVAL, "subscription \"%s\": there is no topic \"%.128s\"", name, en->topic);
    if (!topic->want && prune)
        return err_set(e, -EINVAL, "subscription \"%s\": its topic \"%.128s\" is not named and would be pruned", name,
                       en->topic);
    return en->dead_topic && *en->dead_topic ? check_dead_topic(w, en, prune, e) : 0;
}

/* Nobody may lose a topic that it uses. Linear: only the few topics that a person removes ask. */
static int check_removed_topic(const struct work *w, const char *topic, struct errmsg *e) {
    for (size_t i = 0; i < w->n; i++) {
        const struct entry *en = &w->entries[i];
        const struct topo_object *o = en->want ? en->want : en->have;
        if (en->gone)
            continue;
        for (size_t k = 0; k < ARRAY_LEN(en->outcomes); k++)
            if (en->outcomes[k] && !strcmp(en->outcomes[k], topic))
                return err_set(e, -EBUSY, "topic \"%.140s\" gets outcomes of producer \"%.140s\"", topic, o->name);
        if (en->dead_topic && !strcmp(en->dead_topic, topic))
            return err_set(e, -EBUSY, "topic \"%.140s\" is the dead_letter_topic of subscription \"%.140s\"", topic,
                           o->name);
        if (en->topic && !strcmp(en->topic, topic))
            return err_set(e, -EBUSY, "topic \"%.140s\" is read by subscription \"%.140s\"", topic, o->name);
    }
    return 0;
}

static int check_entry(const struct work *w, const struct entry *en, bool prune, struct errmsg *e) {
    if (en->want && en->want->kind == TOPO_SUBSCRIPTION)
        return check_subscription(w, en, prune, e);
    if (en->want && en->want->kind == TOPO_PRODUCER)
        return check_outcomes(w, en, prune, e);
    return en->gone && en->have->kind == TOPO_TOPIC ? check_removed_topic(w, en->have->name, e) : 0;
}

static enum topo_act act_of(const struct entry *en) {
    if (en->gone)
        return TOPO_DELETE;
    if (!en->have)
        return TOPO_CREATE;
    return en->have_spec && topo_json_same(en->want_spec, en->have_spec) ? TOPO_UNCHANGED : TOPO_UPDATE;
}

static void put_item(struct topo_plan *p, struct entry *en, enum topo_act act) {
    const struct topo_object *o = en->want ? en->want : en->have;
    p->items[p->n++] = (struct topo_item){
        .kind = o->kind,
        .act = act,
        .name = o->name,
        .want = TAKE(en->want_spec),
        .have = TAKE(en->have_spec),
        .spec = en->want ? en->want->spec : NULL,
        .from_beginning = o->from_beginning,
    };
    p->changed = p->changed || act != TOPO_UNCHANGED;
}

int topo_plan_make(const struct topo_object *objects, size_t n, const struct topo_object *stored, size_t stored_n,
                   bool prune, struct topo_plan *ret, struct errmsg *e) {
    CLEANUP(work_deinit) struct work w = {0};
    if (n > TOPO_OBJECTS_MAX)
        return err_set(e, -E2BIG, "%zu objects at once, the limit is %d", n, TOPO_OBJECTS_MAX);
    if (hmap_init(&w.map, n + stored_n) < 0 || !(w.scratch = topology_new(0)) ||
        !(w.entries = mem_calloc(n + stored_n + 1, sizeof(*w.entries))))
        return -ENOMEM;
    for (size_t i = 0; i < stored_n; i++)
        if (add_stored(&w, &stored[i]) < 0)
            return -ENOMEM;
    for (size_t i = 0; i < n; i++) {
        int r = objects[i].remove ? add_removed(&w, &objects[i], e) : add_wanted(&w, &objects[i], i, e);
        if (r < 0)
            return r;
    }
    for (size_t i = 0; i < w.n; i++) {
        int r = check_entry(&w, &w.entries[i], prune, e);
        if (r < 0)
            return r;
    }
    struct topo_plan p = {.items = mem_calloc(w.n + 1, sizeof(*p.items))};
    if (!p.items)
        return -ENOMEM;
    for (size_t i = 0; i < n; i++) {
        struct entry *en = find(&w, objects[i].kind, objects[i].name);
        put_item(&p, en, act_of(en));
    }
    for (size_t i = 0; prune && i < stored_n; i++) {
        struct entry *en = find(&w, stored[i].kind, stored[i].name);
        if (!en->want && !en->gone)
            put_item(&p, en, TOPO_DELETE);
    }
    *ret = p;
    return 0;
}
