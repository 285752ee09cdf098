/*
 * Rows that ride along with a batch: first checks, ends of checks, spilled deliveries, ends of deliveries, cursors, counters.
 * The adders copy; the statements are built when the batch is sent, sorted by key, in the order check_due, delivery_due,
 * dead_letter, attempt, discarded, replay_due, replay_count. Rows of the outbox have keys that nobody else has.
 */
#include "store/lane_private.h"

/* clang-format off */
#define PAYLOAD_COLUMNS "m.topic, h.business_key, h.trace, m.okey, m.content_type, m.headers, m.payload"
/* The body is that of the Prepare, or the one that the decision brought for it. */
#define PAYLOAD_OF(row, lo, hi)                                                                                        \
    " CROSS JOIN LATERAL (SELECT m.*, coalesce(m.body, (SELECT d.amend[1 + (SELECT count(*)::int4 FROM message y"      \
    " WHERE y.tx = m.tx AND y.n < m.n AND y.body IS NULL AND y.tx BETWEEN " lo " AND " hi ")] FROM decision d"         \
    " WHERE d.tx = m.tx AND d.tx BETWEEN " lo " AND " hi ")) AS payload"                                               \
    " FROM message m WHERE m.tx = " row ".tx AND m.n = " row ".n"                                                      \
    " AND m.tx BETWEEN " lo " AND " hi " OFFSET 0) m"                                                                  \
    " CROSS JOIN LATERAL (SELECT h.business_key, h.trace FROM message h WHERE h.tx = " row ".tx AND h.n = 0"           \
    " AND h.tx BETWEEN " lo " AND " hi " OFFSET 0) h"
/* The attempt that `row` is, made by the worker `run`; and the latest of those before it, oldest first, then itself. */
#define ATTEMPT_COLUMNS "(sub, tx, n, attempt, error, class, status, latency_ms, response, run)"
#define ATTEMPT_OF(row, run)                                                                                           \
    row ".sub, " row ".tx, " row ".n, " row ".attempt, coalesce(" row ".error, ''), " row ".class, nullif(" row        \
        ".status, 0), " row ".latency_ms, " row ".response, " run
#define STORY_ROW(row, at, run)                                                                                        \
    "jsonb_strip_nulls(jsonb_build_object('attempt', " row ".attempt, 'at', (extract(epoch FROM " at ") * 1000000)"    \
    "::int8, 'class', " row ".class, 'status', nullif(" row ".status, 0), 'latency_ms', " row ".latency_ms, 'error', " \
    "nullif(" row ".error, ''), 'response', " row ".response, 'run', " run "))"
#define STORY(row, run)                                                                                                \
    row ".class, coalesce((SELECT jsonb_agg(" STORY_ROW("a", "a.at", "a.run") " ORDER BY a.at, a.attempt) FROM"        \
    " (SELECT * FROM attempt a WHERE a.tx = " row ".tx AND a.sub = " row ".sub AND a.n = " row ".n"                    \
    " ORDER BY a.at DESC, a.attempt DESC LIMIT 63) a), '[]') || " STORY_ROW(row, "now()", run)
#define DEAD_INSERT                                                                                                    \
    "INSERT INTO dead_letter (sub, tx, n, attempts, error, class, history, producer, topic, business_key, trace, "     \
    "okey, content_type, headers, body)"
/* A new row of the outbox; its id is a UUIDv7 of the database's time. */
#define TELL                                                                                                           \
    "INSERT INTO outbox (id, topic, business_key, trace, okey, content_type, headers, body)"                           \
    " SELECT overlay(overlay(gen_random_uuid()::text PLACING substr(t.ms, 1, 8) || '-' || substr(t.ms, 9) FROM 1 FOR"  \
    " 13) PLACING '7' FROM 15 FOR 1)::uuid, "
#define TELL_NOW " CROSS JOIN (SELECT lpad(to_hex((extract(epoch FROM now()) * 1000)::int8), 12, '0') AS ms) t"
/* What a dead letter has to say to the subscription's dead_letter_topic, from the rows that were really inserted: one for each death. */
#define DEAD_RETURNING " RETURNING sub, tx, n, attempts, error, class, producer, topic, business_key, trace, okey, "   \
    "content_type, headers, body"
#define TELL_DEAD                                                                                                      \
    TELL "s.topic, x.business_key, x.trace, x.okey, x.content_type,"                                                   \
    " (coalesce(x.headers, '{}')::jsonb || jsonb_build_object('txmsg-dead-id', x.tx || '.' || x.n,"                    \
    " 'txmsg-dead-subscription', s.name, 'txmsg-dead-topic', x.topic, 'txmsg-dead-producer', x.producer,"              \
    " 'txmsg-dead-attempts', x.attempts::text, 'txmsg-dead-class', coalesce(x.class, ''), 'txmsg-dead-error',"         \
    " left(regexp_replace(x.error, '[^ -~]', '?', 'g'), 200)))::text, x.body FROM dead x"                              \
    " CROSS JOIN LATERAL (SELECT s.name, s.spec->>'dead_letter_topic' AS topic FROM subscription s WHERE s.id = x.sub" \
    " AND s.spec->>'dead_letter_topic' <> '' OFFSET 0) s" TELL_NOW
/*
 * What the producer of a message hears of its outcome, for each of `rows`, if it wants to. A key that is printable goes as text; a backslash
 * would be one of encode()'s own.
 */
#define TELL_OUTCOME(word, rows)                                                                                       \
    TELL "o.topic, x.business_key, x.trace, x.okey, 'application/json',"                                               \
    " jsonb_build_object('txmsg-outcome', " word ", 'txmsg-outcome-id', x.tx || '.' || x.n,"                           \
    " 'txmsg-outcome-subscription', s.name, 'txmsg-outcome-topic', x.topic)::text,"                                    \
    " convert_to(jsonb_strip_nulls(jsonb_build_object('outcome', " word ", 'transactionId', x.tx,"                     \
    " 'messageId', x.tx || '.' || x.n, 'n', x.n, 'topic', x.topic, 'producer', x.producer,"                            \
    " 'businessKey', x.business_key, 'subscription', s.name, 'attempts', x.attempts,"                                  \
    " 'time', to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"'),"                                 \
    " 'key', CASE WHEN k.plain THEN encode(x.okey, 'escape') END,"                                                     \
    " 'keyBase64', CASE WHEN NOT k.plain THEN translate(encode(x.okey, 'base64'), E'\\n', '') END,"                     \
    " 'errorClass', x.class, 'error', left(x.error, 200)))::text, 'UTF8') FROM " rows " x"                             \
    " CROSS JOIN LATERAL (SELECT p.spec->'outcomes'->>" word " AS topic FROM producer p WHERE p.name = x.producer"     \
    " AND p.spec->'outcomes'->>" word " <> '' OFFSET 0) o"                                                             \
    " CROSS JOIN LATERAL (SELECT s.name FROM subscription s WHERE s.id = x.sub OFFSET 0) s"                            \
    " CROSS JOIN LATERAL (SELECT encode(x.okey, 'escape') ~ '^[ -\\[\\]-~]*$' AS plain) k" TELL_NOW
/* The message of `row`, as TELL_OUTCOME() reads it of a delivery that succeeded. */
#define TOLD_COLUMNS                                                                                                   \
    "NULL::text AS class, NULL::text AS error, m.producer, m.topic, m.okey, h.business_key, h.trace"
#define TOLD_OF(row, lo, hi)                                                                                           \
    " CROSS JOIN LATERAL (SELECT m.producer, m.topic, m.okey FROM message m WHERE m.tx = " row ".tx"                   \
    " AND m.n = " row ".n AND m.tx BETWEEN " lo " AND " hi " OFFSET 0) m"                                              \
    " CROSS JOIN LATERAL (SELECT h.business_key, h.trace FROM message h WHERE h.tx = " row ".tx AND h.n = 0"           \
    " AND h.tx BETWEEN " lo " AND " hi " OFFSET 0) h"
#define HOW_TYPES(a, b, c, d) ", $" a "::text[], $" b "::int4[], $" c "::int4[], $" d "::text[]"
#define HOW                   "class, status, latency_ms, response"
/* Fate 4 is 0, delivered, and told of: `more` is for that, and only a batch that has one uses it. */
#define ENDS(more)                                                                                                     \
    "WITH f AS (SELECT * FROM unnest($1::int4[], $2::uuid[], $3::int2[], $4::int4[], $5::int2[], $6::int8[],"          \
    " $7::int4[], $8::text[]" HOW_TYPES("9", "10", "11", "12") ")"                                                     \
    " f(sub, tx, n, token, fate, due_ms, attempt, error, " HOW ")),"                                                   \
    " kept AS (UPDATE delivery_due d SET due = now() + f.due_ms * interval '1 ms', attempt = f.attempt,"               \
    " last_error = f.error FROM f WHERE f.fate = 1 AND d.sub = f.sub AND d.tx = f.tx AND d.n = f.n"                    \
    " AND d.token = f.token RETURNING f.sub, f.fate),"                                                                 \
    " gone AS (DELETE FROM delivery_due d USING f WHERE f.fate <> 1 AND d.sub = f.sub AND d.tx = f.tx"                 \
    " AND d.n = f.n AND d.token = f.token RETURNING f.*),"                                                             \
    " dead AS (" DEAD_INSERT                                                                                           \
    " SELECT g.sub, g.tx, g.n, g.attempt, coalesce(g.error, ''), " STORY("g", "$15::uuid") ", m.producer, "            \
    PAYLOAD_COLUMNS " FROM gone g" PAYLOAD_OF("g", "$13::uuid", "$14::uuid")                                           \
    " WHERE g.fate = 2 ON CONFLICT (sub, tx, n) DO NOTHING" DEAD_RETURNING "), told AS (" TELL_DEAD "),"               \
    " outcomes AS (" TELL_OUTCOME("'dead'", "dead") ")," more                                                          \
    " discards AS (INSERT INTO discarded (sub, tx, n, reason) SELECT g.sub, g.tx, g.n, coalesce(g.error, '')"          \
    " FROM gone g WHERE g.fate = 3 ON CONFLICT (tx, sub, n) DO NOTHING),"                                              \
    " tried AS (INSERT INTO attempt " ATTEMPT_COLUMNS " SELECT " ATTEMPT_OF("f", "$15::uuid") " FROM f"                \
    " WHERE (f.error IS NOT NULL AND f.fate <> 3) OR (f.fate % 4 = 0 AND (f.attempt > 1 OR (SELECT 1 FROM attempt a"       \
    " WHERE a.tx = f.tx AND a.sub = f.sub AND a.n = f.n LIMIT 1) IS NOT NULL)))"
#define ENDS_TOLD                                                                                                      \
    " good AS (" TELL_OUTCOME("'delivered'", "(SELECT g.sub, g.tx, g.n, g.attempt AS attempts, " TOLD_COLUMNS          \
    " FROM gone g" TOLD_OF("g", "$13::uuid", "$14::uuid") " WHERE g.fate = 4)") "),"
#define ENDS_ALL   " SELECT 1 / ((SELECT count(*) FROM kept) + (SELECT count(*) FROM gone) = $16::int8)::int"
#define ENDS_EXACT " SELECT sub, (fate % 4)::int2 FROM kept UNION ALL SELECT sub, (fate % 4)::int2 FROM gone"

const struct pg_stmt lane_rider_stmts[] = {
    {"check_adds", "INSERT INTO check_due (tx, producer, due)"
                   " SELECT * FROM unnest($1::uuid[], $2::text[], $3::timestamptz[]) ON CONFLICT (tx) DO NOTHING"},
    {"check_ends",
     "WITH f AS (SELECT * FROM unnest($1::uuid[], $2::int4[], $3::int8[], $4::int4[], $5::int4[], $6::int2[], "
     "$7::text[])"
     " f(tx, token, due_ms, unknowns, failures, fate, error)),"
     " kept AS (UPDATE check_due c SET due = now() + f.due_ms * interval '1 ms', unknowns = f.unknowns,"
     " failures = f.failures, state = f.fate, last_error = f.error"
     " FROM f WHERE f.fate < 2 AND c.tx = f.tx AND c.token = f.token RETURNING 1),"
     " gone AS (DELETE FROM check_due c USING f WHERE f.fate = 2 AND c.tx = f.tx AND c.token = f.token RETURNING 1),"
     /* For people; c is as it was before this statement. */
     " tried AS (INSERT INTO check_attempt (tx, tries, unknowns, error) SELECT f.tx, c.tries, f.unknowns, f.error"
     " FROM f JOIN check_due c ON c.tx = f.tx AND c.token = f.token WHERE f.fate < 2 AND f.error IS NOT NULL"
     " AND (c.tries <= 10 OR (c.tries <= 1000 AND c.last_error IS DISTINCT FROM f.error)))"
     " SELECT (SELECT count(*) FROM kept) + (SELECT count(*) FROM gone)"},
    {"spills",
     "WITH f AS (SELECT * FROM unnest($1::int4[], $2::uuid[], $3::int2[], $4::int8[], $5::int4[], $6::int4[], $7::int4[],"
     " $8::text[], $9::timestamptz[]" HOW_TYPES("10", "11", "12", "13") ")"
     " f(sub, tx, n, due_ms, attempt, lane, seq, error, due, " HOW ")),"
     " kept AS (INSERT INTO delivery_due (sub, tx, n, due, since, attempt, lane, seq, last_error)"
     " SELECT f.sub, f.tx, f.n, coalesce(f.due, now() + f.due_ms * interval '1 ms'), coalesce(f.due, now()),"
     " f.attempt, f.lane, f.seq, f.error FROM f ON CONFLICT (sub, tx, n) DO NOTHING)"
     " INSERT INTO attempt " ATTEMPT_COLUMNS " SELECT " ATTEMPT_OF("f", "$14::uuid") " FROM f WHERE f.attempt > 0"},
    {"spills_expired", "INSERT INTO discarded (sub, tx, n, reason) SELECT f.sub, f.tx, f.n, 'expired'"
                       " FROM unnest($1::int4[], $2::uuid[], $3::int2[]) f(sub, tx, n)"
                       " ON CONFLICT (tx, sub, n) DO NOTHING"},
    {"spills_dead",
     "WITH f AS (SELECT * FROM unnest($1::int4[], $2::uuid[], $3::int2[], $4::int4[], $5::text[]"
     HOW_TYPES("6", "7", "8", "9") ") f(sub, tx, n, attempt, error, " HOW ")),"
     " tried AS (INSERT INTO attempt " ATTEMPT_COLUMNS " SELECT " ATTEMPT_OF("f", "$12::uuid") " FROM f),"
     " dead AS (" DEAD_INSERT
     " SELECT g.sub, g.tx, g.n, g.attempt, g.error, " STORY("g", "$12::uuid") ", m.producer, " PAYLOAD_COLUMNS
     " FROM f g" PAYLOAD_OF("g", "$10::uuid", "$11::uuid") " ON CONFLICT (sub, tx, n) DO NOTHING" DEAD_RETURNING "),"
     " told AS (" TELL_DEAD ") " TELL_OUTCOME("'dead'", "dead")},
    /* The optimistic form presumes that every token holds: anything else divides by zero and aborts the batch. */
    {"delivery_ends", ENDS("") ENDS_ALL},
    {"delivery_ends_exact", ENDS("") ENDS_EXACT},
    {"delivery_ends_told", ENDS(ENDS_TOLD) ENDS_ALL},
    {"delivery_ends_told_exact", ENDS(ENDS_TOLD) ENDS_EXACT},
    {"told", TELL_OUTCOME("'delivered'", "(SELECT f.sub, f.tx, f.n, 1 AS attempts, " TOLD_COLUMNS
     " FROM unnest($1::int4[], $2::uuid[], $3::int2[]) f(sub, tx, n)" TOLD_OF("f", "$4::uuid", "$5::uuid") ")")},
    {"replay_ends",
     "WITH f AS (SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::int2[], $4::int4[], $5::int2[], $6::int8[],"
     " $7::int4[], $8::text[]) f(replay, tx, n, token, fate, due_ms, attempt, error)),"
     " kept AS (UPDATE replay_due d SET due = now() + f.due_ms * interval '1 ms', attempt = f.attempt,"
     " last_error = f.error FROM f WHERE f.fate = 1 AND d.replay = f.replay AND d.tx = f.tx AND d.n = f.n"
     " AND d.token = f.token),"
     " gone AS (DELETE FROM replay_due d USING f WHERE f.fate <> 1 AND d.replay = f.replay AND d.tx = f.tx"
     " AND d.n = f.n AND d.token = f.token RETURNING f.replay, f.fate, f.error)"
     " INSERT INTO replay_count (replay, delivered, failed, skipped, error) SELECT g.replay,"
     " count(*) FILTER (WHERE g.fate = 0), count(*) FILTER (WHERE g.fate = 2), count(*) FILTER (WHERE g.fate = 3),"
     " max(g.error) FILTER (WHERE g.fate = 2) FROM gone g GROUP BY g.replay"},
    {NULL, NULL},
};
/* clang-format on */

/* --- adders --- */

/* Rows live in arrays that are allocated at the first use and kept. */
static int room_for(void **rows, uint32_t n, size_t size) {
    if (n == RIDER_ROWS_MAX)
        return LANE_FULL;
    if (!*rows)
        *rows = mem_calloc(RIDER_ROWS_MAX, size);
    return *rows ? 0 : LANE_FULL;
}

/* A bounded copy of a peer's words; what is not valid UTF-8 is replaced, PostgreSQL would refuse it. NULL on OOM reads as none. */
static char *copy_text(struct lane_batch *b, const char *s) {
    if (!s || !*s)
        return NULL;
    size_t n = strnlen(s, ATTEMPT_RESPONSE_MAX);
    char *c = arena_strndup(&b->arena, s, n);
    if (c && !text_valid(bytes_of(c, n)))
        for (char *p = c; *p; p++)
            if (*p & 0x80)
                *p = '?';
    return c;
}

int lane_add_progress(struct lane_batch *b, int32_t target, struct lane_pos pos) {
    for (uint32_t i = 0; i < b->prog_n; i++)
        if (b->prog[i].target == target) {
            b->prog[i].pos = pos;
            return 0;
        }
    if (b->prog_n == PROGRESS_MAX)
        return LANE_FULL;
    b->prog[b->prog_n++] = (struct prog){target, pos};
    b->added++;
    return 0;
}

static struct counts *counts_of(struct lane_batch *b, int32_t sub) {
    for (uint32_t i = 0; i < b->counts_n; i++)
        if (b->counts[i].sub == sub)
            return &b->counts[i];
    if (b->counts_n == COUNTS_MAX)
        return NULL;
    b->counts[b->counts_n] = (struct counts){.sub = sub};
    return &b->counts[b->counts_n++];
}

int lane_add_counts(struct lane_batch *b, int32_t sub, int32_t delivered, int32_t dead, int32_t discarded,
                    int32_t spilled) {
    struct counts *c = counts_of(b, sub);
    if (!c)
        return LANE_FULL;
    c->delivered += delivered;
    c->dead += dead;
    c->discarded += discarded;
    c->spilled += spilled;
    b->added++;
    return 0;
}

int lane_add_check(struct lane_batch *b, const struct uuid *tx, const char *producer, int64_t due_us) {
    int r = room_for((void **)&b->check_adds, b->check_adds_n, sizeof(*b->check_adds));
    const char *name = r ? NULL : copy_text(b, producer);
    if (!name)
        return LANE_FULL;
    b->check_adds[b->check_adds_n++] = (struct check_add){.tx = *tx, .producer = name, .due_us = due_us};
    b->added++;
    return 0;
}

int lane_add_check_finish(struct lane_batch *b, const struct check_finish *f) {
    int r = room_for((void **)&b->check_ends, b->check_ends_n, sizeof(*b->check_ends));
    if (r)
        return r;
    struct check_finish *c = &b->check_ends[b->check_ends_n++];
    *c = *f;
    c->last_error = copy_text(b, f->last_error);
    b->added++;
    return 0;
}

int lane_add_spill(struct lane_batch *b, const struct spill *s) {
    int r = room_for((void **)&b->spills, b->spills_n, sizeof(*b->spills));
    if (r || !counts_of(b, s->sub))
        return LANE_FULL;
    struct spill *c = &b->spills[b->spills_n++];
    *c = *s;
    c->error = s->attempt > 0 ? copy_text(b, s->error) : NULL;
    if (!c->error && s->attempt > 0)
        c->error = "failed";
    c->how.response = copy_text(b, s->how.response);
    if (s->expired)
        counts_of(b, s->sub)->discarded++;
    else if (s->dead)
        counts_of(b, s->sub)->dead++;
    b->added++;
    return 0;
}

int lane_add_told(struct lane_batch *b, int32_t sub, const struct uuid *tx, int16_t n) {
    int r = room_for((void **)&b->told, b->told_n, sizeof(*b->told));
    if (r)
        return r;
    b->told[b->told_n++] = (struct told){sub, *tx, n};
    b->added++;
    return 0;
}

static void count_end(struct lane_batch *b, int32_t sub, int fate, int by) {
    struct counts *c = counts_of(b, sub);
    ASSERT(c);
    if (fate == DELIVERY_DELIVERED)
        c->delivered += by;
    else if (fate == DELIVERY_DEAD)
        c->dead += by;
    else if (fate == DELIVERY_DISCARDED)
        c->discarded += by;
}

int lane_add_delivery_finish(struct lane_batch *b, const struct delivery_finish *f) {
    int r = room_for((void **)&b->delivery_ends, b->delivery_ends_n, sizeof(*b->delivery_ends));
    if (r || !counts_of(b, f->sub))
        return LANE_FULL;
    struct delivery_finish *c = &b->delivery_ends[b->delivery_ends_n++];
    *c = *f;
    c->error = f->end == DELIVERY_DELIVERED ? NULL : copy_text(b, f->error);
    c->how.response = copy_text(b, f->how.response);
    count_end(b, f->sub, (int)f->end, 1);
    b->added++;
    return 0;
}

int lane_add_replay_finish(struct lane_batch *b, const struct delivery_finish *f) {
    int r = room_for((void **)&b->replay_ends, b->replay_ends_n, sizeof(*b->replay_ends));
    if (r)
        return r;
    struct delivery_finish *c = &b->replay_ends[b->replay_ends_n++];
    *c = *f;
    c->error = f->end == DELIVERY_DELIVERED ? NULL : copy_text(b, f->error);
    b->added++;
    return 0;
}

/* The presumed counts come back when a batch is sent again. */
void rider_count_presumed(struct lane_batch *b) {
    for (uint32_t i = 0; i < b->ended_n; i++)
        count_end(b, b->ended[i].sub, b->ended[i].fate, -1);
    for (uint32_t i = 0; b->ended_known && i < b->delivery_ends_n; i++)
        count_end(b, b->delivery_ends[i].sub, (int)b->delivery_ends[i].end, 1);
    b->ended_n = 0;
    b->ended_known = false;
    b->stale = 0;
}

/* The exact form learns which tokens still held: the presumed counts go, those of the rows really ended come. */
void rider_count_ended(struct lane_batch *b, const PGresult *ended) {
    for (uint32_t i = 0; i < b->delivery_ends_n; i++)
        count_end(b, b->delivery_ends[i].sub, (int)b->delivery_ends[i].end, -1);
    b->ended_known = true;
    int rows = PQntuples(ended);
    for (int i = 0; i < rows; i++) {
        struct ended *e = &b->ended[b->ended_n++];
        *e = (struct ended){pg_get_int32(ended, i, 0), pg_get_int16(ended, i, 1)};
        count_end(b, e->sub, e->fate, 1);
    }
    b->stale += b->delivery_ends_n - (uint32_t)rows;
}

/* --- statements --- */

static void arrays_begin(struct lane *l, const uint32_t *oids, size_t n) {
    for (size_t i = 0; i < n; i++)
        pgarr_begin(&l->arrays[i], oids[i]);
}

/* What follows the arrays: bounds of the ids, the worker, how many rows must end. */
struct tail_params {
    const struct uuid *lo, *hi, *run; /* NULL = the statement has none */
    int64_t expected;                 /* 0 = likewise */
};

static int arrays_send(struct lane *l, size_t n, struct tail_params t, enum batch_step step, const char *stmt) {
    struct pg_params p;
    pg_params_init(&p);
    for (size_t i = 0; i < n; i++) {
        int r = pgarr_end(&l->arrays[i]);
        if (r < 0)
            return r;
        pg_param_array(&p, &l->arrays[i]);
    }
    if (t.lo) {
        pg_param_uuid(&p, t.lo);
        pg_param_uuid(&p, t.hi);
    }
    if (t.run)
        pg_param_uuid(&p, t.run);
    if (t.expected)
        pg_param_int64(&p, t.expected);
    return batch_step(l, step, stmt, &p);
}

static void put_text(struct buf *a, const char *s) {
    pgarr_bytes(a, s ? bytes_str(s) : BYTES_NULL);
}

/* Four arrays. */
#define HOW_OIDS OID_TEXT, OID_INT4, OID_INT4, OID_TEXT
static void put_how(struct buf *a, const struct attempt_end *e) {
    put_text(&a[0], e->class == ATTEMPT_UNSAID ? NULL : attempt_class_name(e->class));
    pgarr_int32(&a[1], e->status);
    pgarr_int32(&a[2], e->latency_ms);
    put_text(&a[3], e->response);
}

static int by_check_add(const void *a, const void *b) {
    return uuid_cmp(&((const struct check_add *)a)->tx, &((const struct check_add *)b)->tx);
}

static int send_check_adds(struct lane *l) {
    static const uint32_t oids[] = {OID_UUID, OID_TEXT, OID_TIMESTAMPTZ};
    struct lane_batch *b = &l->b;
    if (!b->check_adds_n)
        return 0;
    qsort(b->check_adds, b->check_adds_n, sizeof(*b->check_adds), by_check_add);
    arrays_begin(l, oids, ARRAY_LEN(oids));
    for (uint32_t i = 0; i < b->check_adds_n; i++) {
        const struct check_add *c = &b->check_adds[i];
        pgarr_uuid(&l->arrays[0], &c->tx);
        put_text(&l->arrays[1], c->producer);
        pgarr_time(&l->arrays[2], c->due_us);
    }
    return arrays_send(l, ARRAY_LEN(oids), (struct tail_params){0}, STEP_OTHER, "check_adds");
}

static int by_check_end(const void *a, const void *b) {
    return uuid_cmp(&((const struct check_finish *)a)->tx, &((const struct check_finish *)b)->tx);
}

static int send_check_ends(struct lane *l) {
    static const uint32_t oids[] = {OID_UUID, OID_INT4, OID_INT8, OID_INT4, OID_INT4, OID_INT2, OID_TEXT};
    struct lane_batch *b = &l->b;
    struct buf *a = l->arrays;
    if (!b->check_ends_n)
        return 0;
    qsort(b->check_ends, b->check_ends_n, sizeof(*b->check_ends), by_check_end);
    arrays_begin(l, oids, ARRAY_LEN(oids));
    for (uint32_t i = 0; i < b->check_ends_n; i++) {
        const struct check_finish *f = &b->check_ends[i];
        pgarr_uuid(&a[0], &f->tx);
        pgarr_int32(&a[1], f->token);
        pgarr_int64(&a[2], f->due_in_ms);
        pgarr_int32(&a[3], f->unknowns);
        pgarr_int32(&a[4], f->failures);
        pgarr_int16(&a[5], f->remove ? 2 : f->stuck ? 1 : 0);
        put_text(&a[6], f->last_error);
    }
    return arrays_send(l, ARRAY_LEN(oids), (struct tail_params){0}, STEP_CHECK_ENDS, "check_ends");
}

static int by_spill(const void *a, const void *b) {
    const struct spill *x = a, *y = b;
    if (x->sub != y->sub)
        return x->sub < y->sub ? -1 : 1;
    int c = uuid_cmp(&x->tx, &y->tx);
    return c ? c : x->n - y->n;
}

static int send_spills(struct lane *l) {
    static const uint32_t oids[] = {OID_INT4, OID_UUID, OID_INT2, OID_INT8,        OID_INT4,
                                    OID_INT4, OID_INT4, OID_TEXT, OID_TIMESTAMPTZ, HOW_OIDS};
    struct lane_batch *b = &l->b;
    struct buf *a = l->arrays;
    unsigned rows = 0;
    arrays_begin(l, oids, ARRAY_LEN(oids));
    for (uint32_t i = 0; i < b->spills_n; i++) {
        const struct spill *s = &b->spills[i];
        if (s->dead || s->expired)
            continue;
        pgarr_int32(&a[0], s->sub);
        pgarr_uuid(&a[1], &s->tx);
        pgarr_int16(&a[2], s->n);
        pgarr_int64(&a[3], s->due_in_ms);
        pgarr_int32(&a[4], s->attempt);
        pgarr_int32(&a[5], s->lane);
        pgarr_int32(&a[6], s->seq);
        put_text(&a[7], s->error);
        if (s->due_us)
            pgarr_time(&a[8], s->due_us);
        else
            pgarr_null(&a[8]);
        put_how(&a[9], &s->how);
        rows++;
    }
    const struct tail_params t = {.run = &l->run};
    return rows ? arrays_send(l, ARRAY_LEN(oids), t, STEP_OTHER, "spills") : 0;
}

static int send_spills_expired(struct lane *l) {
    static const uint32_t oids[] = {OID_INT4, OID_UUID, OID_INT2};
    struct lane_batch *b = &l->b;
    unsigned rows = 0;
    arrays_begin(l, oids, ARRAY_LEN(oids));
    for (uint32_t i = 0; i < b->spills_n; i++) {
        const struct spill *s = &b->spills[i];
        if (!s->expired)
            continue;
        pgarr_int32(&l->arrays[0], s->sub);
        pgarr_uuid(&l->arrays[1], &s->tx);
        pgarr_int16(&l->arrays[2], s->n);
        rows++;
    }
    return rows ? arrays_send(l, ARRAY_LEN(oids), (struct tail_params){0}, STEP_OTHER, "spills_expired") : 0;
}

static void widen(const struct uuid *tx, struct uuid *lo, struct uuid *hi, bool first) {
    if (first || uuid_cmp(tx, lo) < 0)
        *lo = *tx;
    if (first || uuid_cmp(tx, hi) > 0)
        *hi = *tx;
}

static int send_spills_dead(struct lane *l) {
    static const uint32_t oids[] = {OID_INT4, OID_UUID, OID_INT2, OID_INT4, OID_TEXT, HOW_OIDS};
    struct lane_batch *b = &l->b;
    struct buf *a = l->arrays;
    struct uuid lo, hi;
    unsigned rows = 0;
    arrays_begin(l, oids, ARRAY_LEN(oids));
    for (uint32_t i = 0; i < b->spills_n; i++) {
        const struct spill *s = &b->spills[i];
        if (!s->dead || s->expired)
            continue;
        widen(&s->tx, &lo, &hi, rows == 0);
        pgarr_int32(&a[0], s->sub);
        pgarr_uuid(&a[1], &s->tx);
        pgarr_int16(&a[2], s->n);
        pgarr_int32(&a[3], s->attempt);
        put_text(&a[4], s->error);
        put_how(&a[5], &s->how);
        rows++;
    }
    const struct tail_params t = {.lo = &lo, .hi = &hi, .run = &l->run};
    return rows ? arrays_send(l, ARRAY_LEN(oids), t, STEP_OTHER, "spills_dead") : 0;
}

static int send_told(struct lane *l) {
    static const uint32_t oids[] = {OID_INT4, OID_UUID, OID_INT2};
    struct lane_batch *b = &l->b;
    struct uuid lo, hi;
    if (!b->told_n)
        return 0;
    arrays_begin(l, oids, ARRAY_LEN(oids));
    for (uint32_t i = 0; i < b->told_n; i++) {
        const struct told *t = &b->told[i];
        widen(&t->tx, &lo, &hi, i == 0);
        pgarr_int32(&l->arrays[0], t->sub);
        pgarr_uuid(&l->arrays[1], &t->tx);
        pgarr_int16(&l->arrays[2], t->n);
    }
    const struct tail_params t = {.lo = &lo, .hi = &hi};
    return arrays_send(l, ARRAY_LEN(oids), t, STEP_OTHER, "told");
}

static int by_delivery_end(const void *a, const void *b) {
    const struct delivery_finish *x = a, *y = b;
    if (x->sub != y->sub)
        return x->sub < y->sub ? -1 : 1;
    int c = uuid_cmp(&x->tx, &y->tx);
    return c ? c : x->n - y->n;
}

static int send_delivery_ends(struct lane *l) {
    static const uint32_t oids[] = {OID_INT4, OID_UUID, OID_INT2, OID_INT4, OID_INT2,
                                    OID_INT8, OID_INT4, OID_TEXT, HOW_OIDS};
    static const char *const stmts[2][2] = {{"delivery_ends", "delivery_ends_exact"},
                                            {"delivery_ends_told", "delivery_ends_told_exact"}};
    enum { FATE_TOLD = 4 };
    struct lane_batch *b = &l->b;
    struct buf *a = l->arrays;
    bool any_told = false;
    if (!b->delivery_ends_n)
        return 0;
    qsort(b->delivery_ends, b->delivery_ends_n, sizeof(*b->delivery_ends), by_delivery_end);
    arrays_begin(l, oids, ARRAY_LEN(oids));
    struct uuid lo, hi;
    for (uint32_t i = 0; i < b->delivery_ends_n; i++) {
        const struct delivery_finish *f = &b->delivery_ends[i];
        bool told = f->told && f->end == DELIVERY_DELIVERED;
        any_told |= told;
        widen(&f->tx, &lo, &hi, i == 0);
        pgarr_int32(&a[0], f->sub);
        pgarr_uuid(&a[1], &f->tx);
        pgarr_int16(&a[2], f->n);
        pgarr_int32(&a[3], f->token);
        pgarr_int16(&a[4], told ? FATE_TOLD : (int16_t)f->end);
        pgarr_int64(&a[5], f->due_in_ms);
        pgarr_int32(&a[6], f->attempt);
        put_text(&a[7], f->error);
        put_how(&a[8], &f->how);
    }
    const struct tail_params t = {&lo, &hi, &l->run, b->exact ? 0 : (int64_t)b->delivery_ends_n};
    return arrays_send(l, ARRAY_LEN(oids), t, STEP_DELIVERY_ENDS, stmts[any_told][b->exact]);
}

static int by_replay_end(const void *a, const void *b) {
    const struct delivery_finish *x = a, *y = b;
    int c = uuid_cmp(&x->replay, &y->replay);
    if (c == 0)
        c = uuid_cmp(&x->tx, &y->tx);
    return c ? c : x->n - y->n;
}

static int send_replay_ends(struct lane *l) {
    static const uint32_t oids[] = {OID_UUID, OID_UUID, OID_INT2, OID_INT4, OID_INT2, OID_INT8, OID_INT4, OID_TEXT};
    struct lane_batch *b = &l->b;
    struct buf *a = l->arrays;
    if (!b->replay_ends_n)
        return 0;
    qsort(b->replay_ends, b->replay_ends_n, sizeof(*b->replay_ends), by_replay_end);
    arrays_begin(l, oids, ARRAY_LEN(oids));
    for (uint32_t i = 0; i < b->replay_ends_n; i++) {
        const struct delivery_finish *f = &b->replay_ends[i];
        pgarr_uuid(&a[0], &f->replay);
        pgarr_uuid(&a[1], &f->tx);
        pgarr_int16(&a[2], f->n);
        pgarr_int32(&a[3], f->token);
        pgarr_int16(&a[4], (int16_t)f->end);
        pgarr_int64(&a[5], f->due_in_ms);
        pgarr_int32(&a[6], f->attempt);
        put_text(&a[7], f->error);
    }
    return arrays_send(l, ARRAY_LEN(oids), (struct tail_params){0}, STEP_OTHER, "replay_ends");
}

int rider_send_rows(struct lane *l) {
    if (l->b.spills_n)
        qsort(l->b.spills, l->b.spills_n, sizeof(*l->b.spills), by_spill);
    int (*const senders[])(struct lane *) = {send_check_adds,    send_check_ends,  send_spills,
                                             send_delivery_ends, send_spills_dead, send_spills_expired,
                                             send_replay_ends,   send_told};
    for (size_t i = 0; i < ARRAY_LEN(senders); i++) {
        int r = senders[i](l);
        if (r < 0)
            return r;
    }
    return 0;
}
