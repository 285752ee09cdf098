/*
 * Configuration at start: the sources are applied from the weakest to the strongest, each value is checked by the table
 * where it is read, so a mistake is reported with its own place even if something stronger would hide it.
 * A struct conf owns every value's text; the target only points to it. Main thread.
 */
#include "base/conf.h"

#include "base/json.h"
#include "base/log.h"
#include "base/yaml.h"

#include <fcntl.h>
#include <unistd.h>

#define NAME_MAX_BYTES  128
#define PREFIX          "TXMSG_"
#define CONFIG_FILE_MAX (1u << 20)
#define SECRET_FILE_MAX (64u << 10)

struct value {
    char *text; /* as it was written */
    enum conf_origin origin;
};

struct conf {
    const struct conf_option *table;
    size_t n;
    void *target;
    struct value *values; /* as many as options */
};
DEFINE_CLEANUP(struct conf *, conf, conf_free);

static int no_memory(struct errmsg *e) {
    return err_set(e, -ENOMEM, "out of memory");
}

static void wipe(char *text) {
    if (text)
        explicit_bzero(text, strlen(text));
    mem_free(text);
}

void conf_free(struct conf *c) {
    if (!c)
        return;
    for (size_t i = 0; c->values && i < c->n; i++)
        wipe(c->values[i].text);
    mem_free(c->values);
    mem_free(c);
}

static const struct conf_option *find(const struct conf_option *table, const char *name) {
    for (; table->name; table++) {
        if (strcmp(table->name, name) == 0)
            return table;
    }
    return NULL;
}

/* Levenshtein, of names cut to a bound that no option reaches. */
static size_t distance(const char *a, const char *b) {
    size_t row[NAME_MAX_BYTES + 1];
    size_t an = strnlen(a, NAME_MAX_BYTES), bn = strnlen(b, NAME_MAX_BYTES);
    for (size_t j = 0; j <= bn; j++)
        row[j] = j;
    for (size_t i = 1; i <= an; i++) {
        size_t diagonal = row[0];
        row[0] = i;
        for (size_t j = 1; j <= bn; j++) {
            size_t change = diagonal + (a[i - 1] != b[j - 1]);
            diagonal = row[j];
            row[j] = MIN(change, MIN(row[j], row[j - 1]) + 1);
        }
    }
    return row[bn];
}

static const struct conf_option *nearest(const struct conf_option *table, const char *name) {
    const struct conf_option *best = table;
    for (const struct conf_option *o = table; o->name; o++) {
        if (distance(o->name, name) < distance(best->name, name))
            best = o;
    }
    return best;
}

static int unknown(const struct conf *c, const char *where, const char *name, struct errmsg *e) {
    if (c->n == 0)
        return err_set(e, -EINVAL, "%s: unknown option \"%.100s\"", where, name);
    return err_set(e, -EINVAL, "%s: unknown option \"%.100s\"; the nearest is \"%s\"", where, name,
                   nearest(c->table, name)->name);
}

/* ---- values ---- */

struct step {
    int64_t scale;
    const char *unit;
};

/* In the largest unit that divides it, as the parsers read it back. */
static void format_number(enum conf_type type, int64_t v, char out[32]) {
    static const struct step times[] = {{86400000, "d"}, {3600000, "h"}, {60000, "m"}, {1000, "s"}, {1, "ms"}};
    static const struct step sizes[] = {{1 << 30, "GiB"}, {1 << 20, "MiB"}, {1 << 10, "KiB"}, {1, ""}};
    static const struct step plain[] = {{1, ""}};
    const struct step *s = type == CONF_DURATION_MS ? times : type == CONF_SIZE ? sizes : plain;
    while (s->scale > 1 && (v == 0 || v % s->scale != 0))
        s++;
    snprintf(out, 32, "%lld%s", (long long)(v / s->scale), s->unit);
}

static int parse_int(const char *s, int64_t *ret) {
    if (!*s || s[strspn(s, "+-0123456789")])
        return -EINVAL;
    char *end;
    errno = 0;
    long long v = strtoll(s, &end, 10);
    if (*end || end == s)
        return -EINVAL;
    *ret = v;
    return errno == ERANGE ? -ERANGE : 0;
}

static int parse_bool(const char *s, bool *ret) {
    static const char *const words[][2] = {{"true", "false"}, {"yes", "no"}, {"on", "off"}, {"1", "0"}};
    for (size_t i = 0; i < ARRAY_LEN(words); i++) {
        for (size_t k = 0; k < 2; k++) {
            if (strcasecmp(s, words[i][k]) == 0) {
                *ret = k == 0;
                return 0;
            }
        }
    }
    return -EINVAL;
}

static int parse_number(const struct conf_option *o, const char *text, int64_t *ret) {
    switch (o->type) {
    case CONF_DURATION_MS:
        return text_duration_ms(text, ret);
    case CONF_SIZE:
        return text_size(text, ret);
    default:
        return parse_int(text, ret);
    }
}

static int wrong(const struct conf_option *o, const char *where, const char *text, struct errmsg *e) {
    static const char *const wants[] = {[CONF_STR] = "a text",
                                        [CONF_INT] = "a whole number",
                                        [CONF_BOOL] = "true or false",
                                        [CONF_DURATION_MS] = "a duration such as 10s, 250ms or 2h",
                                        [CONF_SIZE] = "a size such as 64MiB or 4096"};
    return err_set(e, -EINVAL, "%s: %s must be %s, not \"%.100s\"", where, o->name, wants[o->type],
                   o->secret ? "***" : text);
}

static int check_bounds(const struct conf_option *o, const char *where, int64_t v, struct errmsg *e) {
    bool high = o->max != 0 && v > o->max;
    char is[32], bound[32];
    if (v >= o->min && !high)
        return 0;
    format_number(o->type, v, is);
    format_number(o->type, high ? o->max : o->min, bound);
    return err_set(e, -ERANGE, "%s: %s = %s is %s %s", where, o->name, o->secret ? "***" : is,
                   high ? "above the maximum" : "below the minimum", bound);
}

/* Checks a value, keeps its text and puts it into the target. `where` names the source for people. */
static int set(struct conf *c, const struct conf_option *o, const char *text, enum conf_origin origin,
               const char *where, struct errmsg *e) {
    struct value *v = &c->values[o - c->table];
    void *at = (char *)c->target + o->offset;
    int64_t number = 0;
    bool truth = false;
    int r = 0;
    if (o->type == CONF_BOOL)
        r = parse_bool(text, &truth);
    else if (o->type != CONF_STR)
        r = parse_number(o, text, &number);
    if (r < 0)
        return wrong(o, where, text, e);
    if (o->type != CONF_BOOL && o->type != CONF_STR && (r = check_bounds(o, where, number, e)) < 0)
        return r;
    char *copy = mem_strdup(text);
    if (!copy)
        return no_memory(e);
    wipe(v->text);
    *v = (struct value){copy, origin};
    if (o->type == CONF_STR)
        *(char **)at = copy;
    else if (o->type == CONF_BOOL)
        *(bool *)at = truth;
    else
        *(int64_t *)at = number;
    return 0;
}

static int apply_defaults(struct conf *c, struct errmsg *e) {
    for (const struct conf_option *o = c->table; o->name; o++) {
        void *at = (char *)c->target + o->offset;
        if (o->type == CONF_BOOL)
            *(bool *)at = false;
        else if (o->type != CONF_STR)
            *(int64_t *)at = 0;
        if (o->def || o->type == CONF_STR) {
            int r = set(c, o, o->def ? o->def : "", CONF_DEFAULT, "default", e);
            if (r < 0)
                return r;
        }
    }
    return 0;
}

/* ---- file ---- */

static int read_file(const char *path, struct buf *out, struct errmsg *e) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return err_set(e, -errno, "%s: %s", path, strerrordesc_np(errno));
    int r = 0;
    for (;;) {
        char piece[4096];
        ssize_t n = read(fd, piece, sizeof(piece));
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            r = err_set(e, -errno, "%s: %s", path, strerrordesc_np(errno));
        if (n <= 0)
            break;
        buf_put(out, piece, (size_t)n);
        explicit_bzero(piece, (size_t)n);
        if (buf_error(out)) {
            r = err_set(e, buf_error(out), "%s: larger than %zu bytes", path, out->max);
            break;
        }
    }
    close(fd);
    return r;
}

/* A scalar as a user would write it on a command line; NULL for a list. */
static const char *scalar_text(const json_t *j, char number[40]) {
    switch (json_typeof(j)) {
    case JSON_STRING:
        return json_string_value(j);
    case JSON_INTEGER:
        snprintf(number, 40, "%lld", (long long)json_integer_value(j));
        return number;
    case JSON_REAL:
        snprintf(number, 40, "%.15g", json_real_value(j));
        return number;
    case JSON_TRUE:
        return "true";
    case JSON_FALSE:
        return "false";
    default:
        return NULL;
    }
}

/* True if `name` is an option or the first part of one. */
static bool is_section(const struct conf *c, const char *name) {
    size_t n = strlen(name);
    for (const struct conf_option *o = c->table; o->name; o++) {
        if (strncmp(o->name, name, n) == 0 && (o->name[n] == '.' || !o->name[n]))
            return true;
    }
    return false;
}

static int apply_leaf(struct conf *c, const char *path, const char *name, const json_t *j, struct errmsg *e) {
    const struct conf_option *o = find(c->table, name);
    char number[40];
    /* "grpc:" with nothing below says nothing. */
    if ((json_is_null(j) || json_is_object(j)) && is_section(c, name) && (!o || json_is_null(j)))
        return 0;
    if (!o)
        return unknown(c, path, name, e);
    if (c->values[o - c->table].origin == CONF_FILE)
        return err_set(e, -EINVAL, "%s: %s is given twice", path, name);
    const char *text = scalar_text(j, number);
    if (!text)
        return err_set(e, -EINVAL, "%s: %s must be a single value", path, name);
    /* YAML has read 0123 or 1.10 as a number already; the text that was meant is lost. */
    if (o->type == CONF_STR && !json_is_string(j))
        return err_set(e, -EINVAL, "%s: %s must be a text: put it in quotes", path, name);
    return set(c, o, text, CONF_FILE, path, e);
}

/* Nested mappings flatten to dotted names. The depth is bounded by the parser. */
static int apply_object(struct conf *c, const char *path, const char *prefix, json_t *object, struct errmsg *e) {
    const char *key;
    json_t *j;
    json_object_foreach (object, key, j) {
        char name[NAME_MAX_BYTES];
        int n = snprintf(name, sizeof(name), "%s%s%s", prefix, *prefix ? "." : "", key);
        if (n < 0 || (size_t)n >= sizeof(name))
            return unknown(c, path, name, e);
        bool deeper = json_is_object(j) && json_object_size(j) > 0;
        int r = deeper ? apply_object(c, path, name, j, e) : apply_leaf(c, path, name, j, e);
        if (r < 0)
            return r;
    }
    return 0;
}

static int apply_file(struct conf *c, const char *path, struct errmsg *e) {
    CLEANUP_BUF struct buf text;
    buf_init(&text, CONFIG_FILE_MAX);
    int r = read_file(path, &text, e);
    if (r < 0)
        return r;
    CLEANUP_JSON json_t *root = yaml_parse(buf_bytes(&text), e);
    if (text.p)
        explicit_bzero(text.p, text.n);
    if (!root) {
        err_prefix(e, "%s", path);
        return -EINVAL;
    }
    if (json_is_null(root))
        return 0;
    if (!json_is_object(root))
        return err_set(e, -EINVAL, "%s: must be a mapping of options", path);
    return apply_object(c, path, "", root, e);
}

/* ---- environment ---- */

static void env_name(const char *name, char out[NAME_MAX_BYTES]) {
    size_t n = (size_t)snprintf(out, NAME_MAX_BYTES, PREFIX "%s", name);
    for (size_t i = 0; i < MIN(n, NAME_MAX_BYTES - 1); i++)
        out[i] = isalnum((unsigned char)out[i]) ? (char)toupper((unsigned char)out[i]) : '_';
}

static int apply_secret_file(struct conf *c, const struct conf_option *o, const char *where, const char *path,
                             struct errmsg *e) {
    CLEANUP_BUF struct buf text;
    buf_init(&text, SECRET_FILE_MAX);
    int r = read_file(path, &text, e);
    if (r == 0 && memchr(buf_str(&text), '\0', text.n))
        r = err_set(e, -EINVAL, "%s: holds a NUL", path);
    if (r == 0) {
        size_t n = text.n;
        if (n > 0 && text.p[n - 1] == '\n')
            n -= n > 1 && text.p[n - 2] == '\r' ? 2 : 1;
        if (text.p)
            text.p[n] = '\0';
        r = set(c, o, buf_str(&text), CONF_ENV, where, e);
    } else {
        err_prefix(e, "%s", where);
    }
    if (text.p)
        explicit_bzero(text.p, text.n);
    return r;
}

/* One variable: `name` with its prefix. 1 if it belongs to no option. */
static int apply_variable(struct conf *c, const char *name, const char *text, struct errmsg *e) {
    for (const struct conf_option *o = c->table; o->name; o++) {
        char mine[NAME_MAX_BYTES];
        env_name(o->name, mine);
        size_t n = strlen(mine);
        bool plain = strcmp(name, mine) == 0;
        bool file = o->secret && strncmp(name, mine, n) == 0 && strcmp(name + n, "_FILE") == 0;
        if (!plain && !file)
            continue;
        if (o->secret && c->values[o - c->table].origin == CONF_ENV)
            return err_set(e, -EINVAL, "%s and %s_FILE are both set", mine, mine);
        return plain ? set(c, o, text, CONF_ENV, name, e) : apply_secret_file(c, o, name, text, e);
    }
    return 1;
}

/* Splits "NAME=text" of ours; false for other variables. */
static bool split_variable(const char *entry, char name[NAME_MAX_BYTES], const char **ret_text) {
    const char *eq = strchr(entry, '=');
    if (!eq || strncmp(entry, PREFIX, strlen(PREFIX)) != 0)
        return false;
    snprintf(name, NAME_MAX_BYTES, "%.*s", (int)MIN(eq - entry, NAME_MAX_BYTES), entry);
    *ret_text = eq + 1;
    return true;
}

static int apply_env(struct conf *c, char **env, struct errmsg *e) {
    for (; env && *env; env++) {
        char name[NAME_MAX_BYTES];
        const char *text;
        if (!split_variable(*env, name, &text) || strcmp(name, PREFIX "CONFIG") == 0)
            continue;
        int r = apply_variable(c, name, text, e);
        if (r < 0)
            return r;
        /* Only a warning: orchestrators invent variables of their own from a service's name. */
        if (r == 1)
            LOG_WARN("conf", "environment variable %s is not an option", name);
    }
    return 0;
}

/* ---- command line ---- */

struct arg {
    char name[NAME_MAX_BYTES];
    const char *text;
};

/* Reads the option at argv[*i] and moves past it. A bool may stand without a value. */
static int next_arg(const struct conf *c, int argc, char **argv, int *i, struct arg *ret, struct errmsg *e) {
    const char *word = argv[(*i)++];
    if (strncmp(word, "--", 2) != 0 || !word[2])
        return err_set(e, -EINVAL, "unexpected argument \"%.100s\"", word);
    word += 2;
    const char *eq = strchrnul(word, '=');
    snprintf(ret->name, sizeof(ret->name), "%.*s", (int)MIN(eq - word, NAME_MAX_BYTES), word);
    bool config = strcmp(ret->name, "config") == 0;
    const struct conf_option *o = find(c->table, ret->name);
    if (!o && !config)
        return unknown(c, "command line", ret->name, e);
    const char *follows = *i < argc ? argv[*i] : NULL;
    bool b;
    if (*eq) {
        ret->text = eq + 1;
    } else if (!config && o->type == CONF_BOOL && (!follows || parse_bool(follows, &b) < 0)) {
        ret->text = "true";
    } else if (follows) {
        ret->text = follows;
        (*i)++;
    } else {
        return err_set(e, -EINVAL, "--%s needs a value", ret->name);
    }
    return 0;
}

static int apply_args(struct conf *c, int argc, char **argv, struct errmsg *e) {
    for (int i = 1; i < argc;) {
        struct arg a;
        int r = next_arg(c, argc, argv, &i, &a, e);
        if (r == 0 && strcmp(a.name, "config") != 0)
            r = set(c, find(c->table, a.name), a.text, CONF_FLAG, "command line", e);
        if (r < 0)
            return r;
    }
    return 0;
}

/* --config (the last one), or TXMSG_CONFIG, or none. */
static int find_config(const struct conf *c, int argc, char **argv, char **env, const char **ret, struct errmsg *e) {
    *ret = NULL;
    for (; env && *env; env++) {
        char name[NAME_MAX_BYTES];
        const char *text;
        if (split_variable(*env, name, &text) && strcmp(name, PREFIX "CONFIG") == 0 && *text)
            *ret = text;
    }
    for (int i = 1; i < argc;) {
        struct arg a;
        int r = next_arg(c, argc, argv, &i, &a, e);
        if (r < 0)
            return r;
        if (strcmp(a.name, "config") == 0)
            *ret = a.text;
    }
    return 0;
}

/* ---- the whole ---- */

static int load(struct conf *c, int argc, char **argv, char **env, struct errmsg *e) {
    const char *path;
    int r = apply_defaults(c, e);
    if (r == 0)
        r = find_config(c, argc, argv, env, &path, e);
    if (r == 0 && path)
        r = apply_file(c, path, e);
    if (r == 0)
        r = apply_env(c, env, e);
    if (r == 0)
        r = apply_args(c, argc, argv, e);
    return r;
}

struct conf *conf_load(const struct conf_option *table, void *target, int argc, char **argv, char **env,
                       struct errmsg *e) {
    CLEANUP(conf_cleanup) struct conf *c = mem_zalloc(sizeof(*c));
    if (!c) {
        no_memory(e);
        return NULL;
    }
    c->table = table;
    c->target = target;
    while (table[c->n].name)
        c->n++;
    c->values = mem_calloc(c->n, sizeof(*c->values));
    if (!c->values) {
        no_memory(e);
        return NULL;
    }
    if (load(c, argc, argv, env, e) == 0)
        return TAKE(c);
    /* The texts die with c. */
    for (const struct conf_option *o = table; o->name; o++) {
        if (o->type == CONF_STR)
            *(char **)((char *)target + o->offset) = NULL;
    }
    return NULL;
}

enum conf_origin conf_origin(const struct conf *c, const char *name) {
    const struct conf_option *o = find(c->table, name);
    ASSERT(o);
    return c->values[o - c->table].origin;
}

/* Equal in meaning: 60s is 1m. */
static bool same(const struct conf_option *o, const char *a, const char *b) {
    int64_t x = 0, y = 0;
    bool p = false, q = false;
    a = a ? a : o->type == CONF_BOOL ? "false" : "0";
    b = b ? b : o->type == CONF_BOOL ? "false" : "0";
    if (strcmp(a, b) == 0 || o->type == CONF_STR)
        return strcmp(a, b) == 0;
    if (o->type == CONF_BOOL)
        return parse_bool(a, &p) == 0 && parse_bool(b, &q) == 0 && p == q;
    return parse_number(o, a, &x) == 0 && parse_number(o, b, &y) == 0 && x == y;
}

/* The target of an option takes what that of another conf has. */
static void move_value(const struct conf_option *o, void *to, const void *from) {
    size_t n = o->type == CONF_STR ? sizeof(char *) : o->type == CONF_BOOL ? sizeof(bool) : sizeof(int64_t);
    memcpy((char *)to + o->offset, (const char *)from + o->offset, n);
}

void conf_reload(struct conf *c, struct conf *fresh, void (*told)(void *arg, const struct conf_option *o), void *arg) {
    ASSERT(c->table == fresh->table);
    for (size_t i = 0; i < c->n; i++) {
        const struct conf_option *o = &c->table[i];
        if (same(o, c->values[i].text, fresh->values[i].text))
            continue;
        if (o->reloadable) {
            struct value old = c->values[i];
            c->values[i] = fresh->values[i];
            fresh->values[i] = old;
            move_value(o, c->target, fresh->target);
        }
        told(arg, o);
    }
}

void conf_show(const struct conf *c, struct buf *out) {
    static const char *const origins[] = {"default", "file", "environment", "command line"};
    for (size_t i = 0; i < c->n; i++) {
        const struct value *v = &c->values[i];
        const char *text = v->text ? v->text : c->table[i].type == CONF_BOOL ? "false" : "0";
        buf_printf(out, "%s = ", c->table[i].name);
        if (c->table[i].secret)
            text = *text ? "***" : "";
        for (; *text; text++)
            buf_put_char(out, (unsigned char)*text < 0x20 ? ' ' : *text);
        buf_printf(out, "  (%s)\n", origins[v->origin]);
    }
}

static void reference_bounds(const struct conf_option *o, struct buf *out) {
    char low[32], high[32];
    if (o->type == CONF_STR || o->type == CONF_BOOL)
        return;
    format_number(o->type, o->min, low);
    format_number(o->type, o->max, high);
    if (o->max)
        buf_printf(out, "%s to %s", low, high);
    else
        buf_printf(out, "from %s", low);
}

static void reference_row(const struct conf_option *o, struct buf *out) {
    static const char *const types[] = {"text", "number", "bool", "duration", "size"};
    char variable[NAME_MAX_BYTES];
    env_name(o->name, variable);
    buf_printf(out, "| `%s` | %s%s%s | ", o->name, types[o->type], o->secret ? ", secret" : "",
               o->reloadable ? ", reload" : "");
    if (o->def && *o->def)
        buf_printf(out, "`%s`", o->def);
    buf_put_str(out, " | ");
    reference_bounds(o, out);
    buf_printf(out, " | `%s`%s | ", variable, o->secret ? ", `.._FILE`" : "");
    for (const char *s = o->help ? o->help : ""; *s; s++) {
        if (*s == '|')
            buf_put_char(out, '\\');
        buf_put_char(out, *s == '\n' ? ' ' : *s);
    }
    buf_put_str(out, " |\n");
}

void conf_reference(const struct conf_option *table, struct buf *out) {
    const char *section = NULL;
    size_t section_n = 0;
    buf_put_str(
        out,
        "# Configuration\n\n"
        "Stronger sources win: default, YAML file (`--config`, `" PREFIX "CONFIG`), environment, "
        "command line (`--name=value`).\n"
        "A secret may stand in a file that `" PREFIX "..._FILE` names.\n\n"
        "`txmsgd config check` (or `--check-config`) reads all of them, says what is wrong and ends; `txmsgd config "
        "show` (or\n`--show-config`) prints each value with its source, secrets masked. On SIGHUP the sources are read "
        "again: options of type *reload* "
        "take their new value, others that\ndiffer are named in a warning and wait for the next start. "
        "A mistake is logged, and everything stays as it was.\n");
    for (const struct conf_option *o = table; o->name; o++) {
        const char *dot = strchr(o->name, '.');
        size_t n = dot ? (size_t)(dot - o->name) : 0;
        if (!section || n != section_n || strncmp(section, o->name, n) != 0) {
            section = o->name;
            section_n = n;
            buf_printf(out, "\n## %.*s\n\n", n ? (int)n : 7, n ? o->name : "general");
            buf_put_str(out, "| Option | Type | Default | Bounds | Environment | Meaning |\n");
            buf_put_str(out, "|---|---|---|---|---|---|\n");
        }
        reference_row(o, out);
    }
}
