/*
 * txmsgd: reads the configuration, wires the rooms, runs until SIGTERM or SIGINT, drains.
 *
 * Start: configuration -> store (schema checked, partitions made) -> services -> workers -> gRPC -> HTTP -> "listening".
 * Stop:  health NOT_SERVING -> calls under way end -> workers drain and seal their lanes -> exit 0. A second signal ends at once.
 * The main thread's loop only watches: signals, the configuration in the store, partitions, readiness.
 */
#include "base/clock.h"
#include "base/log.h"
#include "base/metric.h"
#include "checkback/desk.h"
#include "http/http.h"
#include "rpc/caller.h"
#include "rpc/library.h"
#include "rpc/probe.h"
#include "store/migrate.h"
#include "store/partition.h"
#include "store/retention.h"
#include "store/schema.h"
#include "store/stmts.h"
#include "store/topo.h"
#include "txmsgd/files.h"
#include "txmsgd/manual.h"
#include "txmsgd/worker.h"

#include <signal.h>
#include <unistd.h>

extern char **environ;

enum { READY_LOOK_MS = 200, SWEEP_LOOKS = 5, LOST_STOP_S = 15 };
/* EXIT_UNSERVED: the gRPC port does not answer. Others may be served, so only a new start can help. */
enum { EXIT_FAILED = 1, EXIT_CONFIG = 2, EXIT_UNSERVED = 3 };

struct daemon {
    struct config c;
    struct conf *conf;
    int argc;
    char **argv; /* its options are a source of the configuration, also when it is read again */
    struct store store;
    struct loop *loop;
    struct signals *signals;
    struct topo_watch *topo;
    struct partition_keeper *keeper;
    struct retention *retention;
    struct schema_watch *schema;
    struct timer *look;
    struct message_service *messages;
    struct admin_service *admin;
    struct desk *desk;
    struct rpc_caller *caller, *deliverer; /* of checks, of gRPC sinks: a slow consumer delays no check */
    struct rpc_server *rpc;
    struct rpc_probe *probe;
    struct http_server *http;
    struct worker *workers[64];
    int workers_n;
    _Atomic bool configured, stopping, lost;
    bool serving, unfit, ending;
    unsigned looks;
};

/* --- watching --- */

static void on_topology(void *arg, struct topology *t) {
    struct daemon *d = arg;
    LOG_INFO("txmsgd", "configuration epoch %lld: %d subscriptions", (long long)t->epoch, t->subs_n);
    message_service_topology(d->messages, t);
    desk_topology(d->desk, t);
    for (int i = 0; i < d->workers_n; i++)
        worker_topology(d->workers[i], t);
    atomic_store(&d->configured, true);
}

static void on_applied(void *arg) {
    struct daemon *d = arg;
    if (!atomic_load(&d->stopping))
        topo_watch_kick(d->topo);
}

static bool ready(void *arg, char *why, size_t why_n) {
    struct daemon *d = arg;
    const char *text = NULL;
    if (atomic_load(&d->stopping))
        text = "stopping";
    else if (!atomic_load(&d->configured))
        text = "the configuration is not read from the store yet";
    for (int i = 0; !text && i < d->workers_n; i++)
        if (!worker_ready(d->workers[i]))
            text = "a worker cannot commit: the store is away, read-only or taken over";
    snprintf(why, why_n, "%s", text ? text : "ready");
    return !text;
}

static double ready_gauge(void *arg) {
    char why[128];
    return ready(arg, why, sizeof(why));
}

static bool healthy(void *arg, char *why, size_t why_n) {
    struct daemon *d = arg;
    return !d->probe || rpc_probe_good(d->probe, why, why_n);
}

static void on_look(void *arg) {
    struct daemon *d = arg;
    char why[128];
    bool now = ready(d, why, sizeof(why));
    if (now != d->serving) {
        LOG_INFO("txmsgd", "%s", why);
        rpc_server_health(d->rpc, now);
        d->serving = now;
    }
    if (++d->looks % SWEEP_LOOKS == 0)
        rpc_server_sweep(d->rpc);
    timer_arm(d->look, READY_LOOK_MS);
}

static void begin_stop(void *arg) {
    struct daemon *d = arg;
    if (d->ending) /* a signal and an unfit schema in one turn */
        return;
    d->ending = true;
    atomic_store(&d->stopping, true);
    signals_free(d->signals);
    signal(SIGHUP, SIG_IGN); /* nothing to reload any more, and no reason to die */
    topo_watch_free(d->topo);
    partition_keeper_free(d->keeper);
    retention_free(d->retention);
    schema_watch_free(d->schema);
    timer_free(d->look);
    loop_stop(d->loop);
}

/* --- reloading --- */

static void on_changed(void *arg, const struct conf_option *o) {
    UNUSED(arg);
    if (o->reloadable)
        LOG_INFO("txmsgd", "%s has a new value", o->name);
    else
        LOG_WARN("txmsgd", "%s has changed and cannot be reloaded: it waits for the next start", o->name);
}

static void reload(struct daemon *d) {
    struct config c;
    struct errmsg e = ERRMSG_NULL;
    struct conf *fresh = conf_load(config_options, &c, d->argc, d->argv, environ, &e);
    if (!fresh || config_check(&c, &e) < 0) {
        LOG_ERROR("txmsgd", "the configuration is not reloaded: %s", e.text);
        conf_free(fresh);
        return;
    }
    conf_reload(d->conf, fresh, on_changed, d);
    conf_free(fresh);
    if (log_set_levels(d->c.log_level, &e) < 0) /* it was checked */
        LOG_ERROR("txmsgd", "%s", e.text);
    rpc_log_level();
    LOG_INFO("txmsgd", "the configuration was read again");
}

static void on_signal(void *arg, int signum) {
    struct daemon *d = arg;
    if (signum == SIGHUP) {
        reload(d);
        return;
    }
    LOG_INFO("txmsgd", "signal %d: draining", signum);
    begin_stop(d);
}

/* Whoever starts it again is told at once why it cannot. */
static void on_unfit(void *arg, const char *why) {
    struct daemon *d = arg;
    LOG_ERROR("txmsgd", "%s; draining, then this process ends", why);
    d->unfit = true;
    atomic_store(&d->stopping, true);
    if (loop_post(d->loop, begin_stop, d) < 0)
        abort();
}

static void end_unserved(int signum) {
    UNUSED(signum);
    _exit(EXIT_UNSERVED);
}

/* On the probe's thread. What hangs may be what a clean end needs, so that has a limit of its own. */
static void on_unserved(void *arg, const char *why) {
    struct daemon *d = arg;
    if (atomic_load(&d->stopping))
        return;
    LOG_ERROR("txmsgd", "the gRPC port is not served any more (%s): ending with code %d, to be started again", why,
              EXIT_UNSERVED);
    atomic_store(&d->lost, true);
    signal(SIGALRM, end_unserved);
    alarm(LOST_STOP_S);
    if (loop_post(d->loop, begin_stop, d) < 0)
        LOG_WARN("txmsgd", "the loop has ended already");
}

/* --- starting --- */

static struct store_options store_options(const struct config *c) {
    return (struct store_options){.dsn = c->dsn,
                                  .partitions_ahead = c->partitions_ahead,
                                  .lane_batch = c->lane_batch,
                                  .lane_batch_bytes = c->lane_batch_bytes,
                                  .lane_queue = c->lane_queue,
                                  .lane_queue_bytes = c->lane_queue_bytes,
                                  .cache_bytes = c->lane_cache,
                                  .progress_ms = c->lane_progress_ms,
                                  .dead_after_ms = c->dead_after_ms,
                                  .statement_timeout_ms = c->statement_timeout_ms,
                                  .retention_ms = c->retention_ms,
                                  .audit_ms = c->audit_ms,
                                  .id_future_ms = c->id_future_ms};
}

static int start_services(struct daemon *d, struct errmsg *e) {
    struct message_options o = {.mailbox = d->c.lane_queue,
                                .queries = 256,
                                .gather = d->c.lane_gather,
                                .pipeline_operations = d->c.pipeline_credit,
                                .pipeline_streams = d->c.pipeline_streams,
                                .pipeline_operations_all = d->c.pipeline_in_flight,
                                .pipeline_bytes_all = d->c.pipeline_bytes,
                                .watches = d->c.watch_streams};
    struct rpc_caller_options asker = {0}, deliverer = {.thread = "rpc-deliverer",
                                                        .in_flight = (int)d->c.forward_grpc,
                                                        .receive_bytes = d->c.web_response};
    struct worker_peers peers;
    config_limits(&d->c, &o.limits);
    config_guard(&d->c, &asker.guard);
    deliverer.guard = asker.guard;
    int r = message_service_new(&d->store, &o, (int)d->c.workers, &d->messages);
    if (r == 0)
        r = admin_service_new(&d->store, &o.limits, on_applied, d, &d->admin);
    if (r == 0)
        r = desk_new((int)d->c.check_streams, &d->desk);
    if (r == 0)
        r = rpc_caller_new(&asker, &d->caller, e);
    if (r == 0)
        r = rpc_caller_new(&deliverer, &d->deliverer, e);
    peers = (struct worker_peers){.desk = d->desk, .caller = d->caller, .deliverer = d->deliverer};
    for (int i = 0; r == 0 && i < (int)d->c.workers; i++, d->workers_n = i)
        r = worker_new(&d->c, &d->store, d->messages, i == 0 ? d->admin : NULL, &peers, i, &d->workers[i]);
    return r < 0 ? err_set(e, r, "cannot make the workers: %s", err_text(r)) : 0;
}

static int start_rpc(struct daemon *d, struct errmsg *e) {
    struct rpc_server_options o = {.listen = d->c.grpc_listen,
                                   .threads = (int)d->c.grpc_threads,
                                   .slots = (int)d->c.grpc_slots,
                                   .receive_bytes = d->c.grpc_receive,
                                   .max_concurrent_streams = d->c.grpc_streams,
                                   .max_connections = (int)d->c.grpc_connections,
                                   .max_calls = (int)d->c.grpc_calls,
                                   .memory_bytes = d->c.grpc_memory,
                                   .reply_ms = d->c.grpc_reply_ms,
                                   .handshake_ms = d->c.grpc_handshake_ms,
                                   .idle_ms = d->c.grpc_idle_ms,
                                   .keepalive_ms = d->c.grpc_keepalive_ms,
                                   .arena_bytes = 4 * d->c.grpc_receive,
                                   .deadline_max_ms = d->c.grpc_deadline_ms,
                                   .flush = message_service_flush,
                                   .flush_user = d->messages};
    struct rpc_method all[64];
    size_t n, m;
    struct rpc_stream_method streams[8];
    const struct rpc_stream_method *some = message_service_streams(d->messages, &n);
    memcpy(streams, some, n * sizeof(*streams));
    some = desk_streams(d->desk, &m);
    ASSERT(n + m <= ARRAY_LEN(streams));
    memcpy(streams + n, some, m * sizeof(*streams));
    o.streams = streams;
    o.streams_n = n + m;
    const struct rpc_method *messages = message_service_methods(d->messages, &n);
    const struct rpc_method *admin = admin_service_methods(d->admin, &m);
    ASSERT(n + m <= ARRAY_LEN(all));
    memcpy(all, messages, n * sizeof(*all));
    memcpy(all + n, admin, m * sizeof(*all));
    int r = rpc_server_new(&o, all, n + m, &d->rpc, e);
    if (r < 0)
        return r;
    message_service_rpc(d->messages, d->rpc);
    admin_service_rpc(d->admin, d->rpc);
    desk_rpc(d->desk, d->rpc);
    return rpc_server_start(d->rpc, e);
}

static int start_probe(struct daemon *d, struct errmsg *e) {
    const struct rpc_probe_options o = {.every_ms = d->c.probe_ms,
                                        .timeout_ms = d->c.probe_ms,
                                        .failures = (int)d->c.probe_failures,
                                        .lost = on_unserved,
                                        .arg = d};
    int r = d->c.probe_ms ? rpc_probe_new(d->rpc, &o, &d->probe) : 0;
    return r < 0 ? err_set(e, r, "cannot start a thread: %s", err_text(r)) : 0;
}

static int start_watching(struct daemon *d, struct errmsg *e) {
    int r = topo_watch_new(d->loop, &d->store, on_topology, d, &d->topo);
    if (r == 0)
        r = partition_keeper_new(d->loop, &d->store, &d->keeper);
    if (r == 0)
        r = retention_new(d->loop, &d->store, &d->retention);
    if (r == 0)
        r = schema_watch_new(d->loop, &d->store, on_unfit, d, &d->schema);
    if (r == 0)
        r = timer_new(d->loop, on_look, d, &d->look);
    if (r == 0)
        r = signals_new(d->loop, on_signal, d, &d->signals);
    if (r < 0)
        return err_set(e, r, "cannot watch: %s", err_text(r));
    timer_arm(d->look, 0);
    return 0;
}

static int start(struct daemon *d, struct errmsg *e) {
    const struct store_options so = store_options(&d->c);
    int r = loop_new("main", &d->loop);
    if (r < 0)
        return err_set(e, r, "cannot make a loop: %s", err_text(r));
    if ((r = store_open(&so, &d->store, e)) < 0 || (r = start_services(d, e)) < 0 || (r = start_rpc(d, e)) < 0 ||
        (r = start_watching(d, e)) < 0 || (r = start_probe(d, e)) < 0)
        return r;
    const struct http_options ho = {.listen = d->c.http_listen,
                                    .max_connections = (int)d->c.http_connections,
                                    .ready = ready,
                                    .healthy = healthy,
                                    .arg = d};
    metric_gauge_fn(
        metric_family(METRIC_GAUGE, "txmsg_ready", "", "1 while this replica can store, as /readyz says.", 1),
        ready_gauge, d);
    if ((r = http_server_new(&ho, &d->http, e)) < 0)
        return r;
    for (int i = 0; i < d->workers_n; i++)
        if ((r = worker_start(d->workers[i])) < 0)
            return err_set(e, r, "cannot start a thread: %s", err_text(r));
    return 0;
}

/* --- stopping --- */

static void stop(struct daemon *d) {
    /* Beyond all bounded steps the process ends anyway: an adopter finishes the work. */
    if (!atomic_load(&d->lost))
        alarm((unsigned)(d->c.drain_ms / 1000) + 40);
    if (d->probe)
        rpc_probe_stop(d->probe);
    rpc_server_health(d->rpc, false);
    rpc_server_stop(d->rpc, atomic_load(&d->lost) ? 0 : d->c.drain_ms);
    rpc_caller_stop(d->caller); /* its answers are with the workers now */
    for (int i = 0; i < d->workers_n; i++)
        worker_close(d->workers[i]);
    for (int i = 0; i < d->workers_n; i++)
        worker_join(d->workers[i]);
    http_server_free(d->http); /* it answered until now, and asked the workers */
    rpc_probe_free(d->probe);
    for (int i = 0; i < d->workers_n; i++)
        worker_free(d->workers[i]);
    rpc_server_free(d->rpc);
    message_service_free(d->messages);
    admin_service_free(d->admin);
    desk_free(d->desk);
    rpc_caller_free(d->caller);
    rpc_caller_free(d->deliverer); /* the workers gave up what was under way there */
    loop_free(d->loop);
}

static void print_statements(void) {
    struct buf out;
    buf_init(&out, 1 << 20);
    stmts_print(&out);
    fputs(buf_str(&out), stdout);
    buf_deinit(&out);
}

static void print_options(void) {
    struct buf out;
    buf_init(&out, 1 << 20);
    conf_reference(config_options, &out);
    fputs(buf_str(&out), stdout);
    buf_deinit(&out);
}

static void show_config(const struct conf *c) {
    struct buf out;
    buf_init(&out, 1 << 20);
    conf_show(c, &out);
    fputs(buf_str(&out), stdout);
    buf_deinit(&out);
}

/* True if a word stands on the command line; it is taken out. */
static bool take_word(int *argc, char **argv, const char *word) {
    int n = 0;
    for (int i = 0; i < *argc; i++) {
        if (i == 0 || strcmp(argv[i], word) != 0)
            argv[n++] = argv[i];
    }
    bool found = n < *argc;
    argv[n] = NULL;
    *argc = n;
    return found;
}

int main(int argc, char **argv) {
    static struct daemon d;
    struct errmsg e = ERRMSG_NULL;
    if (argc == 2 && !strcmp(argv[1], "--version")) {
        puts("txmsgd " TXMSG_VERSION);
        return 0;
    }
    if (argc == 2 && !strcmp(argv[1], "--print-options")) {
        print_options();
        return 0;
    }
    if (argc == 2 && !strcmp(argv[1], "--print-statements")) {
        print_statements();
        return 0;
    }
    if (argc == 2 && !strcmp(argv[1], "--print-man")) {
        manual_print();
        return 0;
    }
    /* `config check` and `config show` are the same as the options, in the words of other programs. */
    if (argc > 2 && !strcmp(argv[1], "config") && (!strcmp(argv[2], "check") || !strcmp(argv[2], "show"))) {
        argv[1] = (char *)(uintptr_t)(argv[2][0] == 'c' ? "--check-config" : "--show-config");
        for (int i = 2; i < argc; i++)
            argv[i] = argv[i + 1];
        argc--;
    }
    bool show = take_word(&argc, argv, "--show-config"), check = take_word(&argc, argv, "--check-config");
    signal(SIGPIPE, SIG_IGN);
    signal(SIGHUP, SIG_IGN); /* until there is something to reload */
    d.argc = argc;
    d.argv = argv;
    d.conf = conf_load(config_options, &d.c, argc, argv, environ, &e);
    if (d.conf && show)
        show_config(d.conf);
    if (!d.conf || config_check(&d.c, &e) < 0 || log_set_levels(d.c.log_level, &e) < 0) {
        fprintf(stderr, "txmsgd: %s\n", e.text);
        conf_free(d.conf);
        return EXIT_CONFIG;
    }
    if (show || check) {
        if (!show)
            puts("the configuration is good");
        conf_free(d.conf);
        return 0;
    }
    if (files_prepare(&d.c, &e) < 0) {
        LOG_ERROR("txmsgd", "%s", e.text);
        return EXIT_CONFIG;
    }
    if (start(&d, &e) < 0) {
        LOG_ERROR("txmsgd", "%s", e.text);
        return EXIT_FAILED;
    }
    LOG_INFO("txmsgd", "listening grpc=127.0.0.1:%d http=127.0.0.1:%d", rpc_server_port(d.rpc),
             http_server_port(d.http));
    int r = loop_run(d.loop);
    stop(&d);
    conf_free(d.conf);
    LOG_INFO("txmsgd", "stopped");
    return atomic_load(&d.lost) ? EXIT_UNSERVED : r < 0 || d.unfit ? EXIT_FAILED : 0;
}
