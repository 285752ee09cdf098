/*
 * From rows to configuration. The first row is the epoch and the retention floor, the others are objects; all come from one statement and
 * therefore from one moment, without a transaction around it.
 */
#include "store/topo_load.h"

#include "base/log.h"

const char topo_load_sql[] =
    "SELECT 0::int2 AS kind, 0::int4 AS id, ''::text AS name, floor::text AS spec, false AS paused, epoch,"
    " NULL::timestamptz AS created FROM cfg"
    " UNION ALL SELECT 1::int2, 0, name, spec::text, false, 0, NULL FROM topic"
    " UNION ALL SELECT 2::int2, 0, name, spec::text, false, 0, NULL FROM producer"
    " UNION ALL SELECT 3::int2, id, name, spec::text, state = 'paused', 0, created FROM subscription"
    " WHERE state <> 'deleted' ORDER BY kind, name";
enum { COL_KIND, COL_ID, COL_NAME, COL_SPEC, COL_PAUSED, COL_EPOCH, COL_CREATED };
enum { ROW_EPOCH, ROW_TOPIC, ROW_PRODUCER, ROW_SUBSCRIPTION };

static const char *text(const PGresult *res, int row, int col) {
    return (const char *)pg_get_bytes(res, row, col).p;
}

int64_t topo_load_epoch(const PGresult *res) {
    return PQntuples(res) > 0 && pg_get_int16(res, 0, COL_KIND) == ROW_EPOCH ? pg_get_int64(res, 0, COL_EPOCH) : -1;
}

int64_t topo_load_floor_ms(const PGresult *res) {
    struct uuid floor;
    return PQntuples(res) > 0 && uuid_parse(pg_get_bytes(res, 0, COL_SPEC), &floor) == 0 ? uuid_v7_ms(&floor) : 0;
}

int topo_load_objects(const PGresult *res, struct topo_object **ret, size_t *ret_n, int64_t *ret_epoch) {
    int64_t epoch = topo_load_epoch(res);
    if (epoch < 0)
        return -EPROTO;
    struct topo_object *o = mem_calloc((size_t)PQntuples(res), sizeof(*o));
    if (!o)
        return -ENOMEM;
    size_t n = 0;
    for (int i = 1; i < PQntuples(res); i++) {
        int16_t kind = pg_get_int16(res, i, COL_KIND);
        o[n++] = (struct topo_object){
            .kind = kind == ROW_TOPIC      ? TOPO_TOPIC
                    : kind == ROW_PRODUCER ? TOPO_PRODUCER
                                           : TOPO_SUBSCRIPTION,
            .name = text(res, i, COL_NAME),
            .spec = text(res, i, COL_SPEC),
            .paused = pg_get_bool(res, i, COL_PAUSED),
            .created_us = PQgetisnull(res, i, COL_CREATED) ? 0 : pg_get_time_us(res, i, COL_CREATED),
        };
    }
    *ret = o;
    *ret_n = n;
    *ret_epoch = epoch;
    return 0;
}

static int add_row(struct topology *t, const PGresult *res, int i, struct errmsg *e) {
    const char *name = text(res, i, COL_NAME);
    CLEANUP_JSON json_t *spec = json_parse(pg_get_bytes(res, i, COL_SPEC), e);
    if (!spec)
        return errno == ENOMEM ? -ENOMEM : -EINVAL;
    switch (pg_get_int16(res, i, COL_KIND)) {
    case ROW_TOPIC:
        return topology_add_topic(t, name, spec, e);
    case ROW_PRODUCER:
        return topology_add_producer(t, name, spec, e);
    default:
        return topology_add_sub(t, pg_get_int32(res, i, COL_ID), name, spec, e);
    }
}

int topo_load_snapshot(const PGresult *res, struct topology **ret) {
    int64_t epoch = topo_load_epoch(res);
    if (epoch < 0)
        return -EPROTO;
    struct topology *t = topology_new(epoch);
    if (!t)
        return -ENOMEM;
    for (int i = 1; i < PQntuples(res); i++) {
        struct errmsg e = ERRMSG_NULL;
        int r = add_row(t, res, i, &e);
        if (r == 0 && pg_get_bool(res, i, COL_PAUSED))
            topology_pause_sub(t, pg_get_int32(res, i, COL_ID));
        if (r == 0)
            continue;
        if (r == -ENOMEM) {
            topology_unref(t);
            return r;
        }
        bool sub = pg_get_int16(res, i, COL_KIND) == ROW_SUBSCRIPTION;
        LOG_ERROR("store", "configuration %lld: %s \"%s\" is left out, this version cannot read it: %s",
                  (long long)epoch,
                  sub                                           ? "subscription"
                  : pg_get_int16(res, i, COL_KIND) == ROW_TOPIC ? "topic"
                                                                : "producer",
                  text(res, i, COL_NAME), e.text[0] ? e.text : err_text(r));
        /* A worker that does not know a subscription must not declare a lane finished for it: no stored epoch is
         * negative. */
        if (sub)
            t->epoch = -epoch;
    }
    *ret = t;
    return 0;
}
