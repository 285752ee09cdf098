/* A program that is told by lines on its standard input what to do with libtxmsg, and answers each with a line. */
#pragma once

#include "txmsg/txmsg.h"

#include "base/err.h"

enum { WORDS_MAX = 16 };

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

/* drive_batch.c. "batch TOPIC OPERATION..."; "batches N M TOPIC": N batches of M publishes; "pairs N TOPIC": one of N
 * prepares, each with its confirm; "get ID TIMEOUT_MS [bodies|async]" */
void drive_batch(struct drive *d, char **w);
void drive_batches(struct drive *d, int batches, int each, const char *topic);
void drive_pairs(struct drive *d, int n, const char *topic);
void drive_get(struct drive *d, char **w);
/* How many of its calls were refused as wrong; it makes *of of them. */
size_t drive_misuse_batch(struct drive *d, const txmsg_message *const *one, size_t *of);
