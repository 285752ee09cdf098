/*
 * The bounds that hold unless the configuration says otherwise. One place, so that documents and tests can point to
 * it.
 */
#include "core/limits.h"

void limits_default(struct limits *l) {
    const int64_t second = 1000, minute = 60 * second, hour = 60 * minute;

    *l = (struct limits){
        .body_bytes = 1 << 20,
        .messages = 64,
        .transaction_bytes = 4 << 20,
        .headers = 64,
        .header_bytes = 16 << 10,
        .id_past_ms = 24 * hour,
        .id_future_ms = 5 * minute,
        .check_after_max_ms = 24 * hour,
        .deliver_ahead_ms = 7 * 24 * hour,
    };
}
