/* Streams of methods outside the room: pause, hold, signals from other threads, ends with details, drain. */
#include "rpc/rpc.h"
#include "rpc_stream.h"
#include "txmsg/v1/message_service.pb-c.h"

#include <pthread.h>

#define PATH    "/txmsg.v1.MessageService/Pipeline"
#define TEXT(s) ((char *)(uintptr_t)(s))

typedef Txmsg__V1__PipelineRequest Request;
typedef Txmsg__V1__PipelineResponse Response;

static struct rpc_server *server;
static struct errmsg error;

/* What the method saw. Of the one stream of a test; guarded, for the tests look on from their thread. */
static struct {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct rpc_stream *stream;
    int opened, messages, signals, closed;
    bool release;                           /* at the next signal; under the lock */
    _Atomic bool hold, echo, pause, refuse; /* set by tests, read by the rpc thread */
} seen = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};

static void note(int *what) {
    pthread_mutex_lock(&seen.lock);
    ++*what;
    pthread_cond_broadcast(&seen.changed);
    pthread_mutex_unlock(&seen.lock);
}

static void wait_for(const int *what, int n) {
    struct timespec until;

    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += 30;
    pthread_mutex_lock(&seen.lock);
    while (*what < n)
        assert_int_equal(pthread_cond_timedwait(&seen.changed, &seen.lock, &until), 0);
    pthread_mutex_unlock(&seen.lock);
}

static int count(const int *what) {
    pthread_mutex_lock(&seen.lock);
    int n = *what;
    pthread_mutex_unlock(&seen.lock);
    return n;
}

static void send_credit(struct rpc_stream *s, uint32_t credit) {
    Response response = TXMSG__V1__PIPELINE_RESPONSE__INIT;

    response.credit = credit;
    assert_true(rpc_stream_may_send(s));
    rpc_stream_send(s, &response.base);
    assert_false(rpc_stream_may_send(s));
}

static void on_opened(struct rpc_stream *s) {
    assert_ptr_equal(rpc_stream_user(s), &seen);
    assert_null(rpc_stream_data(s));
    rpc_stream_set_data(s, &server);
    seen.stream = s;
    if (seen.hold)
        rpc_stream_hold(s);
    note(&seen.opened);
}

static void on_message(struct rpc_stream *s, const ProtobufCMessage *m) {
    const Request *q = (const Request *)m;

    assert_ptr_equal(rpc_stream_data(s), &server);
    if (seen.echo) {
        send_credit(s, (uint32_t)q->n_operations + 100);
        rpc_stream_pause(s, true); /* the client may have it before core says that it is sent */
    }
    if (seen.pause)
        rpc_stream_pause(s, true);
    if (seen.refuse)
        rpc_stream_fail(s, &(struct rpc_error){.code = RPC_FAILED_PRECONDITION,
                                               .reason = "NOT_NOW",
                                               .message = "not now",
                                               .field = "operations",
                                               .field_description = "come too early"});
    note(&seen.messages);
}

static void on_sendable(struct rpc_stream *s) {
    if (seen.echo)
        rpc_stream_pause(s, false);
}

static void on_signalled(struct rpc_stream *s) {
    pthread_mutex_lock(&seen.lock);
    bool release = seen.release;
    seen.release = false;
    pthread_mutex_unlock(&seen.lock);

    seen.pause = false;
    rpc_stream_pause(s, false);
    if (release) {
        if (rpc_stream_may_send(s))
            send_credit(s, 7);
        rpc_stream_release(s);
    }
    note(&seen.signals);
}

static void on_closed(struct rpc_stream *s) {
    assert_false(rpc_stream_may_send(s));
    note(&seen.closed);
}

static int setup(void **state) {
    const struct rpc_stream_method m = {.path = PATH,
                                        .request = &txmsg__v1__pipeline_request__descriptor,
                                        .max = 3,
                                        .user = &seen,
                                        .opened = on_opened,
                                        .message = on_message,
                                        .sendable = on_sendable,
                                        .signalled = on_signalled,
                                        .closed = on_closed};
    struct rpc_server_options o = {.listen = "127.0.0.1:0", .threads = 2, .slots = 2, .streams = &m, .streams_n = 1};

    seen.stream = NULL;
    seen.opened = seen.messages = seen.signals = seen.closed = 0;
    seen.hold = seen.echo = seen.pause = seen.refuse = seen.release = false;
    assert_int_equal(rpc_server_new(&o, NULL, 0, &server, &error), 0);
    assert_int_equal(rpc_server_start(server, &error), 0);
    return 0;
}

static int teardown(void **state) {
    rpc_server_stop(server, 10000);
    rpc_server_free(server);
    return 0;
}

static void open_stream(struct test_stream *s) {
    test_stream_open(s, rpc_server_port(server), PATH);
}

static void send(struct test_stream *s, size_t n) {
    Request request = TXMSG__V1__PIPELINE_REQUEST__INIT;
    Txmsg__V1__TaggedOperation operation = TXMSG__V1__TAGGED_OPERATION__INIT, *rows[8];

    for (size_t i = 0; i < n; i++)
        rows[i] = &operation;
    request.operations = rows;
    request.n_operations = n;
    test_stream_send(s, &request.base);
}

/* -1 = the stream has ended. */
static int receive(struct test_stream *s) {
    ProtobufCMessage *m = test_stream_receive(s, &txmsg__v1__pipeline_response__descriptor);
    int credit = m ? (int)((Response *)m)->credit : -1;

    if (m)
        protobuf_c_message_free_unpacked(m, NULL);
    return credit;
}

static void signal_stream(void) {
    rpc_stream_signal(seen.stream);
    rpc_wake(server);
}

/* Inside the lock: a signal from before may find that it is to be released, and then the stream may go. */
static void release_stream(void) {
    pthread_mutex_lock(&seen.lock);
    seen.release = true;
    rpc_stream_signal(seen.stream);
    pthread_mutex_unlock(&seen.lock);
    rpc_wake(server);
}

static void test_messages_both_ways(void **state) {
    struct test_stream s;

    seen.echo = true;
    open_stream(&s);
    for (int i = 1; i < 6; i++) {
        send(&s, (size_t)i);
        assert_int_equal(receive(&s), 100 + i);
    }
    test_stream_half_close(&s);
    assert_int_equal(receive(&s), -1);
    assert_int_equal(test_stream_close(&s, false), RPC_OK);
    wait_for(&seen.closed, 1);
    assert_int_equal(count(&seen.messages), 5);
}

/* A paused stream is not read, not even its half-close, until it is signalled and goes on. */
static void test_pause(void **state) {
    struct test_stream s;

    seen.pause = seen.hold = true;
    open_stream(&s);
    send(&s, 1);
    wait_for(&seen.messages, 1);
    send(&s, 2);
    test_stream_half_close(&s);
    rpc_server_health(server, true); /* runs through all streams of all threads */
    wait_for(&seen.signals, 1);      /* and that lets it go on */
    wait_for(&seen.messages, 2);
    release_stream();
    assert_int_equal(receive(&s), 7);
    assert_int_equal(receive(&s), -1);
    assert_int_equal(test_stream_close(&s, false), RPC_OK);
}

/* Held, it sends after the half-close and ends only when it is released. */
static void test_hold(void **state) {
    struct test_stream s;

    seen.hold = true;
    open_stream(&s);
    send(&s, 1);
    test_stream_half_close(&s);
    wait_for(&seen.messages, 1);
    for (int i = 0; i < 3; i++)
        signal_stream();
    wait_for(&seen.signals, 1);
    assert_int_equal(count(&seen.closed), 0);
    release_stream();
    assert_int_equal(receive(&s), 7);
    assert_int_equal(receive(&s), -1);
    assert_int_equal(test_stream_close(&s, false), RPC_OK);
    wait_for(&seen.closed, 1);
}

static void test_fail_has_details(void **state) {
    struct test_stream s;

    seen.refuse = true;
    open_stream(&s);
    send(&s, 1);
    assert_int_equal(receive(&s), -1);
    assert_int_equal(test_stream_close(&s, false), RPC_FAILED_PRECONDITION);
    wait_for(&seen.closed, 1);
}

static void test_not_well_formed(void **state) {
    struct test_stream s;
    Txmsg__V1__ConfirmRequest other = TXMSG__V1__CONFIRM_REQUEST__INIT;

    other.transaction_id = TEXT("\xff\xff");
    open_stream(&s);
    test_stream_send(&s, &other.base); /* field 1 is text here, and a message there */
    assert_int_equal(receive(&s), -1);
    assert_int_equal(test_stream_close(&s, false), RPC_INVALID_ARGUMENT);
    assert_int_equal(count(&seen.messages), 0);
}

/* The client goes while the stream is held: closed at once, freed with the release. */
static void test_client_goes(void **state) {
    struct test_stream s;

    seen.hold = true;
    open_stream(&s);
    send(&s, 1);
    wait_for(&seen.messages, 1);
    assert_int_equal(test_stream_close(&s, true), RPC_CANCELLED);
    wait_for(&seen.closed, 1);
    release_stream();
    wait_for(&seen.signals, 1);
}

static void test_no_more_than_max(void **state) {
    struct test_stream s[4];

    for (int i = 0; i < 3; i++) {
        open_stream(&s[i]);
        wait_for(&seen.opened, i + 1);
    }
    open_stream(&s[3]);
    assert_int_equal(receive(&s[3]), -1);
    assert_int_equal(test_stream_close(&s[3], false), RPC_RESOURCE_EXHAUSTED);
    assert_int_equal(count(&seen.opened), 3);
    for (int i = 0; i < 3; i++)
        test_stream_close(&s[i], true);
    wait_for(&seen.closed, 3);
}

static void *stop_main(void *arg) {
    rpc_server_stop(server, 20000);
    return NULL;
}

/* Drain: nothing is read any more, what is under way is sent, then it ends as UNAVAILABLE. */
static void test_drain(void **state) {
    struct test_stream s;
    pthread_t stopper;

    seen.hold = true;
    open_stream(&s);
    send(&s, 1);
    wait_for(&seen.messages, 1);
    assert_int_equal(pthread_create(&stopper, NULL, stop_main, NULL), 0);
    wait_for(&seen.signals, 1); /* it comes to every stream when the server drains */
    release_stream();
    assert_int_equal(receive(&s), 7);
    assert_int_equal(receive(&s), -1);
    assert_int_equal(test_stream_close(&s, false), RPC_UNAVAILABLE);
    pthread_join(stopper, NULL);
    assert_int_equal(count(&seen.messages), 1);
}

/* Signals race with the end of the stream. */
static void *signal_main(void *arg) {
    for (int i = 0; i < 20000; i++) {
        rpc_stream_signal(seen.stream);
        if (i % 100 == 0)
            rpc_wake(server);
    }
    return NULL;
}

static void test_many_signals(void **state) {
    struct test_stream s;
    pthread_t threads[4];

    seen.hold = true;
    open_stream(&s);
    wait_for(&seen.opened, 1);
    for (size_t i = 0; i < ARRAY_LEN(threads); i++)
        assert_int_equal(pthread_create(&threads[i], NULL, signal_main, NULL), 0);
    test_stream_close(&s, true);
    for (size_t i = 0; i < ARRAY_LEN(threads); i++)
        pthread_join(threads[i], NULL);
    rpc_wake(server);
    wait_for(&seen.closed, 1);
    release_stream();
    wait_for(&seen.signals, 1);
}

int main(void) {
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(test_messages_both_ways), T(test_pause),       T(test_hold),
        T(test_fail_has_details),   T(test_client_goes), T(test_not_well_formed),
        T(test_no_more_than_max),   T(test_drain),       T(test_many_signals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
