/* Compares what was answered with what is stored. */
#include "attack.h"

#include "store/pg.h"

struct stored {
    struct uuid id;
    int total, verdict, rows;
    uint8_t digest[32];
    char producer[16];
};

static int contradictions;

static void say(const struct uuid *id, const char *what) {
    char text[UUID_TEXT];
    uuid_format(id, text);
    if (++contradictions <= 20)
        printf("# %s: %s\n", text, what);
}

static int by_id(const void *a, const void *b) {
    return uuid_cmp(&((const struct stored *)a)->id, &((const struct stored *)b)->id);
}

static struct stored *load(PGconn *c, size_t *n) {
    PGresult *r = PQexecParams(c,
                               "SELECT m.tx, m.total, m.digest, m.producer, coalesce(d.verdict, 0::int2),"
                               " (SELECT count(*) FROM message o WHERE o.tx = m.tx) FROM message m"
                               " LEFT JOIN decision d ON d.tx = m.tx WHERE m.n = 0",
                               0, NULL, NULL, NULL, NULL, 1);
    *n = (size_t)PQntuples(r);
    struct stored *all = calloc(*n + 1, sizeof(*all));
    for (int i = 0; i < (int)*n; i++) {
        struct stored *s = &all[i];
        struct bytes digest = pg_get_bytes(r, i, 2), producer = pg_get_bytes(r, i, 3);
        pg_get_uuid(r, i, 0, &s->id);
        s->total = pg_get_int16(r, i, 1);
        if (digest.n == 32)
            memcpy(s->digest, digest.p, 32);
        snprintf(s->producer, sizeof(s->producer), "%.*s", (int)producer.n, (const char *)producer.p);
        s->verdict = pg_get_int16(r, i, 4);
        s->rows = (int)pg_get_int64(r, i, 5);
    }
    PQclear(r);
    qsort(all, *n, sizeof(*all), by_id);
    return all;
}

static bool same_content(const struct event *e, const struct stored *s) {
    uint8_t digest[32];
    attack_digest(&e->id, e->variant, digest);
    return s->total > 0 && !memcmp(digest, s->digest, 32) && !strcmp(s->producer, attack_producer(e->variant));
}

static void check_ok(const struct event *e, const struct stored *s) {
    if (!s)
        say(&e->id, "OK, and no header is stored");
    else if ((e->kind == OP_PREPARE || e->kind == OP_PUBLISH) && !same_content(e, s))
        say(&e->id, "OK for other content than what is stored");
    else if (e->kind == OP_PUBLISH && s->verdict != TX_COMMITTED)
        say(&e->id, "OK for a Publish that is not committed");
    else if (e->kind == OP_CONFIRM && (s->verdict != TX_COMMITTED || s->total == 0))
        say(&e->id, "OK for a Confirm that is not stored");
    else if (e->kind == OP_CANCEL && s->verdict != TX_ROLLED_BACK)
        say(&e->id, "OK for a Cancel that is not stored");
    else if (e->named && strcmp(s->producer, attack_producer(e->variant)) != 0)
        say(&e->id, "OK for another producer");
}

static void check_event(const struct event *e, const struct stored *s) {
    switch ((enum op_outcome)e->outcome) {
    case OP_OK:
        check_ok(e, s);
        break;
    case OP_CONTENT_DIFFERS:
        if (!s || same_content(e, s))
            say(&e->id, "CONTENT_DIFFERS, and it does not");
        break;
    case OP_DECIDED_OTHERWISE:
        if (!s || s->verdict == TX_UNDECIDED || (e->kind == OP_CANCEL && s->verdict == TX_ROLLED_BACK) ||
            (e->kind != OP_CANCEL && s->verdict == TX_COMMITTED))
            say(&e->id, "DECIDED_OTHERWISE, and it is not");
        break;
    case OP_BODIES_DIFFER:
        say(&e->id, "BODIES_DIFFER, and there are none");
        break;
    case OP_PRODUCER_DIFFERS:
        if (!s || !e->named || !strcmp(s->producer, attack_producer(e->variant)))
            say(&e->id, "PRODUCER_DIFFERS, and it does not");
        break;
    case OP_REFUSED:
        if (!e->poisoned)
            say(&e->id, "REFUSED, and nothing is wrong with it");
        __attribute__((fallthrough));
    case OP_UNAVAILABLE:
    case OP_EXPIRED:
    case OP_SHUTDOWN:
    case OP_NOT_FOUND:
        if (s && e->solo)
            say(&e->id, "answered that nothing is stored, and it is");
        break;
    case OP_PAST_RETENTION:
        say(&e->id, "PAST_RETENTION without a floor");
        break;
    case OP_OUTCOME_UNKNOWN:
        break;
    }
}

static int by_id_and_time(const void *a, const void *b) {
    const struct event *x = a, *y = b;
    int c = uuid_cmp(&x->id, &y->id);
    return c ? c : x->ended_ns < y->ended_ns ? -1 : x->ended_ns > y->ended_ns;
}

/* What one caller was told before another began, the other must have been told too. */
static void check_order(const struct event *e, size_t n) {
    for (size_t i = 0; i < n; i++) {
        if (e[i].outcome != OP_OK)
            continue;
        for (size_t k = i + 1; k < n; k++) {
            if (e[k].began_ns <= e[i].ended_ns)
                continue;
            if (e[k].outcome == OP_NOT_FOUND)
                say(&e[k].id, "NOT_FOUND after an OK");
            if (e[k].outcome == OP_OK && e[i].kind != OP_PREPARE && e[k].state != e[i].state)
                say(&e[k].id, "the state changed after a decision");
        }
    }
}

static void check_sql(PGconn *c, const char *what, const char *sql) {
    PGresult *r = PQexec(c, sql);
    if (PQntuples(r) != 1 || PQgetisnull(r, 0, 0) || strcmp(PQgetvalue(r, 0, 0), "0") != 0) {
        contradictions++;
        printf("# %s: %s\n", what, PQntuples(r) ? PQgetvalue(r, 0, 0) : PQerrorMessage(c));
    }
    PQclear(r);
}

static void check_log(PGconn *c, int32_t rides) {
    char sql[300];
    check_sql(c, "transactions without all their messages",
              "SELECT count(*) FROM (SELECT FROM message GROUP BY tx HAVING min(n) <> 0"
              " OR max(total) FILTER (WHERE n = 0) NOT IN (0, count(*))) x");
    check_sql(c, "decisions whose own entry does not list them, or others do",
              "WITH g AS (SELECT tx, count(*) AS n, min(lane) AS lane, min(seq) AS seq FROM lane_log, unnest(conf) tx "
              "GROUP BY tx)"
              " SELECT count(*) FROM decision d LEFT JOIN g USING (tx)"
              " WHERE d.verdict = 1 AND (g.n, g.lane, g.seq) IS DISTINCT FROM (1::bigint, d.lane, d.seq)");
    check_sql(c, "undecided transactions that no entry lists exactly once",
              "WITH g AS (SELECT tx, count(*) AS n FROM lane_log, unnest(prep) tx GROUP BY tx)"
              " SELECT count(*) FROM message h LEFT JOIN decision d USING (tx) LEFT JOIN g USING (tx)"
              " WHERE h.n = 0 AND h.total > 0 AND d.tx IS NULL AND g.n IS DISTINCT FROM 1");
    check_sql(
        c, "entries that list what is not stored",
        "WITH g AS (SELECT tx FROM lane_log, unnest(prep || conf) tx)"
        " SELECT count(*) FROM g LEFT JOIN message m ON m.tx = g.tx AND m.n = 0 AND m.total > 0 WHERE m.tx IS NULL");
    check_sql(
        c, "counters against rows",
        "SELECT (ARRAY[(SELECT count(*) FILTER (WHERE total > 0) FROM message WHERE n = 0),"
        " (SELECT count(*) FROM decision WHERE verdict = 1),"
        " (SELECT count(*) FROM decision d JOIN message m ON m.tx = d.tx AND n = 0 AND total > 0 WHERE verdict = 2),"
        " (SELECT count(*) FROM message WHERE n = 0 AND total = 0)]"
        " <> (SELECT ARRAY[coalesce(sum(cnt[1]), 0), coalesce(sum(cnt[2]), 0), coalesce(sum(cnt[3]), 0),"
        " coalesce(sum(cnt[4]), 0)] FROM lane_log))::int");
    check_sql(
        c, "gaps, or data behind a seal",
        "SELECT count(*) FROM (SELECT lane, max(seq) - count(*) AS gaps, max(seq) FILTER (WHERE kind IN ('D', 'N')) AS "
        "last,"
        " min(seq) FILTER (WHERE kind = 'S') AS seal FROM lane_log GROUP BY lane) x WHERE gaps <> 0 OR last > seal");
    snprintf(sql, sizeof(sql),
             "SELECT (coalesce(sum(sub_cnt[i + 1]), 0) - %d)::text FROM lane_log, generate_series(1, "
             "cardinality(sub_cnt), 5) i"
             " WHERE sub_cnt[i] = 1",
             rides);
    check_sql(c, "rides told against rides stored", sql);
    check_sql(c, "deliveries counted against deliveries ended",
              "SELECT (coalesce(sum(sub_cnt[i + 1]), 0) + (SELECT count(*) FROM delivery_due) - (SELECT deliveries "
              "FROM attack))::text"
              " FROM lane_log, generate_series(1, cardinality(sub_cnt), 5) i WHERE sub_cnt[i] = 2");
}

static void check_heard(PGconn *c, const struct heard_list *heard) {
    static char sql[200];
    for (size_t i = 0; i < heard->n; i++) {
        const struct heard *h = &heard->rows[i];
        snprintf(sql, sizeof(sql),
                 "SELECT 1 - count(*) FROM lane_log WHERE lane = %d AND seq = %d AND kind = 'D'"
                 " AND coalesce(cardinality(conf), 0) = %u",
                 h->lane, h->seq, h->conf_n);
        check_sql(c, "an entry that the owner heard of", sql);
    }
}

int oracle_check(PGconn *c, const struct history *h, const struct heard_list *heard, int32_t rides) {
    size_t n;
    struct stored *all = load(c, &n);
    contradictions = 0;
    qsort(h->events, h->n, sizeof(*h->events), by_id_and_time);
    for (size_t i = 0, end; i < h->n; i = end) {
        struct stored key = {.id = h->events[i].id};
        const struct stored *s = bsearch(&key, all, n, sizeof(*all), by_id);
        for (end = i; end < h->n && uuid_eq(&h->events[end].id, &key.id); end++)
            check_event(&h->events[end], s);
        check_order(h->events + i, end - i);
    }
    check_log(c, rides);
    check_heard(c, heard);
    free(all);
    return contradictions;
}
