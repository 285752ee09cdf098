/*
 * What becomes of a message is in the random bits of its id: no other source of chance is needed, and whoever sees the id
 * (the endpoint that is asked about it) knows it too, without any state.
 */
#pragma once

#include "base/uuid.h"

enum fate { FATE_UNDECIDED, FATE_CANCELLED, FATE_CONFIRMED };

struct fates {
    uint32_t undecided_below, cancelled_below, duplicated_below;
};

static inline uint32_t fates_share(int64_t percent) {
    return (uint32_t)MIN((uint64_t)percent * (1ull << 32) / 100, UINT32_MAX);
}
static inline struct fates fates_make(int64_t undecided, int64_t cancelled, int64_t duplicated) {
    return (struct fates){fates_share(undecided), fates_share(undecided + cancelled), fates_share(duplicated)};
}
static inline enum fate fate_of(const struct fates *f, const struct uuid *id) {
    uint32_t bits;
    memcpy(&bits, id->b + 12, 4);
    return bits < f->undecided_below ? FATE_UNDECIDED : bits < f->cancelled_below ? FATE_CANCELLED : FATE_CONFIRMED;
}
static inline bool fate_duplicated(const struct fates *f, const struct uuid *id) {
    return ((uint32_t)id->b[9] << 24 | (uint32_t)id->b[10] << 16 | (uint32_t)id->b[11] << 8) < f->duplicated_below;
}
/* What a check of an undecided one answers: one half is committed, the other rolled back. */
static inline bool fate_committed_by_check(const struct uuid *id) {
    return id->b[8] & 1;
}
