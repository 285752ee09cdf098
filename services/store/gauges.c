/* See gauges.h. Exceptions have tables of their own, so these counts stay small; a statement_timeout bounds them if they do not. */
#include "store/gauges.h"

#include "base/metric.h"

enum { PERIOD_MS = 5000, SUBSCRIPTIONS_MAX = 200 };

struct gauges {
    struct pg_conn *conn;
    struct timer *timer;
    struct metric *stuck;
    struct metric_family *dead;
    unsigned under_way; /* answers still to come */
    bool freed;
};

static void release(struct gauges *g) {
    if (g->freed && g->under_way == 0)
        mem_free(g);
}

static void on_stuck(void *arg, PGresult *r, const struct pg_error *err) {
    struct gauges *g = arg;
    g->under_way--;
    if (!g->freed && err->cls == PG_OK)
        metric_set(g->stuck, (double)pg_get_int64(r, 0, 0));
    release(g);
}

static void on_dead(void *arg, PGresult *r, const struct pg_error *err) {
    struct gauges *g = arg;
    g->under_way--;
    for (int i = 0; !g->freed && err->cls == PG_OK && i < PQntuples(r); i++)
        metric_set(metric_get(g->dead, (const char *)pg_get_bytes(r, i, 0).p), (double)pg_get_int64(r, i, 1));
    release(g);
}

static void on_timer(void *arg) {
    struct gauges *g = arg;
    timer_arm(g->timer, PERIOD_MS);
    if (g->under_way || !pg_conn_ready(g->conn))
        return;
    if (pg_query_sql(g->conn, "SELECT count(*) FROM check_due WHERE state = 1", NULL, on_stuck, g) == 0)
        g->under_way++;
    if (pg_query_sql(g->conn,
                     "SELECT s.name, (SELECT count(*) FROM dead_letter d WHERE d.sub = s.id) FROM subscription s"
                     " WHERE s.state <> 'deleted' ORDER BY s.id LIMIT 200",
                     NULL, on_dead, g) == 0)
        g->under_way++;
}

int gauges_new(struct loop *l, struct pg_conn *people, struct gauges **ret) {
    struct gauges *g = mem_zalloc(sizeof(*g));
    if (!g)
        return -ENOMEM;
    g->conn = people;
    g->stuck =
        metric_get(metric_family(METRIC_GAUGE, "txmsg_stuck", "", "Transactions that checks could not settle.", 1));
    g->dead = metric_family(METRIC_GAUGE, "txmsg_dead_letters", "subscription", "Dead letters.", SUBSCRIPTIONS_MAX);
    int r = timer_new(l, on_timer, g, &g->timer);
    if (r < 0) {
        mem_free(g);
        return r;
    }
    timer_arm(g->timer, 0);
    *ret = g;
    return 0;
}

void gauges_free(struct gauges *g) {
    if (!g)
        return;
    timer_free(g->timer);
    g->freed = true;
    release(g);
}
