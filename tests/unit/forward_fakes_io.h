/* The second half of forward_fakes.h: readers that answer a little later, and the scripted sink. */
#pragma once

/* --- the reader: answers a little later --- */

struct fake_question {
    struct timer *timer;
    enum { Q_CONTENTS, Q_LOG, Q_CURSORS, Q_VECTOR, Q_CLAIM } kind;
    union {
        reader_contents_fn *contents;
        reader_log_fn *log;
        reader_cursors_fn *cursors;
        reader_deliveries_fn *deliveries;
    } fn;
    void *arg;
    int32_t lane, from_seq;
    size_t n, max;
    const struct uuid *ids;
    struct delivery_ask asks[64];
};

static void fake_answer_contents(struct fake_question *q) {
    CLEANUP_FREE struct tx_content **got = mem_calloc(q->n, sizeof(*got));
    size_t bytes = 0, n = 0;

    for (; n < q->n; n++) {
        struct tx_content *c = world->tx[fake_tx_of(&q->ids[n])];
        bytes += c->bytes;
        if (n && bytes > q->max)
            break;
        got[n] = c;
    }
    world->content_reads++;
    q->fn.contents(q->arg, 0, got, n);
}

static void fake_answer_log(struct fake_question *q) {
    static struct uuid ids[FAKE_ENTRIES];
    struct fake_log *log = fake_log_of(q->lane);
    struct log_entry got[256];
    size_t n = 0, ids_n = 0;
    int32_t next = q->from_seq;
    bool at_end = true;

    world->log_reads++;
    for (uint32_t i = 0; i < log->entries_n; i++) {
        const struct fake_entry *e = &log->entries[i];
        if (e->seq < q->from_seq)
            continue;
        if (n == ARRAY_LEN(got) || (n && ids_n + e->n > q->max)) {
            at_end = false;
            break;
        }
        got[n++] =
            (struct log_entry){.seq = e->seq, .at_us = world->at_us[e->tx[0]], .conf = &ids[ids_n], .conf_n = e->n};
        for (uint32_t k = 0; k < e->n; k++)
            ids[ids_n++] = world->tx[e->tx[k]]->id;
        next = e->seq + 1;
    }
    q->fn.log(q->arg, 0, got, n, at_end ? MAX(log->next_seq, next) : next, at_end);
}

static void fake_answer_cursors(struct fake_question *q) {
    struct fake_log *log = fake_log_of(q->lane);
    struct cursor got[FAKE_SUBS];
    size_t n = 0;

    for (int s = FAKE_SUBS - 1; s > 0; s--) {
        struct lane_pos p = q->kind == Q_CURSORS && log->written[s] ? log->pos[s] : log->vector[s];
        if (p.seq)
            got[n++] = (struct cursor){.target = s, .pos = p};
    }
    q->fn.cursors(q->arg, 0, got, n, log->next_seq - 1);
}

static void fake_answer_claim(struct fake_question *q) {
    struct delivery_claim got[512];
    size_t n = 0;

    for (size_t i = 0; i < q->n; i++) {
        int32_t s = q->asks[i].sub, slots = q->asks[i].slots;
        for (uint32_t t = 0; t < world->tx_n && slots; t++)
            for (int k = 0; k < FAKE_N && slots && n < ARRAY_LEN(got); k++) {
                struct fake_row *r = &world->row[s][t][k];
                if (!r->there || r->claimed || r->due_ms > fake_now_ms())
                    continue;
                r->claimed = true;
                got[n++] = (struct delivery_claim){.sub = s,
                                                   .tx = world->tx[t]->id,
                                                   .n = (int16_t)k,
                                                   .attempt = r->attempt,
                                                   .token = ++r->token,
                                                   .lane = r->lane,
                                                   .seq = r->seq,
                                                   .since_us = store_now_us(&world->store)};
                slots--;
            }
    }
    world->claims++;
    q->fn.deliveries(q->arg, 0, got, n);
}

static void fake_answer(void *arg) {
    struct fake_question *q = arg;

    timer_free(q->timer);
    if (world->store_away || fake_chance(world->refuse_percent)) {
        switch (q->kind) {
        case Q_CONTENTS:
            q->fn.contents(q->arg, -EAGAIN, NULL, 0);
            break;
        case Q_LOG:
            q->fn.log(q->arg, -EAGAIN, NULL, 0, 0, false);
            break;
        case Q_CURSORS:
        case Q_VECTOR:
            q->fn.cursors(q->arg, -EAGAIN, NULL, 0, 0);
            break;
        case Q_CLAIM:
            q->fn.deliveries(q->arg, -EAGAIN, NULL, 0);
        }
    } else if (q->kind == Q_CONTENTS) {
        fake_answer_contents(q);
    } else if (q->kind == Q_LOG) {
        fake_answer_log(q);
    } else if (q->kind == Q_CLAIM) {
        fake_answer_claim(q);
    } else {
        fake_answer_cursors(q);
    }
    mem_free(q);
}

static int fake_ask(const struct fake_question *ask) {
    if (fake_chance(world->refuse_percent))
        return -EAGAIN;
    struct fake_question *q = mem_alloc(sizeof(*q));
    *q = *ask;
    assert_int_equal(timer_new(world->loop, fake_answer, q, &q->timer), 0);
    timer_arm(q->timer, 1 + fake_random(3));
    return 0;
}

int reader_contents(struct reader *r, const struct uuid *ids, size_t n, size_t max_bytes, reader_contents_fn *fn,
                    void *arg) {
    assert_true(n > 0);
    return fake_ask(&(struct fake_question){
        .kind = Q_CONTENTS, .fn.contents = fn, .arg = arg, .ids = ids, .n = n, .max = max_bytes});
}
int reader_log(struct reader *r, int32_t lane, int32_t from_seq, size_t max_ids, reader_log_fn *fn, void *arg) {
    return fake_ask(&(struct fake_question){
        .kind = Q_LOG, .fn.log = fn, .arg = arg, .lane = lane, .from_seq = from_seq, .max = max_ids});
}
int reader_cursors(struct reader *r, int32_t lane, reader_cursors_fn *fn, void *arg) {
    return fake_ask(&(struct fake_question){.kind = Q_CURSORS, .fn.cursors = fn, .arg = arg, .lane = lane});
}
int reader_vector(struct reader *r, int32_t lane, reader_cursors_fn *fn, void *arg) {
    return fake_ask(&(struct fake_question){.kind = Q_VECTOR, .fn.cursors = fn, .arg = arg, .lane = lane});
}
/* There are no replays here. */
int reader_claim_replays(struct reader *r, const struct delivery_ask *asks, size_t n, int64_t lease_ms,
                         reader_deliveries_fn *fn, void *arg) {
    UNUSED(r), UNUSED(asks), UNUSED(n), UNUSED(lease_ms), UNUSED(fn), UNUSED(arg);
    return -EAGAIN;
}
int reader_step_replay(struct reader *r, reader_step_fn *fn, void *arg) {
    UNUSED(r), UNUSED(fn), UNUSED(arg);
    return -EAGAIN;
}
int reader_claim_deliveries(struct reader *r, const struct delivery_ask *asks, size_t n, int64_t lease_ms,
                            reader_deliveries_fn *fn, void *arg) {
    struct fake_question q = {.kind = Q_CLAIM, .fn.deliveries = fn, .arg = arg, .n = n};
    assert_true(n > 0 && n <= 64 && lease_ms >= 10000);
    memcpy(q.asks, asks, n * sizeof(asks[0]));
    return fake_ask(&q);
}
bool reader_ready(const struct reader *r) {
    return !world->store_away;
}

/* --- the sink --- */

struct fake_sink {
    struct sink sink;
    int32_t sub;
    const struct sub_conf *conf;
    struct timer *timer;
    struct list taken;
    bool refused;
};

static void fake_sink_end(struct fake_sink *s, struct delivery *d) {
    struct fake_sub *sub = &world->sub[s->sub];
    uint32_t t = fake_tx_of(&d->content->id);

    sub->in_flight--;
    if (sub->down || fake_chance(sub->fail_percent)) {
        bool unknown = fake_chance(sub->unknown_percent);
        if (unknown && fake_chance(50))
            world->oks[s->sub][t][d->n]++; /* it did arrive */
        sink_done(&s->sink, d, SINK_RETRY, unknown, -1, "scripted failure");
    } else if (fake_chance(sub->reject_percent)) {
        sink_done(&s->sink, d, SINK_REJECT, false, -1, "scripted refusal");
    } else {
        sub->oks++;
        world->oks[s->sub][t][d->n]++;
        if (world->fate[s->sub][t][d->n] == FATE_NONE)
            world->fate[s->sub][t][d->n] = FATE_ENDED;
        sink_done(&s->sink, d, SINK_OK, false, -1, NULL);
    }
}

static void fake_sink_timer(void *arg) {
    struct fake_sink *s = arg;
    struct list taken = LIST_INIT(taken), *e;

    list_splice_tail(&taken, &s->taken);
    while ((e = list_pop(&taken))) {
        struct delivery *d = LIST_ENTRY(e, struct delivery, link);
        if (world->sub[s->sub].delay_ms && fake_chance(60)) /* later, and out of order */
            list_add_tail(&s->taken, e);
        else
            fake_sink_end(s, d);
    }
    if (!list_empty(&s->taken))
        timer_arm(s->timer, 1 + fake_random(MAX(world->sub[s->sub].delay_ms, 1u)));
    if (s->refused) {
        s->refused = false;
        s->sink.owner.ready(s->sink.owner.arg);
    }
}

static int fake_sink_deliver(struct sink *sink, struct delivery *d) {
    struct fake_sink *s = CONTAINER_OF(sink, struct fake_sink, sink);
    struct fake_sub *sub = &world->sub[s->sub];

    assert_false(s->refused);
    if (!timer_armed(s->timer))
        timer_arm(s->timer, 0);
    if (fake_chance(sub->busy_percent)) {
        s->refused = true;
        return SINK_BUSY;
    }
    assert_true(bytes_eq_str(d->content->messages[d->n].topic, s->conf->topic));
    fake_check_times(&d->content->messages[d->n]);
    sub->sends++;
    sub->in_flight++;
    sub->most = MAX(sub->most, sub->in_flight);
    assert_true(sub->in_flight <= (uint32_t)s->conf->concurrency);
    list_add_tail(&s->taken, &d->link);
    return SINK_TAKEN;
}

static void fake_sink_close(struct sink *sink) {
    struct fake_sink *s = CONTAINER_OF(sink, struct fake_sink, sink);
    struct list *e;

    while ((e = list_pop(&s->taken))) {
        world->sub[s->sub].in_flight--;
        sink_done(&s->sink, LIST_ENTRY(e, struct delivery, link), SINK_RETRY, true, -1, "closed");
    }
    timer_free(s->timer);
    mem_free(s);
}

static const struct sink_ops fake_sink_ops = {.deliver = fake_sink_deliver, .close = fake_sink_close};

int sink_discard_new(const struct sink_env *env, const struct sink_owner *o, struct sink **ret, struct errmsg *e) {
    struct fake_sink *s = mem_zalloc(sizeof(*s));

    s->sink = (struct sink){.ops = &fake_sink_ops, .owner = *o};
    s->sub = env->sub->id;
    s->conf = env->sub;
    list_init(&s->taken);
    assert_int_equal(timer_new(env->loop, fake_sink_timer, s, &s->timer), 0);
    *ret = &s->sink;
    return 0;
}
int sink_log_new(const struct sink_env *env, const struct sink_owner *o, struct sink **ret, struct errmsg *e) {
    return sink_discard_new(env, o, ret, e);
}

int64_t store_now_us(const struct store *s) {
    return (int64_t)(clock_boot_ns() / 1000);
}
