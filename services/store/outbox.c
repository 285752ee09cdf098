/* See outbox.h. One claim is under way at a time, bounded in rows and, since each may carry a body of the largest size, in bytes. */
#include "store/outbox.h"

#include "base/clock.h"
#include "base/json.h"
#include "base/log.h"
#include "base/metric.h"
#include "core/policy.h"
#include "store/pgarr.h"

enum { PERIOD_MS = 250, ROWS = 256, HEADERS_MAX = 1100, PUBLISH_MS = 5000, LATE_MS = 5000 };
#define LEASE "10 s"    /* longer than PUBLISH_MS and a DELETE */
#define BYTES "4194304" /* of bodies, and the one that goes beyond */

static const char claim_sql[] =
    "WITH r AS MATERIALIZED (SELECT id, due, coalesce(octet_length(body), 0) AS size FROM outbox WHERE due <= now()"
    " ORDER BY due LIMIT 256 FOR UPDATE SKIP LOCKED),"
    " c AS MATERIALIZED (SELECT id, due FROM (SELECT id, due, sum(size) OVER (ORDER BY due, id) - size AS before"
    " FROM r) d WHERE before < " BYTES ")"
    " UPDATE outbox o SET due = now() + interval '" LEASE "' FROM c WHERE o.id = c.id"
    " RETURNING o.id, o.topic, o.business_key, o.trace, o.okey, o.content_type, o.headers, o.body,"
    " (extract(epoch FROM now() - c.due) * 1000)::int8";
enum { COL_ID, COL_TOPIC, COL_BUSINESS_KEY, COL_TRACE, COL_KEY, COL_CONTENT_TYPE, COL_HEADERS, COL_BODY, COL_AGE_MS };

struct item {
    struct lane_op op; /* first */
    struct outbox *outbox;
    bool over; /* published, or it never can be */
};

struct outbox {
    struct pg_conn *conn;
    struct lane *lane;
    struct timer *timer;
    struct item items[ROWS];
    int items_n, open; /* open: at the lane */
    bool asking, freed, more, late;
    void (*on_late)(void *arg, bool late);
    void *arg;
    struct metric *published, *oldest;
};

static void release(struct outbox *o) {
    if (o->freed && !o->asking && o->open == 0)
        mem_free(o);
}

static void rest(struct outbox *o, bool soon) {
    if (!o->freed)
        timer_arm(o->timer, soon ? 0 : PERIOD_MS);
}

static void on_deleted(void *arg, PGresult *res, const struct pg_error *err) {
    struct outbox *o = arg;
    UNUSED(res);
    o->asking = false;
    rest(o, err->cls == PG_OK && o->more); /* else its lease ends and it is published again */
    release(o);
}

/* Everything of this claim has ended: the rows go. */
static void finish(struct outbox *o) {
    CLEANUP_BUF struct buf ids;
    struct pg_params p;
    buf_init(&ids, 64 + ROWS * 24);
    pgarr_begin(&ids, OID_UUID);
    int n = 0;
    for (int i = 0; i < o->items_n; i++)
        if (o->items[i].over) {
            pgarr_uuid(&ids, &o->items[i].op.id);
            n++;
        }
    if (!o->freed && n && pgarr_end(&ids) == 0) {
        pg_params_init(&p);
        pg_param_array(&p, &ids);
        o->asking = pg_query_sql(o->conn, "DELETE FROM outbox WHERE id = ANY ($1::uuid[])", &p, on_deleted, o) == 0;
    }
    if (!o->asking)
        rest(o, false);
    release(o);
}

static void on_published(struct lane_op *op) {
    struct item *i = CONTAINER_OF(op, struct item, op);
    struct outbox *o = i->outbox;
    char id[UUID_TEXT];
    tx_content_unref(TAKE(op->content));
    switch (op->outcome) {
    case OP_OK:
        i->over = true;
        metric_add(o->published, 1);
        break;
    case OP_CONTENT_DIFFERS:
    case OP_DECIDED_OTHERWISE:
    case OP_PRODUCER_DIFFERS:
    case OP_PAST_RETENTION:
    case OP_REFUSED:
        i->over = true;
        uuid_format(&op->id, id);
        LOG_ERROR("store", "message %s of the service itself is refused and given up: outcome %d %s", id,
                  (int)op->outcome, op->why);
        break;
    default: /* not now, or nobody knows: again when the lease is over */
        break;
    }
    if (--o->open == 0)
        finish(o);
}

static struct bytes some(const PGresult *res, int row, int col) {
    struct bytes v = pg_get_bytes(res, row, col);
    return v.n ? v : BYTES_NULL;
}

/* 0; -ENOMEM: another time. */
static int make_content(const PGresult *res, int row, const struct uuid *id, struct tx_content **ret) {
    CLEANUP_JSON json_t *j = json_parse(pg_get_bytes(res, row, COL_HEADERS), NULL);
    size_t n = json_object_size(j), k = 0;
    CLEANUP_FREE struct header *headers = mem_calloc(MAX(n, (size_t)1), sizeof(*headers));
    const char *name;
    json_t *value;
    if (!j || !headers || n > HEADERS_MAX)
        return -ENOMEM;
    json_object_foreach (j, name, value)
        headers[k++] = (struct header){bytes_str(name), bytes_of(json_string_value(value), json_string_length(value))};
    const struct msg m = {.topic = some(res, row, COL_TOPIC),
                          .key = some(res, row, COL_KEY),
                          .body = pg_get_bytes(res, row, COL_BODY),
                          .content_type = some(res, row, COL_CONTENT_TYPE),
                          .headers = headers,
                          .headers_n = (uint32_t)k};
    *ret = tx_content_new(id, BYTES_LIT(POLICY_OWN_PRODUCER), some(res, row, COL_BUSINESS_KEY),
                          some(res, row, COL_TRACE), 0, &m, 1);
    return *ret ? 0 : -ENOMEM;
}

static void publish(struct outbox *o, const PGresult *res, int row) {
    struct item *i = &o->items[o->items_n];
    struct uuid id;
    struct tx_content *content = NULL;
    pg_get_uuid(res, row, COL_ID, &id);
    if (make_content(res, row, &id, &content) < 0)
        return;
    *i = (struct item){.outbox = o};
    i->op = (struct lane_op){.kind = OP_PUBLISH,
                             .origin = TX_ORIGIN_RPC,
                             .id = id,
                             .content = content,
                             .deadline_ns = clock_mono_ns() + PUBLISH_MS * NS_PER_MS,
                             .done = on_published};
    if (lane_submit(o->lane, &i->op) != 0) {
        tx_content_unref(content);
        return;
    }
    o->items_n++;
    o->open++;
}

/* How long the oldest of these rows has waited. */
static void look(struct outbox *o, const PGresult *res) {
    int64_t oldest_ms = 0;
    for (int i = 0; i < PQntuples(res); i++)
        oldest_ms = MAX(oldest_ms, pg_get_int64(res, i, COL_AGE_MS));
    metric_set(o->oldest, (double)oldest_ms / 1000);
    if (o->late != (oldest_ms > LATE_MS)) {
        o->late = !o->late;
        o->on_late(o->arg, o->late);
    }
}

static void on_claimed(void *arg, PGresult *res, const struct pg_error *err) {
    struct outbox *o = arg;
    o->asking = false;
    o->items_n = 0;
    o->more = err->cls == PG_OK && PQntuples(res) > 0;
    if (!o->freed && err->cls == PG_OK)
        look(o, res);
    o->open = 1; /* an operation may end at once */
    for (int i = 0; !o->freed && o->lane && err->cls == PG_OK && i < PQntuples(res); i++)
        publish(o, res, i);
    if (!o->freed && o->lane && o->items_n)
        lane_kick(o->lane, 0);
    if (--o->open == 0)
        finish(o);
}

static void on_timer(void *arg) {
    struct outbox *o = arg;
    if (!o->lane || !lane_ready(o->lane) || !pg_conn_ready(o->conn) || o->asking || o->open) {
        rest(o, false);
        return;
    }
    o->asking = pg_query_sql(o->conn, claim_sql, NULL, on_claimed, o) == 0;
    if (!o->asking)
        rest(o, false);
}

int outbox_new(struct loop *l, struct pg_conn *people, void (*late)(void *arg, bool late), void *arg,
               struct outbox **ret) {
    struct outbox *o = mem_zalloc(sizeof(*o));
    if (!o)
        return -ENOMEM;
    o->conn = people;
    o->on_late = late;
    o->arg = arg;
    o->published = metric_get(metric_family(METRIC_COUNTER, "txmsg_outbox_published_total", "",
                                            "Messages of the service itself that were published.", 1));
    o->oldest =
        metric_get(metric_family(METRIC_GAUGE, "txmsg_outbox_oldest_seconds", "",
                                 "How long the oldest message of the service itself waited to be published.", 1));
    int r = timer_new(l, on_timer, o, &o->timer);
    if (r < 0) {
        mem_free(o);
        return r;
    }
    timer_arm(o->timer, PERIOD_MS);
    *ret = o;
    return 0;
}

void outbox_lane(struct outbox *o, struct lane *lane) {
    o->lane = lane;
}

void outbox_free(struct outbox *o) {
    if (!o)
        return;
    timer_free(TAKE(o->timer));
    o->lane = NULL;
    o->freed = true;
    release(o);
}
