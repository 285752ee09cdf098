/*
 * The asker against a lane, a reader and a web client in the test's hand: what each answer writes, who gets slots, and
 * that nothing but an answer counts or decides.
 */
#include "checkback/asker.h"

#include "base/metric.h"
#include "checkback_fakes.h"

static struct {
    struct loop *loop;
    struct reader reader;
    struct webclient web;
    struct lane lane;
    struct age age;
    struct asker *asker;
    struct topology *topology;
} t;

#define SECRET "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

static void configure(const char *const *producers) {
    struct errmsg e;

    topology_unref(t.topology);
    t.topology = topology_new(1);
    assert_non_null(t.topology);
    for (; *producers; producers += 2) {
        CLEANUP_JSON json_t *spec = json_parse(bytes_str(producers[1]), &e);
        assert_non_null(spec);
        if (topology_add_producer(t.topology, producers[0], spec, &e) < 0)
            fail_msg("%s", e.text);
    }
    asker_topology(t.asker, t.topology);
}

#define SHOP                                                                                                           \
    "shop", "{\"check\":{\"endpoints\":[\"http://a\",\"http://b\"],\"secret\":\"" SECRET "\",\"timeout\":\"1s\","      \
            "\"max_unknowns\":3,\"initial\":\"10s\",\"max\":\"100s\",\"jitter\":0.1,\"concurrency\":4}}"
static const char *const shop[] = {SHOP, NULL};

static int setup_with(int in_flight) {
    const struct asker_options o = {.poll_ms = 1, .in_flight = in_flight};

    memset(&t, 0, sizeof(t));
    fake_lane_init(&t.lane, 1);
    list_init(&t.web.calls);
    t.web.max = 1000;
    age_open(&t.age);
    assert_int_equal(loop_new("test", &t.loop), 0);
    assert_int_equal(asker_new(t.loop, NULL, &t.reader, &t.web, &t.lane, &t.age, &o, &t.asker), 0);
    return 0;
}

static int setup(void **state) {
    return setup_with(100);
}

static int setup_few(void **state) {
    return setup_with(8);
}

static bool any_op(void);
static void end_op(enum op_outcome outcome, enum tx_state state);

static int teardown(void **state) {
    asker_free(t.asker);
    fake_reader_end(&t.reader);
    while (any_op()) /* as lane_free() does */
        end_op(OP_SHUTDOWN, 0);
    age_close(&t.age);
    topology_unref(t.topology);
    loop_free(t.loop);
    assert_true(list_empty(&t.lane.riders));
    assert_int_equal(t.web.in_flight, 0);
    return 0;
}

/* --- steps --- */

static void turn(void) {
    uv_run(loop_uv(t.loop), UV_RUN_ONCE);
}

static void turns(int n) {
    while (n-- > 0)
        turn();
}

static struct uuid id_of(int i) {
    struct uuid u;

    uuid_v7_floor(1750000000000 + i, &u);
    u.b[6] |= 0x70;
    u.b[8] |= 0x80;
    return u;
}

static void wait_claim(void) {
    while (!t.reader.claim.fn)
        turn();
}

/* What the claim asks for a producer; 0 = not asked for. */
static int slots_for(const char *producer) {
    for (size_t i = 0; i < t.reader.claim.n; i++) {
        if (!strcmp(t.reader.claim.names[i], producer))
            return t.reader.claim.asks[i].slots;
    }
    return 0;
}

/* Answers the claim: ids first..first+n-1 of that producer. */
static void give_claims(const char *producer, int first, int n, int unknowns, int failures) {
    static struct check_claim claims[256];
    reader_checks_fn *fn = TAKE(t.reader.claim.fn);

    for (int i = 0; i < n; i++)
        claims[i] = (struct check_claim){.tx = id_of(first + i),
                                         .producer = producer,
                                         .business_key = "order",
                                         .token = 40 + i,
                                         .tries = 5,
                                         .unknowns = unknowns,
                                         .failures = failures,
                                         .prepared_us = 1750000000000000};
    fn(t.reader.claim.arg, 0, claims, (size_t)n);
}

static struct tx_content *content_of(const struct uuid *id) {
    const struct msg m = {.topic = BYTES_LIT("orders"), .body = BYTES_LIT("x")};
    return tx_content_new(id, BYTES_LIT("shop"), BYTES_NULL, BYTES_NULL, 0, &m, 1);
}

/* Answers the read of messages with the first `n` of those asked for. */
static void give_contents(size_t n) {
    struct tx_content *contents[256];
    reader_contents_fn *fn = TAKE(t.reader.contents.fn);

    assert_non_null(fn);
    for (size_t i = 0; i < n; i++)
        contents[i] = content_of(&t.reader.contents.ids[i]);
    fn(t.reader.contents.arg, 0, contents, n);
    for (size_t i = 0; i < n; i++)
        tx_content_unref(contents[i]);
}

/* One check of shop, as far as its request. */
static bool any_call(void) {
    return !list_empty(&t.web.calls);
}

static struct web_call *first_call(void) {
    ASSERT(any_call());
    return LIST_ENTRY(t.web.calls.next, struct web_call, link);
}

static void ask_one(int i, int unknowns, int failures) {
    wait_claim();
    give_claims("shop", i, 1, unknowns, failures);
    give_contents(1);
    assert_true(any_call());
}

static void respond(int status, const char *decision) {
    char body[160];
    struct web_call *c = first_call();

    snprintf(body, sizeof(body), "{\"transactionId\":\"%s\",\"decision\":\"%s\"}", c->id, decision);
    fake_respond(
        c, &(struct web_response){.result = WEB_ANSWERED, .status = status, .body = bytes_str(body), .error = ""});
}

static bool any_op(void) {
    return !list_empty(&t.lane.ops);
}

static struct lane_op *first_op(void) {
    ASSERT(any_op());
    return LIST_ENTRY(t.lane.ops.next, struct lane_op, link);
}

static void end_op(enum op_outcome outcome, enum tx_state state) {
    struct lane_op *op = first_op();

    list_del(&op->link);
    op->outcome = outcome;
    op->state = state;
    op->decided_by = TX_ORIGIN_RPC;
    op->done(op);
}

static struct check_finish *commit_one(void) {
    static char error[256];
    struct check_finish *f = &t.lane.b.ends[0];

    assert_true(fake_collect(&t.lane, 100));
    assert_int_equal(t.lane.b.ends_n, 1);
    snprintf(error, sizeof(error), "%s", f->last_error ? f->last_error : "");
    f->last_error = error; /* the lane copies it */
    fake_end(&t.lane, true);
    return f;
}

/* All slots of shop are free again. */
static void assert_idle(void) {
    if (t.reader.claim.fn) /* asked before the last slot came back */
        give_claims("shop", 0, 0, 0, 0);
    turns(2);
    wait_claim();
    assert_int_equal(slots_for("shop"), 4);
    assert_false(fake_collect(&t.lane, 100));
    assert_false(any_call());
}

static int64_t counter(const char *result) {
    return metric_value(
        metric_get(metric_family(METRIC_COUNTER, "txmsg_checks_total", "producer,result", "", 1024), "shop", result));
}

/* --- tests --- */

static void test_committed(void **state) {
    int64_t before = counter("committed");
    struct uuid tx = id_of(1);

    configure(shop);
    wait_claim();
    assert_int_equal(slots_for("shop"), 4);
    assert_int_equal(t.reader.claim.lease_ms, 1000 * 2 * 2 + 5000);
    ask_one(1, 1, 1);
    assert_true(first_call()->is_signed);
    respond(200, "COMMITTED");
    struct lane_op *op = first_op();
    assert_int_equal(op->kind, OP_CONFIRM);
    assert_int_equal(op->origin, TX_ORIGIN_CHECK);
    assert_true(uuid_eq(&op->id, &tx));
    assert_true(bytes_eq_str(op->producer, "shop"));
    assert_false(fake_collect(&t.lane, 100)); /* no row goes before the decision is durable */
    end_op(OP_OK, TX_CONFIRMED);
    struct check_finish *f = commit_one();
    assert_true(f->remove && !f->stuck && f->token == 40 && uuid_eq(&f->tx, &tx));
    assert_int_equal(counter("committed"), before + 1);
    assert_idle();
}

static void test_rolled_back(void **state) {
    configure(shop);
    ask_one(1, 0, 0);
    respond(200, "ROLLED_BACK");
    assert_int_equal(first_op()->kind, OP_CANCEL);
    end_op(OP_NOT_FOUND, 0);
    assert_true(commit_one()->remove);
    assert_idle();
}

static void test_contrary(void **state) {
    struct metric *contrary =
        metric_get(metric_family(METRIC_COUNTER, "txmsg_checks_contrary_total", "producer", "", 256), "shop");
    int64_t before;

    configure(shop);
    before = metric_value(contrary);
    ask_one(1, 0, 0);
    respond(200, "ROLLED_BACK");
    end_op(OP_DECIDED_OTHERWISE, TX_CONFIRMED);
    assert_true(commit_one()->remove);
    assert_int_equal(metric_value(contrary), before + 1);
    assert_idle();
}

static void test_unknown(void **state) {
    configure(shop);
    ask_one(1, 0, 7);
    respond(200, "UNKNOWN");
    assert_false(any_op());
    struct check_finish *f = commit_one();
    assert_true(!f->remove && !f->stuck);
    assert_int_equal(f->unknowns, 1);
    assert_int_equal(f->failures, 0);
    assert_in_range(f->due_in_ms, 9000, 11000); /* the first repeat */
    ask_one(1, 1, 0);
    respond(200, "UNKNOWN");
    f = commit_one();
    assert_int_equal(f->unknowns, 2);
    assert_in_range(f->due_in_ms, 18000, 22000);
    ask_one(1, 2, 0);
    respond(200, "UNKNOWN");
    f = commit_one();
    assert_int_equal(f->unknowns, 3);
    assert_true(f->stuck && !f->remove);
    assert_idle();
}

/* Both endpoints fail, in ways that look like verdicts: not counted, not decided, however often. */
static void test_unreachable(void **state) {
    configure(shop);
    ask_one(1, 2, 3);
    char first[128];
    snprintf(first, sizeof(first), "%s", first_call()->url);
    respond(404, "ROLLED_BACK");
    assert_string_not_equal(first_call()->url, first);
    respond(200, "rolled_back");
    assert_int_equal(t.web.posts, 2);
    assert_false(any_op());
    struct check_finish *f = commit_one();
    assert_true(!f->remove && !f->stuck);
    assert_int_equal(f->unknowns, 2);
    assert_int_equal(f->failures, 4);
    assert_in_range(f->due_in_ms, 72000, 88000);
    assert_non_null(strstr(f->last_error, "unknown decision"));
    assert_idle();
    give_claims("shop", 0, 0, 0, 0);
    ask_one(1, 2, 1000);
    struct web_response cut = {.result = WEB_BROKEN, .error = "cut"};
    fake_respond(first_call(), &cut);
    fake_respond(first_call(), &cut);
    f = commit_one();
    assert_false(f->stuck);
    assert_int_equal(f->unknowns, 2);
    assert_int_equal(f->failures, 1001);
    assert_in_range(f->due_in_ms, 90000, 110000);
    assert_idle();
}

/* The second endpoint answers: its answer counts, and the next check begins there. */
static void test_fail_over(void **state) {
    configure(shop);
    ask_one(1, 0, 0);
    fake_respond(first_call(), &(struct web_response){.result = WEB_TIMEOUT, .error = "time"});
    char second[128];
    snprintf(second, sizeof(second), "%s", first_call()->url);
    respond(200, "COMMITTED");
    end_op(OP_OK, TX_CONFIRMED);
    commit_one();
    for (int i = 2; i < 8; i++) {
        ask_one(i, 0, 0);
        assert_string_equal(first_call()->url, second);
        respond(200, "COMMITTED");
        end_op(OP_OK, TX_CONFIRMED);
        commit_one();
    }
    assert_idle();
}

/* The lane does not take it, or cannot say what became of it: the row is left as it is. */
static void test_left(void **state) {
    static const enum op_outcome outcomes[] = {OP_UNAVAILABLE, OP_OUTCOME_UNKNOWN, OP_EXPIRED, OP_SHUTDOWN};

    configure(shop);
    t.lane.full = true;
    ask_one(1, 0, 0);
    respond(200, "COMMITTED");
    assert_idle();
    t.lane.full = false;
    for (size_t i = 0; i < ARRAY_LEN(outcomes); i++) {
        give_claims("shop", 0, 0, 0, 0);
        ask_one(2, 0, 0);
        respond(200, "COMMITTED");
        end_op(outcomes[i], 0);
        assert_idle();
    }
}

static void test_refused(void **state) {
    configure(shop);
    ask_one(1, 2, 0);
    respond(200, "COMMITTED");
    end_op(OP_PRODUCER_DIFFERS, 0);
    struct check_finish *f = commit_one();
    assert_true(!f->remove && !f->stuck);
    assert_int_equal(f->unknowns, 2);
    assert_int_equal(f->failures, 1);
    assert_idle();
}

static void test_lost_batch(void **state) {
    configure(shop);
    ask_one(1, 0, 0);
    respond(200, "UNKNOWN");
    assert_true(fake_collect(&t.lane, 100));
    fake_end(&t.lane, false);
    struct check_finish *f = commit_one(); /* the next lane writes it */
    assert_int_equal(f->unknowns, 1);
    assert_idle();
}

static void test_full_batch(void **state) {
    configure(shop);
    wait_claim();
    give_claims("shop", 1, 4, 0, 0);
    give_contents(4);
    for (int i = 0; i < 4; i++)
        respond(200, "UNKNOWN");
    assert_true(fake_collect(&t.lane, 3));
    assert_int_equal(t.lane.b.ends_n, 3);
    fake_end(&t.lane, true);
    commit_one();
    assert_idle();
}

/* Messages come in parts, or not at all. */
static void test_contents(void **state) {
    configure(shop);
    wait_claim();
    give_claims("shop", 1, 4, 0, 0);
    assert_int_equal(t.reader.contents.n, 4);
    give_contents(1);
    assert_int_equal(t.web.posts, 1);
    assert_int_equal(t.reader.contents.n, 3);
    reader_contents_fn *fn = TAKE(t.reader.contents.fn);
    fn(t.reader.contents.arg, -EAGAIN, NULL, 0);
    while (!t.reader.contents.fn)
        turn();
    assert_int_equal(t.reader.contents.n, 3);
    fn = TAKE(t.reader.contents.fn); /* one of them cannot be understood: it alone fails */
    fn(t.reader.contents.arg, -EINVAL, NULL, 0);
    assert_int_equal(t.reader.contents.n, 1);
    fn = TAKE(t.reader.contents.fn);
    fn(t.reader.contents.arg, -EINVAL, NULL, 0);
    assert_int_equal(t.reader.contents.n, 1);
    give_contents(1);
    assert_int_equal(t.reader.contents.n, 1);
    give_contents(1);
    assert_int_equal(t.web.posts, 3);
    struct check_finish *f = commit_one();
    assert_int_equal(f->failures, 1);
    assert_int_equal(f->unknowns, 0);
    for (int i = 0; i < 3; i++)
        respond(200, "UNKNOWN");
    assert_true(fake_collect(&t.lane, 100));
    fake_end(&t.lane, true);
    assert_idle();
}

static void test_not_stored(void **state) {
    struct tx_content *none = NULL;

    configure(shop);
    wait_claim();
    give_claims("shop", 1, 1, 0, 0);
    reader_contents_fn *fn = TAKE(t.reader.contents.fn);
    fn(t.reader.contents.arg, 0, &none, 1);
    assert_int_equal(t.web.posts, 0);
    struct check_finish *f = commit_one();
    assert_true(!f->remove && !f->stuck && f->failures == 1 && f->unknowns == 0);
    assert_idle();
}

/* A full web client delays, it does not count. */
static void test_full_client(void **state) {
    configure(shop);
    t.web.max = 1;
    wait_claim();
    give_claims("shop", 1, 3, 0, 0);
    give_contents(3);
    for (int i = 0; i < 3; i++) {
        while (!any_call())
            turn();
        assert_int_equal(t.web.in_flight, 1);
        respond(200, "UNKNOWN");
    }
    assert_true(fake_collect(&t.lane, 100));
    assert_int_equal(t.lane.b.ends_n, 3);
    for (int i = 0; i < 3; i++)
        assert_int_equal(t.lane.b.ends[i].failures, 0);
    fake_end(&t.lane, true);
    assert_idle();
}

/* Not asked: without endpoints. Not kept: what comes for somebody unknown. */
static void test_who_is_asked(void **state) {
    static const char *const with_mute[] = {SHOP, "mute", "{}", NULL}, *const nobody[] = {NULL};

    configure(nobody);
    turns(5);
    assert_null(t.reader.claim.fn);
    configure(with_mute);
    wait_claim();
    assert_int_equal(t.reader.claim.n, 1);
    assert_int_equal(slots_for("mute"), 0);
    give_claims("stranger", 1, 2, 0, 0);
    assert_null(t.reader.contents.fn);
    assert_idle();
}

/* Several leases in one round: a query for each. */
static void test_leases(void **state) {
    static const char *const three[] = {SHOP,
                                        "slow",
                                        "{\"check\":{\"endpoints\":[\"http://c\"],\"timeout\":\"30s\"}}",
                                        "same",
                                        "{\"check\":{\"endpoints\":[\"http://d\",\"http://e\"],\"timeout\":\"1s\"}}",
                                        NULL};
    int asked = 0;

    configure(three);
    for (int query = 0; asked < 3; query++) {
        assert_in_range(query, 0, 2);
        wait_claim();
        assert_int_equal(t.reader.claim.lease_ms, slots_for("slow") ? 65000 : 9000);
        assert_true(!slots_for("slow") || t.reader.claim.n == 1);
        asked += (int)t.reader.claim.n;
        give_claims("shop", 0, 0, 0, 0);
    }
    assert_int_equal(asked, 3);
}

/* A producer that does not answer takes its concurrency, or the common half, and never another's share. */
static void test_isolation(void **state) {
    static const char *const two[] = {
        "dead", "{\"check\":{\"endpoints\":[\"http://dead\"],\"timeout\":\"1s\",\"concurrency\":100}}", "live",
        "{\"check\":{\"endpoints\":[\"http://live\"],\"timeout\":\"1s\",\"concurrency\":100}}", NULL};
    int taken = 0;

    configure(two);
    for (int i = 0; i < 20; i++) {
        wait_claim();
        int n = slots_for("dead");
        if (n == 0) {
            give_claims("dead", 0, 0, 0, 0);
            continue;
        }
        give_claims("dead", taken, n, 0, 0);
        give_contents((size_t)n);
        taken += n;
    }
    assert_int_equal(taken, 6); /* 8: a share of 2 each, and the common 4 */
    wait_claim();
    assert_int_equal(slots_for("live"), 2);
    give_claims("live", 100, 2, 0, 0);
    give_contents(2);
    assert_int_equal(t.web.in_flight, 8);
    turns(5);
    assert_null(t.reader.claim.fn); /* all in use */
}

static void test_not_allowed(void **state) {
    configure(shop);
    wait_claim();
    asker_allow(t.asker, false);
    give_claims("shop", 1, 2, 0, 0);
    turns(5);
    assert_null(t.reader.claim.fn);
    assert_null(t.reader.contents.fn);
    asker_allow(t.asker, true);
    while (!t.reader.contents.fn)
        turn();
    give_contents(2);
    assert_int_equal(t.web.in_flight, 2);
}

/* The configuration changes while checks are under way: they end by the old one. */
static void test_reconfigured(void **state) {
    static const char *const nobody[] = {NULL};

    configure(shop);
    ask_one(1, 0, 0);
    configure(nobody);
    topology_unref(TAKE(t.topology));
    fake_respond(first_call(), &(struct web_response){.result = WEB_TIMEOUT, .error = "time"});
    respond(200, "UNKNOWN"); /* of the other endpoint */
    assert_int_equal(commit_one()->unknowns, 1);
    if (t.reader.claim.fn)
        give_claims("shop", 2, 1, 0, 0);
    assert_null(t.reader.contents.fn);
    configure(shop);
    assert_idle();
}

/* Freed with a check in every place; what comes afterwards is harmless. */
static void test_freed(void **state) {
    configure(shop);
    wait_claim();
    give_claims("shop", 1, 3, 0, 0);
    give_contents(2); /* the third is read again */
    assert_non_null(t.reader.contents.fn);
    respond(200, "COMMITTED"); /* deciding */
    respond(200, "UNKNOWN");   /* riding */
    assert_true(fake_collect(&t.lane, 100));
    wait_claim();
    asker_free(TAKE(t.asker));
    assert_int_equal(t.web.in_flight, 0);
    end_op(OP_SHUTDOWN, 0);
    give_claims("shop", 5, 1, 0, 0);
    give_contents(1);
    asker_free(NULL);
}

int main(void) {
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(test_committed),
        T(test_rolled_back),
        T(test_contrary),
        T(test_unknown),
        T(test_unreachable),
        T(test_fail_over),
        T(test_left),
        T(test_refused),
        T(test_lost_batch),
        T(test_full_batch),
        T(test_contents),
        T(test_not_stored),
        T(test_full_client),
        T(test_who_is_asked),
        T(test_leases),
        T(test_not_allowed),
        T(test_reconfigured),
        T(test_freed),
        cmocka_unit_test_setup_teardown(test_isolation, setup_few, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
