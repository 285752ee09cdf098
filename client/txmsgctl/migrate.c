/* migrate up, status, plan: straight to PostgreSQL, no service needed. */
#include "store/migrate.h"

#include "txmsgctl/ctl.h"

static const struct ctl_option options[] = {
    {"--dsn", "DSN", "PostgreSQL; default TXMSG_DSN"},
    {"--partition-seconds", "N", "partition width of a new schema; default 86400"},
    {NULL, NULL, NULL},
};

static int run(struct ctl *c, int (*act)(const char *dsn, int seconds, struct buf *out, struct errmsg *e)) {
    const char *dsn = args_get(&c->args, "--dsn"), *seconds = args_get(&c->args, "--partition-seconds");
    struct errmsg e = ERRMSG_NULL;
    struct buf out CLEANUP_BUF;
    buf_init(&out, 1 << 20);
    if (!dsn)
        dsn = getenv("TXMSG_DSN");
    if (!dsn || !*dsn)
        return ctl_usage("--dsn or TXMSG_DSN is required");
    char *end = NULL;
    long n = seconds ? strtol(seconds, &end, 10) : 0;
    if (seconds && (*end || n < 1 || n > 31622400))
        return ctl_usage("--partition-seconds must be 1 to 31622400");
    int r = act(dsn, (int)n, &out, &e);
    fputs(buf_str(&out), stdout);
    if (r >= 0)
        return CTL_OK;
    fprintf(stderr, "txmsgctl: %s\n", e.text);
    return r == -ENOTCONN ? CTL_UNREACHABLE : CTL_REFUSED;
}

static int act_status(const char *dsn, int seconds, struct buf *out, struct errmsg *e) {
    UNUSED(seconds);
    return migrate_status(dsn, out, e);
}
static int act_plan(const char *dsn, int seconds, struct buf *out, struct errmsg *e) {
    UNUSED(seconds);
    return migrate_plan(dsn, out, e);
}

static int cmd_up(struct ctl *c) {
    return run(c, migrate_up);
}
static int cmd_status(struct ctl *c) {
    return run(c, act_status);
}
static int cmd_plan(struct ctl *c) {
    return run(c, act_plan);
}

const struct ctl_command migrate_commands[] = {
    {"migrate up", "", "brings the schema to the version of this binary", options, cmd_up},
    {"migrate status", "", "which migrations are applied", options, cmd_status},
    {"migrate plan", "", "what migrate up would do", options, cmd_plan},
    {NULL, NULL, NULL, NULL, NULL},
};
