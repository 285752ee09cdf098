/*
 * Configuration: one table of options is the truth for parsing, bounds, defaults and the printed reference page.
 * Order of strength: default < YAML file < environment < command line. An unknown key is an error that names the
 * nearest one. In the environment an option is TXMSG_ and the name in capitals, other characters as "_".
 */
#pragma once

#include "base/bytes.h"

enum conf_type { CONF_STR, CONF_INT, CONF_BOOL, CONF_DURATION_MS, CONF_SIZE };

struct conf_option {
    /* "grpc.listen": YAML path, --grpc.listen=..., TXMSG_GRPC_LISTEN (and TXMSG_GRPC_LISTEN_FILE if secret) */
    const char *name;
    enum conf_type type;
    const char *def;  /* text as a user would write it; NULL = no default (empty string, 0, false) */
    int64_t min, max; /* CONF_INT, CONF_DURATION_MS, CONF_SIZE: inclusive; max 0 = unbounded */
    bool secret;      /* printed as *** */
    const char *help; /* one sentence */
    size_t offset;    /* into the target struct: char *, int64_t or bool by type */
    bool reloadable;  /* conf_reload() takes a new value while the program runs */
};

/* Where a value came from, for `config show`. */
enum conf_origin { CONF_DEFAULT, CONF_FILE, CONF_ENV, CONF_FLAG };

struct conf; /* parsed values and origins; owns the strings that the target points to */

/*
 * Fills `target` by the table (ended by name NULL). argv[1..] may hold --name=value, --name value, --config FILE (else
 * the variable TXMSG_CONFIG names the file); a bool may stand alone; the last of a name wins; other words are errors.
 * env is `environ`-like; a TXMSG_* variable of no option is only warned about, since orchestrators make such. YAML
 * nested mappings flatten to dotted names. Strings in the target are never NULL and live as long as the result.
 * NULL and *e on failure; the target's strings are NULL then.
 */
struct conf *conf_load(const struct conf_option *table, void *target, int argc, char **argv, char **env,
                       struct errmsg *e) MUSTCHECK;
void conf_free(struct conf *c);
enum conf_origin conf_origin(const struct conf *c, const char *name);
/*
 * Brings a running program to what its sources say now: `fresh` was loaded from them by the same table. Each option that
 * differs is told once; of the reloadable ones the value moves into `c` and its target before that, the others stay as
 * they are. Never fails; `fresh` and its target are only good for conf_free() afterwards. On the thread that reads the
 * reloadable options.
 */
void conf_reload(struct conf *c, struct conf *fresh, void (*told)(void *arg, const struct conf_option *o), void *arg);
/* "name = value  (origin)" lines, secrets masked. */
void conf_show(const struct conf *c, struct buf *out);
/* The reference page in Markdown. */
void conf_reference(const struct conf_option *table, struct buf *out);
