/* JSON as the command line and the stores read it: text -> message -> text -> message gives the same message. */
#include "base/mem.h"
#include "fuzz.h"
#include "rpc/jsonpb.h"
#include "txmsg/v1/admin_service.pb-c.h"
#include "txmsg/v1/message_service.pb-c.h"

#include <string.h>

static const ProtobufCMessageDescriptor *const kinds[] = {
    &txmsg__v1__topology__descriptor,           &txmsg__v1__subscription__descriptor,
    &txmsg__v1__producer__descriptor,           &txmsg__v1__prepare_request__descriptor,
    &txmsg__v1__batch_request__descriptor,      &txmsg__v1__list_transactions_request__descriptor,
    &txmsg__v1__batch_response__descriptor,     &txmsg__v1__transaction__descriptor,
    &txmsg__v1__dead_letter_filter__descriptor, &google__rpc__status__descriptor,
};

static void same(const ProtobufCMessage *a, const ProtobufCMessage *b) {
    size_t n = protobuf_c_message_get_packed_size(a);
    FUZZ_CHECK(n == protobuf_c_message_get_packed_size(b));
    CLEANUP_FREE uint8_t *x = mem_alloc(n), *y = mem_alloc(n);
    protobuf_c_message_pack(a, x);
    protobuf_c_message_pack(b, y);
    FUZZ_CHECK(!memcmp(x, y, n));
}

static void round_trip(const ProtobufCMessageDescriptor *d, const ProtobufCMessage *m) {
    struct errmsg e = ERRMSG_NULL;
    struct arena a;
    struct buf text;
    ProtobufCMessage *again;
    arena_init(&a, 16 << 20);
    buf_init(&text, 16 << 20);
    CLEANUP_JSON json_t *out = jsonpb_print(m);
    FUZZ_CHECK(out && json_write(&text, out) == 0);
    CLEANUP_JSON json_t *in = json_parse(buf_bytes(&text), &e);
    if (!in || jsonpb_parse(d, in, &a, &again, &e) < 0) {
        fprintf(stderr, "%s\n%.*s\n", e.text, (int)text.n, (const char *)text.p);
        abort();
    }
    same(m, again);
    buf_deinit(&text);
    arena_deinit(&a);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct errmsg e = ERRMSG_NULL;
    const ProtobufCMessageDescriptor *d = kinds[fuzz_choice(&data, &size) % ARRAY_LEN(kinds)];
    ProtobufCMessage *m;
    struct arena a;
    CLEANUP_JSON json_t *j = json_parse(bytes_of(data, size), &e);
    if (!j) {
        FUZZ_CHECK(e.text[0]);
        return 0;
    }
    arena_init(&a, 16 << 20);
    int r = jsonpb_parse(d, j, &a, &m, &e);
    FUZZ_CHECK(r == 0 || e.text[0] || r == -ENOMEM);
    if (r == 0)
        round_trip(d, m);
    arena_deinit(&a);
    return 0;
}
