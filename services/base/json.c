/*
 * jansson with the house's bounds. Its memory comes from mem.h like everybody's, so that fault tests reach it.
 *
 * jansson itself does not look at every allocation: for want of memory a parsed string may lack characters, and a copy
 * members. So what it made while any allocation failed is thrown away.
 */
#include "base/json.h"

#define DEPTH_MAX 64

static _Thread_local bool lacked; /* an allocation failed */

static void *alloc(size_t n) {
    void *p = mem_alloc(n);
    lacked |= !p;
    return p;
}

__attribute__((constructor)) static void use_house_memory(void) {
    json_set_alloc_funcs(alloc, mem_free);
}

/* What was made since `lacked` was false; NULL if it may not be whole. */
static json_t *whole(json_t *j) {
    if (!lacked)
        return j;
    json_decref(j);
    return NULL;
}

/* jansson recurses up to 2048 levels; a scan over the brackets outside of strings keeps it far below. */
static bool too_deep(struct bytes text) {
    unsigned depth = 0;
    bool in_string = false;
    for (size_t i = 0; i < text.n; i++) {
        uint8_t c = text.p[i];
        if (in_string) {
            if (c == '\\')
                i++;
            else if (c == '"')
                in_string = false;
        } else if (c == '"') {
            in_string = true;
        } else if (c == '[' || c == '{') {
            if (++depth > DEPTH_MAX)
                return true;
        } else if ((c == ']' || c == '}') && depth > 0) {
            depth--;
        }
    }
    return false;
}

json_t *json_parse(struct bytes text, struct errmsg *e) {
    if (text.n == 0) {
        errno = -err_set(e, -EINVAL, "empty, not JSON");
        return NULL;
    }
    if (memchr(text.p, 0,
               text.n)) { /* jansson takes one behind a value for the end, and whatever follows for nothing */
        errno = -err_set(e, -EINVAL, "a NUL, which JSON never has");
        return NULL;
    }
    if (too_deep(text)) {
        errno = -err_set(e, -EINVAL, "nested deeper than %d levels", DEPTH_MAX);
        return NULL;
    }
    json_error_t je;
    lacked = false;
    json_t *j = whole(json_loadb((const char *)text.p, text.n, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &je));
    if (!j && lacked)
        errno = -err_set(e, -ENOMEM, "out of memory");
    else if (!j)
        errno = -err_set(e, -EINVAL, "line %d column %d: %s", je.line, je.column, je.text);
    return j;
}

json_t *json_clone(const json_t *j) {
    lacked = false;
    return whole(json_deep_copy(j));
}

static int put_piece(const char *p, size_t n, void *arg) {
    struct buf *out = arg;
    buf_put(out, p, n);
    return buf_error(out) ? -1 : 0;
}

/* 15 digits: what a person wrote comes back as it was written (0.2, not 0.20000000000000001). */
int json_write(struct buf *out, const json_t *j) {
    if (buf_error(out))
        return buf_error(out);
    if (json_dump_callback(j, put_piece, out, JSON_COMPACT | JSON_ENCODE_ANY | JSON_REAL_PRECISION(15)) == 0)
        return 0;
    return buf_error(out) ? buf_error(out) : j ? -ENOMEM : -EINVAL;
}

void json_put_string(struct buf *out, struct bytes text) {
    size_t from = 0;
    buf_put_char(out, '"');
    for (size_t i = 0; i < text.n; i++) {
        uint8_t c = text.p[i];
        if (c >= 0x20 && c != '"' && c != '\\')
            continue;
        buf_put(out, text.p + from, i - from);
        from = i + 1;
        static const char shorts[] = "\b\f\n\r\t\"\\", letters[] = "bfnrt\"\\";
        const char *at = c ? strchr(shorts, c) : NULL;
        if (at)
            buf_printf(out, "\\%c", letters[at - shorts]);
        else
            buf_printf(out, "\\u%04x", c);
    }
    if (text.n > from)
        buf_put(out, text.p + from, text.n - from);
    buf_put_char(out, '"');
}

/* A member that is absent or null reads as NULL. */
static const json_t *member(const json_t *obj, const char *key) {
    const json_t *j = json_object_get(obj, key);
    return json_is_null(j) ? NULL : j;
}

int json_member_str(const json_t *obj, const char *key, const char *def, const char **ret, struct errmsg *e) {
    const json_t *j = member(obj, key);
    if (j && !json_is_string(j))
        return err_set(e, -EINVAL, "\"%s\" must be a string", key);
    *ret = j ? json_string_value(j) : def;
    return 0;
}

int json_member_int(const json_t *obj, const char *key, int64_t def, int64_t *ret, struct errmsg *e) {
    const json_t *j = member(obj, key);
    if (j && !json_is_integer(j))
        return err_set(e, -EINVAL, "\"%s\" must be a whole number", key);
    *ret = j ? json_integer_value(j) : def;
    return 0;
}

int json_member_num(const json_t *obj, const char *key, double def, double *ret, struct errmsg *e) {
    const json_t *j = member(obj, key);
    if (j && !json_is_number(j))
        return err_set(e, -EINVAL, "\"%s\" must be a number", key);
    *ret = j ? json_number_value(j) : def;
    return 0;
}

int json_member_bool(const json_t *obj, const char *key, bool def, bool *ret, struct errmsg *e) {
    const json_t *j = member(obj, key);
    if (j && !json_is_boolean(j))
        return err_set(e, -EINVAL, "\"%s\" must be true or false", key);
    *ret = j ? json_boolean_value(j) : def;
    return 0;
}

int json_member_ms(const json_t *obj, const char *key, int64_t def_ms, int64_t *ret_ms, struct errmsg *e) {
    const json_t *j = member(obj, key);
    char number[40];
    const char *text = json_string_value(j);
    *ret_ms = def_ms;
    if (!j)
        return 0;
    /* YAML turns a plain 10 or 1.5 into a number: seconds, as in text. */
    if (json_is_number(j)) {
        if (json_is_integer(j))
            snprintf(number, sizeof(number), "%lld", (long long)json_integer_value(j));
        else
            snprintf(number, sizeof(number), "%.15g", json_real_value(j));
        text = number;
    }
    if (!text || text_duration_ms(text, ret_ms) < 0) {
        *ret_ms = def_ms;
        return err_set(e, -EINVAL, "\"%s\" must be a duration such as \"10s\" or \"250ms\"", key);
    }
    return 0;
}
