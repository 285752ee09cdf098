/* File descriptors: how many may be open, how many the configuration can need, how many are. */
#pragma once

#include "txmsgd/config.h"

/*
 * Raises the limit to what the system allows, and compares. With too few, grpc.connections is cut to what is left for it, with a
 * warning; -EMFILE: hardly anything is left.
 */
int files_prepare(struct config *c, struct errmsg *e) MUSTCHECK;
