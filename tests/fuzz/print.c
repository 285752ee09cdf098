/* What a server may send to the command line: wire bytes that pass the check are unpacked and shown as JSON. */
#include "base/mem.h"
#include "fuzz.h"
#include "google/rpc/status.pb-c.h"
#include "rpc/jsonpb.h"
#include "rpc/payload.h"
#include "rpc/status.h"
#include "rpc/wire.h"
#include "txmsg/v1/admin_service.pb-c.h"
#include "txmsg/v1/message_service.pb-c.h"

static const ProtobufCMessageDescriptor *const kinds[] = {
    &google__rpc__status__descriptor,
    &txmsg__v1__batch_response__descriptor,
    &txmsg__v1__get_transaction_response__descriptor,
    &txmsg__v1__list_transactions_response__descriptor,
    &txmsg__v1__export_topology_response__descriptor,
    &txmsg__v1__apply_topology_response__descriptor,
    &txmsg__v1__list_dead_letters_response__descriptor,
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const ProtobufCMessageDescriptor *d = kinds[fuzz_choice(&data, &size) % ARRAY_LEN(kinds)];
    struct bytes in = bytes_of(data, size);
    struct wire_fault fault;
    struct arena a;
    struct buf text;
    arena_init(&a, 256 << 20);
    if (d == kinds[0]) {
        struct status_details details;
        (void)!status_unpack(in, &a, &details);
    }
    if (wire_check(d, in, WIRE_FROM_SERVER, &fault)) {
        FUZZ_CHECK(fault.reason && fault.description);
        arena_deinit(&a);
        return 0;
    }
    ProtobufCAllocator allocator = payload_allocator(&a);
    ProtobufCMessage *m = protobuf_c_message_unpack(d, &allocator, in.n, in.p);
    FUZZ_CHECK(m);
    CLEANUP_JSON json_t *j = jsonpb_print(m);
    FUZZ_CHECK(j);
    buf_init(&text, 256 << 20);
    FUZZ_CHECK(json_write(&text, j) == 0);
    buf_deinit(&text);
    arena_deinit(&a);
    return 0;
}
