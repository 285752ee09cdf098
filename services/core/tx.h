/*
 * The words of the service: transaction, message, decision, and the immutable content of a transaction.
 *
 * struct tx_content is made once from a request (or read back from the store), is never changed afterwards and is
 * shared by reference between the lane, the payload cache and the forwarder of one process.
 */
#pragma once

#include "base/bytes.h"
#include "base/uuid.h"
#include "core/limits.h"

#include <stdatomic.h>

/* The numbers are stored and sent: never change them. */
enum tx_state { TX_PREPARED = 1, TX_CONFIRMED = 2, TX_CANCELLED = 3, TX_STUCK = 4 };
enum tx_decision { TX_UNDECIDED = 0, TX_COMMITTED = 1, TX_ROLLED_BACK = 2 };
enum tx_origin { TX_ORIGIN_NONE = 0, TX_ORIGIN_RPC = 1, TX_ORIGIN_CHECK = 2, TX_ORIGIN_ADMIN = 3 };

const char *tx_state_name(enum tx_state s);
const char *tx_decision_name(enum tx_decision d); /* "COMMITTED", "ROLLED_BACK", "UNDECIDED" */
const char *tx_origin_name(enum tx_origin o);     /* "rpc", "check", "admin", "none" */

/* The state table: true if a transaction may go from one state to the other (DESIGN.md section 1). */
bool tx_may_move(enum tx_state from, enum tx_state to);

struct header {
    struct bytes name, value; /* both NUL-terminated as well */
};

/*
 * One message. Text views are NUL-terminated as well; absent text (and key) has n = 0 and p = NULL (stored as SQL
 * NULL). An empty body is a body: in a tx_content its p is never NULL, unless it is still to come.
 */
struct msg {
    struct bytes topic, key, body, content_type;
    const struct header *headers;
    uint32_t headers_n;
    struct bytes headers_json;           /* {"name":"value",...} in sorted order, as stored; NULL when there are none */
    int64_t deliver_at_us, expire_at_us; /* microseconds since 1970, by the database's clock; 0 = none */
    bool later;                          /* declared body_later, and no decision has brought the body yet: it is NULL */
};
static inline bool msg_has_times(const struct msg *m) {
    return m->deliver_at_us || m->expire_at_us;
}

/* Bodies that a decision brings, by n, each once; one allocation, freed with mem_free(). */
struct msg_body {
    uint32_t n;
    struct bytes body; /* p is never NULL */
};
struct tx_bodies {
    uint32_t n;
    size_t bytes; /* of all bodies */
    struct msg_body list[];
};
/* Copies and sorts. 0; 1 = two are for one message; -ENOMEM. @thread any */
int tx_bodies_new(const struct msg_body *in, uint32_t n, struct tx_bodies **ret) MUSTCHECK;

/*
 * How long after Prepare the first check may come; the largest class not above check_after is stored with the header.
 */
enum { DELAY_CLASSES = 4 };
extern const int64_t delay_class_ms[DELAY_CLASSES]; /* 1 s, 10 s, 1 min, 10 min */
int delay_class_of(int64_t check_after_ms);         /* below the first class: class 0 */

struct tx_content {
    _Atomic int refs;
    struct uuid id;
    struct bytes producer, business_key, trace; /* trace: "traceparent" or "traceparent\ntracestate" */
    int64_t check_after_ms;                     /* 0 = the producer's policy */
    uint8_t digest[32];
    uint32_t messages_n;
    uint32_t later_n; /* of them, those whose body is still to come */
    size_t bytes;     /* memory held: budget of caches */
    struct msg messages[];
};

/* Exactly one body for each message that waits for one? `b` NULL = none are given. */
bool tx_bodies_fit(const struct tx_content *c, const struct tx_bodies *b);

struct tx_content *tx_content_ref(struct tx_content *c);
void tx_content_unref(struct tx_content *c); /* NULL allowed. @thread any */
DEFINE_CLEANUP(struct tx_content *, tx_content, tx_content_unref);

/*
 * Builder: copies everything into one allocation. `in` is read, not kept: views may point anywhere, headers in any
 * order (sorted by the builder), headers_json is ignored. Computes the digest. At most LIMIT_MESSAGES_HARD messages.
 * NULL when out of memory. @thread any
 */
struct tx_content *tx_content_new(const struct uuid *id, struct bytes producer, struct bytes business_key,
                                  struct bytes trace, int64_t check_after_ms, const struct msg *in, uint32_t n)
    MUSTCHECK;
/*
 * The same from stored rows: headers come as headers_json (written anew: sorted, compact), the digest as stored,
 * check_after_ms is 0. -EINVAL: headers_json is not ours, or more than LIMIT_MESSAGES_HARD messages; -ENOMEM. @thread
 * any
 */
int tx_content_restore(const struct uuid *id, struct bytes producer, struct bytes business_key, struct bytes trace,
                       const uint8_t digest[32], const struct msg *in, uint32_t n, struct tx_content **ret) MUSTCHECK;
