/*
 * Allocation failures of a whole process, ordered from outside. Only in builds with -Dfault_points=true; private to base.
 */
#pragma once

#include <stdbool.h>

#ifdef TXMSG_FAULT_POINTS
/* True: this allocation has to fail. @thread any */
bool mem_fault_due(void);
#else
static inline bool mem_fault_due(void) {
    return false;
}
#endif
