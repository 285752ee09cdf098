/*
 * The producers of the current configuration, which of them can be asked from here, and how many checks each may have
 * under way: a producer that does not answer uses up its own slots and nobody else's. @thread of the loop
 */
#pragma once

#include "checkback/desk.h"
#include "core/policy.h"
#include "core/rate.h"
#include "store/read.h"

struct metric;
struct producer {
    struct hnode node;
    char name[LIMIT_NAME + 1];
    const struct check_policy *policy; /* NULL = gone from the configuration: not asked */
    int reach;        /* checks that can be asked from here, as the round began: see producers_reach() */
    int in_flight;    /* checks claimed and not ended */
    int waiting;      /* of them, those that wait for a stream */
    size_t held;      /* bytes of requests kept for them */
    unsigned single;  /* bit per endpoint: it serves Check alone */
    int good;         /* the endpoint that answered last; -1 = none */
    int asked, got;   /* by the claim under way */
    bool more;        /* the last claim brought as many as it asked for */
    bool limited;     /* and could not ask for more because of the rate */
    struct rate rate; /* of checks begun */
    struct metric *results[ANSWER_VERDICTS], *contrary, *stuck;
};

struct producers {
    int in_flight_max, in_flight; /* over all producers */
    int sharers;                  /* workers that share a producer's rate, this one included */
    struct topology *topology;    /* our reference; NULL at first */
    struct hmap all;              /* producers of the configuration, and others with checks under way */
    struct producer **order;      /* those of the configuration */
    size_t order_n, reached_n;    /* reached: that can be asked from here */
    size_t turn;                  /* where the next round begins, so that all get theirs when slots are few */
};
int producers_init(struct producers *p, int in_flight_max) MUSTCHECK;
void producers_deinit(struct producers *p); /* NULL fields allowed: after a failed init */
/* -ENOMEM: the configuration before stays. */
int producers_apply(struct producers *p, struct topology *t) MUSTCHECK;
struct producer *producers_find(const struct producers *p, const char *name); /* NULL = not in the configuration */
void producers_take(struct producers *p, struct producer *of);
void producers_give(struct producers *p, struct producer *of); /* `of` may be gone afterwards */

/*
 * A round begins: who can be asked from here? Who has an endpoint can, from anywhere. Who has none is asked by those
 * replicas only that hold a stream of it, and for no more than its streams take: rows of others are not claimed, so the
 * replica that has the stream finds them free.
 */
void producers_reach(struct producers *p, struct desk *desk);
/* How long a claim is ours: every endpoint may be tried, twice over; where there is none, two streams. */
int64_t producers_lease_ms(const struct check_policy *policy);
/*
 * A round of claims: asks of up to `max` producers with free slots and one common lease, beginning with the `*done`-th
 * of the round;
 * `*done` moves past those looked at. 0 = the round is over. Names in `asks` live until the next producers_give() or
 * _apply().
 */
size_t producers_asks(const struct producers *p, size_t *done, struct check_ask *asks, size_t max, int64_t *lease_ms,
                      uint64_t now_ns);
/* The answer to the asks is here: sets `more` from `asked` and `got`, and takes those from the rate. */
void producers_answered(struct producers *p);
