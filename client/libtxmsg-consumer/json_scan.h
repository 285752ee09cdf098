/*
 * JSON by its grammar (RFC 8259), without making anything of it: the body of a message keeps its very bytes, and the
 * application's own JSON library is not touched.
 */
#pragma once

#include "base/bytes.h"

enum { JSON_SCAN_DEPTH = 64 };

/* Moves *at past blanks. */
void json_scan_space(struct bytes text, size_t *at);
/* Moves *at past one value, nested to 64 levels; -EINVAL, and *at is where it went wrong. */
int json_scan_value(struct bytes text, size_t *at) MUSTCHECK;
/* The same for a string, whose text goes to `out`; fails also in the buffer. Its UTF-8 is not checked. */
int json_scan_string(struct bytes text, size_t *at, struct buf *out) MUSTCHECK;
/* True, and *at moved past it, if this character comes next. */
bool json_scan_char(struct bytes text, size_t *at, char c);
