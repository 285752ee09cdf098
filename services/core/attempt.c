/* Names of classes, and the beginning of a foreign text that people, a terminal and PostgreSQL can take. */
#include "core/attempt.h"

#include "base/mem.h"

static const char *const names[ATTEMPT_CLASSES] = {
    [ATTEMPT_UNSAID] = "",
    [ATTEMPT_OK] = "ok",
    [ATTEMPT_TIMEOUT] = "timeout",
    [ATTEMPT_UNREACHABLE] = "unreachable",
    [ATTEMPT_BROKEN] = "broken",
    [ATTEMPT_STATUS_3XX] = "status_3xx",
    [ATTEMPT_STATUS_4XX] = "status_4xx",
    [ATTEMPT_STATUS_5XX] = "status_5xx",
    [ATTEMPT_NOT_ACKNOWLEDGED] = "not_acknowledged",
    [ATTEMPT_NACKED] = "nacked",
    [ATTEMPT_PERMANENT] = "permanent",
    [ATTEMPT_UNROUTABLE] = "unroutable",
    [ATTEMPT_EXPIRED] = "expired",
    [ATTEMPT_OTHER] = "other",
};

const char *attempt_class_name(enum attempt_class c) {
    return c < ATTEMPT_CLASSES ? names[c] : "";
}

enum attempt_class attempt_class_of(const char *name) {
    for (int i = 1; i < ATTEMPT_CLASSES; i++)
        if (strcmp(names[i], name) == 0)
            return (enum attempt_class)i;
    return ATTEMPT_UNSAID;
}

enum attempt_class attempt_class_of_status(int status) {
    switch (status / 100) {
    case 2:
        return ATTEMPT_NOT_ACKNOWLEDGED;
    case 3:
        return ATTEMPT_STATUS_3XX;
    case 4:
        return ATTEMPT_STATUS_4XX;
    case 5:
        return ATTEMPT_STATUS_5XX;
    default:
        return ATTEMPT_OTHER;
    }
}

/* Bytes that begin a character stay together with it. */
static size_t cut(struct bytes v) {
    size_t n = MIN(v.n, (size_t)ATTEMPT_RESPONSE_MAX);

    while (n < v.n && n > 0 && (v.p[n] & 0xc0) == 0x80)
        n--;
    return n;
}

void attempt_keep_response(struct attempt_end *e, struct bytes answer) {
    size_t n = cut(answer);
    char *text = n ? mem_alloc(n + 1) : NULL;

    mem_free(e->response);
    e->response = text;
    if (!text)
        return;
    for (size_t i = 0; i < n; i++)
        text[i] = answer.p[i] < 0x20 || answer.p[i] == 0x7f ? ' ' : (char)answer.p[i];
    text[n] = 0;
    if (!text_valid(bytes_of(text, n)))
        for (size_t i = 0; i < n; i++)
            text[i] = text[i] & 0x80 ? '?' : text[i];
}

void attempt_end_reset(struct attempt_end *e) {
    mem_free(e->response);
    *e = (struct attempt_end){ATTEMPT_UNSAID, 0, 0, NULL};
}
