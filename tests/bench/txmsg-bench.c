/*
 * txmsg-bench: how many messages a second, and how long each takes. Options and the report; load.c does the work.
 * Exit code: 0 without errors, 1 if calls failed or nothing was measured (the report is printed all the same), 2 for
 * usage.
 */
#include "load.h"

#include "base/conf.h"
#include "rpc/rpc.h"

#include <unistd.h>

struct options {
    char *server, *producer, *topic;
    int64_t callers, channels, seconds_ms, count, warmup_ms, size, undecided, cancelled, duplicated, batch, streams,
        rate;
    bool stream, publish, echo, json, phases;
};

#define OPTION(name_, type_, member_, def_, min_, max_, help_)                                                         \
    {                                                                                                                  \
        .name = (name_), .type = (type_), .def = (def_), .min = (min_), .max = (max_), .help = (help_),                \
        .offset = offsetof(struct options, member_)                                                                    \
    }
static const struct conf_option table[] = {
    OPTION("server", CONF_STR, server, "127.0.0.1:7400", 0, 0,
           "Address of the service; several with commas, for the channels in turns."),
    OPTION("callers", CONF_INT, callers, "32", 1, 100000, "Messages in flight."),
    OPTION("channels", CONF_INT, channels, "1", 1, 64, "Connections; the callers are dealt out over them."),
    OPTION("seconds", CONF_DURATION_MS, seconds_ms, "8", 1, 86400000, "Measured time."),
    OPTION("count", CONF_INT, count, "0", 0, 0, "Measured messages, instead of a time."),
    OPTION("warmup", CONF_DURATION_MS, warmup_ms, "2", 0, 3600000, "Time before the measured time."),
    OPTION("size", CONF_SIZE, size, "1024", 0, 4 << 20, "Bytes of the body."),
    OPTION("producer", CONF_STR, producer, "bench", 0, 0, "Producer of the messages."),
    OPTION("topic", CONF_STR, topic, "bench", 0, 0, "Topic of the messages."),
    OPTION("undecided", CONF_INT, undecided, "0", 0, 100, "Percent of the messages that are never decided."),
    OPTION("cancelled", CONF_INT, cancelled, "0", 0, 100, "Percent of the messages that are cancelled."),
    OPTION("duplicated", CONF_INT, duplicated, "0", 0, 100, "Percent of the messages whose calls are each made twice."),
    OPTION("batch", CONF_INT, batch, "0", 0, 1000, "Batch calls of so many messages, instead of calls of one."),
    OPTION("stream", CONF_BOOL, stream, NULL, 0, 0, "Operations through Pipeline, instead of calls."),
    OPTION("streams", CONF_INT, streams, "1", 1, 1000, "Streams of --stream; dealt out over the connections."),
    OPTION("rate", CONF_INT, rate, "0", 0, 1000000, "Open loop: messages begun each second. 0: closed loop."),
    OPTION("publish", CONF_BOOL, publish, NULL, 0, 0, "Publish instead of Prepare and Confirm."),
    OPTION("echo", CONF_BOOL, echo, NULL, 0, 0, "Cancel calls alone; for bench-echo."),
    OPTION("json", CONF_BOOL, json, NULL, 0, 0, "The report as one line of JSON."),
    OPTION("phases", CONF_BOOL, phases, NULL, 0, 0, "Say \"measuring\" and \"measured\" on stdout when it is so."),
    {0},
};

static const char *const mode_names[] = {[LOAD_PAIR] = "pair", [LOAD_PUBLISH] = "publish", [LOAD_ECHO] = "echo"};

static void say_phase(bool begins) {
    puts(begins ? "measuring" : "measured");
    fflush(stdout);
}

static int to_load(const struct options *o, struct load_options *ret, struct errmsg *e) {
    if ((o->batch > 0) + o->stream + o->echo > 1 || (o->publish && o->echo))
        return err_set(e, -EINVAL, "--batch, --stream and --echo exclude each other, --publish and --echo too");
    *ret = (struct load_options){
        .server = o->server,
        .producer = o->producer,
        .topic = o->topic,
        .callers = o->callers,
        .channels = MIN(o->channels, o->callers),
        .warmup_ms = o->warmup_ms,
        .run_ms = o->seconds_ms,
        .count = o->count,
        .body = o->echo ? 0 : o->size,
        .batch = o->batch,
        .streams = o->stream ? MIN(o->streams, o->callers) : 0,
        .rate = o->rate,
        .undecided = (int)o->undecided,
        .cancelled = (int)o->cancelled,
        .duplicated = (int)o->duplicated,
        .progress = isatty(2) == 1,
        .on_phase = o->phases ? say_phase : NULL,
    };
    ret->mode = o->publish ? LOAD_PUBLISH : o->echo ? LOAD_ECHO : LOAD_PAIR;
    if ((ret->mode != LOAD_PAIR || o->batch) && o->undecided + o->cancelled > 0)
        return err_set(e, -EINVAL, "--undecided and --cancelled are for Prepare and Confirm, and not for batches");
    if (o->undecided + o->cancelled > 100)
        return err_set(e, -EINVAL, "--undecided and --cancelled are more than 100 percent together");
    return 0;
}

static double per_second(const struct load_result *r) {
    return r->elapsed_ns ? (double)r->messages * 1e9 / (double)r->elapsed_ns : 0;
}

static double cpu_us(const struct load_result *r) {
    return r->messages ? (double)r->cpu_ns / 1e3 / (double)r->messages : 0;
}

static unsigned long long number(uint64_t v) {
    return v;
}

static void print_json_total(const struct load_result *r) {
    printf("\"total\": {\"prepared\": %llu, \"confirmed\": %llu, \"cancelled\": %llu, \"published\": %llu, "
           "\"repeats\": %llu, \"undecided\": %llu, \"undecided_commit\": %llu}",
           number(r->prepared), number(r->confirmed), number(r->cancelled), number(r->published), number(r->repeats),
           number(r->undecided), number(r->undecided_commit));
}

static void print_json(const struct load_options *o, const struct load_result *r) {
    const char *comma = "";
    printf("{\"mode\": \"%s\", \"callers\": %lld, \"channels\": %lld, \"size\": %lld, \"batch\": %lld, "
           "\"streams\": %lld, \"rate\": %lld, ",
           mode_names[o->mode], (long long)o->callers, (long long)o->channels, (long long)o->body, (long long)o->batch,
           (long long)o->streams, (long long)o->rate);
    printf("\"seconds\": %.3f, \"messages\": %llu, \"per_second\": %.1f, ", (double)r->elapsed_ns / 1e9,
           number(r->messages), per_second(r));
    if (r->slowest_second >= 0)
        printf("\"slowest_second\": %lld, ", (long long)r->slowest_second);
    if (o->rate)
        printf("\"arrived\": %llu, \"queued\": %llu, \"queue_max\": %llu, \"unbegun\": %llu, ", number(r->arrived),
               number(r->queued), number(r->queue_max), number(r->unbegun));
    printf("\"latency_ms\": ");
    histogram_print_json(&r->latency);
    printf(", \"cpu_seconds\": %.3f, \"cpu_us_per_message\": %.2f, ", (double)r->cpu_ns / 1e9, cpu_us(r));
    print_json_total(r);
    printf(", \"errors\": {");
    for (int i = 0; i < LOAD_CODES; i++) {
        if (!r->errors[i])
            continue;
        printf("%s\"%s\": %llu", comma, rpc_code_name(i), number(r->errors[i]));
        comma = ", ";
    }
    printf("}, \"stalled\": %s}\n", r->stalled ? "true" : "false");
}

static void print_text(const struct load_options *o, const struct load_result *r) {
    static const struct {
        const char *name;
        double share;
    } points[] = {{"p50", 0.5}, {"p90", 0.9}, {"p99", 0.99}, {"p99.9", 0.999}, {"max", 1}};
    printf("%s, %lld callers, %lld channel(s), ", mode_names[o->mode], (long long)o->callers, (long long)o->channels);
    if (o->batch)
        printf("batches of %lld, ", (long long)o->batch);
    if (o->streams)
        printf("%lld stream(s), ", (long long)o->streams);
    printf("%lld bytes: %llu messages in %.2f s\n  %.0f messages/s", (long long)o->body, number(r->messages),
           (double)r->elapsed_ns / 1e9, per_second(r));
    if (r->slowest_second >= 0)
        printf(", %lld in the slowest second", (long long)r->slowest_second);
    if (o->rate)
        printf("\n  of %llu scheduled %llu had to wait, %llu at most together, %llu still at the end",
               number(r->arrived), number(r->queued), number(r->queue_max), number(r->unbegun));
    printf("\n  latency in ms ");
    for (size_t i = 0; i < ARRAY_LEN(points); i++)
        printf("  %s %.2f", points[i].name, (double)histogram_at(&r->latency, points[i].share) / 1e6);
    printf("\n  own CPU %.2f s, %.1f us per message\n", (double)r->cpu_ns / 1e9, cpu_us(r));
    printf("  in all: prepared %llu (undecided %llu), confirmed %llu, cancelled %llu, published %llu, repeats %llu\n",
           number(r->prepared), number(r->undecided), number(r->confirmed), number(r->cancelled), number(r->published),
           number(r->repeats));
}

/* Answers how many there were; to stderr, so that JSON on stdout stays JSON. */
static uint64_t print_errors(const struct load_result *r) {
    uint64_t n = 0;
    for (int i = 0; i < LOAD_CODES; n += r->errors[i++])
        if (r->errors[i])
            fprintf(stderr, "%llu x %s%s%s\n", number(r->errors[i]), rpc_code_name(i),
                    r->error_texts[i][0] ? ", first " : "", r->error_texts[i]);
    if (r->stalled)
        fprintf(stderr, "gave up: no call has gone well for 20 seconds\n");
    return n;
}

static int fail(const struct errmsg *e) {
    fprintf(stderr, "txmsg-bench: %s\n", e->text);
    return 2;
}

static int print_help(void) {
    puts("txmsg-bench [--<option>=<value> ...]\n");
    for (const struct conf_option *o = table; o->name; o++) {
        const char *def = o->type == CONF_BOOL ? "" : o->def;
        printf("  --%-12s%s%s%s\n", o->name, o->help, *def ? " Default: " : "", def);
    }
    return 0;
}

int main(int argc, char **argv) {
    static struct load_result result;
    struct errmsg e = ERRMSG_NULL;
    struct options o;
    struct load_options load;
    if (argc == 2 && strcmp(argv[1], "--help") == 0)
        return print_help();
    struct conf *conf = conf_load(table, &o, argc, argv, NULL, &e);
    if (!conf || to_load(&o, &load, &e) < 0 || load_run(&load, &result, &e) < 0) {
        conf_free(conf);
        return fail(&e);
    }
    if (o.json)
        print_json(&load, &result);
    else
        print_text(&load, &result);
    uint64_t errors = print_errors(&result);
    conf_free(conf);
    return errors || result.stalled || !result.messages;
}
