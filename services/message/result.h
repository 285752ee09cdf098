/* Results of a Pipeline on the wire: what is appended here, one after the other, is a PipelineResponse. Pure. */
#pragma once

#include "message/outcome.h"

/* An operation that ended with OP_OK. The buffer's error. */
int result_put_status(struct buf *out, uint64_t tag, const struct lane_op *op) MUSTCHECK;
/* `a` is for putting the error together. -ENOMEM, or the buffer's error: nothing was appended. */
int result_put_error(struct buf *out, uint64_t tag, const struct rpc_error *err, struct arena *a) MUSTCHECK;
int result_put_credit(struct buf *out, uint32_t credit) MUSTCHECK;
