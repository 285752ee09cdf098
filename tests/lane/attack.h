/*
 * lane-attack: two lanes of one database under random operations on overlapping ids, while connections, locks, the disk and the fence
 * misbehave. What the lanes answered is compared with what the database holds.
 */
#pragma once

#include "base/bytes.h"
#include "core/tx.h"
#include "store/lane.h"

#include <libpq-fe.h>

enum fault {
    FAULT_NONE,
    FAULT_TERMINATE, /* pg_terminate_backend */
    FAULT_PROXY,     /* cut before Sync, after Sync, before the answer; stalls */
    FAULT_STOP,      /* SIGSTOP of a backend */
    FAULT_FENCE,     /* a seal by hand */
    FAULT_FULL,      /* 53100 */
    FAULT_READONLY,
    FAULT_LOCK,    /* a table lock longer than lock_timeout */
    FAULT_STANDBY, /* a synchronous standby that is not there, waits for it cancelled */
    FAULT_ALL,
    FAULTS,
};

uint64_t attack_random(uint64_t *state); /* splitmix64 */

/* One operation that is over. */
struct event {
    struct uuid id;
    uint8_t kind, outcome, state, variant;
    bool solo;     /* nobody else used this id */
    bool poisoned; /* the server refuses this id */
    bool named;    /* Confirm, Cancel: with a producer */
    uint64_t began_ns, ended_ns;
};
struct history {
    struct event *events;
    size_t n, cap;
};
/* One committed entry as the owner heard of it. */
struct heard {
    int32_t lane, seq;
    uint32_t conf_n;
};
struct heard_list {
    struct heard *rows;
    size_t n, cap;
};

enum { VARIANTS = 3 };
void attack_digest(const struct uuid *id, int variant, uint8_t digest[32]);
const char *attack_producer(int variant);

/* --- proxy.c: the wire, on threads of its own --- */
struct proxy;
int proxy_start(PGconn *to, struct proxy **ret, int *port);
void proxy_set(struct proxy *p, int permille); /* how many of a thousand pieces are hit */
void proxy_stop(struct proxy *p);

/* --- chaos.c: the server, from a thread of its own --- */
struct chaos;
int chaos_start(const char *dsn, struct proxy *proxy, uint64_t seed, struct chaos **ret);
void chaos_set(struct chaos *c, enum fault f);
/* Back to FAULT_NONE, and everything that was changed is as before when this returns. */
void chaos_calm(struct chaos *c);
/* Odd while no commit can be replicated: an OK that began and ended under the same odd number is wrong. */
unsigned chaos_standby(struct chaos *c);
void chaos_stop(struct chaos *c);

/* --- oracle.c --- */
/* 0, or how many contradictions were found (printed as TAP comments). */
int oracle_check(PGconn *c, const struct history *h, const struct heard_list *heard, int32_t rides);
