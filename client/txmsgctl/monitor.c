/* events, top: asked again and again. What they call is bounded and cheap for the service. */
#include "base/clock.h"

#include "txmsg/v1/admin_service.pb-c.h"
#include "txmsgctl/ctl.h"

#include <time.h>
#include <unistd.h>

#define SERVICE "/txmsg.v1.AdminService/"

enum { POLL_MS = 1000, FAILED_MS = 5000, OVERLAP_S = 10, PAGE = 1000, SEEN_MAX = 8192, LINES_MAX = 3 * PAGE };

static const struct ctl_option events_options[] = {
    {"--follow", NULL, "go on until interrupted"},
    {"--since", "TIME", "from then on, RFC 3339 or an age; default 1h, with --follow now"},
    {NULL, NULL, NULL},
};
static const struct ctl_option top_options[] = {
    {"--interval", "DURATION", "between two looks; default 2s"},
    {"--once", NULL, "one table and no more, for scripts"},
    {NULL, NULL, NULL},
};

static void sleep_ms(int64_t ms) {
    const struct timespec t = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};
    nanosleep(&t, NULL);
}

/* --- events: what people did, what was taken over, what died, what is stuck --- */

struct line {
    int64_t us;
    const char *kind, *subject, *text;
};
struct events {
    struct ctl *c;
    int64_t since_us;
    uint64_t seen[SEEN_MAX]; /* what was printed: a ring */
    size_t seen_n;
    struct line lines[LINES_MAX];
    int lines_n;
};

/* An entry may become visible a little after a later one, so each look goes back a little, and what was seen is passed over. */
static bool is_new(struct events *e, const struct line *l) {
    uint64_t h = hash_bytes(l->subject, strlen(l->subject),
                            hash_bytes(&l->us, sizeof(l->us), hash_bytes(l->kind, strlen(l->kind), 0)));
    h = hash_bytes(l->text, strlen(l->text), h);
    for (size_t i = 0; i < MIN(e->seen_n, (size_t)SEEN_MAX); i++)
        if (e->seen[i] == h)
            return false;
    e->seen[e->seen_n++ % SEEN_MAX] = h;
    return true;
}

static int64_t time_us(const Google__Protobuf__Timestamp *t) {
    return t ? clock_us(t->seconds, t->nanos) : 0;
}

static void put_line(struct events *e, const Google__Protobuf__Timestamp *t, const char *kind, const char *subject,
                     const char *text) {
    const struct line l = {time_us(t), kind, subject, text};
    if (e->lines_n < LINES_MAX && is_new(e, &l))
        e->lines[e->lines_n++] = l;
}

static int ask_audit(struct events *e, Google__Protobuf__Timestamp *from) {
    Txmsg__V1__ListAuditRequest q = TXMSG__V1__LIST_AUDIT_REQUEST__INIT;
    const ProtobufCMessage *r;
    q.start_time = from;
    q.page_size = PAGE;
    int code = ctl_query(e->c, SERVICE "ListAudit", &q.base, &txmsg__v1__list_audit_response__descriptor, &r);
    if (code != CTL_OK)
        return code;
    const Txmsg__V1__ListAuditResponse *resp = (const Txmsg__V1__ListAuditResponse *)r;
    for (size_t i = 0; i < resp->n_entries; i++) {
        const Txmsg__V1__AuditEntry *a = resp->entries[i];
        put_line(e, a->time, a->action, a->target,
                 mem_must(arena_printf(&e->c->arena, "by %s%s%s", a->actor, *a->reason ? ": " : "", a->reason)));
    }
    return CTL_OK;
}

static int ask_dead(struct events *e, Google__Protobuf__Timestamp *from) {
    Txmsg__V1__ListDeadLettersRequest q = TXMSG__V1__LIST_DEAD_LETTERS_REQUEST__INIT;
    Txmsg__V1__DeadLetterFilter f = TXMSG__V1__DEAD_LETTER_FILTER__INIT;
    const ProtobufCMessage *r;
    f.start_time = from;
    q.filter = &f;
    q.page_size = PAGE;
    int code =
        ctl_query(e->c, SERVICE "ListDeadLetters", &q.base, &txmsg__v1__list_dead_letters_response__descriptor, &r);
    if (code != CTL_OK)
        return code;
    const Txmsg__V1__ListDeadLettersResponse *resp = (const Txmsg__V1__ListDeadLettersResponse *)r;
    for (size_t i = 0; i < resp->n_dead_letters; i++) {
        const Txmsg__V1__DeadLetter *d = resp->dead_letters[i];
        put_line(e, d->dead_time, "dead", d->name,
                 mem_must(arena_printf(&e->c->arena, "after %d attempts: %s", d->attempts, d->last_error)));
    }
    return CTL_OK;
}

/* An older version does not say since when; then the time of the id stands for it. Everything that is stuck now is told once. */
static int ask_stuck(struct events *e) {
    Txmsg__V1__ListStuckRequest q = TXMSG__V1__LIST_STUCK_REQUEST__INIT;
    const ProtobufCMessage *r;
    q.page_size = PAGE;
    int code = ctl_query(e->c, SERVICE "ListStuck", &q.base, &txmsg__v1__list_stuck_response__descriptor, &r);
    if (code != CTL_OK)
        return code;
    const Txmsg__V1__ListStuckResponse *resp = (const Txmsg__V1__ListStuckResponse *)r;
    for (size_t i = 0; i < resp->n_stuck; i++) {
        const Txmsg__V1__StuckTransaction *s = resp->stuck[i];
        const Txmsg__V1__Transaction *x = s->transaction;
        put_line(e, s->stuck_time ? s->stuck_time : x->prepare_time, "stuck", x->transaction_id,
                 mem_must(arena_printf(&e->c->arena, "of %s, after %d checks", x->producer,
                                       x->checks ? x->checks->count : 0)));
    }
    return CTL_OK;
}

static int by_time(const void *a, const void *b) {
    const struct line *x = a, *y = b;
    return x->us < y->us ? -1 : x->us > y->us;
}

static void print_line(struct ctl *c, const struct line *l) {
    char time[32];
    clock_format(l->us, time);
    if (c->json) {
        CLEANUP_JSON json_t *j = mem_must(
            json_pack("{s:s, s:s, s:s, s:s}", "time", time, "kind", l->kind, "subject", l->subject, "text", l->text));
        char *text = mem_must(json_dumps(j, JSON_COMPACT));
        puts(text);
        free(text);
        return;
    }
    printf("%.10s %.12s  %-20s %s  %s\n", time, time + 11, ctl_text(c, l->kind),
           *l->subject ? ctl_text(c, l->subject) : "-", ctl_text(c, l->text));
}

static int look(struct events *e, bool stuck) {
    Google__Protobuf__Timestamp from = GOOGLE__PROTOBUF__TIMESTAMP__INIT;
    from.seconds = e->since_us / 1000000;
    from.nanos = (int32_t)(e->since_us % 1000000) * 1000;
    e->lines_n = 0;
    int code = ask_audit(e, &from);
    if (code == CTL_OK)
        code = ask_dead(e, &from);
    if (code == CTL_OK && stuck)
        code = ask_stuck(e);
    qsort(e->lines, (size_t)e->lines_n, sizeof(e->lines[0]), by_time);
    return code;
}

static void print_lines(struct events *e) {
    for (int i = 0; i < e->lines_n; i++) {
        const struct line *l = &e->lines[i];
        if (!strcmp(l->kind, "stuck") || l->us >= e->since_us)
            print_line(e->c, l);
        if (strcmp(l->kind, "stuck"))
            e->since_us = MAX(e->since_us, l->us - OVERLAP_S * 1000000ll);
    }
    fflush(stdout);
}

static int cmd_events(struct ctl *c) {
    bool follow = args_has(&c->args, "--follow");
    Google__Protobuf__Timestamp *since = NULL;
    int code = ctl_time_option(c, "--since", -1, &since);
    if (code != CTL_OK)
        return code;
    struct events *e = mem_must(mem_zalloc(sizeof(*e)));
    e->c = c;
    e->since_us = since ? time_us(since) : clock_real_us() - (follow ? 0 : 3600 * 1000000ll);
    code = look(e, true);
    while (code == CTL_OK || (follow && (code == CTL_UNREACHABLE || code == CTL_UNKNOWN))) {
        print_lines(e);
        if (!follow || ferror(stdout))
            break;
        sleep_ms(code == CTL_OK ? POLL_MS : FAILED_MS);
        arena_reset(&c->arena);
        code = look(e, true);
    }
    mem_free(e);
    return code;
}

/* --- top --- */

static const char *per_second(struct ctl *c, int64_t now, int64_t before, double seconds) {
    return mem_must(arena_printf(&c->arena, "%.1f", seconds > 0 ? (double)(now - before) / seconds : 0.0));
}

static const char *count(struct ctl *c, int64_t n, bool bad) {
    const char *text = mem_must(arena_printf(&c->arena, "%lld", (long long)n));
    return bad && n ? ctl_red(c, text) : text;
}

static const char *age(struct ctl *c, const Google__Protobuf__Duration *d) {
    return d ? mem_must(arena_printf(&c->arena, "%lld s", (long long)d->seconds)) : "-";
}

static const Txmsg__V1__SubscriptionStats *same(const Txmsg__V1__GetStatsResponse *r, const char *name) {
    for (size_t i = 0; i < r->n_subscriptions; i++)
        if (!strcmp(r->subscriptions[i]->subscription, name))
            return r->subscriptions[i];
    return NULL;
}

static void print_top(struct ctl *c, const Txmsg__V1__GetStatsResponse *was, const Txmsg__V1__GetStatsResponse *now) {
    double seconds = (double)(time_us(now->time) - time_us(was->time)) / 1e6;
    struct table t = {0};
    table_row(&t, 7, "PREPARED/S", "CONFIRMED/S", "CANCELLED/S", "UNDECIDED", "STUCK", "OLDEST UNDECIDED", "TIME");
    table_row(&t, 7, per_second(c, now->prepared, was->prepared, seconds),
              per_second(c, now->confirmed, was->confirmed, seconds),
              per_second(c, now->cancelled, was->cancelled, seconds), count(c, now->undecided, false),
              count(c, now->stuck, true), age(c, now->oldest_undecided), ctl_time(c, now->time));
    table_print(&t);
    putchar('\n');
    table_row(&t, 6, "SUBSCRIPTION", "DELIVERED/S", "DEAD/S", "IN FLIGHT", "DEAD", "OLDEST");
    for (size_t i = 0; i < now->n_subscriptions; i++) {
        const Txmsg__V1__SubscriptionStats *s = now->subscriptions[i], *b = same(was, s->subscription);
        table_row(&t, 6, s->subscription, per_second(c, s->delivered, b ? b->delivered : s->delivered, seconds),
                  per_second(c, s->dead, b ? b->dead : s->dead, seconds),
                  mem_must(arena_printf(&c->arena, "%lld%s", (long long)s->in_flight, s->in_flight_more ? "+" : "")),
                  count(c, s->dead, true), age(c, s->oldest_undelivered));
    }
    table_print(&t);
}

static int ask_stats(struct ctl *c, const Txmsg__V1__GetStatsResponse **ret) {
    Txmsg__V1__GetStatsRequest q = TXMSG__V1__GET_STATS_REQUEST__INIT;
    const ProtobufCMessage *r = NULL;
    int code = ctl_query(c, SERVICE "GetStats", &q.base, &txmsg__v1__get_stats_response__descriptor, &r);
    *ret = (const Txmsg__V1__GetStatsResponse *)r;
    return code;
}

static int cmd_top(struct ctl *c) {
    const Txmsg__V1__GetStatsResponse *was, *now;
    int64_t ms = 2000;
    const char *interval = args_get(&c->args, "--interval");
    bool once = args_has(&c->args, "--once"), screen = !once && isatty(STDOUT_FILENO);
    if (interval && (text_duration_ms(interval, &ms) < 0 || ms < 100))
        return ctl_usage("--interval: '%s' is not a duration of at least 100ms", interval);
    if (c->json)
        return ctl_usage("top has no JSON: ask `stats --json` twice");
    int code = ask_stats(c, &was);
    while (code == CTL_OK) {
        sleep_ms(ms);
        code = ask_stats(c, &now);
        if (code != CTL_OK)
            break;
        if (screen)
            fputs("\x1b[H\x1b[J", stdout);
        print_top(c, was, now);
        if (once)
            break;
        if (!screen)
            putchar('\n');
        if (fflush(stdout) != 0)
            break;
        /* What was read before last goes: ask again for what the next rates begin at. */
        arena_reset(&c->arena);
        code = ask_stats(c, &was);
    }
    return code;
}

const struct ctl_command monitor_commands[] = {
    {"events", "", "what people did, takeovers, dead letters and stuck transactions, a line each", events_options,
     cmd_events},
    {"top", "", "rates and ages, live", top_options, cmd_top},
    {NULL, NULL, NULL, NULL, NULL},
};
