/*
 * What a fuzz target is: one function over any bytes. It is linked with libFuzzer (tests/fuzz/run) or with replay.c, which
 * runs files (the committed corpus, in every ordinary build). Properties that must hold are FUZZ_CHECKs, beside what the
 * sanitizers see.
 */
#pragma once

#include "base/bytes.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define FUZZ_CHECK(cond)                                                                                               \
    do {                                                                                                               \
        if (!(cond)) {                                                                                                 \
            fprintf(stderr, "%s:%d: does not hold: %s\n", __FILE__, __LINE__, #cond);                                  \
            abort();                                                                                                   \
        }                                                                                                              \
    } while (0)

/* The first byte of an input chooses among things; the rest is the thing's own. */
static inline unsigned fuzz_choice(const uint8_t **data, size_t *size) {
    unsigned c = *size ? **data : 0;
    *data += *size ? 1 : 0;
    *size -= *size ? 1 : 0;
    return c;
}
