/*
 * What the application holds: a small thing that outlives its client, so that a call with a client that was freed is an answer and no crash.
 * Freed handles are kept aside, the last 1,024 of them, before one is used again.
 */
#pragma once

#include "txmsg/types.h"

struct client;
/* One that cannot be entered yet. NULL: out of memory. */
txmsg_client *handle_new(void);
void handle_give(txmsg_client *h, struct client *c);
/*
 * 0: *ret may be used until handle_leave(). TXMSG_ERROR_INVALID, _CLOSED, _FORKED. @thread any
 */
int handle_enter(txmsg_client *h, struct client **ret);
void handle_leave(txmsg_client *h);
/* No call begins any more. As handle_enter(), but *ret is the caller's alone once handle_drained() has returned. */
int handle_close(txmsg_client *h, struct client **ret);
void handle_drained(txmsg_client *h);
/* After that: the handle is dead, or was never given out. */
void handle_free(txmsg_client *h);
