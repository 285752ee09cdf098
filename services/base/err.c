/*
 * Words for errors. An errmsg is a plain value of its owner; nothing here keeps state, so any thread may call.
 */
#include "base/err.h"

#include <limits.h>
#include <unistd.h>

_Noreturn void err_assert_failed(const char *cond, const char *file, int line, const char *func) {
    char text[512];
    int n = snprintf(text, sizeof(text), "assertion failed: %s (%s:%d, %s)\n", cond, file, line, func);
    size_t len = n < 0 ? 0 : MIN((size_t)n, sizeof(text) - 1);
    /* write(2) and no stdio: a broken process may hold the stdio lock. */
    ssize_t r = write(STDERR_FILENO, text, len);
    UNUSED(r);
    abort();
}

/* Formatted beside the target first, because an argument may be the old text itself. */
int err_set(struct errmsg *e, int code, const char *fmt, ...) {
    if (!e)
        return code;
    struct errmsg fresh;
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(fresh.text, sizeof(fresh.text), fmt, ap);
    va_end(ap);
    if (n < 0)
        fresh.text[0] = '\0';
    *e = fresh;
    return code;
}

void err_prefix(struct errmsg *e, const char *fmt, ...) {
    if (!e)
        return;
    struct errmsg fresh;
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(fresh.text, sizeof(fresh.text), fmt, ap);
    va_end(ap);
    if (n < 0)
        return;
    size_t at = MIN((size_t)n, sizeof(fresh.text) - 1);
    char joint[sizeof(e->text) + 2] = ": ";
    memcpy(joint + 2, e->text, sizeof(e->text));
    size_t len = MIN(strnlen(joint, sizeof(joint) - 1), sizeof(fresh.text) - 1 - at);
    memcpy(fresh.text + at, joint, len);
    fresh.text[at + len] = '\0';
    *e = fresh;
}

const char *err_text(int code) {
    if (code == 0)
        return "OK";
    const char *name = code == INT_MIN ? NULL : strerrorname_np(code < 0 ? -code : code);
    return name ? name : "UNKNOWN";
}
