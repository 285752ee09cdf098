/* The inside of a result, and how it is filled from what the service answered. */
#pragma once

#include "txmsg/result.h"

#include "base/arena.h"

/* A time as it came, or read already: it is read when somebody asks. */
struct result_time {
    int64_t us;
    uint8_t n, raw[23]; /* n: 0 = it is `us` */
};
struct txmsg_result {
    uint32_t magic;
    int status, state, origin, code, attempts;
    bool executed;
    txmsg_id id;
    int64_t retry_after_ms;
    struct result_time prepared, decided;
    const char *reason, *message; /* never NULL; literals, or in the arena */
    txmsg_view *view;             /* NULL = none */
    struct arena texts;
};
/* A place for one, on a stack or in an operation. */
void result_init(txmsg_result *r);
void result_deinit(txmsg_result *r);
bool result_valid(const txmsg_result *r); /* NULL allowed */
/* As it was at its birth, but for its memory. */
void result_reset(txmsg_result *r);
/* An error that the library itself has to tell. `message` is copied. */
void result_error(txmsg_result *r, int code, const char *reason, const char *message);
/* What `from` holds is in `to` then, and `from` as at its birth. */
void result_move(txmsg_result *to, txmsg_result *from);

/* What one attempt came to. */
enum outcome {
    OUTCOME_DONE,
    OUTCOME_REFUSED,    /* for good, nothing stored by it */
    OUTCOME_NOT_STORED, /* may be repeated */
    OUTCOME_UNKNOWN,    /* is to be repeated: it may be stored */
};
/* `reason` is "" where the error came without details: from the connection, then. */
enum outcome outcome_of(int code, const char *reason);
/*
 * True: this refusal says what is stored under the id, so it holds for earlier attempts whose answers were lost as well. Any other one
 * does not: the earlier attempt may have come when the service saw it differently.
 */
bool outcome_settles(int code, const char *reason);
/* From the bytes of a TransactionStatus, which must be that of `id`. OUTCOME_UNKNOWN: it is not one. */
enum outcome result_take_status(txmsg_result *r, struct bytes status, const char *id);
/* From the bytes of a google.rpc.Status, or where they are none from the code and text of the call. */
enum outcome result_take_error(txmsg_result *r, int code, struct bytes text, struct bytes status);
