/*
 * Why: core has process-wide state (log function, mutex debugging) that must be set once, before its first use, whoever
 * comes first: a server, a client or a test.
 */
#include "rpc/library.h"

#include "base/log.h"

#include <dlfcn.h>
#include <grpc/grpc.h>
#include <grpc/support/log.h>
#include <pthread.h>
#include <stdlib.h>

/* Core calls "error" what a peer can cause, so nothing of it is an error of ours. */
static void write_log(gpr_log_func_args *args) {
    if (args->severity == GPR_LOG_SEVERITY_ERROR)
        LOG_WARN("grpc", "%s", args->message);
    else
        LOG_DEBUG("grpc", "%s", args->message);
}

/*
 * Debian builds abseil with deadlock detection on: every lock and unlock then maintains a graph of all mutexes, which
 * takes about a tenth of the server's CPU time. The switch exists in C++ only, so it is looked up by its mangled name
 * (Debian's and upstream's inline namespaces differ); without it everything works, slower. 0 is kIgnore.
 */
static void ignore_deadlock_cycles(void) {
    static const char *const names[] = {
        "_ZN4absl7debian329SetMutexDeadlockDetectionModeENS0_15OnDeadlockCycleE",
        "_ZN4absl12lts_2022062329SetMutexDeadlockDetectionModeENS0_15OnDeadlockCycleE",
    };

    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        void *sym = dlsym(RTLD_DEFAULT, names[i]);
        void (*set_mode)(int);

        if (!sym)
            continue;
        memcpy(&set_mode, &sym, sizeof(set_mode));
        set_mode(0);
        return;
    }
}

/*
 * Names are looked up by the system, as everywhere else in the daemon. Debian's c-ares, which core takes by default, keeps
 * some bytes of each lookup for ever. Core reads this once, before there are threads; who sets it otherwise is obeyed.
 */
static void resolve_by_system(void) {
    setenv("GRPC_DNS_RESOLVER", "native", 0);
}

void rpc_log_level(void) {
    gpr_set_log_verbosity(log_level_of("grpc") >= LOG_LEVEL_DEBUG ? GPR_LOG_SEVERITY_DEBUG : GPR_LOG_SEVERITY_ERROR);
}

static void set_up(void) {
    resolve_by_system();
    gpr_set_log_function(write_log);
    rpc_log_level();
    ignore_deadlock_cycles();
}

void library_init(void) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;

    pthread_once(&once, set_up);
    grpc_init();
}

void library_deinit(void) {
    grpc_shutdown();
}
