/*
 * This file defines getaddrinfo(), which the dynamic linker gives to librabbitmq in place of libc's. Connecting to a
 * number that was looked up before would do without it, but not with TLS: librabbitmq takes the name that the certificate
 * must have, and the one that it sends, from the same word.
 *
 * Lookups of everybody else go to libc as they are.
 */
#include "forward/rabbit_dial.h"

#include <dlfcn.h>
#include <netdb.h>

typedef int lookup_fn(const char *, const char *, const struct addrinfo *, struct addrinfo **);

static _Thread_local struct rabbit_dial *dialing;

void rabbit_dial_begin(struct rabbit_dial *d, const struct guard *g) {
    *d = (struct rabbit_dial){.guard = g};
    dialing = d;
}

void rabbit_dial_end(void) {
    dialing = NULL;
}

/* Takes out of the list what may not be connected to. False: nothing is left. */
static bool keep(struct rabbit_dial *d, struct addrinfo **list) {
    char why[GUARD_TEXT];

    for (struct addrinfo **at = list; *at;) {
        struct addrinfo *a = *at;
        if (guard_allows(d->guard, a->ai_addr, why)) {
            at = &a->ai_next;
            continue;
        }
        memcpy(d->refused, why, sizeof(why));
        *at = a->ai_next;
        a->ai_next = NULL;
        freeaddrinfo(a);
    }
    if (*list)
        d->refused[0] = '\0';
    return *list != NULL;
}

__attribute__((visibility("default"))) int getaddrinfo(const char *name, const char *service,
                                                       const struct addrinfo *hints, struct addrinfo **ret) {
    lookup_fn *next = (lookup_fn *)dlsym(RTLD_NEXT, "getaddrinfo");
    int r = next(name, service, hints, ret);

    return r == 0 && dialing && !keep(dialing, ret) ? EAI_NONAME : r;
}
