/*
 * The life of one check, from the messages of its transaction to what its answer made of it.
 *
 * Streams of the producer come first: two of them may let their time go by, or answer what is no answer. One that ends
 * is replaced at once and counts for nothing. Then endpoints are tried one after the other, beginning with the one that
 * answered last. All this is within one claim. The first well-formed answer ends it; if none comes, the row is due again
 * by the back-off on failures, which never counts to the limit. A check that nobody was asked about, because the last
 * stream went, is due again at once, for whoever has a stream. A verdict becomes an operation of the own lane, like any Confirm or Cancel: if the producer itself came
 * first, that decision stands.
 */
#include "checkback/check.h"

#include "base/metric.h"
#include "checkback/request.h"
#include "core/validate.h"

enum {
    REQUEST_MAX = 48 << 20,
    MESSAGE_MAX = 4 << 20,
    PULLS_MAX = 2,
    AGAIN_MIN_MS = 1000,
    AGAIN_MAX_MS = 24 * 3600 * 1000,
};

static void waits(struct check *c, bool yes) {
    c->producer->waiting += yes - c->waits;
    c->waits = yes;
}

struct check *check_new(struct asker *a, struct producer *of, const struct check_claim *claim, uint64_t lease_ns) {
    struct check *c = mem_zalloc(sizeof(*c));

    if (!c)
        return NULL;
    if (claim->business_key && !(c->business_key = mem_strdup(claim->business_key))) {
        mem_free(c);
        return NULL;
    }
    c->asker = a;
    c->producer = of;
    c->topology = topology_ref(a->producers.topology);
    c->policy = of->policy;
    snprintf(c->name, sizeof(c->name), "%s", of->name);
    c->tx = claim->tx;
    c->token = claim->token;
    c->tries = claim->tries;
    c->unknowns = claim->unknowns;
    c->failures = claim->failures;
    c->prepared_us = claim->prepared_us;
    c->stored_us = claim->stored_us;
    c->lease_ns = lease_ns;
    c->endpoint = of->good >= 0 ? of->good : (int)(backoff_random() * c->policy->endpoints_n);
    buf_init(&c->request, REQUEST_MAX);
    arena_init(&c->arena, MESSAGE_MAX);
    producers_take(&a->producers, of);
    waits(c, c->policy->endpoints_n == 0);
    list_add_tail(&a->waiting, &c->link);
    return c;
}

static void memory_free(struct check *c) {
    list_del(&c->link);
    topology_unref(c->topology);
    mem_free(c->business_key);
    buf_deinit(&c->request);
    tx_content_unref(c->content);
    answer_end(&c->desk.answer);
    mem_free(c->bodies);
    arena_deinit(&c->arena);
    mem_free(c);
}

/* Bytes kept for asking. */
static size_t held(const struct check *c) {
    return c->request.n + (c->content ? c->content->bytes : 0);
}

static void slot_give(struct check *c) {
    bool more = c->producer->more;

    c->producer->held -= held(c);
    waits(c, false);
    producers_give(&c->asker->producers, c->producer);
    if (more)
        asker_soon(c->asker);
}

void check_free(struct check *c) {
    slot_give(c);
    memory_free(c);
}

void check_abandon(struct check *c) {
    struct web_call *call = TAKE(c->call);

    if (call)
        webclient_cancel(call); /* on_response() frees it */
    else if (c->op.done) {
        slot_give(c);
        list_del(&c->link);
        c->asker = NULL;
    } else
        check_free(c);
}

/* From one list to another. */
static void move(struct check *c, struct list *to) {
    list_del(&c->link);
    list_add_tail(to, &c->link);
}

static void count(struct check *c, enum answer_verdict v) {
    metric_add(c->producer->results[v], 1);
}

/* --- ends --- */

static void end(struct check *c) {
    c->finish.tx = c->tx;
    c->finish.token = c->token;
    if (c->finish.remove || c->finish.stuck)
        age_gone(c->asker->age, &c->tx);
    else
        age_seen(c->asker->age, &c->tx, c->prepared_us, c->finish.due_in_ms);
    move(c, &c->asker->ending);
    lane_kick(c->asker->own, 20);
}

static void end_failed(struct check *c) {
    int32_t failures = c->failures < INT32_MAX ? c->failures + 1 : c->failures;

    c->finish = (struct check_finish){.due_in_ms = backoff_delay_ms(&c->policy->backoff, failures, backoff_random()),
                                      .unknowns = c->unknowns,
                                      .failures = failures,
                                      .last_error = c->error};
    end(c);
}

static void end_unreachable(struct check *c) {
    count(c, ANSWER_UNREACHABLE);
    end_failed(c);
}

/* Nobody was asked: as if it had not been claimed. */
static void end_unasked(struct check *c) {
    c->finish = (struct check_finish){
        .unknowns = c->unknowns, .failures = c->failures, .last_error = "no stream of the producer is left here"};
    end(c);
}

/* When the producer wants to be asked again, within bounds; else by the back-off. */
static int64_t unknown_delay_ms(const struct check *c, const struct answer *answer, int32_t unknowns) {
    int64_t ms = answer->again_after_ms;

    if (answer->again_at_us)
        ms = MAX((answer->again_at_us - store_now_us(c->asker->store)) / 1000, 0);
    if (ms < 0)
        return backoff_delay_ms(&c->policy->backoff, unknowns, backoff_random());
    return MIN(MAX(ms, (int64_t)AGAIN_MIN_MS), (int64_t)AGAIN_MAX_MS);
}

static void end_unknown(struct check *c, int64_t due_in_ms, const char *why) {
    int32_t unknowns = c->unknowns + 1;

    count(c, ANSWER_UNKNOWN);
    bool stuck = unknowns >= c->policy->max_unknowns;
    c->finish = (struct check_finish){
        .due_in_ms = stuck ? 0 : due_in_ms, .unknowns = unknowns, .stuck = stuck, .last_error = why};
    end(c);
}

/* How much younger than rolled_back_not_before the transaction was when the question went out; <= 0: it was not. */
static int64_t too_young_ms(const struct check *c) {
    return c->policy->rolled_back_not_before_ms - (c->asked_us - c->stored_us) / 1000;
}

/* The row of a local transaction that still runs is not there yet: asked again when that cannot be so any more. */
static void end_too_young(struct check *c) {
    int64_t ms = backoff_delay_ms(&c->policy->backoff, c->unknowns + 1, backoff_random());

    end_unknown(c, MAX(ms, too_young_ms(c)), "answered ROLLED_BACK before the age of rolled_back_not_before");
}

static void end_decided(struct check *c) {
    c->finish = (struct check_finish){.remove = true};
    end(c);
}

/* --- the verdict --- */

static enum tx_state state_of(enum answer_verdict v) {
    return v == ANSWER_COMMITTED ? TX_CONFIRMED : TX_CANCELLED;
}

/* Somebody decided meanwhile. Agreement is common (the producer confirmed while it was asked); the contrary is a
 * producer that errs. */
static void report_contrary(struct check *c) {
    char id[UUID_TEXT];

    if (c->op.state == state_of(c->verdict))
        return;
    metric_add(c->producer->contrary, 1);
    if (!log_limit_pass(&c->asker->contrary, NS_PER_S))
        return;
    uuid_format(&c->tx, id);
    LOG_ERROR("checkback", "producer %s answered %s to a check of transaction %s, which is already %s by %s", c->name,
              answer_name(c->verdict), id, tx_state_name(c->op.state), tx_origin_name(c->op.decided_by));
}

/* The producer confirmed meanwhile, with other bodies: those are sent. */
static void report_bodies(struct check *c) {
    char id[UUID_TEXT];

    metric_add(c->producer->contrary, 1);
    if (!log_limit_pass(&c->asker->contrary, NS_PER_S))
        return;
    uuid_format(&c->tx, id);
    LOG_ERROR("checkback",
              "producer %s answered a check of transaction %s with other bodies than it was confirmed with", c->name,
              id);
}

static void on_decided(struct lane_op *op) {
    struct check *c = CONTAINER_OF(op, struct check, op);

    op->done = NULL; /* the lane is through with it */
    if (!c->asker) {
        memory_free(c);
        return;
    }
    switch (op->outcome) {
    case OP_DECIDED_OTHERWISE:
        report_contrary(c);
        end_decided(c);
        return;
    case OP_OK:
    case OP_NOT_FOUND:
        end_decided(c);
        return;
    case OP_UNAVAILABLE: /* left: nothing, or the very same, was stored */
    case OP_OUTCOME_UNKNOWN:
    case OP_EXPIRED:
    case OP_SHUTDOWN:
        check_free(c);
        return;
    case OP_CONTENT_DIFFERS:
        report_bodies(c);
        end_decided(c);
        return;
    case OP_BODIES_DIFFER:
    case OP_PRODUCER_DIFFERS:
    case OP_PAST_RETENTION:
    case OP_REFUSED:
        break;
    }
    snprintf(c->error, sizeof(c->error), "verdict refused: %s",
             op->outcome == OP_REFUSED          ? op->why
             : op->outcome == OP_PAST_RETENTION ? "past retention"
             : op->outcome == OP_BODIES_DIFFER  ? "other bodies than were declared"
                                                : "other producer");
    end_failed(c);
}

static void decide(struct check *c) {
    struct lane *own = c->asker->own;

    count(c, c->verdict);
    c->op = (struct lane_op){.kind = c->verdict == ANSWER_COMMITTED ? OP_CONFIRM : OP_CANCEL,
                             .origin = TX_ORIGIN_CHECK,
                             .id = c->tx,
                             .producer = bytes_str(c->name),
                             .bodies = c->bodies,
                             .done = on_decided};
    move(c, &c->asker->deciding);
    int r = lane_submit(own, &c->op); /* `c` may be gone already */
    if (r == 0) {
        lane_kick(own, 0);
        return;
    }
    c->op.done = NULL;
    check_free(c); /* the lane has more than it can do: left */
}

/* --- asking --- */

bool check_has_time(const struct check *c) {
    return loop_now_ns(c->asker->loop) + (uint64_t)c->policy->timeout_ms * NS_PER_MS <= c->lease_ns;
}

static int write_message(struct check *c, const struct question *q) {
    c->message = request_message(&c->arena, q);
    if (!c->message)
        return -ENOMEM;
    return 0;
}

void check_write(struct check *c, const struct tx_content *content) {
    struct question q = {.tx = &c->tx,
                         .producer = c->name,
                         .business_key = c->business_key,
                         .prepared_us = c->prepared_us,
                         .check_count = c->tries,
                         .content = content,
                         .include_body = c->policy->include_body};
    int r = content ? 0 : -ENOENT;

    if (r == 0 && c->policy->endpoints_n > c->policy->grpc_n)
        r = request_body(&c->request, &q);
    if (r == 0 && (c->policy->grpc_n > 0 || c->policy->endpoints_n == 0 || desk_room(c->asker->desk, c->name) > 0))
        r = write_message(c, &q);
    if (content && (c->message || content->later_n))
        c->content = tx_content_ref((struct tx_content *)(uintptr_t)content);
    c->producer->held += held(c);
    if (r == 0) {
        move(c, &c->asker->ready);
        return;
    }
    snprintf(c->error, sizeof(c->error), "%s", content ? err_text(r) : "its messages cannot be read");
    end_failed(c);
}

static void next_endpoint(struct check *c, const char *why) {
    struct producer *of = c->producer;

    snprintf(c->error, sizeof(c->error), "endpoint %d: %s", c->endpoint + 1, why);
    if (of->policy == c->policy && of->good == c->endpoint)
        of->good = -1;
    c->endpoint = (c->endpoint + 1) % c->policy->endpoints_n;
    c->tried++;
}

/* A COMMITTED has exactly the bodies that the transaction waits for, else it is no answer. */
static void check_bodies(struct check *c, struct answer *answer) {
    static const struct tx_content nothing = {.later_n = 0};
    struct violation v;

    if (answer->verdict != ANSWER_COMMITTED)
        return;
    if (!tx_bodies_fit(c->content ? c->content : &nothing, answer->bodies)) {
        answer_refuse(answer, "%s",
                      answer->bodies ? "answer with other bodies than were declared body_later"
                                     : "answer without the bodies that were declared body_later");
        return;
    }
    if (!answer->bodies)
        return;
    if (validate_bodies(&c->asker->o.limits, answer->bodies->list, answer->bodies->n, &v))
        answer_refuse(answer, "%.40s %.80s", v.field, v.description);
}

/* False: it is no answer, and says why. */
static bool answered(struct check *c, struct answer *answer) {
    if (answer->verdict == ANSWER_UNREACHABLE)
        return false;
    c->verdict = answer->verdict;
    c->bodies = TAKE(answer->bodies);
    if (answer->verdict == ANSWER_UNKNOWN)
        end_unknown(c, unknown_delay_ms(c, answer, c->unknowns + 1), "answered UNKNOWN");
    else if (answer->verdict == ANSWER_ROLLED_BACK && too_young_ms(c) > 0)
        end_too_young(c);
    else
        decide(c);
    return true;
}

static void next_stream(struct check *c, const char *why) {
    snprintf(c->error, sizeof(c->error), "stream: %s", why);
    c->pulled++;
    c->avoid = c->desk.asked;
    waits(c, c->policy->endpoints_n == 0);
    move(c, &c->asker->ready);
    check_send(c);
}

void check_back(struct check *c) {
    c->at_desk = false;
    if (c->asker->closing) /* it is abandoned with the others */
        return;
    check_bodies(c, &c->desk.answer);
    if (c->desk.lost) {
        waits(c, c->policy->endpoints_n == 0);
        move(c, &c->asker->ready);
        check_send(c);
    } else if (!answered(c, &c->desk.answer)) {
        next_stream(c, c->desk.answer.why);
    }
}

void check_overdue(struct check *c) {
    if (!desk_take_back(c->asker->desk, &c->desk)) /* at the last moment */
        return;
    c->at_desk = false;
    next_stream(c, "no answer in time");
}

void check_call_again(struct check *c) {
    move(c, &c->asker->ready);
    check_send(c);
}

void check_called(struct check *c, struct answer *answer) {
    check_bodies(c, answer);
    if (answer->verdict == ANSWER_UNREACHABLE) {
        next_endpoint(c, answer->why);
        check_call_again(c);
        return;
    }
    if (c->producer->policy == c->policy)
        c->producer->good = c->endpoint;
    (void)!answered(c, answer);
}

static void on_response(void *arg, const struct web_response *resp) {
    struct check *c = arg;
    struct asker *a = c->asker;
    struct answer answer;

    c->call = NULL;
    if (resp->result == WEB_CANCELLED) { /* by check_abandon() alone */
        check_free(c);
        return;
    }
    answer_read(resp, &c->tx, &answer);
    check_called(c, &answer);
    asker_flush(a);
}

static int post(struct check *c) {
    struct request_headers headers;
    int r = request_headers(&headers, c->policy->secret, &c->tx, store_now_us(c->asker->store) / 1000000,
                            buf_bytes(&c->request));
    struct web_request request = {.url = c->policy->endpoints[c->endpoint],
                                  .body = buf_bytes(&c->request),
                                  .headers = headers.list,
                                  .timeout_ms = c->policy->timeout_ms};
    return r < 0 ? r : webclient_post(c->asker->web, &request, on_response, c, &c->call);
}

static bool is_grpc(const struct check *c) {
    return strncmp(c->policy->endpoints[c->endpoint], POLICY_GRPC, strlen(POLICY_GRPC)) == 0;
}

/* What became of trying to have a stream asked. */
static enum desk_given pull(struct check *c) {
    struct asker *a = c->asker;
    enum desk_given r;

    if (!c->message || c->pulled >= PULLS_MAX)
        return DESK_NOBODY;
    c->desk = (struct desk_check){.request = c->message,
                                  .tx = c->tx,
                                  .deadline_us = store_now_us(a->store) + c->policy->timeout_ms * 1000,
                                  .back = a->back,
                                  .avoid = c->avoid};
    list_init(&c->desk.link);
    r = desk_give(a->desk, c->name, &c->desk);
    if (r != DESK_TAKEN)
        return r;
    /* It may be on its way back already, but nobody here has looked. */
    c->at_desk = true;
    c->desk_until_ns = loop_now_ns(a->loop) + (uint64_t)c->policy->timeout_ms * NS_PER_MS;
    waits(c, false);
    a->wake_desk = true;
    move(c, &a->asking);
    return r;
}

bool check_send(struct check *c) {
    enum desk_given given = DESK_NOBODY;

    if (!c->asker->allowed)
        return false;
    while (check_has_time(c)) {
        c->asked_us = store_now_us(c->asker->store);
        given = pull(c);
        if (given == DESK_TAKEN)
            return true;
        if (c->tried >= c->policy->endpoints_n)
            break;
        if (is_grpc(c)) {
            move(c, &c->asker->calling);
            return true;
        }
        int r = post(c);
        if (r == 1)
            return false;
        if (r == 0) {
            move(c, &c->asker->asking);
            return true;
        }
        next_endpoint(c, r == -EINVAL ? "not an endpoint that can be asked" : err_text(r));
    }
    if (given == DESK_BUSY && check_has_time(c))
        return true; /* stays ready: a stream will take it, or its time goes by */
    if (c->tried || c->pulled)
        end_unreachable(c);
    else if (check_has_time(c))
        end_unasked(c);
    else
        check_free(c); /* no time left: left */
    return true;
}
