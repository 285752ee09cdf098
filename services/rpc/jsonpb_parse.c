/*
 * The reading half of jsonpb.h. Strict where a typing mistake could hide (unknown members, a member twice, two members
 * of a oneof), lenient where people write by hand (durations as "10m", enum names without their prefix and in any
 * case).
 */
#include "rpc/jsonpb.h"

#include "base/clock.h"
#include "base/crypto.h"
#include "google/protobuf/any.pb-c.h"
#include "google/protobuf/duration.pb-c.h"
#include "google/protobuf/timestamp.pb-c.h"
#include "rpc/wire.h"

#include <strings.h>

typedef ProtobufCFieldDescriptor Field;
typedef ProtobufCMessageDescriptor Type;

enum { DEPTH_MAX = WIRE_DEPTH_MAX, FIELDS_MAX = 64, NAME_MAX_ = 128, BYTES_MAX = 64 << 20, US_PER_S = 1000000 };

#define MEMBER(T, m, offset) (*(T *)((char *)(m) + (offset)))

/* Where in the input we are. */
struct place {
    const struct place *parent;
    const char *name; /* NULL = an element of a list */
    size_t index;
    int depth;
};

struct parser {
    struct arena *arena;
    struct errmsg *e;
};

static size_t put_path(const struct place *at, char *out, size_t cap) {
    size_t n = at->parent ? put_path(at->parent, out, cap) : 0;
    int more = 0;

    if (n + 1 >= cap)
        return n;
    if (at->name)
        more = snprintf(out + n, cap - n, "%s%s", n ? "." : "", at->name);
    else if (at->parent)
        more = snprintf(out + n, cap - n, "[%zu]", at->index);
    return MIN(n + (size_t)MAX(more, 0), cap - 1);
}

/* -EINVAL with "<path>: <what>". */
static int wrong(const struct parser *p, const struct place *at, const char *what) {
    char path[256] = "";

    put_path(at, path, sizeof(path));
    return err_set(p->e, -EINVAL, "%s: %s", path[0] ? path : "the value", what);
}

static int no_memory(const struct parser *p) {
    return err_set(p->e, -ENOMEM, "out of memory");
}

/* --- names --- */

/* "checkAfter" for "check_after"; true if `given` is either. */
static bool same_name(const char *given, const char *name) {
    const char *g = given;

    if (strcmp(given, name) == 0)
        return true;
    for (; *name; name++, g++) {
        char want = *name;

        if (want == '_' && name[1])
            want = (char)toupper((unsigned char)*++name);
        if (*g != want)
            return false;
    }
    return *g == '\0';
}

static const Field *find_field(const Type *d, const char *given) {
    for (unsigned i = 0; i < d->n_fields; i++)
        if (same_name(given, d->fields[i].name))
            return &d->fields[i];
    return NULL;
}

/* "HTTP_ACK_MODE_" for HttpAckMode: the prefix that the values of an enum carry by buf's rules. */
static size_t enum_prefix(const char *type, char out[NAME_MAX_]) {
    size_t n = 0;

    for (const char *p = type; *p && n + 3 < NAME_MAX_; p++) {
        if (p > type && isupper((unsigned char)*p) && !isupper((unsigned char)p[-1]))
            out[n++] = '_';
        out[n++] = (char)toupper((unsigned char)*p);
    }
    out[n++] = '_';
    out[n] = '\0';
    return n;
}

static const ProtobufCEnumValue *find_enum(const ProtobufCEnumDescriptor *d, const char *given) {
    char prefix[NAME_MAX_];
    size_t n = enum_prefix(d->short_name, prefix);

    for (unsigned i = 0; i < d->n_value_names; i++) {
        const char *name = d->values_by_name[i].name;

        if (strcasecmp(name, given) == 0 || (strncmp(name, prefix, n) == 0 && strcasecmp(name + n, given) == 0))
            return &d->values[d->values_by_name[i].index];
    }
    return NULL;
}

/* --- scalars --- */

static int parse_text(struct parser *p, const struct place *at, const json_t *j, char **ret) {
    if (!json_is_string(j))
        return wrong(p, at, "expects a string");
    if (strlen(json_string_value(j)) != json_string_length(j))
        return wrong(p, at, "may not contain NUL");
    *ret = arena_strndup(p->arena, json_string_value(j), json_string_length(j));
    return *ret ? 0 : no_memory(p);
}

static int parse_bytes(struct parser *p, const struct place *at, const json_t *j, ProtobufCBinaryData *ret) {
    CLEANUP_BUF struct buf out;

    buf_init(&out, BYTES_MAX); /* before any return */
    if (!json_is_string(j))
        return wrong(p, at, "expects base64 text");
    if (base64_get(&out, bytes_of(json_string_value(j), json_string_length(j))))
        return wrong(p, at, "expects base64 text");
    if (out.n == 0)
        return 0;
    ret->data = arena_alloc(p->arena, out.n);
    if (!ret->data)
        return no_memory(p);
    memcpy(ret->data, out.p, out.n);
    ret->len = out.n;
    return 0;
}

/* A JSON integer, or its decimal text as the mapping writes 64-bit numbers. */
static int parse_integer(struct parser *p, const struct place *at, const json_t *j, int64_t min, int64_t max,
                         int64_t *ret) {
    char *end;

    if (json_is_integer(j)) {
        *ret = json_integer_value(j);
    } else if (json_is_string(j) && json_string_length(j) > 0) {
        errno = 0;
        *ret = strtoll(json_string_value(j), &end, 10);
        if (errno || *end || isspace((unsigned char)*json_string_value(j)))
            return wrong(p, at, "expects an integer");
    } else {
        return wrong(p, at, "expects an integer");
    }
    return *ret < min || *ret > max ? wrong(p, at, "is out of range") : 0;
}

static int parse_unsigned(struct parser *p, const struct place *at, const json_t *j, uint64_t *ret) {
    int64_t v;
    char *end;
    int err;

    if (json_is_string(j) && isdigit((unsigned char)*json_string_value(j))) {
        errno = 0;
        *ret = strtoull(json_string_value(j), &end, 10);
        return errno || *end ? wrong(p, at, "expects an unsigned integer") : 0;
    }
    err = parse_integer(p, at, j, 0, INT64_MAX, &v);
    if (!err)
        *ret = (uint64_t)v;
    return err;
}

static int parse_enum(struct parser *p, const struct place *at, const ProtobufCEnumDescriptor *d, const json_t *j,
                      int *ret) {
    const ProtobufCEnumValue *v = NULL;

    if (json_is_string(j))
        v = find_enum(d, json_string_value(j));
    else if (json_is_integer(j) && json_integer_value(j) >= INT32_MIN && json_integer_value(j) <= INT32_MAX)
        v = protobuf_c_enum_descriptor_get_value(d, (int)json_integer_value(j));
    if (!v)
        return wrong(p, at, "is not a value of its enumeration");
    *ret = v->value;
    return 0;
}

static int parse_message(struct parser *p, const struct place *at, const Type *d, const json_t *j,
                         ProtobufCMessage **ret);

/* One value of the field's type into `to`, which holds the type's default. */
static int parse_value(struct parser *p, const struct place *at, const Field *f, const json_t *j, void *to) {
    int64_t v;
    int err;

    switch (f->type) {
    case PROTOBUF_C_TYPE_INT32:
    case PROTOBUF_C_TYPE_SINT32:
    case PROTOBUF_C_TYPE_SFIXED32:
        err = parse_integer(p, at, j, INT32_MIN, INT32_MAX, &v);
        if (!err)
            *(int32_t *)to = (int32_t)v;
        return err;
    case PROTOBUF_C_TYPE_UINT32:
    case PROTOBUF_C_TYPE_FIXED32:
        err = parse_integer(p, at, j, 0, UINT32_MAX, &v);
        if (!err)
            *(uint32_t *)to = (uint32_t)v;
        return err;
    case PROTOBUF_C_TYPE_INT64:
    case PROTOBUF_C_TYPE_SINT64:
    case PROTOBUF_C_TYPE_SFIXED64:
        return parse_integer(p, at, j, INT64_MIN, INT64_MAX, to);
    case PROTOBUF_C_TYPE_UINT64:
    case PROTOBUF_C_TYPE_FIXED64:
        return parse_unsigned(p, at, j, to);
    case PROTOBUF_C_TYPE_FLOAT:
    case PROTOBUF_C_TYPE_DOUBLE:
        if (!json_is_number(j))
            return wrong(p, at, "expects a number");
        if (f->type == PROTOBUF_C_TYPE_FLOAT)
            *(float *)to = (float)json_number_value(j);
        else
            *(double *)to = json_number_value(j);
        return 0;
    case PROTOBUF_C_TYPE_BOOL:
        if (!json_is_boolean(j))
            return wrong(p, at, "expects true or false");
        *(protobuf_c_boolean *)to = json_is_true(j);
        return 0;
    case PROTOBUF_C_TYPE_ENUM:
        return parse_enum(p, at, f->descriptor, j, to);
    case PROTOBUF_C_TYPE_STRING:
        return parse_text(p, at, j, to);
    case PROTOBUF_C_TYPE_BYTES:
        return parse_bytes(p, at, j, to);
    case PROTOBUF_C_TYPE_MESSAGE:
        return parse_message(p, at, f->descriptor, j, to);
    }
    return wrong(p, at, "has an unknown type");
}

/* --- messages --- */

static ProtobufCMessage *new_message(struct parser *p, const Type *d) {
    ProtobufCMessage *m = arena_alloc(p->arena, d->sizeof_message);

    if (m)
        protobuf_c_message_init(d, m);
    return m;
}

static size_t size_of(ProtobufCType t) {
    switch (t) {
    case PROTOBUF_C_TYPE_BYTES:
        return sizeof(ProtobufCBinaryData);
    case PROTOBUF_C_TYPE_INT32:
    case PROTOBUF_C_TYPE_SINT32:
    case PROTOBUF_C_TYPE_SFIXED32:
    case PROTOBUF_C_TYPE_UINT32:
    case PROTOBUF_C_TYPE_FIXED32:
    case PROTOBUF_C_TYPE_FLOAT:
    case PROTOBUF_C_TYPE_BOOL:
    case PROTOBUF_C_TYPE_ENUM:
        return 4;
    default:
        return 8;
    }
}

static int parse_list(struct parser *p, const struct place *at, const Field *f, const json_t *j, ProtobufCMessage *m) {
    size_t n = json_array_size(j), size = size_of(f->type);
    struct place here = {.parent = at, .depth = at->depth};
    char *elements;
    int err = 0;

    if (!json_is_array(j))
        return wrong(p, at, "expects a list");
    if (n == 0)
        return 0;
    elements = arena_zalloc(p->arena, n * size);
    if (!elements)
        return no_memory(p);
    for (; !err && here.index < n; here.index++)
        err = parse_value(p, &here, f, json_array_get(j, here.index), elements + here.index * size);
    MEMBER(void *, m, f->offset) = elements;
    MEMBER(size_t, m, f->quantifier_offset) = n;
    return err;
}

static int parse_map(struct parser *p, const struct place *at, const Field *f, const json_t *j, ProtobufCMessage *m) {
    const Type *entry = f->descriptor;
    struct place here = {.parent = at, .depth = at->depth};
    ProtobufCMessage **entries;
    const char *key;
    json_t *value;
    size_t n = 0;
    int err;

    if (!json_is_object(j))
        return wrong(p, at, "expects an object");
    if (json_object_size(j) == 0)
        return 0;
    entries = arena_alloc(p->arena, json_object_size(j) * sizeof(*entries));
    if (!entries)
        return no_memory(p);
    json_object_foreach ((json_t *)(uintptr_t)j, key, value) {
        here.name = key;
        entries[n] = new_message(p, entry);
        if (!entries[n])
            return no_memory(p);
        MEMBER(char *, entries[n], entry->fields[0].offset) = arena_strndup(p->arena, key, strlen(key));
        if (!MEMBER(char *, entries[n], entry->fields[0].offset))
            return no_memory(p);
        err = parse_value(p, &here, &entry->fields[1], value, (char *)entries[n] + entry->fields[1].offset);
        if (err)
            return err;
        n++;
    }
    MEMBER(void *, m, f->offset) = entries;
    MEMBER(size_t, m, f->quantifier_offset) = n;
    return 0;
}

static bool is_map(const Field *f) {
    return f->type == PROTOBUF_C_TYPE_MESSAGE && wire_is_map_entry(f->descriptor) &&
           ((const Type *)f->descriptor)->fields[0].type == PROTOBUF_C_TYPE_STRING;
}

static int parse_member(struct parser *p, const struct place *at, const Field *f, const json_t *j,
                        ProtobufCMessage *m) {
    uint32_t *which;
    int err;

    if (f->label == PROTOBUF_C_LABEL_REPEATED)
        return is_map(f) ? parse_map(p, at, f, j, m) : parse_list(p, at, f, j, m);
    if (!(f->flags & PROTOBUF_C_FIELD_FLAG_ONEOF))
        return parse_value(p, at, f, j, (char *)m + f->offset);
    which = &MEMBER(uint32_t, m, f->quantifier_offset);
    if (*which != 0)
        return wrong(p, at, "cannot stand beside another member of the same choice");
    memset((char *)m + f->offset, 0, size_of(f->type));
    if (f->type == PROTOBUF_C_TYPE_STRING)
        MEMBER(const char *, m, f->offset) = protobuf_c_empty_string;
    err = parse_value(p, at, f, j, (char *)m + f->offset);
    if (!err)
        *which = f->id;
    return err;
}

static int parse_timestamp(struct parser *p, const struct place *at, const json_t *j, ProtobufCMessage *m) {
    Google__Protobuf__Timestamp *t = (Google__Protobuf__Timestamp *)m;
    int64_t us, rest;

    if (!json_is_string(j) || clock_parse(json_string_value(j), &us))
        return wrong(p, at, "expects a time such as \"2024-01-31T12:00:00Z\"");
    rest = us % US_PER_S;
    if (rest < 0)
        rest += US_PER_S; /* nanos count forward, also before 1970 */
    t->seconds = (us - rest) / US_PER_S;
    t->nanos = (int32_t)(rest * 1000);
    return 0;
}

static int parse_duration(struct parser *p, const struct place *at, const json_t *j, ProtobufCMessage *m) {
    Google__Protobuf__Duration *d = (Google__Protobuf__Duration *)m;
    int64_t ms;

    if (!json_is_string(j) || text_duration_ms(json_string_value(j), &ms))
        return wrong(p, at, "expects a duration such as \"1.500s\" or \"10m\"");
    d->seconds = ms / 1000;
    d->nanos = (int32_t)(ms % 1000 * 1000000);
    return 0;
}

static int parse_members(struct parser *p, const struct place *at, const Type *d, const json_t *j,
                         ProtobufCMessage *m) {
    struct place here = {.parent = at, .depth = at->depth + 1};
    bool seen[FIELDS_MAX] = {false};
    const char *key;
    json_t *value;
    int err;

    ASSERT(d->n_fields <= FIELDS_MAX);
    if (!json_is_object(j))
        return wrong(p, at, "expects an object");
    if (here.depth > DEPTH_MAX)
        return wrong(p, at, "is nested too deeply");
    json_object_foreach ((json_t *)(uintptr_t)j, key, value) {
        const Field *f = find_field(d, key);

        here.name = key;
        if (!f)
            return wrong(p, &here, "unknown member");
        if (seen[f - d->fields])
            return wrong(p, &here, "comes twice, under both of its names");
        seen[f - d->fields] = true;
        if (json_is_null(value))
            continue; /* the mapping's word for the default */
        err = parse_member(p, &here, f, value, m);
        if (err)
            return err;
    }
    return 0;
}

static int parse_message(struct parser *p, const struct place *at, const Type *d, const json_t *j,
                         ProtobufCMessage **ret) {
    ProtobufCMessage *m = new_message(p, d);
    int err;

    if (!m)
        return no_memory(p);
    if (strcmp(d->name, google__protobuf__timestamp__descriptor.name) == 0)
        err = parse_timestamp(p, at, j, m);
    else if (strcmp(d->name, google__protobuf__duration__descriptor.name) == 0)
        err = parse_duration(p, at, j, m);
    else if (strcmp(d->name, google__protobuf__any__descriptor.name) == 0)
        err = wrong(p, at, "cannot be given as JSON");
    else
        err = parse_members(p, at, d, j, m);
    if (!err)
        *ret = m;
    return err;
}

int jsonpb_parse(const ProtobufCMessageDescriptor *d, const json_t *j, struct arena *a, ProtobufCMessage **ret,
                 struct errmsg *e) {
    struct parser p = {.arena = a, .e = e};
    struct place root = {.parent = NULL};

    return parse_message(&p, &root, d, j, ret);
}
