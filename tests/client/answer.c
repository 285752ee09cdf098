/*
 * A producer whose checks are asked at an address of its own: tests/integration/test_check_server.py tells it by lines what to do, and it answers each with
 * a line. What a check is answered stands in the body of its first message: committed, rolled_back, no_answer, else undecided. A message whose body was to come later gets
 * --later bytes of `x`, and is committed.
 *
 *   --at -               over streams instead
 *
 *   count                what the listener was asked, what it has now, and whether it could free the client
 *   hold, release        from now on it waits; it goes on. No answer
 *   free                 on a thread of its own: answers when it has returned
 *   again                frees once more
 *   clash ADDRESS        another client that serves checks there; its status and errno
 *   misuse
 */
#include "txmsg/txmsg.h"

#include "base/err.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static txmsg_client *client;
static const char *producer;
static long pause_ms, later_n;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static int asked, running, could_free, max_count;
static bool held;

static enum txmsg_decision decision_of(const txmsg_check *check) {
    size_t n;
    const char *body = txmsg_check_body(check, 0, &n);

    if (txmsg_check_body_later(check, 0)) {
        char *later = malloc((size_t)later_n);
        memset(later, 'x', (size_t)later_n);
        int e = txmsg_check_set_body(check, 0, later, (size_t)later_n);
        free(later);
        return e ? TXMSG_UNDECIDED : TXMSG_COMMITTED;
    }
    return n == 9 && memcmp(body, "committed", n) == 0      ? TXMSG_COMMITTED
           : n == 11 && memcmp(body, "rolled_back", n) == 0 ? TXMSG_ROLLED_BACK
           : n == 9 && memcmp(body, "no_answer", n) == 0    ? TXMSG_NO_ANSWER
                                                            : TXMSG_UNDECIDED;
}

static enum txmsg_decision listen_to(void *arg, const txmsg_check *check) {
    const struct timespec pause = {.tv_sec = pause_ms / 1000, .tv_nsec = pause_ms % 1000 * 1000000};

    ASSERT(arg == &asked);
    pthread_mutex_lock(&lock);
    asked++;
    running++;
    max_count = MAX(max_count, txmsg_check_count(check));
    could_free += client && txmsg_client_free(client) != TXMSG_ERROR_CALLBACK;
    while (held)
        pthread_cond_wait(&changed, &lock);
    pthread_mutex_unlock(&lock);
    nanosleep(&pause, NULL);
    pthread_mutex_lock(&lock);
    running--;
    pthread_mutex_unlock(&lock);
    return decision_of(check);
}

static int make(const char *server, const char *address, int threads, txmsg_client **ret) {
    txmsg_options *o = txmsg_options_new();
    int e;

    ASSERT(txmsg_options_add_address(o, server) == TXMSG_OK);
    ASSERT(txmsg_options_set_producer(o, producer) == TXMSG_OK);
    ASSERT(txmsg_options_set_check_listener(o, listen_to, &asked) == TXMSG_OK);
    ASSERT(txmsg_options_set_check_threads(o, threads) == TXMSG_OK);
    ASSERT(txmsg_options_set_check_address(o, address[0] == '-' ? NULL : address) == TXMSG_OK);
    errno = 0;
    e = txmsg_client_new(o, ret);
    int why = errno;
    txmsg_options_free(o);
    errno = why;
    return e;
}

static void say_count(void) {
    pthread_mutex_lock(&lock);
    printf("asked=%d running=%d could_free=%d max_count=%d\n", asked, running, could_free, max_count);
    pthread_mutex_unlock(&lock);
}

static void hold(bool it) {
    pthread_mutex_lock(&lock);
    held = it;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
}

static void *free_it(void *arg) {
    printf("%s\n", txmsg_status_name(txmsg_client_free(client)));
    fflush(stdout);
    return NULL;
}

static void clash(const char *server, const char *address) {
    txmsg_client *other = NULL;
    int e = make(server, address, 1, &other), why = errno;

    printf("%s errno=%s\n", txmsg_status_name(e), e == TXMSG_ERROR_ADDRESS ? strerrorname_np(why) : "-");
    ASSERT((e == TXMSG_OK) == (other != NULL));
    ASSERT(txmsg_client_free(other) == TXMSG_OK);
}

static void misuse(void) {
    txmsg_options *o = txmsg_options_new();
    txmsg_client *none = NULL;
    int wrong[] = {
        txmsg_options_set_check_address(NULL, "127.0.0.1:0"),
        txmsg_options_set_check_address(o, ""),
        txmsg_options_set_check_address(o, "\xff:1"),
        txmsg_client_check_port(NULL),
    };
    size_t n = 0;

    for (size_t i = 0; i < ARRAY_LEN(wrong); i++)
        n += wrong[i] == TXMSG_ERROR_INVALID;
    ASSERT(txmsg_options_set_producer(o, producer) == TXMSG_OK);
    ASSERT(txmsg_options_set_check_address(o, "127.0.0.1:0") == TXMSG_OK);
    n += txmsg_client_new(o, &none) == TXMSG_ERROR_INVALID && !none; /* nobody listens */
    ASSERT(txmsg_options_set_check_address(o, NULL) == TXMSG_OK);
    ASSERT(txmsg_client_new(o, &none) == TXMSG_OK);
    n += txmsg_client_check_port(none) == TXMSG_ERROR_INVALID; /* it has none */
    ASSERT(txmsg_client_free(none) == TXMSG_OK);
    n += txmsg_client_check_port(none) == TXMSG_ERROR_CLOSED;
    txmsg_options_free(o);
    printf("right=%zu of=%zu\n", n, ARRAY_LEN(wrong) + 3);
}

int main(int argc, char **argv) {
    const char *server = "127.0.0.1:7400", *address = "127.0.0.1:0";
    char line[512], name[32], arg[400];
    int threads = 1, words, status;
    pthread_t freeing;
    bool is_freeing = false;

    for (int i = 1; i + 1 < argc; i += 2) {
        if (strcmp(argv[i], "--server") == 0)
            server = argv[i + 1];
        else if (strcmp(argv[i], "--producer") == 0)
            producer = argv[i + 1];
        else if (strcmp(argv[i], "--at") == 0)
            address = argv[i + 1];
        else if (strcmp(argv[i], "--threads") == 0)
            threads = (int)strtol(argv[i + 1], NULL, 10);
        else if (strcmp(argv[i], "--later") == 0)
            later_n = strtol(argv[i + 1], NULL, 10);
        else
            pause_ms = strtol(argv[i + 1], NULL, 10);
    }
    pthread_mutex_lock(&lock);
    ASSERT(make(server, address, threads, &client) == TXMSG_OK);
    pthread_mutex_unlock(&lock);
    printf("port=%d\n", txmsg_client_check_port(client));
    fflush(stdout);
    while (fgets(line, sizeof(line), stdin) && (words = sscanf(line, "%31s %399s", name, arg)) >= 1) {
        if (strcmp(name, "count") == 0)
            say_count();
        else if (strcmp(name, "hold") == 0 || strcmp(name, "release") == 0)
            hold(name[0] == 'h');
        else if (strcmp(name, "free") == 0)
            is_freeing = pthread_create(&freeing, NULL, free_it, NULL) == 0;
        else if (strcmp(name, "again") == 0)
            printf("%s\n", txmsg_status_name(txmsg_client_free(client)));
        else if (strcmp(name, "clash") == 0 && words == 2)
            clash(server, arg);
        else
            misuse();
        fflush(stdout);
    }
    if (is_freeing)
        pthread_join(freeing, NULL);
    status = txmsg_client_free(client);
    ASSERT(status == TXMSG_OK || status == TXMSG_ERROR_CLOSED);
    return 0;
}
