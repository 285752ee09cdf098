/*
 * Reads the members of one JSON object by a table: one row for each with its type, place, bounds and default. Unknown members, wrong
 * types and bounds are so refused in one way, by name. Members that the contract has and the workers cannot honour yet are
 * refused as well unless they say nothing (MEMBER_LATER): a filter or an order that is silently ignored would be worse than an
 * error. Private to the policy files. Pure.
 */
#pragma once

#include "base/arena.h"
#include "base/json.h"

enum kind {
    MEMBER_MS,       /* "10s" -> int64_t */
    MEMBER_INT,      /* -> int */
    MEMBER_NUM,      /* -> double */
    MEMBER_BOOL,     /* -> bool */
    MEMBER_TEXT,     /* -> const char *, at most `max` bytes, no control characters */
    MEMBER_HTTP,     /* -> const char *, a URL */
    MEMBER_ENDPOINT, /* -> const char *, where a check is asked for */
    MEMBER_GRPC,     /* -> const char *, grpc://host:port */
    MEMBER_AMQP,     /* -> const char *, a URL */
    MEMBER_SECRET,   /* -> const char * */
    MEMBER_NESTED,   /* has a table of its own, or code: not read here */
    MEMBER_ENUM,     /* -> int: the place in `words`, from 1; `def` if the first word (UNSPECIFIED) is given */
    MEMBER_ABOUT,    /* a text for people, or set by the server: bounded, but not kept */
    MEMBER_LATER,    /* must be absent, or say nothing: false, 0, "0s", {}; or be one of `words` if there are any */
};

struct member {
    const char *name;
    enum kind kind;
    size_t offset;
    double min, max, def;
    const char *const *words; /* ended by NULL; words[0] = UNSPECIFIED */
};

/* Where the reader stands. */
struct spec {
    struct arena *arena;
    struct errmsg *e;
    const char *path; /* "check.", or "" at the top */
};

/* All members of one object; obj NULL = it is absent, all defaults. */
int read_members(const struct spec *s, const struct member *table, const json_t *obj, void *out) MUSTCHECK;
/* One text of any kind; absent = "". It is copied into the arena. */
int read_text(const struct spec *s, const struct member *m, const json_t *j, const char **ret) MUSTCHECK;
int read_ms(const struct spec *s, const struct member *m, const json_t *j, int64_t *ret) MUSTCHECK;
int keep_text(const struct spec *s, const char *name, const char *text, const char **ret) MUSTCHECK;
const json_t *member_of(const json_t *obj, const char *name); /* NULL when it is absent or null */
const char *text_of(const json_t *j);                         /* NULL unless it is a string without NUL */
/* Durations are printed as they are written: "100ms", "10s", "10m", "24h". */
const char *print_ms(char out[32], double v);
