/*
 * Slots. Each producer that can be asked has a share of its own of half of all slots, so a check of it can start whatever the others do;
 * the other half is common and goes to whoever needs more, up to the concurrency of its policy. With more producers
 * than slots the shares are one each and the order of the rounds rotates.
 *
 * A producer stays in the map while checks of it are under way, also after it left the configuration.
 */
#include "checkback/producers.h"

#include "base/log.h"
#include "base/metric.h"

#include <limits.h>

#define RATE_SECONDS 0.5 /* what the bucket of a rate holds: the asker looks four times a second */

int producers_init(struct producers *p, int in_flight_max) {
    *p = (struct producers){.in_flight_max = in_flight_max};
    return hmap_init(&p->all, 16);
}

void producers_deinit(struct producers *p) {
    struct hnode *h;

    while (p->all.count && (h = hmap_any(&p->all))) {
        hmap_del(&p->all, h);
        mem_free(CONTAINER_OF(h, struct producer, node));
    }
    hmap_deinit(&p->all);
    mem_free(TAKE(p->order));
    topology_unref(TAKE(p->topology));
}

static struct producer *find_any(const struct producers *p, const char *name, uint64_t hash) {
    for (struct hnode *h = hmap_first(&p->all, hash); h; h = hmap_next(h, hash)) {
        struct producer *of = CONTAINER_OF(h, struct producer, node);
        if (strcmp(of->name, name) == 0)
            return of;
    }
    return NULL;
}

static uint64_t name_hash(const char *name) {
    return hash_bytes(name, strlen(name), 0);
}

struct producer *producers_find(const struct producers *p, const char *name) {
    struct producer *of = find_any(p, name, name_hash(name));
    return of && of->policy ? of : NULL;
}

static void find_series(struct producer *of) {
    struct metric_family *checks = metric_family(METRIC_COUNTER, "txmsg_checks_total", "producer,result",
                                                 "Checks that ended, by what the producer answered.", 1024);
    struct metric_family *contrary = metric_family(METRIC_COUNTER, "txmsg_checks_contrary_total", "producer",
                                                   "Answers that contradict the stored decision.", 256);
    struct metric_family *stuck = metric_family(METRIC_COUNTER, "txmsg_stuck_total", "producer",
                                                "Transactions that ran out of checks and wait for people.", 256);

    for (int v = 0; v < ANSWER_VERDICTS; v++)
        of->results[v] = metric_get(checks, of->name, answer_name((enum answer_verdict)v));
    of->contrary = metric_get(contrary, of->name);
    of->stuck = metric_get(stuck, of->name);
}

static struct producer *producer_new(struct producers *p, const char *name) {
    struct producer *of = mem_zalloc(sizeof(*of));

    if (!of)
        return NULL;
    snprintf(of->name, sizeof(of->name), "%s", name);
    of->good = -1;
    find_series(of);
    hmap_add(&p->all, &of->node, name_hash(of->name));
    return of;
}

static void producer_drop_unused(struct producers *p, struct producer *of) {
    if (of->policy || of->in_flight)
        return;
    hmap_del(&p->all, &of->node);
    mem_free(of);
}

/* Calls fn for each producer of the configuration. */
static size_t each_conf(struct producers *p, const struct topology *t,
                        size_t (*fn)(struct producers *, const struct producer_conf *)) {
    size_t n = 0;

    for (size_t i = 0; t && t->producers.slots && i <= t->producers.mask; i++) {
        for (struct hnode *h = t->producers.slots[i]; h; h = h->next) {
            const struct producer_conf *conf = CONTAINER_OF(h, struct producer_conf, node);
            if (strlen(conf->name) <= LIMIT_NAME)
                n += fn(p, conf);
        }
    }
    return n;
}

static size_t make(struct producers *p, const struct producer_conf *conf) {
    return find_any(p, conf->name, name_hash(conf->name)) || producer_new(p, conf->name);
}

static size_t enter(struct producers *p, const struct producer_conf *conf) {
    struct producer *of = find_any(p, conf->name, name_hash(conf->name));

    if (!of)
        return 0;
    of->policy = &conf->check;
    of->good = -1; /* the list may be another one */
    of->single = 0;
    p->order[p->order_n++] = of;
    return 1;
}

static size_t one(struct producers *p, const struct producer_conf *conf) {
    return 1;
}

/* Those in no configuration and without checks go. */
static void drop_unused(struct producers *p) {
    for (size_t i = 0; i <= p->all.mask; i++) {
        for (struct hnode *h = p->all.slots[i], *next; h; h = next) {
            next = h->next;
            producer_drop_unused(p, CONTAINER_OF(h, struct producer, node));
        }
    }
}

int producers_apply(struct producers *p, struct topology *t) {
    size_t n = each_conf(p, t, one);
    struct producer **order = mem_calloc(n + 1, sizeof(struct producer *));

    if (!order)
        return -ENOMEM;
    if (each_conf(p, t, make) < n) {
        mem_free(order);
        drop_unused(p);
        return -ENOMEM;
    }
    for (size_t i = 0; i < p->order_n; i++)
        p->order[i]->policy = NULL;
    mem_free(p->order);
    p->order = order;
    p->order_n = p->reached_n = p->turn = 0;
    each_conf(p, t, enter);
    drop_unused(p);
    topology_unref(p->topology);
    p->topology = topology_ref(t);
    return 0;
}

void producers_take(struct producers *p, struct producer *of) {
    of->in_flight++;
    p->in_flight++;
}

void producers_give(struct producers *p, struct producer *of) {
    of->in_flight--;
    p->in_flight--;
    producer_drop_unused(p, of);
}

void producers_reach(struct producers *p, struct desk *desk) {
    p->reached_n = 0;
    for (size_t i = 0; i < p->order_n; i++) {
        struct producer *of = p->order[i];
        of->reach = of->policy->endpoints_n > 0 ? INT_MAX : MAX(desk_room(desk, of->name) - of->waiting, 0);
        p->reached_n += of->reach > 0 || of->in_flight > 0;
    }
}

int64_t producers_lease_ms(const struct check_policy *policy) {
    return policy->timeout_ms * (policy->endpoints_n + (policy->endpoints_n ? 0 : 2)) * 2 + 5000;
}

static int share_of(const struct producers *p) {
    return MAX(p->in_flight_max / 2 / (int)MAX(p->reached_n, 1), 1);
}

/* What is left of the common half. */
static int common_left(const struct producers *p, int share) {
    int left = MAX(p->in_flight_max - share * (int)p->reached_n, 0);

    for (size_t i = 0; i < p->order_n; i++)
        left -= MAX(p->order[i]->in_flight - share, 0);
    return MAX(left, 0);
}

static double rate_of(const struct producers *p, const struct producer *of) {
    return of->policy ? (double)of->policy->rate / MAX(p->sharers, 1) : 0;
}

size_t producers_asks(const struct producers *p, size_t *done, struct check_ask *asks, size_t max, int64_t *lease_ms,
                      uint64_t now_ns) {
    int share = share_of(p), common = common_left(p, share), left = p->in_flight_max - p->in_flight;
    size_t n = 0;

    for (; *done < p->order_n && n < max && left > 0; ++*done) {
        struct producer *of = p->order[(p->turn + *done) % p->order_n];
        int64_t lease = producers_lease_ms(of->policy);
        int own = MAX(share - of->in_flight, 0);
        int slots = MIN(MIN(MIN(of->policy->concurrency - of->in_flight, own + common), left), of->reach);
        int room = rate_room(&of->rate, rate_of(p, of), RATE_SECONDS, now_ns);

        of->limited = room < slots;
        slots = MIN(slots, room);
        if (slots <= 0)
            continue;
        if (n > 0 && lease != *lease_ms)
            break;
        *lease_ms = lease;
        asks[n++] = (struct check_ask){.producer = of->name, .slots = slots};
        of->asked = slots;
        of->reach -= slots;
        common -= MAX(slots - own, 0);
        left -= slots;
    }
    return n;
}

void producers_answered(struct producers *p) {
    for (size_t i = 0; i < p->order_n; i++) {
        struct producer *of = p->order[i];
        if (of->asked)
            of->more = of->got >= of->asked && !of->limited;
        if (rate_of(p, of) > 0)
            of->rate.tokens -= of->got;
        of->asked = of->got = 0;
    }
}
