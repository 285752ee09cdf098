/*
 * One exchange with a server that we do not trust.
 *
 * The options that never change are set once. Everything libcurl needs of a request stands in our own buffers,
 * header nodes included, so a request costs no allocation of ours once the buffers have grown. The URL is given to
 * libcurl only when it differs from the last one of the handle.
 *
 * A request is sent once. libcurl would send it again when a kept connection ends before the first byte of an
 * answer; then the other side may have worked on it, and only the caller may repeat that. Connections idle for more
 * than a few seconds are not used again, which is below the idle limit of common servers, so the case stays rare.
 */
#include "webclient/transfer.h"

#include "base/clock.h"

#include <strings.h>

enum {
    BODY_MAX = 64 << 20,
    LINES_MAX = 128,
    LINE_BYTES_MAX = 64 << 10,
    URL_MAX = 8192,
    ANSWER_HEAD_MAX = 32 << 10,
    KEEP_BYTES = 64 << 10, /* buffers above this are not kept */
    REUSE_IDLE_S = 4,
    REUSE_AGE_S = 600, /* then a changed name or a new replica gets its share */
    RETRY_AFTER_MAX_S = 30 * 86400,
};

static size_t on_body(char *p, size_t size, size_t n, void *arg) {
    struct transfer *t = arg;

    buf_put(&t->answer, p, size * n);
    if (buf_error(&t->answer) == 0)
        return size * n;
    t->too_large = buf_error(&t->answer) == -E2BIG;
    return 0;
}

/* "Name: value\r\n" -> the value, if it is that header. */
static bool line_is(struct bytes line, const char *name, struct bytes *value) {
    size_t n = strlen(name);

    if (line.n <= n || line.p[n] != ':' || strncasecmp((const char *)line.p, name, n) != 0)
        return false;
    struct bytes v = {line.p + n + 1, line.n - n - 1};
    while (v.n && (v.p[0] == ' ' || v.p[0] == '\t'))
        v.p++, v.n--;
    while (v.n && isspace(v.p[v.n - 1]))
        v.n--;
    *value = v;
    return true;
}

static void line_keep(struct transfer_line *l, struct bytes v) {
    size_t n = MIN(v.n, sizeof(l->text) - 1);

    memcpy(l->text, v.p, n);
    l->text[n] = 0;
}

static size_t on_line(char *p, size_t size, size_t n, void *arg) {
    struct transfer *t = arg;
    struct bytes line = bytes_of(p, size * n), value;

    t->head_bytes += line.n;
    if (t->head_bytes > ANSWER_HEAD_MAX) {
        t->too_large = true;
        return 0;
    }
    if (line.n >= 5 && memcmp(line.p, "HTTP/", 5) == 0) /* the one before was a 100 */
        t->retry_after.text[0] = t->date.text[0] = 0;
    else if (line_is(line, "Retry-After", &value))
        line_keep(&t->retry_after, value);
    else if (line_is(line, "Date", &value))
        line_keep(&t->date, value);
    return line.n;
}

static int on_send(void *arg, char *ip, char *local_ip, int port, int local_port) {
    struct transfer *t = arg;

    UNUSED(ip), UNUSED(local_ip), UNUSED(port), UNUSED(local_port);
    return ++t->sends > 1 ? CURL_PREREQFUNC_ABORT : CURL_PREREQFUNC_OK;
}

/* What holds for every request of this process. */
static CURLcode set_rules(CURL *e) {
    CURLcode r = curl_easy_setopt(e, CURLOPT_PROTOCOLS_STR, "http,https");

    r = r ? r : curl_easy_setopt(e, CURLOPT_FOLLOWLOCATION, 0L);
    r = r ? r : curl_easy_setopt(e, CURLOPT_PROXY, ""); /* nothing of the environment */
    r = r ? r : curl_easy_setopt(e, CURLOPT_NOPROXY, "*");
    r = r ? r : curl_easy_setopt(e, CURLOPT_NETRC, (long)CURL_NETRC_IGNORED);
    r = r ? r : curl_easy_setopt(e, CURLOPT_NOSIGNAL, 1L);
    r = r ? r : curl_easy_setopt(e, CURLOPT_QUICK_EXIT, 1L); /* else the end of a request waits for its name lookup */
    r = r ? r : curl_easy_setopt(e, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    r = r ? r : curl_easy_setopt(e, CURLOPT_HTTP09_ALLOWED, 0L);
    r = r ? r : curl_easy_setopt(e, CURLOPT_TCP_NODELAY, 1L);
    r = r ? r : curl_easy_setopt(e, CURLOPT_MAXAGE_CONN, (long)REUSE_IDLE_S);
    r = r ? r : curl_easy_setopt(e, CURLOPT_MAXLIFETIME_CONN, (long)REUSE_AGE_S);
    r = r ? r : curl_easy_setopt(e, CURLOPT_USERAGENT, "txmsg/" TXMSG_VERSION);
    return r ? r : curl_easy_setopt(e, CURLOPT_POST, 1L);
}

static CURLcode set_callbacks(struct transfer *t) {
    CURL *e = t->easy;
    CURLcode r = curl_easy_setopt(e, CURLOPT_WRITEFUNCTION, on_body);

    r = r ? r : curl_easy_setopt(e, CURLOPT_WRITEDATA, t);
    r = r ? r : curl_easy_setopt(e, CURLOPT_HEADERFUNCTION, on_line);
    r = r ? r : curl_easy_setopt(e, CURLOPT_HEADERDATA, t);
    r = r ? r : curl_easy_setopt(e, CURLOPT_PREREQFUNCTION, on_send);
    r = r ? r : curl_easy_setopt(e, CURLOPT_PREREQDATA, t);
    r = r ? r : curl_easy_setopt(e, CURLOPT_ERRORBUFFER, t->error);
    return r ? r : curl_easy_setopt(e, CURLOPT_PRIVATE, t);
}

int transfer_init(struct transfer *t, struct poller *p, int64_t response_bytes) {
    *t = (struct transfer){.easy = curl_easy_init()};
    buf_init(&t->url, URL_MAX);
    buf_init(&t->body, BODY_MAX);
    buf_init(&t->lines, LINE_BYTES_MAX);
    buf_init(&t->answer, (size_t)response_bytes);
    if (!t->easy)
        return -ENOMEM;
    CURLcode r = set_rules(t->easy);
    r = r ? r : set_callbacks(t);
    r = r ? r : curl_easy_setopt(t->easy, CURLOPT_MAXFILESIZE_LARGE, (curl_off_t)response_bytes);
    r = r ? r : poller_adopt(p, t->easy, &t->user);
    return r == CURLE_OK ? 0 : r == CURLE_OUT_OF_MEMORY ? -ENOMEM : -ENOSYS;
}

void transfer_deinit(struct transfer *t) {
    curl_easy_cleanup(TAKE(t->easy));
    mem_free(TAKE(t->nodes));
    buf_deinit(&t->url);
    buf_deinit(&t->body);
    buf_deinit(&t->lines);
    buf_deinit(&t->answer);
}

static int set_url(struct transfer *t, const char *url) {
    if (!url || (strncasecmp(url, "http://", 7) != 0 && strncasecmp(url, "https://", 8) != 0))
        return -EINVAL;
    if (bytes_eq_str(buf_bytes(&t->url), url))
        return 0;
    buf_reset(&t->url);
    buf_put_str(&t->url, url);
    int r = buf_error(&t->url);
    if (r == 0 && curl_easy_setopt(t->easy, CURLOPT_URL, url) != CURLE_OK)
        r = -ENOMEM;
    if (r < 0)
        buf_reset(&t->url); /* what libcurl has now is not known */
    return r;
}

/* Headers that say where the request ends: a caller that could set them could smuggle a second one. */
static bool frames_request(struct bytes line) {
    static const char *const names[] = {"Content-Length", "Transfer-Encoding", "Connection", "Expect", "Upgrade", "TE",
                                        "Trailer"};
    struct bytes value;

    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        if (line_is(line, names[i], &value))
            return true;
    }
    return false;
}

/* Adds the line to `lines`, NUL-terminated, in the form that libcurl wants. */
static int put_line(struct transfer *t, const char *line) {
    size_t n = strlen(line), name = strcspn(line, ":");

    if (name == 0 || name == n || frames_request(bytes_of(line, n)))
        return -EINVAL;
    for (size_t i = 0; i < n; i++) {
        if ((unsigned char)line[i] < ' ' && line[i] != '\t')
            return -EINVAL;
        if (i < name && (line[i] == ' ' || line[i] == '\t' || line[i] == ';'))
            return -EINVAL;
    }
    if (line[name + 1 + strspn(line + name + 1, " \t")] == 0) { /* libcurl takes "Name:" as "without Name" */
        buf_put(&t->lines, line, name);
        buf_put_char(&t->lines, ';');
    } else {
        buf_put(&t->lines, line, n);
    }
    buf_put_char(&t->lines, 0);
    return buf_error(&t->lines);
}

static int nodes_grow(struct transfer *t, size_t n) {
    if (n <= t->nodes_cap)
        return 0;
    struct curl_slist *nodes = mem_realloc(t->nodes, n * sizeof(*nodes));
    if (!nodes)
        return -ENOMEM;
    t->nodes = nodes;
    t->nodes_cap = n;
    return 0;
}

static int set_lines(struct transfer *t, const char *const *headers) {
    size_t n = 1;
    bool typed = false;
    struct bytes value;
    int r;

    buf_reset(&t->lines);
    buf_put(&t->lines, "Expect:", 8); /* never wait for a 100 */
    for (; headers && *headers; headers++, n++) {
        typed |= line_is(bytes_str(*headers), "Content-Type", &value);
        r = n >= LINES_MAX ? -E2BIG : put_line(t, *headers);
        if (r < 0)
            return r;
    }
    if (!typed) { /* and not libcurl's form type */
        buf_put(&t->lines, "Content-Type:", 14);
        n++;
    }
    r = buf_error(&t->lines);
    r = r < 0 ? r : nodes_grow(t, n);
    if (r < 0)
        return r;
    char *p = (char *)t->lines.p;
    for (size_t i = 0; i < n; i++, p += strlen(p) + 1)
        t->nodes[i] = (struct curl_slist){.data = p, .next = i + 1 < n ? &t->nodes[i + 1] : NULL};
    return 0;
}

int transfer_set(struct transfer *t, const struct web_request *r) {
    long timeout = (long)MIN(r->timeout_ms, 3600 * 1000);
    int code;

    if (timeout <= 0)
        return -EINVAL;
    code = set_url(t, r->url);
    code = code < 0 ? code : set_lines(t, r->headers);
    if (code < 0)
        return code;
    buf_put_bytes(&t->body, r->body);
    code = buf_error(&t->body);
    if (code < 0)
        return code;
    CURLcode c = curl_easy_setopt(t->easy, CURLOPT_POSTFIELDS, buf_str(&t->body));
    c = c ? c : curl_easy_setopt(t->easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)t->body.n);
    c = c ? c : curl_easy_setopt(t->easy, CURLOPT_HTTPHEADER, t->nodes);
    c = c ? c : curl_easy_setopt(t->easy, CURLOPT_TIMEOUT_MS, timeout);
    c = c ? c : curl_easy_setopt(t->easy, CURLOPT_CONNECTTIMEOUT_MS, MAX(timeout / 2, 1));
    t->begun_ns = clock_mono_ns();
    return c ? -ENOMEM : 0;
}

int transfer_set_connect(struct transfer *t, const char *url, int64_t timeout_ms) {
    long timeout = (long)MIN(timeout_ms, 3600 * 1000);
    int code = timeout <= 0 ? -EINVAL : set_url(t, url);

    if (code < 0)
        return code;
    CURLcode c = curl_easy_setopt(t->easy, CURLOPT_CONNECT_ONLY, 1L);
    c = c ? c : curl_easy_setopt(t->easy, CURLOPT_FRESH_CONNECT, 1L);
    c = c ? c : curl_easy_setopt(t->easy, CURLOPT_TIMEOUT_MS, timeout);
    t->begun_ns = clock_mono_ns();
    return c ? -ENOMEM : 0;
}

/* A date counts from the server's own date, so that clocks need not agree. */
static int64_t retry_after_ms(const struct transfer *t) {
    const char *text = t->retry_after.text;
    int64_t s;

    if (!*text)
        return -1;
    if (text[strspn(text, "0123456789")] == 0) {
        s = strlen(text) > 9 ? RETRY_AFTER_MAX_S : strtoll(text, NULL, 10);
    } else {
        time_t until = curl_getdate(text, NULL), now = t->date.text[0] ? curl_getdate(t->date.text, NULL) : -1;
        if (until == -1)
            return -1;
        s = (int64_t)until - (now != -1 ? (int64_t)now : clock_real_us() / 1000000);
    }
    return MAX(MIN(s, RETRY_AFTER_MAX_S), 0) * 1000;
}

static enum web_result classify(const struct transfer *t, CURLcode code) {
    if (code == CURLE_OK)
        return WEB_ANSWERED;
    if (t->too_large || code == CURLE_FILESIZE_EXCEEDED)
        return WEB_TOO_LARGE;
    if (t->sends == 0) /* the connection never stood */
        return WEB_UNREACHABLE;
    return code == CURLE_OPERATION_TIMEDOUT ? WEB_TIMEOUT : WEB_BROKEN;
}

void transfer_response(const struct transfer *t, CURLcode code, struct web_response *ret) {
    long status = 0;
    char *type = NULL;

    *ret = (struct web_response){
        .result = classify(t, code), .retry_after_ms = -1, .error = "", .took_ns = clock_mono_ns() - t->begun_ns};
    if (ret->result == WEB_ANSWERED) {
        curl_easy_getinfo(t->easy, CURLINFO_RESPONSE_CODE, &status);
        curl_easy_getinfo(t->easy, CURLINFO_CONTENT_TYPE, &type);
        ret->status = (int)status;
        ret->content_type = type;
        ret->body = buf_bytes(&t->answer);
        ret->retry_after_ms = retry_after_ms(t);
    } else if (ret->result == WEB_TOO_LARGE) {
        ret->error = "response too large";
    } else if (t->sends > 1) {
        ret->error = "connection closed before an answer";
    } else if (t->sends == 0 && t->user.refused[0]) {
        ret->error = t->user.refused;
    } else {
        ret->error = t->error[0] ? t->error : curl_easy_strerror(code);
    }
}

void transfer_cancelled(const struct transfer *t, struct web_response *ret) {
    *ret = (struct web_response){
        .result = WEB_CANCELLED, .retry_after_ms = -1, .error = "cancelled", .took_ns = clock_mono_ns() - t->begun_ns};
}

static void buf_empty(struct buf *b) {
    if (b->cap > KEEP_BYTES)
        buf_deinit(b);
    buf_reset(b);
}

void transfer_reset(struct transfer *t) {
    buf_empty(&t->body);
    buf_empty(&t->answer);
    t->sends = 0;
    t->head_bytes = 0;
    t->retry_after.text[0] = t->date.text[0] = 0;
    t->too_large = false;
    t->error[0] = t->user.refused[0] = 0;
}
