/*
 * Why: a message of up to a few kilobytes arrives in one slice and leaves in one slice, so both directions are one pass
 * over the bytes. Larger ones arrive in pieces and are put together first, since protobuf-c reads contiguous memory
 * only.
 */
#include "rpc/payload.h"

#include <grpc/slice.h>

grpc_byte_buffer *payload_pack(const ProtobufCMessage *m) {
    grpc_slice s = grpc_slice_malloc(protobuf_c_message_get_packed_size(m));
    grpc_byte_buffer *b;

    protobuf_c_message_pack(m, GRPC_SLICE_START_PTR(s));
    b = grpc_raw_byte_buffer_create(&s, 1);
    grpc_slice_unref(s);
    return b;
}

int payload_view(const grpc_byte_buffer *b, struct buf *scratch, struct bytes *ret) {
    const grpc_slice_buffer *sb = &b->data.raw.slice_buffer;

    /* Core has decompressed already: what reaches us is raw. */
    ASSERT(b->type == GRPC_BB_RAW && b->data.raw.compression == GRPC_COMPRESS_NONE);
    if (sb->count == 0) {
        *ret = BYTES_NULL;
        return 0;
    }
    if (sb->count == 1) {
        *ret = bytes_of(GRPC_SLICE_START_PTR(sb->slices[0]), GRPC_SLICE_LENGTH(sb->slices[0]));
        return 0;
    }
    buf_reset(scratch);
    if (buf_reserve(scratch, sb->length))
        return buf_error(scratch) ? buf_error(scratch) : -ENOMEM;
    for (size_t i = 0; i < sb->count; i++)
        buf_put(scratch, GRPC_SLICE_START_PTR(sb->slices[i]), GRPC_SLICE_LENGTH(sb->slices[i]));
    *ret = buf_bytes(scratch);
    return buf_error(scratch);
}

static void *arena_take(void *arena, size_t n) {
    return arena_alloc(arena, n);
}

static void arena_keep(void *arena, void *p) {
    UNUSED(arena);
    UNUSED(p);
}

ProtobufCAllocator payload_allocator(struct arena *a) {
    return (ProtobufCAllocator){.alloc = arena_take, .free = arena_keep, .allocator_data = a};
}

char *payload_text(struct arena *a, grpc_slice s) {
    return arena_strndup(a, GRPC_SLICE_START_PTR(s), GRPC_SLICE_LENGTH(s));
}
