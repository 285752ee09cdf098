/*
 * A call of both directions on core: its batches, its opening, its end. What goes over it is its user's: Pipeline (route.c), Checks (checks.c).
 *
 *   closed -> stream_open() -> frames, both ways -> its end is seen: ended() -> all batches are back: closed(), and the time of its next opening
 *
 * Under the client's lock; all callbacks on the engine's thread, but next(), which comes where a write is begun.
 */
#pragma once

#include "base/bytes.h"
#include "event.h"

struct stream;
struct stream_kind {
    const char *path;
    grpc_byte_buffer *(*next)(struct stream *s, uint64_t now); /* the frame to be sent; NULL: there is none */
    /* A frame that came, valid until it returns. False: it is none, and the stream ends. */
    bool (*received)(struct stream *s, struct bytes frame, uint64_t now);
    void (*ended)(struct stream *s, uint64_t now);  /* nothing goes over it any more. NULL allowed */
    void (*closed)(struct stream *s, uint64_t now); /* `code`, `details` and `trailers` say why, until it returns */
};

struct stream {
    const struct stream_kind *kind;
    struct client *client;
    grpc_channel *channel; /* its owner's */
    struct event opened, written, read, over;
    grpc_call *call; /* NULL = closed */
    grpc_metadata_array headers, trailers;
    grpc_status_code code;
    grpc_slice details;
    grpc_byte_buffer *writing, *received;
    int pending;       /* batches out */
    bool ended;        /* its end was seen */
    uint64_t openings; /* so far */
    uint64_t retry_ns;
    int failures; /* in a row, without a frame between */
};
void stream_init(struct stream *s, const struct stream_kind *kind, struct client *c, grpc_channel *channel);
void stream_deinit(struct stream *s);
/* If it is closed and its time has come. @thread engine */
void stream_open(struct stream *s, uint64_t now);
static inline bool stream_is_open(const struct stream *s) {
    return s->call && !s->ended;
}
/* Starts a write, if none is under way and there is something to write; gives the lock away meanwhile. @thread any */
void stream_write(struct stream *s, uint64_t now);
void stream_cancel(struct stream *s);
