/*
 * Protobuf wire bytes before anybody trusts them: a small reader, and the check against a descriptor that every
 * request passes before protobuf-c unpacks it. No allocation, no state. @thread any
 */
#pragma once

#include "base/bytes.h"

#include <protobuf-c/protobuf-c.h>

enum {
    WIRE_DEPTH_MAX = 32,          /* messages inside messages, the outermost counts as 1 */
    WIRE_REPEATED_MAX = 4096,     /* elements of one repeated field of one message */
    WIRE_FIELDS_MAX = 256 * 1024, /* fields of a request, all levels together */
    WIRE_UNKNOWN_MAX = 4096,      /* unknown fields of a request, all levels together: a newer client's */
};

enum wire_type { WIRE_VARINT = 0, WIRE_64 = 1, WIRE_BYTES = 2, WIRE_32 = 5 };

struct wire_reader {
    const uint8_t *p, *end;
};
struct wire_field {
    uint32_t id;
    enum wire_type type;
    uint64_t value;     /* WIRE_VARINT, WIRE_64, WIRE_32 */
    struct bytes bytes; /* WIRE_BYTES; a view into the input */
};
static inline struct wire_reader wire_reader(struct bytes in) {
    return (struct wire_reader){in.p, in.p + in.n};
}
/*
 * 1 = *f holds the next field, 0 = the end, -EINVAL = not protobuf: truncated, a varint of more than 64 bits, field
 * number 0, or a group (proto3 has none).
 */
int wire_next(struct wire_reader *r, struct wire_field *f) MUSTCHECK;
/* The next varint alone, for packed fields: 1, 0 = the end, -EINVAL. */
int wire_varint(struct wire_reader *r, uint64_t *ret) MUSTCHECK;

/* Why a request was refused: the reason of the ErrorInfo and the violation of the BadRequest. */
struct wire_fault {
    const char *reason; /* "MALFORMED_REQUEST", "INVALID_TEXT", "UNKNOWN_ENUM", "TOO_MANY" */
    const char *description;
    char field[256]; /* "messages[2].headers.key"; "" = the request itself */
};
enum wire_origin {
    WIRE_FROM_CLIENT,
    WIRE_FROM_SERVER, /* a newer server may send enum values that we do not know: they pass as numbers */
};
/*
 * 0 = protobuf-c may unpack `in` as `d` (NULL from it then means that memory is out), 1 = refused and *ret says why.
 * Stricter than the protobuf rules in one point: a singular message field that comes twice is refused, because merging
 * is something no honest encoder asks for and makes unpacking cost more than its input.
 */
int wire_check(const ProtobufCMessageDescriptor *d, struct bytes in, enum wire_origin from, struct wire_fault *ret)
    MUSTCHECK;

/* True if `d` is the entry of a map field: such elements have no index in a path and JSON shows them as members. */
bool wire_is_map_entry(const ProtobufCMessageDescriptor *d);
