/* Tables, JSON, errors: everything that txmsgctl prints. */
#include "txmsgctl/ctl.h"

#include "base/clock.h"

#include <unistd.h>

enum { FILE_BYTES_MAX = 16 << 20, COLUMNS_MAX = 12, PAGE = 1000 };

void table_row(struct table *t, int columns, ...) {
    ASSERT(columns <= COLUMNS_MAX && (!t->rows || columns == t->columns));
    t->columns = columns;
    if ((t->rows + 1) * columns > t->cap) {
        t->cap = MAX(t->cap * 2, 64 * columns);
        t->cells = mem_must(mem_realloc(t->cells, (size_t)t->cap * sizeof(*t->cells)));
    }
    va_list ap;
    va_start(ap, columns);
    for (int i = 0; i < columns; i++)
        t->cells[t->rows * columns + i] = va_arg(ap, const char *);
    va_end(ap);
    t->rows++;
}

/* Columns of a terminal: UTF-8 continuation bytes and colours take none. */
static int width(const char *s) {
    int n = 0;
    for (; *s; s++) {
        if (*s == '\x1b') /* up to its `m` */
            s += strcspn(s, "m");
        else
            n += ((unsigned char)*s & 0xc0) != 0x80;
    }
    return n;
}

void table_print(struct table *t) {
    int w[COLUMNS_MAX] = {0};
    for (int r = 0; r < t->rows; r++)
        for (int c = 0; c < t->columns; c++)
            w[c] = MAX(w[c], width(t->cells[r * t->columns + c]));
    for (int r = 0; r < t->rows; r++) {
        for (int c = 0; c < t->columns; c++) {
            const char *s = t->cells[r * t->columns + c];
            int pad = c + 1 < t->columns ? w[c] - width(s) + 2 : 0;
            printf("%s%*s", s, pad, "");
        }
        putchar('\n');
    }
    mem_free(t->cells);
    *t = (struct table){0};
}

int ctl_usage(const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    fputs("txmsgctl: ", stderr);
    vfprintf(stderr, fmt, ap);
    fputs("\nTry 'txmsgctl --help'.\n", stderr);
    va_end(ap);
    return CTL_USAGE;
}

void ctl_print_json(const ProtobufCMessage *m) {
    CLEANUP_JSON json_t *j = mem_must(jsonpb_print(m));
    char *text = mem_must(json_dumps(j, JSON_INDENT(2) | JSON_PRESERVE_ORDER));
    puts(text);
    free(text);
}

void ctl_print_json_line(const ProtobufCMessage *m) {
    CLEANUP_JSON json_t *j = mem_must(jsonpb_print(m));
    char *text = mem_must(json_dumps(j, JSON_COMPACT | JSON_PRESERVE_ORDER));
    puts(text);
    fflush(stdout);
    free(text);
}

static int exit_code(const struct rpc_result *r) {
    if (r->code != RPC_UNAVAILABLE && r->code != RPC_DEADLINE_EXCEEDED)
        return CTL_REFUSED;
    if (!r->reason) /* gRPC's own words: never connected, or cut in the middle of a call */
        return r->message && !strncmp(r->message, "failed to connect", 17) ? CTL_UNREACHABLE : CTL_UNKNOWN;
    if (!strcmp(r->reason, "STORE_UNAVAILABLE") || !strcmp(r->reason, "SHUTTING_DOWN"))
        return CTL_UNREACHABLE;
    return !strcmp(r->reason, "OUTCOME_UNKNOWN") ? CTL_UNKNOWN : CTL_REFUSED;
}

static void print_json_error(const struct rpc_result *r) {
    CLEANUP_JSON json_t *j = json_pack("{s:{s:s, s:s, s:s}}", "error", "code", rpc_code_name(r->code), "reason",
                                       r->reason ? r->reason : "", "message", r->message ? r->message : "");
    json_t *e = json_object_get(mem_must(j), "error");
    if (r->field)
        json_object_set_new(e, "field", json_string(r->field));
    if (r->retry_after_ms)
        json_object_set_new(e, "retry_after_ms", json_integer(r->retry_after_ms));
    char *text = mem_must(json_dumps(j, JSON_INDENT(2)));
    puts(text);
    free(text);
}

static int connect_once(struct ctl *c) {
    struct errmsg e = ERRMSG_NULL;
    if (c->client || rpc_client_new(c->server, &c->client, &e) == 0)
        return CTL_OK;
    fprintf(stderr, "txmsgctl: %s: %s\n", c->server, e.text);
    return CTL_UNREACHABLE;
}

/* Prints the error of a call that ended; its exit code. */
static int failed(struct ctl *c, const struct rpc_result *r) {
    if (r->code == RPC_OK)
        return CTL_OK;
    if (c->json)
        print_json_error(r);
    fprintf(stderr, "%s %s: %s\n", rpc_code_name(r->code), r->reason ? r->reason : "-",
            r->message ? ctl_text(c, r->message) : "");
    return exit_code(r);
}

static int unsent(const struct ctl *c, int e) {
    fprintf(stderr, "txmsgctl: %s: the call could not be sent: %s\n", c->server, err_text(e));
    return CTL_UNREACHABLE;
}

int ctl_query(struct ctl *c, const char *method, const ProtobufCMessage *request,
              const ProtobufCMessageDescriptor *response, const ProtobufCMessage **ret) {
    struct rpc_result r = {0};
    int code = connect_once(c);
    if (code != CTL_OK)
        return code;
    int e = rpc_client_call(c->client, method, request, response, c->timeout_ms, &c->arena, &r);
    if (e < 0)
        return unsent(c, e);
    *ret = r.response;
    return failed(c, &r);
}

int ctl_stream(struct ctl *c, const char *method, const ProtobufCMessage *request,
               const ProtobufCMessageDescriptor *response, int (*message)(void *arg, const ProtobufCMessage *m),
               void *arg) {
    struct rpc_result r = {0};
    int64_t timeout_ms = args_has(&c->args, "--timeout") ? c->timeout_ms : 0;
    int code = connect_once(c);
    if (code != CTL_OK)
        return code;
    int e = rpc_client_stream(c->client, method, request, response, timeout_ms, message, arg, &c->arena, &r);
    return e < 0 ? unsent(c, e) : failed(c, &r);
}

static int printed(struct ctl *c, int code, const ProtobufCMessage **ret) {
    if (code == CTL_OK && c->json) {
        ctl_print_json(*ret);
        *ret = NULL;
    }
    return code;
}

int ctl_call(struct ctl *c, const char *method, const ProtobufCMessage *request,
             const ProtobufCMessageDescriptor *response, const ProtobufCMessage **ret) {
    *ret = NULL;
    return printed(c, ctl_query(c, method, request, response, ret), ret);
}

static void *member(const ProtobufCMessage *m, const char *name) {
    const ProtobufCFieldDescriptor *f = protobuf_c_message_descriptor_get_field_by_name(m->descriptor, name);
    ASSERT(f);
    return (char *)(uintptr_t)m + f->offset;
}

/* Puts the list of `page` behind that of `all`; the list is the first member of either. */
static void append(struct ctl *c, const ProtobufCMessage *all, const ProtobufCMessage *page) {
    const ProtobufCFieldDescriptor *f = &all->descriptor->fields[0];
    size_t *n = (size_t *)(void *)((char *)(uintptr_t)all + f->quantifier_offset);
    size_t more = *(const size_t *)(const void *)((const char *)page + f->quantifier_offset);
    void ***list = (void ***)(void *)((char *)(uintptr_t)all + f->offset);
    void **rows = mem_must(arena_alloc(&c->arena, (*n + more + 1) * sizeof(*rows)));
    memcpy(rows, *list, *n * sizeof(*rows));
    memcpy(rows + *n, *(void **const *)(const void *)((const char *)page + f->offset), more * sizeof(*rows));
    *list = rows;
    *n += more;
}

int ctl_call_all(struct ctl *c, const char *method, ProtobufCMessage *request,
                 const ProtobufCMessageDescriptor *response, const ProtobufCMessage **ret) {
    const ProtobufCMessage *all = NULL, *page = NULL;
    const char *token;
    *(int32_t *)member(request, "page_size") = PAGE;
    *ret = NULL;
    do {
        int code = ctl_query(c, method, request, response, &page);
        if (code != CTL_OK)
            return code;
        token = *(char **)member(page, "next_page_token");
        *(const char **)member(request, "page_token") = token;
        if (!all)
            all = page;
        else
            append(c, all, page);
    } while (*token);
    *(const char **)member(all, "next_page_token") = "";
    *ret = all;
    return printed(c, CTL_OK, ret);
}

const char *ctl_time(struct ctl *c, const void *timestamp) {
    const Google__Protobuf__Timestamp *t = timestamp;
    char text[32];
    if (!t)
        return "-";
    clock_format(clock_us(t->seconds, t->nanos), text);
    text[10] = ' ';
    return mem_must(arena_strndup(&c->arena, text, 23));
}

const char *ctl_red(struct ctl *c, const char *s) {
    const char *no = getenv("NO_COLOR"), *term = getenv("TERM");
    if (!isatty(STDOUT_FILENO) || (no && *no) || !term || !strcmp(term, "dumb"))
        return s;
    return mem_must(arena_printf(&c->arena, "\x1b[31m%s\x1b[0m", s));
}

const char *ctl_enum(struct ctl *c, const ProtobufCEnumDescriptor *d, int value) {
    const ProtobufCEnumValue *v = protobuf_c_enum_descriptor_get_value(d, value);
    const ProtobufCEnumValue *zero = protobuf_c_enum_descriptor_get_value(d, 0);
    if (!v || value == 0)
        return "-";
    size_t prefix = strlen(zero->name) - strlen("UNSPECIFIED");
    char *s = mem_must(arena_strndup(&c->arena, v->name + prefix, strlen(v->name) - prefix));
    for (char *p = s; *p; p++)
        *p = (char)tolower((unsigned char)*p);
    return s;
}

char *ctl_text(struct ctl *c, const char *s) {
    char *t = mem_must(arena_strndup(&c->arena, s, strlen(s)));
    for (char *p = t; *p; p++)
        if ((unsigned char)*p < 0x20 || *p == 0x7f)
            *p = '.';
    return t;
}

char *ctl_opt(const struct ctl *c, const char *name) {
    const char *v = args_get(&c->args, name);
    return (char *)(uintptr_t)(v ? v : "");
}

int ctl_confirm(const struct ctl *c, const char *question) {
    char line[16];
    if (args_has(&c->args, "--yes"))
        return CTL_OK;
    if (!isatty(STDIN_FILENO) || !isatty(STDERR_FILENO))
        return ctl_usage("%s? Nobody can be asked here: say --yes", question);
    fprintf(stderr, "%s? [y/N] ", question);
    if (fgets(line, sizeof(line), stdin) && (!strcasecmp(line, "y\n") || !strcasecmp(line, "yes\n")))
        return CTL_OK;
    fputs("nothing was changed\n", stderr);
    return CTL_REFUSED;
}

char *ctl_actor(const struct ctl *c) {
    const char *v = args_get(&c->args, "--actor");
    if (!v)
        v = getenv("USER");
    return (char *)(uintptr_t)(v && *v ? v : "txmsgctl");
}

int ctl_limit(const struct ctl *c, int32_t *ret) {
    const char *v = args_get(&c->args, "--limit");
    char *end = (char *)(uintptr_t) "";
    errno = 0;
    long n = v ? strtol(v, &end, 10) : 50;
    if (errno || *end || n <= 0 || n > INT32_MAX || (v && !isdigit((unsigned char)*v)))
        return ctl_usage("--limit: '%s' is not a positive number", v);
    *ret = (int32_t)n;
    return CTL_OK;
}

int ctl_more(const char *next_page_token) {
    if (*next_page_token)
        fprintf(stderr, "there are more; narrow the filter or raise --limit (at most 1000)\n");
    return CTL_OK;
}

const char *ctl_read_file(struct ctl *c, const char *path, size_t *ret_n) {
    FILE *f = strcmp(path, "-") ? fopen(path, "rb") : stdin;
    if (!f) {
        fprintf(stderr, "txmsgctl: %s: %s\n", path, strerror(errno));
        return NULL;
    }
    struct buf b CLEANUP_BUF;
    char chunk[16384];
    buf_init(&b, FILE_BYTES_MAX);
    for (size_t n; (n = fread(chunk, 1, sizeof(chunk), f)) > 0;)
        buf_put(&b, chunk, n);
    bool failed = ferror(f) || buf_error(&b);
    if (f != stdin)
        fclose(f);
    if (failed) {
        fprintf(stderr, "txmsgctl: %s: cannot be read, or larger than 16 MiB\n", path);
        return NULL;
    }
    *ret_n = b.n;
    return mem_must(arena_strndup(&c->arena, b.p, b.n));
}
