/*
 * The clocks and RFC 3339. The calendar is computed here (proleptic Gregorian, UTC), so no locale or zone file matters.
 */
#include "base/clock.h"

#define US_PER_S  1000000ll
#define S_PER_DAY 86400ll
#define FIRST_S   (-62167219200ll) /* 0000-01-01T00:00:00Z */
#define LAST_S    253402300799ll   /* 9999-12-31T23:59:59Z */

static struct timespec now(clockid_t id) {
    struct timespec t;
    ASSERT(clock_gettime(id, &t) == 0);
    return t;
}

uint64_t clock_mono_ns(void) {
    struct timespec t = now(CLOCK_MONOTONIC);
    return (uint64_t)t.tv_sec * NS_PER_S + (uint64_t)t.tv_nsec;
}

uint64_t clock_boot_ns(void) {
    struct timespec t = now(CLOCK_BOOTTIME);
    return (uint64_t)t.tv_sec * NS_PER_S + (uint64_t)t.tv_nsec;
}

int64_t clock_real_us(void) {
    struct timespec t = now(CLOCK_REALTIME);
    return t.tv_sec * US_PER_S + t.tv_nsec / 1000;
}

static void put_digits(char *out, int width, int64_t v) {
    for (int i = width - 1; i >= 0; i--, v /= 10)
        out[i] = (char)('0' + v % 10);
}

int64_t clock_us(int64_t seconds, int32_t nanos) {
    return MIN(MAX(seconds, FIRST_S), LAST_S) * US_PER_S + nanos / 1000;
}

void clock_format(int64_t real_us, char out[32]) {
    int64_t s = real_us / US_PER_S, us = real_us % US_PER_S;
    if (us < 0) {
        s--;
        us += US_PER_S;
    }
    s = MIN(MAX(s, FIRST_S), LAST_S); /* four digits of year */
    struct tm tm;
    time_t t = (time_t)s;
    ASSERT(gmtime_r(&t, &tm));
    memcpy(out, "0000-00-00T00:00:00.000000Z", 28);
    put_digits(out, 4, tm.tm_year + 1900);
    put_digits(out + 5, 2, tm.tm_mon + 1);
    put_digits(out + 8, 2, tm.tm_mday);
    put_digits(out + 11, 2, tm.tm_hour);
    put_digits(out + 14, 2, tm.tm_min);
    put_digits(out + 17, 2, tm.tm_sec);
    put_digits(out + 20, 6, us);
}

/* Reads exactly `width` digits; false if there are fewer. */
static bool get_digits(const char **ps, int width, int *ret) {
    int v = 0;
    for (int i = 0; i < width; i++, (*ps)++) {
        if (**ps < '0' || **ps > '9')
            return false;
        v = v * 10 + (**ps - '0');
    }
    *ret = v;
    return true;
}

static bool get_char(const char **ps, char c) {
    if (**ps != c)
        return false;
    (*ps)++;
    return true;
}

static int month_days(int year, int month) {
    static const int days[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    bool leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
    return days[month - 1] + (month == 2 && leap);
}

/* Days since 1970-01-01. The year is counted from March, so that the leap day is its last. */
static int64_t day_number(int year, int month, int day) {
    int64_t y = year - (month <= 2) + 400; /* the 400 keeps year 0 positive */
    int64_t m = (month + 9) % 12;
    int64_t in_year = (153 * m + 2) / 5 + day - 1;
    return y * 365 + y / 4 - y / 100 + y / 400 + in_year - 719468 - 146097;
}

static bool get_fraction(const char **ps, int64_t *ret_us) {
    *ret_us = 0;
    if (**ps != '.')
        return true;
    (*ps)++;
    int64_t scale = US_PER_S;
    int count = 0;
    for (; **ps >= '0' && **ps <= '9'; (*ps)++, count++) {
        scale /= 10; /* zero past the microsecond: cut, as PostgreSQL's clock has no finer step */
        *ret_us += (**ps - '0') * scale;
    }
    return count >= 1 && count <= 9;
}

static bool get_offset(const char **ps, int64_t *ret_s) {
    int h, m;
    *ret_s = 0;
    if (get_char(ps, 'Z') || get_char(ps, 'z'))
        return true;
    int sign = **ps == '-' ? -1 : 1;
    if (!get_char(ps, '-') && !get_char(ps, '+'))
        return false;
    if (!get_digits(ps, 2, &h) || !get_char(ps, ':') || !get_digits(ps, 2, &m) || h > 23 || m > 59)
        return false;
    *ret_s = sign * (h * 3600ll + m * 60);
    return true;
}

int clock_parse(const char *text, int64_t *ret_us) {
    const char *s = text;
    int year, month, day, hour, min, sec;
    int64_t us, offset;
    if (!get_digits(&s, 4, &year) || !get_char(&s, '-') || !get_digits(&s, 2, &month) || !get_char(&s, '-') ||
        !get_digits(&s, 2, &day))
        return -EINVAL;
    if (month < 1 || month > 12 || day < 1 || day > month_days(year, month))
        return -EINVAL;
    if (!get_char(&s, 'T') && !get_char(&s, 't') && !get_char(&s, ' '))
        return -EINVAL;
    if (!get_digits(&s, 2, &hour) || !get_char(&s, ':') || !get_digits(&s, 2, &min) || !get_char(&s, ':') ||
        !get_digits(&s, 2, &sec))
        return -EINVAL;
    if (hour > 23 || min > 59 || sec > 60) /* 60: a leap second is the first of the next minute */
        return -EINVAL;
    if (!get_fraction(&s, &us) || !get_offset(&s, &offset) || *s)
        return -EINVAL;
    int64_t at = day_number(year, month, day) * S_PER_DAY + hour * 3600 + min * 60 + sec - offset;
    *ret_us = at * US_PER_S + us;
    return 0;
}
