/*
 * Checks of a request before anything is stored. Every refusal names the field and the limit.
 * UTF-8, NUL and enum range are checked on the wire by rpc/ before; here are meaning, size and count.
 */
#pragma once

#include "core/tx.h"

struct violation {
    char field[96];        /* "messages[2].topic" */
    char description[256]; /* "is 300 bytes, the limit is 255" */
};

/* All: 0 = valid, 1 = refused and *v says why (untouched when valid). @thread any. `now_ms` is the database clock. */
int validate_id_window(const struct limits *l, const struct uuid *id, int64_t now_ms, struct violation *v) MUSTCHECK;
int validate_messages(const struct limits *l, const struct msg *m, uint32_t n, struct violation *v) MUSTCHECK;
/* Bodies that come with a decision: how many, for which messages, how large. */
int validate_bodies(const struct limits *l, const struct msg_body *b, size_t n, struct violation *v) MUSTCHECK;
/*
 * deliver_at and expire_at of each message, against the time inside the transaction's id and not against the clock: a
 * repeat is judged like the first call, whatever time has passed between them.
 */
int validate_times(const struct limits *l, int64_t id_ms, const struct msg *m, uint32_t n, struct violation *v)
    MUSTCHECK;
/*
 * Header names: 1..128 of token characters [A-Za-z0-9!#$%&'*+.^_`|~-], unique regardless of case, not beginning with
 * "txmsg-", "ce-", "webhook-"; values: no control characters. validate_header() checks h[at] alone and against those
 * before it; the field becomes `<field>["name"]`, the name escaped to printable ASCII and cut.
 */
int validate_header(const char *field, const struct header *h, uint32_t at, struct violation *v) MUSTCHECK;
/* Names of topics, producers, subscriptions. */
int validate_name(const char *field, struct bytes name, struct violation *v) MUSTCHECK;
/* At most `max` bytes and no control characters: such text reaches logs, headers and consoles. Empty is valid. */
int validate_text(const char *field, struct bytes text, size_t max, struct violation *v) MUSTCHECK;
