/*
 * Watches whether the schema still is one that this binary works on: somebody may migrate, or restore, under a running daemon.
 */
#pragma once

#include "loop/loop.h"
#include "store/store.h"

struct schema_watch;
/*
 * Looks every two seconds on a connection of its own. A newer schema that serves this binary is logged once. `unfit` comes once,
 * with words for people, when the schema is not for this binary any more: end the process in order. @thread of the loop
 */
int schema_watch_new(struct loop *l, struct store *s, void (*unfit)(void *arg, const char *why), void *arg,
                     struct schema_watch **ret) MUSTCHECK;
void schema_watch_free(struct schema_watch *w); /* NULL allowed; not from inside `unfit` */
