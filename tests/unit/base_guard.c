/* Which addresses may be connected to: every form of a bad one is bad, and the list opens only what it says. */
#include "base/guard.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

static const char *judged(const char *allow, const char *address) {
    struct sockaddr_in v4 = {.sin_family = AF_INET};
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6};
    struct guard g;
    struct errmsg e = ERRMSG_NULL;

    if (guard_parse(allow, &g, &e) < 0)
        fail_msg("%s", e.text);
    if (inet_pton(AF_INET, address, &v4.sin_addr) == 1)
        return guard_refuses(&g, (struct sockaddr *)&v4);
    assert_int_equal(inet_pton(AF_INET6, address, &v6.sin6_addr), 1);
    return guard_refuses(&g, (struct sockaddr *)&v6);
}

#define ALL "0.0.0.0/0, ::/0"

static void test_never(void **state) {
    static const char *const addresses[] = {
        "0.0.0.0",
        "0.1.2.3",
        "169.254.0.1",
        "169.254.169.254",
        "100.100.100.200",
        "192.0.0.192",
        "224.0.0.1",
        "255.255.255.255",
        "::",
        "fe80::1",
        "febf::1",
        "fec0::1",
        "ff02::1",
        "fd00:ec2::254",
        "::ffff:169.254.169.254",
        "::169.254.169.254",
        "64:ff9b::169.254.169.254",
        "2002:a9fe:a9fe::1",
        "::ffff:0.0.0.0",
    };
    for (size_t i = 0; i < ARRAY_LEN(addresses); i++)
        if (!judged(ALL, addresses[i]))
            fail_msg("allowed: %s", addresses[i]);
}

static void test_only_if_allowed(void **state) {
    static const struct {
        const char *address, *net, *other;
    } cases[] = {
        {"127.0.0.1", "127.0.0.0/8", "10.0.0.0/8"},
        {"127.255.0.1", "127.0.0.0/8", "127.0.0.1"},
        {"10.1.2.3", "10.1.2.0/24", "10.1.3.0/24"},
        {"172.31.255.255", "172.16.0.0/12", "172.16.0.0/13"},
        {"192.168.7.9", "192.168.7.9", "192.168.7.8/32"},
        {"100.64.0.1", "100.64.0.0/10", "fc00::/7"},
        {"::1", "::1/128", "127.0.0.0/8"},
        {"fd12:3456::1", "fd12:3456::/32", "fd12:3457::/32"},
        {"::ffff:10.0.0.1", "10.0.0.0/8", "::1"},
        {"64:ff9b::10.0.0.1", "10.0.0.0/8", "64:ff9b::/96"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        assert_non_null(judged("", cases[i].address));
        assert_non_null(judged(cases[i].other, cases[i].address));
        if (judged(cases[i].net, cases[i].address))
            fail_msg("refused: %s, though %s is allowed", cases[i].address, cases[i].net);
    }
}

static void test_public(void **state) {
    static const char *const addresses[] = {"8.8.8.8",         "172.32.0.1", "172.15.255.255",       "192.169.0.1",
                                            "100.128.0.1",     "11.0.0.1",   "2001:4860:4860::8888", "::ffff:8.8.8.8",
                                            "64:ff9b::8.8.8.8"};
    for (size_t i = 0; i < ARRAY_LEN(addresses); i++)
        assert_null(judged("", addresses[i]));
}

static void test_lists(void **state) {
    static const char *const wrong[] = {"10.0.0.0/33", "10.0.0/8",    "::/129", "localhost",      "10.0.0.0/",
                                        "10.0.0.0/-1", "10.0.0.0/8x", "/8",     "10.0.0.0/8;::1", "10.0.0.0/ 8"};
    struct guard g;
    struct errmsg e;

    for (size_t i = 0; i < ARRAY_LEN(wrong); i++) {
        if (guard_parse(wrong[i], &g, &e) != -EINVAL)
            fail_msg("taken: %s", wrong[i]);
        assert_non_null(strstr(e.text, "is not a network"));
    }
    assert_int_equal(guard_parse("", &g, &e), 0);
    assert_int_equal(g.n, 0);
    assert_int_equal(guard_parse(" 10.0.0.0/8 ,::1, 127.0.0.1", &g, &e), 0);
    assert_int_equal(g.n, 3);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_never),
        cmocka_unit_test(test_only_if_allowed),
        cmocka_unit_test(test_public),
        cmocka_unit_test(test_lists),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
