/* A program that is told by lines on its standard input what to do with libtxmsg, and answers each with a line. */
#pragma once

#include "txmsg/txmsg.h"

#include "base/err.h"

enum { WORDS_MAX = 8 };

struct drive {
    txmsg_client *client;
    txmsg_result *result;
    txmsg_call_options *options; /* of calls; the timeout is set for each */
    bool dispatch;
};

/* "async N TOPIC": N chains of prepare and confirm. "flood N TOPIC": N prepares as fast as they are taken. "threads T N TOPIC". */
void drive_async(struct drive *d, int n, const char *topic);
void drive_flood(struct drive *d, int n, const char *topic);
void drive_threads(struct drive *d, int threads, int n, const char *topic);
