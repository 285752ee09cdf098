/*
 * A line is built on the stack and leaves by one write(2), so lines of threads never mix and nothing is lost in a
 * buffer when the process dies. Control characters are made visible: what a peer sent cannot forge a line.
 */
#include "base/log.h"

#include "base/clock.h"

#include <unistd.h>

#define LINE_MAX_BYTES 2048

int log_level_now = LOG_LEVEL_INFO;

static const char *const names[] = {"error", "warn", "info", "debug"};

void log_set_level(enum log_level level) {
    __atomic_store_n(&log_level_now, (int)level, __ATOMIC_RELAXED);
}

int log_level_parse(const char *s, enum log_level *ret) {
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        if (strcmp(s, names[i]) == 0) {
            *ret = (enum log_level)i;
            return 0;
        }
    }
    return -EINVAL;
}

static void write_line(const char *p, size_t n) {
    ssize_t r;
    do {
        r = write(STDERR_FILENO, p, n);
    } while (r < 0 && errno == EINTR);
}

void log_write(enum log_level level, const char *room, const char *fmt, ...) {
    int saved = errno;
    char line[LINE_MAX_BYTES], stamp[32];
    clock_format(clock_real_us(), stamp);
    int n = snprintf(line, sizeof(line) / 2, "%s %-5s %s: ", stamp, names[level], room);
    size_t at = n < 0 ? 0 : MIN((size_t)n, sizeof(line) / 2 - 1);
    va_list ap;
    va_start(ap, fmt);
    errno = saved; /* for %m */
    n = vsnprintf(line + at, sizeof(line) - at, fmt, ap);
    va_end(ap);
    size_t len = at;
    if (n >= 0 && (size_t)n < sizeof(line) - at) {
        len += (size_t)n;
    } else if (n >= 0) {
        memcpy(line + sizeof(line) - 4, "...", 3);
        len = sizeof(line) - 1;
    }
    for (size_t i = at; i < len; i++) {
        if ((unsigned char)line[i] < 0x20 || line[i] == 0x7f)
            line[i] = line[i] == '\n' || line[i] == '\t' ? ' ' : '?';
    }
    line[len++] = '\n';
    write_line(line, len);
    errno = saved;
}

/* Of threads that come at once the one whose exchange succeeds passes. */
bool log_limit_pass(struct log_limit *l, uint64_t period_ns) {
    uint64_t now = clock_mono_ns(), last = __atomic_load_n(&l->last_ns, __ATOMIC_RELAXED);
    bool due = last == 0 || (now > last && now - last >= period_ns);
    if (due && __atomic_compare_exchange_n(&l->last_ns, &last, now, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED))
        return true;
    __atomic_fetch_add(&l->suppressed, 1, __ATOMIC_RELAXED);
    return false;
}
