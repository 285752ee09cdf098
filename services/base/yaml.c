/*
 * libyaml's events to JSON values. What makes YAML surprising or explosive (anchors, tags, merged documents) is refused
 * where it stands. The recursion is bounded, and a refusal drops the half-built value with its parent.
 */
#include "base/yaml.h"

#include <yaml.h>

#define DEPTH_MAX 64

struct reader {
    yaml_parser_t parser;
    struct errmsg *e;
};

static void event_free(yaml_event_t *event) {
    yaml_event_delete(event);
}
#define CLEANUP_EVENT __attribute__((cleanup(event_free)))

/* Refuses at a place; NULL, so that `return refuse(...)` reads as one step. */
PRINTF_LIKE(3, 4) static json_t *refuse(struct reader *r, yaml_mark_t at, const char *fmt, ...) {
    char why[320];
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(why, sizeof(why), fmt, ap);
    va_end(ap);
    if (n < 0)
        why[0] = '\0';
    err_set(r->e, -EINVAL, "line %zu column %zu: %s", at.line + 1, at.column + 1, why);
    return NULL;
}

static json_t *no_memory(struct reader *r) {
    err_set(r->e, -ENOMEM, "out of memory");
    return NULL;
}

static int next_event(struct reader *r, yaml_event_t *event) {
    const yaml_parser_t *p = &r->parser;
    if (yaml_parser_parse(&r->parser, event))
        return 0;
    *event = (yaml_event_t){.type = YAML_NO_EVENT};
    if (p->error == YAML_MEMORY_ERROR)
        no_memory(r);
    else if (p->error == YAML_READER_ERROR)
        err_set(r->e, -EINVAL, "byte %zu: %s", p->problem_offset, p->problem);
    else
        refuse(r, p->problem_mark, "%s%s%s", p->problem ? p->problem : "not YAML", p->context ? " " : "",
               p->context ? p->context : "");
    return -EINVAL;
}

static bool is_one_of(const char *s, const char *const *words) {
    for (; *words; words++) {
        if (strcmp(s, *words) == 0)
            return true;
    }
    return false;
}

static size_t span_digits(const char *s) {
    return strspn(s, "0123456789");
}

enum number { NUMBER_NOT, NUMBER_INT, NUMBER_REAL };

/* YAML 1.2 core schema: [-+]?[0-9]+ and [-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)? */
static enum number number_kind(const char *s) {
    s += *s == '-' || *s == '+';
    size_t whole = span_digits(s), fraction = 0;
    s += whole;
    if (whole && !*s)
        return NUMBER_INT;
    if (*s == '.') {
        fraction = span_digits(++s);
        s += fraction;
    }
    if (!whole && !fraction)
        return NUMBER_NOT;
    if (*s == 'e' || *s == 'E') {
        s++;
        s += *s == '-' || *s == '+';
        size_t n = span_digits(s);
        if (!n)
            return NUMBER_NOT;
        s += n;
    }
    return *s ? NUMBER_NOT : NUMBER_REAL;
}

static json_t *read_int(struct reader *r, yaml_mark_t at, const char *s, int base) {
    errno = 0;
    long long v = strtoll(s, NULL, base);
    if (errno == ERANGE)
        return refuse(r, at, "a whole number beyond 64 bits");
    json_t *j = json_integer(v);
    return j ? j : no_memory(r);
}

static json_t *read_real(struct reader *r, yaml_mark_t at, const char *s) {
    double v = strtod(s, NULL);
    if (v - v != 0)
        return refuse(r, at, "a number out of range");
    json_t *j = json_real(v);
    return j ? j : no_memory(r);
}

/* 0x1f and 0o17: digits only after the prefix, and at least one. */
static int prefix_base(const char *s) {
    if (s[0] != '0' || !s[1] || !s[2])
        return 0;
    const char *digits = s[1] == 'x' ? "0123456789abcdefABCDEF" : s[1] == 'o' ? "01234567" : "";
    if (s[2 + strspn(s + 2, digits)])
        return 0;
    return s[1] == 'x' ? 16 : 8;
}

static json_t *read_plain(struct reader *r, yaml_mark_t at, const char *s) {
    static const char *const nulls[] = {"", "~", "null", "Null", "NULL", NULL};
    static const char *const trues[] = {"true", "True", "TRUE", NULL};
    static const char *const falses[] = {"false", "False", "FALSE", NULL};
    static const char *const odd[] = {".inf",  ".Inf",  ".INF", "+.inf", "+.Inf", "+.INF", "-.inf",
                                      "-.Inf", "-.INF", ".nan", ".NaN",  ".NAN",  NULL};
    int base = prefix_base(s);
    if (is_one_of(s, nulls))
        return json_null();
    if (is_one_of(s, trues))
        return json_true();
    if (is_one_of(s, falses))
        return json_false();
    if (is_one_of(s, odd))
        return refuse(r, at, "infinity and not-a-number are no values here");
    if (base)
        return read_int(r, at, s + 2, base);
    switch (number_kind(s)) {
    case NUMBER_INT:
        return read_int(r, at, s, 10);
    case NUMBER_REAL:
        return read_real(r, at, s);
    case NUMBER_NOT:
        break;
    }
    json_t *j = json_string(s);
    return j ? j : no_memory(r);
}

/* Anchors and tags are refused; so is a NUL, which no C string of ours could carry. */
static bool scalar_ok(struct reader *r, const yaml_event_t *event) {
    const char *why = NULL;
    if (event->data.scalar.anchor || event->data.scalar.tag)
        why = "anchors and tags are not accepted";
    else if (!text_valid(bytes_of(event->data.scalar.value, event->data.scalar.length)))
        why = "a text with a NUL or ill-formed UTF-8";
    if (why)
        refuse(r, event->start_mark, "%s", why);
    return !why;
}

static json_t *read_node(struct reader *r, const yaml_event_t *event, int depth);

static json_t *read_scalar(struct reader *r, const yaml_event_t *event) {
    const char *s = (const char *)event->data.scalar.value;
    if (!scalar_ok(r, event))
        return NULL;
    if (event->data.scalar.style == YAML_PLAIN_SCALAR_STYLE)
        return read_plain(r, event->start_mark, s);
    json_t *j = json_string(s);
    return j ? j : no_memory(r);
}

static json_t *read_sequence(struct reader *r, int depth) {
    CLEANUP_JSON json_t *list = json_array();
    if (!list)
        return no_memory(r);
    for (;;) {
        CLEANUP_EVENT yaml_event_t event = {0};
        if (next_event(r, &event) < 0)
            return NULL;
        if (event.type == YAML_SEQUENCE_END_EVENT)
            return TAKE(list);
        json_t *item = read_node(r, &event, depth);
        if (!item)
            return NULL;
        if (json_array_append_new(list, item) < 0)
            return no_memory(r);
    }
}

static json_t *read_mapping(struct reader *r, int depth) {
    CLEANUP_JSON json_t *object = json_object();
    if (!object)
        return no_memory(r);
    for (;;) {
        CLEANUP_EVENT yaml_event_t key = {0};
        CLEANUP_EVENT yaml_event_t value = {0};
        if (next_event(r, &key) < 0)
            return NULL;
        if (key.type == YAML_MAPPING_END_EVENT)
            return TAKE(object);
        if (key.type == YAML_ALIAS_EVENT)
            return refuse(r, key.start_mark, "aliases are not accepted");
        if (key.type != YAML_SCALAR_EVENT)
            return refuse(r, key.start_mark, "a key must be a text");
        if (!scalar_ok(r, &key))
            return NULL;
        const char *name = (const char *)key.data.scalar.value;
        if (json_object_get(object, name))
            return refuse(r, key.start_mark, "duplicate key \"%.100s\"", name);
        if (next_event(r, &value) < 0)
            return NULL;
        json_t *j = read_node(r, &value, depth);
        if (!j)
            return NULL;
        if (json_object_set_new(object, name, j) < 0)
            return no_memory(r);
    }
}

static json_t *read_node(struct reader *r, const yaml_event_t *event, int depth) {
    switch (event->type) {
    case YAML_SCALAR_EVENT:
        return read_scalar(r, event);
    case YAML_ALIAS_EVENT:
        return refuse(r, event->start_mark, "aliases are not accepted");
    case YAML_SEQUENCE_START_EVENT:
        if (event->data.sequence_start.anchor || event->data.sequence_start.tag)
            return refuse(r, event->start_mark, "anchors and tags are not accepted");
        break;
    case YAML_MAPPING_START_EVENT:
        if (event->data.mapping_start.anchor || event->data.mapping_start.tag)
            return refuse(r, event->start_mark, "anchors and tags are not accepted");
        break;
    default:
        return refuse(r, event->start_mark, "unexpected end");
    }
    if (depth >= DEPTH_MAX)
        return refuse(r, event->start_mark, "nested deeper than %d levels", DEPTH_MAX);
    return event->type == YAML_SEQUENCE_START_EVENT ? read_sequence(r, depth + 1) : read_mapping(r, depth + 1);
}

static int expect(struct reader *r, yaml_event_type_t type) {
    CLEANUP_EVENT yaml_event_t event = {0};
    if (next_event(r, &event) < 0)
        return -EINVAL;
    if (event.type == type)
        return 0;
    refuse(r, event.start_mark, event.type == YAML_DOCUMENT_START_EVENT ? "a second document" : "unexpected content");
    return -EINVAL;
}

static json_t *read_stream(struct reader *r) {
    CLEANUP_EVENT yaml_event_t start = {0};
    CLEANUP_EVENT yaml_event_t root = {0};
    if (expect(r, YAML_STREAM_START_EVENT) < 0 || next_event(r, &start) < 0)
        return NULL;
    if (start.type == YAML_STREAM_END_EVENT)
        return json_null(); /* nothing but comments */
    if (next_event(r, &root) < 0)
        return NULL;
    CLEANUP_JSON json_t *j = read_node(r, &root, 0);
    if (!j || expect(r, YAML_DOCUMENT_END_EVENT) < 0 || expect(r, YAML_STREAM_END_EVENT) < 0)
        return NULL;
    return TAKE(j);
}

json_t *yaml_parse(struct bytes text, struct errmsg *e) {
    struct reader r = {.e = e};
    if (!yaml_parser_initialize(&r.parser))
        return no_memory(&r);
    yaml_parser_set_encoding(&r.parser, YAML_UTF8_ENCODING);
    yaml_parser_set_input_string(&r.parser, text.n ? text.p : (const uint8_t *)"", text.n);
    json_t *j = read_stream(&r);
    yaml_parser_delete(&r.parser);
    return j;
}
