/*
 * Whom to ask next. A tick every poll_ms claims due rows for all producers with free slots, in one query per common
 * lease and 64 names, one query at a time; the messages of what was claimed are read in groups, bounded in bytes; then
 * each goes its way (check.c).
 *
 * A dead producer holds its own slots until its time-outs, and at most HELD_MAX of requests beside what one read
 * brings, so it costs the others nothing. What cannot be finished here in the time of its lease is left to whoever
 * claims it next: tokens keep both apart.
 */
#include "checkback/batch.h"

#include "base/metric.h"

enum {
    ASKS_MAX = 64,
    READ_MAX = 64,
    READ_BYTES = 8 << 20,
    HELD_MAX = 8 << 20, /* of requests of one producer: no more are begun */
    SOON_MS = 10,
};

/* Queries under way; they outlive the asker if it goes first. */
struct claim_call {
    struct asker *asker;
    uint64_t lease_ns;
};
struct read_call {
    struct asker *asker;
    struct list checks;
    size_t n;
    struct uuid ids[READ_MAX];
};

/* --- messages of claimed transactions --- */

static void read_next(struct asker *a);

void asker_flush(struct asker *a) {
    batches_send(a);
    if (a->wake_desk)
        desk_wake(a->desk);
    a->wake_desk = false;
}

static void send_ready(struct asker *a) {
    struct list todo = LIST_INIT(todo);
    struct list *e;

    list_splice_tail(&todo, &a->ready);
    while ((e = list_pop(&todo))) {
        struct check *c = LIST_ENTRY(e, struct check, link);
        list_add_tail(&a->ready, &c->link);
        if (!check_send(c))
            break;
    }
    list_splice_tail(&a->ready, &todo);
    asker_flush(a);
}

void asker_send(struct asker *a) {
    send_ready(a);
}

/* Those that came back from the desk. */
static void on_back(void *arg, struct list *items) {
    struct asker *a = arg;
    struct list *e;

    while ((e = list_pop(items)))
        check_back(CONTAINER_OF(LIST_ENTRY(e, struct desk_check, link), struct check, desk));
    if (!a->closing)
        send_ready(a); /* their credit may serve others */
}

static void end_overdue(struct asker *a) {
    uint64_t now = loop_now_ns(a->loop);

    LIST_FOR_SAFE (e, &a->asking) {
        struct check *c = LIST_ENTRY(e, struct check, link);
        if (c->at_desk && c->desk_until_ns <= now)
            check_overdue(c);
    }
}

/* Rows that cannot be understood spoil the whole read: its checks are read one by one, and that one fails. */
static void on_unreadable(struct asker *a, struct read_call *call) {
    if (call->n > 1) {
        a->careful = call->n;
        return;
    }
    check_write(LIST_ENTRY(list_pop(&call->checks), struct check, link), NULL);
}

static void on_contents(void *arg, int code, struct tx_content *const *contents, size_t n) {
    struct read_call *call = arg;
    struct asker *a = call->asker;
    struct list *e;

    if (!a) {
        mem_free(call);
        return;
    }
    a->read = NULL;
    for (size_t i = 0; code == 0 && i < n && (e = list_pop(&call->checks)); i++) {
        struct check *c = LIST_ENTRY(e, struct check, link);
        check_write(c, contents[i]);
    }
    a->careful -= MIN(a->careful, code == 0 || code == -EINVAL ? call->n : 0);
    if (code == -EINVAL)
        on_unreadable(a, call);
    list_splice_head(&a->waiting, &call->checks); /* those that did not fit; or all, at the next tick */
    mem_free(call);
    send_ready(a);
    if (code == -EINVAL || (code == 0 && n > 0))
        read_next(a);
}

/* Moves checks whose producers may begin another one into the call. */
static void pick(struct asker *a, struct read_call *call) {
    size_t max = a->careful ? 1 : READ_MAX;

    LIST_FOR_SAFE (e, &a->waiting) {
        struct check *c = LIST_ENTRY(e, struct check, link);
        if (call->n == max)
            break;
        if (!check_has_time(c)) {
            check_free(c);
        } else if (c->producer->held < HELD_MAX) {
            list_del(&c->link);
            list_add_tail(&call->checks, &c->link);
            call->ids[call->n++] = c->tx;
        }
    }
}

static void read_next(struct asker *a) {
    if (a->read || !a->allowed || list_empty(&a->waiting))
        return;
    struct read_call *call = mem_zalloc(sizeof(*call));
    if (!call)
        return;
    call->asker = a;
    list_init(&call->checks);
    a->read = call;
    pick(a, call);
    if (call->n > 0 && reader_contents(a->reader, call->ids, call->n, READ_BYTES, on_contents, call) == 0)
        return;
    list_splice_head(&a->waiting, &call->checks);
    a->read = NULL;
    mem_free(call);
}

/* --- claims --- */

static void claim_next(struct asker *a);

static void take(struct asker *a, const struct check_claim *claim, uint64_t lease_ns) {
    struct producer *of = producers_find(&a->producers, claim->producer);

    if (!of) /* it left the configuration meanwhile */
        return;
    of->got++;
    age_seen(a->age, &claim->tx, claim->prepared_us, producers_lease_ms(of->policy));
    struct check *c = check_new(a, of, claim, lease_ns);
    UNUSED(c); /* NULL: left */
}

static void on_claimed(void *arg, int code, const struct check_claim *claims, size_t n) {
    struct claim_call *call = arg;
    struct asker *a = call->asker;
    uint64_t lease_ns = call->lease_ns;

    mem_free(call);
    if (!a)
        return;
    a->claim = NULL;
    for (size_t i = 0; code == 0 && i < n; i++)
        take(a, &claims[i], lease_ns);
    producers_answered(&a->producers);
    read_next(a);
    if (code == 0)
        claim_next(a);
    else
        a->in_round = false;
}

/* The next query of the round. */
static void claim_next(struct asker *a) {
    struct check_ask asks[ASKS_MAX];
    int64_t lease_ms = 0;
    size_t n =
        a->allowed ? producers_asks(&a->producers, &a->round_done, asks, ASKS_MAX, &lease_ms, loop_now_ns(a->loop)) : 0;
    struct claim_call *call = n ? mem_zalloc(sizeof(*call)) : NULL;

    if (call) {
        call->asker = a;
        call->lease_ns = loop_now_ns(a->loop) + (uint64_t)lease_ms * NS_PER_MS;
        a->claim = call;
        if (reader_claim_checks(a->reader, asks, n, lease_ms, on_claimed, call) == 0)
            return;
        a->claim = NULL;
        mem_free(call);
    }
    a->in_round = false;
}

static void round_begin(struct asker *a) {
    if (a->in_round || !reader_ready(a->reader) || lane_number(a->own) == 0)
        return;
    a->in_round = true;
    a->round_done = 0;
    a->producers.turn++;
    producers_reach(&a->producers, a->desk);
    claim_next(a);
}

/* --- the rows of ended checks --- */

static void on_collect(void *arg, struct lane_batch *b) {
    struct asker *a = arg;

    LIST_FOR_SAFE (e, &a->ending) {
        struct check *c = LIST_ENTRY(e, struct check, link);
        if (lane_add_check_finish(b, &c->finish) != 0) /* full: the next batch */
            break;
        list_del(&c->link);
        list_add_tail(&a->riding, &c->link);
    }
}

static void report_stuck(struct check *c) {
    char id[UUID_TEXT];

    metric_add(c->producer->stuck, 1);
    if (!log_limit_pass(&c->asker->stuck, NS_PER_S)) /* the list is in the store */
        return;
    uuid_format(&c->tx, id);
    LOG_WARN("checkback", "transaction %s of producer %s is STUCK: UNKNOWN %d times", id, c->name, c->finish.unknowns);
}

static void on_committed(void *arg, unsigned stale) {
    struct asker *a = arg;
    struct list *e;

    UNUSED(stale); /* of all riders together; a stale one was claimed by somebody else, who ends it */
    while ((e = list_pop(&a->riding))) {
        struct check *c = LIST_ENTRY(e, struct check, link);
        if (c->finish.stuck)
            report_stuck(c);
        check_free(c);
    }
    if (!list_empty(&a->ending))
        lane_kick(a->own, 0);
}

/* Rows of ended checks belong to no lane: the next one writes them. */
static void on_lost(void *arg) {
    struct asker *a = arg;

    list_splice_head(&a->ending, &a->riding);
}

/* --- the asker --- */

static void on_tick(void *arg) {
    struct asker *a = arg;

    a->soon = false;
    timer_arm(a->timer, (uint64_t)a->o.poll_ms);
    age_expire(a->age);
    if (!list_empty(&a->ending))
        lane_kick(a->own, 0);
    end_overdue(a);
    asker_flush(a);
    if (!a->allowed)
        return;
    send_ready(a);
    read_next(a);
    round_begin(a);
}

void asker_soon(struct asker *a) {
    if (a->closing || a->soon || a->o.poll_ms <= SOON_MS)
        return;
    a->soon = true;
    timer_arm(a->timer, SOON_MS);
}

int asker_new(struct loop *l, struct store *s, struct reader *r, struct webclient *w, struct lane *own, struct age *age,
              const struct asker_options *o, struct asker **ret) {
    struct asker *a = mem_zalloc(sizeof(*a));
    int code;

    if (!a)
        return -ENOMEM;
    *a = (struct asker){.loop = l,
                        .store = s,
                        .reader = r,
                        .web = w,
                        .own = own,
                        .age = age,
                        .o = *o,
                        .desk = o->desk,
                        .caller = o->caller,
                        .allowed = true};
    a->rider = (struct lane_rider){.collect = on_collect, .committed = on_committed, .lost = on_lost, .arg = a};
    struct list *lists[] = {&a->waiting, &a->ready, &a->asking, &a->deciding, &a->ending, &a->riding};
    for (size_t i = 0; i < ARRAY_LEN(lists); i++)
        list_init(lists[i]);
    list_init(&a->calling);
    list_init(&a->batches);
    code = producers_init(&a->producers, o->in_flight);
    code = code < 0 ? code : timer_new(l, on_tick, a, &a->timer);
    code = code < 0 ? code : mailbox_new(l, (size_t)o->in_flight, on_back, a, &a->back); /* room for every check */
    if (code < 0) {
        timer_free(a->timer);
        producers_deinit(&a->producers);
        mem_free(a);
        return code;
    }
    lane_add_rider(own, &a->rider);
    timer_arm(a->timer, (uint64_t)a->o.poll_ms);
    *ret = a;
    return 0;
}

void asker_topology(struct asker *a, struct topology *t) {
    if (producers_apply(&a->producers, t) < 0)
        LOG_ERROR("checkback", "out of memory: configuration epoch %lld is not applied", (long long)t->epoch);
}

void asker_sharers(struct asker *a, int workers) {
    a->producers.sharers = workers;
}

void asker_allow(struct asker *a, bool allowed) {
    a->allowed = allowed;
}

static void abandon_all(struct list *l) {
    while (!list_empty(l))
        check_abandon(LIST_ENTRY(l->next, struct check, link));
}

void asker_free(struct asker *a) {
    if (!a)
        return;
    a->closing = true;
    lane_remove_rider(a->own, &a->rider);
    timer_free(a->timer);
    if (a->claim)
        a->claim->asker = NULL;
    if (a->read) {
        abandon_all(&a->read->checks);
        a->read->asker = NULL;
    }
    LIST_FOR (e, &a->asking) {
        struct check *c = LIST_ENTRY(e, struct check, link);
        if (c->at_desk && desk_take_back(a->desk, &c->desk))
            c->at_desk = false;
    }
    batches_abandon(a);
    mailbox_close(a->back); /* what is on its way comes now */
    mailbox_free(a->back);
    struct list *lists[] = {&a->waiting, &a->ready, &a->asking, &a->deciding, &a->ending, &a->riding};
    for (size_t i = 0; i < ARRAY_LEN(lists); i++)
        abandon_all(lists[i]);
    producers_deinit(&a->producers);
    mem_free(a);
}
