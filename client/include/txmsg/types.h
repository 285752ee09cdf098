/*
 * libtxmsg: words that everything else uses.
 *
 * All functions of the library have C linkage and may be called from C++. Text is UTF-8 and ends with a NUL. Sizes are in bytes,
 * durations in milliseconds, points in time in microseconds since 1970 (UTC).
 *
 * Setters copy what they are given. A handle made by a function `..._new` is released by the `..._free` of the same name, which
 * allows NULL.
 */
#ifndef TXMSG_TYPES_H
#define TXMSG_TYPES_H

#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define TXMSG_API        __attribute__((visibility("default")))
#define TXMSG_MUST_CHECK __attribute__((warn_unused_result))
#else
#define TXMSG_API
#define TXMSG_MUST_CHECK
#endif

#ifdef __cplusplus
extern "C" {
#endif

/*
 * What came of a call. Functions that return `int` answer one of these. Below 0: the call was wrong or could not begin, and nothing
 * was sent. Above 0: it was sent, or tried, and did not succeed.
 */
enum txmsg_status {
    /* Done, durably. */
    TXMSG_OK = 0,
    /*
     * The service refused, for good: the result says why. This call has stored nothing, and will store nothing. Repeating it as it is does
     * not help.
     */
    TXMSG_REFUSED = 1,
    /* It could not be done within the deadline, and nothing was stored. It may be repeated later, under the same id. */
    TXMSG_UNAVAILABLE = 2,
    /*
     * Nobody knows whether it was stored: the answer was lost, and the deadline came before another one. Repeat the call under the same
     * id to find out. What was prepared and is never decided is settled by a check.
     */
    TXMSG_UNKNOWN = 3,

    /* An argument is NULL, out of range or not UTF-8, or a handle is not one (any more, where that can be seen). */
    TXMSG_ERROR_INVALID = -1,
    /* As many operations are in flight as the client may have. Try again when one of them has ended. */
    TXMSG_ERROR_BUSY = -2,
    /* Out of memory. */
    TXMSG_ERROR_MEMORY = -3,
    /* The client was freed, or is being freed. */
    TXMSG_ERROR_CLOSED = -4,
    /* The client was made before a fork() of this process; a client belongs to the process that made it. */
    TXMSG_ERROR_FORKED = -5,
    /* A call that waits was made from a callback on the library's own thread, where it would wait for itself. */
    TXMSG_ERROR_CALLBACK = -6,
    /* The system refused a thread, a socket or a descriptor. */
    TXMSG_ERROR_SYSTEM = -7,
    /* The check address is not one, is taken, or may not be used: errno says which. */
    TXMSG_ERROR_ADDRESS = -8
};

/* "OK", "REFUSED", "ERROR_BUSY"; "?" for any other number. Static text. Any thread. */
TXMSG_API const char *txmsg_status_name(int status);

/* Whether a local transaction committed: what an executor returns, and what a check is answered. */
enum txmsg_decision {
    /* Not known (yet). It never decides anything: the service asks again. Also what any other number is taken for. */
    TXMSG_UNDECIDED = 0,
    /* It committed. */
    TXMSG_COMMITTED = 1,
    /* It rolled back, and cannot commit any more. */
    TXMSG_ROLLED_BACK = 2,
    /* Of a check: it cannot be found out now. The check failed, and is made again; unlike TXMSG_UNDECIDED it does not count towards STUCK. */
    TXMSG_NO_ANSWER = 3
};

/*
 * The id of a transaction: a UUIDv7 as 36 characters of lower-case text and a NUL. Made before the first try, so that every repeat is
 * recognised. An empty text means: not made yet.
 */
typedef struct txmsg_id {
    char text[37];
} txmsg_id;

/*
 * Makes a new id from the time and the system's randomness. TXMSG_OK; TXMSG_ERROR_INVALID if `id` is NULL. Any thread; also in a
 * child after fork(), where it never repeats an id of the parent.
 */
TXMSG_API int txmsg_id_make(txmsg_id *id);

/*
 * Takes an id from text, which may be upper case. TXMSG_OK; TXMSG_ERROR_INVALID if an argument is NULL or `text` is not a UUIDv7; then
 * `id` is left as it was. Any thread.
 */
TXMSG_API int txmsg_id_parse(txmsg_id *id, const char *text);

/* The version of the library that is loaded, "0.1.0". Static text. Any thread. */
TXMSG_API const char *txmsg_version(void);

/* The handles. Each is declared with its functions in a header of its own. */
typedef struct txmsg_call_options txmsg_call_options;
typedef struct txmsg_check txmsg_check;
typedef struct txmsg_client txmsg_client;
typedef struct txmsg_message txmsg_message;
typedef struct txmsg_options txmsg_options;
typedef struct txmsg_result txmsg_result;
typedef struct txmsg_view txmsg_view;

#ifdef __cplusplus
}
#endif

#endif
