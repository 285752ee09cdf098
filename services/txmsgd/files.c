/*
 * Why: a process that runs out of file descriptors fails in places that nobody tests. So their number is known before:
 * everything that opens one is bounded by an option, and the limit of the process must cover the sum.
 */
#include "txmsgd/files.h"

#include "base/log.h"
#include "base/metric.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>

enum {
    FIXED = 128,          /* loops, polling of core, the main thread's connections, standard streams, name lookups */
    PER_WORKER = 64,      /* loop, connections to the store (own lane, adopted lanes, reads, heartbeat, takeover) */
    SINKS = 128,          /* of the configuration in the store, which nobody knows at start: one each and worker */
    CONNECTIONS_MIN = 16, /* with less it makes no sense to start */
};

static double count_open(void *arg) {
    int fd = open("/proc/self/fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *d = fd >= 0 ? fdopendir(fd) : NULL;
    double n = -3; /* "." and "..", and the one that reads */

    UNUSED(arg);
    if (!d) {
        if (fd >= 0)
            close(fd);
        return 0;
    }
    while (readdir(d))
        n++;
    closedir(d);
    return n;
}

static int64_t raise_limit(void) {
    struct rlimit r;

    if (getrlimit(RLIMIT_NOFILE, &r))
        return 0;
    r.rlim_cur = r.rlim_max;
    if (setrlimit(RLIMIT_NOFILE, &r))
        getrlimit(RLIMIT_NOFILE, &r);
    return (int64_t)MIN(r.rlim_cur, (rlim_t)INT32_MAX);
}

/* Everything but the connections of gRPC clients. */
static int64_t need(const struct config *c) {
    return FIXED + c->http_connections + c->workers * (PER_WORKER + SINKS + c->web_in_flight + c->web_idle);
}

int files_prepare(struct config *c, struct errmsg *e) {
    int64_t limit = raise_limit(), rest = limit - need(c);

    metric_set(metric_get(metric_family(METRIC_GAUGE, "txmsg_open_files_max", "",
                                        "File descriptors that this process may have.", 0)),
               (double)limit);
    metric_gauge_fn(metric_family(METRIC_GAUGE, "txmsg_open_files", "", "File descriptors that are open.", 0),
                    count_open, NULL);
    if (rest >= c->grpc_connections)
        return 0;
    if (rest < CONNECTIONS_MIN)
        return err_set(e, -EMFILE,
                       "%lld file descriptors are allowed, but %lld are needed beside grpc.connections: raise the limit"
                       " (LimitNOFILE=, ulimit -Hn), or lower workers, web.in_flight, web.idle or http.connections",
                       (long long)limit, (long long)need(c));
    LOG_WARN("txmsgd",
             "%lld file descriptors are allowed: grpc.connections is cut from %lld to %lld; raise the limit"
             " (LimitNOFILE=, ulimit -Hn) to %lld",
             (long long)limit, (long long)c->grpc_connections, (long long)rest,
             (long long)(need(c) + c->grpc_connections));
    c->grpc_connections = rest;
    return 0;
}
