/* Between gRPC byte buffers and protobuf-c messages, with as few copies as possible. */
#pragma once

#include "base/arena.h"

#include <grpc/byte_buffer.h>
#include <protobuf-c/protobuf-c.h>

/* The message packed into one slice; the caller destroys it. */
grpc_byte_buffer *payload_pack(const ProtobufCMessage *m) MUSTCHECK;
/*
 * The bytes of a received buffer in one piece: a view into the buffer where it is one slice (nearly always), else a
 * copy in `scratch`. Valid until either changes. -ENOMEM, -E2BIG: `scratch` may not grow so far.
 */
int payload_view(const grpc_byte_buffer *b, struct buf *scratch, struct bytes *ret) MUSTCHECK;
/* Makes protobuf-c allocate from the arena; its frees do nothing. */
ProtobufCAllocator payload_allocator(struct arena *a);
/* A slice as a NUL-terminated string in the arena. NULL = out of memory. */
char *payload_text(struct arena *a, grpc_slice s) MUSTCHECK;
