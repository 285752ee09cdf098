/*
 * How other threads bring something home to a loop's object that may be gone by then. Held by the object and by everything that is out;
 * what finds nobody frees itself.
 */
#pragma once

#include "loop/loop.h"

struct way_home;
/* As mailbox_new(). Held once, by the caller. @thread of the loop */
int way_home_new(struct loop *l, size_t max_items, void (*receive)(void *arg, struct list *items), void *arg,
                 struct way_home **ret) MUSTCHECK;
/* Nothing comes any more: what is back already comes now, from inside. @thread of the loop */
void way_home_close(struct way_home *w);
/* Before it goes out, for it may come back at once; `unref` if it did not go after all. @thread any */
struct way_home *way_home_ref(struct way_home *w);
void way_home_unref(struct way_home *w);
/* Brings `item` home by its `link`, or frees it with mem_free(); the end of its hold. @thread any */
void way_home_bring(struct way_home *w, struct list *link, void *item);
