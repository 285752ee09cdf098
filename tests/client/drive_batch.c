/* Batches, and what txmsg_get() reads. */
#include "drive.h"

enum { ITEMS_MAX = 1000 };

/* "prepare/ID/BODY", "publish/ID/BODY", "confirm/ID", "cancel/ID"; ID `-`: the library makes it, `=N`: that of operation N. */
static void read_item(char *word, const char *topic, txmsg_id *ids, size_t n, txmsg_operation *o, txmsg_message **m) {
    char *rest = word, *kind = strtok_r(word, "/", &rest), *id = strtok_r(NULL, "/", &rest);
    const char *body = strtok_r(NULL, "/", &rest);

    ASSERT(kind && id);
    o->kind = strcmp(kind, "prepare") == 0   ? TXMSG_PREPARE
              : strcmp(kind, "publish") == 0 ? TXMSG_PUBLISH
              : strcmp(kind, "confirm") == 0 ? TXMSG_CONFIRM
                                             : TXMSG_CANCEL;
    o->id = &ids[id[0] == '=' ? (size_t)strtol(id + 1, NULL, 10) : n];
    if (id[0] != '=' && id[0] != '-')
        snprintf(o->id->text, sizeof(o->id->text), "%s", id);
    if (!body)
        return;
    *m = txmsg_message_new(topic);
    ASSERT(*m && txmsg_message_set_body(*m, body, strlen(body)) == TXMSG_OK);
    o->messages = (const txmsg_message *const *)m;
    o->n = 1;
}

void drive_batch(struct drive *d, char **w) {
    txmsg_operation operations[WORDS_MAX] = {{0}};
    txmsg_message *messages[WORDS_MAX] = {NULL};
    txmsg_result *results[WORDS_MAX] = {NULL};
    txmsg_id ids[WORDS_MAX] = {{""}};
    size_t n = 0;

    for (; w[n + 2]; n++) {
        read_item(w[n + 2], w[1], ids, n, &operations[n], &messages[n]);
        operations[n].options = d->options;
        results[n] = txmsg_result_new();
    }
    printf("%s", txmsg_status_name(txmsg_batch(d->client, operations, n, results)));
    for (size_t i = 0; i < n; i++) {
        const txmsg_result *r = results[i];
        printf(" %zu=%s/%s/%d/%s", i, txmsg_status_name(txmsg_result_status(r)), txmsg_result_id(r)->text,
               txmsg_result_state(r), txmsg_result_reason(r));
        txmsg_result_free(results[i]);
        txmsg_message_free(messages[i]);
    }
    printf("\n");
    fflush(stdout);
}

void drive_batches(struct drive *d, int batches, int each, const char *topic) {
    static txmsg_operation operations[ITEMS_MAX + 1];
    static txmsg_id ids[ITEMS_MAX + 1];
    static txmsg_result *results[ITEMS_MAX + 1];
    txmsg_message *message = txmsg_message_new(topic);
    const txmsg_message *const one[] = {message};
    int done = 0, other = 0, status = TXMSG_OK;

    for (int b = 0; b < batches && status >= 0; b++) {
        for (int i = 0; i < each; i++) {
            ids[i].text[0] = '\0';
            operations[i] = (txmsg_operation){.kind = TXMSG_PUBLISH, .id = &ids[i], .messages = one, .n = 1};
            if (!results[i])
                results[i] = txmsg_result_new();
        }
        status = txmsg_batch(d->client, operations, (size_t)each, results);
        for (int i = 0; i < each; i++) {
            bool ok = txmsg_result_status(results[i]) == TXMSG_OK &&
                      strcmp(txmsg_result_id(results[i])->text, ids[i].text) == 0;
            done += ok;
            other += !ok;
        }
    }
    printf("%s done=%d other=%d\n", txmsg_status_name(status), done, other);
    fflush(stdout);
    for (int i = 0; i <= ITEMS_MAX; i++) {
        txmsg_result_free(results[i]);
        results[i] = NULL;
    }
    txmsg_message_free(message);
}

void drive_pairs(struct drive *d, int n, const char *topic) {
    static txmsg_operation operations[ITEMS_MAX];
    static txmsg_id ids[ITEMS_MAX / 2];
    txmsg_message *message = txmsg_message_new(topic);
    const txmsg_message *const one[] = {message};

    ASSERT(n <= ITEMS_MAX / 2);
    for (int i = 0; i < n; i++) {
        ids[i].text[0] = '\0';
        operations[2 * i] = (txmsg_operation){.kind = TXMSG_PREPARE, .id = &ids[i], .messages = one, .n = 1};
        operations[2 * i + 1] = (txmsg_operation){.kind = TXMSG_CONFIRM, .id = &ids[i]};
    }
    printf("%s\n", txmsg_status_name(txmsg_batch(d->client, operations, (size_t)n * 2, NULL)));
    fflush(stdout);
    txmsg_message_free(message);
}

/* --- reading --- */

static void say_view(const txmsg_result *r) {
    const txmsg_view *v = txmsg_result_view(r);
    const char *header = txmsg_view_header(v, 0, "colour");
    size_t key_n, body_n;
    const char *key = txmsg_view_key(v, 0, &key_n), *body = txmsg_view_body(v, 0, &body_n);

    printf("%s id=%s state=%d origin=%d reason=%s view=%d producer=%s business_key=%s decision=%d why=%s checks=%d "
           "messages=%zu topic=%s key=%.*s body=%.*s body_size=%lld colour=%s prepared=%d decided=%d deliveries=%zu",
           txmsg_status_name(txmsg_result_status(r)), txmsg_result_id(r)->text, txmsg_result_state(r),
           txmsg_result_origin(r), txmsg_result_reason(r), v != NULL, txmsg_view_producer(v),
           txmsg_view_business_key(v), txmsg_view_decision(v), txmsg_view_reason(v), txmsg_view_checks(v),
           txmsg_view_messages(v), txmsg_view_topic(v, 0), (int)key_n, key ? key : "", (int)body_n, body ? body : "",
           (long long)txmsg_view_body_size(v, 0), header ? header : "", txmsg_result_prepare_time_us(r) > 0,
           txmsg_result_decision_time_us(r) > 0, txmsg_view_deliveries(v, 0));
    for (size_t i = 0; i < txmsg_view_deliveries(v, 0); i++)
        printf(" delivery%zu=%s/%d/%d/%d", i, txmsg_view_subscription(v, 0, i), txmsg_view_delivery_state(v, 0, i),
               txmsg_view_delivery_attempts(v, 0, i), txmsg_view_next_attempt_time_us(v, 0, i) > 0);
    printf(" text=%s%s\n", txmsg_result_message(r), txmsg_view_delivery_error(v, 0, 0));
    fflush(stdout);
}

static void on_read(void *arg, const txmsg_result *result) {
    say_view(result);
}

void drive_get(struct drive *d, char **w) {
    bool asynchronous = w[3] && strcmp(w[3], "async") == 0;
    txmsg_id id = {""};

    ASSERT(txmsg_call_options_set_include_bodies(d->options, w[3] && strcmp(w[3], "bodies") == 0) == TXMSG_OK);
    ASSERT(txmsg_call_options_set_timeout_ms(d->options, strtoll(w[2], NULL, 10)) == TXMSG_OK);
    snprintf(id.text, sizeof(id.text), "%s", w[1]);
    if (asynchronous) {
        ASSERT(txmsg_get_async(d->client, &id, d->options, on_read, d) == TXMSG_OK);
        return;
    }
    (void)txmsg_get(d->client, &id, d->options, d->result);
    say_view(d->result);
}

/* --- misuse: how many of them were refused as what they are --- */

size_t drive_misuse_batch(struct drive *d, const txmsg_message *const *one, size_t *of) {
    static const char not_made[] = "not a result";
    txmsg_operation good = {.kind = TXMSG_PUBLISH, .id = &(txmsg_id){""}, .messages = one, .n = 1},
                    two[] = {good, good};
    txmsg_operation no_kind = good, no_id = good, no_message = good,
                    empty = {.kind = TXMSG_CONFIRM, .id = &(txmsg_id){""}};
    txmsg_result *wrong[1];
    size_t size, refused = 0;

    memcpy(wrong, (const void *[]){not_made}, sizeof(wrong));
    no_kind.kind = (enum txmsg_operation_kind)5; /* what a get is inside */
    no_id.id = NULL;
    no_message.n = 0;
    two[1].kind = (enum txmsg_operation_kind)0;
    int answers[] = {
        txmsg_batch(NULL, &good, 1, NULL),
        txmsg_batch(d->client, NULL, 1, NULL),
        txmsg_batch(d->client, &good, 0, NULL),
        txmsg_batch(d->client, &good, 1001, NULL),
        txmsg_batch(d->client, &good, 1, wrong),
        txmsg_batch(d->client, &no_kind, 1, NULL),
        txmsg_batch(d->client, &no_id, 1, NULL),
        txmsg_batch(d->client, &no_message, 1, NULL),
        txmsg_batch(d->client, &empty, 1, NULL),
        txmsg_batch(d->client, two, 2, NULL),
        txmsg_get(NULL, good.id, NULL, NULL),
        txmsg_get(d->client, NULL, NULL, NULL),
        txmsg_get(d->client, empty.id, NULL, NULL),
        txmsg_get_async(d->client, good.id, NULL, NULL, NULL),
        txmsg_call_options_set_include_bodies(NULL, 1),
        txmsg_call_options_set_include_bodies(d->options, 2),
    };

    for (size_t i = 0; i < ARRAY_LEN(answers); i++)
        refused += answers[i] == TXMSG_ERROR_INVALID;
    *of += ARRAY_LEN(answers) + 1;
    return refused + (!txmsg_result_view(NULL) && !txmsg_view_producer(NULL)[0] && !txmsg_view_topic(NULL, 0)[0] &&
                      !txmsg_view_key(NULL, 0, &size) && size == 0 && txmsg_view_deliveries(NULL, 0) == 0 &&
                      txmsg_view_delivery_state(NULL, 0, 0) == TXMSG_DELIVERY_NONE);
}
