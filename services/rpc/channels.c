/*
 * A name is looked up by a thread that lives as long as that, one for each channel at most: a resolver that hangs delays
 * nobody else. A good line is used on while its name is looked up again, which is half a minute after the last time, or
 * sooner when calls failed; a broken one is not, but stands for a moment, so that many calls make no storm of lookups.
 *
 * The thread knows the client by the seeker only, which outlives both: a client that goes does not wait for a resolver.
 */
#include "rpc/channels.h"

#include "base/clock.h"
#include "rpc/credentials.h"
#include "rpc/rpc.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>

/*
 * A connection whose other end vanished without a word ends when what was sent is not acknowledged for so long: with these core
 * sets TCP_USER_TIMEOUT. Its own pings are as rare as servers allow by default, for they end connections of those who ping more.
 */
enum { BACKOFF_MIN_MS = 100, BACKOFF_MAX_MS = 5000, CONNECT_MS = 5000, PING_MS = 310000, PING_TIMEOUT_MS = 20000 };
enum { FRESH_MS = 30000, DOUBTED_MS = 1000, TARGET_MAX = LOOKUP_MAX * (LOOKUP_TEXT + 16) };

struct channels_seeker {
    _Atomic int refs;
    pthread_mutex_t lock; /* held while `found` runs, so before the client's */
    void (*found)(void *arg, const char *name, int r, struct lookup *l,
                  struct errmsg *e); /* NULL = the client has gone */
    void *arg;
};
struct search {
    struct channels_seeker *seeker;
    char name[];
};

/* --- lines --- */

static grpc_arg int_arg(const char *key, int64_t value) {
    return (grpc_arg){.type = GRPC_ARG_INTEGER, .key = (char *)(uintptr_t)key, .value.integer = (int)value};
}

static struct line *line_alloc(const char *target) {
    size_t n = strlen(target) + 1;
    struct line *l = mem_zalloc(sizeof(*l) + n);

    if (!l)
        return NULL;
    l->refs = 1;
    memcpy(l->target, target, n);
    return l;
}

static struct line *line_open(const struct channels *c, const char *target, const char *name) {
    struct line *l = line_alloc(target);
    grpc_arg args[] = {
        int_arg(GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH, c->receive_bytes),
        int_arg(GRPC_ARG_ENABLE_HTTP_PROXY, 0),
        int_arg(GRPC_ARG_ENABLE_RETRIES, 0), /* the check is asked again by its own rules */
        int_arg(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, BACKOFF_MIN_MS),
        int_arg(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, CONNECT_MS),
        int_arg(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, BACKOFF_MAX_MS),
        int_arg(GRPC_ARG_KEEPALIVE_TIME_MS, PING_MS),
        int_arg(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, PING_TIMEOUT_MS),
        int_arg(GRPC_ARG_ENABLE_CHANNELZ, 0),
        {.type = GRPC_ARG_STRING,
         .key = (char *)(uintptr_t)GRPC_ARG_DEFAULT_AUTHORITY,
         .value.string = (char *)(uintptr_t)name},
    };

    if (!l)
        return NULL;
    grpc_channel_credentials *creds = credentials_client();
    l->core = grpc_channel_create(target, creds, &(grpc_channel_args){.num_args = ARRAY_LEN(args), .args = args});
    grpc_channel_credentials_release(creds);
    return l;
}

struct line *line_broken(int code, const char *why) {
    struct line *l = line_alloc("");

    if (!l)
        return NULL;
    l->code = code;
    snprintf(l->why, sizeof(l->why), "%s", why);
    l->core = grpc_lame_client_channel_create("broken", (grpc_status_code)code, l->why);
    return l;
}

void line_unref(struct line *l) {
    if (!l || --l->refs > 0)
        return;
    grpc_channel_destroy(l->core);
    mem_free(l);
}

/* --- what was found --- */

/* IPv4 in its mapped form too: core takes one family only in a list, and maps IPv4 by itself anyway. */
static void write_target(const struct lookup *l, char out[TARGET_MAX]) {
    size_t n = (size_t)snprintf(out, TARGET_MAX, "ipv6:");

    for (int i = 0; i < l->n; i++) {
        const uint8_t *a = l->list[i].sin6_addr.s6_addr;
        n += (size_t)snprintf(out + n, TARGET_MAX - n, "%s%%5B", i ? "," : "");
        for (int k = 0; k < 16; k += 2)
            n += (size_t)snprintf(out + n, TARGET_MAX - n, "%s%x", k ? ":" : "", a[k] << 8 | a[k + 1]);
        n += (size_t)snprintf(out + n, TARGET_MAX - n, "%%5D:%d", ntohs(l->list[i].sin6_port));
    }
}

static void set_line(struct channel *ch, struct line *l) {
    line_unref(ch->line);
    ch->line = l;
}

/* Out of memory: as it was. */
static void take(struct channels *c, struct channel *ch, int r, struct lookup *l, struct errmsg *e) {
    char target[TARGET_MAX], why[sizeof(ch->line->why)];
    bool good = ch->line && ch->line->code == RPC_OK;
    struct line *line;

    ch->looking = ch->doubted = false;
    ch->looked_ns = clock_mono_ns();
    if (r < 0 && good) /* the resolver is away: what was found before holds on */
        return;
    if (r == 0)
        r = guard_keep(&c->guard, l, e);
    if (r < 0) {
        snprintf(why, sizeof(why), "%.190s", e->text);
        line = line_broken(RPC_UNAVAILABLE, why);
    } else {
        write_target(l, target);
        if (good && !strcmp(target, ch->line->target))
            return;
        line = line_open(c, target, ch->name);
    }
    if (line)
        set_line(ch, line);
}

static struct channel *find(struct channels *c, const char *name) {
    LIST_FOR (e, &c->all) {
        struct channel *ch = LIST_ENTRY(e, struct channel, link);
        if (strcmp(ch->name, name) == 0)
            return ch;
    }
    return NULL;
}

struct channel *channels_found(struct channels *c, const char *name, int r, struct lookup *l, struct errmsg *e) {
    struct channel *ch = find(c, name);

    if (ch)
        take(c, ch, r, l, e);
    return ch;
}

/* --- looking up --- */

static void seeker_unref(struct channels_seeker *s) {
    if (atomic_fetch_sub(&s->refs, 1) > 1)
        return;
    pthread_mutex_destroy(&s->lock);
    mem_free(s);
}

static void *search_main(void *arg) {
    struct search *q = arg;
    struct channels_seeker *s = q->seeker;
    struct errmsg e = ERRMSG_NULL;
    struct lookup l;

    pthread_setname_np(pthread_self(), "rpc-lookup");
    int r = lookup_host(q->name, true, &l, &e);
    pthread_mutex_lock(&s->lock);
    if (s->found)
        s->found(s->arg, q->name, r, &l, &e);
    pthread_mutex_unlock(&s->lock);
    seeker_unref(s);
    mem_free(q);
    return NULL;
}

static int search_start(struct channels_seeker *s, const char *name) {
    size_t n = strlen(name) + 1;
    struct search *q = mem_alloc(sizeof(*q) + n);
    pthread_attr_t attr;
    sigset_t all, before;
    pthread_t thread;

    if (!q)
        return -ENOMEM;
    q->seeker = s;
    memcpy(q->name, name, n);
    pthread_attr_init(&attr);
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    atomic_fetch_add(&s->refs, 1);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int r = pthread_create(&thread, &attr, search_main, q);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attr);
    if (r == 0)
        return 0;
    seeker_unref(s);
    mem_free(q);
    return -r;
}

static void look_up(struct channels *c, struct channel *ch) {
    struct errmsg e = ERRMSG_NULL;
    struct lookup l;
    int r = lookup_host(ch->name, false, &l, &e);

    ch->literal = r == 0;
    ch->looking = true;
    if (r == 1 && (r = search_start(c->seeker, ch->name)) == 0)
        return;
    if (r < 0 && !*e.text)
        err_set(&e, r, "its name cannot be looked up: %s", err_text(r));
    take(c, ch, r, &l, &e);
}

static bool is_old(const struct channel *ch) {
    int64_t ms = (int64_t)((clock_mono_ns() - ch->looked_ns) / NS_PER_MS);

    return !ch->line || (!ch->literal && ms >= (ch->doubted || ch->line->code ? DOUBTED_MS : FRESH_MS));
}

struct line *channel_line(struct channels *c, struct channel *ch) {
    if (!ch->looking && is_old(ch))
        look_up(c, ch);
    if (!ch->line || (ch->looking && ch->line->code))
        return NULL;
    ch->line->refs++;
    return ch->line;
}

/* --- channels --- */

static void channel_close(struct channels *c, struct channel *ch) {
    list_del(&ch->link);
    c->n--;
    line_unref(ch->line);
    mem_free(ch);
}

/* False: all are in use. */
static bool make_room(struct channels *c) {
    if (c->n < c->max)
        return true;
    for (struct list *e = c->all.prev; e != &c->all; e = e->prev) {
        struct channel *ch = LIST_ENTRY(e, struct channel, link);
        if (ch->calls == 0 && !ch->looking) {
            channel_close(c, ch);
            return true;
        }
    }
    return false;
}

int channels_get(struct channels *c, const char *name, struct channel **ret) {
    struct channel *ch = find(c, name);
    size_t n = strlen(name) + 1;

    if (ch) {
        list_del(&ch->link);
    } else {
        if (!strchr(name, ':'))
            return -EINVAL;
        if (!make_room(c))
            return 1;
        ch = mem_zalloc(sizeof(*ch) + n);
        if (!ch)
            return -ENOMEM;
        memcpy(ch->name, name, n);
        c->n++;
    }
    list_add_head(&c->all, &ch->link);
    *ret = ch;
    return 0;
}

/* --- life --- */

int channels_init(struct channels *c,
                  void (*found)(void *arg, const char *name, int r, struct lookup *l, struct errmsg *e), void *arg) {
    list_init(&c->all);
    c->n = 0;
    c->seeker = mem_zalloc(sizeof(*c->seeker));
    if (!c->seeker)
        return -ENOMEM;
    atomic_init(&c->seeker->refs, 1);
    c->seeker->found = found;
    c->seeker->arg = arg;
    pthread_mutex_init(&c->seeker->lock, NULL);
    return 0;
}

void channels_deinit(struct channels *c) {
    if (!c->seeker)
        return;
    pthread_mutex_lock(&c->seeker->lock);
    c->seeker->found = NULL;
    pthread_mutex_unlock(&c->seeker->lock);
    seeker_unref(TAKE(c->seeker));
    while (!list_empty(&c->all))
        channel_close(c, LIST_ENTRY(c->all.next, struct channel, link));
}
