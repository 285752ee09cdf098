/*
 * What the answer of an HTTP consumer means, by the subscription's policy. Pure. @thread any
 */
#pragma once

#include "forward/sink.h"

enum { HTTP_ANSWER_TEXT = 160 };
/*
 * SINK_OK: acknowledged. SINK_REJECT: never again (410, or a declared status). SINK_RETRY: anything else. `why` is filled unless
 * SINK_OK: one printable line with the beginning of the body.
 */
enum sink_verdict http_answer_judge(const struct sink_conf *c, int status, struct bytes body,
                                    char why[HTTP_ANSWER_TEXT]);
