/*
 * Inside of a run, shared by run.c (beat, life) and run_take.c (what is done for the dead).
 */
#pragma once

#include "base/clock.h"
#include "base/log.h"
#include "base/metric.h"
#include "store/pg.h"
#include "store/run.h"

enum { RUN_NO_BEAT = -1 }; /* the owner of a lane has no worker row */

/* Another run, as the looks saw it. */
struct peer {
    struct uuid run;
    int64_t beat;
    uint64_t changed_ns; /* CLOCK_BOOTTIME of the look that first saw this beat */
    bool here, owns;     /* in the latest look: has a row; owns a lane */
};

/* A lane that may be taken. */
struct offer {
    int32_t lane;
    struct uuid run;
    int64_t beat;
};

/* Lanes by number, small. */
struct lane_set {
    int32_t *lanes;
    uint64_t *until_ns; /* of `resting` */
    int n, max;
};

struct run {
    struct loop *loop;
    struct store *store;
    struct run_owner owner;
    struct uuid id;
    char name[64];
    struct pg_conn *conn, *work;
    struct timer *timer;
    uint64_t beat_ns, dead_ns;
    bool registered, known, alive, freed; /* registered: ever; known: has its row, as far as we know */
    int depth;
    int64_t epoch, epoch_sent;

    struct pg_run beat;
    bool beating, beat_hit;
    uint64_t beat_sent_ns,
        beat_ok_ns; /* CLOCK_BOOTTIME: the last one sent; sending time of the last that got through */

    struct pg_run look;
    bool looking;
    uint64_t look_sent_ns, looked_ns;
    struct peer *peers;
    int peers_n, peers_cap;
    struct offer *offers; /* of the latest look, next one last */
    int offers_n;

    struct pg_run take;
    bool taking;
    struct offer taken;
    bool took;
    int32_t seal_seq;
    int tries;

    struct lane_set adopted, resting, own_sealed;

    struct pg_run bury;
    bool burying;

    struct pg_run retire;
    bool retiring, retire_sent;
    uint64_t retire_by_ns;
    void (*retired)(void *arg);
    void *retired_arg;

    struct log_limit limit;
    struct metric *takeovers;
};

/* run.c */
int run_send_one(struct pg_conn *c, struct pg_run *job, const char *stmt, const struct pg_params *p) MUSTCHECK;
void run_complain(struct run *r, const char *what, const struct pg_error *err);
void run_release(struct run *r);

/* run_take.c */
int run_take_init(struct run *r, int max_adopted) MUSTCHECK;
void run_take_deinit(struct run *r);
void run_look(struct run *r);
void run_take_tick(struct run *r, uint64_t now); /* starts what is to be done */
