/*
 * Channels of an asynchronous client, by "host:port". Core is given addresses, never a name: the name is looked up here, each address is
 * judged, and what may be connected to is what core gets, with the name as authority. So no name can lead anywhere else, whatever it
 * means by the time of a connection. All of it under the client's lock, but what says otherwise.
 */
#pragma once

#include "base/guard.h"
#include "base/list.h"

#include <grpc/grpc.h>

/* Some addresses; or a reason, then every call over it fails at once. */
struct line {
    grpc_channel *core;
    int refs;
    int code; /* RPC_OK, or what its calls end with */
    char why[200];
    char target[]; /* of core */
};
struct channel {
    struct list link;  /* of channels->all, the last used first */
    struct line *line; /* NULL = its name was not found yet */
    int calls;         /* those that wait for a line included */
    bool looking, doubted, literal;
    uint64_t looked_ns;
    char name[]; /* "host:port" */
};
struct channels_seeker;
struct channels {
    struct list all;
    int n, max;
    int64_t receive_bytes;
    struct guard guard;
    struct channels_seeker *seeker;
};

/* `found` comes without the lock, on a thread of its own, when a channel that was LOOKING may have a line: channels_found() is to be called
 * then. -ENOMEM */
int channels_init(struct channels *c,
                  void (*found)(void *arg, const char *name, int r, struct lookup *l, struct errmsg *e), void *arg)
    MUSTCHECK;
void channels_deinit(struct channels *c); /* no call is left, no `found` comes any more. Without the lock */
/* 0, 1 = too many are in use, -ENOMEM, -EINVAL (no host:port). */
int channels_get(struct channels *c, const char *name, struct channel **ret) MUSTCHECK;
/* A line to call over, with a reference for it; NULL = it is being looked for, `found` will come. */
struct line *channel_line(struct channels *c, struct channel *ch) MUSTCHECK;
/* Takes what was found; NULL = nobody waits for it any more. */
struct channel *channels_found(struct channels *c, const char *name, int r, struct lookup *l, struct errmsg *e)
    MUSTCHECK;
/* A line of no channel, for a call that ends in this way. NULL = out of memory. */
struct line *line_broken(int code, const char *why) MUSTCHECK;
void line_unref(struct line *l); /* NULL allowed */
