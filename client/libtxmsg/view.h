/* The inside of a view: a transaction as the service answered it, unpacked into an arena of its own. */
#pragma once

#include "result.h"
#include "txmsg/view.h"

/* From the bytes of a Transaction, which must be that of `id`. OUTCOME_NOT_STORED: it is not one, or memory is out. */
enum outcome view_take(txmsg_result *r, struct bytes transaction, const char *id);
void view_free(txmsg_view *v); /* NULL allowed */
