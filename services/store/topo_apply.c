/*
 * Applying topology in two steps that share no transaction: the connection is shared with other queries, which must not
 * find themselves inside one of ours.
 *
 *      READ (one statement: everything and its epoch) --> plan, in C --> WRITE (one pipeline = one transaction)
 *        ^                                                                  |
 *        +-------------------- the epoch has moved on meanwhile ------------+
 *
 * The first statement of the write raises cfg.epoch on condition that it is still the one that was read, and divides by
 * zero if not: so the row lock orders all who apply, a plan made from old rows can never be written, and closers of
 * lanes, which share-lock the same row, come before or after. What is unchanged writes nothing at all, and
 * validate_only never writes.
 */
#include "store/topo_plan.h"

#include "base/arena.h"
#include "store/pgarr.h"
#include "store/topo_load.h"

enum { MOVED_MAX = 100, BUSY_MAX = 3, ARENA_MAX = 64 << 20, ARRAY_MAX = 64 << 20, STEPS_MAX = 12, STEP_ARRAYS = 4 };

/* A statement of the write with its parameters, complete before the first one is sent: a run that has begun must not
 * fail in our hands. */
enum step_first { FIRST_NONE, FIRST_EPOCH, FIRST_ACTOR }; /* a parameter before the arrays */
struct step {
    const char *sql;
    enum step_first first;
    int arrays_n;
    struct buf arrays[STEP_ARRAYS];
};

struct apply {
    struct pg_conn *conn;
    struct pg_run run;
    struct arena arena; /* the objects and what their views point to */
    struct topo_object *objects;
    size_t n;
    bool validate_only, prune;
    const char *actor;
    topo_applied_fn *fn;
    void *arg;
    int moved, busy; /* how often the epoch had moved on, or the store could not do it just then */
    int64_t epoch;   /* the one that the plan was made from */
    struct topo_change *changes;
    size_t changes_n;
    struct step steps[STEPS_MAX];
    int steps_n;
};

static void steps_clear(struct apply *a) {
    for (int i = 0; i < a->steps_n; i++)
        for (int k = 0; k < a->steps[i].arrays_n; k++)
            buf_deinit(&a->steps[i].arrays[k]);
    a->steps_n = 0;
}

static void apply_free(struct apply *a) {
    if (!a)
        return;
    steps_clear(a);
    mem_free(a->changes);
    arena_deinit(&a->arena);
    mem_free(a);
}
DEFINE_CLEANUP(struct apply *, apply, apply_free);

static void apply_end(struct apply *a, int code, const char *why, int64_t epoch) {
    a->fn(a->arg, code, why, code == 0 ? a->changes : NULL, code == 0 ? a->changes_n : 0, epoch);
    apply_free(a);
}

/* --- statements of the write --- */

static const char raise_sql[] =
    "WITH u AS (UPDATE cfg SET epoch = epoch + 1 WHERE epoch = $1 RETURNING 1) SELECT 1 / count(*) FROM u";

static const char put_topic_sql[] = "INSERT INTO topic (name, spec)"
                                    " SELECT u.name, u.spec::jsonb FROM unnest($1::text[], $2::text[]) AS u(name, spec)"
                                    " ON CONFLICT (name) DO UPDATE SET spec = excluded.spec";
static const char put_producer_sql[] =
    "INSERT INTO producer (name, spec)"
    " SELECT u.name, u.spec::jsonb FROM unnest($1::text[], $2::text[]) AS u(name, spec)"
    " ON CONFLICT (name) DO UPDATE SET spec = excluded.spec";
static const char update_sub_sql[] =
    "UPDATE subscription s SET spec = u.spec::jsonb FROM unnest($1::text[], $2::text[]) AS u(name, spec)"
    " WHERE s.name = u.name AND s.state <> 'deleted'";

/*
 * A new subscription and its vector. From now: behind the last entry that this statement can see; what a lane commits
 * later has a greater seq, and a lane that cannot be seen yet has no row and begins at 0. From the beginning: 0 for
 * every lane.
 */
static const char create_sub_sql[] =
    "WITH made AS (INSERT INTO subscription (name, spec)"
    "  SELECT u.name, u.spec::jsonb FROM unnest($1::text[], $2::text[]) AS u(name, spec) ORDER BY u.name"
    "  RETURNING id, name)"
    " INSERT INTO sub_vec (sub, lane, from_seq, from_index)"
    " SELECT made.id, l.lane, CASE WHEN u.beginning = 1 THEN 0 ELSE coalesce(last.seq + 1, 0) END, 0"
    " FROM made JOIN unnest($1::text[], $3::int2[]) AS u(name, beginning) ON u.name = made.name"
    " CROSS JOIN lane l"
    " LEFT JOIN LATERAL (SELECT g.seq FROM lane_log g WHERE g.lane = l.lane ORDER BY g.seq DESC LIMIT 1) last ON true";

/*
 * Lanes that everybody had finished have something to deliver again. They belong to nobody now, so that any worker may
 * adopt them: the run that drained them has dropped them from its memory and may live on without looking back.
 */
static const char reopen_sql[] =
    "UPDATE lane SET state = 'sealed', run = '00000000-0000-0000-0000-000000000000'"
    " WHERE state = 'drained' AND EXISTS (SELECT FROM lane_log g WHERE g.lane = lane.lane)";

static const char delete_topic_sql[] = "DELETE FROM topic WHERE name = ANY ($1::text[])";
static const char delete_producer_sql[] = "DELETE FROM producer WHERE name = ANY ($1::text[])";
static const char delete_sub_sql[] =
    "UPDATE subscription SET state = 'deleted' WHERE name = ANY ($1::text[]) AND state <> 'deleted'";
/* Discarded; what its cursors had not reached yet is counted later, by retention. Also what workers that had not seen an earlier deletion yet have left behind. */
static const char delete_due_sql[] =
    "WITH gone AS (DELETE FROM delivery_due WHERE sub IN (SELECT id FROM subscription WHERE state = 'deleted')"
    " RETURNING sub) INSERT INTO stat (sub, discarded) SELECT sub, count(*) FROM gone GROUP BY sub";

static const char audit_sql[] =
    "INSERT INTO audit (actor, act, object, before, after)"
    " SELECT $1::text, u.act, u.object, u.before::jsonb, u.after::jsonb"
    " FROM unnest($2::text[], $3::text[], $4::text[], $5::text[]) AS u(act, object, before, after)";

/* --- the write --- */

static struct step *add_step(struct apply *a, const char *sql, enum step_first first, int arrays_n) {
    ASSERT(a->steps_n < STEPS_MAX && arrays_n <= STEP_ARRAYS);
    struct step *st = &a->steps[a->steps_n++];
    *st = (struct step){.sql = sql, .first = first, .arrays_n = arrays_n};
    for (int i = 0; i < arrays_n; i++)
        buf_init(&st->arrays[i], ARRAY_MAX);
    return st;
}

static int end_arrays(struct step *st) {
    int r = 0;
    for (int i = 0; r == 0 && i < st->arrays_n; i++)
        r = pgarr_end(&st->arrays[i]);
    return r;
}

static bool wanted(const struct topo_item *it, enum topo_kind kind, enum topo_act one, enum topo_act other) {
    return it->kind == kind && (it->act == one || it->act == other);
}

/* Names, specs and where to begin (as many of them as the statement takes) of the items of a kind with one of two acts;
 * no item, no step. */
static int add_items(struct apply *a, const struct topo_plan *p, const char *sql, int arrays_n, enum topo_kind kind,
                     enum topo_act one, enum topo_act other) {
    struct step *st = NULL;
    for (size_t i = 0; i < p->n; i++) {
        const struct topo_item *it = &p->items[i];
        if (!wanted(it, kind, one, other))
            continue;
        if (!st) {
            st = add_step(a, sql, FIRST_NONE, arrays_n);
            for (int k = 0; k < arrays_n; k++)
                pgarr_begin(&st->arrays[k], k == 2 ? OID_INT2 : OID_TEXT);
        }
        pgarr_bytes(&st->arrays[0], bytes_str(it->name));
        if (arrays_n > 1)
            pgarr_bytes(&st->arrays[1], bytes_str(it->spec));
        if (arrays_n > 2)
            pgarr_int16(&st->arrays[2], it->from_beginning);
    }
    return st ? end_arrays(st) : 0;
}

static int put_redacted(struct buf *array, const json_t *spec) {
    if (!spec) {
        pgarr_null(array);
        return 0;
    }
    CLEANUP_JSON json_t *hidden = topo_redact(spec);
    CLEANUP_BUF struct buf text;
    buf_init(&text, ARRAY_MAX);
    int r = hidden ? json_write(&text, hidden) : -ENOMEM;
    if (r == 0)
        pgarr_bytes(array, buf_bytes(&text));
    return r;
}

static int add_audit(struct apply *a, const struct topo_plan *p) {
    struct step *st = add_step(a, audit_sql, FIRST_ACTOR, 4);
    for (int i = 0; i < st->arrays_n; i++)
        pgarr_begin(&st->arrays[i], OID_TEXT);
    for (size_t i = 0; i < p->n; i++) {
        const struct topo_item *it = &p->items[i];
        if (it->act == TOPO_UNCHANGED)
            continue;
        char act[64], object[192];
        snprintf(act, sizeof(act), "topology.%s", topo_act_name(it->act));
        snprintf(object, sizeof(object), "%s/%s", topo_kind_name(it->kind), it->name);
        pgarr_bytes(&st->arrays[0], bytes_str(act));
        pgarr_bytes(&st->arrays[1], bytes_str(object));
        int r = put_redacted(&st->arrays[2], it->have);
        if (r == 0)
            r = put_redacted(&st->arrays[3], it->want);
        if (r < 0)
            return r;
    }
    return end_arrays(st);
}

static int make_steps(struct apply *a, const struct topo_plan *p) {
    static const struct {
        const char *sql;
        int arrays_n;
        enum topo_kind kind;
        enum topo_act one, other;
    } table[] = {
        {put_topic_sql, 2, TOPO_TOPIC, TOPO_CREATE, TOPO_UPDATE},
        {put_producer_sql, 2, TOPO_PRODUCER, TOPO_CREATE, TOPO_UPDATE},
        {update_sub_sql, 2, TOPO_SUBSCRIPTION, TOPO_UPDATE, TOPO_UPDATE},
        {create_sub_sql, 3, TOPO_SUBSCRIPTION, TOPO_CREATE, TOPO_CREATE},
        {delete_sub_sql, 1, TOPO_SUBSCRIPTION, TOPO_DELETE, TOPO_DELETE},
        {delete_producer_sql, 1, TOPO_PRODUCER, TOPO_DELETE, TOPO_DELETE},
        {delete_topic_sql, 1, TOPO_TOPIC, TOPO_DELETE, TOPO_DELETE},
    };
    bool beginning = false;
    steps_clear(a);
    add_step(a, raise_sql, FIRST_EPOCH, 0);
    for (size_t i = 0; i < ARRAY_LEN(table); i++) {
        int r = add_items(a, p, table[i].sql, table[i].arrays_n, table[i].kind, table[i].one, table[i].other);
        if (r < 0)
            return r;
    }
    for (size_t i = 0; i < p->n; i++)
        beginning = beginning ||
                    (wanted(&p->items[i], TOPO_SUBSCRIPTION, TOPO_CREATE, TOPO_CREATE) && p->items[i].from_beginning);
    if (beginning)
        add_step(a, reopen_sql, FIRST_NONE, 0);
    add_step(a, delete_due_sql, FIRST_NONE, 0);
    return add_audit(a, p);
}

static void on_written(struct pg_run *run, const struct pg_error *err);

static int send_steps(struct apply *a) {
    a->run = (struct pg_run){.on_done = on_written};
    int r = pg_run_begin(a->conn, &a->run);
    for (int i = 0; r == 0 && i < a->steps_n; i++) {
        const struct step *st = &a->steps[i];
        struct pg_params p;
        pg_params_init(&p);
        if (st->first == FIRST_EPOCH)
            pg_param_int64(&p, a->epoch);
        else if (st->first == FIRST_ACTOR)
            pg_param_text(&p, a->actor);
        for (int k = 0; k < st->arrays_n; k++)
            pg_param_array(&p, &st->arrays[k]);
        r = pg_run_sql(&a->run, st->sql, &p);
    }
    return r < 0 ? r : pg_run_end(&a->run);
}

/* --- the sequence --- */

static int read_start(struct apply *a);

/* Each time that the epoch has moved on somebody else got through, so many tries are cheap and end. */
static bool may_try_again(struct apply *a, const struct pg_error *err) {
    if (err->cls == PG_DIVISION)
        return ++a->moved < MOVED_MAX;
    return (err->cls == PG_RETRY || err->cls == PG_CONFLICT) && ++a->busy < BUSY_MAX;
}

/* What a failed step means: begin again, or the end. */
static void apply_failed(struct apply *a, const struct pg_error *err, bool written) {
    if (may_try_again(a, err) && read_start(a) == 0)
        return;
    char why[400];
    int code = -EAGAIN;
    switch (err->cls) {
    case PG_DIVISION:
        snprintf(why, sizeof(why), "others kept changing the configuration: apply again");
        break;
    case PG_LOST:
        snprintf(why, sizeof(why), "the connection to the store was lost: %s",
                 written ? "whether this was applied is not known; applying it again is harmless"
                         : "nothing was applied");
        break;
    default:
        if (err->cls != PG_RETRY && err->cls != PG_CONFLICT && err->cls != PG_UNAVAILABLE)
            code = -EIO;
        snprintf(why, sizeof(why), "the store failed: %s, SQLSTATE %s", err->message, err->sqlstate);
    }
    apply_end(a, code, why, 0);
}

static void on_written(struct pg_run *run, const struct pg_error *err) {
    struct apply *a = CONTAINER_OF(run, struct apply, run);
    if (err->cls == PG_OK)
        apply_end(a, 0, "", a->epoch + 1);
    else
        apply_failed(a, err, true);
}

/* Names are copied: the plan points into the result that is being read. */
static int keep_changes(struct apply *a, const struct topo_plan *p) {
    mem_free(a->changes);
    a->changes_n = 0;
    a->changes = mem_calloc(p->n + 1, sizeof(*a->changes));
    if (!a->changes)
        return -ENOMEM;
    for (size_t i = 0; i < p->n; i++) {
        struct topo_change *ch = &a->changes[a->changes_n++];
        ch->kind = p->items[i].kind;
        ch->act = p->items[i].act;
        snprintf(ch->name, sizeof(ch->name), "%s", p->items[i].name);
        struct topo_difference *list = NULL;
        int r = ch->act == TOPO_UPDATE && p->items[i].have
                    ? topo_json_differences(p->items[i].want, p->items[i].have, &a->arena, &list, &ch->differences_n)
                    : 0;
        if (r < 0)
            return r;
        ch->differences = list;
    }
    return 0;
}

static int plan_and_send(struct apply *a, const PGresult *res, bool *ret_sent, struct errmsg *e) {
    CLEANUP_FREE struct topo_object *stored = NULL;
    CLEANUP(topo_plan_deinit) struct topo_plan p = {0};
    size_t stored_n = 0;
    int r = topo_load_objects(res, &stored, &stored_n, &a->epoch);
    if (r == 0)
        r = topo_plan_make(a->objects, a->n, stored, stored_n, a->prune, &p, e);
    if (r == 0)
        r = keep_changes(a, &p);
    if (r < 0 || !p.changed || a->validate_only)
        return r;
    r = make_steps(a, &p);
    if (r == 0)
        r = send_steps(a);
    *ret_sent = r == 0;
    return r;
}

static void on_read(void *arg, PGresult *res, const struct pg_error *err) {
    struct apply *a = arg;
    if (err->cls != PG_OK) {
        apply_failed(a, err, false);
        return;
    }
    struct errmsg e = ERRMSG_NULL;
    bool sent = false;
    int r = plan_and_send(a, res, &sent, &e);
    if (r == -ENOTCONN)
        r = err_set(&e, -EAGAIN, "the connection to the store was lost: nothing was applied");
    if (!sent)
        apply_end(a, r, e.text[0] ? e.text : r < 0 ? err_text(r) : "", a->epoch);
}

static int read_start(struct apply *a) {
    return pg_query_sql(a->conn, topo_load_sql, NULL, on_read, a);
}

static char *keep(struct apply *a, const char *text) {
    return arena_strndup(&a->arena, text, strlen(text));
}

int topo_apply(struct pg_conn *c, const struct topo_object *objects, size_t n, bool validate_only, bool prune,
               const char *actor, topo_applied_fn *fn, void *arg) {
    if (n > TOPO_OBJECTS_MAX)
        return -E2BIG;
    CLEANUP(apply_cleanup) struct apply *a = mem_zalloc(sizeof(*a));
    if (!a)
        return -ENOMEM;
    arena_init(&a->arena, ARENA_MAX);
    a->conn = c;
    a->n = n;
    a->validate_only = validate_only;
    a->prune = prune;
    a->fn = fn;
    a->arg = arg;
    a->actor = keep(a, actor);
    a->objects = arena_zalloc(&a->arena, (n + 1) * sizeof(*a->objects));
    if (!a->actor || !a->objects)
        return -ENOMEM;
    for (size_t i = 0; i < n; i++) {
        a->objects[i] = objects[i];
        a->objects[i].name = keep(a, objects[i].name);
        a->objects[i].spec = keep(a, objects[i].remove ? "" : objects[i].spec);
        if (!a->objects[i].name || !a->objects[i].spec)
            return -ENOMEM;
    }
    int r = read_start(a);
    if (r == 0)
        (void)TAKE(a);
    return r;
}
