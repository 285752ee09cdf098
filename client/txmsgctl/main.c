/* Finds the command by its words, parses its options, runs it. */
#include "txmsgctl/ctl.h"

static void print_options(const struct ctl_option *o) {
    for (; o && o->name; o++) {
        char left[48];
        snprintf(left, sizeof(left), "%s%s%s", o->name, o->value_name ? " " : "", o->value_name ? o->value_name : "");
        printf("  %-28s %s\n", left, o->help);
    }
}

static void help(void) {
    puts("txmsgctl [options] COMMAND ...\n\nCommands:");
    for (const struct ctl_command *const *t = ctl_tables; *t; t++)
        for (const struct ctl_command *c = *t; c->words; c++) {
            char left[64];
            snprintf(left, sizeof(left), "%s %s", c->words, c->operands);
            printf("  %-28s %s\n", left, c->help);
        }
    puts("\nOptions of every command:");
    print_options(ctl_global_options);
    puts("\nExit codes:");
    for (const struct ctl_exit *e = ctl_exits; e->text; e++)
        printf("  %d  %s\n", e->code, e->text);
}

static void command_help(const struct ctl_command *c) {
    printf("txmsgctl %s %s\n  %s\n\nOptions:\n", c->words, c->operands, c->help);
    print_options(c->options);
    print_options(ctl_global_options);
}

/* Words of a command that argv begins with, once options are left out; 0 = another command. */
static int matches(const struct ctl_command *c, const struct ctl_args *a) {
    const char *p = c->words;
    int n = 0;
    while (*p) {
        size_t len = strcspn(p, " ");
        if (n == a->words_n || strlen(a->words[n]) != len || strncmp(a->words[n], p, len))
            return 0;
        n++;
        p += len;
        p += *p == ' ';
    }
    return n;
}

/* Options differ by command, so the words are found first with all options of all commands allowed. */
static const struct ctl_command *find_command(int argc, char **argv, int *words) {
    for (const struct ctl_command *const *t = ctl_tables; *t; t++)
        for (const struct ctl_command *c = *t; c->words; c++) {
            struct ctl_args a = {0};
            /* Words before the first option that is not global are enough to tell. */
            for (int i = 0; i < argc && a.words_n < 4; i++) {
                if (argv[i][0] != '-') {
                    a.words[a.words_n++] = argv[i];
                } else if (!strcmp(argv[i], "--server") || !strcmp(argv[i], "--timeout")) {
                    i++;
                } else if (strncmp(argv[i], "--server=", 9) && strncmp(argv[i], "--timeout=", 10) &&
                           strcmp(argv[i], "--json") && strcmp(argv[i], "--help")) {
                    break;
                }
            }
            if ((*words = matches(c, &a)))
                return c;
        }
    return NULL;
}

int main(int argc, char **argv) {
    struct ctl c = {.timeout_ms = 10000};
    int words = 0;
    const struct ctl_command *cmd = find_command(argc - 1, argv + 1, &words);
    if (args_parse(argc - 1, argv + 1, ctl_global_options, cmd ? cmd->options : NULL, &c.args) < 0)
        return ctl_usage("cannot read the command line");
    if (args_has(&c.args, "--version")) {
        puts("txmsgctl " TXMSG_VERSION);
        return CTL_OK;
    }
    if (args_has(&c.args, "--help")) {
        if (cmd)
            command_help(cmd);
        else
            help();
        return CTL_OK;
    }
    if (!cmd)
        return c.args.words_n ? ctl_usage("unknown command '%s'", c.args.words[0]) : ctl_usage("which command?");
    memmove(c.args.words, c.args.words + words, (size_t)(c.args.words_n - words) * sizeof(c.args.words[0]));
    c.args.words_n -= words;
    const char *timeout = args_get(&c.args, "--timeout");
    if (timeout && (text_duration_ms(timeout, &c.timeout_ms) < 0 || c.timeout_ms <= 0))
        return ctl_usage("--timeout: '%s' is not a duration such as 10s", timeout);
    c.json = args_has(&c.args, "--json");
    c.server = args_get(&c.args, "--server");
    if (!c.server)
        c.server = getenv("TXMSG_SERVER");
    if (!c.server || !*c.server)
        c.server = "127.0.0.1:7400";
    arena_init(&c.arena, 256 << 20);
    int code = cmd->run(&c);
    rpc_client_free(c.client);
    arena_deinit(&c.arena);
    if (fflush(stdout) != 0 && code == CTL_OK)
        code = CTL_REFUSED;
    return code;
}
