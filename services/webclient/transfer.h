/*
 * One HTTP exchange: an easy handle and the buffers around it, made once and used for many requests. Private to this
 * room. @thread of the loop
 */
#pragma once

#include "webclient/poller.h"
#include "webclient/webclient.h"

/* A header line that matters to us, as it came; cut when longer. */
struct transfer_line {
    char text[64];
};

struct transfer {
    CURL *easy;
    struct poller_user user;
    /* the request */
    struct buf url, body, lines;
    struct curl_slist *nodes; /* over `lines`; libcurl only reads them */
    size_t nodes_cap;
    uint64_t begun_ns;
    int sends; /* how often libcurl began to send it */
    /* the response */
    struct buf answer;
    size_t head_bytes; /* of all its header lines */
    struct transfer_line retry_after, date;
    bool too_large;
    char error[CURL_ERROR_SIZE];
};

/* `p` outlives the transfer. -ENOMEM. */
int transfer_init(struct transfer *t, struct poller *p, int64_t response_bytes) MUSTCHECK;
void transfer_deinit(struct transfer *t); /* may be called twice */
/* Copies the request. -EINVAL: not an http(s) URL, no such header line, no time; -E2BIG, -ENOMEM. */
int transfer_set(struct transfer *t, const struct web_request *r) MUSTCHECK;
/* To connect and no more; the transfer is good for nothing else afterwards. -EINVAL: not an http(s) URL, no timeout; -ENOMEM */
int transfer_set_connect(struct transfer *t, const char *url, int64_t timeout_ms) MUSTCHECK;
/* Views into the transfer, valid until transfer_reset(). */
void transfer_response(const struct transfer *t, CURLcode code, struct web_response *ret);
void transfer_cancelled(const struct transfer *t, struct web_response *ret);
/* Forgets the exchange; keeps the handle and small buffers. */
void transfer_reset(struct transfer *t);
