/* The option table. One row is the whole truth about an option: parsing, bounds, default and the printed reference. */
#include "txmsgd/config.h"

#include "base/log.h"
#include "core/policy.h"

#define WEB_ALLOW "127.0.0.0/8, ::1, 10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16, 100.64.0.0/10, fc00::/7"
#define O(name, type, def, min, max, member, help)                                                                     \
    { name, type, def, min, max, false, help, offsetof(struct config, member), false }
/* Read again on SIGHUP: the main thread alone may look at it. */
#define O_RELOAD(name, type, def, min, max, member, help)                                                              \
    { name, type, def, min, max, false, help, offsetof(struct config, member), true }

const struct conf_option config_options[] = {
    {"dsn", CONF_STR, NULL, 0, 0, true, "PostgreSQL connection string (libpq form); required.",
     offsetof(struct config, dsn), false},
    O("grpc.listen", CONF_STR, "127.0.0.1:7400", 0, 0, grpc_listen,
      "Address of the gRPC services; port 0 takes any free port."),
    O("http.listen", CONF_STR, "127.0.0.1:7401", 0, 0, http_listen,
      "Address of /metrics, /healthz and /readyz; port 0 takes any free port."),
    O("insecure", CONF_BOOL, "false", 0, 0, insecure, "Allows to listen beyond loopback without credentials."),
    O("workers", CONF_INT, "1", 1, 64, workers,
      "Worker threads, each with a lane of its own; one is enough for 2 cores."),
    O("grpc.threads", CONF_INT, "1", 1, 32, grpc_threads, "Threads that receive and answer calls."),
    O("grpc.slots", CONF_INT, "16", 1, 4096, grpc_slots,
      "Calls armed per method and thread; Debian's gRPC core searches them linearly at every event."),
    O("grpc.receive_size", CONF_SIZE, "8MiB", 65536, 67108864, grpc_receive, "Largest request."),
    O("grpc.max_streams", CONF_INT, "2048", 1, 65536, grpc_streams, "Calls under way on one connection."),
    O("grpc.deadline_max", CONF_DURATION_MS, "30s", 100, 600000, grpc_deadline_ms,
      "A longer or absent deadline is cut to this."),
    O("grpc.connections", CONF_INT, "10000", 16, 1000000, grpc_connections,
      "Connections; more are reset as soon as they are accepted."),
    O("grpc.calls", CONF_INT, "16384", 1, 1048576, grpc_calls,
      "Calls under way on all connections, shared out over grpc.threads; more are refused."),
    O("grpc.memory", CONF_SIZE, "256MiB", 1048576, 68719476736, grpc_memory,
      "What all calls under way may hold, shared out over grpc.threads; more are refused. gRPC core's buffers: twice "
      "that."),
    O("grpc.reply_timeout", CONF_DURATION_MS, "30s", 1000, 600000, grpc_reply_ms,
      "An answer that its caller does not read within this is given up."),
    O("grpc.handshake_timeout", CONF_DURATION_MS, "20s", 1000, 600000, grpc_handshake_ms,
      "A connection that has not begun to speak HTTP/2 within this is closed."),
    O("grpc.idle", CONF_DURATION_MS, "0s", 0, 86400000, grpc_idle_ms,
      "A connection without a call for so long is closed; clients connect again by themselves. 0: never. Any other "
      "value "
      "makes each call dearer by a twelfth."),
    O("grpc.keepalive", CONF_DURATION_MS, "60s", 1000, 86400000, grpc_keepalive_ms,
      "A connection that was silent for so long is pinged, and closed if it does not answer within a third of it."),
    O("grpc.probe", CONF_DURATION_MS, "5s", 0, 600000, probe_ms,
      "How often the daemon calls its own gRPC port, and how long it waits for the answer; 0: never."),
    O("grpc.probe_failures", CONF_INT, "5", 1, 1000, probe_failures,
      "Failed calls in a row after which it ends with exit code 3, to be restarted."),
    O("limits.body", CONF_SIZE, "1MiB", 1, 4194304, limit_body, "Largest body of one message."),
    O("limits.messages", CONF_INT, "64", 1, LIMIT_MESSAGES_HARD, limit_messages, "Most messages of one transaction."),
    O("limits.transaction", CONF_SIZE, "4MiB", 1, 8388608, limit_transaction,
      "Bodies, headers and keys of one transaction together."),
    O("limits.headers", CONF_INT, "64", 0, 1024, limit_headers, "Most headers of one message."),
    O("limits.header_size", CONF_SIZE, "16KiB", 0, 1048576, limit_header_size,
      "Header names and values of one message together."),
    O("limits.id_past", CONF_DURATION_MS, "24h", 1000, 604800000, id_past_ms,
      "How far the time in a new id may lie behind the database clock."),
    O("limits.id_future", CONF_DURATION_MS, "5m", 1000, 3600000, id_future_ms,
      "How far the time in a new id may lie ahead of the database clock."),
    O("limits.check_after", CONF_DURATION_MS, "24h", 1000, 604800000, check_after_ms,
      "Largest check_after of a transaction."),
    O("pipeline.streams", CONF_INT, "256", 1, 1024, pipeline_streams, "Pipelines open at once; more are refused."),
    O("pipeline.credit", CONF_INT, "2048", 1, 65536, pipeline_credit,
      "Operations that one Pipeline may have open; more are refused."),
    O("pipeline.in_flight", CONF_INT, "8192", 1, 1048576, pipeline_in_flight,
      "Operations under way on all Pipelines; beyond it none is read until some ended."),
    O("pipeline.in_flight_size", CONF_SIZE, "64MiB", 65536, 4294967296, pipeline_bytes,
      "Their memory; beyond it none is read until some ended."),
    O("watch.streams", CONF_INT, "256", 1, 1024, watch_streams, "Watches open at once; more are refused."),
    O("lane.batch", CONF_INT, "440", 1, 440, lane_batch, "Most operations of one group commit."),
    O("lane.batch_size", CONF_SIZE, "4MiB", 65536, 16777216, lane_batch_bytes,
      "Most payload of one group commit (a larger transaction goes alone)."),
    O("lane.queue", CONF_INT, "8192", 1, 1048576, lane_queue,
      "Operations waiting for a group commit, per worker; more are refused."),
    O("lane.gather", CONF_INT, "64", 1, 440, lane_gather,
      "Operations that an rpc thread with more to read collects, for 1 ms at most, before it wakes a worker."),
    O("lane.queue_size", CONF_SIZE, "64MiB", 65536, 4294967296, lane_queue_bytes,
      "Payload waiting for a group commit, per worker."),
    O("lane.cache", CONF_SIZE, "64MiB", 0, 4294967296, lane_cache,
      "Payloads of undecided transactions kept in memory, per worker."),
    O("lane.progress", CONF_DURATION_MS, "50ms", 1, 5000, lane_progress_ms,
      "A moved cursor is durable after at most this."),
    O("store.partitions_ahead", CONF_INT, "3", 1, 14, partitions_ahead,
      "Periods whose partitions are made in advance."),
    O("store.dead_after", CONF_DURATION_MS, "5s", 500, 60000, dead_after_ms,
      "A worker whose heartbeat stands still so long is taken over."),
    O("store.adopted", CONF_INT, "16", 1, 64, adopted_max,
      "Lanes of dead workers that one worker continues at once; each takes a connection."),
    O("store.retention", CONF_DURATION_MS, "7d", 2000, 315360000000, retention_ms,
      "Ids older than this are dropped, a partition at a time, once nothing of it is alive; longer than "
      "limits.id_past."),
    O("store.audit_retention", CONF_DURATION_MS, "400d", 60000, 3153600000000, audit_ms,
      "Older audit rows are deleted."),
    O("store.statement_timeout", CONF_DURATION_MS, "5s", 100, 600000, statement_timeout_ms, "Limit of one read."),
    O("check.poll", CONF_DURATION_MS, "250ms", 10, 60000, check_poll_ms, "How often due checks are looked for."),
    O("check.find_poll", CONF_DURATION_MS, "250ms", 10, 60000, check_find_poll_ms,
      "How often undecided transactions are looked for."),
    O("check.in_flight", CONF_INT, "256", 1, 4096, check_in_flight, "Checks under way, per worker."),
    O("check.streams", CONF_INT, "256", 1, 1024, check_streams, "Streams of Checks open at once; more are refused."),
    O("forward.tail", CONF_SIZE, "64MiB", 1048576, 4294967296, forward_tail,
      "Confirmed payloads kept for delivery from memory, per worker."),
    O("forward.read", CONF_SIZE, "8MiB", 65536, 268435456, forward_read,
      "Payloads read back from the log at a time, per worker."),
    O("forward.window", CONF_INT, "1024", 1, 4096, forward_window,
      "Messages in flight of one subscription in one lane."),
    O("forward.retry_poll", CONF_DURATION_MS, "200ms", 10, 60000, forward_retry_poll_ms,
      "How often due retries are looked for."),
    O("forward.spill_limit", CONF_INT, "10000", 1, 1000000, forward_spill_limit,
      "Failed deliveries of one subscription and worker until its cursor parks."),
    O("forward.grpc_in_flight", CONF_INT, "4096", 1, 65536, forward_grpc, "gRPC deliveries under way, of all workers."),
    O("web.in_flight", CONF_INT, "1024", 1, 16384, web_in_flight, "HTTP requests under way, per worker."),
    O("web.idle", CONF_INT, "256", 1, 16384, web_idle, "HTTP connections kept alive, per worker."),
    O("web.allow", CONF_STR, WEB_ALLOW, 0, 0, web_allow,
      "Loopback and private networks that check endpoints and consumers may be in, as a list of networks. Empty: "
      "none."
      " Looked at with each connection, whatever the name was before. Public addresses are allowed; link-local ones and"
      " those of cloud metadata never are."),
    O("web.response_size", CONF_SIZE, "64KiB", 256, 16777216, web_response,
      "Largest response of a consumer or check endpoint."),
    O("alerts.url", CONF_STR, NULL, 0, 0, alert_url,
      "Where to POST when a subscription has dead letters or a producer stuck transactions; without it the log says "
      "so."),
    {"alerts.secret", CONF_STR, NULL, 0, 0, true,
     "Signs these requests as Standard Webhooks: `whsec_` and the base64 of 16 to 64 bytes.",
     offsetof(struct config, alert_secret), false},
    O("alerts.digest", CONF_DURATION_MS, "1h", 100, 2592000000, alert_digest_ms,
      "How often it is told again while it lasts."),
    O("alerts.poll", CONF_DURATION_MS, "5s", 50, 3600000, alert_poll_ms, "How often it is looked for."),
    O("http.connections", CONF_INT, "64", 1, 4096, http_connections, "Connections to the operations address."),
    O_RELOAD("log.level", CONF_STR, "info", 0, 0, log_level,
             "error, warn, info or debug; also for single rooms: `info,store=debug,rpc=warn`."),
    O_RELOAD("drain", CONF_DURATION_MS, "30s", 0, 600000, drain_ms,
             "How long SIGTERM waits for calls and deliveries under way."),
    {NULL, CONF_STR, NULL, 0, 0, false, NULL, 0, false},
};

static bool is_loopback(const char *listen) {
    return !strncmp(listen, "127.", 4) || !strncmp(listen, "localhost:", 10) || !strncmp(listen, "[::1]:", 6) ||
           !strncmp(listen, "unix:", 5);
}

int config_check(const struct config *c, struct errmsg *e) {
    if (!c->dsn || !*c->dsn)
        return err_set(e, -EINVAL,
                       "dsn is required: --dsn, TXMSG_DSN, TXMSG_DSN_FILE or `dsn:` in the configuration file");
    const char *const listens[] = {c->grpc_listen, c->http_listen};
    for (size_t i = 0; i < ARRAY_LEN(listens); i++)
        if (!c->insecure && !is_loopback(listens[i]))
            return err_set(e, -EINVAL,
                           "%s is reachable from outside and this version has no credentials; put a proxy in front,"
                           " or say `insecure: true`",
                           listens[i]);
    struct guard guard;
    struct errmsg why = ERRMSG_NULL;
    if (guard_parse(c->web_allow, &guard, &why) < 0)
        return err_set(e, -EINVAL, "web.allow: %s", why.text);
    if (c->limit_body > c->limit_transaction)
        return err_set(e, -EINVAL, "limits.body is larger than limits.transaction");
    if (c->limit_transaction + 65536 > c->grpc_receive)
        return err_set(e, -EINVAL, "grpc.receive_size must exceed limits.transaction by at least 64KiB");
    if (c->retention_ms <= c->id_past_ms)
        return err_set(e, -EINVAL,
                       "store.retention (%lld s) must be longer than limits.id_past (%lld s): else an id could be"
                       " dropped and taken again",
                       (long long)c->retention_ms / 1000, (long long)c->id_past_ms / 1000);
    if (*c->alert_url && strncmp(c->alert_url, "http://", 7) != 0 && strncmp(c->alert_url, "https://", 8) != 0)
        return err_set(e, -EINVAL, "alerts.url must begin with http:// or https://");
    const char *wrong;
    if (secret_wrong(c->alert_secret, &wrong) < 0)
        return err_set(e, -ENOMEM, "out of memory");
    if (wrong)
        return err_set(e, -EINVAL, "alerts.secret %s", wrong);
    return log_check_levels(c->log_level, e);
}

void config_guard(const struct config *c, struct guard *g) {
    int r = guard_parse(c->web_allow, g, NULL);
    ASSERT(r == 0); /* config_check() has read it */
}

void config_limits(const struct config *c, struct limits *l) {
    *l = (struct limits){.body_bytes = c->limit_body,
                         .messages = c->limit_messages,
                         .transaction_bytes = c->limit_transaction,
                         .headers = c->limit_headers,
                         .header_bytes = c->limit_header_size,
                         .id_past_ms = c->id_past_ms,
                         .id_future_ms = c->id_future_ms,
                         .check_after_max_ms = c->check_after_ms,
                         .deliver_ahead_ms = c->retention_ms};
}
