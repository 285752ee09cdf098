/*
 * One struct scratch for each thread, found through a thread-local pointer. A pthread key does nothing but free it when
 * its thread ends. It is used by leaf functions only, which are done with it when they return, so no two users ever
 * overlap.
 */
#include "core/scratch.h"

#include <pthread.h>

enum { KEEP_JSON = 256 << 10, KEEP_HEADERS = 1024 };

static __thread struct scratch *mine;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static pthread_key_t key;
static bool key_made;

static void scratch_free(void *p) {
    struct scratch *s = p;

    sha256_free(s->sha);
    buf_deinit(&s->json);
    mem_free(s->headers);
    mem_free(s);
    mine = NULL;
}

static void make_key(void) {
    key_made = pthread_key_create(&key, scratch_free) == 0;
}

static struct scratch *scratch_make(void) {
    struct scratch *s;

    pthread_once(&once, make_key);
    if (!key_made)
        return NULL;
    s = mem_zalloc(sizeof(*s));
    if (!s)
        return NULL;
    s->sha = sha256_new();
    if (!s->sha || pthread_setspecific(key, s) != 0) {
        if (s->sha)
            sha256_free(s->sha);
        mem_free(s);
        return NULL;
    }
    buf_init(&s->json, SCRATCH_JSON_MAX);
    mine = s;
    return s;
}

struct scratch *scratch_get(void) {
    struct scratch *s = mine ? mine : scratch_make();

    if (s)
        buf_reset(&s->json);
    return s;
}

int scratch_headers(struct scratch *s, size_t n) {
    size_t cap = MAX(n, 16);
    struct header *h;

    if (n <= s->headers_cap)
        return 0;
    if (cap > SIZE_MAX / sizeof(*h))
        return -ENOMEM;
    h = mem_realloc(s->headers, cap * sizeof(*h));
    if (!h)
        return -ENOMEM;
    s->headers = h;
    s->headers_cap = cap;
    return 0;
}

void scratch_done(struct scratch *s) {
    if (s->json.cap > KEEP_JSON) {
        buf_deinit(&s->json);
        buf_init(&s->json, SCRATCH_JSON_MAX);
    }
    if (s->headers_cap > KEEP_HEADERS) {
        mem_free(TAKE(s->headers));
        s->headers_cap = 0;
    }
}
