/* jansson as the house vocabulary for JSON, with the few helpers that every room needs. */
#pragma once

#include "base/bytes.h"

#include <jansson.h>

/*
 * Any JSON value; rejects duplicates and more than 64 levels. NULL and *e on failure, errno tells ENOMEM from EINVAL.
 * json_decref the result.
 */
json_t *json_parse(struct bytes text, struct errmsg *e) MUSTCHECK;
/* Compact, keys in insertion order, reals with 15 digits; the buffer's error, -ENOMEM, -EINVAL. */
int json_write(struct buf *out, const json_t *j) MUSTCHECK;
/* A JSON string literal with quotes and escapes; `text` must be valid UTF-8. */
void json_put_string(struct buf *out, struct bytes text);

/* The whole of it, or NULL. json_decref the result. */
json_t *json_clone(const json_t *j) MUSTCHECK;

/* Typed members with defaults for what is absent or null; -EINVAL and *e when the member has another type. */
int json_member_str(const json_t *obj, const char *key, const char *def, const char **ret, struct errmsg *e) MUSTCHECK;
int json_member_int(const json_t *obj, const char *key, int64_t def, int64_t *ret, struct errmsg *e) MUSTCHECK;
int json_member_num(const json_t *obj, const char *key, double def, double *ret, struct errmsg *e) MUSTCHECK;
int json_member_bool(const json_t *obj, const char *key, bool def, bool *ret, struct errmsg *e) MUSTCHECK;
/* A duration such as "10s" or "1.500s" (see text_duration_ms), or a number of seconds. */
int json_member_ms(const json_t *obj, const char *key, int64_t def_ms, int64_t *ret_ms, struct errmsg *e) MUSTCHECK;

static inline void json_cleanup_fn(json_t **p) {
    json_decref(*p);
}
#define CLEANUP_JSON __attribute__((cleanup(json_cleanup_fn)))
