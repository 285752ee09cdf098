/* What the printer says is Prometheus text; labels are escaped and bounded; adding from many threads loses nothing. */
#include "base/metric.h"

#include <pthread.h>
#include <setjmp.h>
#include <cmocka.h>

static struct buf printed;

static const char *print(void) {
    buf_reset(&printed);
    metric_print(&printed);
    assert_int_equal(buf_error(&printed), 0);
    return buf_str(&printed);
}

static void expect(const char *text) {
    if (!strstr(print(), text))
        fail_msg("not found: %s\nin:\n%s", text, buf_str(&printed));
}

static void test_counter(void **state) {
    struct metric_family *f = metric_family(METRIC_COUNTER, "t_requests_total", "method,code", "Calls\\by\nkind.", 10);
    struct metric *m = metric_get(f, "Prepare", "OK");
    metric_add(m, 2);
    metric_add(m, 3);
    metric_add(metric_get(f, "say \"hi\"\n\\", "x\xc3\xbc"), 1);
    metric_add(metric_get(f, "bad\xff", ""), 1);
    assert_int_equal(metric_value(m), 5);
    assert_ptr_equal(metric_get(f, "Prepare", "OK"), m);
    assert_ptr_equal(metric_family(METRIC_COUNTER, "t_requests_total", "method,code", "", 5), f);
    expect("# HELP t_requests_total Calls\\\\by\\nkind.\n"
           "# TYPE t_requests_total counter\n"
           "t_requests_total{method=\"Prepare\",code=\"OK\"} 5\n"
           "t_requests_total{method=\"say \\\"hi\\\"\\n\\\\\",code=\"x\xc3\xbc\"} 1\n"
           "t_requests_total{method=\"invalid\",code=\"\"} 1\n");
}

static double answer(void *arg) {
    return *(double *)arg;
}

static void test_gauge(void **state) {
    struct metric_family *f = metric_family(METRIC_GAUGE, "t_depth", "", "Depth.", 0);
    struct metric *m = metric_get(f);
    expect("# TYPE t_depth gauge\nt_depth 0\n");
    metric_add(m, 7);
    metric_add(m, -2);
    expect("\nt_depth 5\n");
    metric_set(m, 0.1);
    expect("\nt_depth 0.1\n");
    metric_set(m, 12345678901234);
    metric_add(m, -4);
    assert_int_equal(metric_value(m), 12345678901230);
    expect("\nt_depth 12345678901230\n");
    metric_set(m, -__builtin_inf());
    expect("\nt_depth -Inf\n");
    double v = 1.0 / 3;
    metric_gauge_fn(f, answer, &v);
    expect("# TYPE t_depth gauge\nt_depth 0.33333333333333331\n");
    v = __builtin_nan("");
    expect("\nt_depth NaN\n");
    metric_gauge_fn(f, NULL, NULL);
    expect("\nt_depth -Inf\n");
}

static void test_histogram_seconds(void **state) {
    struct metric_family *f = metric_family(METRIC_HISTOGRAM, "t_call_seconds", "method", "Time.", 10);
    struct metric *m = metric_get(f, "Get");
    static const double values[] = {0, -1, 0.0001, 0.00011, 0.0002, 0.00021, 1.0, 838.8608, 839, 1e9};
    for (size_t i = 0; i < ARRAY_LEN(values); i++)
        metric_observe(m, values[i]);
    assert_int_equal(metric_value(m), 10);
    expect("# TYPE t_call_seconds histogram\n"
           "t_call_seconds_bucket{method=\"Get\",le=\"0.0001\"} 3\n"
           "t_call_seconds_bucket{method=\"Get\",le=\"0.0002\"} 5\n"
           "t_call_seconds_bucket{method=\"Get\",le=\"0.0004\"} 6\n");
    expect("le=\"0.8192\"} 6\nt_call_seconds_bucket{method=\"Get\",le=\"1.6384\"} 7\n");
    expect("le=\"838.8608\"} 8\n"
           "t_call_seconds_bucket{method=\"Get\",le=\"+Inf\"} 10\n"
           "t_call_seconds_sum{method=\"Get\"} 1000001678.86142\n"
           "t_call_seconds_count{method=\"Get\"} 10\n");
}

static void test_histogram_sizes(void **state) {
    struct metric *m = metric_get(metric_family(METRIC_HISTOGRAM, "t_batch_size", "", "Size.", 0));
    for (int i = 0; i <= 5; i++)
        metric_observe(m, i);
    metric_observe(m, 0.5);
    metric_observe(m, 8388608);
    metric_observe(m, 8388609);
    metric_observe(m, __builtin_nan("")); /* counted as nothing much, never a wild bucket */
    expect("t_batch_size_bucket{le=\"1\"} 4\n"
           "t_batch_size_bucket{le=\"2\"} 5\n"
           "t_batch_size_bucket{le=\"4\"} 7\n"
           "t_batch_size_bucket{le=\"8\"} 8\n");
    expect("t_batch_size_bucket{le=\"8388608\"} 9\nt_batch_size_bucket{le=\"+Inf\"} 10\n"
           "t_batch_size_sum 16777232.5\nt_batch_size_count 10\n");
    metric_observe(m, __builtin_inf());
    expect("t_batch_size_bucket{le=\"+Inf\"} 11\n");
}

/* Every bucket border itself belongs below, the next number above. */
static void test_bucket_borders(void **state) {
    struct metric *m = metric_get(metric_family(METRIC_HISTOGRAM, "t_border_size", "", "Borders.", 0));
    double le = 1;
    for (int i = 0; i < 24; i++, le *= 2) {
        char line[80];
        metric_observe(m, le);
        metric_observe(m, le * (1 + __DBL_EPSILON__));
        snprintf(line, sizeof(line), "t_border_size_bucket{le=\"%.15g\"} %d\n", le, 2 * i + 1);
        expect(line);
    }
}

static void test_label_bound(void **state) {
    struct metric_family *f = metric_family(METRIC_COUNTER, "t_bound_total", "sub,result", "Bounded.", 4);
    char name[16];
    for (int i = 0; i < 1000; i++) {
        snprintf(name, sizeof(name), "s%d", i);
        metric_add(metric_get(f, name, "ok"), 1);
    }
    assert_int_equal(metric_value(metric_get(f, "s3", "ok")), 1);
    assert_int_equal(metric_value(metric_get(f, "other", "ok")), 996);
    metric_add(metric_get(f, "s2", "new"), 1); /* the known value stays */
    expect("t_bound_total{sub=\"s2\",result=\"other\"} 1\n");
    for (int i = 0; i < 1000; i++) {
        snprintf(name, sizeof(name), "r%d", i);
        metric_add(metric_get(f, name, name), 1);
    }
    expect("t_bound_total{sub=\"other\",result=\"other\"} 1000\n");
    size_t lines = 0;
    for (const char *s = print(); (s = strstr(s, "\nt_bound_total{")); s++)
        lines++;
    assert_true(lines <= 9);
}

static void test_long_value(void **state) {
    struct metric_family *f = metric_family(METRIC_COUNTER, "t_long_total", "v", "Long.", 4);
    char v[400], want[200];
    for (size_t i = 0; i < sizeof(v); i += 2)
        memcpy(v + i, "\xc3\xbc", 2);
    v[0] = 'x'; /* and so the cut falls into a character */
    memmove(v + 1, v + 2, sizeof(v) - 2);
    v[sizeof(v) - 1] = '\0';
    v[sizeof(v) - 2] = '\0';
    metric_add(metric_get(f, v), 1);
    snprintf(want, sizeof(want), "t_long_total{v=\"%.127s\"} 1\n", v);
    expect(want);
}

#define ROUNDS 20000

static void *hammer(void *arg) {
    for (int i = 0; i < ROUNDS; i++) {
        metric_add(metric_get(metric_family(METRIC_COUNTER, "t_hammer_total", "k", "H.", 8), i % 3 ? "a" : "b"), 1);
        metric_observe(arg, i % 7);
    }
    return NULL;
}

static void test_threads(void **state) {
    struct metric *h = metric_get(metric_family(METRIC_HISTOGRAM, "t_hammer_size", "", "H.", 0));
    pthread_t t[3];
    for (int i = 0; i < 3; i++)
        assert_int_equal(pthread_create(&t[i], NULL, hammer, h), 0);
    for (int i = 0; i < 20; i++)
        print();
    for (int i = 0; i < 3; i++)
        pthread_join(t[i], NULL);
    struct metric_family *f = metric_family(METRIC_COUNTER, "t_hammer_total", "k", "H.", 8);
    assert_int_equal(metric_value(metric_get(f, "a")) + metric_value(metric_get(f, "b")), 3 * ROUNDS);
    assert_int_equal(metric_value(h), 3 * ROUNDS);
}

/* Out of memory costs a label, never the count. */
static void test_out_of_memory(void **state) {
    struct metric_family *f = metric_family(METRIC_COUNTER, "t_memory_total", "k", "M.", 8);
    mem_fail_at(1);
    metric_add(metric_get(f, "a"), 1);
    expect("t_memory_total{k=\"other\"} 1\n");
}

/* The grammar of every line, after all the tests above. */
static void test_grammar(void **state) {
    const char *s = print();
    while (*s) {
        const char *end = strchr(s, '\n');
        assert_non_null(end);
        if (strncmp(s, "# HELP ", 7) != 0 && strncmp(s, "# TYPE ", 7) != 0) {
            s += strspn(s, "abcdefghijklmnopqrstuvwxyz_");
            if (*s == '{') {
                for (s++; *s != '}'; s += *s == ',') {
                    s += strspn(s, "abcdefghijklmnopqrstuvwxyz_");
                    assert_memory_equal(s, "=\"", 2);
                    for (s += 2; *s != '"'; s++) {
                        assert_int_not_equal(*s, '\n');
                        s += *s == '\\';
                    }
                    s++;
                }
                s++;
            }
            assert_int_equal(*s, ' ');
            char *rest;
            strtod(s + 1, &rest);
            assert_ptr_equal(rest, end);
        }
        s = end + 1;
    }
    buf_deinit(&printed);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_counter),           cmocka_unit_test(test_gauge),
        cmocka_unit_test(test_histogram_seconds), cmocka_unit_test(test_histogram_sizes),
        cmocka_unit_test(test_bucket_borders),    cmocka_unit_test(test_label_bound),
        cmocka_unit_test(test_long_value),        cmocka_unit_test(test_threads),
        cmocka_unit_test(test_out_of_memory),     cmocka_unit_test(test_grammar),
    };
    buf_init(&printed, 4 << 20);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
