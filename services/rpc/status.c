/*
 * Why: an error of ours is a google.rpc.Status whose details are messages inside Any, that is, bytes inside bytes. This
 * file is the only one that knows which details exist. Everything is built in the caller's arena.
 *
 * Texts may quote what a caller sent, so each is cut: the whole status must fit into the 8 KiB of headers that clients
 * accept.
 */
#include "rpc/status.h"

#include "google/protobuf/any.pb-c.h"
#include "google/rpc/error_details.pb-c.h"
#include "google/rpc/status.pb-c.h"
#include "rpc/payload.h"
#include "rpc/wire.h"

enum {
    TEXT_MAX = 384,
    RETRY_SECONDS_MAX = 1000000000,
    DETAILS_MAX = 4,
    META_MAX = ARRAY_LEN(((struct rpc_error *)0)->meta) / 2
};

#define TYPE_URL(name) "type.googleapis.com/google.rpc." name

const char *rpc_code_name(int code) {
    static const char *const names[] = {
        "OK",        "CANCELLED",       "UNKNOWN",           "INVALID_ARGUMENT",   "DEADLINE_EXCEEDED",
        "NOT_FOUND", "ALREADY_EXISTS",  "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION",
        "ABORTED",   "OUT_OF_RANGE",    "UNIMPLEMENTED",     "INTERNAL",           "UNAVAILABLE",
        "DATA_LOSS", "UNAUTHENTICATED",
    };

    return code >= 0 && (size_t)code < ARRAY_LEN(names) ? names[code] : "UNKNOWN";
}

const char *status_text(const char *s, struct arena *a) {
    size_t n = TEXT_MAX;
    char *cut;

    if (!s)
        return protobuf_c_empty_string;
    if (strnlen(s, TEXT_MAX + 1) <= TEXT_MAX)
        return s;
    while (n > 0 && ((uint8_t)s[n] & 0xc0) == 0x80)
        n--; /* not in the middle of a character */
    cut = arena_strndup(a, s, n);
    return cut ? cut : protobuf_c_empty_string;
}

/* protobuf-c wants char *, and does not write through it. */
static char *text(const char *s, struct arena *a) {
    return (char *)(uintptr_t)status_text(s, a);
}

static int add_detail(Google__Rpc__Status *st, const char *type_url, const ProtobufCMessage *m, struct arena *a) {
    Google__Protobuf__Any *any = arena_alloc(a, sizeof(*any));
    size_t n = protobuf_c_message_get_packed_size(m);
    uint8_t *p = arena_alloc(a, n);

    if (!any || !p)
        return -ENOMEM;
    ASSERT(st->n_details < DETAILS_MAX);
    google__protobuf__any__init(any);
    any->type_url = (char *)(uintptr_t)type_url;
    any->value = (ProtobufCBinaryData){.len = protobuf_c_message_pack(m, p), .data = p};
    st->details[st->n_details++] = any;
    return 0;
}

static int add_error_info(Google__Rpc__Status *st, const struct rpc_error *err, struct arena *a) {
    Google__Rpc__ErrorInfo info = GOOGLE__RPC__ERROR_INFO__INIT;
    Google__Rpc__ErrorInfo__MetadataEntry entries[META_MAX], *list[META_MAX];

    info.reason = text(err->reason, a);
    info.domain = text("txmsg", a);
    info.metadata = list;
    for (size_t i = 0; i + 1 < ARRAY_LEN(err->meta) && err->meta[i] && err->meta[i + 1]; i += 2) {
        Google__Rpc__ErrorInfo__MetadataEntry *e = &entries[info.n_metadata];

        google__rpc__error_info__metadata_entry__init(e);
        e->key = text(err->meta[i], a);
        e->value = text(err->meta[i + 1], a);
        list[info.n_metadata++] = e;
    }
    return add_detail(st, TYPE_URL("ErrorInfo"), &info.base, a);
}

static int add_bad_request(Google__Rpc__Status *st, const struct rpc_error *err, struct arena *a) {
    Google__Rpc__BadRequest__FieldViolation v = GOOGLE__RPC__BAD_REQUEST__FIELD_VIOLATION__INIT, *list[] = {&v};
    Google__Rpc__BadRequest bad = GOOGLE__RPC__BAD_REQUEST__INIT;

    v.field = text(err->field, a);
    v.description = text(err->field_description ? err->field_description : err->message, a);
    bad.field_violations = list;
    bad.n_field_violations = 1;
    return add_detail(st, TYPE_URL("BadRequest"), &bad.base, a);
}

static int add_retry_info(Google__Rpc__Status *st, const struct rpc_error *err, struct arena *a) {
    Google__Protobuf__Duration delay = GOOGLE__PROTOBUF__DURATION__INIT;
    Google__Rpc__RetryInfo retry = GOOGLE__RPC__RETRY_INFO__INIT;

    delay.seconds = err->retry_after_ms / 1000;
    delay.nanos = (int32_t)(err->retry_after_ms % 1000 * 1000000);
    retry.retry_delay = &delay;
    return add_detail(st, TYPE_URL("RetryInfo"), &retry.base, a);
}

static int add_precondition(Google__Rpc__Status *st, const struct rpc_error *err, struct arena *a) {
    Google__Rpc__PreconditionFailure__Violation v = GOOGLE__RPC__PRECONDITION_FAILURE__VIOLATION__INIT, *list[] = {&v};
    Google__Rpc__PreconditionFailure failure = GOOGLE__RPC__PRECONDITION_FAILURE__INIT;

    v.type = text(err->reason, a);
    v.subject = text(err->precondition_subject, a);
    v.description = text(err->message, a);
    failure.violations = list;
    failure.n_violations = 1;
    return add_detail(st, TYPE_URL("PreconditionFailure"), &failure.base, a);
}

int rpc_error_status(const struct rpc_error *err, struct arena *a, struct Google__Rpc__Status **ret) {
    Google__Rpc__Status *st = arena_alloc(a, sizeof(*st));
    Google__Protobuf__Any **details = arena_alloc(a, DETAILS_MAX * sizeof(*details));
    int e;

    if (!st || !details)
        return -ENOMEM;
    google__rpc__status__init(st);
    st->code = err->code;
    st->message = text(err->message, a);
    st->details = details;
    e = add_error_info(st, err, a);
    if (!e && err->field)
        e = add_bad_request(st, err, a);
    if (!e && err->retry_after_ms > 0)
        e = add_retry_info(st, err, a);
    if (!e && err->precondition_subject)
        e = add_precondition(st, err, a);
    if (e)
        return e;
    *ret = st;
    return 0;
}

int status_pack(const struct rpc_error *err, struct arena *a, struct bytes *ret) {
    Google__Rpc__Status *st;
    uint8_t *p;
    int e = rpc_error_status(err, a, &st);

    if (e)
        return e;
    p = arena_alloc(a, google__rpc__status__get_packed_size(st));
    if (!p)
        return -ENOMEM;
    *ret = bytes_of(p, google__rpc__status__pack(st, p));
    return 0;
}

/* NULL when `any` is not that type or not well formed: details are extras, so what cannot be read is left out. */
static const ProtobufCMessage *detail(const Google__Protobuf__Any *any, const ProtobufCMessageDescriptor *d,
                                      ProtobufCAllocator *allocator) {
    struct bytes in = bytes_of(any->value.data, any->value.len);
    const char *name = strrchr(any->type_url, '/');
    struct wire_fault fault;

    if (!name || strcmp(name + 1, d->name) != 0 || wire_check(d, in, WIRE_FROM_SERVER, &fault))
        return NULL;
    return protobuf_c_message_unpack(d, allocator, in.n, in.p);
}

int status_unpack(struct bytes in, struct arena *a, struct status_details *ret) {
    ProtobufCAllocator allocator = payload_allocator(a);
    struct wire_fault fault;
    Google__Rpc__Status *st;

    if (wire_check(&google__rpc__status__descriptor, in, WIRE_FROM_SERVER, &fault))
        return -EINVAL;
    st = google__rpc__status__unpack(&allocator, in.n, in.p);
    if (!st)
        return -ENOMEM;
    *ret = (struct status_details){.code = st->code, .message = st->message};
    for (size_t i = 0; i < st->n_details; i++) {
        const Google__Protobuf__Any *any = st->details[i];
        const ProtobufCMessage *m;

        if ((m = detail(any, &google__rpc__error_info__descriptor, &allocator)) && !ret->reason) {
            ret->info = (const Google__Rpc__ErrorInfo *)m;
            ret->reason = ret->info->reason;
        } else if ((m = detail(any, &google__rpc__bad_request__descriptor, &allocator)) && !ret->field) {
            const Google__Rpc__BadRequest *bad = (const Google__Rpc__BadRequest *)m;

            if (bad->n_field_violations > 0) {
                ret->field = bad->field_violations[0]->field;
                ret->field_description = bad->field_violations[0]->description;
            }
        } else if ((m = detail(any, &google__rpc__retry_info__descriptor, &allocator))) {
            const Google__Rpc__RetryInfo *retry = (const Google__Rpc__RetryInfo *)m;

            if (retry->retry_delay && retry->retry_delay->seconds >= 0 &&
                retry->retry_delay->seconds < RETRY_SECONDS_MAX)
                ret->retry_after_ms = retry->retry_delay->seconds * 1000 + retry->retry_delay->nanos / 1000000;
        }
    }
    return 0;
}
