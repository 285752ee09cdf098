/* Hostile bytes are refused with the right reason and path, and whatever passes is what protobuf-c can unpack. */
#include "rpc/wire.h"

#include "google/rpc/status.pb-c.h"
#include "grpc/reflection/v1/reflection.pb-c.h"
#include "rpc/payload.h"
#include "txmsg/v1/message_service.pb-c.h"
#include "txmsg/v1/topology.pb-c.h"

#include <setjmp.h>
#include <cmocka.h>

static const ProtobufCMessageDescriptor *const prepare = &txmsg__v1__prepare_request__descriptor;

static struct wire_fault fault;

static int check(const ProtobufCMessageDescriptor *d, const void *p, size_t n) {
    memset(&fault, 0, sizeof(fault));
    return wire_check(d, bytes_of(p, n), WIRE_FROM_CLIENT, &fault);
}
#define CHECK(d, literal) check((d), (literal), sizeof(literal) - 1)
#define REFUSED(d, literal, reason_, field_)                                                                           \
    do {                                                                                                               \
        assert_int_equal(CHECK(d, literal), 1);                                                                        \
        assert_string_equal(fault.reason, reason_);                                                                    \
        assert_string_equal(fault.field, field_);                                                                      \
    } while (0)

static void test_reader(void **state) {
    struct wire_reader r =
        wire_reader(BYTES_LIT("\x08\x96\x01\x12\x02hi\x1d\x01\x00\x00\x00\x21\x02\x00\x00\x00\x00\x00\x00\x80"));
    struct wire_field f;

    assert_int_equal(wire_next(&r, &f), 1);
    assert_int_equal(f.id, 1);
    assert_int_equal(f.value, 150);
    assert_int_equal(wire_next(&r, &f), 1);
    assert_true(bytes_eq_str(f.bytes, "hi"));
    assert_int_equal(wire_next(&r, &f), 1);
    assert_int_equal(f.type, WIRE_32);
    assert_int_equal(f.value, 1);
    assert_int_equal(wire_next(&r, &f), 1);
    assert_true(f.value == 0x8000000000000002ull);
    assert_int_equal(wire_next(&r, &f), 0);
    assert_int_equal(wire_next(&r, &f), 0);
}

static void test_varints(void **state) {
    static const struct {
        const char *bytes;
        size_t n;
        int result;
        uint64_t value;
    } cases[] = {
        {"", 0, 0, 0},
        {"\x00", 1, 1, 0},
        {"\x7f", 1, 1, 127},
        {"\x80\x01", 2, 1, 128},
        {"\x80\x00", 2, 1, 0}, /* padded: every parser takes it */
        {"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 10, 1, UINT64_MAX},
        {"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02", 10, -EINVAL, 0},
        {"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f", 10, -EINVAL, 0},
        {"\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01", 11, -EINVAL, 0},
        {"\x80", 1, -EINVAL, 0},
        {"\xff\xff", 2, -EINVAL, 0},
    };

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct wire_reader r = wire_reader(bytes_of(cases[i].bytes, cases[i].n));
        uint64_t v = 0;

        assert_int_equal(wire_varint(&r, &v), cases[i].result);
        assert_true(v == cases[i].value);
    }
}

static void test_good(void **state) {
    assert_int_equal(CHECK(prepare, ""), 0);
    assert_int_equal(check(prepare, NULL, 0), 0);
    assert_int_equal(CHECK(prepare, "\x0a\x03"
                                    "abc"
                                    "\x12\x06"
                                    "\xc3\xa4\xe2\x82\xac"
                                    "x"),
                     0);
    /* messages { headers { key: "k" value: "v" } } */
    assert_int_equal(CHECK(prepare, "\x1a\x08\x2a\x06\x0a\x01k\x12\x01v"), 0);
}

static void test_malformed(void **state) {
    REFUSED(prepare, "\x0a", "MALFORMED_REQUEST", ""); /* no length */
    REFUSED(prepare,
            "\x0a\x05"
            "abc",
            "MALFORMED_REQUEST", "");                                          /* cut */
    REFUSED(prepare, "\x0a\xff\xff\xff\xff\x0f", "MALFORMED_REQUEST", "");     /* 4 GiB */
    REFUSED(prepare, "\x0a\x80\x80\x80\x80\x80\x00", "MALFORMED_REQUEST", ""); /* a length of six bytes */
    REFUSED(prepare, "\x02\x00", "MALFORMED_REQUEST", "");                     /* field number 0 */
    REFUSED(prepare, "\x80\x00\x00", "MALFORMED_REQUEST", "");                 /* the same, padded */
    REFUSED(prepare, "\x0b\x0c", "MALFORMED_REQUEST", "");                     /* a group */
    REFUSED(prepare, "\x0f", "MALFORMED_REQUEST", "");                         /* wire type 7 */
    REFUSED(prepare, "\x08\x01", "MALFORMED_REQUEST", "transaction_id");       /* a string as a number */
    REFUSED(prepare, "\x18\x01", "MALFORMED_REQUEST", "messages[0]");
    REFUSED(prepare, "\x1a\x02\x0a\x05", "MALFORMED_REQUEST", "messages[0]");
    REFUSED(prepare,
            "\xba\x3e\x05"
            "abc",
            "MALFORMED_REQUEST", ""); /* an unknown field, cut */
    /* check_after { } twice */
    REFUSED(prepare, "\x2a\x00\x2a\x00", "MALFORMED_REQUEST", "check_after");
}

static void test_text(void **state) {
    REFUSED(prepare,
            "\x0a\x03"
            "a\0b",
            "INVALID_TEXT", "transaction_id");
    REFUSED(prepare, "\x12\x01\xff", "INVALID_TEXT", "producer");
    REFUSED(prepare, "\x12\x02\xc0\x80", "INVALID_TEXT", "producer");     /* an overlong NUL */
    REFUSED(prepare, "\x12\x03\xed\xa0\x80", "INVALID_TEXT", "producer"); /* a surrogate */
    REFUSED(prepare, "\x12\x02\xe2\x82", "INVALID_TEXT", "producer");     /* cut in a character */
    /* messages {} messages {} messages { headers { key: "\xff" } } */
    REFUSED(prepare, "\x1a\x00\x1a\x00\x1a\x05\x2a\x03\x0a\x01\xff", "INVALID_TEXT", "messages[2].headers.key");
    /* bytes may hold anything: messages { body: "\0\xff" } */
    assert_int_equal(CHECK(prepare, "\x1a\x04\x1a\x02\0\xff"), 0);
}

static void test_enums(void **state) {
    const ProtobufCMessageDescriptor *list = &txmsg__v1__list_transactions_request__descriptor;

    assert_int_equal(CHECK(list, "\x30\x04"), 0);
    REFUSED(list, "\x30\x63", "UNKNOWN_ENUM", "state");
    REFUSED(list, "\x30\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", "UNKNOWN_ENUM", "state");
    /* A newer server may know more than we do. */
    assert_int_equal(wire_check(list, BYTES_LIT("\x30\x63"), WIRE_FROM_SERVER, &fault), 0);
}

static void test_packed(void **state) {
    const ProtobufCMessageDescriptor *numbers = &grpc__reflection__v1__extension_number_response__descriptor;
    uint8_t many[3 + WIRE_REPEATED_MAX + 1] = {0x12, 0x81, 0x20}; /* 4097 zeros */

    assert_int_equal(CHECK(numbers, "\x12\x03\x01\x80\x01\x10\x05"), 0); /* packed and not, mixed */
    REFUSED(numbers, "\x12\x02\x01\x80", "MALFORMED_REQUEST", "extension_number[1]");
    assert_int_equal(check(numbers, many, sizeof(many)), 1);
    assert_string_equal(fault.reason, "TOO_MANY");
}

static void test_too_many(void **state) {
    enum { N = 2 * (WIRE_FIELDS_MAX + 1) };
    uint8_t *p = malloc(N);

    assert_non_null(p);
    for (size_t i = 0; i < N; i += 2) { /* messages {}, again and again */
        p[i] = 0x1a;
        p[i + 1] = 0;
    }
    assert_int_equal(check(prepare, p, 2 * WIRE_REPEATED_MAX), 0);
    assert_int_equal(check(prepare, p, 2 * WIRE_REPEATED_MAX + 2), 1);
    assert_string_equal(fault.reason, "TOO_MANY");
    assert_string_equal(fault.field, "messages[4096]");
    for (size_t i = 0; i < N; i += 2) /* transaction_id: "", again and again */
        p[i] = 0x0a;
    assert_int_equal(check(prepare, p, N), 1);
    assert_string_equal(fault.reason, "TOO_MANY");
    for (size_t i = 0; i < N; i += 2) /* unknown fields */
        p[i] = 0x78;
    assert_int_equal(check(prepare, p, 2 * WIRE_UNKNOWN_MAX), 0);
    assert_int_equal(check(prepare, p, 2 * WIRE_UNKNOWN_MAX + 2), 1);
    assert_string_equal(fault.reason, "TOO_MANY");
    free(p);
}

/* A descriptor that holds itself: no type of ours does, but the check must not trust that. */
static void test_depth(void **state) {
    ProtobufCFieldDescriptor field = {
        .name = "next", .id = 1, .label = PROTOBUF_C_LABEL_NONE, .type = PROTOBUF_C_TYPE_MESSAGE};
    ProtobufCIntRange ranges[] = {{1, 0}, {0, 1}};
    ProtobufCMessageDescriptor d = {.magic = PROTOBUF_C__MESSAGE_DESCRIPTOR_MAGIC,
                                    .name = "self",
                                    .short_name = "self",
                                    .n_fields = 1,
                                    .fields = &field,
                                    .n_field_ranges = 1,
                                    .field_ranges = ranges};
    uint8_t p[128], *at = p + sizeof(p);

    field.descriptor = &d;
    for (int depth = 1; depth <= 40; depth++) { /* from the inside out */
        size_t n = (size_t)(p + sizeof(p) - at);

        assert_int_equal(check(&d, at, n), depth <= WIRE_DEPTH_MAX ? 0 : 1);
        if (depth == WIRE_DEPTH_MAX + 1)
            assert_string_equal(fault.reason, "TOO_MANY");
        *--at = (uint8_t)n;
        *--at = 0x0a;
    }
}

static uint64_t seed = 88172645463325252ull;
static uint32_t next_random(void) {
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return (uint32_t)(seed >> 32);
}

/* Whatever the check lets through, protobuf-c takes: so NULL from it can only mean that memory is out. */
static void test_passes_means_unpacks(void **state) {
    static const ProtobufCMessageDescriptor *const types[] = {
        &txmsg__v1__prepare_request__descriptor,
        &txmsg__v1__batch_request__descriptor,
        &txmsg__v1__list_transactions_request__descriptor,
        &txmsg__v1__topology__descriptor,
        &grpc__reflection__v1__server_reflection_response__descriptor,
        &google__rpc__status__descriptor,
    };
    static const uint8_t start[] = "\x0a\x10\x0a\x03"
                                   "abc"
                                   "\x12\x02"
                                   "de"
                                   "\x1a\x05\x2a\x03\x0a\x01k\x18\x05\x22\x04\x08\x01\x10\x02";
    long passed = 0;
    struct arena a;

    arena_init(&a, 1 << 20);
    for (int round = 0; round < 300000; round++) {
        uint8_t p[64];
        size_t n = 1 + next_random() % sizeof(start);
        const ProtobufCMessageDescriptor *d = types[next_random() % ARRAY_LEN(types)];
        ProtobufCAllocator allocator = payload_allocator(&a);
        ProtobufCMessage *m;

        memcpy(p, start, n);
        for (uint32_t change = next_random() % 6; change > 0; change--)
            p[next_random() % n] = next_random() % 3 ? (uint8_t)(next_random() % 0x32) : (uint8_t)next_random();
        if (check(d, p, n))
            continue;
        passed++;
        m = protobuf_c_message_unpack(d, &allocator, n, p);
        assert_non_null(m);
        assert_true(protobuf_c_message_check(m));
        arena_reset(&a);
    }
    assert_true(passed > 1000);
    arena_deinit(&a);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reader), cmocka_unit_test(test_varints),
        cmocka_unit_test(test_good),   cmocka_unit_test(test_malformed),
        cmocka_unit_test(test_text),   cmocka_unit_test(test_enums),
        cmocka_unit_test(test_packed), cmocka_unit_test(test_too_many),
        cmocka_unit_test(test_depth),  cmocka_unit_test(test_passes_means_unpacks),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
