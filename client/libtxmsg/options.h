/* The inside of options: of a client, and of a call. */
#pragma once

#include "txmsg/check.h"
#include "txmsg/options.h"

#include "bodies.h"

enum { ADDRESSES_MAX = 32, CHANNELS_MAX = 16, TIMEOUT_MAX_MS = 86400000 };

struct txmsg_options {
    uint32_t magic;
    char *addresses[ADDRESSES_MAX];
    size_t addresses_n;
    char *producer;
    size_t producer_n;
    int64_t timeout_ms, max_in_flight, max_bytes, channels, check_threads;
    txmsg_check_fn listener; /* NULL = none */
    void *listener_arg;
    char *check_address; /* NULL = streams */
    bool unary, dispatch;
};
bool options_valid(const txmsg_options *o); /* NULL allowed */
/* NULL: out of memory. Without an address it has the default one. */
txmsg_options *options_copy(const txmsg_options *o) MUSTCHECK;

struct txmsg_call_options {
    uint32_t magic;
    int64_t timeout_ms, check_after_ms; /* 0 = not said */
    char *business_key, *reason;        /* NULL = none */
    bool include_bodies;
    struct bodies bodies;
};
bool call_options_valid(const txmsg_call_options *o);
