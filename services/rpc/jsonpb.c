/*
 * Why: txmsgctl, the console and the stored topology speak JSON, and the proto files are the only place where shapes
 * are defined; so both directions are driven by the descriptors and no type has code of its own but the well-known
 * ones.
 *
 * Printing makes jansson values; parsing fills protobuf-c structs in the caller's arena. The position in the input is a
 * chain of stack frames, written out as a path only for an error.
 */
#include "rpc/jsonpb.h"

#include "base/clock.h"
#include "base/crypto.h"
#include "google/protobuf/any.pb-c.h"
#include "google/protobuf/duration.pb-c.h"
#include "google/protobuf/timestamp.pb-c.h"
#include "google/rpc/error_details.pb-c.h"
#include "rpc/payload.h"
#include "rpc/wire.h"

#include <math.h>

typedef ProtobufCFieldDescriptor Field;
typedef ProtobufCMessageDescriptor Type;

enum { DEPTH_MAX = WIRE_DEPTH_MAX, BYTES_MAX = 64 << 20, ANY_ARENA_MAX = 1 << 20, US_PER_S = 1000000 };

#define CONST_MEMBER(T, m, offset) (*(T const *)((const char *)(m) + (offset)))

static bool is_type(const Type *d, const Type *other) {
    return d == other || strcmp(d->name, other->name) == 0;
}

static bool is_map(const Field *f) {
    const Type *entry = f->descriptor;

    return f->label == PROTOBUF_C_LABEL_REPEATED && f->type == PROTOBUF_C_TYPE_MESSAGE && wire_is_map_entry(entry) &&
           entry->fields[0].type == PROTOBUF_C_TYPE_STRING;
}

/* --- printing --- */

static json_t *print_message(const ProtobufCMessage *m, int depth);

static json_t *print_bytes(const ProtobufCBinaryData *b) {
    CLEANUP_BUF struct buf out;

    buf_init(&out, BYTES_MAX);
    base64_put(&out, bytes_of(b->data, b->len));
    return buf_error(&out) ? NULL : json_string(buf_str(&out));
}

static json_t *print_real(double v) {
    if (isnan(v))
        return json_string("NaN");
    if (isinf(v))
        return json_string(v > 0 ? "Infinity" : "-Infinity");
    return json_real(v);
}

static json_t *print_enum(const ProtobufCEnumDescriptor *d, int v) {
    const ProtobufCEnumValue *value = protobuf_c_enum_descriptor_get_value(d, v);

    return value ? json_string(value->name) : json_integer(v);
}

/* One value of the field's type at `p`. */
static json_t *print_value(const Field *f, const void *p, int depth) {
    switch (f->type) {
    case PROTOBUF_C_TYPE_INT32:
    case PROTOBUF_C_TYPE_SINT32:
    case PROTOBUF_C_TYPE_SFIXED32:
        return json_integer(*(const int32_t *)p);
    case PROTOBUF_C_TYPE_UINT32:
    case PROTOBUF_C_TYPE_FIXED32:
        return json_integer(*(const uint32_t *)p);
    case PROTOBUF_C_TYPE_INT64:
    case PROTOBUF_C_TYPE_SINT64:
    case PROTOBUF_C_TYPE_SFIXED64:
        return json_integer(*(const int64_t *)p);
    case PROTOBUF_C_TYPE_UINT64:
    case PROTOBUF_C_TYPE_FIXED64:
        /* jansson's integers are signed; the upper half goes as the mapping's text form. */
        return *(const uint64_t *)p <= INT64_MAX ? json_integer(*(const int64_t *)p)
                                                 : json_sprintf("%llu", *(const unsigned long long *)p);
    case PROTOBUF_C_TYPE_FLOAT:
        return print_real((double)*(const float *)p);
    case PROTOBUF_C_TYPE_DOUBLE:
        return print_real(*(const double *)p);
    case PROTOBUF_C_TYPE_BOOL:
        return json_boolean(*(const protobuf_c_boolean *)p);
    case PROTOBUF_C_TYPE_ENUM:
        return print_enum(f->descriptor, *(const int *)p);
    case PROTOBUF_C_TYPE_STRING:
        return json_string(*(const char *const *)p ? *(const char *const *)p : "");
    case PROTOBUF_C_TYPE_BYTES:
        return print_bytes(p);
    case PROTOBUF_C_TYPE_MESSAGE:
        return print_message(*(const ProtobufCMessage *const *)p, depth + 1);
    }
    return NULL;
}

static size_t size_of(ProtobufCType t) {
    switch (t) {
    case PROTOBUF_C_TYPE_INT64:
    case PROTOBUF_C_TYPE_SINT64:
    case PROTOBUF_C_TYPE_SFIXED64:
    case PROTOBUF_C_TYPE_UINT64:
    case PROTOBUF_C_TYPE_FIXED64:
    case PROTOBUF_C_TYPE_DOUBLE:
        return 8;
    case PROTOBUF_C_TYPE_BOOL:
        return sizeof(protobuf_c_boolean);
    case PROTOBUF_C_TYPE_STRING:
    case PROTOBUF_C_TYPE_MESSAGE:
        return sizeof(void *);
    case PROTOBUF_C_TYPE_BYTES:
        return sizeof(ProtobufCBinaryData);
    default:
        return 4;
    }
}

/* Is a singular field at its default, so that it is left out? */
static bool is_default(const Field *f, const ProtobufCMessage *m) {
    const void *p = (const char *)m + f->offset;

    if (f->flags & PROTOBUF_C_FIELD_FLAG_ONEOF)
        return CONST_MEMBER(uint32_t, m, f->quantifier_offset) != f->id;
    switch (f->type) {
    case PROTOBUF_C_TYPE_STRING:
        return !*(const char *const *)p || !**(const char *const *)p;
    case PROTOBUF_C_TYPE_BYTES:
        return ((const ProtobufCBinaryData *)p)->len == 0;
    case PROTOBUF_C_TYPE_MESSAGE:
        return !*(const void *const *)p;
    default: {
        static const uint8_t zero[8];

        return memcmp(p, zero, size_of(f->type)) == 0;
    }
    }
}

static json_t *print_list(const Field *f, const char *elements, size_t n, int depth) {
    CLEANUP_JSON json_t *list = json_array();

    for (size_t i = 0; list && i < n; i++)
        if (json_array_append_new(list, print_value(f, elements + i * size_of(f->type), depth)))
            return NULL;
    return TAKE(list);
}

static json_t *print_map(const Field *f, ProtobufCMessage *const *entries, size_t n, int depth) {
    const Type *entry = f->descriptor;
    CLEANUP_JSON json_t *map = json_object();

    for (size_t i = 0; map && i < n; i++) {
        const char *key = CONST_MEMBER(char *, entries[i], entry->fields[0].offset);
        const Field *value = &entry->fields[1];
        json_t *v;

        if (value->type == PROTOBUF_C_TYPE_MESSAGE && !CONST_MEMBER(void *, entries[i], value->offset))
            v = json_object();
        else
            v = print_value(value, (const char *)entries[i] + value->offset, depth);
        if (json_object_set_new(map, key, v))
            return NULL;
    }
    return TAKE(map);
}

static json_t *print_timestamp(const Google__Protobuf__Timestamp *t) {
    char text[32];

    if (t->seconds < -62135596800ll || t->seconds > 253402300799ll) /* years 1 to 9999 */
        return json_string("");
    clock_format(t->seconds * US_PER_S + t->nanos / 1000, text);
    return json_string(text);
}

static json_t *print_duration(const Google__Protobuf__Duration *d) {
    bool negative = d->seconds < 0 || d->nanos < 0;
    long long seconds = d->seconds < 0 ? -(d->seconds + 1) + 1ll : d->seconds;
    int nanos = abs(d->nanos % 1000000000);

    if (nanos == 0)
        return json_sprintf("%s%llds", negative ? "-" : "", seconds);
    if (nanos % 1000000 == 0)
        return json_sprintf("%s%lld.%03ds", negative ? "-" : "", seconds, nanos / 1000000);
    return json_sprintf("%s%lld.%09ds", negative ? "-" : "", seconds, nanos);
}

/* The details of a google.rpc.Status are shown as what they are; anything else as base64. */
static json_t *print_any(const Google__Protobuf__Any *any, int depth) {
    static const Type *const known[] = {
        &google__rpc__error_info__descriptor,
        &google__rpc__bad_request__descriptor,
        &google__rpc__retry_info__descriptor,
        &google__rpc__precondition_failure__descriptor,
    };
    const char *name = strrchr(any->type_url, '/');
    struct bytes in = bytes_of(any->value.data, any->value.len);
    CLEANUP_JSON json_t *out = NULL;
    const ProtobufCMessage *m = NULL;
    ProtobufCAllocator allocator;
    struct wire_fault fault;
    struct arena a;

    arena_init(&a, ANY_ARENA_MAX);
    allocator = payload_allocator(&a);
    for (size_t i = 0; name && i < ARRAY_LEN(known); i++)
        if (strcmp(name + 1, known[i]->name) == 0 && !wire_check(known[i], in, WIRE_FROM_SERVER, &fault))
            m = protobuf_c_message_unpack(known[i], &allocator, in.n, in.p);
    out = m ? print_message(m, depth + 1) : json_object();
    arena_deinit(&a);
    if (!out || json_object_set_new(out, "@type", json_string(any->type_url)))
        return NULL;
    if (!m && json_object_set_new(out, "value", print_bytes(&any->value)))
        return NULL;
    return TAKE(out);
}

static json_t *print_message(const ProtobufCMessage *m, int depth) {
    const Type *d = m->descriptor;
    CLEANUP_JSON json_t *out = NULL;

    if (depth > DEPTH_MAX)
        return json_object();
    if (is_type(d, &google__protobuf__timestamp__descriptor))
        return print_timestamp((const void *)m);
    if (is_type(d, &google__protobuf__duration__descriptor))
        return print_duration((const void *)m);
    if (is_type(d, &google__protobuf__any__descriptor))
        return print_any((const void *)m, depth);
    out = json_object();
    for (unsigned i = 0; out && i < d->n_fields; i++) {
        const Field *f = &d->fields[i];
        json_t *v;

        if (f->label == PROTOBUF_C_LABEL_REPEATED) {
            size_t n = CONST_MEMBER(size_t, m, f->quantifier_offset);
            void *elements = CONST_MEMBER(void *, m, f->offset);

            if (n == 0)
                continue;
            v = is_map(f) ? print_map(f, elements, n, depth) : print_list(f, elements, n, depth);
        } else if (is_default(f, m)) {
            continue;
        } else {
            v = print_value(f, (const char *)m + f->offset, depth);
        }
        if (json_object_set_new(out, f->name, v))
            return NULL;
    }
    return TAKE(out);
}

json_t *jsonpb_print(const ProtobufCMessage *m) {
    return print_message(m, 1);
}
