/* The asynchronous client: answers, errors, hostile answers, bounds, and its end with calls under way. */
#include "rpc/caller.h"

#include "base/clock.h"
#include "txmsg/v1/message_service.pb-c.h"

#include <dlfcn.h>
#include <netdb.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#define SERVICE "/txmsg.v1.MessageService/"
#define TEXT(s) ((char *)(uintptr_t)(s))

enum { CALLS = 64 };

static struct rpc_server *server;
static struct rpc_caller *caller;
static struct errmsg error;
static char target[32];

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static struct rpc_call *kept[CALLS];
static int kept_n, done_n, codes[CALLS];
static char ids[CALLS][64];
static bool unsent[CALLS];
static char why[CALLS][200];
static char seen[CALLS][64]; /* metadata that came with kept[i] */

/* The resolver: one name that answers when it is told to, one that leads elsewhere each time, one with a bad and a good address. */
static struct {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    int inside;
    bool open;
} gate = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};
static _Atomic int rebinds;

typedef int lookup_fn(const char *, const char *, const struct addrinfo *, struct addrinfo **);

static int hang(void) {
    pthread_mutex_lock(&gate.lock);
    gate.inside++;
    pthread_cond_broadcast(&gate.changed);
    while (!gate.open)
        pthread_cond_wait(&gate.changed, &gate.lock);
    gate.inside--;
    pthread_cond_broadcast(&gate.changed);
    pthread_mutex_unlock(&gate.lock);
    return EAI_AGAIN;
}

__attribute__((visibility("default"))) int getaddrinfo(const char *name, const char *service,
                                                       const struct addrinfo *hints, struct addrinfo **ret) {
    lookup_fn *real = (lookup_fn *)dlsym(RTLD_NEXT, "getaddrinfo");
    bool numeric = hints && hints->ai_flags & AI_NUMERICHOST;
    struct addrinfo *last;

    if (!name || numeric)
        return real(name, service, hints, ret);
    if (!strcmp(name, "slow.test"))
        return hang();
    if (!strcmp(name, "rebind.test"))
        return real(rebinds++ ? "169.254.169.254" : "127.0.0.1", service, hints, ret);
    if (strcmp(name, "both.test") != 0)
        return real(name, service, hints, ret);
    int r = real("169.254.169.254", service, hints, ret);
    for (last = *ret; r == 0 && last->ai_next;)
        last = last->ai_next;
    return r == 0 ? real("127.0.0.1", service, hints, &last->ai_next) : r;
}

static void reply(struct rpc_call *c, void *arg) {
    const Txmsg__V1__ConfirmRequest *q = (const Txmsg__V1__ConfirmRequest *)rpc_call_request(c);
    Txmsg__V1__ConfirmResponse response = TXMSG__V1__CONFIRM_RESPONSE__INIT;
    Txmsg__V1__TransactionStatus status = TXMSG__V1__TRANSACTION_STATUS__INIT;

    status.transaction_id = q->transaction_id;
    response.status = &status;
    rpc_reply(c, &response.base);
}

static void handle_echo(struct rpc_call *c, void *user) {
    reply(c, NULL);
}

static void handle_fail(struct rpc_call *c, void *user) {
    rpc_fail(c, &(struct rpc_error){.code = RPC_ABORTED, .reason = "NOT_NOW", .message = "not now"});
}

static void handle_keep(struct rpc_call *c, void *user) {
    const char *value = rpc_call_metadata(c, "traceparent");

    pthread_mutex_lock(&lock);
    snprintf(seen[kept_n], sizeof(seen[0]), "%s", value ? value : "");
    kept[kept_n++] = c;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
}

static void on_done(void *arg, const struct rpc_outcome *o) {
    int i = (int)(intptr_t)arg;

    pthread_mutex_lock(&lock);
    codes[i] = o->code;
    unsent[i] = o->unsent;
    snprintf(why[i], sizeof(why[i]), "%s", o->message);
    assert_non_null(o->message);
    assert_true((o->code == RPC_OK) == (o->response != NULL));
    if (o->response && o->response->descriptor == &txmsg__v1__confirm_response__descriptor)
        snprintf(ids[i], sizeof(ids[i]), "%s",
                 ((const Txmsg__V1__ConfirmResponse *)o->response)->status->transaction_id);
    done_n++;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
}

static void wait_for(const int *what, int n) {
    struct timespec until;

    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += 30;
    pthread_mutex_lock(&lock);
    while (*what < n)
        assert_int_equal(pthread_cond_timedwait(&changed, &lock, &until), 0);
    pthread_mutex_unlock(&lock);
}

static int code_of(int i) {
    pthread_mutex_lock(&lock);
    int code = codes[i];
    pthread_mutex_unlock(&lock);
    return code;
}

#define METHOD(name, fn)                                                                                               \
    {                                                                                                                  \
        .path = SERVICE name, .request = &txmsg__v1__confirm_request__descriptor,                                      \
        .response = &txmsg__v1__confirm_response__descriptor, .handle = (fn)                                           \
    }

static int setup(void **state) {
    static const struct rpc_method methods[] = {METHOD("Confirm", handle_echo), METHOD("Cancel", handle_fail),
                                                METHOD("Publish", handle_keep)};
    const struct rpc_server_options o = {.listen = "127.0.0.1:0", .slots = 4};
    struct rpc_caller_options co = {.in_flight = 8, .targets = 2};

    kept_n = done_n = 0;
    memset(codes, -1, sizeof(codes));
    memset(ids, 0, sizeof(ids));
    assert_int_equal(rpc_server_new(&o, methods, ARRAY_LEN(methods), &server, &error), 0);
    assert_int_equal(rpc_server_start(server, &error), 0);
    assert_int_equal(guard_parse("127.0.0.0/8, ::1", &co.guard, &error), 0);
    assert_int_equal(rpc_caller_new(&co, &caller, &error), 0);
    snprintf(target, sizeof(target), "127.0.0.1:%d", rpc_server_port(server));
    return 0;
}

static int teardown(void **state) {
    rpc_caller_free(caller);
    rpc_server_stop(server, 1000);
    rpc_server_free(server);
    return 0;
}

static int group;

static int call_to(const char *to, const char *method, int i, int64_t timeout_ms,
                   const ProtobufCMessageDescriptor *response) {
    Txmsg__V1__ConfirmRequest request = TXMSG__V1__CONFIRM_REQUEST__INIT;
    char id[64], path[128];

    snprintf(id, sizeof(id), "id-%d", i);
    snprintf(path, sizeof(path), SERVICE "%s", method);
    request.transaction_id = id;
    return rpc_caller_call(caller, &(struct rpc_call_request){.target = to,
                                                              .path = path,
                                                              .request = &request.base,
                                                              .response = response,
                                                              .metadata = {{"traceparent", BYTES_LIT("00-aa-bb-01")},
                                                                           {"Not legal", BYTES_LIT("x")},
                                                                           {"not-legal", BYTES_LIT("\n")}},
                                                              .group = i % 2 ? &group : NULL,
                                                              .timeout_ms = timeout_ms,
                                                              .done = on_done,
                                                              .arg = (void *)(intptr_t)i});
}

static int call(const char *method, int i, int64_t timeout_ms) {
    return call_to(target, method, i, timeout_ms, &txmsg__v1__confirm_response__descriptor);
}

static void test_many(void **state) {
    int i = 0;

    while (i < CALLS) {
        int r = call("Confirm", i, 30000);

        if (r == 0)
            i++;
        else
            assert_int_equal(r, 1); /* as many as may be: some end */
    }
    wait_for(&done_n, CALLS);
    for (i = 0; i < CALLS; i++) {
        char id[64];

        snprintf(id, sizeof(id), "id-%d", i);
        assert_int_equal(codes[i], RPC_OK);
        assert_string_equal(ids[i], id);
    }
}

static void test_errors(void **state) {
    assert_int_equal(call("Cancel", 0, 30000), 0);
    assert_int_equal(call("Frobnicate", 1, 30000), 0);
    assert_int_equal(call("Publish", 2, 200), 0); /* nobody answers */
    assert_int_equal(call_to("127.0.0.1:1", "Confirm", 3, 30000, &txmsg__v1__confirm_response__descriptor), 0);
    assert_int_equal(call_to("", "Confirm", 4, 30000, &txmsg__v1__confirm_response__descriptor), -EINVAL);
    wait_for(&done_n, 4);
    assert_int_equal(codes[0], RPC_ABORTED);
    assert_int_equal(codes[1], RPC_UNIMPLEMENTED);
    assert_int_equal(codes[2], RPC_DEADLINE_EXCEEDED);
    assert_int_equal(codes[3], RPC_UNAVAILABLE);
    assert_true(unsent[3]); /* nobody listens there; the others were with a server */
    assert_false(unsent[0] || unsent[1] || unsent[2]);
    assert_string_equal(seen[0], "00-aa-bb-01");
    while (call_to("no.such.host.invalid:1", "Confirm", 5, 30000, &txmsg__v1__confirm_response__descriptor) != 0)
        ; /* the calls before are being put away */
    wait_for(&done_n, 5);
    assert_true(codes[5] == RPC_UNAVAILABLE && unsent[5]);
    wait_for(&kept_n, 1);
    rpc_call_finish(kept[0], reply, NULL);
    rpc_wake(server);
}

/* What comes is not the message that was expected: an error, not a message. */
static void test_other_message(void **state) {
    assert_int_equal(call_to(target, "Confirm", 0, 30000, &txmsg__v1__list_transactions_request__descriptor), 0);
    wait_for(&done_n, 1);
    assert_int_equal(codes[0], RPC_INTERNAL);
}

/* Channels are kept for two targets; the third takes the place of one that is not in use, and is refused if there is none. */
static void test_targets(void **state) {
    char other[3][64];
    const ProtobufCMessageDescriptor *d = &txmsg__v1__confirm_response__descriptor;

    for (int i = 0; i < 3; i++)
        snprintf(other[i], sizeof(other[i]), "%s:%d",
                 i == 0   ? "127.0.0.1"
                 : i == 1 ? "localhost"
                          : "127.0.0.2",
                 rpc_server_port(server));
    assert_int_equal(call_to(other[0], "Publish", 0, 30000, d), 0);
    wait_for(&kept_n, 1);
    assert_int_equal(call_to(other[1], "Confirm", 1, 30000, d), 0);
    wait_for(&done_n, 1);
    for (int i = 2; i < 20; i++) {
        while (call_to(other[1 + i % 2], "Confirm", i, 30000, d) != 0)
            ; /* the call before is being put away */
        wait_for(&done_n, i);
    }
    while (call_to(other[1], "Publish", 20, 30000, d) != 0)
        ;
    wait_for(&kept_n, 2);
    assert_int_equal(call_to(other[2], "Confirm", 21, 30000, d), 1);
    for (int i = 0; i < 2; i++)
        rpc_call_finish(kept[i], reply, NULL);
    rpc_wake(server);
    wait_for(&done_n, 21);
}

/* Half of the calls are of the group, and only those end. */
static void test_cancel(void **state) {
    for (int i = 0; i < 8; i++)
        assert_int_equal(call("Publish", i, 30000), 0);
    wait_for(&kept_n, 8);
    rpc_caller_cancel(caller, &group);
    wait_for(&done_n, 4);
    for (int i = 0; i < 8; i++)
        assert_int_equal(code_of(i), i % 2 ? RPC_CANCELLED : -1); /* the others may still be called */
    for (int i = 0; i < 8; i++)
        rpc_call_finish(kept[i], reply, NULL);
    rpc_wake(server);
    wait_for(&done_n, 8);
    for (int i = 0; i < 8; i += 2)
        assert_int_equal(codes[i], RPC_OK);
}

/* Stopping ends what is under way, and each is told. */
static void test_stop(void **state) {
    for (int i = 0; i < 8; i++)
        assert_int_equal(call("Publish", i, 30000), 0);
    assert_int_equal(call("Publish", 8, 30000), 1);
    wait_for(&kept_n, 8);
    rpc_caller_stop(caller);
    assert_int_equal(done_n, 8);
    for (int i = 0; i < 8; i++)
        assert_int_equal(codes[i], RPC_CANCELLED);
    assert_int_equal(call("Confirm", 9, 30000), 1);
    for (int i = 0; i < 8; i++)
        rpc_call_finish(kept[i], reply, NULL);
    rpc_wake(server);
}

/* Not connected to: bad numbers, names that lead to them; of several addresses the good ones are used. */
static void test_refused_addresses(void **state) {
    static const char *const bad[] = {"10.1.2.3:1", "169.254.169.254:1", "[fe80::1]:1", "[::ffff:10.0.0.1]:1"};
    const ProtobufCMessageDescriptor *d = &txmsg__v1__confirm_response__descriptor;
    char to[64];

    for (int i = 0; i < (int)ARRAY_LEN(bad); i++) {
        while (call_to(bad[i], "Confirm", i, 30000, d) != 0)
            ; /* the call before is being put away */
        wait_for(&done_n, i + 1);
        assert_int_equal(codes[i], RPC_UNAVAILABLE);
        assert_true(unsent[i]);
        assert_non_null(strstr(why[i], "not allowed"));
    }
    assert_string_equal(why[0], "address 10.1.2.3 is private: not allowed");
    snprintf(to, sizeof(to), "both.test:%d", rpc_server_port(server));
    while (call_to(to, "Confirm", 5, 30000, d) != 0)
        ;
    wait_for(&done_n, 5);
    assert_int_equal(codes[5], RPC_OK);
    assert_int_equal(call_to("nothing", "Confirm", 6, 30000, d), -EINVAL);
}

/* What a name means is asked for once for a channel; the next channel asks anew, and its answer is judged. */
static void test_rebinding(void **state) {
    const ProtobufCMessageDescriptor *d = &txmsg__v1__confirm_response__descriptor;
    char to[3][64];

    rebinds = 0;
    snprintf(to[0], sizeof(to[0]), "rebind.test:%d", rpc_server_port(server));
    snprintf(to[1], sizeof(to[1]), "127.0.0.1:%d", rpc_server_port(server));
    snprintf(to[2], sizeof(to[2]), "127.0.0.2:%d", rpc_server_port(server));
    for (int i = 0; i < 5; i++) { /* the third and fourth take its place */
        while (call_to(to[i < 2 ? 0 : (i - 1) % 3], "Confirm", i, 30000, d) != 0)
            ;
        wait_for(&done_n, i + 1);
    }
    assert_int_equal(codes[0], RPC_OK);
    assert_int_equal(codes[1], RPC_OK);
    assert_int_equal(rebinds, 2);
    assert_int_equal(codes[4], RPC_UNAVAILABLE);
    assert_string_equal(why[4], "address 169.254.169.254 is link-local: not allowed");
}

/* A resolver that hangs costs the calls to its name their time, the others nothing, and nobody waits for it at the end. */
static void test_slow_name(void **state) {
    const ProtobufCMessageDescriptor *d = &txmsg__v1__confirm_response__descriptor;

    gate.open = false;
    assert_int_equal(call_to("slow.test:1", "Confirm", 0, 300, d), 0);
    assert_int_equal(call_to("slow.test:1", "Confirm", 1, 30000, d), 0); /* of the group */
    assert_int_equal(call_to("slow.test:1", "Confirm", 2, 30000, d), 0);
    assert_int_equal(call("Confirm", 3, 30000), 0);
    wait_for(&done_n, 2);
    assert_int_equal(codes[3], RPC_OK);
    assert_int_equal(codes[0], RPC_UNAVAILABLE);
    assert_true(unsent[0]);
    assert_string_equal(why[0], "its name was not found in time");
    rpc_caller_cancel(caller, &group);
    wait_for(&done_n, 3);
    assert_int_equal(codes[1], RPC_CANCELLED);
    rpc_caller_stop(caller);
    assert_int_equal(done_n, 4);
    assert_int_equal(codes[2], RPC_CANCELLED);
    rpc_caller_free(caller);
    caller = NULL;
    pthread_mutex_lock(&gate.lock);
    assert_int_equal(gate.inside, 1);
    gate.open = true;
    pthread_cond_broadcast(&gate.changed);
    while (gate.inside)
        pthread_cond_wait(&gate.changed, &gate.lock);
    pthread_mutex_unlock(&gate.lock);
}

int main(void) {
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {T(test_many),     T(test_errors), T(test_other_message),     T(test_targets),
                                       T(test_cancel),   T(test_stop),   T(test_refused_addresses), T(test_rebinding),
                                       T(test_slow_name)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
