/* What all sinks share: the verdict's way back, the message id, and the choice by kind. */
#include "forward/sink.h"

void sink_done(struct sink *s, struct delivery *d, enum sink_verdict v, bool unknown, int64_t retry_after_ms,
               const char *error) {
    d->verdict = v;
    d->unknown = v == SINK_RETRY && unknown;
    d->retry_after_ms = v == SINK_RETRY ? retry_after_ms : -1;
    if (v == SINK_OK)
        d->end.class = ATTEMPT_OK;
    else if (d->end.class == ATTEMPT_UNSAID)
        d->end.class = v == SINK_REJECT ? ATTEMPT_PERMANENT : ATTEMPT_OTHER;
    if (v == SINK_OK || !error)
        error = "";
    if (error != d->error)
        snprintf(d->error, sizeof(d->error), "%s", error);
    s->owner.done(s->owner.arg, d);
}

void delivery_message_id(const struct delivery *d, char sep, char out[MESSAGE_ID_TEXT]) {
    char text[UUID_TEXT];

    ASSERT(d->n < LIMIT_MESSAGES_HARD); /* what the size of `out` is made for */
    uuid_format(&d->content->id, text);
    snprintf(out, MESSAGE_ID_TEXT, "%s%c%u", text, sep, d->n % (unsigned)LIMIT_MESSAGES_HARD);
}

int sink_new(const struct sink_env *env, const struct sink_owner *o, struct sink **ret, struct errmsg *e) {
    switch (env->sub->sink.kind) {
    case SINK_DISCARD:
        return sink_discard_new(env, o, ret, e);
    case SINK_LOG:
        return sink_log_new(env, o, ret, e);
    case SINK_HTTP:
        return sink_http_new(env, o, ret, e);
    case SINK_RABBITMQ:
        return sink_rabbitmq_new(env, o, ret, e);
    case SINK_GRPC:
        return sink_grpc_new(env, o, ret, e);
    }
    return err_set(e, -ENOTSUP, "this build has no sink of kind %d", (int)env->sub->sink.kind);
}
