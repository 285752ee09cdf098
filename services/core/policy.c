/*
 * The snapshot: built by one thread, then shared by reference and only read. A change of the configuration makes a new
 * one with a higher epoch; the old one lives until its last reader drops it.
 *
 * All structs and texts come from one arena. A failed adder leaves nothing visible behind, only some of the arena used.
 */
#include "core/policy_private.h"

enum { POLICY_BYTES_MAX = 256 << 20 };

/* subs is an array that grows and moves; this finds a place in it by id. */
struct sub_index {
    struct hnode node;
    int at;
};

struct policy_store {
    struct arena arena;
    struct hmap subs; /* struct sub_index by hash of the id */
    size_t subs_cap;
};

static uint64_t name_hash(struct bytes name) {
    return hash_bytes(name.p, name.n, 0);
}

static uint64_t id_hash(int32_t id) {
    return hash_bytes(&id, sizeof(id), 0);
}

static void topology_free(struct topology *t) {
    for (int i = 0; i < t->subs_n; i++)
        if (t->subs[i].sink.kind == SINK_HTTP)
            json_decref(t->subs[i].sink.http.headers);
    mem_free(t->subs);
    hmap_deinit(&t->topics);
    hmap_deinit(&t->producers);
    if (t->memory) {
        hmap_deinit(&t->memory->subs);
        arena_deinit(&t->memory->arena);
        mem_free(t->memory);
    }
    mem_free(t);
}

struct topology *topology_new(int64_t epoch) {
    struct topology *t = mem_zalloc(sizeof(*t));

    if (!t)
        return NULL;
    atomic_init(&t->refs, 1);
    t->epoch = epoch;
    t->memory = mem_zalloc(sizeof(*t->memory));
    if (t->memory)
        arena_init(&t->memory->arena, POLICY_BYTES_MAX);
    if (!t->memory || hmap_init(&t->topics, 64) < 0 || hmap_init(&t->producers, 64) < 0 ||
        hmap_init(&t->memory->subs, 64) < 0) {
        topology_free(t);
        return NULL;
    }
    return t;
}

struct topology *topology_ref(struct topology *t) {
    int before = atomic_fetch_add_explicit(&t->refs, 1, memory_order_relaxed);
    ASSERT(before > 0);
    return t;
}

void topology_unref(struct topology *t) {
    if (!t)
        return;
    int before = atomic_fetch_sub_explicit(&t->refs, 1, memory_order_acq_rel);
    ASSERT(before > 0);
    if (before == 1)
        topology_free(t);
}

/* A zeroed struct of the snapshot, and a copy of the name. */
static void *new_named(struct topology *t, size_t size, const char *name, const char **ret_name, struct errmsg *e) {
    void *p = arena_zalloc(&t->memory->arena, size);

    *ret_name = p ? arena_strndup(&t->memory->arena, name, strlen(name)) : NULL;
    if (!*ret_name) {
        err_set(e, -ENOMEM, "out of memory");
        return NULL;
    }
    return p;
}

int topology_add_topic(struct topology *t, const char *name, const json_t *spec, struct errmsg *e) {
    struct topic_conf *c;
    const char *kept;
    int r = spec_topic(name, spec, e);

    if (r < 0)
        return r;
    if (topology_topic(t, bytes_str(name)))
        return err_set(e, -EEXIST, "topic %s is there twice", name);
    c = new_named(t, sizeof(*c), name, &kept, e);
    if (!c)
        return -ENOMEM;
    c->name = kept;
    hmap_add(&t->topics, &c->node, name_hash(bytes_str(name)));
    return 0;
}

int topology_add_producer(struct topology *t, const char *name, const json_t *spec, struct errmsg *e) {
    struct producer_conf *c;
    struct check_policy check;
    struct outcome_topics outcomes;
    const char *kept;
    int r;

    memset(&check, 0, sizeof(check));
    r = spec_producer(name, spec, &t->memory->arena, &check, &outcomes, e);
    if (r < 0)
        return r;
    if (topology_producer(t, bytes_str(name)))
        return err_set(e, -EEXIST, "producer %s is there twice", name);
    c = new_named(t, sizeof(*c), name, &kept, e);
    if (!c)
        return -ENOMEM;
    c->name = kept;
    c->check = check;
    c->outcomes = outcomes;
    t->tells_delivered |= outcomes.delivered[0] != '\0';
    hmap_add(&t->producers, &c->node, name_hash(bytes_str(name)));
    return 0;
}

/* Room for one more subscription. */
static int grow_subs(struct topology *t, struct errmsg *e) {
    struct policy_store *m = t->memory;
    size_t cap = m->subs_cap > 0 ? 2 * m->subs_cap : 16;
    struct sub_conf *p;

    if ((size_t)t->subs_n < m->subs_cap)
        return 0;
    p = mem_realloc(t->subs, cap * sizeof(*p));
    if (!p)
        return err_set(e, -ENOMEM, "out of memory");
    t->subs = p;
    m->subs_cap = cap;
    return 0;
}

int topology_add_sub(struct topology *t, int32_t id, const char *name, const json_t *spec, struct errmsg *e) {
    struct sub_index *index;
    struct sub_conf sub;
    const char *kept;
    int r;

    if (topology_sub(t, id))
        return err_set(e, -EEXIST, "subscription %d is there twice", id);
    r = grow_subs(t, e);
    if (r < 0)
        return r;
    index = new_named(t, sizeof(*index), name, &kept, e);
    if (!index)
        return -ENOMEM;
    memset(&sub, 0, sizeof(sub));
    /* Last, for on success it hands over a reference that the arena does not free. */
    r = spec_sub(name, spec, &t->memory->arena, &sub, e);
    if (r < 0)
        return r;
    sub.id = id;
    sub.name = kept;
    index->at = t->subs_n++;
    t->subs[index->at] = sub;
    hmap_add(&t->memory->subs, &index->node, id_hash(id));
    return 0;
}

void topology_pause_sub(struct topology *t, int32_t id) {
    for (int i = 0; i < t->subs_n; i++)
        if (t->subs[i].id == id)
            t->subs[i].paused = true;
}

const struct topic_conf *topology_topic(const struct topology *t, struct bytes name) {
    uint64_t hash = name_hash(name);

    for (struct hnode *h = hmap_first(&t->topics, hash); h; h = hmap_next(h, hash)) {
        const struct topic_conf *c = CONTAINER_OF(h, struct topic_conf, node);
        if (bytes_eq_str(name, c->name))
            return c;
    }
    return NULL;
}

const struct producer_conf *topology_producer(const struct topology *t, struct bytes name) {
    uint64_t hash = name_hash(name);

    for (struct hnode *h = hmap_first(&t->producers, hash); h; h = hmap_next(h, hash)) {
        const struct producer_conf *c = CONTAINER_OF(h, struct producer_conf, node);
        if (bytes_eq_str(name, c->name))
            return c;
    }
    return NULL;
}

const struct sub_conf *topology_sub(const struct topology *t, int32_t id) {
    uint64_t hash = id_hash(id);

    for (struct hnode *h = hmap_first(&t->memory->subs, hash); h; h = hmap_next(h, hash)) {
        const struct sub_index *index = CONTAINER_OF(h, struct sub_index, node);
        if (t->subs[index->at].id == id)
            return &t->subs[index->at];
    }
    return NULL;
}
