/* One function for each kind of member, see policy_member.h. */
#include "core/policy_member.h"

#include "core/policy_private.h"
#include "core/validate.h"

const json_t *member_of(const json_t *obj, const char *name) {
    const json_t *j = json_object_get(obj, name);
    return json_is_null(j) ? NULL : j;
}

const char *print_ms(char out[32], double v) {
    int64_t ms = (int64_t)v;

    if (ms % (60 * 60 * 1000) == 0 && ms > 0)
        snprintf(out, 32, "%lldh", (long long)(ms / (60 * 60 * 1000)));
    else if (ms % (60 * 1000) == 0 && ms > 0)
        snprintf(out, 32, "%lldm", (long long)(ms / (60 * 1000)));
    else if (ms % 1000 == 0)
        snprintf(out, 32, "%llds", (long long)(ms / 1000));
    else
        snprintf(out, 32, "%lldms", (long long)ms);
    return out;
}

/* A key from outside, as short printable ASCII. */
static const char *print_key(char out[64], const char *key) {
    size_t n;

    for (n = 0; key[n] && n < 63; n++)
        out[n] = key[n] >= 0x20 && key[n] < 0x7f ? key[n] : '?';
    out[n] = '\0';
    return out;
}

const char *text_of(const json_t *j) {
    const char *s = json_string_value(j);
    return s && strlen(s) == json_string_length(j) ? s : NULL;
}

int keep_text(const struct spec *s, const char *name, const char *text, const char **ret) {
    *ret = arena_strndup(s->arena, text, strlen(text));
    if (!*ret)
        return err_set(s->e, -ENOMEM, "%s%s: out of memory", s->path, name);
    return 0;
}

int read_ms(const struct spec *s, const struct member *m, const json_t *j, int64_t *ret) {
    const char *text = text_of(j);
    char min[32], max[32];
    int64_t ms = 0;
    int r;

    if (!j) {
        *ret = (int64_t)m->def;
        return 0;
    }
    r = text ? text_duration_ms(text, &ms) : -EINVAL;
    if (r == -EINVAL)
        return err_set(s->e, -EINVAL, "%s%s must be a duration such as \"10s\"", s->path, m->name);
    if (r < 0 || (double)ms < m->min || (double)ms > m->max)
        return err_set(s->e, -EINVAL, "%s%s is %.32s, the limit is %s..%s", s->path, m->name, text,
                       print_ms(min, m->min), print_ms(max, m->max));
    *ret = ms;
    return 0;
}

static int read_int(const struct spec *s, const struct member *m, const json_t *j, int *ret) {
    if (!j) {
        *ret = (int)m->def;
        return 0;
    }
    if (!json_is_integer(j))
        return err_set(s->e, -EINVAL, "%s%s must be a whole number", s->path, m->name);
    if ((double)json_integer_value(j) < m->min || (double)json_integer_value(j) > m->max)
        return err_set(s->e, -EINVAL, "%s%s is %lld, the limit is %.0f..%.0f", s->path, m->name,
                       (long long)json_integer_value(j), m->min, m->max);
    *ret = (int)json_integer_value(j);
    return 0;
}

static int read_num(const struct spec *s, const struct member *m, const json_t *j, double *ret) {
    double v = m->def;

    if (j && !json_is_number(j))
        return err_set(s->e, -EINVAL, "%s%s must be a number", s->path, m->name);
    if (j)
        v = json_number_value(j);
    if (!(v >= m->min && v <= m->max))
        return err_set(s->e, -EINVAL, "%s%s is %g, the limit is %g..%g", s->path, m->name, v, m->min, m->max);
    *ret = v;
    return 0;
}

static int read_enum(const struct spec *s, const struct member *m, const json_t *j, int *ret) {
    const char *text = text_of(j);

    *ret = (int)m->def;
    if (!j || (text && strcmp(text, m->words[0]) == 0))
        return 0;
    for (int i = 1; text && m->words[i]; i++) {
        if (strcmp(text, m->words[i]) == 0) {
            *ret = i;
            return 0;
        }
    }
    char known[256];
    size_t n = 0;
    for (int i = 1; m->words[i] && n < sizeof(known); i++)
        n += (size_t)snprintf(known + n, sizeof(known) - n, "%s%s", i > 1 ? " or " : "", m->words[i]);
    return err_set(s->e, -EINVAL, "%s%s must be %s", s->path, m->name, known);
}

int read_text(const struct spec *s, const struct member *m, const json_t *j, const char **ret) {
    const char *text = j ? text_of(j) : "", *wrong = NULL;
    struct violation v;
    int r = 0;

    if (!text)
        return err_set(s->e, -EINVAL, "%s%s must be a string", s->path, m->name);
    if (m->kind >= MEMBER_HTTP && m->kind <= MEMBER_AMQP && text[0] == '\0')
        wrong = "is required";
    else if (m->kind == MEMBER_HTTP)
        wrong = url_wrong_http(text);
    else if (m->kind == MEMBER_ENDPOINT)
        wrong = url_wrong_endpoint(text);
    else if (m->kind == MEMBER_GRPC)
        wrong = url_wrong_grpc(text);
    else if (m->kind == MEMBER_AMQP)
        wrong = url_wrong_amqp(text);
    else if (m->kind == MEMBER_SECRET)
        r = secret_wrong(text, &wrong);
    else if (validate_text(m->name, bytes_str(text), (size_t)m->max, &v))
        wrong = v.description;
    if (r < 0)
        return err_set(s->e, r, "%s%s: out of memory", s->path, m->name);
    if (wrong)
        return err_set(s->e, -EINVAL, "%s%s %s", s->path, m->name, wrong);
    return keep_text(s, m->name, text, ret);
}

static int read_about(const struct spec *s, const struct member *m, const json_t *j) {
    if (j && !text_of(j))
        return err_set(s->e, -EINVAL, "%s%s must be a string", s->path, m->name);
    if (j && (double)json_string_length(j) > m->max)
        return err_set(s->e, -EINVAL, "%s%s is %zu bytes, the limit is %.0f", s->path, m->name, json_string_length(j),
                       m->max);
    return 0;
}

/* True if the value is what its absence means. */
static bool says_nothing(const struct member *m, const json_t *j) {
    const char *text = text_of(j), *key;
    json_t *value;
    int64_t ms;

    if (m->words) {
        for (int i = 0; text && m->words[i]; i++)
            if (strcmp(text, m->words[i]) == 0)
                return true;
        return false;
    }
    switch (json_typeof(j)) {
    case JSON_FALSE:
        return true;
    case JSON_INTEGER:
        return json_integer_value(j) == 0;
    case JSON_STRING:
        return text && text_duration_ms(text, &ms) == 0 && ms == 0;
    case JSON_OBJECT: /* {"headers": {}} */
        json_object_foreach ((json_t *)j, key, value)
            if (!json_is_object(value) || !says_nothing(m, value))
                return false;
        return true;
    default:
        return false;
    }
}

static int read_member(const struct spec *s, const struct member *m, const json_t *j, void *out) {
    void *at = (char *)out + m->offset;

    switch (m->kind) {
    case MEMBER_MS:
        return read_ms(s, m, j, at);
    case MEMBER_INT:
        return read_int(s, m, j, at);
    case MEMBER_NUM:
        return read_num(s, m, j, at);
    case MEMBER_BOOL:
        if (j && !json_is_boolean(j))
            return err_set(s->e, -EINVAL, "%s%s must be true or false", s->path, m->name);
        *(bool *)at = json_is_true(j);
        return 0;
    case MEMBER_ENUM:
        return read_enum(s, m, j, at);
    case MEMBER_TEXT:
    case MEMBER_HTTP:
    case MEMBER_ENDPOINT:
    case MEMBER_GRPC:
    case MEMBER_AMQP:
    case MEMBER_SECRET:
        return read_text(s, m, j, at);
    case MEMBER_ABOUT:
        return read_about(s, m, j);
    case MEMBER_LATER:
        if (j && !says_nothing(m, j))
            return err_set(s->e, -EINVAL, "%s%s is not supported by this version", s->path, m->name);
        return 0;
    case MEMBER_NESTED:
        return 0;
    }
    UNREACHABLE();
}

int read_members(const struct spec *s, const struct member *table, const json_t *obj, void *out) {
    const char *key;
    json_t *value;
    char name[64];

    if (obj && !json_is_object(obj)) {
        int n = (int)strlen(s->path);
        return err_set(s->e, -EINVAL, "%.*s must be an object", n > 0 ? n - 1 : 4, n > 0 ? s->path : "spec");
    }
    json_object_foreach ((json_t *)obj, key, value) {
        const struct member *m = table;
        while (m->name && strcmp(m->name, key) != 0)
            m++;
        if (!m->name)
            return err_set(s->e, -EINVAL, "%s%s is not a known member", s->path, print_key(name, key));
    }
    for (const struct member *m = table; m->name; m++) {
        int r = read_member(s, m, member_of(obj, m->name), out);
        if (r < 0)
            return r;
    }
    return 0;
}
