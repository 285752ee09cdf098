/*
 * The load of txmsg-bench --stream through libtxmsg: a fixed number of transactions in flight, each a Prepare and, after its result, a Confirm, by
 * asynchronous calls. What it costs beside the bare tool is what the library costs. Callbacks come on the library's thread, so all but the phases is
 * that thread's alone.
 */
#include "base/clock.h"
#include "base/conf.h"
#include "base/crypto.h"
#include "histogram.h"
#include "txmsg/txmsg.h"

#include <semaphore.h>
#include <stdatomic.h>
#include <sys/resource.h>

struct options {
    char *server, *producer, *topic;
    int64_t callers, size, warmup_ms, seconds_ms;
    bool json, phases;
};

#define OPTION(name_, type_, member_, def_, min_, max_, help_)                                                         \
    {                                                                                                                  \
        .name = (name_), .type = (type_), .def = (def_), .min = (min_), .max = (max_), .help = (help_),                \
        .offset = offsetof(struct options, member_)                                                                    \
    }
static const struct conf_option table[] = {
    OPTION("server", CONF_STR, server, "127.0.0.1:7400", 0, 0, "Address of the service."),
    OPTION("callers", CONF_INT, callers, "256", 1, 65536, "Transactions in flight."),
    OPTION("seconds", CONF_DURATION_MS, seconds_ms, "8", 1, 86400000, "Measured time."),
    OPTION("warmup", CONF_DURATION_MS, warmup_ms, "2", 0, 3600000, "Time before the measured time."),
    OPTION("size", CONF_SIZE, size, "1024", 0, 1 << 20, "Bytes of the body."),
    OPTION("producer", CONF_STR, producer, "bench", 0, 0, "Producer of the messages."),
    OPTION("topic", CONF_STR, topic, "bench", 0, 0, "Topic of the messages."),
    OPTION("json", CONF_BOOL, json, NULL, 0, 0, "Taken as given: the report is one line of JSON."),
    OPTION("phases", CONF_BOOL, phases, NULL, 0, 0, "Say \"measuring\" and \"measured\" on stdout when it is so."),
    {0},
};

enum phase { WARM, MEASURE, DRAIN };

struct caller {
    txmsg_id id;
    uint64_t began_ns;
    bool confirming;
};

static txmsg_client *client;
static txmsg_message *message;
static atomic_int phase;
static atomic_llong measured; /* of the measured time */
static sem_t ended;           /* once for each caller: between a Prepare and its Confirm nothing may be in flight */
static struct histogram latency;
static uint64_t prepared, confirmed, failed;

static void on_done(void *arg, const txmsg_result *result);

static void begin(struct caller *c, uint64_t now) {
    const txmsg_message *const messages[] = {message};

    c->id.text[0] = '\0';
    c->confirming = false;
    c->began_ns = now;
    ASSERT(txmsg_prepare_async(client, &c->id, messages, 1, NULL, on_done, c) == TXMSG_OK);
}

static void on_done(void *arg, const txmsg_result *result) {
    struct caller *c = arg;
    bool ok = txmsg_result_status(result) == TXMSG_OK;

    failed += !ok;
    if (ok && !c->confirming) {
        prepared++;
        c->confirming = true;
        ASSERT(txmsg_confirm_async(client, &c->id, NULL, on_done, c) == TXMSG_OK);
        return;
    }
    uint64_t now = clock_mono_ns();
    confirmed += ok;
    if (ok && atomic_load_explicit(&phase, memory_order_relaxed) == MEASURE) {
        atomic_fetch_add_explicit(&measured, 1, memory_order_relaxed);
        histogram_add(&latency, now - c->began_ns);
    }
    if (atomic_load_explicit(&phase, memory_order_relaxed) != DRAIN)
        begin(c, now);
    else
        sem_post(&ended);
}

static int make_client(const struct options *o) {
    txmsg_options *options = txmsg_options_new();
    uint8_t *body = mem_must(mem_alloc((size_t)o->size));
    int e;

    crypto_random(body, (size_t)o->size);
    message = txmsg_message_new(o->topic);
    e = message ? txmsg_message_set_body(message, body, (size_t)o->size) : TXMSG_ERROR_INVALID;
    if (!e)
        e = txmsg_options_add_address(options, o->server);
    if (!e)
        e = txmsg_options_set_producer(options, o->producer);
    if (!e)
        e = txmsg_options_set_max_in_flight(options, o->callers);
    if (!e)
        e = txmsg_options_set_max_bytes(options, INT64_C(1) << 30);
    if (!e)
        e = txmsg_client_new(options, &client);
    txmsg_options_free(options);
    mem_free(body);
    return e;
}

static uint64_t cpu_ns(void) {
    struct rusage r;

    getrusage(RUSAGE_SELF, &r);
    return (uint64_t)(r.ru_utime.tv_sec + r.ru_stime.tv_sec) * NS_PER_S +
           (uint64_t)(r.ru_utime.tv_usec + r.ru_stime.tv_usec) * 1000;
}

static void wait_ms(int64_t ms) {
    struct timespec left = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};

    while (clock_nanosleep(CLOCK_MONOTONIC, 0, &left, &left) == EINTR)
        ;
}

/* All callers have ended, and the client with them. False: some have not, after so long. */
static bool wait_for_end(int64_t callers, int seconds) {
    struct timespec until;

    ASSERT(clock_gettime(CLOCK_REALTIME, &until) == 0);
    until.tv_sec += seconds;
    for (int64_t i = 0; i < callers; i++)
        while (sem_timedwait(&ended, &until) != 0)
            if (errno != EINTR)
                return false;
    return true;
}

static void say(const struct options *o, const char *what) {
    if (o->phases)
        puts(what);
    fflush(stdout);
}

static void report(const struct options *o, uint64_t elapsed_ns, uint64_t cpu) {
    double n = (double)atomic_load(&measured);

    printf("{\"mode\": \"pair\", \"callers\": %lld, \"size\": %lld, \"seconds\": %.3f, \"messages\": %.0f, "
           "\"per_second\": %.1f, \"latency_ms\": ",
           (long long)o->callers, (long long)o->size, (double)elapsed_ns / 1e9, n, n * 1e9 / (double)elapsed_ns);
    histogram_print_json(&latency);
    printf(
        ", \"cpu_seconds\": %.3f, \"cpu_us_per_message\": %.2f, \"total\": {\"prepared\": %llu, \"confirmed\": %llu, "
        "\"cancelled\": 0, \"published\": 0, \"repeats\": 0, \"undecided\": 0, \"undecided_commit\": 0}, "
        "\"errors\": {",
        (double)cpu / 1e9, n > 0 ? (double)cpu / 1e3 / n : 0, (unsigned long long)prepared,
        (unsigned long long)confirmed);
    if (failed)
        printf("\"UNKNOWN\": %llu", (unsigned long long)failed);
    printf("}, \"stalled\": false}\n");
}

int main(int argc, char **argv) {
    struct errmsg e = ERRMSG_NULL;
    struct options o;
    struct conf *conf = conf_load(table, &o, argc, argv, NULL, &e);

    if (!conf) {
        fprintf(stderr, "bench-lib: %s\n", e.text);
        return 2;
    }
    int status = make_client(&o);
    if (status) {
        fprintf(stderr, "bench-lib: no client: %s\n", txmsg_status_name(status));
        return 2;
    }
    sem_init(&ended, 0, 0);
    struct caller *callers = mem_must(mem_calloc((size_t)o.callers, sizeof(*callers)));
    for (int64_t i = 0; i < o.callers; i++)
        begin(&callers[i], clock_mono_ns());
    wait_ms(o.warmup_ms);
    say(&o, "measuring");
    uint64_t began = clock_mono_ns(), cpu = cpu_ns();
    atomic_store(&phase, MEASURE);
    wait_ms(o.seconds_ms);
    atomic_store(&phase, DRAIN);
    uint64_t elapsed = clock_mono_ns() - began;
    cpu = cpu_ns() - cpu;
    say(&o, "measured");
    bool all = wait_for_end(o.callers, 30);
    txmsg_client_free(client);
    report(&o, elapsed, cpu);
    txmsg_message_free(message);
    mem_free(callers);
    conf_free(conf);
    return !all || failed || !atomic_load(&measured);
}
