/*
 * librabbitmq looks a name up and connects to what it gets, in one call. In between stands this: while a dial is on, the lookups of this
 * thread answer only addresses that may be connected to. @thread of the connection
 */
#pragma once

#include "base/guard.h"

struct rabbit_dial {
    const struct guard *guard;
    char refused[GUARD_TEXT]; /* why nothing was left; "" = something was, or was not there before */
};
void rabbit_dial_begin(struct rabbit_dial *d, const struct guard *g);
void rabbit_dial_end(void);
