/* What may come to a consumer as a delivery: headers and a body over HTTP or AMQP, or a structured event. */
#include "base/json.h"
#include "fuzz.h"
#include "json_scan.h"
#include "txmsg/consumer.h"

enum { HEADERS_MAX = 40 };

/* "name: value" lines up to an empty one; what is left is the body. */
static size_t read_headers(const uint8_t **data, size_t *size, struct txmsg_header *h) {
    size_t n = 0;

    while (*size) {
        const uint8_t *end = memchr(*data, '\n', *size);
        size_t line = end ? (size_t)(end - *data) : *size;
        const char *p = (const char *)*data;
        const char *colon = line ? memmem(p, line, ": ", 2) : NULL;
        *data += line + (end ? 1 : 0);
        *size -= line + (end ? 1 : 0);
        if (!line)
            break;
        if (colon && n < HEADERS_MAX)
            h[n++] = (struct txmsg_header){p, (size_t)(colon - p), colon + 2, line - (size_t)(colon - p) - 2};
    }
    return n;
}

static void check_text(const char *s) {
    FUZZ_CHECK(s && text_valid(bytes_str(s)));
}

static void check_event(const txmsg_event *ev, struct bytes body, bool structured) {
    char id[60];
    size_t n;
    const uint8_t *p = txmsg_event_body(ev, &n);

    FUZZ_CHECK(p[n] == 0 && (structured || bytes_eq(bytes_of(p, n), body)));
    p = txmsg_event_key(ev, &n);
    FUZZ_CHECK(p[n] == 0);
    snprintf(id, sizeof(id), "%s.%u", txmsg_event_transaction_id(ev), txmsg_event_n(ev));
    FUZZ_CHECK(strcmp(id, txmsg_event_id(ev)) == 0); /* one text for one message */
    FUZZ_CHECK(strlen(txmsg_event_transaction_id(ev)) == 36 && txmsg_event_topic(ev)[0] &&
               txmsg_event_attempt(ev) >= 0);
    check_text(txmsg_event_topic(ev));
    check_text(txmsg_event_producer(ev));
    check_text(txmsg_event_business_key(ev));
    check_text(txmsg_event_time(ev));
    check_text(txmsg_event_content_type(ev));
    check_text(txmsg_event_traceparent(ev));
    check_text(txmsg_event_tracestate(ev));
}

/* Whatever a parser of JSON takes, the scan takes, to the end. */
static void check_scan(struct bytes text) {
    struct errmsg e;
    CLEANUP_JSON json_t *j = json_parse(text, &e);
    size_t at = 0;
    int r = json_scan_value(text, &at);

    FUZZ_CHECK(at <= text.n);
    if (!j)
        return;
    FUZZ_CHECK(r == 0);
    json_scan_space(text, &at);
    FUZZ_CHECK(at == text.n);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct txmsg_header h[HEADERS_MAX + 1];
    struct txmsg_why why = {""};
    txmsg_event *ev = NULL;
    unsigned choice = fuzz_choice(&data, &size) % 3;
    size_t n = 0;
    int r;

    if (choice == 2) {
        h[n++] = (struct txmsg_header){"content-type", 12, "application/cloudevents+json", 28};
        check_scan(bytes_of(data, size));
    } else {
        n = read_headers(&data, &size, h);
    }
    if (choice == 1)
        r = txmsg_event_from_amqp(&ev, h, n, NULL, data, size, &why);
    else
        r = txmsg_event_from_http(&ev, NULL, h, n, data, size, 1, &why);
    FUZZ_CHECK(r == TXMSG_OK || r == TXMSG_BAD_EVENT || r == TXMSG_ERROR_MEMORY);
    FUZZ_CHECK((r == TXMSG_OK) == (ev != NULL) && (r != TXMSG_BAD_EVENT || why.text[0]));
    if (ev)
        check_event(ev, bytes_of(data, size), choice != 1);
    txmsg_event_free(ev);
    return 0;
}
