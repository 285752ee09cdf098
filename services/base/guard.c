/*
 * Every address becomes 16 bytes first, IPv4 in its mapped form, and is looked up in two tables of networks. A form that
 * carries IPv4 is turned into that IPv4 before, so that there is no second way to write 169.254.169.254.
 */
#include "base/guard.h"

#include <arpa/inet.h>
#include <netinet/in.h>

struct range {
    const char *net;
    const char *what;
};

static const struct range never[] = {
    {"0.0.0.0/8", "of this network"},
    {"169.254.0.0/16", "link-local"},
    {"100.100.100.200/32", "of cloud metadata"},
    {"192.0.0.192/32", "of cloud metadata"},
    {"224.0.0.0/4", "multicast"},
    {"240.0.0.0/4", "reserved"},
    {"::/128", "unspecified"},
    {"fe80::/10", "link-local"},
    {"fec0::/10", "site-local"},
    {"ff00::/8", "multicast"},
    {"fd00:ec2::254/128", "of cloud metadata"},
    {"fd20:ce::254/128", "of cloud metadata"},
};

static const struct range allowed_only[] = {
    {"127.0.0.0/8", "loopback"},   {"10.0.0.0/8", "private"},    {"172.16.0.0/12", "private"},
    {"192.168.0.0/16", "private"}, {"100.64.0.0/10", "private"}, {"192.0.0.0/24", "private"},
    {"198.18.0.0/15", "private"},  {"::1/128", "loopback"},      {"fc00::/7", "private"},
    {"64:ff9b:1::/48", "private"},
};

static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff};

static void of_ipv4(const void *v4, uint8_t out[16]) {
    memcpy(out, mapped, 12);
    memcpy(out + 12, v4, 4);
}

static bool in_net(const uint8_t *a, const struct guard_net *n) {
    int whole = n->bits / 8, rest = n->bits % 8;

    if (memcmp(a, n->address, (size_t)whole) != 0)
        return false;
    return rest == 0 || ((a[whole] ^ n->address[whole]) >> (8 - rest)) == 0;
}

/* "10.0.0.0/8", "::1" */
static int net_parse(const char *text, size_t n, struct guard_net *ret) {
    char copy[64];
    const char *slash = memchr(text, '/', n);
    size_t length = slash ? (size_t)(slash - text) : n;
    uint8_t v4[4];
    int bits = -1, used = 0;

    if (length == 0 || n >= sizeof(copy))
        return -EINVAL;
    memcpy(copy, text, n);
    copy[n] = '\0';
    if (slash && (sscanf(copy + length + 1, "%3d%n", &bits, &used) != 1 || (size_t)used != n - length - 1 || bits < 0))
        return -EINVAL;
    copy[length] = '\0';
    if (inet_pton(AF_INET, copy, v4) == 1) {
        of_ipv4(v4, ret->address);
        ret->bits = slash ? 96 + bits : 128;
        return slash && bits > 32 ? -EINVAL : 0;
    }
    if (inet_pton(AF_INET6, copy, ret->address) != 1)
        return -EINVAL;
    ret->bits = slash ? bits : 128;
    return bits > 128 ? -EINVAL : 0;
}

int guard_parse(const char *list, struct guard *ret, struct errmsg *e) {
    ret->n = 0;
    while (*(list += strspn(list, " ,"))) {
        size_t n = strcspn(list, " ,");
        if (ret->n == GUARD_NETS_MAX)
            return err_set(e, -EINVAL, "more than %d networks", GUARD_NETS_MAX);
        if (net_parse(list, n, &ret->nets[ret->n]) < 0)
            return err_set(e, -EINVAL, "%.*s is not a network such as 10.0.0.0/8 or fc00::/7", (int)MIN(n, 64u), list);
        ret->n++;
        list += n;
    }
    return 0;
}

static const char *found(const struct range *table, size_t n, const uint8_t *a) {
    for (size_t i = 0; i < n; i++) {
        struct guard_net net;
        int r = net_parse(table[i].net, strlen(table[i].net), &net);
        ASSERT(r == 0);
        if (in_net(a, &net))
            return table[i].what;
    }
    return NULL;
}

/* IPv4 as it is carried in IPv6: mapped, compatible (but :: and ::1), NAT64 (64:ff9b::/96), 6to4 (2002::/16). */
static void unwrap(uint8_t a[16]) {
    static const uint8_t nat64[12] = {0x00, 0x64, 0xff, 0x9b}, zero[12] = {0};
    uint8_t v4[4];

    if (memcmp(a, nat64, 12) == 0 || (memcmp(a, zero, 12) == 0 && (a[12] | a[13])))
        memcpy(v4, a + 12, 4);
    else if (a[0] == 0x20 && a[1] == 0x02)
        memcpy(v4, a + 2, 4);
    else
        return;
    of_ipv4(v4, a);
}

const char *guard_refuses(const struct guard *g, const struct sockaddr *to) {
    const char *what;
    uint8_t a[16];

    if (to->sa_family == AF_INET)
        of_ipv4(&((const struct sockaddr_in *)(const void *)to)->sin_addr, a);
    else if (to->sa_family == AF_INET6)
        memcpy(a, &((const struct sockaddr_in6 *)(const void *)to)->sin6_addr, 16);
    else
        return "of a kind that is not connected to";
    unwrap(a);
    if ((what = found(never, ARRAY_LEN(never), a)))
        return what;
    if (!(what = found(allowed_only, ARRAY_LEN(allowed_only), a)))
        return NULL;
    for (int i = 0; i < g->n; i++)
        if (in_net(a, &g->nets[i]))
            return NULL;
    return what;
}

bool guard_allows(const struct guard *g, const struct sockaddr *to, char why[GUARD_TEXT]) {
    const char *what = guard_refuses(g, to);
    char text[LOOKUP_TEXT];

    if (!what)
        return true;
    lookup_print(to, text);
    snprintf(why, GUARD_TEXT, "address %s is %s: not allowed", text, what);
    return false;
}

int guard_keep(const struct guard *g, struct lookup *l, struct errmsg *e) {
    char why[GUARD_TEXT], first[GUARD_TEXT] = "";
    int kept = 0;

    for (int i = 0; i < l->n; i++) {
        if (guard_allows(g, (const struct sockaddr *)&l->list[i], why))
            l->list[kept++] = l->list[i];
        else if (!*first)
            memcpy(first, why, sizeof(first));
    }
    l->n = kept;
    return kept ? 0 : err_set(e, -EACCES, "%s", first);
}
