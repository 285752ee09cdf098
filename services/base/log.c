/*
 * A line is built on the stack and leaves by one write(2), so lines of threads never mix and nothing is lost in a
 * buffer when the process dies. Control characters are made visible: what a peer sent cannot forge a line.
 *
 * A level for each room, each an atomic of its own: whoever logs while they are set meets the old or the new one.
 */
#include "base/log.h"

#include "base/clock.h"

#include <unistd.h>

#define LINE_MAX_BYTES 2048

int log_level_now = LOG_LEVEL_INFO;

static const char *const names[] = {"error", "warn", "info", "debug"};
static const char *const rooms[] = {"admin",   "checkback", "conf",  "forward", "grpc",     "http",
                                    "message", "rpc",       "store", "txmsgd",  "webclient"};
enum { ROOMS = ARRAY_LEN(rooms), LEVELS_MAX_BYTES = 512 };
static int levels[ROOMS] = {[0 ... ROOMS - 1] = LOG_LEVEL_INFO};

static int room_find(const char *room) {
    for (int i = 0; i < ROOMS; i++) {
        if (strcmp(rooms[i], room) == 0)
            return i;
    }
    return -1;
}

/* Those not in the list have the loudest level. */
enum log_level log_level_of(const char *room) {
    int i = room_find(room);
    return (enum log_level)__atomic_load_n(i < 0 ? &log_level_now : &levels[i], __ATOMIC_RELAXED);
}

static void apply(const int *wanted) {
    int loudest = LOG_LEVEL_ERROR;
    for (int i = 0; i < ROOMS; i++) {
        __atomic_store_n(&levels[i], wanted[i], __ATOMIC_RELAXED);
        loudest = MAX(loudest, wanted[i]);
    }
    __atomic_store_n(&log_level_now, loudest, __ATOMIC_RELAXED);
}

void log_set_level(enum log_level level) {
    int wanted[ROOMS];
    for (int i = 0; i < ROOMS; i++)
        wanted[i] = (int)level;
    apply(wanted);
}

static int wrong_room(const char *room, struct errmsg *e) {
    char all[200] = "";
    for (size_t i = 0, n = 0; i < ROOMS && n < sizeof(all); i++)
        n += (size_t)snprintf(all + n, sizeof(all) - n, "%s%s", i ? ", " : "", rooms[i]);
    return err_set(e, -EINVAL, "log.level: \"%.40s\" is no room; there are %s", room, all);
}

/* One "level" or "room=level"; `seen` has a bit for each room, and one more for the level of all. */
static int parse_item(char *item, int *wanted, int *common, uint32_t *seen, struct errmsg *e) {
    char *eq = strchr(item, '=');
    const char *text = eq ? eq + 1 : item;
    enum log_level level;
    int i = ROOMS;
    if (eq) {
        *eq = '\0';
        if ((i = room_find(item)) < 0)
            return wrong_room(item, e);
    }
    if (log_level_parse(text, &level) < 0)
        return err_set(e, -EINVAL, "log.level: \"%.40s\" is no level; error, warn, info and debug are", text);
    if (*seen & 1u << i)
        return err_set(e, -EINVAL, "log.level: %.40s is given twice", eq ? item : "the level of all rooms");
    *seen |= 1u << i;
    *(i == ROOMS ? common : &wanted[i]) = (int)level;
    return 0;
}

static int parse_levels(const char *spec, int *wanted, struct errmsg *e) {
    char text[LEVELS_MAX_BYTES];
    int common = LOG_LEVEL_INFO;
    uint32_t seen = 0;
    size_t n = 0;
    for (; *spec; spec++) { /* without blanks */
        if (n == sizeof(text) - 1)
            return err_set(e, -EINVAL, "log.level is too long");
        if (*spec != ' ')
            text[n++] = *spec;
    }
    text[n] = '\0';
    for (char *at = text, *end; at; at = end) {
        end = strchr(at, ',');
        if (end)
            *end++ = '\0';
        int r = parse_item(at, wanted, &common, &seen, e);
        if (r < 0)
            return r;
    }
    for (int i = 0; i < ROOMS; i++) {
        if (!(seen & 1u << i))
            wanted[i] = common;
    }
    return 0;
}

int log_check_levels(const char *spec, struct errmsg *e) {
    int wanted[ROOMS];
    return parse_levels(spec, wanted, e);
}

int log_set_levels(const char *spec, struct errmsg *e) {
    int wanted[ROOMS];
    int r = parse_levels(spec, wanted, e);
    if (r == 0)
        apply(wanted);
    return r;
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
    if (level > log_level_of(room))
        return;
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
