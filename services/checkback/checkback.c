/*
 * The room's front: the finder, which fills the list of due checks, and the asker, which empties it. They meet in
 * PostgreSQL only, so a check found here may be asked by any replica.
 */
#include "checkback/checkback.h"

#include "checkback/asker.h"
#include "checkback/finder.h"

struct checkback {
    struct age age;
    struct finder *finder;
    struct asker *asker;
};

int checkback_new(struct loop *l, struct store *s, struct reader *r, struct webclient *w, struct lane *own,
                  const struct checkback_options *o, struct checkback **ret) {
    struct checkback *c = mem_zalloc(sizeof(*c));
    struct asker_options ao = {.poll_ms = o && o->poll_ms > 0 ? o->poll_ms : 250,
                               .in_flight = o && o->in_flight > 0 ? o->in_flight : 256,
                               .desk = o ? o->desk : NULL,
                               .caller = o ? o->caller : NULL};
    int code;

    if (!c)
        return -ENOMEM;
    if (o && o->limits)
        ao.limits = *o->limits;
    else
        limits_default(&ao.limits);
    age_open(&c->age);
    code = finder_new(l, r, &c->age, o && o->find_poll_ms > 0 ? o->find_poll_ms : 250, &c->finder);
    code = code < 0 ? code : asker_new(l, s, r, w, own, &c->age, &ao, &c->asker);
    if (code < 0) {
        checkback_free(c);
        return code;
    }
    *ret = c;
    return 0;
}

void checkback_topology(struct checkback *c, struct topology *t) {
    asker_topology(c->asker, t);
}

int checkback_lane(struct checkback *c, struct lane *lane, int32_t number, bool adopted) {
    return finder_lane(c->finder, lane, number, adopted);
}

void checkback_drop_lane(struct checkback *c, int32_t lane) {
    finder_drop_lane(c->finder, lane);
}

void checkback_allow(struct checkback *c, bool allowed) {
    finder_allow(c->finder, allowed);
    asker_allow(c->asker, allowed);
}

void checkback_sharers(struct checkback *c, int workers) {
    asker_sharers(c->asker, workers);
}

bool checkback_lane_settled(const struct checkback *c, int32_t lane) {
    return finder_lane_settled(c->finder, lane);
}

void checkback_free(struct checkback *c) {
    if (!c)
        return;
    asker_free(c->asker);
    finder_free(c->finder);
    age_close(&c->age);
    mem_free(c);
}
