/* The daemon's configuration: one struct, filled from the table in config.c. */
#pragma once

#include "base/conf.h"
#include "base/guard.h"
#include "core/limits.h"

struct config {
    char *dsn, *grpc_listen, *http_listen, *log_level, *web_allow;
    bool insecure;
    int64_t workers, grpc_threads, grpc_slots, grpc_receive, grpc_streams, grpc_deadline_ms;
    int64_t grpc_connections, grpc_calls, grpc_memory, grpc_reply_ms, grpc_handshake_ms, grpc_idle_ms,
        grpc_keepalive_ms, probe_ms, probe_failures;
    int64_t limit_body, limit_messages, limit_transaction, limit_headers, limit_header_size, id_past_ms, id_future_ms,
        check_after_ms;
    int64_t pipeline_streams, pipeline_credit, pipeline_in_flight, pipeline_bytes, watch_streams;
    int64_t lane_batch, lane_batch_bytes, lane_queue, lane_queue_bytes, lane_gather, lane_cache, lane_progress_ms;
    int64_t partitions_ahead, dead_after_ms, adopted_max, statement_timeout_ms, retention_ms, audit_ms;
    int64_t check_poll_ms, check_find_poll_ms, check_in_flight, check_streams;
    int64_t forward_tail, forward_read, forward_window, forward_retry_poll_ms, forward_spill_limit, forward_grpc;
    char *alert_url, *alert_secret;
    int64_t alert_digest_ms, alert_poll_ms;
    int64_t web_in_flight, web_idle, web_response, http_connections;
    int64_t drain_ms;
};

extern const struct conf_option config_options[];
/* What the table cannot say: loopback unless insecure, sizes that must fit each other. -EINVAL and *e. */
int config_check(const struct config *c, struct errmsg *e) MUSTCHECK;
void config_guard(const struct config *c, struct guard *g);
void config_limits(const struct config *c, struct limits *l);
