/* YAML text to JSON values and back, so that one code path checks configuration and topology files (libyaml behind). */
#pragma once

#include "base/json.h"

/*
 * One document of mappings, sequences and scalars; anchors, aliases, tags, duplicate keys and a second document are
 * refused with line and column. Plain scalars become null, bool, integer, real or string (YAML 1.2 core rules), quoted
 * ones strings.
 * At most 64 levels; no document at all is null. NULL and *e on failure; the caller owns the result.
 */
json_t *yaml_parse(struct bytes text, struct errmsg *e) MUSTCHECK;
/* A mapping, or a sequence, in block style; yaml_parse() reads the same value back. 0, -ENOMEM, or the error of `out`. */
int yaml_write(struct buf *out, const json_t *j) MUSTCHECK;
