/*
 * The alert hook: a line in the log and, with a URL, a signed POST when a subscription gets its first dead letter or a producer its
 * first STUCK transaction, again every `digest_ms` while it lasts, and when it is over. Which replica tells is decided in the
 * database (store/alerts.h). One notice is under way at a time, and nothing else waits for it. @thread of the loop
 */
#pragma once

#include "store/store.h"
#include "webclient/webclient.h"

struct alerter;
struct alert_options {
    const char *url, *secret; /* "" = none; they live as long as the alerter */
    int64_t digest_ms, poll_ms;
};
struct pg_conn;
/* `people` and `web` must outlive it. */
int alerter_new(struct loop *l, struct pg_conn *people, struct webclient *web, const struct store *s,
                const struct alert_options *o, struct alerter **ret) MUSTCHECK;
void alerter_free(struct alerter *a); /* NULL allowed */
