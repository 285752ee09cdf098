/*
 * bench-insert: what PostgreSQL alone makes of the same bytes. One connection inserts batches of rows with an id and a
 * body into a plain table, each batch by one `INSERT ... SELECT FROM unnest` and one synchronous commit, and waits for
 * it before it sends the next. The table is made at the start and dropped at the end. One thread.
 */
#include "histogram.h"

#include "base/clock.h"
#include "base/conf.h"
#include "base/crypto.h"
#include "base/uuid.h"

#include <libpq-fe.h>

enum { OID_BYTEA = 17, OID_UUID = 2950, OID_BYTEA_ARRAY = 1001, OID_UUID_ARRAY = 2951, ARRAY_HEAD = 20 };

struct options {
    char *dsn;
    int64_t seconds_ms, warmup_ms, rows, size;
    bool primary_key, json, phases;
};

#define OPTION(name_, type_, member_, def_, min_, max_, help_)                                                         \
    {                                                                                                                  \
        .name = (name_), .type = (type_), .def = (def_), .min = (min_), .max = (max_), .help = (help_),                \
        .offset = offsetof(struct options, member_)                                                                    \
    }
static const struct conf_option table[] = {
    OPTION("dsn", CONF_STR, dsn, NULL, 0, 0, "Connection string of the database."),
    OPTION("seconds", CONF_DURATION_MS, seconds_ms, "8", 1, 86400000, "Measured time."),
    OPTION("warmup", CONF_DURATION_MS, warmup_ms, "2", 0, 3600000, "Time before the measured time."),
    OPTION("rows", CONF_INT, rows, "128", 1, 100000, "Rows of a batch."),
    OPTION("size", CONF_SIZE, size, "1024", 0, 1 << 20, "Bytes of the body of each row."),
    OPTION("primary-key", CONF_BOOL, primary_key, NULL, 0, 0, "The id is a primary key."),
    OPTION("json", CONF_BOOL, json, NULL, 0, 0, "The report as one line of JSON."),
    OPTION("phases", CONF_BOOL, phases, NULL, 0, 0, "Say \"measuring\" and \"measured\" on stdout when it is so."),
    {0},
};

/* The two parameters in binary form, made once; only the ids change. */
struct batch {
    struct buf ids, bodies;
    size_t rows;
};

struct result {
    uint64_t rows, elapsed_ns;
    struct histogram commits;
};

static void array_head(struct buf *b, uint32_t type, size_t n) {
    buf_put_be32(b, 1); /* dimensions */
    buf_put_be32(b, 0); /* no NULLs */
    buf_put_be32(b, type);
    buf_put_be32(b, (uint32_t)n);
    buf_put_be32(b, 1); /* lower bound */
}

static int batch_init(struct batch *b, size_t rows, size_t size) {
    CLEANUP_FREE uint8_t *body = mem_alloc(size);
    if (!body)
        return -ENOMEM;
    crypto_random(body, size);
    buf_init(&b->ids, rows * 20 + ARRAY_HEAD);
    buf_init(&b->bodies, rows * (size + 4) + ARRAY_HEAD);
    b->rows = rows;
    array_head(&b->ids, OID_UUID, rows);
    array_head(&b->bodies, OID_BYTEA, rows);
    for (size_t i = 0; i < rows; i++) {
        buf_put_be32(&b->ids, sizeof(struct uuid));
        buf_put(&b->ids, &(struct uuid){{0}}, sizeof(struct uuid));
        buf_put_be32(&b->bodies, (uint32_t)size);
        buf_put(&b->bodies, body, size);
    }
    return buf_error(&b->ids) ? buf_error(&b->ids) : buf_error(&b->bodies);
}

static void batch_deinit(struct batch *b) {
    buf_deinit(&b->ids);
    buf_deinit(&b->bodies);
}

static void batch_next(struct batch *b) {
    int64_t ms = clock_real_us() / 1000;
    struct uuid id;
    for (size_t i = 0; i < b->rows; i++) {
        uuid_v7_make(ms, &id);
        memcpy(b->ids.p + ARRAY_HEAD + i * 20 + 4, &id, sizeof(id));
    }
}

static int check(PGconn *c, PGresult *r, struct errmsg *e) {
    ExecStatusType status = PQresultStatus(r);
    PQclear(r);
    return status == PGRES_COMMAND_OK || status == PGRES_TUPLES_OK ? 0 : err_set(e, -EIO, "%s", PQerrorMessage(c));
}

static int prepare(PGconn *c, bool primary_key, struct errmsg *e) {
    static const Oid types[] = {OID_UUID_ARRAY, OID_BYTEA_ARRAY};
    const char *create = primary_key ? "CREATE TABLE txmsg_bench_insert (id uuid PRIMARY KEY, body bytea NOT NULL)"
                                     : "CREATE TABLE txmsg_bench_insert (id uuid NOT NULL, body bytea NOT NULL)";
    int r = check(c, PQexec(c, "SET synchronous_commit = on; SET client_min_messages = warning"), e);
    if (r == 0)
        r = check(c, PQexec(c, "DROP TABLE IF EXISTS txmsg_bench_insert"), e);
    if (r == 0)
        r = check(c, PQexec(c, create), e);
    if (r == 0)
        r = check(c, PQprepare(c, "insert", "INSERT INTO txmsg_bench_insert SELECT * FROM unnest($1, $2)", 2, types),
                  e);
    return r;
}

static int insert(PGconn *c, struct batch *b, struct errmsg *e) {
    batch_next(b);
    const char *values[] = {(const char *)b->ids.p, (const char *)b->bodies.p};
    const int lengths[] = {(int)b->ids.n, (int)b->bodies.n}, formats[] = {1, 1};
    return check(c, PQexecPrepared(c, "insert", 2, values, lengths, formats, 0), e);
}

static void say_phase(const struct options *o, const char *phase) {
    if (o->phases) {
        puts(phase);
        fflush(stdout);
    }
}

static int run(PGconn *c, const struct options *o, struct batch *b, struct result *ret, struct errmsg *e) {
    uint64_t now = clock_mono_ns(), warm = now + (uint64_t)o->warmup_ms * NS_PER_MS, begin = 0, end = UINT64_MAX;
    while (now < end) {
        uint64_t began = now;
        int r = insert(c, b, e);
        if (r < 0)
            return r;
        now = clock_mono_ns();
        if (begin) {
            ret->rows += b->rows;
            histogram_add(&ret->commits, now - began);
        } else if (now >= warm) {
            begin = now;
            end = begin + (uint64_t)o->seconds_ms * NS_PER_MS;
            say_phase(o, "measuring");
        }
    }
    ret->elapsed_ns = now - begin;
    say_phase(o, "measured");
    return 0;
}

static void print(const struct options *o, const struct result *r) {
    double rate = (double)r->rows * 1e9 / (double)r->elapsed_ns;
    if (!o->json) {
        printf("%.0f rows/s in batches of %lld, commit in ms p50 %.2f p99 %.2f\n", rate, (long long)o->rows,
               (double)histogram_at(&r->commits, 0.5) / 1e6, (double)histogram_at(&r->commits, 0.99) / 1e6);
        return;
    }
    printf("{\"mode\": \"insert\", \"rows_per_batch\": %lld, \"size\": %lld, \"seconds\": %.3f, \"messages\": %llu, "
           "\"per_second\": %.1f, \"latency_ms\": ",
           (long long)o->rows, (long long)o->size, (double)r->elapsed_ns / 1e9, (unsigned long long)r->rows, rate);
    histogram_print_json(&r->commits);
    printf("}\n");
}

static int bench(const struct options *o, struct errmsg *e) {
    static struct result result;
    struct batch b = {0};
    PGconn *c = PQconnectdb(o->dsn);
    int r = PQstatus(c) == CONNECTION_OK ? 0 : err_set(e, -EIO, "%s", PQerrorMessage(c));
    if (r == 0)
        r = prepare(c, o->primary_key, e);
    if (r == 0 && (r = batch_init(&b, (size_t)o->rows, (size_t)o->size)) < 0)
        err_set(e, r, "cannot make a batch: %s", err_text(r));
    if (r == 0)
        r = run(c, o, &b, &result, e);
    if (r == 0)
        print(o, &result);
    if (r == 0)
        r = check(c, PQexec(c, "DROP TABLE txmsg_bench_insert"), e);
    batch_deinit(&b);
    PQfinish(c);
    return r;
}

int main(int argc, char **argv) {
    struct errmsg e = ERRMSG_NULL;
    struct options o;
    struct conf *conf = conf_load(table, &o, argc, argv, NULL, &e);
    int r = conf ? bench(&o, &e) : -EINVAL;
    if (r < 0)
        fprintf(stderr, "bench-insert: %s\n", e.text);
    conf_free(conf);
    return r < 0;
}
