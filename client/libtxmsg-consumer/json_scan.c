#include "json_scan.h"

void json_scan_space(struct bytes text, size_t *at) {
    while (*at < text.n && memchr(" \t\r\n", text.p[*at], 4))
        ++*at;
}

bool json_scan_char(struct bytes text, size_t *at, char c) {
    if (*at == text.n || text.p[*at] != (uint8_t)c)
        return false;
    ++*at;
    return true;
}

/* --- strings --- */

static void put_utf8(struct buf *out, uint32_t c) {
    if (c < 0x80) {
        buf_put_char(out, (char)c);
    } else if (c < 0x800) {
        buf_put_char(out, (char)(0xc0 | c >> 6));
        buf_put_char(out, (char)(0x80 | (c & 0x3f)));
    } else if (c < 0x10000) {
        buf_put_char(out, (char)(0xe0 | c >> 12));
        buf_put_char(out, (char)(0x80 | (c >> 6 & 0x3f)));
        buf_put_char(out, (char)(0x80 | (c & 0x3f)));
    } else {
        buf_put_char(out, (char)(0xf0 | c >> 18));
        buf_put_char(out, (char)(0x80 | (c >> 12 & 0x3f)));
        buf_put_char(out, (char)(0x80 | (c >> 6 & 0x3f)));
        buf_put_char(out, (char)(0x80 | (c & 0x3f)));
    }
}

static int hex4(struct bytes text, size_t *at, uint32_t *ret) {
    uint32_t v = 0;

    if (text.n - *at < 4)
        return -EINVAL;
    for (int i = 0; i < 4; i++, ++*at) {
        uint8_t c = text.p[*at];
        if (!isxdigit(c))
            return -EINVAL;
        v = v << 4 | (uint32_t)(c <= '9' ? c - '0' : (c | 0x20) - 'a' + 10);
    }
    *ret = v;
    return 0;
}

/* Behind "\u". A high surrogate needs its low one, and the other way round. */
static int scan_code(struct bytes text, size_t *at, struct buf *out) {
    uint32_t c, low;

    if (hex4(text, at, &c) < 0)
        return -EINVAL;
    if (c >= 0xd800 && c < 0xe000) {
        if (c >= 0xdc00 || !json_scan_char(text, at, '\\') || !json_scan_char(text, at, 'u') ||
            hex4(text, at, &low) < 0 || low < 0xdc00 || low > 0xdfff)
            return -EINVAL;
        c = 0x10000 + ((c - 0xd800) << 10 | (low - 0xdc00));
    }
    if (out)
        put_utf8(out, c);
    return 0;
}

static int scan_escape(struct bytes text, size_t *at, struct buf *out) {
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";

    if (*at == text.n)
        return -EINVAL;
    char c = (char)text.p[(*at)++];
    if (c == 'u')
        return scan_code(text, at, out);
    const char *found = c ? strchr(from, c) : NULL;
    if (!found)
        return -EINVAL;
    if (out)
        buf_put_char(out, to[found - from]);
    return 0;
}

int json_scan_string(struct bytes text, size_t *at, struct buf *out) {
    if (!json_scan_char(text, at, '"'))
        return -EINVAL;
    while (*at < text.n) {
        uint8_t c = text.p[(*at)++];
        if (c == '"')
            return out ? buf_error(out) : 0;
        if (c < 0x20)
            return -EINVAL;
        if (c == '\\') {
            if (scan_escape(text, at, out) < 0)
                return -EINVAL;
        } else if (out) {
            buf_put_char(out, (char)c);
        }
    }
    return -EINVAL;
}

/* --- other values --- */

static size_t digits(struct bytes text, size_t *at) {
    size_t begin = *at;

    while (*at < text.n && isdigit(text.p[*at]))
        ++*at;
    return *at - begin;
}

static int scan_number(struct bytes text, size_t *at) {
    json_scan_char(text, at, '-');
    if (!json_scan_char(text, at, '0') && !digits(text, at))
        return -EINVAL;
    if (json_scan_char(text, at, '.') && !digits(text, at))
        return -EINVAL;
    if (json_scan_char(text, at, 'e') || json_scan_char(text, at, 'E')) {
        if (!json_scan_char(text, at, '+'))
            json_scan_char(text, at, '-');
        if (!digits(text, at))
            return -EINVAL;
    }
    return 0;
}

static int scan_word(struct bytes text, size_t *at, const char *word) {
    size_t n = strlen(word);

    if (text.n - *at < n || memcmp(text.p + *at, word, n) != 0)
        return -EINVAL;
    *at += n;
    return 0;
}

static int scan_scalar(struct bytes text, size_t *at) {
    switch (*at < text.n ? text.p[*at] : 0) {
    case '"':
        return json_scan_string(text, at, NULL);
    case 't':
        return scan_word(text, at, "true");
    case 'f':
        return scan_word(text, at, "false");
    case 'n':
        return scan_word(text, at, "null");
    default:
        return scan_number(text, at);
    }
}

/* The name of a member and its colon. */
static int scan_name(struct bytes text, size_t *at) {
    json_scan_space(text, at);
    int r = json_scan_string(text, at, NULL);

    json_scan_space(text, at);
    return r == 0 && !json_scan_char(text, at, ':') ? -EINVAL : r;
}

/* A loop over the closing brackets that are still owed, not a recursion. */
int json_scan_value(struct bytes text, size_t *at) {
    char owed[JSON_SCAN_DEPTH];
    size_t depth = 0;

    for (;;) {
        json_scan_space(text, at);
        char open = *at < text.n ? (char)text.p[*at] : 0;
        if (open == '{' || open == '[') {
            if (depth == JSON_SCAN_DEPTH)
                return -EINVAL;
            owed[depth++] = open == '{' ? '}' : ']';
            ++*at;
            json_scan_space(text, at);
            if (*at == text.n)
                return -EINVAL;
            if (text.p[*at] != (uint8_t)owed[depth - 1]) {
                if (open == '{' && scan_name(text, at) < 0)
                    return -EINVAL;
                continue;
            }
        } else if (scan_scalar(text, at) < 0) {
            return -EINVAL;
        }
        for (;;) { /* a value has ended, or an empty list begins to */
            if (depth == 0)
                return 0;
            json_scan_space(text, at);
            if (json_scan_char(text, at, ','))
                break;
            if (!json_scan_char(text, at, owed[depth - 1]))
                return -EINVAL;
            depth--;
        }
        if (owed[depth - 1] == '}' && scan_name(text, at) < 0)
            return -EINVAL;
    }
}
