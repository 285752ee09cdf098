/*
 * Finds the undecided: walks the entries of its lanes with a cursor per delay class and puts what is past its age into
 * the list of due checks, in one batch with the cursor that passes it. @thread of the worker's loop
 */
#pragma once

#include "checkback/age.h"
#include "checkback/checkback.h"

struct finder;
/* `age` and the others outlive the finder. */
int finder_new(struct loop *l, struct reader *r, struct age *age, int64_t poll_ms, struct finder **ret) MUSTCHECK;
/* See checkback.h. -ENOMEM. A number that is there already is dropped first. */
int finder_lane(struct finder *f, struct lane *lane, int32_t number, bool adopted) MUSTCHECK;
void finder_drop_lane(struct finder *f, int32_t number);
bool finder_lane_settled(const struct finder *f, int32_t number);
void finder_allow(struct finder *f, bool allowed);
void finder_free(struct finder *f); /* NULL allowed */
