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

const char *request_path(enum request_kind kind, enum request_form form) {
    static const char *const paths[REQUEST_KINDS] = {
        [REQUEST_PREPARE] = "/txmsg.v1.MessageService/Prepare",
        [REQUEST_CONFIRM] = "/txmsg.v1.MessageService/Confirm",
        [REQUEST_CANCEL] = "/txmsg.v1.MessageService/Cancel",
        [REQUEST_PUBLISH] = "/txmsg.v1.MessageService/Publish",
    };
    return form == REQUEST_BATCH    ? "/txmsg.v1.MessageService/Batch"
           : form == REQUEST_TAGGED ? "/txmsg.v1.MessageService/Pipeline"
                                    : paths[kind];
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

static int pack_batch(struct request *r, Txmsg__V1__Operation *operation, size_t ids) {
    Txmsg__V1__BatchRequest batch = TXMSG__V1__BATCH_REQUEST__INIT;
    CLEANUP_FREE Txmsg__V1__Operation **all = mem_calloc(ids, sizeof(*all));
    if (!all)
        return -ENOMEM;
    for (size_t i = 0; i < ids; i++)
        all[i] = operation;
    batch.operations = all;
    batch.n_operations = r->ids = ids;
    return pack(r, &batch.base);
}

/* The tag is the first field of the only operation: behind the key and the length of that, and its own key. */
static int pack_tagged(struct request *r, Txmsg__V1__Operation *operation) {
    Txmsg__V1__TaggedOperation tagged = TXMSG__V1__TAGGED_OPERATION__INIT, *all[] = {&tagged};
    Txmsg__V1__PipelineRequest frame = TXMSG__V1__PIPELINE_REQUEST__INIT;
    tagged.tag = REQUEST_TAG_MIN;
    tagged.operation = operation;
    frame.operations = all;
    frame.n_operations = 1;
    int e = pack(r, &frame.base);
    if (e < 0)
        return e;
    r->tag = 1;
    while (r->bytes[r->tag++] & 0x80)
        ;
    ASSERT(r->bytes[r->tag] == 1 << 3);
    r->tag++;
    return 0;
}

static int pack_kind(struct request *r, enum request_kind kind, const struct request_options *o,
                     Txmsg__V1__Message **messages) {
    Txmsg__V1__PrepareRequest prepare = TXMSG__V1__PREPARE_REQUEST__INIT;
    Txmsg__V1__PublishRequest publish = TXMSG__V1__PUBLISH_REQUEST__INIT;
    Txmsg__V1__ConfirmRequest confirm = TXMSG__V1__CONFIRM_REQUEST__INIT;
    Txmsg__V1__CancelRequest cancel = TXMSG__V1__CANCEL_REQUEST__INIT;
    Txmsg__V1__Operation operation = TXMSG__V1__OPERATION__INIT;
    const ProtobufCMessage *single[REQUEST_KINDS] = {&prepare.base, &confirm.base, &cancel.base, &publish.base};
    prepare.transaction_id = publish.transaction_id = confirm.transaction_id = cancel.transaction_id = placeholder;
    prepare.producer = publish.producer = confirm.producer = cancel.producer = text(o->producer);
    prepare.messages = publish.messages = messages;
    prepare.n_messages = publish.n_messages = 1;
    if (o->form == REQUEST_SINGLE)
        return pack(r, single[kind]);
    switch (kind) {
    case REQUEST_PREPARE:
        operation.operation_case = TXMSG__V1__OPERATION__OPERATION_PREPARE;
        operation.prepare = &prepare;
        break;
    case REQUEST_CONFIRM:
        operation.operation_case = TXMSG__V1__OPERATION__OPERATION_CONFIRM;
        operation.confirm = &confirm;
        break;
    case REQUEST_CANCEL:
        operation.operation_case = TXMSG__V1__OPERATION__OPERATION_CANCEL;
        operation.cancel = &cancel;
        break;
    case REQUEST_PUBLISH:
        operation.operation_case = TXMSG__V1__OPERATION__OPERATION_PUBLISH;
        operation.publish = &publish;
        break;
    default:
        UNREACHABLE();
    }
    return o->form == REQUEST_BATCH ? pack_batch(r, &operation, o->ids) : pack_tagged(r, &operation);
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

void request_put_tagged(const struct request *r, const struct uuid *id, uint32_t tag, uint8_t *out) {
    char text_of_id[UUID_TEXT];
    ASSERT(tag >= REQUEST_TAG_MIN && tag <= REQUEST_TAG_MAX);
    memcpy(out, r->bytes, r->n);
    uuid_format(id, text_of_id);
    memcpy(out + r->first, text_of_id, ID_CHARS);
    for (size_t i = 0; i < 4; i++)
        out[r->tag + i] = (uint8_t)((tag >> (7 * i) & 0x7f) | (i < 3 ? 0x80 : 0));
}

/* The code of an OperationResult: field 1 is a status, field 2 a google.rpc.Status of 1, the code, and 2, the message. */
static int item_code(struct bytes item, struct bytes *message) {
    struct wire_reader r = wire_reader(item);
    struct wire_field f;
    *message = BYTES_NULL;
    if (wire_next(&r, &f) != 1 || f.type != WIRE_BYTES)
        return INTERNAL;
    if (f.id == 1)
        return 0;
    r = wire_reader(f.bytes);
    if (wire_next(&r, &f) != 1 || f.id != 1 || f.type != WIRE_VARINT || f.value == 0 || f.value >= CODES)
        return INTERNAL;
    int code = (int)f.value;
    if (wire_next(&r, &f) == 1 && f.id == 2 && f.type == WIRE_BYTES)
        *message = f.bytes;
    return code;
}

void request_batch_result(struct bytes response, size_t items, uint64_t errors[17], uint64_t *ok) {
    struct wire_reader r = wire_reader(response);
    struct bytes message;
    struct wire_field f;
    size_t seen = 0;
    while (seen < items && wire_next(&r, &f) == 1 && f.id == 1 && f.type == WIRE_BYTES) {
        int code = item_code(f.bytes, &message);
        if (code)
            errors[code]++;
        else
            ++*ok;
        seen++;
    }
    errors[INTERNAL] += items - seen;
}

int request_stream_result(struct wire_reader *frame, struct request_result *ret, uint64_t *credit) {
    struct wire_field f;
    int r;
    while ((r = wire_next(frame, &f)) == 1) {
        if (f.id == 2 && f.type == WIRE_VARINT)
            *credit += f.value;
        if (f.id != 1 || f.type != WIRE_BYTES)
            continue;
        *ret = (struct request_result){.code = INTERNAL};
        struct wire_reader row = wire_reader(f.bytes);
        while ((r = wire_next(&row, &f)) == 1) {
            if (f.id == 1 && f.type == WIRE_VARINT)
                ret->tag = f.value;
            else if (f.id == 2 && f.type == WIRE_BYTES)
                ret->code = item_code(f.bytes, &ret->text);
        }
        return r < 0 ? r : 1;
    }
    return r;
}
