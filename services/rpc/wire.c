/*
 * Why: protobuf-c copies a string up to its length, but everybody behind it reads up to the first NUL; it does not look
 * at UTF-8, recurses as deep as the input likes, and merges repeated occurrences. So the raw bytes are walked once
 * against the descriptor first. The walk keeps its position as a chain of stack frames; the field path is only written
 * when a request is refused.
 */
#include "rpc/wire.h"

/* More fields than this in one message type is a programming error of ours, not input. */
enum { FIELDS_OF_TYPE_MAX = 64 };

struct frame {
    const struct frame *parent;
    const ProtobufCFieldDescriptor *field; /* the field being read; NULL = none yet or unknown */
    uint32_t index;                        /* of the element, for repeated fields */
};

struct walk {
    enum wire_origin from;
    uint32_t fields, unknown; /* so far */
    struct wire_fault *fault;
};

int wire_varint(struct wire_reader *r, uint64_t *ret) {
    const uint8_t *p = r->p;
    uint64_t v = 0;

    if (p == r->end)
        return 0;
    if (!(*p & 0x80)) {
        *ret = *p;
        r->p = p + 1;
        return 1;
    }
    for (unsigned shift = 0; shift < 70 && p < r->end; shift += 7, p++) {
        if (shift == 63 && *p > 1)
            return -EINVAL;
        v |= (uint64_t)(*p & 0x7f) << shift;
        if (!(*p & 0x80)) {
            *ret = v;
            r->p = p + 1;
            return 1;
        }
    }
    return -EINVAL;
}

/* Tags and lengths: protobuf-c reads five bytes of them and no more. */
static inline int short_varint(struct wire_reader *r, uint32_t *ret) {
    const uint8_t *begin = r->p;
    uint64_t v;
    int err;

    if (begin < r->end && *begin < 0x80) { /* nearly always */
        *ret = *begin;
        r->p++;
        return 1;
    }
    err = wire_varint(r, &v);
    if (err <= 0)
        return err;
    if (r->p - begin > 5 || v > UINT32_MAX)
        return -EINVAL;
    *ret = (uint32_t)v;
    return 1;
}

static int fixed(struct wire_reader *r, size_t n, uint64_t *ret) {
    uint64_t v = 0;

    if ((size_t)(r->end - r->p) < n)
        return -EINVAL;
    for (size_t i = n; i-- > 0;)
        v = v << 8 | r->p[i];
    r->p += n;
    *ret = v;
    return 1;
}

int wire_next(struct wire_reader *r, struct wire_field *f) {
    uint32_t tag, n;
    int err = short_varint(r, &tag);

    if (err <= 0)
        return err;
    f->id = tag >> 3;
    f->type = (enum wire_type)(tag & 7);
    f->bytes = BYTES_NULL;
    if (f->id == 0)
        return -EINVAL;
    switch (f->type) {
    case WIRE_VARINT:
        return wire_varint(r, &f->value) == 1 ? 1 : -EINVAL;
    case WIRE_64:
        return fixed(r, 8, &f->value);
    case WIRE_32:
        return fixed(r, 4, &f->value);
    case WIRE_BYTES:
        if (short_varint(r, &n) != 1 || n > (size_t)(r->end - r->p))
            return -EINVAL;
        f->bytes = bytes_of(r->p, n);
        r->p += n;
        return 1;
    }
    return -EINVAL;
}

bool wire_is_map_entry(const ProtobufCMessageDescriptor *d) {
    size_t n = strlen(d->short_name);

    return n > 5 && strcmp(d->short_name + n - 5, "Entry") == 0 && d->n_fields == 2 && d->fields[0].id == 1 &&
           d->fields[1].id == 2 && strcmp(d->fields[0].name, "key") == 0 && strcmp(d->fields[1].name, "value") == 0;
}

/* Writes the path of `f` from the outside in; returns its length so far. A path that does not fit is cut. */
static size_t put_path(const struct frame *f, char *out, size_t cap) {
    size_t n = f->parent ? put_path(f->parent, out, cap) : 0;
    int more;

    if (!f->field || n + 1 >= cap)
        return n;
    if (f->field->label == PROTOBUF_C_LABEL_REPEATED &&
        !(f->field->type == PROTOBUF_C_TYPE_MESSAGE && wire_is_map_entry(f->field->descriptor)))
        more = snprintf(out + n, cap - n, "%s%s[%u]", n ? "." : "", f->field->name, f->index);
    else
        more = snprintf(out + n, cap - n, "%s%s", n ? "." : "", f->field->name);
    return MIN(n + (size_t)MAX(more, 0), cap - 1);
}

static int refuse(struct walk *w, const struct frame *f, const char *reason, const char *description) {
    w->fault->reason = reason;
    w->fault->description = description;
    w->fault->field[0] = '\0';
    put_path(f, w->fault->field, sizeof(w->fault->field));
    return 1;
}

static int malformed(struct walk *w, const struct frame *f) {
    return refuse(w, f, "MALFORMED_REQUEST", "is not well-formed protobuf");
}

static enum wire_type type_on_wire(ProtobufCType t) {
    switch (t) {
    case PROTOBUF_C_TYPE_SFIXED32:
    case PROTOBUF_C_TYPE_FIXED32:
    case PROTOBUF_C_TYPE_FLOAT:
        return WIRE_32;
    case PROTOBUF_C_TYPE_SFIXED64:
    case PROTOBUF_C_TYPE_FIXED64:
    case PROTOBUF_C_TYPE_DOUBLE:
        return WIRE_64;
    case PROTOBUF_C_TYPE_STRING:
    case PROTOBUF_C_TYPE_BYTES:
    case PROTOBUF_C_TYPE_MESSAGE:
        return WIRE_BYTES;
    default:
        return WIRE_VARINT;
    }
}

static bool enum_known(const struct walk *w, const ProtobufCFieldDescriptor *field, uint64_t v) {
    return w->from == WIRE_FROM_SERVER ||
           protobuf_c_enum_descriptor_get_value(field->descriptor, (int)(int32_t)v) != NULL;
}

static const ProtobufCFieldDescriptor *find_field(const ProtobufCMessageDescriptor *d, uint32_t id) {
    /* Most of our messages number their fields 1..n without gaps. */
    if (id - 1 < d->n_fields && d->fields[id - 1].id == id)
        return &d->fields[id - 1];
    return protobuf_c_message_descriptor_get_field(d, id);
}

static int check_packed(struct walk *w, struct frame *at, struct bytes in, uint32_t *count) {
    enum wire_type type = type_on_wire(at->field->type);
    struct wire_reader r = wire_reader(in);
    uint64_t v;
    int err;

    for (;; (*count)++) {
        at->index = *count;
        if (type == WIRE_VARINT)
            err = wire_varint(&r, &v);
        else
            err = r.p == r.end ? 0 : fixed(&r, type == WIRE_32 ? 4 : 8, &v);
        if (err == 0)
            return 0;
        if (err < 0)
            return malformed(w, at);
        if (*count >= WIRE_REPEATED_MAX)
            return refuse(w, at, "TOO_MANY", "has too many elements");
        if (at->field->type == PROTOBUF_C_TYPE_ENUM && !enum_known(w, at->field, v))
            return refuse(w, at, "UNKNOWN_ENUM", "is not a value of its enumeration");
    }
}

static int check_message(struct walk *w, const ProtobufCMessageDescriptor *d, struct bytes in,
                         const struct frame *parent, int depth);

/* One field that the descriptor knows. `count`: occurrences of it before, in this message. */
static int check_field(struct walk *w, struct frame *at, const struct wire_field *f, uint32_t *count, int depth) {
    const ProtobufCFieldDescriptor *field = at->field;
    enum wire_type type = type_on_wire(field->type);

    at->index = *count;
    if (field->label == PROTOBUF_C_LABEL_REPEATED) {
        if (f->type == WIRE_BYTES && type != WIRE_BYTES)
            return check_packed(w, at, f->bytes, count);
        if (*count >= WIRE_REPEATED_MAX)
            return refuse(w, at, "TOO_MANY", "has too many elements");
    } else if (*count > 0 && field->type == PROTOBUF_C_TYPE_MESSAGE) {
        return refuse(w, at, "MALFORMED_REQUEST", "comes twice");
    }
    if (f->type != type)
        return malformed(w, at);
    (*count)++;
    switch (field->type) {
    case PROTOBUF_C_TYPE_STRING:
        if (!text_valid(f->bytes))
            return refuse(w, at, "INVALID_TEXT", "is not UTF-8 text without NUL");
        return 0;
    case PROTOBUF_C_TYPE_ENUM:
        if (!enum_known(w, field, f->value))
            return refuse(w, at, "UNKNOWN_ENUM", "is not a value of its enumeration");
        return 0;
    case PROTOBUF_C_TYPE_MESSAGE:
        if (depth >= WIRE_DEPTH_MAX)
            return refuse(w, at, "TOO_MANY", "is nested too deeply");
        return check_message(w, field->descriptor, f->bytes, at, depth + 1);
    default:
        return 0;
    }
}

static int check_message(struct walk *w, const ProtobufCMessageDescriptor *d, struct bytes in,
                         const struct frame *parent, int depth) {
    struct wire_reader r = wire_reader(in);
    struct frame at = {.parent = parent};
    uint32_t counts[FIELDS_OF_TYPE_MAX];
    struct wire_field f;
    int err;

    ASSERT(d->n_fields <= FIELDS_OF_TYPE_MAX);
    memset(counts, 0, d->n_fields * sizeof(counts[0]));
    while ((err = wire_next(&r, &f)) == 1) {
        if (++w->fields > WIRE_FIELDS_MAX)
            return refuse(w, parent ? parent : &at, "TOO_MANY", "the request has too many fields");
        at.field = find_field(d, f.id);
        if (at.field) {
            err = check_field(w, &at, &f, &counts[at.field - d->fields], depth);
            if (err)
                return err;
        } else if (++w->unknown > WIRE_UNKNOWN_MAX) {
            return refuse(w, &at, "TOO_MANY", "the request has too many unknown fields");
        }
    }
    at.field = NULL;
    return err ? malformed(w, &at) : 0;
}

int wire_check(const ProtobufCMessageDescriptor *d, struct bytes in, enum wire_origin from, struct wire_fault *ret) {
    struct walk w = {.from = from, .fault = ret};

    return check_message(&w, d, in, NULL, 1);
}
