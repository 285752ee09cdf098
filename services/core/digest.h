/*
 * The digest that decides "same content": SHA-256 over a version byte and length-prefixed fields in the order written
 * in digest.c, header names sorted. Trace context is left out: a retry carries another span. Pinned by a golden vector,
 * so that versions N and N+1 agree.
 */
#pragma once

#include "core/tx.h"

/* `c` without its digest -> digest. Headers must be sorted by name (byte order). -ENOMEM. @thread any */
int tx_digest(const struct tx_content *c, uint8_t out[32]) MUSTCHECK;
