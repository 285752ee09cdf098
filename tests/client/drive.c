/*
 *   prepare ID TOPIC BODY TIMEOUT_MS       ID `-`: the library makes it; BODY `later:`: it comes later
 *   publish ID TOPIC BODY TIMEOUT_MS
 *   confirm ID TIMEOUT_MS [N=BODY...]
 *   cancel ID TIMEOUT_MS
 *   transaction ID TOPIC BODY DECISION TIMEOUT_MS    DECISION: committed, rolled_back, undecided, wait (until a line comes), jump,
 *                                          complete, misplace (the body of message 0, or of message 1, is the id)
 *   async, flood, threads, batch, batches, pairs, get    drive.h
 *   checked                                with --check DECISION: how many were answered, and what the last one said
 *   flush TIMEOUT_MS, free, fork, misuse TOPIC; clear: the bodies that a transaction left in the options
 */
#include "drive.h"

#include <pthread.h>
#include <setjmp.h>
#include <sys/wait.h>
#include <unistd.h>

static jmp_buf out;
static char executor_decision[32];

static pthread_mutex_t check_lock = PTHREAD_MUTEX_INITIALIZER;
static int checked_n;
static char checked_last[512];
static enum txmsg_decision check_decision;
static bool check_completes;

static void say_result(const struct drive *d, int status) {
    const txmsg_result *r = d->result;

    printf("%s id=%s state=%d origin=%d code=%s reason=%s attempts=%d executed=%d decided=%d text=%s\n",
           txmsg_status_name(status), txmsg_result_id(r)->text, txmsg_result_state(r), txmsg_result_origin(r),
           txmsg_result_code_name(r), txmsg_result_reason(r), txmsg_result_attempts(r), txmsg_result_executed(r),
           txmsg_result_decision_time_us(r) > 0, txmsg_result_message(r));
    fflush(stdout);
}

static void say(int status) {
    printf("%s\n", txmsg_status_name(status));
    fflush(stdout);
}

static txmsg_id id_of(const char *word) {
    txmsg_id id = {""};

    if (word[0] != '-')
        snprintf(id.text, sizeof(id.text), "%s", word);
    return id;
}

static txmsg_message *message_of(const char *topic, const char *body) {
    txmsg_message *m = txmsg_message_new(topic);

    ASSERT(m && (strcmp(body, "later:") == 0 ? txmsg_message_set_body_later(m, 1)
                                             : txmsg_message_set_body(m, body, strlen(body))) == TXMSG_OK);
    ASSERT(txmsg_message_set_key(m, "key", 3) == TXMSG_OK);
    ASSERT(txmsg_message_set_content_type(m, "text/plain") == TXMSG_OK);
    ASSERT(txmsg_message_add_header(m, "colour", "green") == TXMSG_OK);
    return m;
}

static const txmsg_call_options *timeout(struct drive *d, const char *ms) {
    ASSERT(txmsg_call_options_set_timeout_ms(d->options, strtoll(ms, NULL, 10)) == TXMSG_OK);
    return d->options;
}

static enum txmsg_decision decision_of(const char *word) {
    return strcmp(word, "undecided") == 0     ? TXMSG_UNDECIDED
           : strcmp(word, "rolled_back") == 0 ? TXMSG_ROLLED_BACK
                                              : TXMSG_COMMITTED;
}

/* With --check complete each body that is to come is its message's place. */
static bool complete(const txmsg_check *check) {
    bool ok = txmsg_check_set_body(check, txmsg_check_messages(check), "x", 1) == TXMSG_ERROR_INVALID;
    char body[32];

    for (size_t n = 0; n < txmsg_check_messages(check); n++) {
        int size = snprintf(body, sizeof(body), "body-%zu", n);
        int expected = txmsg_check_body_later(check, n) ? TXMSG_OK : TXMSG_ERROR_INVALID;
        if (check_completes)
            ok &= txmsg_check_set_body(check, n, "replaced", 8) == expected &&
                  txmsg_check_set_body(check, n, body, (size_t)size) == expected;
    }
    return ok;
}

static enum txmsg_decision listen(void *arg, const txmsg_check *check) {
    struct drive *d = arg;
    size_t key_n, body_n;
    const char *key = txmsg_check_key(check, 0, &key_n), *body = txmsg_check_body(check, 0, &body_n);
    const char *colour = txmsg_check_header(check, 0, "colour");
    pthread_mutex_lock(&check_lock); /* a check may come before txmsg_client_new() has returned */
    bool refused = txmsg_client_free(d->client) == (d->client ? TXMSG_ERROR_CALLBACK : TXMSG_OK);
    checked_n++;
    snprintf(
        checked_last, sizeof(checked_last),
        "id=%s business_key=%s count=%d messages=%zu topic=%s key=%.*s body=%.*s colour=%s age=%d refused=%d none=%d",
        txmsg_check_id(check)->text, txmsg_check_business_key(check), txmsg_check_count(check),
        txmsg_check_messages(check), txmsg_check_topic(check, 0), (int)key_n, key ? key : "", (int)body_n,
        body ? body : "", colour ? colour : "", txmsg_check_prepared_time_us(check) > 0, refused,
        txmsg_check_topic(check, 1)[0] == '\0' && !txmsg_check_header(check, 0, "other"));
    pthread_mutex_unlock(&check_lock);
    return complete(check) ? check_decision : TXMSG_UNDECIDED;
}

static void say_checked(void) {
    pthread_mutex_lock(&check_lock);
    printf("checked=%d %s\n", checked_n, checked_last);
    pthread_mutex_unlock(&check_lock);
    fflush(stdout);
}

static enum txmsg_decision execute(void *arg, const txmsg_id *id) {
    struct drive *d = arg;
    char line[64];

    printf("executing id=%s\n", id->text);
    fflush(stdout);
    if (strcmp(executor_decision, "jump") == 0)
        longjmp(out, 1);
    if (strcmp(executor_decision, "wait") == 0)
        ASSERT(fgets(line, sizeof(line), stdin));
    if (strcmp(executor_decision, "complete") == 0 || strcmp(executor_decision, "misplace") == 0)
        ASSERT(txmsg_call_options_set_body(d->options, executor_decision[0] == 'm', id->text, strlen(id->text)) ==
               TXMSG_OK);
    return decision_of(executor_decision);
}

static void transaction(struct drive *d, char **w) {
    txmsg_id id = id_of(w[1]);
    txmsg_message *m = message_of(w[2], w[3]);
    const txmsg_message *const messages[] = {m};

    snprintf(executor_decision, sizeof(executor_decision), "%s", w[4]);
    if (setjmp(out) == 0)
        say_result(d, txmsg_send_in_transaction(d->client, &id, messages, 1, execute, d, timeout(d, w[5]), d->result));
    else
        printf("jumped\n");
    fflush(stdout);
    txmsg_message_free(m);
}

static void send_one(struct drive *d, char **w) {
    txmsg_id id = id_of(w[1]);
    txmsg_message *m = message_of(w[2], w[3]);
    const txmsg_message *const messages[] = {m};
    const txmsg_call_options *o = timeout(d, w[4]);

    say_result(d, w[0][1] == 'r' ? txmsg_prepare(d->client, &id, messages, 1, o, d->result)
                                 : txmsg_publish(d->client, &id, messages, 1, o, d->result));
    txmsg_message_free(m);
}

static void decide(struct drive *d, char **w) {
    txmsg_id id = id_of(w[1]);
    const txmsg_call_options *o = timeout(d, w[2]);

    for (size_t i = 3; w[i]; i++) {
        const char *body = strchr(w[i], '=') + 1;
        ASSERT(txmsg_call_options_set_body(d->options, (size_t)strtol(w[i], NULL, 10), body, strlen(body)) == TXMSG_OK);
    }
    say_result(d, strcmp(w[0], "confirm") == 0 ? txmsg_confirm(d->client, &id, o, d->result)
                                               : txmsg_cancel(d->client, &id, o, d->result));
    ASSERT(txmsg_call_options_clear_bodies(d->options) == TXMSG_OK);
}

/* What a child is answered, as one line; the parent's client goes on. */
static void in_child(struct drive *d) {
    txmsg_id id = {""};
    const txmsg_operation cancel = {.kind = TXMSG_CANCEL, .id = &id};
    int status;

    if (fork() == 0) {
        printf("confirm=%s batch=%s get=%s flush=%s in_flight=%s free=%s\n",
               txmsg_status_name(txmsg_confirm(d->client, &id, NULL, d->result)),
               txmsg_status_name(txmsg_batch(d->client, &cancel, 1, &d->result)),
               txmsg_status_name(txmsg_get(d->client, &id, NULL, d->result)),
               txmsg_status_name(txmsg_client_flush(d->client, 10)),
               txmsg_status_name((int)txmsg_client_in_flight(d->client)),
               txmsg_status_name(txmsg_client_free(d->client)));
        fflush(stdout);
        _exit(0);
    }
    ASSERT(wait(&status) > 0 && status == 0);
}

static void misuse(struct drive *d, const char *topic) {
    static const char not_made[] = "not a message";
    txmsg_message *m = message_of(topic, "x");
    const txmsg_message *const one[] = {m}, *const none[] = {NULL};
    const txmsg_message *wrong[1];
    txmsg_id id = {""}, bad = {"nonsense"}, upper = {"01A1FDA4-3E4E-7A28-AA69-48F54CBE73EB"};
    txmsg_client *c = d->client;

    memcpy(wrong, (const void *[]){not_made}, sizeof(wrong));
    int answers[] = {
        txmsg_prepare(NULL, &id, one, 1, NULL, NULL),
        txmsg_prepare(c, NULL, one, 1, NULL, NULL),
        txmsg_prepare(c, &id, NULL, 1, NULL, NULL),
        txmsg_prepare(c, &id, one, 0, NULL, NULL),
        txmsg_prepare(c, &id, one, 4097, NULL, NULL),
        txmsg_prepare(c, &id, none, 1, NULL, NULL),
        txmsg_prepare(c, &id, wrong, 1, NULL, NULL),
        txmsg_prepare(c, &bad, one, 1, NULL, NULL),
        txmsg_confirm(c, &id, NULL, NULL),
        txmsg_confirm(c, &upper, NULL, NULL),
        txmsg_cancel(c, NULL, NULL, NULL),
        txmsg_prepare_async(c, &id, one, 1, NULL, NULL, NULL),
        txmsg_message_set_body_later(NULL, 1),
        txmsg_message_set_body_later(m, 2),
        txmsg_call_options_set_body(NULL, 0, "x", 1),
        txmsg_call_options_set_body(d->options, 0, NULL, 1),
        txmsg_call_options_set_body(d->options, 4096, "x", 1),
        txmsg_call_options_set_body(d->options, 0, "x", (size_t)65 << 20),
        txmsg_call_options_clear_bodies(NULL),
        txmsg_check_set_body(NULL, 0, "x", 1),
        txmsg_client_flush(c, -1),
        txmsg_client_dispatch(c, -1),
        txmsg_send_in_transaction(c, &id, one, 1, NULL, NULL, NULL, NULL),
    };
    size_t of = ARRAY_LEN(answers), n = drive_misuse_batch(d, one, &of);

    for (size_t i = 0; i < ARRAY_LEN(answers); i++)
        n += answers[i] == TXMSG_ERROR_INVALID;
    printf("invalid=%zu of=%zu id=%s\n", n, of, id.text);
    fflush(stdout);
    txmsg_message_free(m);
}

static void obey(struct drive *d, char **w) {
    if (strcmp(w[0], "prepare") == 0 || strcmp(w[0], "publish") == 0) {
        send_one(d, w);
    } else if (strcmp(w[0], "confirm") == 0 || strcmp(w[0], "cancel") == 0) {
        decide(d, w);
    } else if (strcmp(w[0], "transaction") == 0) {
        transaction(d, w);
    } else if (strcmp(w[0], "async") == 0) {
        drive_async(d, (int)strtol(w[1], NULL, 10), w[2]);
    } else if (strcmp(w[0], "flood") == 0) {
        drive_flood(d, (int)strtol(w[1], NULL, 10), w[2]);
    } else if (strcmp(w[0], "threads") == 0) {
        drive_threads(d, (int)strtol(w[1], NULL, 10), (int)strtol(w[2], NULL, 10), w[3]);
    } else if (strcmp(w[0], "batch") == 0) {
        drive_batch(d, w);
    } else if (strcmp(w[0], "batches") == 0) {
        drive_batches(d, (int)strtol(w[1], NULL, 10), (int)strtol(w[2], NULL, 10), w[3]);
    } else if (strcmp(w[0], "pairs") == 0) {
        drive_pairs(d, (int)strtol(w[1], NULL, 10), w[2]);
    } else if (strcmp(w[0], "get") == 0) {
        drive_get(d, w);
    } else if (strcmp(w[0], "clear") == 0) {
        say(txmsg_call_options_clear_bodies(d->options));
    } else if (strcmp(w[0], "flush") == 0) {
        say(txmsg_client_flush(d->client, strtoll(w[1], NULL, 10)));
    } else if (strcmp(w[0], "free") == 0) {
        say(txmsg_client_free(d->client));
    } else if (strcmp(w[0], "checked") == 0) {
        say_checked();
    } else if (strcmp(w[0], "fork") == 0) {
        in_child(d);
    } else if (strcmp(w[0], "misuse") == 0) {
        misuse(d, w[1]);
    } else {
        printf("what is %s?\n", w[0]);
        fflush(stdout);
    }
}

static txmsg_client *make(struct drive *d, int argc, char **argv) {
    txmsg_options *o = txmsg_options_new();
    txmsg_client *c = NULL;

    for (int i = 1; i + 1 < argc; i += 2) {
        const char *name = argv[i], *value = argv[i + 1];
        int64_t number = strtoll(value, NULL, 10);
        int e = strcmp(name, "--server") == 0          ? txmsg_options_add_address(o, value)
                : strcmp(name, "--producer") == 0      ? txmsg_options_set_producer(o, value)
                : strcmp(name, "--unary") == 0         ? txmsg_options_set_unary(o, (int)number)
                : strcmp(name, "--dispatch") == 0      ? txmsg_options_set_dispatch(o, (int)number)
                : strcmp(name, "--in-flight") == 0     ? txmsg_options_set_max_in_flight(o, number)
                : strcmp(name, "--channels") == 0      ? txmsg_options_set_channels(o, number)
                : strcmp(name, "--check-threads") == 0 ? txmsg_options_set_check_threads(o, number)
                : strcmp(name, "--timeout") == 0       ? txmsg_options_set_timeout_ms(o, number)
                                                       : TXMSG_ERROR_INVALID;
        if (strcmp(name, "--check") == 0) {
            e = txmsg_options_set_check_listener(o, listen, d);
            check_decision = decision_of(value);
            check_completes = strcmp(value, "complete") == 0;
            ASSERT(txmsg_call_options_set_check_after_ms(d->options, 1000) == TXMSG_OK);
            ASSERT(txmsg_call_options_set_business_key(d->options, "order-1") == TXMSG_OK);
        }
        ASSERT(e == TXMSG_OK);
        d->dispatch |= strcmp(name, "--dispatch") == 0 && number;
    }
    ASSERT(txmsg_client_new(o, &c) == TXMSG_OK);
    txmsg_options_free(o);
    return c;
}

int main(int argc, char **argv) {
    struct drive d = {.result = txmsg_result_new(), .options = txmsg_call_options_new()};
    static char line[1 << 20];
    int status;

    pthread_mutex_lock(&check_lock);
    d.client = make(&d, argc, argv);
    pthread_mutex_unlock(&check_lock);
    while (fgets(line, sizeof(line), stdin)) {
        char *words[WORDS_MAX + 1] = {NULL}, *rest = line, *word;
        size_t n = 0;

        while (n < WORDS_MAX && (word = strtok_r(n ? NULL : line, " \n", &rest)) != NULL)
            words[n++] = word;
        if (n > 0)
            obey(&d, words);
    }
    status = txmsg_client_free(d.client);
    ASSERT(status == TXMSG_OK || status == TXMSG_ERROR_CLOSED);
    txmsg_result_free(d.result);
    txmsg_call_options_free(d.options);
    return 0;
}
