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

enum { KNOWN, LAST }; /* of the stream's state: is the service ours, the status last sent (0 = none) */

static void watch_news(struct stream *st) {
    Response response = GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__INIT;
    int *state = stream_state(st);
    int now = state[KNOWN] ? status_now(stream_server(st)) : SERVICE_UNKNOWN;

    if (now == state[LAST] || !stream_may_send(st))
        return;
    state[LAST] = now;
    response.status = now;
    stream_send(st, &response.base);
}

static void watch_message(struct stream *st, const ProtobufCMessage *m) {
    const Grpc__Health__V1__HealthCheckRequest *request = (const void *)m;

    stream_state(st)[KNOWN] = known(stream_server(st), request->service);
    watch_news(st);
}

static struct method *watch_method(struct rpc_server *s) {
    return s->watch;
}

const struct stream_ops health_watch = {
    .path = "/grpc.health.v1.Health/Watch",
    .request = &grpc__health__v1__health_check_request__descriptor,
    .method = watch_method,
    .once = true,
    .message = watch_message,
    .news = watch_news,
};
