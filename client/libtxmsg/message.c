#include "message.h"

enum { MAGIC = 0x74786d6d, DEAD = 0x64656164 };

bool message_valid(const txmsg_message *m) {
    return m && m->magic == MAGIC;
}

static bool text_ok(const char *s) {
    return s && text_valid(bytes_str(s)) && strlen(s) <= MESSAGE_BYTES_MAX;
}

static int replace_bytes(struct bytes *at, const void *p, size_t n) {
    uint8_t *copy;

    if ((!p && n > 0) || n > MESSAGE_BYTES_MAX)
        return TXMSG_ERROR_INVALID;
    copy = mem_alloc(n);
    if (!copy)
        return TXMSG_ERROR_MEMORY;
    if (n > 0)
        memcpy(copy, p, n);
    mem_free((void *)(uintptr_t)at->p);
    *at = bytes_of(copy, n);
    return TXMSG_OK;
}

txmsg_message *txmsg_message_new(const char *topic) {
    txmsg_message *m = text_ok(topic) ? mem_zalloc(sizeof(*m)) : NULL;

    if (!m)
        return NULL;
    if (replace_bytes(&m->topic, topic, strlen(topic)) != TXMSG_OK) {
        mem_free(m);
        return NULL;
    }
    m->magic = MAGIC;
    return m;
}

void txmsg_message_free(txmsg_message *m) {
    if (!message_valid(m))
        return;
    m->magic = DEAD;
    for (size_t i = 0; i < m->headers_n; i++) {
        mem_free(m->headers[i].name);
        mem_free(m->headers[i].value);
    }
    mem_free(m->headers);
    mem_free((void *)(uintptr_t)m->key.p);
    mem_free((void *)(uintptr_t)m->body.p);
    mem_free((void *)(uintptr_t)m->topic.p);
    mem_free((void *)(uintptr_t)m->content_type.p);
    mem_free(m);
}

int txmsg_message_set_body(txmsg_message *m, const void *body, size_t size) {
    return message_valid(m) ? replace_bytes(&m->body, body, size) : TXMSG_ERROR_INVALID;
}

int txmsg_message_set_body_later(txmsg_message *m, int later) {
    if (!message_valid(m) || (later != 0 && later != 1))
        return TXMSG_ERROR_INVALID;
    m->body_later = later;
    return TXMSG_OK;
}

int txmsg_message_set_key(txmsg_message *m, const void *key, size_t size) {
    return message_valid(m) ? replace_bytes(&m->key, key, size) : TXMSG_ERROR_INVALID;
}

int txmsg_message_set_content_type(txmsg_message *m, const char *content_type) {
    return message_valid(m) && text_ok(content_type)
               ? replace_bytes(&m->content_type, content_type, strlen(content_type))
               : TXMSG_ERROR_INVALID;
}

static int reserve_header(txmsg_message *m) {
    size_t cap = m->headers_cap ? m->headers_cap * 2 : 4;
    struct message_header *more;

    if (m->headers_n < m->headers_cap)
        return TXMSG_OK;
    more = mem_realloc(m->headers, cap * sizeof(*more));
    if (!more)
        return TXMSG_ERROR_MEMORY;
    m->headers = more;
    m->headers_cap = cap;
    return TXMSG_OK;
}

int txmsg_message_add_header(txmsg_message *m, const char *name, const char *value) {
    struct message_header h;
    int e;

    if (!message_valid(m) || !text_ok(name) || !text_ok(value) || m->headers_n >= MESSAGE_HEADERS_MAX)
        return TXMSG_ERROR_INVALID;
    e = reserve_header(m);
    if (e)
        return e;
    h = (struct message_header){mem_strdup(name), mem_strdup(value)};
    if (!h.name || !h.value) {
        mem_free(h.name);
        mem_free(h.value);
        return TXMSG_ERROR_MEMORY;
    }
    m->headers[m->headers_n++] = h;
    return TXMSG_OK;
}

int txmsg_message_set_deliver_at(txmsg_message *m, int64_t time_us) {
    if (!message_valid(m) || time_us < 0)
        return TXMSG_ERROR_INVALID;
    m->deliver_at_us = time_us;
    return TXMSG_OK;
}

int txmsg_message_set_expire_at(txmsg_message *m, int64_t time_us) {
    if (!message_valid(m) || time_us < 0)
        return TXMSG_ERROR_INVALID;
    m->expire_at_us = time_us;
    return TXMSG_OK;
}
