/*
 * Why an own reader: the descriptor set is compiled in as bytes, and all that is needed of it are names and boundaries,
 * so it is walked once at start with the reader of wire.h. What is answered are views into the embedded bytes.
 *
 * v1 and v1alpha differ in the package name only, so both are read and written with the v1 types.
 */
#include "rpc/reflection.h"

#include "base/list.h"
#include "grpc/reflection/v1/reflection.pb-c.h"
#include "rpc/wire.h"

enum { FILES_MAX = 256, DEPENDENCIES_MAX = 32, NESTING_MAX = 16, INDEX_BYTES_MAX = 16 << 20 };

struct file {
    struct bytes name, bytes;
    struct bytes imports[DEPENDENCIES_MAX];
    int imports_n;
};

struct symbol {
    struct hnode node;
    struct bytes name;
    int file;
};

struct reflection {
    struct file files[FILES_MAX];
    int files_n;
    struct hmap symbols;
    struct arena arena; /* names and nodes */
};

/* Which field of which descriptor holds what. Field 1 is the name in all of them. */
enum kind { FILE_, MESSAGE, ENUM, SERVICE, LEAF };
static const struct {
    enum kind parent;
    uint32_t field;
    enum kind child;
} children[] = {
    {FILE_, 4, MESSAGE}, {FILE_, 5, ENUM},      {FILE_, 6, SERVICE}, {FILE_, 7, LEAF},
    {MESSAGE, 2, LEAF},  {MESSAGE, 3, MESSAGE}, {MESSAGE, 4, ENUM},  {MESSAGE, 6, LEAF},
    {MESSAGE, 8, LEAF},  {ENUM, 2, LEAF},       {SERVICE, 2, LEAF},
};

/* The first field `id` of a message; n = 0 if absent. -EINVAL. */
static int find_bytes(struct bytes in, uint32_t id, struct bytes *ret) {
    struct wire_reader r = wire_reader(in);
    struct wire_field f;
    int err;

    *ret = BYTES_NULL;
    while ((err = wire_next(&r, &f)) == 1)
        if (f.id == id && f.type == WIRE_BYTES) {
            *ret = f.bytes;
            return 0;
        }
    return err;
}

static int add_symbol(struct reflection *r, struct bytes scope, struct bytes name, int file, struct bytes *ret_full) {
    struct symbol *s = arena_alloc(&r->arena, sizeof(*s));
    char *full = arena_alloc(&r->arena, scope.n + 1 + name.n);
    size_t n = 0;

    if (!s || !full)
        return -ENOMEM;
    if (scope.n > 0) {
        memcpy(full, scope.p, scope.n);
        full[scope.n] = '.';
        n = scope.n + 1;
    }
    if (name.n > 0)
        memcpy(full + n, name.p, name.n);
    s->name = *ret_full = bytes_of(full, n + name.n);
    s->file = file;
    hmap_add(&r->symbols, &s->node, hash_bytes(full, n + name.n, 0));
    return 0;
}

static int walk(struct reflection *r, enum kind kind, struct bytes in, struct bytes scope, int file, int depth);

static int walk_children(struct reflection *r, enum kind kind, struct bytes in, struct bytes scope, int file,
                         int depth) {
    struct wire_reader reader = wire_reader(in);
    struct wire_field f;
    int err;

    while ((err = wire_next(&reader, &f)) == 1)
        for (size_t i = 0; i < ARRAY_LEN(children); i++)
            if (children[i].parent == kind && children[i].field == f.id && f.type == WIRE_BYTES) {
                err = walk(r, children[i].child, f.bytes, scope, file, depth + 1);
                if (err)
                    return err;
            }
    return err;
}

static int walk(struct reflection *r, enum kind kind, struct bytes in, struct bytes scope, int file, int depth) {
    struct bytes name, full;
    int err = find_bytes(in, 1, &name);

    if (!err && depth > NESTING_MAX)
        err = -EINVAL;
    if (!err)
        err = add_symbol(r, scope, name, file, &full);
    if (err || kind == LEAF)
        return err;
    /* The values of an enum are its siblings, by the rules of C++. */
    return walk_children(r, kind, in, kind == ENUM ? scope : full, file, depth);
}

static int add_file(struct reflection *r, struct bytes in) {
    struct wire_reader reader = wire_reader(in);
    struct bytes package;
    struct wire_field f;
    struct file *file;
    int err = find_bytes(in, 2, &package);

    if (err || r->files_n == FILES_MAX)
        return err ? err : -E2BIG;
    file = &r->files[r->files_n];
    file->bytes = in;
    while ((err = wire_next(&reader, &f)) == 1) {
        if (f.type != WIRE_BYTES)
            continue;
        if (f.id == 1) {
            file->name = f.bytes;
        } else if (f.id == 3) {
            if (file->imports_n == DEPENDENCIES_MAX)
                return -E2BIG;
            file->imports[file->imports_n++] = f.bytes;
        }
    }
    return err ? err : walk_children(r, FILE_, in, package, r->files_n++, 0);
}

int reflection_new(struct bytes set, struct reflection **ret) {
    struct reflection *r = mem_zalloc(sizeof(*r));
    struct wire_reader reader = wire_reader(set);
    struct wire_field f;
    int err;

    if (!r)
        return -ENOMEM;
    arena_init(&r->arena, INDEX_BYTES_MAX);
    err = hmap_init(&r->symbols, 1024) ? -ENOMEM : 1;
    while (err == 1) {
        err = wire_next(&reader, &f);
        if (err == 1 && f.id == 1 && f.type == WIRE_BYTES)
            err = add_file(r, f.bytes) ?: 1;
    }
    if (err) {
        reflection_free(r);
        return err;
    }
    *ret = r;
    return 0;
}

void reflection_free(struct reflection *r) {
    if (!r)
        return;
    hmap_deinit(&r->symbols);
    arena_deinit(&r->arena);
    mem_free(r);
}

static int find_file(const struct reflection *r, struct bytes name) {
    for (int i = 0; i < r->files_n; i++)
        if (bytes_eq(r->files[i].name, name))
            return i;
    return -1;
}

int reflection_file(const struct reflection *r, const char *name) {
    return find_file(r, bytes_str(name));
}

int reflection_file_of_symbol(const struct reflection *r, const char *name) {
    struct bytes key = bytes_str(name);
    uint64_t hash = hash_bytes(key.p, key.n, 0);

    for (struct hnode *h = hmap_first(&r->symbols, hash); h; h = hmap_next(h, hash)) {
        const struct symbol *s = CONTAINER_OF(h, struct symbol, node);

        if (bytes_eq(s->name, key))
            return s->file;
    }
    return -1;
}

struct bytes reflection_bytes(const struct reflection *r, int file) {
    return r->files[file].bytes;
}

int reflection_files(const struct reflection *r) {
    return r->files_n;
}

int reflection_closure(const struct reflection *r, int file, int *out) {
    bool seen[FILES_MAX] = {false};
    int n = 0;

    out[n++] = file;
    seen[file] = true;
    for (int at = 0; at < n; at++)
        for (int i = 0; i < r->files[out[at]].imports_n; i++) {
            int import = find_file(r, r->files[out[at]].imports[i]);

            if (import >= 0 && !seen[import]) {
                seen[import] = true;
                out[n++] = import;
            }
        }
    return n;
}

/* --- the stream --- */

typedef Grpc__Reflection__V1__ServerReflectionRequest Request;
typedef Grpc__Reflection__V1__ServerReflectionResponse Response;

static void send_error(struct rpc_stream *st, Response *response, int code, const char *message) {
    Grpc__Reflection__V1__ErrorResponse error = GRPC__REFLECTION__V1__ERROR_RESPONSE__INIT;

    error.error_code = code;
    error.error_message = (char *)(uintptr_t)message;
    response->message_response_case = GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__MESSAGE_RESPONSE_ERROR_RESPONSE;
    response->error_response = &error;
    rpc_stream_send(st, &response->base);
}

static void send_file(struct rpc_stream *st, Response *response, int file) {
    const struct reflection *r = stream_server(st)->reflection;
    Grpc__Reflection__V1__FileDescriptorResponse answer = GRPC__REFLECTION__V1__FILE_DESCRIPTOR_RESPONSE__INIT;
    ProtobufCBinaryData files[FILES_MAX];
    int numbers[FILES_MAX], n;

    if (file < 0) {
        send_error(st, response, RPC_NOT_FOUND, "not in the descriptors of this server");
        return;
    }
    n = reflection_closure(r, file, numbers);
    for (int i = 0; i < n; i++)
        files[i] = (ProtobufCBinaryData){
            .len = r->files[numbers[i]].bytes.n,
            .data = (uint8_t *)(uintptr_t)r->files[numbers[i]].bytes.p,
        };
    answer.file_descriptor_proto = files;
    answer.n_file_descriptor_proto = (size_t)n;
    response->message_response_case =
        GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__MESSAGE_RESPONSE_FILE_DESCRIPTOR_RESPONSE;
    response->file_descriptor_response = &answer;
    rpc_stream_send(st, &response->base);
}

static void send_services(struct rpc_stream *st, Response *response) {
    const struct rpc_server *s = stream_server(st);
    size_t n = (size_t)s->services_n;
    Grpc__Reflection__V1__ListServiceResponse list = GRPC__REFLECTION__V1__LIST_SERVICE_RESPONSE__INIT;
    Grpc__Reflection__V1__ServiceResponse *services = arena_alloc(rpc_stream_arena(st), n * sizeof(*services));
    Grpc__Reflection__V1__ServiceResponse **pointers = arena_alloc(rpc_stream_arena(st), n * sizeof(*pointers));

    if (!services || !pointers) {
        stream_fail(st, RPC_RESOURCE_EXHAUSTED, "OVERLOADED", "out of memory");
        return;
    }
    for (size_t i = 0; i < n; i++) {
        grpc__reflection__v1__service_response__init(&services[i]);
        services[i].name = s->services[i];
        pointers[i] = &services[i];
    }
    list.service = pointers;
    list.n_service = n;
    response->message_response_case =
        GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__MESSAGE_RESPONSE_LIST_SERVICES_RESPONSE;
    response->list_services_response = &list;
    rpc_stream_send(st, &response->base);
}

/* There are no extensions in proto3, so a known type has none. */
static void send_extensions(struct rpc_stream *st, Response *response, const char *type) {
    Grpc__Reflection__V1__ExtensionNumberResponse none = GRPC__REFLECTION__V1__EXTENSION_NUMBER_RESPONSE__INIT;

    if (reflection_file_of_symbol(stream_server(st)->reflection, type) < 0) {
        send_error(st, response, RPC_NOT_FOUND, "not in the descriptors of this server");
        return;
    }
    none.base_type_name = (char *)(uintptr_t)type;
    response->message_response_case =
        GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__MESSAGE_RESPONSE_ALL_EXTENSION_NUMBERS_RESPONSE;
    response->all_extension_numbers_response = &none;
    rpc_stream_send(st, &response->base);
}

static void on_message(struct rpc_stream *st, const ProtobufCMessage *m) {
    const struct reflection *r = stream_server(st)->reflection;
    const Request *request = (const Request *)m;
    Response response = GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__INIT;

    rpc_stream_pause(st, true); /* one at a time: the next is read when this answer was taken */
    response.valid_host = request->host;
    response.original_request = (Request *)(uintptr_t)request;
    switch (request->message_request_case) {
    case GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_LIST_SERVICES:
        send_services(st, &response);
        return;
    case GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_FILE_BY_FILENAME:
        send_file(st, &response, reflection_file(r, request->file_by_filename));
        return;
    case GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_FILE_CONTAINING_SYMBOL:
        send_file(st, &response, reflection_file_of_symbol(r, request->file_containing_symbol));
        return;
    case GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_ALL_EXTENSION_NUMBERS_OF_TYPE:
        send_extensions(st, &response, request->all_extension_numbers_of_type);
        return;
    case GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_FILE_CONTAINING_EXTENSION:
        send_error(st, &response, RPC_NOT_FOUND, "proto3 has no extensions");
        return;
    default:
        send_error(st, &response, RPC_INVALID_ARGUMENT, "the request asks for nothing");
    }
}

static void on_sendable(struct rpc_stream *st) {
    rpc_stream_pause(st, false);
}

const struct rpc_stream_method reflection_v1 = {
    .path = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    .request = &grpc__reflection__v1__server_reflection_request__descriptor,
    .name = "Reflection",
    .message = on_message,
    .sendable = on_sendable,
};

const struct rpc_stream_method reflection_v1alpha = {
    .path = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    .request = &grpc__reflection__v1__server_reflection_request__descriptor,
    .name = "Reflection",
    .message = on_message,
    .sendable = on_sendable,
};
