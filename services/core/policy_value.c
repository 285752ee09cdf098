/*
 * URLs and secrets as an operator may write them. Stricter than the libraries that will read them, so that there is one
 * reading only: what looks like the host here is the host there. A value may hold a password, so no message quotes it.
 */
#include "base/crypto.h"
#include "core/policy_private.h"

#include <strings.h>

/* Printable ASCII without space, quotes, <> and backslash: everything else is to be percent-encoded. */
static bool is_url_char(uint8_t c) {
    return c > 0x20 && c < 0x7f && c != '"' && c != '<' && c != '>' && c != '\\';
}

static bool is_host_char(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' || c == '-' ||
           c == '_';
}

/* The length of a host name, an IPv4 address or [an IPv6 address] at s; 0 = none. */
static size_t host_span(const char *s, size_t n) {
    size_t i = 0;

    if (n > 0 && s[0] == '[') {
        for (i = 1; i < n && (isxdigit((unsigned char)s[i]) || s[i] == ':' || s[i] == '.'); i++)
            ;
        return i > 2 && i < n && s[i] == ']' ? i + 1 : 0;
    }
    while (i < n && is_host_char(s[i]))
        i++;
    return i;
}

static bool is_port(const char *s, size_t n) {
    long port = 0;

    if (n < 1 || n > 5)
        return false;
    for (size_t i = 0; i < n; i++) {
        if (s[i] < '0' || s[i] > '9')
            return false;
        port = port * 10 + (s[i] - '0');
    }
    return port >= 1 && port <= 65535;
}

/* host[:port], n bytes. */
static const char *host_wrong(const char *s, size_t n) {
    size_t host = host_span(s, n);

    if (host == 0)
        return n == 0 || s[0] == ':' ? "has no host" : "has a host that is neither a name nor an address";
    if (host == n)
        return NULL;
    if (s[host] != ':')
        return "has a host that is neither a name nor an address";
    return is_port(s + host + 1, n - host - 1) ? NULL : "has a port that is not 1..65535";
}

static const char *url_wrong(const char *s, const char *scheme, const char *wrong_scheme, bool userinfo) {
    const char *a, *tls, *host;
    size_t n = strlen(scheme), length = strlen(s);

    if (length > POLICY_URL_MAX)
        return "is longer than 2048 bytes";
    for (size_t i = 0; i < length; i++)
        if (!is_url_char((uint8_t)s[i]))
            return "holds a space, a control character or another one that a URL may not hold";
    if (strncasecmp(s, scheme, n) != 0)
        return wrong_scheme;
    tls = s[n] == 's' || s[n] == 'S' ? s + n + 1 : s + n;
    if (strncmp(tls, "://", 3) != 0)
        return wrong_scheme;
    a = tls + 3;
    n = strcspn(a, "/?#");
    host = memrchr(a, '@', n);
    if (host && !userinfo)
        return "may not hold a user or password";
    host = host ? host + 1 : a;
    return host_wrong(host, n - (size_t)(host - a));
}

const char *url_wrong_http(const char *s) {
    return url_wrong(s, "http", "must begin with http:// or https://", false);
}

/* grpc://host:port and nothing behind it, since core reads what follows in ways of its own. */
const char *url_wrong_grpc(const char *s) {
    size_t host;

    if (strncmp(s, POLICY_GRPC, 7) != 0)
        return "must begin with grpc://";
    if (strlen(s) > POLICY_URL_MAX)
        return "is longer than 2048 bytes";
    host = host_span(s + 7, strlen(s + 7));
    if (host == 0 || (s[7 + host] != ':' && s[7 + host] != '\0'))
        return "has a host that is neither a name nor an address";
    if (s[7 + host] == '\0')
        return "needs a port";
    return is_port(s + 8 + host, strlen(s + 8 + host)) ? NULL
                                                       : "has a port that is not 1..65535, or something behind it";
}

const char *url_wrong_endpoint(const char *s) {
    if (strncmp(s, POLICY_GRPC, 7) == 0)
        return url_wrong_grpc(s);
    return url_wrong(s, "http", "must begin with http://, https:// or grpc://", false);
}

const char *url_wrong_amqp(const char *s) {
    return url_wrong(s, "amqp", "must begin with amqp:// or amqps://", true);
}

int secret_wrong(const char *s, const char **ret) {
    static const char wrong[] = "must be empty, or whsec_ and the base64 of 16..64 bytes";
    CLEANUP_BUF struct buf key;

    buf_init(&key, 4 * SECRET_BYTES_MAX);
    *ret = NULL;
    if (s[0] == '\0')
        return 0;
    *ret = wrong;
    if (strncmp(s, "whsec_", 6) != 0 || strlen(s) > 6 + 2 * SECRET_BYTES_MAX)
        return 0;
    int r = base64_get(&key, bytes_str(s + 6));
    if (r == -ENOMEM)
        return r;
    if (r == 0 && key.n >= SECRET_BYTES_MIN && key.n <= SECRET_BYTES_MAX)
        *ret = NULL;
    return 0;
}
