/*
 * txmsgctl: one blocking call per command, tables for people, --json for scripts.
 *
 * Exit codes: see ctl_exits in commands.c.
 */
#pragma once

#include "base/arena.h"
#include "base/json.h"
#include "rpc/client.h"
#include "rpc/jsonpb.h"
#include "txmsg/v1/transaction.pb-c.h"

#include "google/protobuf/timestamp.pb-c.h"

enum {
    CTL_OK = 0,
    CTL_REFUSED = 1,
    CTL_USAGE = 2,
    CTL_UNREACHABLE = 3,
    CTL_UNKNOWN = 4,
    CTL_DIFFERS = 5,
    CTL_OPTIONS_MAX = 64,
    CTL_WORDS_MAX = 1024
};

/* --- args.c --- */

/* An option of a command. value_name NULL = a switch. */
struct ctl_option {
    const char *name;       /* "--producer" */
    const char *value_name; /* "P" */
    const char *help;
};
struct ctl_args {
    struct {
        const char *name, *value;
    } options[CTL_OPTIONS_MAX];
    int options_n;
    const char *words[CTL_WORDS_MAX]; /* what is not an option */
    int words_n;
};
/* Parses argv[0..n) by the tables (ended by name NULL; either may be NULL). 0, or -EINVAL after printing what is wrong. */
int args_parse(int n, char **argv, const struct ctl_option *global, const struct ctl_option *own, struct ctl_args *ret)
    MUSTCHECK;
const char *args_get(const struct ctl_args *a,
                     const char *name); /* the last value; "" for a switch; NULL = not given */
bool args_has(const struct ctl_args *a, const char *name);

/* --- output.c --- */

struct ctl {
    struct ctl_args args;
    struct arena arena;
    struct rpc_client *client;
    bool json;
    int64_t timeout_ms;
    const char *server;
};

/* A table whose columns are as wide as their content; the last column is not padded. */
struct table {
    int columns, rows;
    const char **cells;
    int cap;
};
void table_row(struct table *t, int columns, ...); /* const char *...; the first row is the head */
void table_print(struct table *t);                 /* and frees */

/*
 * Calls and handles every failure: prints it and returns its exit code. CTL_OK: *ret is the response (in the arena), already printed
 * if --json was given (then *ret is NULL and there is nothing left to do).
 */
int ctl_call(struct ctl *c, const char *method, const ProtobufCMessage *request,
             const ProtobufCMessageDescriptor *response, const ProtobufCMessage **ret) MUSTCHECK;
/* The same, and *ret is never printed. */
int ctl_query(struct ctl *c, const char *method, const ProtobufCMessage *request,
              const ProtobufCMessageDescriptor *response, const ProtobufCMessage **ret) MUSTCHECK;
/*
 * The same for a List method, page after page to the last: the request has page_size and page_token, the response the list and
 * next_page_token. What comes, or is printed, is one response with all of it.
 */
int ctl_call_all(struct ctl *c, const char *method, ProtobufCMessage *request,
                 const ProtobufCMessageDescriptor *response, const ProtobufCMessage **ret) MUSTCHECK;
/*
 * For a call that is answered by a stream: each message goes to `message` (not 0 = enough). Without --timeout there is none. Returns the
 * exit code, after printing an error.
 */
int ctl_stream(struct ctl *c, const char *method, const ProtobufCMessage *request,
               const ProtobufCMessageDescriptor *response, int (*message)(void *arg, const ProtobufCMessage *m),
               void *arg) MUSTCHECK;
int ctl_usage(const char *fmt, ...) PRINTF_LIKE(1, 2); /* prints and returns CTL_USAGE */
void ctl_print_json(const ProtobufCMessage *m);
void ctl_print_json_line(const ProtobufCMessage *m); /* one line, and flushed: for streams */
/* "2026-01-02 03:04:05.678" or "-". */
const char *ctl_time(struct ctl *c, const void *timestamp);
/* "prepared" of a descriptor's value TRANSACTION_STATE_PREPARED. */
const char *ctl_enum(struct ctl *c, const ProtobufCEnumDescriptor *d, int value);
char *ctl_text(struct ctl *c, const char *s); /* control characters as '.', for terminals */
char *ctl_opt(const struct ctl *c,
              const char *name); /* the value of an option; "" = not given. For members of requests */
/*
 * Before what cannot be undone: CTL_OK with --yes, or when a person at the terminal says so to "<question>? [y/N]". Else CTL_REFUSED
 * (the answer was no) or CTL_USAGE (nobody can be asked), both after saying so.
 */
int ctl_confirm(const struct ctl *c, const char *question) MUSTCHECK;
/* In red, at a terminal that may be coloured (NO_COLOR). */
const char *ctl_red(struct ctl *c, const char *s);
char *ctl_actor(const struct ctl *c);             /* --actor, or the login name */
int ctl_limit(const struct ctl *c, int32_t *ret); /* --limit; CTL_OK or CTL_USAGE */
/* The time that an option gives: RFC 3339, or that far ahead (sign 1) or ago (-1); NULL = not given. CTL_OK or CTL_USAGE */
int ctl_time_option(struct ctl *c, const char *name, int sign, Google__Protobuf__Timestamp **ret) MUSTCHECK;
int ctl_more(const char *next_page_token); /* tells people that there are more; CTL_OK */
/* The content of a file, "-" = standard input; NULL after printing why. */
const char *ctl_read_file(struct ctl *c, const char *path, size_t *ret_n);

/*
 * --body TEXT or --body-file FILE for message 0, and --body-of N=FILE for others: what a decision brings for messages that were prepared
 * with body_later. In the arena. CTL_OK or CTL_USAGE.
 */
int ctl_bodies(struct ctl *c, Txmsg__V1__MessageBody ***ret, size_t *n) MUSTCHECK;
#define CTL_BODY_OPTIONS                                                                                               \
    {"--body", "TEXT", "the body, if it was prepared with --body-later"},                                              \
        {"--body-file", "FILE", "the same from a file, - = standard input"}, {                                         \
        "--body-of", "N=FILE", "the body of message N; may be given several times"                                     \
    }

/* --- commands --- */

struct ctl_command {
    const char *words; /* "dead list" */
    const char *operands, *help;
    const struct ctl_option *options;
    int (*run)(struct ctl *c);
};
extern const struct ctl_command message_commands[], watch_commands[], show_commands[], topology_commands[],
    object_commands[], admin_commands[], dead_commands[], replay_commands[], monitor_commands[], migrate_commands[],
    shell_commands[];

/* --- commands.c: all of it, for help, completions and the man page --- */

extern const struct ctl_option ctl_global_options[];
extern const struct ctl_command *const ctl_tables[]; /* the last is NULL */
struct ctl_exit {
    int code;
    const char *text;
};
extern const struct ctl_exit ctl_exits[]; /* the last has no text */
