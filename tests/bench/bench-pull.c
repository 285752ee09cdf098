/*
 * The producer of what txmsg-bench --undecided leaves open, over libtxmsg: it answers checks over the streams that the library holds open. The verdict is
 * in the id, as in bench-echo; a check of any other message is answered UNKNOWN.
 *
 * bench-pull --server HOST:PORT --producer NAME [--undecided 10]; prints "listening 0", for it has no port, and runs until SIGTERM or SIGINT.
 */
#include "base/conf.h"
#include "fate.h"
#include "txmsg/txmsg.h"

#include <signal.h>

struct options {
    char *server, *producer;
    int64_t undecided, threads;
};

#define OPTION(name_, type_, member_, def_, min_, max_, help_)                                                         \
    {                                                                                                                  \
        .name = (name_), .type = (type_), .def = (def_), .min = (min_), .max = (max_), .help = (help_),                \
        .offset = offsetof(struct options, member_)                                                                    \
    }
static const struct conf_option table[] = {
    OPTION("server", CONF_STR, server, "127.0.0.1:7400", 0, 0, "Address of the service."),
    OPTION("producer", CONF_STR, producer, "checked", 0, 0, "Producer whose checks are answered."),
    OPTION("undecided", CONF_INT, undecided, "10", 0, 100, "Percentage that was left open."),
    OPTION("threads", CONF_INT, threads, "1", 1, 64, "Threads that answer."),
    {0},
};

static enum txmsg_decision answer(void *arg, const txmsg_check *check) {
    const struct fates *fates = arg;
    struct uuid id;

    if (uuid_parse(bytes_str(txmsg_check_id(check)->text), &id) < 0 || fate_of(fates, &id) != FATE_UNDECIDED)
        return TXMSG_UNDECIDED;
    return fate_committed_by_check(&id) ? TXMSG_COMMITTED : TXMSG_ROLLED_BACK;
}

static int make_client(const struct options *o, struct fates *fates, txmsg_client **ret) {
    txmsg_options *options = txmsg_options_new();
    int e = options ? txmsg_options_add_address(options, o->server) : TXMSG_ERROR_MEMORY;

    if (!e)
        e = txmsg_options_set_producer(options, o->producer);
    if (!e)
        e = txmsg_options_set_check_threads(options, o->threads);
    if (!e)
        e = txmsg_options_set_check_listener(options, answer, fates);
    if (!e)
        e = txmsg_client_new(options, ret);
    txmsg_options_free(options);
    return e;
}

int main(int argc, char **argv) {
    struct errmsg e = ERRMSG_NULL;
    struct options o;
    struct conf *conf = conf_load(table, &o, argc, argv, NULL, &e);
    txmsg_client *client = NULL;
    struct fates fates;
    sigset_t stop;
    int number;

    if (!conf) {
        fprintf(stderr, "bench-pull: %s\n", e.text);
        return 2;
    }
    fates = fates_make(o.undecided, 0, 0);
    sigemptyset(&stop);
    sigaddset(&stop, SIGTERM);
    sigaddset(&stop, SIGINT);
    sigprocmask(SIG_BLOCK, &stop, NULL);
    int status = make_client(&o, &fates, &client);
    if (status)
        fprintf(stderr, "bench-pull: no client: %s\n", txmsg_status_name(status));
    conf_free(conf);
    if (status)
        return 1;
    puts("listening 0");
    fflush(stdout);
    sigwait(&stop, &number);
    txmsg_client_free(client);
    return 0;
}
