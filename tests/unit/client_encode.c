/* libtxmsg: what is written by hand is what the generated code reads. */
#include "encode.h"

#include "txmsg/v1/message_service.pb-c.h"
#include "txmsg/view.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

static const txmsg_id id = {"01a1fda4-3e4e-7a28-aa69-48f54cbe73eb"};
static const struct bytes producer = BYTES_LIT("shop");
static uint8_t bytes[1 << 20];

/* The request of a call, and what it says of itself beforehand. Its begin; it ends with `bytes`. */
static uint8_t *encode(const struct call *c) {
    size_t fields, bound = encode_bound(c, producer, &fields);
    uint8_t *end = bytes + sizeof(bytes), *request = encode_request(c, producer, end);

    assert_true((size_t)(end - request) <= bound);
    return request;
}

/* The request in a frame of one, read back by the generated code. */
static Txmsg__V1__PipelineRequest *round_trip(const struct call *c, uint64_t tag) {
    uint8_t *request = encode(c), *end = bytes + sizeof(bytes), head[ENCODE_TAG_MAX];
    uint8_t *operation = encode_operation(c->kind, (size_t)(end - request), request);
    size_t n = (size_t)(encode_tag(tag, (size_t)(end - operation), head) - head);
    uint8_t *begin = operation - n;

    assert_true(request - operation <= ENCODE_OPERATION_MAX);
    assert_true(n <= ENCODE_TAG_MAX);
    memcpy(begin, head, n);
    Txmsg__V1__PipelineRequest *frame = txmsg__v1__pipeline_request__unpack(NULL, (size_t)(end - begin), begin);
    assert_non_null(frame);
    assert_int_equal(frame->n_operations, 1);
    assert_true(frame->operations[0]->tag == tag);
    assert_int_equal(protobuf_c_message_get_packed_size(&frame->base),
                     end - begin); /* nothing unknown, nothing twice */
    return frame;
}

static txmsg_call_options *options(void) {
    txmsg_call_options *o = txmsg_call_options_new();

    assert_non_null(o);
    return o;
}

static txmsg_message *full_message(size_t body) {
    txmsg_message *m = txmsg_message_new("orders");
    char *content = mem_zalloc(body);

    assert_int_equal(txmsg_message_set_body(m, content, body), TXMSG_OK);
    assert_int_equal(txmsg_message_set_key(m, "k\0y", 3), TXMSG_OK);
    assert_int_equal(txmsg_message_set_content_type(m, "application/json"), TXMSG_OK);
    assert_int_equal(txmsg_message_add_header(m, "one", "1"), TXMSG_OK);
    assert_int_equal(txmsg_message_add_header(m, "empty", ""), TXMSG_OK);
    assert_int_equal(txmsg_message_set_deliver_at(m, 1700000000000001), TXMSG_OK);
    assert_int_equal(txmsg_message_set_expire_at(m, 1700000001000000), TXMSG_OK);
    mem_free(content);
    return m;
}

static void test_prepare(void **state) {
    txmsg_message *full = full_message(300), *bare = txmsg_message_new("t");
    const txmsg_message *const both[] = {full, bare};
    txmsg_call_options *o = options();
    const struct call c = {.kind = OP_PREPARE, .id = &id, .messages = both, .n = 2, .options = o};
    assert_int_equal(txmsg_call_options_set_business_key(o, "order 1"), TXMSG_OK);
    assert_int_equal(txmsg_call_options_set_check_after_ms(o, 90500), TXMSG_OK);
    assert_int_equal(txmsg_call_options_set_reason(o, "of a Cancel alone"), TXMSG_OK);
    assert_int_equal(txmsg_call_options_set_body(o, 0, "of a Confirm alone", 18), TXMSG_OK);
    Txmsg__V1__PipelineRequest *frame = round_trip(&c, 300);
    const Txmsg__V1__Operation *operation = frame->operations[0]->operation;

    assert_int_equal(operation->operation_case, TXMSG__V1__OPERATION__OPERATION_PREPARE);
    assert_string_equal(operation->prepare->transaction_id, id.text);
    assert_string_equal(operation->prepare->producer, "shop");
    assert_string_equal(operation->prepare->business_key, "order 1");
    assert_int_equal(operation->prepare->check_after->seconds, 90);
    assert_int_equal(operation->prepare->check_after->nanos, 500000000);
    assert_int_equal(operation->prepare->n_messages, 2);
    const Txmsg__V1__Message *m = operation->prepare->messages[0];
    assert_string_equal(m->topic, "orders");
    assert_int_equal(m->key.len, 3);
    assert_memory_equal(m->key.data, "k\0y", 3);
    assert_int_equal(m->body.len, 300);
    assert_string_equal(m->content_type, "application/json");
    assert_int_equal(m->n_headers, 2);
    assert_string_equal(m->headers[1]->key, "empty");
    assert_string_equal(m->headers[1]->value, "");
    assert_int_equal(m->deliver_at->seconds, 1700000000);
    assert_int_equal(m->deliver_at->nanos, 1000);
    assert_int_equal(m->expire_at->seconds, 1700000001);
    assert_int_equal(m->expire_at->nanos, 0);
    assert_string_equal(operation->prepare->messages[1]->topic, "t");
    assert_int_equal(operation->prepare->messages[1]->body.len, 0);
    txmsg__v1__pipeline_request__free_unpacked(frame, NULL);
    txmsg_call_options_free(o);
    txmsg_message_free(full);
    txmsg_message_free(bare);
}

static void test_others(void **state) {
    txmsg_message *m = txmsg_message_new("t");
    assert_int_equal(txmsg_message_set_body_later(m, 1), TXMSG_OK);
    const txmsg_message *const one[] = {m};
    struct call c = {.kind = OP_PUBLISH, .id = &id, .messages = one, .n = 1};
    Txmsg__V1__PipelineRequest *frame = round_trip(&c, 1);

    assert_int_equal(frame->operations[0]->operation->operation_case, TXMSG__V1__OPERATION__OPERATION_PUBLISH);
    assert_int_equal(frame->operations[0]->operation->publish->n_messages, 1);
    assert_true(frame->operations[0]->operation->publish->messages[0]->body_later);
    txmsg__v1__pipeline_request__free_unpacked(frame, NULL);
    c.kind = OP_CONFIRM; /* of messages that are not its own nothing is said */
    frame = round_trip(&c, UINT64_MAX);
    assert_string_equal(frame->operations[0]->operation->confirm->transaction_id, id.text);
    txmsg__v1__pipeline_request__free_unpacked(frame, NULL);
    txmsg_call_options *o = options();
    assert_int_equal(txmsg_call_options_set_body(o, 0, "first", 5), TXMSG_OK);
    assert_int_equal(txmsg_call_options_set_body(o, 300, "third", 5), TXMSG_OK);
    assert_int_equal(txmsg_call_options_set_body(o, 0, "", 0), TXMSG_OK);
    assert_int_equal(bodies_set(&o->bodies, 300, bytes, 101, 100), TXMSG_ERROR_INVALID);
    assert_int_equal(o->bodies.size, 5);
    c.options = o;
    frame = round_trip(&c, 7);
    const Txmsg__V1__ConfirmRequest *confirm = frame->operations[0]->operation->confirm;
    assert_int_equal(confirm->n_bodies, 2);
    assert_int_equal(confirm->bodies[0]->n, 0);
    assert_int_equal(confirm->bodies[0]->body.len, 0);
    assert_int_equal(confirm->bodies[1]->n, 300);
    assert_memory_equal(confirm->bodies[1]->body.data, "third", 5);
    txmsg__v1__pipeline_request__free_unpacked(frame, NULL);
    assert_int_equal(txmsg_call_options_set_reason(o, "no stock"), TXMSG_OK);
    c.kind = OP_CANCEL;
    frame = round_trip(&c, 1 << 20);
    assert_string_equal(frame->operations[0]->operation->cancel->reason, "no stock");
    txmsg__v1__pipeline_request__free_unpacked(frame, NULL);
    txmsg_call_options_free(o);
    txmsg_message_free(m);
}

static void test_get(void **state) {
    txmsg_call_options *o = options();
    const struct call c = {.kind = OP_GET, .id = &id, .options = o};

    for (int bodies = 0; bodies < 2; bodies++) {
        assert_int_equal(txmsg_call_options_set_include_bodies(o, bodies), TXMSG_OK);
        const uint8_t *begin = encode(&c);
        Txmsg__V1__GetTransactionRequest *request =
            txmsg__v1__get_transaction_request__unpack(NULL, (size_t)(bytes + sizeof(bytes) - begin), begin);
        assert_non_null(request);
        assert_string_equal(request->transaction_id, id.text);
        assert_int_equal(request->include_bodies, bodies);
        txmsg__v1__get_transaction_request__free_unpacked(request, NULL);
    }
    txmsg_call_options_free(o);
}

/* Lengths of one, two and three bytes as varints, and the borders between. */
static void test_sizes(void **state) {
    static const size_t sizes[] = {1, 60, 61, 62, 100, 126, 127, 128, 129, 16000, 16250, 16383, 16384, 500000};

    for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
        txmsg_message *m = full_message(sizes[i]);
        const txmsg_message *const one[] = {m};
        const struct call c = {.kind = OP_PREPARE, .id = &id, .messages = one, .n = 1};

        for (unsigned bit = 0; bit < 64; bit++) {
            Txmsg__V1__PipelineRequest *frame = round_trip(&c, UINT64_C(1) << bit);
            assert_int_equal(frame->operations[0]->operation->prepare->messages[0]->body.len, sizes[i]);
            txmsg__v1__pipeline_request__free_unpacked(frame, NULL);
        }
        txmsg_message_free(m);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_prepare), cmocka_unit_test(test_others),
                                       cmocka_unit_test(test_get), cmocka_unit_test(test_sizes)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
