/*
 * Text checks and the units people write (declared in bytes.h). Pure functions.
 */
#include "base/bytes.h"

/* The length of the well-formed sequence at p (2..4), 0 if there is none. The table is RFC 3629, section 4. */
static size_t sequence(const uint8_t *p, size_t n) {
    uint8_t c = p[0], low = 0x80, high = 0xbf;
    size_t len;
    if (c >= 0xc2 && c <= 0xdf) {
        len = 2;
    } else if (c >= 0xe0 && c <= 0xef) {
        len = 3;
        low = c == 0xe0 ? 0xa0 : low;   /* overlong */
        high = c == 0xed ? 0x9f : high; /* surrogates */
    } else if (c >= 0xf0 && c <= 0xf4) {
        len = 4;
        low = c == 0xf0 ? 0x90 : low;   /* overlong */
        high = c == 0xf4 ? 0x8f : high; /* beyond U+10FFFF */
    } else {
        return 0;
    }
    if (n < len || p[1] < low || p[1] > high)
        return 0;
    for (size_t i = 2; i < len; i++) {
        if ((p[i] & 0xc0) != 0x80)
            return 0;
    }
    return len;
}

bool text_valid(struct bytes v) {
    const uint64_t ones = 0x0101010101010101ull, highs = 0x8080808080808080ull;
    for (size_t i = 0; i < v.n;) {
        if (v.n - i >= 8) {
            uint64_t w;
            memcpy(&w, v.p + i, 8);
            /* No byte has its high bit set and none is zero: eight plain characters at once. */
            if (!(((w - ones) | w) & highs)) {
                i += 8;
                continue;
            }
        }
        if (v.p[i] < 0x80) {
            if (v.p[i] == 0)
                return false;
            i++;
            continue;
        }
        size_t len = sequence(v.p + i, v.n - i);
        if (!len)
            return false;
        i += len;
    }
    return true;
}

bool text_is_name(struct bytes v) {
    if (v.n < 1 || v.n > 128)
        return false;
    for (size_t i = 0; i < v.n; i++) {
        uint8_t c = v.p[i];
        bool word = (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
        if (!word && (i == 0 || (c != '.' && c != '_' && c != '-')))
            return false;
    }
    return true;
}

static bool digit(char c) {
    return c >= '0' && c <= '9';
}

/* Reads decimal digits; -EINVAL if there are none, -ERANGE on overflow (the pointer is then past the digits). */
static int read_whole(const char **ps, int64_t *ret) {
    const char *s = *ps;
    int64_t v = 0;
    bool over = false;
    if (!digit(*s))
        return -EINVAL;
    for (; digit(*s); s++)
        over = over || __builtin_mul_overflow(v, 10, &v) || __builtin_add_overflow(v, *s - '0', &v);
    *ps = s;
    *ret = v;
    return over ? -ERANGE : 0;
}

struct unit {
    const char *name;
    int64_t scale;
};

static int64_t unit_scale(const struct unit *units, const char *name) {
    for (; units->name; units++) {
        if (strcmp(units->name, name) == 0)
            return units->scale;
    }
    return 0;
}

/*
 * Reads ".ddd" as a numerator over a power of ten, trailing zeros dropped. No unit (a day is 2^10 * 3^3 * 5^5 ms) gives
 * whole milliseconds with more than ten digits, so more of them are refused.
 */
static int read_fraction(const char **ps, int64_t *ret_num, int64_t *ret_den) {
    const char *s = *ps;
    *ret_num = 0;
    *ret_den = 1;
    if (*s != '.')
        return 0;
    const char *end = ++s;
    while (digit(*end))
        end++;
    if (end == s)
        return -EINVAL;
    *ps = end;
    while (end > s && end[-1] == '0')
        end--;
    if (end - s > 10)
        return -EINVAL;
    for (; s < end; s++) {
        *ret_num = *ret_num * 10 + (*s - '0');
        *ret_den *= 10;
    }
    return 0;
}

int text_duration_ms(const char *s, int64_t *ret_ms) {
    static const struct unit units[] = {{"", 1000},     {"ms", 1},       {"s", 1000}, {"m", 60000},
                                        {"h", 3600000}, {"d", 86400000}, {NULL, 0}};
    int64_t whole, num, den, ms;
    int over = read_whole(&s, &whole);
    if (over == -EINVAL || read_fraction(&s, &num, &den) < 0)
        return -EINVAL;
    int64_t scale = unit_scale(units, s);
    /* At most 10^10 * 8.64 * 10^7: fits. Less than a millisecond is refused rather than rounded. */
    if (scale == 0 || num * scale % den != 0)
        return -EINVAL;
    if (over || __builtin_mul_overflow(whole, scale, &ms) || __builtin_add_overflow(ms, num * scale / den, &ms))
        return -ERANGE;
    *ret_ms = ms;
    return 0;
}

int text_size(const char *s, int64_t *ret_bytes) {
    static const struct unit units[] = {{"", 1},          {"B", 1},           {"KiB", 1 << 10}, {"MiB", 1 << 20},
                                        {"GiB", 1 << 30}, {"TiB", 1ll << 40}, {NULL, 0}};
    int64_t whole, n;
    int over = read_whole(&s, &whole);
    if (over == -EINVAL)
        return -EINVAL;
    int64_t scale = unit_scale(units, s);
    if (scale == 0)
        return -EINVAL;
    if (over || __builtin_mul_overflow(whole, scale, &n))
        return -ERANGE;
    *ret_bytes = n;
    return 0;
}
