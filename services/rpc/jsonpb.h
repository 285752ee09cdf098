/*
 * protobuf-c messages <-> JSON by descriptor: the proto3 JSON mapping with proto field names, as far as our contract uses it
 * (Timestamp as RFC 3339, Duration as "1.500s", bytes as base64, enums by name, map<string,string> as an object, int64 as numbers).
 */
#pragma once

#include "base/arena.h"
#include "base/json.h"

#include <protobuf-c/protobuf-c.h>

/* Fields with default values are left out. NULL when out of memory; the caller owns the result. */
json_t *jsonpb_print(const ProtobufCMessage *m) MUSTCHECK;
/*
 * JSON object -> message in the arena. Accepts proto names and lowerCamelCase, durations also as "10m" (text_duration_ms), enum names
 * also without their prefix and in lower case ("body_success"). -EINVAL and *e name the path of the offending member; unknown members
 * are errors. -ENOMEM.
 */
int jsonpb_parse(const ProtobufCMessageDescriptor *d, const json_t *j, struct arena *a, ProtobufCMessage **ret,
                 struct errmsg *e) MUSTCHECK;
