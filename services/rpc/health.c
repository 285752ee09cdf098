/*
 * Why here: load balancers and Kubernetes ask for it by name, and the answer is one flag for all services: the daemon
 * serves all of them or none. A Watch that hears of changes faster than its client reads them skips to the latest.
 */
#include "rpc/health.h"

#include "grpc/health/v1/health.pb-c.h"

typedef Grpc__Health__V1__HealthCheckResponse Response;

enum {
    SERVING = GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVING,
    NOT_SERVING = GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__NOT_SERVING,
    SERVICE_UNKNOWN = GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVICE_UNKNOWN,
};

static int status_now(struct rpc_server *s) {
    return atomic_load(&s->serving) ? SERVING : NOT_SERVING;
}

static bool known(const struct rpc_server *s, const char *service) {
    if (!*service)
        return true; /* the server as a whole */
    for (int i = 0; i < s->services_n; i++)
        if (strcmp(s->services[i], service) == 0)
            return true;
    return false;
}

void health_check(struct rpc_call *c, void *server) {
    const Grpc__Health__V1__HealthCheckRequest *request = (const void *)rpc_call_request(c);
    Response response = GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__INIT;

    if (!known(server, request->service)) {
        rpc_fail(c, &(struct rpc_error){.code = RPC_NOT_FOUND,
                                        .reason = "SERVICE_UNKNOWN",
                                        .message = "this server has no such service",
                                        .meta = {"service", request->service}});
        return;
    }
    response.status = status_now(server);
    rpc_reply(c, &response.base);
}

void health_list(struct rpc_call *c, void *server) {
    typedef Grpc__Health__V1__HealthListResponse__StatusesEntry Entry;
    struct rpc_server *s = server;
    size_t n = (size_t)s->services_n + 1;
    Grpc__Health__V1__HealthListResponse list = GRPC__HEALTH__V1__HEALTH_LIST_RESPONSE__INIT;
    Response response = GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__INIT;
    Entry *entries = arena_alloc(rpc_call_arena(c), n * sizeof(*entries));
    Entry **pointers = arena_alloc(rpc_call_arena(c), n * sizeof(*pointers));

    if (!entries || !pointers) {
        rpc_fail(c, &(struct rpc_error){
                        .code = RPC_RESOURCE_EXHAUSTED, .reason = "OUT_OF_MEMORY", .message = "out of memory"});
        return;
    }
    response.status = status_now(s);
    for (size_t i = 0; i < n; i++) {
        grpc__health__v1__health_list_response__statuses_entry__init(&entries[i]);
        entries[i].key = i == 0 ? (char *)(uintptr_t)protobuf_c_empty_string : s->services[i - 1];
        entries[i].value = &response;
        pointers[i] = &entries[i];
    }
    list.statuses = pointers;
    list.n_statuses = n;
    rpc_reply(c, &list.base);
}

/* --- Watch --- */

struct watch {
    bool known; /* is the service ours */
    int last;   /* the status last sent, 0 = none */
};

static void watch_news(struct rpc_stream *st) {
    Response response = GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__INIT;
    struct watch *w = rpc_stream_data(st);
    int now = w && w->known ? status_now(stream_server(st)) : SERVICE_UNKNOWN;

    if (!w || now == w->last || !rpc_stream_may_send(st))
        return;
    w->last = now;
    response.status = now;
    rpc_stream_send(st, &response.base);
}

static void watch_message(struct rpc_stream *st, const ProtobufCMessage *m) {
    const Grpc__Health__V1__HealthCheckRequest *request = (const void *)m;
    struct watch *w = mem_zalloc(sizeof(*w));

    if (!w) {
        stream_fail(st, RPC_RESOURCE_EXHAUSTED, "OVERLOADED", "out of memory");
        return;
    }
    w->known = known(stream_server(st), request->service);
    rpc_stream_set_data(st, w);
    rpc_stream_pause(st, true); /* one message is all that is asked */
    watch_news(st);
}

static void watch_closed(struct rpc_stream *st) {
    mem_free(rpc_stream_data(st));
    rpc_stream_set_data(st, NULL);
}

const struct rpc_stream_method health_watch = {
    .path = "/grpc.health.v1.Health/Watch",
    .request = &grpc__health__v1__health_check_request__descriptor,
    .name = "HealthWatch",
    .asks = true,
    .message = watch_message,
    .sendable = watch_news,
    .signalled = watch_news,
    .closed = watch_closed,
};
