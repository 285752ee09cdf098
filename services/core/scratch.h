/*
 * What building a transaction needs for a moment and would otherwise allocate 25,000 times a second: one set for each
 * thread, freed when the thread ends. Private to core/.
 */
#pragma once

#include "base/crypto.h"
#include "core/tx.h"

enum { SCRATCH_JSON_MAX = 64 << 20 }; /* an 8 MiB request, each byte of it written as \u0000 */

struct scratch {
    struct sha256 *sha;
    struct buf json;
    struct header *headers;
    size_t headers_cap;
};

/* The calling thread's set, NULL when out of memory. The sha256 is fresh for whoever resets it; json is empty. */
struct scratch *scratch_get(void) MUSTCHECK;
/* Room for n headers. -ENOMEM */
int scratch_headers(struct scratch *s, size_t n) MUSTCHECK;
/* Gives back what one large transaction has made it grow to. */
void scratch_done(struct scratch *s);
