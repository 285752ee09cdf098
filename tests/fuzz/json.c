/* JSON as the command line and the stores read it: text -> message -> text -> message -> the same text. */
#include "fuzz.h"
#include "rpc/jsonpb.h"
#include "txmsg/v1/admin_service.pb-c.h"
#include "txmsg/v1/message_service.pb-c.h"

static const ProtobufCMessageDescriptor *const kinds[] = {
    &txmsg__v1__topology__descriptor,           &txmsg__v1__subscription__descriptor,
    &txmsg__v1__producer__descriptor,           &txmsg__v1__prepare_request__descriptor,
    &txmsg__v1__batch_request__descriptor,      &txmsg__v1__list_transactions_request__descriptor,
    &txmsg__v1__batch_response__descriptor,     &txmsg__v1__transaction__descriptor,
    &txmsg__v1__dead_letter_filter__descriptor, &google__rpc__status__descriptor,
};

static void print(const ProtobufCMessage *m, struct buf *text) {
    CLEANUP_JSON json_t *out = jsonpb_print(m);
    buf_init(text, 16 << 20);
    FUZZ_CHECK(out && json_write(text, out) == 0);
}

/* By the text: reals are written with 15 digits. */
static void round_trip(const ProtobufCMessageDescriptor *d, const ProtobufCMessage *m) {
    struct errmsg e = ERRMSG_NULL;
    struct arena a;
    struct buf first, second;
    ProtobufCMessage *again;
    arena_init(&a, 16 << 20);
    print(m, &first);
    CLEANUP_JSON json_t *in = json_parse(buf_bytes(&first), &e);
    if (!in || jsonpb_parse(d, in, &a, &again, &e) < 0) {
        fprintf(stderr, "%s\n%s\n", e.text, buf_str(&first));
        abort();
    }
    print(again, &second);
    FUZZ_CHECK(bytes_eq(buf_bytes(&first), buf_bytes(&second)));
    buf_deinit(&first);
    buf_deinit(&second);
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
