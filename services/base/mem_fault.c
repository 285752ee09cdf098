/*
 * A test that looks at a daemon from outside makes the n-th allocation of its request fail. It shares one page with the
 * daemon, the file that $MEM_FAULT_FILE names, so that arming needs no call that would allocate as well. The test writes all
 * but `at`, then `at`; the daemon counts down the allocations of the threads meant, lets `times` of them fail and says
 * where the first one was. Without the variable nothing happens.
 */
#include "base/mem_fault.h"

#include "base/err.h"

#include <execinfo.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <unistd.h>

/* Little-endian, as it lies in the file. */
struct order {
    _Atomic int64_t at;     /* 1 = the next allocation fails; 0 = off */
    _Atomic int64_t times;  /* so many fail in a row */
    _Atomic int64_t failed; /* have failed since */
    char threads[16];       /* what the names of the threads meant begin with */
};

static struct order *ordered;

__attribute__((constructor)) static void find_order(void) {
    const char *path = getenv("MEM_FAULT_FILE");
    int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    void *first[1];
    if (fd < 0)
        return;
    void *p = mmap(NULL, sizeof(*ordered), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    backtrace(first, 1); /* loads what it needs now */
    if (p != MAP_FAILED)
        ordered = p;
}

static bool is_meant(void) {
    char name[16] = "";
    pthread_getname_np(pthread_self(), name, sizeof(name));
    return strncmp(name, ordered->threads, strnlen(ordered->threads, sizeof(ordered->threads))) == 0;
}

static void say_where(void) {
    static const char text[] = "out of memory on purpose, at\n";
    void *frames[16];
    ssize_t r = write(STDERR_FILENO, text, sizeof(text) - 1);
    UNUSED(r);
    backtrace_symbols_fd(frames, backtrace(frames, ARRAY_LEN(frames)), STDERR_FILENO);
}

bool mem_fault_due(void) {
    int64_t at = ordered ? atomic_load(&ordered->at) : 0;
    if (at <= 0 || !is_meant())
        return false;
    while (at > 1)
        if (atomic_compare_exchange_weak(&ordered->at, &at, at - 1))
            return false;
    int64_t left = at == 1 ? atomic_fetch_sub(&ordered->times, 1) : 0;
    if (left <= 1)
        atomic_store(&ordered->at, 0);
    if (left <= 0)
        return false;
    if (atomic_fetch_add(&ordered->failed, 1) == 0)
        say_where();
    return true;
}
