/* grpc.reflection v1 and v1alpha from an embedded FileDescriptorSet: `grpcurl list` works without any .proto. */
#pragma once

#include "rpc/stream.h"

extern const struct rpc_stream_method reflection_v1, reflection_v1alpha;

/* Index of a FileDescriptorSet: files by name, files by symbol. Never changes once made. @thread any */
struct reflection;
/* `set` must outlive it. -EINVAL: not a descriptor set; -ENOMEM. */
int reflection_new(struct bytes set, struct reflection **ret) MUSTCHECK;
void reflection_free(struct reflection *r); /* NULL allowed */

int reflection_file(const struct reflection *r, const char *name);           /* number of the file, -1 = none */
int reflection_file_of_symbol(const struct reflection *r, const char *name); /* "txmsg.v1.MessageService.Prepare" */
struct bytes reflection_bytes(const struct reflection *r, int file);         /* its FileDescriptorProto */
/* The file and all it imports, itself first, each once; `out` has room for reflection_files(). Returns how many. */
int reflection_closure(const struct reflection *r, int file, int *out);
int reflection_files(const struct reflection *r);
