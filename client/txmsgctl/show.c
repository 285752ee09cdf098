/* show: the story of a transaction, by time. */
#include "base/clock.h"

#include "txmsg/v1/message_service.pb-c.h"
#include "txmsgctl/ctl.h"

struct moment {
    int64_t us;
    size_t order; /* of those at the same time */
    const char *text;
};
struct story {
    struct ctl *c;
    struct moment *moments;
    size_t n, cap;
};

PRINTF_LIKE(3, 4)
static void tell(struct story *s, const Google__Protobuf__Timestamp *t, const char *fmt, ...) {
    va_list ap;
    char *text = NULL;
    if (s->n == s->cap) {
        s->cap = MAX(s->cap * 2, 64u);
        s->moments = mem_must(mem_realloc(s->moments, s->cap * sizeof(*s->moments)));
    }
    va_start(ap, fmt);
    ASSERT(vasprintf(&text, fmt, ap) >= 0);
    va_end(ap);
    s->moments[s->n] = (struct moment){t ? clock_us(t->seconds, t->nanos) : INT64_MAX, s->n, ctl_text(s->c, text)};
    s->n++;
    free(text);
}

static int by_time(const void *a, const void *b) {
    const struct moment *x = a, *y = b;
    if (x->us != y->us)
        return x->us < y->us ? -1 : 1;
    return x->order < y->order ? -1 : x->order > y->order;
}

static void tell_checks(struct story *s, const Txmsg__V1__CheckSummary *k) {
    for (size_t i = 0; k && i < k->n_history; i++)
        tell(s, k->history[i]->end_time, "check %d: %s", k->history[i]->check, k->history[i]->error);
    if (k && k->next_check_time)
        tell(s, k->next_check_time, "next check, the %d.", k->count + 1);
    if (k && k->stuck_time)
        tell(s, k->stuck_time, "stuck: %d checks answered UNKNOWN, a person decides", k->unknowns);
}

static void tell_decision(struct story *s, const Txmsg__V1__Transaction *t) {
    if (!t->decision_time)
        return;
    tell(s, t->decision_time, "%s by %s%s%s%s%s", ctl_enum(s->c, &txmsg__v1__decision__descriptor, (int)t->decision),
         ctl_enum(s->c, &txmsg__v1__decision_origin__descriptor, (int)t->origin), *t->actor ? " " : "", t->actor,
         *t->reason ? ": " : "", t->reason);
}

static void tell_delivery(struct story *s, uint32_t n, const Txmsg__V1__Delivery *d) {
    for (size_t i = 0; i < d->n_history; i++) {
        const Txmsg__V1__DeliveryAttempt *a = d->history[i];
        char status[16] = "";
        if (a->status)
            snprintf(status, sizeof(status), " %d", a->status);
        tell(s, a->end_time, "message %u to %s: attempt %d %s%s after %d ms%s%s%s%s%s", n, d->subscription, a->attempt,
             *a->error_class ? a->error_class : "failed", status, a->latency_ms, *a->error ? ": " : "", a->error,
             *a->response ? " [" : "", a->response, *a->response ? "]" : "");
    }
    const char *state = ctl_enum(s->c, &txmsg__v1__delivery_state__descriptor, (int)d->state);
    if (d->next_attempt_time)
        tell(s, d->next_attempt_time, "message %u to %s: %s, next attempt", n, d->subscription, state);
    else
        tell(s, NULL, "message %u to %s is %s%s%s", n, d->subscription, state,
             !d->n_history && *d->last_error ? ": " : "", !d->n_history ? d->last_error : "");
}

static int cmd_show(struct ctl *c) {
    Txmsg__V1__GetTransactionRequest q = TXMSG__V1__GET_TRANSACTION_REQUEST__INIT;
    struct story s = {.c = c};
    const ProtobufCMessage *r;
    if (c->args.words_n != 1)
        return ctl_usage("give exactly one transaction id");
    q.transaction_id = (char *)(uintptr_t)c->args.words[0];
    int code = ctl_call(c, "/txmsg.v1.MessageService/GetTransaction", &q.base,
                        &txmsg__v1__get_transaction_response__descriptor, &r);
    if (code != CTL_OK || !r)
        return code;
    const Txmsg__V1__Transaction *t = ((const Txmsg__V1__GetTransactionResponse *)r)->transaction;
    if (t->prepare_time)
        tell(&s, t->prepare_time, "prepared by %s, %zu messages%s%s", t->producer, t->n_messages,
             *t->business_key ? ", business key " : "", t->business_key);
    tell_checks(&s, t->checks);
    tell_decision(&s, t);
    for (size_t i = 0; i < t->n_messages; i++)
        for (size_t k = 0; k < t->messages[i]->n_deliveries; k++)
            tell_delivery(&s, t->messages[i]->n, t->messages[i]->deliveries[k]);
    printf("%s %s\n", t->transaction_id, ctl_enum(c, &txmsg__v1__transaction_state__descriptor, (int)t->state));
    qsort(s.moments, s.n, sizeof(s.moments[0]), by_time);
    for (size_t i = 0; i < s.n; i++) {
        char time[32] = "                        ";
        if (s.moments[i].us != INT64_MAX)
            clock_format(s.moments[i].us, time);
        time[10] = ' ';
        printf("%.23s  %s\n", time, s.moments[i].text);
    }
    mem_free(s.moments);
    return CTL_OK;
}

const struct ctl_command show_commands[] = {
    {"show", "ID", "the whole story of a transaction: checks, decision, each attempt to deliver", NULL, cmd_show},
    {NULL, NULL, NULL, NULL, NULL},
};
