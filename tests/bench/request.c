/*
 * The generated code packs each kind of request once, with a placeholder for every id. All ids are texts of 36
 * characters, so nothing but these characters differs between two requests of a kind, and all items of a batch are
 * equally long: the places are `first`, `first + stride`, ...
 */
#include "request.h"

#include "base/crypto.h"
#include "rpc/wire.h"
#include "txmsg/v1/message_service.pb-c.h"

enum { ID_CHARS = UUID_TEXT - 1, INTERNAL = 13, CODES = 17 };

static char placeholder[] = "00000000-0000-7000-8000-000000000000";

/* protobuf-c has no const; it does not write. */
static char *text(const char *s) {
    return (char *)(uintptr_t)s;
}

const char *request_path(enum request_kind kind) {
    static const char *const paths[REQUEST_KINDS] = {
        [REQUEST_PREPARE] = "/txmsg.v1.MessageService/Prepare", [REQUEST_CONFIRM] = "/txmsg.v1.MessageService/Confirm",
        [REQUEST_CANCEL] = "/txmsg.v1.MessageService/Cancel",   [REQUEST_PUBLISH] = "/txmsg.v1.MessageService/Publish",
        [REQUEST_BATCH] = "/txmsg.v1.MessageService/Batch",
    };
    return paths[kind];
}

static int pack(struct request *r, const ProtobufCMessage *m) {
    size_t n = protobuf_c_message_get_packed_size(m);
    uint8_t *p = mem_alloc(n), *first, *second;
    if (!p)
        return -ENOMEM;
    protobuf_c_message_pack(m, p);
    first = memmem(p, n, placeholder, ID_CHARS);
    ASSERT(first);
    second = memmem(first + 1, n - (size_t)(first + 1 - p), placeholder, ID_CHARS);
    *r = (struct request){.bytes = p,
                          .n = n,
                          .first = (size_t)(first - p),
                          .stride = second ? (size_t)(second - first) : 0,
                          .ids = r->ids};
    ASSERT(!second == (r->ids == 1));
    return 0;
}

static int pack_batch(struct request *r, Txmsg__V1__PublishRequest *publish, size_t ids) {
    Txmsg__V1__BatchRequest batch = TXMSG__V1__BATCH_REQUEST__INIT;
    Txmsg__V1__Operation operation = TXMSG__V1__OPERATION__INIT;
    CLEANUP_FREE Txmsg__V1__Operation **all = mem_calloc(ids, sizeof(*all));
    if (!all)
        return -ENOMEM;
    operation.operation_case = TXMSG__V1__OPERATION__OPERATION_PUBLISH;
    operation.publish = publish;
    for (size_t i = 0; i < ids; i++)
        all[i] = &operation;
    batch.operations = all;
    batch.n_operations = r->ids = ids;
    return pack(r, &batch.base);
}

static int pack_kind(struct request *r, enum request_kind kind, const struct request_options *o,
                     Txmsg__V1__Message **messages) {
    Txmsg__V1__PrepareRequest prepare = TXMSG__V1__PREPARE_REQUEST__INIT;
    Txmsg__V1__PublishRequest publish = TXMSG__V1__PUBLISH_REQUEST__INIT;
    Txmsg__V1__ConfirmRequest confirm = TXMSG__V1__CONFIRM_REQUEST__INIT;
    Txmsg__V1__CancelRequest cancel = TXMSG__V1__CANCEL_REQUEST__INIT;
    prepare.transaction_id = publish.transaction_id = confirm.transaction_id = cancel.transaction_id = placeholder;
    prepare.producer = publish.producer = confirm.producer = cancel.producer = text(o->producer);
    prepare.messages = publish.messages = messages;
    prepare.n_messages = publish.n_messages = 1;
    switch (kind) {
    case REQUEST_PREPARE:
        return pack(r, &prepare.base);
    case REQUEST_CONFIRM:
        return pack(r, &confirm.base);
    case REQUEST_CANCEL:
        return pack(r, &cancel.base);
    case REQUEST_PUBLISH:
        return pack(r, &publish.base);
    case REQUEST_BATCH:
        return pack_batch(r, &publish, o->ids);
    default:
        UNREACHABLE();
    }
}

int request_init(struct request *r, enum request_kind kind, const struct request_options *o) {
    Txmsg__V1__Message message = TXMSG__V1__MESSAGE__INIT, *messages[] = {&message};
    CLEANUP_FREE uint8_t *body = mem_alloc(o->body);
    if (!body)
        return -ENOMEM;
    if (!text_is_name(bytes_str(o->producer)) || !text_is_name(bytes_str(o->topic)))
        return -EINVAL;
    crypto_random(body, o->body);
    message.topic = text(o->topic);
    message.body = (ProtobufCBinaryData){.len = o->body, .data = body};
    *r = (struct request){.ids = 1};
    return pack_kind(r, kind, o, messages);
}

void request_deinit(struct request *r) {
    mem_free(r->bytes);
    *r = (struct request){0};
}

grpc_slice request_pack(const struct request *r, const struct uuid *ids) {
    grpc_slice slice = grpc_slice_malloc(r->n);
    uint8_t *p = GRPC_SLICE_START_PTR(slice);
    char id[UUID_TEXT];
    memcpy(p, r->bytes, r->n);
    for (size_t i = 0; i < r->ids; i++) {
        uuid_format(&ids[i], id);
        memcpy(p + r->first + i * r->stride, id, ID_CHARS);
    }
    return slice;
}

/* The code of an OperationResult: field 1 is a status, field 2 a google.rpc.Status whose field 1 is the code. */
static int item_code(struct bytes item) {
    struct wire_reader r = wire_reader(item);
    struct wire_field f;
    if (wire_next(&r, &f) != 1 || f.type != WIRE_BYTES)
        return INTERNAL;
    if (f.id == 1)
        return 0;
    r = wire_reader(f.bytes);
    if (wire_next(&r, &f) != 1 || f.id != 1 || f.type != WIRE_VARINT || f.value == 0 || f.value >= CODES)
        return INTERNAL;
    return (int)f.value;
}

void request_batch_result(struct bytes response, size_t items, uint64_t errors[17], uint64_t *ok) {
    struct wire_reader r = wire_reader(response);
    struct wire_field f;
    size_t seen = 0;
    while (seen < items && wire_next(&r, &f) == 1 && f.id == 1 && f.type == WIRE_BYTES) {
        int code = item_code(f.bytes);
        if (code)
            errors[code]++;
        else
            ++*ok;
        seen++;
    }
    errors[INTERNAL] += items - seen;
}
