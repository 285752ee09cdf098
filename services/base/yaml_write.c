/*
 * JSON values as YAML in block style, the way people write it. A string stands plain where it cannot be read as anything else, else in JSON's
 * quotes, which are YAML's.
 */
#include "base/yaml.h"

enum { STEP = 2 };

static bool is_plain(const char *s) {
    static const char *const words[] = {"null", "true", "false", "yes", "no", "on", "off", "y", "n"};
    static const char *const units[] = {"ms", "s", "m", "h", "d"};
    size_t digits = strspn(s, "0123456789");
    for (size_t i = 0; digits && i < ARRAY_LEN(units); i++) /* a duration */
        if (!strcmp(s + digits, units[i]))
            return true;
    for (size_t i = 0; i < ARRAY_LEN(words); i++)
        if (!strcasecmp(s, words[i]))
            return false;
    return isalpha((unsigned char)*s) &&
           !s[strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_./-")];
}

static int put_scalar(struct buf *out, const json_t *j) {
    if (json_is_string(j) && is_plain(json_string_value(j))) {
        buf_printf(out, "%s", json_string_value(j));
        return 0;
    }
    char *text = json_dumps(j, JSON_ENCODE_ANY);
    if (!text)
        return -ENOMEM;
    buf_printf(out, "%s", text);
    free(text);
    return 0;
}

/* Ends the line; `indent` is that of what follows. `on_line`: the first member stands behind a "- " already. */
static int put_value(struct buf *out, const json_t *j, int indent, bool on_line) {
    const char *key;
    json_t *v;
    int r = 0;
    bool simple = json_is_object(j) ? !json_object_size(j) : !json_array_size(j);
    if (simple) {
        r = put_scalar(out, j); /* also {} and [] */
        buf_printf(out, "\n");
        return r;
    }
    for (size_t i = 0; r == 0 && i < json_array_size(j); i++, on_line = false) {
        buf_printf(out, "%*s- ", on_line ? 0 : indent, "");
        r = put_value(out, json_array_get(j, i), indent + STEP, true);
    }
    json_object_foreach ((json_t *)(uintptr_t)j, key, v) {
        CLEANUP_JSON json_t *name = json_string(key);
        bool nested = json_is_object(v) ? json_object_size(v) > 0 : json_array_size(v) > 0;
        if (r < 0 || !name)
            return r < 0 ? r : -ENOMEM;
        buf_printf(out, "%*s", on_line ? 0 : indent, "");
        r = put_scalar(out, name);
        buf_printf(out, nested ? ":\n" : ": ");
        if (r == 0)
            r = put_value(out, v, indent + STEP, false);
        on_line = false;
    }
    return r;
}

int yaml_write(struct buf *out, const json_t *j) {
    int r = put_value(out, j, 0, false);
    return r < 0 ? r : buf_error(out);
}
