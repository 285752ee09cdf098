#include "options.h"

#include "message.h"
#include "txmsg/view.h"

enum {
    CHECK_THREADS_MAX = 64,
    MAGIC = 0x74786d6f,
    CALL_MAGIC = 0x74786d63,
    DEAD = 0x64656164,
    TEXT_MAX = 4096,
    IN_FLIGHT_MAX = 65536,
};
#define CHECK_AFTER_MAX_MS (30 * INT64_C(86400000))
#define BYTES_MIN          (INT64_C(64) << 10)
#define BYTES_MAX          (INT64_C(16) << 30)

/* --- of a client --- */

bool options_valid(const txmsg_options *o) {
    return o && o->magic == MAGIC;
}

txmsg_options *txmsg_options_new(void) {
    txmsg_options *o = mem_zalloc(sizeof(*o));

    if (!o)
        return NULL;
    *o = (txmsg_options){.magic = MAGIC,
                         .timeout_ms = 10000,
                         .max_in_flight = 4096,
                         .max_bytes = 64 << 20,
                         .channels = 1,
                         .check_threads = 1};
    return o;
}

void txmsg_options_free(txmsg_options *o) {
    if (!options_valid(o))
        return;
    o->magic = DEAD;
    for (size_t i = 0; i < o->addresses_n; i++)
        mem_free(o->addresses[i]);
    mem_free(o->producer);
    mem_free(o->check_address);
    mem_free(o);
}

static bool text_ok(const char *s) {
    return s && s[0] && strlen(s) <= TEXT_MAX && text_valid(bytes_str(s));
}

static int replace_text(char **at, const char *s) {
    char *copy = mem_strdup(s);

    if (!copy)
        return TXMSG_ERROR_MEMORY;
    mem_free(*at);
    *at = copy;
    return TXMSG_OK;
}

static int set_or_clear(char **at, const char *s) {
    if (s)
        return text_ok(s) ? replace_text(at, s) : TXMSG_ERROR_INVALID;
    mem_free(*at);
    *at = NULL;
    return TXMSG_OK;
}

int txmsg_options_add_address(txmsg_options *o, const char *address) {
    if (!options_valid(o) || !text_ok(address) || o->addresses_n >= ADDRESSES_MAX)
        return TXMSG_ERROR_INVALID;
    o->addresses[o->addresses_n] = mem_strdup(address);
    if (!o->addresses[o->addresses_n])
        return TXMSG_ERROR_MEMORY;
    o->addresses_n++;
    return TXMSG_OK;
}

int txmsg_options_set_producer(txmsg_options *o, const char *producer) {
    return options_valid(o) && text_ok(producer) ? replace_text(&o->producer, producer) : TXMSG_ERROR_INVALID;
}

static int set_number(int64_t *at, int64_t value, int64_t min, int64_t max) {
    if (value < min || value > max)
        return TXMSG_ERROR_INVALID;
    *at = value;
    return TXMSG_OK;
}

static int set_flag(bool *at, int value) {
    if (value != 0 && value != 1)
        return TXMSG_ERROR_INVALID;
    *at = value;
    return TXMSG_OK;
}

int txmsg_options_set_timeout_ms(txmsg_options *o, int64_t timeout_ms) {
    return options_valid(o) ? set_number(&o->timeout_ms, timeout_ms, 1, TIMEOUT_MAX_MS) : TXMSG_ERROR_INVALID;
}

int txmsg_options_set_max_in_flight(txmsg_options *o, int64_t operations) {
    return options_valid(o) ? set_number(&o->max_in_flight, operations, 1, IN_FLIGHT_MAX) : TXMSG_ERROR_INVALID;
}

int txmsg_options_set_max_bytes(txmsg_options *o, int64_t bytes) {
    return options_valid(o) ? set_number(&o->max_bytes, bytes, BYTES_MIN, BYTES_MAX) : TXMSG_ERROR_INVALID;
}

int txmsg_options_set_channels(txmsg_options *o, int64_t channels) {
    return options_valid(o) ? set_number(&o->channels, channels, 1, CHANNELS_MAX) : TXMSG_ERROR_INVALID;
}

int txmsg_options_set_unary(txmsg_options *o, int unary) {
    return options_valid(o) ? set_flag(&o->unary, unary) : TXMSG_ERROR_INVALID;
}

int txmsg_options_set_dispatch(txmsg_options *o, int dispatch) {
    return options_valid(o) ? set_flag(&o->dispatch, dispatch) : TXMSG_ERROR_INVALID;
}

int txmsg_options_set_check_listener(txmsg_options *o, txmsg_check_fn listener, void *arg) {
    if (!options_valid(o))
        return TXMSG_ERROR_INVALID;
    o->listener = listener;
    o->listener_arg = arg;
    return TXMSG_OK;
}

int txmsg_options_set_check_threads(txmsg_options *o, int64_t threads) {
    return options_valid(o) ? set_number(&o->check_threads, threads, 1, CHECK_THREADS_MAX) : TXMSG_ERROR_INVALID;
}

int txmsg_options_set_check_address(txmsg_options *o, const char *address) {
    return options_valid(o) ? set_or_clear(&o->check_address, address) : TXMSG_ERROR_INVALID;
}

txmsg_options *options_copy(const txmsg_options *o) {
    txmsg_options *c = txmsg_options_new();
    int e = c ? TXMSG_OK : TXMSG_ERROR_MEMORY;

    for (size_t i = 0; !e && i < o->addresses_n; i++)
        e = txmsg_options_add_address(c, o->addresses[i]);
    if (!e && o->addresses_n == 0)
        e = txmsg_options_add_address(c, "127.0.0.1:7400");
    if (!e && o->producer)
        e = txmsg_options_set_producer(c, o->producer);
    if (!e)
        e = txmsg_options_set_check_address(c, o->check_address);
    if (e) {
        txmsg_options_free(c);
        return NULL;
    }
    c->producer_n = o->producer ? strlen(o->producer) : 0;
    c->timeout_ms = o->timeout_ms;
    c->max_in_flight = o->max_in_flight;
    c->max_bytes = o->max_bytes;
    c->channels = o->channels;
    c->check_threads = o->check_threads;
    c->listener = o->listener;
    c->listener_arg = o->listener_arg;
    c->unary = o->unary;
    c->dispatch = o->dispatch;
    return c;
}

/* --- of a call --- */

bool call_options_valid(const txmsg_call_options *o) {
    return o && o->magic == CALL_MAGIC;
}

txmsg_call_options *txmsg_call_options_new(void) {
    txmsg_call_options *o = mem_zalloc(sizeof(*o));

    if (o)
        o->magic = CALL_MAGIC;
    return o;
}

void txmsg_call_options_free(txmsg_call_options *o) {
    if (!call_options_valid(o))
        return;
    o->magic = DEAD;
    mem_free(o->business_key);
    mem_free(o->reason);
    bodies_clear(&o->bodies);
    mem_free(o);
}

int txmsg_call_options_set_timeout_ms(txmsg_call_options *o, int64_t timeout_ms) {
    return call_options_valid(o) ? set_number(&o->timeout_ms, timeout_ms, 0, TIMEOUT_MAX_MS) : TXMSG_ERROR_INVALID;
}

int txmsg_call_options_set_check_after_ms(txmsg_call_options *o, int64_t age_ms) {
    return call_options_valid(o) ? set_number(&o->check_after_ms, age_ms, 0, CHECK_AFTER_MAX_MS) : TXMSG_ERROR_INVALID;
}

int txmsg_call_options_set_business_key(txmsg_call_options *o, const char *key) {
    return call_options_valid(o) ? set_or_clear(&o->business_key, key) : TXMSG_ERROR_INVALID;
}

int txmsg_call_options_set_reason(txmsg_call_options *o, const char *reason) {
    return call_options_valid(o) ? set_or_clear(&o->reason, reason) : TXMSG_ERROR_INVALID;
}

int txmsg_call_options_set_include_bodies(txmsg_call_options *o, int include_bodies) {
    return call_options_valid(o) ? set_flag(&o->include_bodies, include_bodies) : TXMSG_ERROR_INVALID;
}

int txmsg_call_options_set_body(txmsg_call_options *o, size_t n, const void *body, size_t size) {
    return call_options_valid(o) ? bodies_set(&o->bodies, n, body, size, MESSAGE_BYTES_MAX) : TXMSG_ERROR_INVALID;
}

int txmsg_call_options_clear_bodies(txmsg_call_options *o) {
    if (!call_options_valid(o))
        return TXMSG_ERROR_INVALID;
    bodies_clear(&o->bodies);
    return TXMSG_OK;
}
