/*
 * RedriveDeadLetters and DiscardDeadLetters: requests and responses of both have one shape.
 *
 * First the sample, then the count or the act. The act goes in pieces, each a transaction, and after each piece it pauses for as
 * long as its rate says, the last pause included: so a caller who calls again and again keeps to the rate too. It ends when a piece
 * comes out short, when its time is over, or when a piece fails; what was done is what the response counts.
 */
#include "admin/admin_private.h"

#include "base/clock.h"

enum { NAMES_MAX = 1000, SAMPLE = 10, RATE_DEFAULT = 1000, RATE_MAX = 10000, ACT_MS_MAX = 5000, ANSWER_MS = 1000 };

struct act {
    struct job job;
    struct list pausing; /* in the service's list while the timer runs */
    struct timer *timer;
    enum view_dead_act act; /* VIEW_DEAD_REDRIVE or .._DISCARD */
    const Txmsg__V1__RedriveDeadLettersRequest *q;
    struct view_dead_filter filter;
    struct dead_key *keys;
    size_t keys_n, keys_done, asked; /* asked: keys looked up for the sample */
    const char *actor;
    int32_t rate;
    int64_t piece, count, began_us;
    bool more;
    uint64_t end_ns;
    Txmsg__V1__DeadLetter **sample;
    size_t sample_n;
};

static void answer(struct act *j) {
    struct arena *a = rpc_call_arena(j->job.call);
    /* The other response has the same members in the same order. */
    Txmsg__V1__RedriveDeadLettersResponse *resp = arena_alloc(a, sizeof(*resp));
    timer_free(TAKE(j->timer));
    if (resp && j->act == VIEW_DEAD_DISCARD)
        txmsg__v1__discard_dead_letters_response__init((Txmsg__V1__DiscardDeadLettersResponse *)(void *)resp);
    else if (resp)
        txmsg__v1__redrive_dead_letters_response__init(resp);
    if (resp && admin_time(a, j->began_us, &resp->act_time)) {
        resp->count = j->count;
        resp->more = j->more;
        resp->sample = j->sample;
        resp->n_sample = j->sample_n;
        j->job.response = &resp->base;
    } else if (j->count && j->q->force) {
        job_unknown(&j->job);
    }
    job_done(&j->job);
}

static void fail(struct act *j) {
    timer_free(TAKE(j->timer));
    job_unavailable(&j->job);
    job_done(&j->job);
}

/* --- acting --- */

static void go_on(void *arg);

static void on_piece(void *arg, int code, int64_t count, int64_t now_us) {
    struct act *j = arg;
    if (code < 0 && j->count == 0) {
        fail(j);
        return;
    }
    if (code == 0) {
        if (!j->began_us)
            j->began_us = now_us;
        if (!j->filter.end_us) /* what dies again while this goes on is not taken twice */
            j->filter.end_us = now_us;
        j->count += count;
        j->keys_done = MIN(j->keys_done + (size_t)j->piece, j->keys_n);
    }
    uint64_t pause_ns = (uint64_t)MAX(count, (int64_t)0) * NS_PER_S / (uint64_t)j->rate;
    bool over = j->keys_n ? j->keys_done == j->keys_n : count < j->piece;
    j->more = code < 0 || !over;
    if (code < 0)
        pause_ns = 0;
    if (code < 0 || over || clock_mono_ns() + pause_ns >= j->end_ns) {
        j->end_ns = 0; /* after the pause it is answered */
        if (!j->more)
            pause_ns = 0;
    }
    list_add_tail(&j->job.service->pausing, &j->pausing);
    timer_arm(j->timer, pause_ns / NS_PER_MS);
}

static void go_on(void *arg) {
    struct act *j = arg;
    struct pg_conn *c = job_conn(&j->job);
    const char *reason = j->q->reason;
    int r;
    list_del(&j->pausing);
    if (j->end_ns == 0) {
        answer(j);
        return;
    }
    j->piece = MIN((int64_t)j->rate, (int64_t)VIEW_DEAD_ACT_MAX);
    if (j->keys_n)
        r = view_dead_act_keys(c, j->act, j->keys + j->keys_done, MIN((size_t)j->piece, j->keys_n - j->keys_done),
                               j->actor, reason, on_piece, j);
    else
        r = (j->filter.limit = (int32_t)j->piece, view_dead_act(c, j->act, &j->filter, j->actor, reason, on_piece, j));
    if (r == 0)
        return;
    if (j->count == 0) {
        fail(j);
        return;
    }
    j->more = true;
    answer(j);
}

void dead_acts_stop(struct admin_service *s) {
    while (!list_empty(&s->pausing)) {
        struct act *j = LIST_ENTRY(s->pausing.next, struct act, pausing);
        list_del(&j->pausing);
        answer(j);
    }
}

/* --- counting --- */

static void on_count(void *arg, int code, int64_t count, int64_t now_us) {
    struct act *j = arg;
    UNUSED(now_us);
    if (code < 0) {
        fail(j);
        return;
    }
    j->count = MIN(count, (int64_t)VIEW_DEAD_COUNT_MAX);
    j->more = count > VIEW_DEAD_COUNT_MAX;
    answer(j);
}

static void count_or_act(struct act *j) {
    struct pg_conn *c = job_conn(&j->job);
    enum view_dead_act count = j->act == VIEW_DEAD_REDRIVE ? VIEW_DEAD_COUNT_REDRIVE : VIEW_DEAD_COUNT_DISCARD;
    int r;
    if (j->q->force) {
        r = timer_new(j->job.service->loop, go_on, j, &j->timer);
        if (r == 0) {
            go_on(j);
            return;
        }
    } else if (j->keys_n) {
        r = view_dead_act_keys(c, count, j->keys, j->keys_n, NULL, NULL, on_count, j);
    } else {
        r = view_dead_act(c, count, &j->filter, NULL, NULL, on_count, j);
    }
    if (r < 0)
        fail(j);
}

/* --- the sample --- */

static void on_sample(void *arg, int code, const struct view_dead *d, size_t n) {
    struct act *j = arg;
    if (code < 0) {
        fail(j);
        return;
    }
    for (size_t i = 0; j->sample && i < MIN(n, (size_t)SAMPLE); i++) {
        Txmsg__V1__DeadLetter *o = dead_letter_of(rpc_call_arena(j->job.call), &d[i], false);
        if (o)
            j->sample[j->sample_n++] = o;
    }
    count_or_act(j);
}

static void sample_named(struct act *j);

/* By names the sample is the first few that exist, asked one by one. */
static void on_named(void *arg, int code, const struct view_dead *d, size_t n) {
    struct act *j = arg;
    if (code == 0 && n && j->sample) {
        Txmsg__V1__DeadLetter *o = dead_letter_of(rpc_call_arena(j->job.call), &d[0], false);
        if (o)
            j->sample[j->sample_n++] = o;
    }
    j->asked++;
    sample_named(j);
}

static void sample_named(struct act *j) {
    while (j->asked < MIN(j->keys_n, (size_t)SAMPLE)) {
        const struct dead_key *k = &j->keys[j->asked];
        if (view_dead_get(job_conn(&j->job), k->subscription, &k->tx, k->n, on_named, j) == 0)
            return;
        j->asked++;
    }
    count_or_act(j);
}

static void run(struct job *job) {
    struct act *j = CONTAINER_OF(job, struct act, job);
    j->sample = arena_alloc(rpc_call_arena(job->call), SAMPLE * sizeof(Txmsg__V1__DeadLetter *));
    if (j->keys_n) {
        sample_named(j);
        return;
    }
    j->filter.limit = SAMPLE;
    if (view_dead_list(job_conn(job), &j->filter, on_sample, j) < 0)
        fail(j);
}

/* --- the request --- */

/* False = the call was refused. */
static bool read_names(struct rpc_call *call, struct act *j) {
    struct arena *a = rpc_call_arena(call);
    if ((j->q->filter != NULL) == (j->q->n_names > 0)) {
        call_refuse(call, RPC_INVALID_ARGUMENT, "INVALID_FIELD", "names", "give either names or a filter");
        return false;
    }
    if (j->q->n_names > NAMES_MAX) {
        call_refuse(call, RPC_INVALID_ARGUMENT, "INVALID_FIELD", "names", "has more than 1000 entries");
        return false;
    }
    j->keys = arena_alloc(a, MAX(j->q->n_names, 1u) * sizeof(*j->keys));
    if (!j->keys) {
        call_overloaded(call);
        return false;
    }
    for (size_t i = 0; i < j->q->n_names; i++)
        if (dead_parse_name(a, j->q->names[i], &j->keys[j->keys_n++]) < 0) {
            const char *field = arena_printf(a, "names[%zu]", i);
            call_refuse(call, RPC_INVALID_ARGUMENT, "INVALID_FIELD", field ? field : "names",
                        "is not <subscription>/<transaction_id>.<n>");
            return false;
        }
    return true;
}

static bool read_words(struct rpc_call *call, struct act *j) {
    struct violation v;
    const char *field = NULL, *why = NULL;
    if (validate_text("reason", bytes_str(j->q->reason), LIMIT_REASON, &v))
        field = "reason", why = "is not valid text of at most 1024 bytes";
    else if (j->act == VIEW_DEAD_DISCARD && j->q->force && !*j->q->reason)
        field = "reason", why = "is required: it is kept with what is given up";
    else if (validate_text("actor", bytes_str(j->q->actor), 255, &v))
        field = "actor", why = "is not valid text of at most 255 bytes";
    else if (j->q->rate < 0 || j->q->rate > RATE_MAX)
        field = "rate", why = "must be 1 to 10000, or 0 for the default";
    if (field)
        call_refuse(call, RPC_INVALID_ARGUMENT, "INVALID_FIELD", field, why);
    return !field;
}

static void begin(struct rpc_call *call, void *service, enum view_dead_act act) {
    struct act *j = job_new(call, service, sizeof(*j), run);
    if (!j)
        return;
    list_init(&j->pausing);
    j->act = act;
    j->q = (const Txmsg__V1__RedriveDeadLettersRequest *)rpc_call_request(call); /* the other has the same members */
    if (!dead_set_filter(call, j->q->filter, &j->filter) || !read_names(call, j) || !read_words(call, j))
        return;
    j->actor = *j->q->actor ? j->q->actor : "rpc";
    j->rate = j->q->rate ? j->q->rate : RATE_DEFAULT;
    uint64_t now_ns = clock_mono_ns(), latest_ns = rpc_call_deadline_ns(call) - (uint64_t)ANSWER_MS * NS_PER_MS;
    j->end_ns = MIN(now_ns + (uint64_t)ACT_MS_MAX * NS_PER_MS, MAX(latest_ns, now_ns + 1));
    job_start(&j->job);
}

void admin_redrive(struct rpc_call *call, void *service) {
    begin(call, service, VIEW_DEAD_REDRIVE);
}

void admin_discard(struct rpc_call *call, void *service) {
    begin(call, service, VIEW_DEAD_DISCARD);
}
