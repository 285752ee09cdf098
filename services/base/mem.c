/*
 * malloc behind one door. The countdown that makes an allocation fail and the count are per thread, so that a test
 * breaks its own path and never a neighbour's.
 */
#include "base/mem.h"

#include "base/mem_fault.h"

#include <string.h>
#include <unistd.h>

static _Thread_local uint64_t made, fail_in;

/* True when this allocation is the one that has to fail. */
static inline bool due(void) {
    made++;
    if (__builtin_expect(fail_in == 0, 1))
        return mem_fault_due();
    return --fail_in == 0;
}

void *mem_alloc(size_t n) {
    return due() ? NULL : malloc(n ? n : 1);
}

void *mem_zalloc(size_t n) {
    return due() ? NULL : calloc(1, n ? n : 1);
}

void *mem_realloc(void *p, size_t n) {
    return due() ? NULL : realloc(p, n ? n : 1);
}

void *mem_calloc(size_t count, size_t size) {
    size_t n;
    if (__builtin_mul_overflow(count, size, &n))
        return NULL;
    return mem_zalloc(n);
}

char *mem_strndup(const char *s, size_t n) {
    n = strnlen(s, n);
    char *p = mem_alloc(n + 1);
    if (!p)
        return NULL;
    memcpy(p, s, n);
    p[n] = '\0';
    return p;
}

char *mem_strdup(const char *s) {
    return mem_strndup(s, strlen(s));
}

void mem_free(void *p) {
    free(p);
}

void *mem_must(void *p) {
    if (!p) {
        static const char text[] = "out of memory at start\n";
        ssize_t r = write(STDERR_FILENO, text, sizeof(text) - 1);
        UNUSED(r);
        abort();
    }
    return p;
}

void mem_fail_at(uint64_t n) {
    fail_in = n;
}

uint64_t mem_count(void) {
    return made;
}
