/*
 * Between the files of policy: the snapshot (policy.c), the JSON members (policy_spec.c, read by policy_member.c), single values
 * (policy_value.c).
 */
#pragma once

#include "base/arena.h"
#include "core/policy.h"

/*
 * --- policy_spec.c: one JSON value each -> the struct, every default filled in. Texts are copied into the arena. ---
 */
int spec_topic(const char *name, const json_t *spec, struct errmsg *e) MUSTCHECK;
int spec_producer(const char *name, const json_t *spec, struct arena *a, struct check_policy *out,
                  struct outcome_topics *outcomes, struct errmsg *e) MUSTCHECK;
/* Fills everything but id and name. On success the caller owns out->sink.http.headers. */
int spec_sub(const char *name, const json_t *spec, struct arena *a, struct sub_conf *out, struct errmsg *e) MUSTCHECK;

/*
 * --- policy_value.c: NULL = good, else what is wrong, to be put behind the member's name. Never quotes the value. ---
 */
enum { POLICY_URL_MAX = 2048, SECRET_BYTES_MIN = 16, SECRET_BYTES_MAX = 64 };
const char *url_wrong_endpoint(const char *s); /* of a check: http(s), or grpc:// */
const char *url_wrong_grpc(const char *s);     /* grpc:// */
const char *url_wrong_http(const char *s);
const char *url_wrong_amqp(const char *s);
