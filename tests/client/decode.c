/*
 * A delivery through libtxmsg-consumer, for tests in other languages: decode http|amqp [SECRET], with the names and values of
 * the headers and then the body on standard input, each with its length in front ("4:name5:value...0:4:body"). Prints the
 * outcome, then the parts one a line, bytes in hex.
 */
#include "txmsg/consumer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { HEADERS_MAX = 64 };

/* The text is there until the end. */
static char *take(size_t *size) {
    static char *taken[2 * HEADERS_MAX + 2], **next = taken;
    if (scanf("%zu:", size) != 1)
        exit(2);
    char *p = *next++ = calloc(1, *size + 1);
    if (!p || fread(p, 1, *size, stdin) != *size)
        exit(2);
    return p;
}

static void put_hex(const char *name, const unsigned char *p, size_t n) {
    printf("%s=", name);
    for (size_t i = 0; i < n; i++)
        printf("%02x", p[i]);
    printf("\n");
}

static void show(const txmsg_event *ev) {
    size_t n;
    const void *p = txmsg_event_key(ev, &n);

    put_hex("key", p, n);
    p = txmsg_event_body(ev, &n);
    put_hex("body", p, n);
    printf("id=%s\ntransaction_id=%s\nn=%u\ntopic=%s\nproducer=%s\nbusiness_key=%s\ntime=%s\ncontent_type=%s\nattempt=%"
           "d\n",
           txmsg_event_id(ev), txmsg_event_transaction_id(ev), txmsg_event_n(ev), txmsg_event_topic(ev),
           txmsg_event_producer(ev), txmsg_event_business_key(ev), txmsg_event_time(ev), txmsg_event_content_type(ev),
           txmsg_event_attempt(ev));
}

int main(int argc, char **argv) {
    struct txmsg_webhook keys = {.secret = argc > 2 ? argv[2] : NULL};
    struct txmsg_header h[HEADERS_MAX];
    struct txmsg_why why = {""};
    const char *type = NULL;
    txmsg_event *ev;
    size_t n = 0, size;

    char *name, *given[2 * HEADERS_MAX];

    for (; *(name = take(&size)); n++) {
        if (argc < 2 || n == HEADERS_MAX)
            return 2;
        h[n].name = name, h[n].name_size = size;
        h[n].value = given[2 * n + 1] = take(&h[n].value_size);
        given[2 * n] = name;
        if (strcmp(name, "content-type") == 0)
            type = h[n].value;
    }
    char *body = take(&size);
    int r = strcmp(argv[1], "amqp") == 0
                ? txmsg_event_from_amqp(&ev, h, n, type, body, size, &why)
                : txmsg_event_from_http(&ev, argc > 2 ? &keys : NULL, h, n, body, size, 0, &why);
    printf("%d %s\n", r, why.text);
    if (r == TXMSG_OK)
        show(ev);
    txmsg_event_free(ev);
    free(body);
    free(name); /* the empty one, which ends the headers */
    for (size_t i = 0; i < 2 * n; i++)
        free(given[i]);
    return 0;
}
