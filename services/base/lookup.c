/* One form for both families: what the socket interface itself takes for IPv4 in an IPv6 address. */
#include "base/lookup.h"

#include <arpa/inet.h>
#include <netdb.h>

enum { HOST_MAX = 256 };

static void put(struct lookup *l, const struct sockaddr *a, in_port_t port) {
    struct sockaddr_in6 *to = &l->list[l->n];

    *to = (struct sockaddr_in6){.sin6_family = AF_INET6, .sin6_port = port};
    if (a->sa_family == AF_INET6) {
        to->sin6_addr = ((const struct sockaddr_in6 *)(const void *)a)->sin6_addr;
        to->sin6_scope_id = ((const struct sockaddr_in6 *)(const void *)a)->sin6_scope_id;
    } else if (a->sa_family == AF_INET) {
        to->sin6_addr.s6_addr[10] = to->sin6_addr.s6_addr[11] = 0xff;
        memcpy(to->sin6_addr.s6_addr + 12, &((const struct sockaddr_in *)(const void *)a)->sin_addr, 4);
    } else {
        return;
    }
    l->n++;
}

/* "[::1]:80" -> "::1" and 80 */
static bool split(const char *text, char host[HOST_MAX], in_port_t *port) {
    const char *colon = strrchr(text, ':');
    size_t n = colon ? (size_t)(colon - text) : 0;
    int number = 0, used = 0;

    if (n > 1 && text[0] == '[' && text[n - 1] == ']')
        text++, n -= 2;
    if (n == 0 || n >= HOST_MAX || sscanf(colon + 1, "%5d%n", &number, &used) != 1 || colon[1 + used] || number <= 0 ||
        number > 65535)
        return false;
    memcpy(host, text, n);
    host[n] = '\0';
    *port = htons((uint16_t)number);
    return true;
}

int lookup_host(const char *host_port, bool wait, struct lookup *ret, struct errmsg *e) {
    struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM}, *found = NULL;
    char host[HOST_MAX];
    in_port_t port;

    ret->n = 0;
    if (!split(host_port, host, &port))
        return err_set(e, -EINVAL, "not of the form host:port");
    hints.ai_flags = wait ? 0 : AI_NUMERICHOST;
    int r = getaddrinfo(host, NULL, &hints, &found);
    if (r == EAI_NONAME && !wait)
        return 1;
    if (r != 0)
        return err_set(e, -EHOSTUNREACH, "%s: %s", host, gai_strerror(r));
    for (const struct addrinfo *a = found; a && ret->n < LOOKUP_MAX; a = a->ai_next)
        put(ret, a->ai_addr, port);
    freeaddrinfo(found);
    return ret->n ? 0 : err_set(e, -EHOSTUNREACH, "%s: it has no address", host);
}

void lookup_print(const struct sockaddr *a, char out[LOOKUP_TEXT]) {
    const struct sockaddr_in6 *six = (const struct sockaddr_in6 *)(const void *)a;
    const void *v4 = NULL;

    if (a->sa_family == AF_INET)
        v4 = &((const struct sockaddr_in *)(const void *)a)->sin_addr;
    else if (a->sa_family == AF_INET6 && IN6_IS_ADDR_V4MAPPED(&six->sin6_addr))
        v4 = six->sin6_addr.s6_addr + 12;
    snprintf(out, LOOKUP_TEXT, "?");
    if (v4)
        inet_ntop(AF_INET, v4, out, LOOKUP_TEXT);
    else if (a->sa_family == AF_INET6)
        inet_ntop(AF_INET6, &six->sin6_addr, out, LOOKUP_TEXT);
}
