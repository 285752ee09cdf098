/* watch */
#include "txmsg/v1/message_service.pb-c.h"
#include "txmsgctl/ctl.h"

static void print_status(struct ctl *c, const char *time, const Txmsg__V1__TransactionStatus *s) {
    const char *state = ctl_enum(c, &txmsg__v1__transaction_state__descriptor, (int)s->state);
    if (s->origin)
        printf("%s  %s by %s at %s\n", time, state,
               ctl_enum(c, &txmsg__v1__decision_origin__descriptor, (int)s->origin), ctl_time(c, s->decision_time));
    else
        printf("%s  %s\n", time, state);
}

static void print_delivery(struct ctl *c, const char *time, const Txmsg__V1__DeliveryEvent *e) {
    const Txmsg__V1__Delivery *d = e->delivery;
    printf("%s  message %u to %s is %s", time, e->n, d->subscription,
           ctl_enum(c, &txmsg__v1__delivery_state__descriptor, (int)d->state));
    if (d->attempts)
        printf(", %d attempts", d->attempts);
    if (d->next_attempt_time)
        printf(", next %s", ctl_time(c, d->next_attempt_time));
    if (*d->last_error)
        printf(", last error: %s", ctl_text(c, d->last_error));
    putchar('\n');
}

static int on_event(void *arg, const ProtobufCMessage *m) {
    const Txmsg__V1__WatchResponse *r = (const Txmsg__V1__WatchResponse *)m;
    struct ctl *c = arg;
    if (c->json) {
        ctl_print_json_line(m);
        return 0;
    }
    const char *time = ctl_time(c, r->event_time);
    if (r->event_case == TXMSG__V1__WATCH_RESPONSE__EVENT_STATUS)
        print_status(c, time, r->status);
    else if (r->event_case == TXMSG__V1__WATCH_RESPONSE__EVENT_DELIVERY && r->delivery->delivery)
        print_delivery(c, time, r->delivery);
    fflush(stdout);
    return 0;
}

static int cmd_watch(struct ctl *c) {
    Txmsg__V1__WatchRequest q = TXMSG__V1__WATCH_REQUEST__INIT;
    if (c->args.words_n != 1)
        return ctl_usage("give exactly one transaction id");
    q.transaction_id = (char *)(uintptr_t)c->args.words[0];
    return ctl_stream(c, "/txmsg.v1.MessageService/Watch", &q.base, &txmsg__v1__watch_response__descriptor, on_event,
                      c);
}

const struct ctl_command watch_commands[] = {
    {"watch", "ID", "what becomes of a transaction, until nothing more can", NULL, cmd_watch},
    {NULL, NULL, NULL, NULL, NULL},
};
