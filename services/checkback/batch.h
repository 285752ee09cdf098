/*
 * Checks of one producer in one gRPC call, at one endpoint: CheckBatch, or Check where the application does not serve
 * that. Private to asker.c and check.c. @thread of the loop
 */
#pragma once

#include "checkback/check.h"

/* Asks about those that stand in asker->calling, in as few calls as may be. */
void batches_send(struct asker *a);
/* The asker goes: nothing comes back to it. Its checks stand in `asking` as before. */
void batches_abandon(struct asker *a);
