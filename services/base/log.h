/*
 * One line per event on stderr: time, level, room, text, then key=value pairs that the caller formats.
 *     LOG_WARN("store", "connection lost: %s", why);
 * Rooms that return errors stay silent; who handles an error logs it once, with ids. Never secrets or bodies.
 */
#pragma once

#include "base/err.h"

enum log_level { LOG_LEVEL_ERROR, LOG_LEVEL_WARN, LOG_LEVEL_INFO, LOG_LEVEL_DEBUG };

extern int log_level_now; /* the loudest enum log_level of all rooms: what is beyond it costs one comparison */

void log_set_level(enum log_level level); /* of all rooms */
/*
 * "info,store=debug,rpc=warn": a level for all rooms (info if there is none) and levels of some. All or nothing: -EINVAL
 * and *e. May be called while others log.
 */
int log_set_levels(const char *spec, struct errmsg *e) MUSTCHECK;
int log_check_levels(const char *spec, struct errmsg *e) MUSTCHECK; /* the same without the setting */
enum log_level log_level_of(const char *room);
int log_level_parse(const char *s, enum log_level *ret) MUSTCHECK; /* "error" ..., -EINVAL */
/* Drops what is beyond the room's level. A room is one of those in log.c: tests hold callers to it. */
void log_write(enum log_level level, const char *room, const char *fmt, ...) PRINTF_LIKE(3, 4);

#define LOG_AT(level, room, ...)                                                                                       \
    do {                                                                                                               \
        if ((int)(level) <= __atomic_load_n(&log_level_now, __ATOMIC_RELAXED))                                         \
            log_write((level), (room), __VA_ARGS__);                                                                   \
    } while (0)
#define LOG_ERROR(room, ...) LOG_AT(LOG_LEVEL_ERROR, room, __VA_ARGS__)
#define LOG_WARN(room, ...)  LOG_AT(LOG_LEVEL_WARN, room, __VA_ARGS__)
#define LOG_INFO(room, ...)  LOG_AT(LOG_LEVEL_INFO, room, __VA_ARGS__)
#define LOG_DEBUG(room, ...) LOG_AT(LOG_LEVEL_DEBUG, room, __VA_ARGS__)

/* For reports that can come in floods: true at most once per `period_ns`, `suppressed` counts the rest. @thread any */
struct log_limit {
    uint64_t last_ns, suppressed;
};
bool log_limit_pass(struct log_limit *l, uint64_t period_ns);
