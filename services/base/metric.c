/*
 * The registry: families and their series are only ever appended, never freed, and published by release stores, so the
 * printer walks them without a lock while hot paths add with relaxed atomics. Locks guard finding and making only.
 *
 * A gauge is a set part (a double) plus what was added since (an integer), so adding is one atomic add here, too; a
 * print that falls between the two stores of a set may see the old part alone. A histogram counts per bucket and adds
 * to an integer sum in fractions of its unit; its count is the sum of the buckets, so both agree in one print.
 */
#include "base/metric.h"

#include "base/list.h"

#include <pthread.h>
#include <stdatomic.h>

#define LABELS_MAX     8
#define VALUE_MAX      128 /* bytes of a label value, longer ones are cut */
#define BUCKETS        24  /* and one for everything above */
#define SERIES_DEFAULT 100

struct metric {
    /* Own cache lines: written by all threads. */
    _Alignas(64) _Atomic int64_t added;
    _Atomic uint64_t base; /* bits of the double that was set */
    _Atomic uint64_t sum;
    _Atomic uint64_t buckets[BUCKETS + 1];
    /* Fixed after birth. */
    _Alignas(64) struct hnode node;
    struct metric_family *family;
    struct metric *_Atomic next;
    bool listed;
    size_t key_n;
    char key[]; /* label values, each with its NUL */
};

struct metric_family {
    enum metric_kind kind;
    bool seconds;
    size_t labels_n;
    unsigned max_series, count;
    char *name, *labels, *help;
    char *label[LABELS_MAX]; /* into label_text */
    char *label_text;
    pthread_mutex_t lock; /* series map, read function */
    struct hmap map;
    struct metric *other; /* every label "other"; made at birth, so that metric_get cannot fail */
    struct metric *_Atomic first;
    struct metric *last;
    double (*fn)(void *arg);
    void *arg;
    struct metric_family *_Atomic next;
};

static pthread_mutex_t registry_lock = PTHREAD_MUTEX_INITIALIZER;
static struct metric_family *_Atomic families;

static bool name_ok(const char *s) {
    if (!*s || (*s >= '0' && *s <= '9'))
        return false;
    for (; *s; s++) {
        if (!isalnum((unsigned char)*s) && *s != '_' && *s != ':')
            return false;
    }
    return true;
}

static struct metric *series_new(struct metric_family *f, const char *key, size_t n) {
    size_t size = (sizeof(struct metric) + n + 63) & ~(size_t)63;
    char *raw = mem_zalloc(size + 64);
    if (!raw)
        return NULL;
    struct metric *m = (struct metric *)(((uintptr_t)raw + 63) & ~(uintptr_t)63);
    m->family = f;
    m->key_n = n;
    memcpy(m->key, key, n);
    hmap_add(&f->map, &m->node, hash_bytes(key, n, 0));
    return m;
}

static struct metric *series_find(const struct metric_family *f, const char *key, size_t n) {
    uint64_t hash = hash_bytes(key, n, 0);
    for (struct hnode *h = hmap_first(&f->map, hash); h; h = hmap_next(h, hash)) {
        struct metric *m = CONTAINER_OF(h, struct metric, node);
        if (m->key_n == n && memcmp(m->key, key, n) == 0)
            return m;
    }
    return NULL;
}

/* Makes a series visible to the printer. */
static struct metric *series_list(struct metric_family *f, struct metric *m) {
    if (m->listed)
        return m;
    m->listed = true;
    if (f->last)
        atomic_store_explicit(&f->last->next, m, memory_order_release);
    else
        atomic_store_explicit(&f->first, m, memory_order_release);
    f->last = m;
    f->count++;
    return m;
}

static bool ends_with(const char *s, const char *tail) {
    size_t n = strlen(s), t = strlen(tail);
    return n >= t && strcmp(s + n - t, tail) == 0;
}

static void split_labels(struct metric_family *f) {
    char *at = f->label_text;
    while (*at) {
        ASSERT(f->labels_n < LABELS_MAX);
        f->label[f->labels_n++] = at;
        char *end = strchrnul(at, ',');
        bool more = *end == ',';
        *end = '\0';
        ASSERT(name_ok(at));
        at = end + more;
    }
}

static struct metric_family *family_new(enum metric_kind kind, const char *name, const char *labels, const char *help,
                                        unsigned max_series) {
    struct metric_family *f = mem_must(mem_zalloc(sizeof(*f)));
    ASSERT(name_ok(name));
    f->kind = kind;
    f->seconds = ends_with(name, "_seconds");
    f->max_series = max_series ? max_series : SERIES_DEFAULT;
    f->name = mem_must(mem_strdup(name));
    f->help = mem_must(mem_strdup(help));
    f->labels = mem_must(mem_strdup(labels));
    f->label_text = mem_must(mem_strdup(labels));
    split_labels(f);
    pthread_mutex_init(&f->lock, NULL);
    mem_must(hmap_init(&f->map, 8) == 0 ? f : NULL);
    char key[LABELS_MAX * 6];
    for (size_t i = 0; i < f->labels_n; i++)
        memcpy(key + i * 6, "other", 6);
    f->other = mem_must(series_new(f, key, f->labels_n * 6));
    return f;
}

struct metric_family *metric_family(enum metric_kind kind, const char *name, const char *labels, const char *help,
                                    unsigned max_series) {
    pthread_mutex_lock(&registry_lock);
    struct metric_family *_Atomic *at = &families;
    struct metric_family *f;
    while ((f = atomic_load_explicit(at, memory_order_acquire)) && strcmp(f->name, name) != 0)
        at = &f->next;
    if (!f) {
        f = family_new(kind, name, labels, help, max_series);
        atomic_store_explicit(at, f, memory_order_release);
    }
    pthread_mutex_unlock(&registry_lock);
    ASSERT(f->kind == kind && strcmp(f->labels, labels) == 0);
    return f;
}

/* Appends a label value with its NUL; what Prometheus could not read becomes "invalid". */
static size_t put_value(char *key, size_t at, const char *v) {
    size_t n = strlen(v);
    if (n > VALUE_MAX) {
        for (n = VALUE_MAX; n > 0 && ((unsigned char)v[n] & 0xc0) == 0x80; n--)
            ;
    }
    if (!text_valid(bytes_of(v, n))) {
        v = "invalid";
        n = strlen(v);
    }
    memcpy(key + at, v, n);
    key[at + n] = '\0';
    return at + n + 1;
}

/* True if a printed series has `value` at label `i`. */
static bool value_seen(const struct metric_family *f, size_t i, const char *value) {
    for (struct metric *m = f->first; m; m = m->next) {
        const char *v = m->key;
        for (size_t k = 0; k < i; k++)
            v += strlen(v) + 1;
        if (strcmp(v, value) == 0)
            return true;
    }
    return false;
}

/*
 * Over the bound: values never seen become "other", so that {subscription="other",result="ok"} still says something.
 * Combinations of known values may fill the bound once more, then all that is new is "other" throughout.
 */
static struct metric *series_over(struct metric_family *f, const char *key) {
    char folded[LABELS_MAX * (VALUE_MAX + 1)];
    size_t n = 0;
    if (f->count >= 2 * (uint64_t)f->max_series)
        return f->other;
    for (size_t i = 0; i < f->labels_n; i++, key += strlen(key) + 1)
        n = put_value(folded, n, value_seen(f, i, key) ? key : "other");
    struct metric *m = series_find(f, folded, n);
    if (!m)
        m = series_new(f, folded, n);
    return m ? m : f->other;
}

struct metric *metric_get(struct metric_family *f, ...) {
    char key[LABELS_MAX * (VALUE_MAX + 1)];
    size_t n = 0;
    va_list ap;
    va_start(ap, f);
    for (size_t i = 0; i < f->labels_n; i++)
        n = put_value(key, n, va_arg(ap, const char *));
    va_end(ap);
    pthread_mutex_lock(&f->lock);
    struct metric *m = series_find(f, key, n);
    if (!m && f->count >= f->max_series)
        m = series_over(f, key);
    if (!m)
        m = series_new(f, key, n);
    m = series_list(f, m ? m : f->other);
    pthread_mutex_unlock(&f->lock);
    return m;
}

void metric_add(struct metric *m, int64_t v) {
    atomic_fetch_add_explicit(&m->added, v, memory_order_relaxed);
}

void metric_set(struct metric *m, double v) {
    uint64_t bits;
    memcpy(&bits, &v, 8);
    atomic_store_explicit(&m->added, 0, memory_order_relaxed);
    atomic_store_explicit(&m->base, bits, memory_order_relaxed);
}

/* Parts of the unit in the sum: seconds in nanoseconds; sizes coarser, so that 2^64 of them hold petabytes. */
static double sum_scale(const struct metric_family *f) {
    return f->seconds ? 1e9 : 1e3;
}

/* The smallest i with x <= 2^i, from the exponent; x >= 0. */
static size_t bucket_of(double x) {
    if (x <= 1)
        return 0;
    uint64_t bits;
    memcpy(&bits, &x, 8);
    size_t i = (size_t)(bits >> 52) - 1023 + ((bits & 0xfffffffffffffull) != 0);
    return MIN(i, BUCKETS);
}

void metric_observe(struct metric *m, double v) {
    const struct metric_family *f = m->family;
    if (!(v > 0)) /* negative and NaN, too */
        v = 0;
    atomic_fetch_add_explicit(&m->buckets[bucket_of(f->seconds ? v * 10000 : v)], 1, memory_order_relaxed);
    double parts = v * sum_scale(f) + 0.5;
    atomic_fetch_add_explicit(&m->sum, (uint64_t)MIN(parts, 1e18), memory_order_relaxed);
}

static uint64_t observed(const struct metric *m) {
    uint64_t n = 0;
    for (size_t i = 0; i <= BUCKETS; i++)
        n += atomic_load_explicit(&m->buckets[i], memory_order_relaxed);
    return n;
}

static double gauge_value(const struct metric *m) {
    double base;
    uint64_t bits = atomic_load_explicit(&m->base, memory_order_relaxed);
    memcpy(&base, &bits, 8);
    return base + (double)atomic_load_explicit(&m->added, memory_order_relaxed);
}

int64_t metric_value(const struct metric *m) {
    switch (m->family->kind) {
    case METRIC_COUNTER:
        return atomic_load_explicit(&m->added, memory_order_relaxed);
    case METRIC_GAUGE:
        return (int64_t)gauge_value(m);
    case METRIC_HISTOGRAM:
        return (int64_t)observed(m);
    }
    UNREACHABLE();
}

void metric_gauge_fn(struct metric_family *f, double (*fn)(void *arg), void *arg) {
    ASSERT(f->kind == METRIC_GAUGE && f->labels_n == 0);
    pthread_mutex_lock(&f->lock);
    f->fn = fn;
    f->arg = arg;
    pthread_mutex_unlock(&f->lock);
}

/* Escapes as the text format wants: backslash and newline, the quote in label values. */
static void put_escaped(struct buf *out, const char *s, bool quoted) {
    for (; *s; s++) {
        if (*s == '\n')
            buf_put_str(out, "\\n");
        else if (*s == '\\' || (quoted && *s == '"'))
            buf_printf(out, "\\%c", *s);
        else
            buf_put_char(out, *s);
    }
}

/* The shortest text that reads back as the same number. */
static void put_double(struct buf *out, double v) {
    char text[40];
    if (v != v) {
        buf_put_str(out, "NaN");
    } else if (v - v != 0) {
        buf_put_str(out, v > 0 ? "+Inf" : "-Inf");
    } else {
        snprintf(text, sizeof(text), "%.15g", v);
        if (strtod(text, NULL) != v)
            snprintf(text, sizeof(text), "%.17g", v);
        buf_put_str(out, text);
    }
}

/* `name<suffix>{labels,le="..."} `; le < 0 = no le, infinite = +Inf. */
static void put_head(struct buf *out, const struct metric *m, const char *suffix, double le) {
    const struct metric_family *f = m->family;
    const char *v = m->key;
    const char *glue = "{";
    buf_put_str(out, f->name);
    buf_put_str(out, suffix);
    for (size_t i = 0; i < f->labels_n; i++, v += strlen(v) + 1, glue = ",") {
        buf_printf(out, "%s%s=\"", glue, f->label[i]);
        put_escaped(out, v, true);
        buf_put_char(out, '"');
    }
    if (le >= 0) {
        buf_printf(out, "%sle=\"", glue);
        put_double(out, le);
        buf_put_char(out, '"');
        glue = ",";
    }
    buf_put_str(out, *glue == ',' ? "} " : " ");
}

static void print_histogram(struct buf *out, const struct metric *m) {
    double le = m->family->seconds ? 0.0001 : 1;
    uint64_t n = 0;
    for (size_t i = 0; i <= BUCKETS; i++, le *= 2) {
        n += atomic_load_explicit(&m->buckets[i], memory_order_relaxed);
        put_head(out, m, "_bucket", i < BUCKETS ? le : __builtin_inf());
        buf_printf(out, "%llu\n", (unsigned long long)n);
    }
    put_head(out, m, "_sum", -1);
    put_double(out, (double)atomic_load_explicit(&m->sum, memory_order_relaxed) / sum_scale(m->family));
    buf_put_char(out, '\n');
    put_head(out, m, "_count", -1);
    buf_printf(out, "%llu\n", (unsigned long long)n);
}

static void print_series(struct buf *out, const struct metric *m) {
    switch (m->family->kind) {
    case METRIC_COUNTER:
        put_head(out, m, "", -1);
        buf_printf(out, "%lld\n", (long long)atomic_load_explicit(&m->added, memory_order_relaxed));
        break;
    case METRIC_GAUGE:
        put_head(out, m, "", -1);
        put_double(out, gauge_value(m));
        buf_put_char(out, '\n');
        break;
    case METRIC_HISTOGRAM:
        print_histogram(out, m);
        break;
    }
}

/* The read function runs under the family's lock: when metric_gauge_fn returns, the old one is not running any more. */
static bool print_fn(struct buf *out, struct metric_family *f) {
    pthread_mutex_lock(&f->lock);
    bool found = f->fn;
    if (found) {
        buf_printf(out, "%s ", f->name);
        put_double(out, f->fn(f->arg));
        buf_put_char(out, '\n');
    }
    pthread_mutex_unlock(&f->lock);
    return found;
}

void metric_print(struct buf *out) {
    static const char *const kinds[] = {"counter", "gauge", "histogram"};
    for (struct metric_family *f = atomic_load(&families); f; f = atomic_load(&f->next)) {
        buf_printf(out, "# HELP %s ", f->name);
        put_escaped(out, f->help, false);
        buf_printf(out, "\n# TYPE %s %s\n", f->name, kinds[f->kind]);
        if (print_fn(out, f))
            continue;
        for (struct metric *m = atomic_load(&f->first); m; m = atomic_load(&m->next))
            print_series(out, m);
    }
}
