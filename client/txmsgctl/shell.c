/* completion, man: written from the tables in commands.c. */
#include "txmsgctl/ctl.h"

#include "base/roff.h"

#define EACH_COMMAND(c)                                                                                                \
    for (const struct ctl_command *const *t_ = ctl_tables; *t_; t_++)                                                  \
        for (const struct ctl_command *c = *t_; c->words; c++)
#define EACH_OPTION(o, list) for (const struct ctl_option *o = (list); o && o->name; o++)

/* --- bash, and zsh through its bashcompinit --- */

static bool takes_file(const struct ctl_option *o) {
    return o->value_name && !strcmp(o->value_name, "FILE");
}

/* Names of all options with a value, of files or of others, as the patterns of a case; each once. */
static void put_patterns(bool files) {
    const char *seen[256];
    size_t n = 0;
    EACH_COMMAND(c)
    EACH_OPTION(o, c->options) {
        size_t k = 0;
        while (k < n && strcmp(seen[k], o->name))
            k++;
        if (k < n || n == ARRAY_LEN(seen) || !o->value_name || takes_file(o) != files)
            continue;
        printf("%s%s", n ? " | " : "", o->name);
        seen[n++] = o->name;
    }
    if (!files)
        printf("%s--server | --timeout", n ? " | " : "");
}

/* "" -> first words; "dead" -> its second words; "dead list" -> its options. Each first word once. */
static void put_second_words(const char *first, size_t len) {
    printf("        \"%.*s\") next=\"", (int)len, first);
    EACH_COMMAND(c)
    if (!strncmp(c->words, first, len) && c->words[len] == ' ')
        printf("%s ", c->words + len + 1);
    puts("\" ;;");
}

static bool first_seen(const struct ctl_command *at) {
    size_t len = strcspn(at->words, " ");
    EACH_COMMAND(c) {
        if (c == at)
            return true;
        if (strcspn(c->words, " ") == len && !strncmp(c->words, at->words, len))
            return false;
    }
    return true;
}

static void put_first_words(void) {
    EACH_COMMAND(c)
    if (first_seen(c))
        printf("%.*s ", (int)strcspn(c->words, " "), c->words);
}

static void bash(void) {
    puts("_txmsgctl() {\n"
         "    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]} said=\"\" next=\"\" i IFS=$'\\n'\n"
         "    for ((i = 1; i < COMP_CWORD; i++)); do\n"
         "        case ${COMP_WORDS[i]} in");
    printf("        ");
    put_patterns(false);
    printf(" | ");
    put_patterns(true);
    puts(") ((i++)) ;;\n"
         "        -*) ;;\n"
         "        *) said=\"$said${said:+ }${COMP_WORDS[i]}\" ;;\n"
         "        esac\n"
         "    done\n"
         "    case $prev in");
    printf("    ");
    put_patterns(true);
    puts(")\n"
         "        COMPREPLY=($(compgen -f -- \"$cur\"))\n"
         "        return\n"
         "        ;;");
    printf("    ");
    put_patterns(false);
    puts(") return ;;\n"
         "    esac\n"
         "    case $said in");
    printf("        \"\") next=\"");
    put_first_words();
    puts("\" ;;");
    EACH_COMMAND(c)
    if (strchr(c->words, ' ') && first_seen(c))
        put_second_words(c->words, strcspn(c->words, " "));
    EACH_COMMAND(c) {
        printf("        \"%s\" | \"%s \"*) next=\"", c->words, c->words);
        EACH_OPTION(o, c->options)
        printf("%s ", o->name);
        puts("\" ;;");
    }
    printf("    esac\n    next=\"$next");
    EACH_OPTION(o, ctl_global_options)
    printf(" %s", o->name);
    puts("\"\n"
         "    COMPREPLY=($(IFS=' ' && compgen -W \"$next\" -- \"$cur\"))\n"
         "}\n"
         "complete -F _txmsgctl txmsgctl");
}

static void zsh(void) {
    puts("#compdef txmsgctl\nautoload -U +X bashcompinit && bashcompinit");
    bash();
    /* As a file of $fpath it is run by the first completion itself. */
    puts("(( ${+compstate} )) && _bash_complete -F _txmsgctl\ntrue");
}

/* --- fish --- */

/* In single quotes. */
static void put_quoted(const char *s) {
    putchar('\'');
    for (; *s; s++) {
        if (*s == '\'' || *s == '\\')
            putchar('\\');
        putchar(*s);
    }
    putchar('\'');
}

static void fish_option(const char *condition, const struct ctl_option *o) {
    bool is_short = o->name[1] != '-';
    printf("complete -c txmsgctl %s-%c %s%s -d ", condition, is_short ? 's' : 'l', o->name + (is_short ? 1 : 2),
           !o->value_name  ? ""
           : takes_file(o) ? " -r -F"
                           : " -x");
    put_quoted(o->help);
    putchar('\n');
}

static void fish(void) {
    char condition[256];
    puts("complete -c txmsgctl -f");
    EACH_OPTION(o, ctl_global_options)
    fish_option("", o);
    EACH_COMMAND(c) {
        size_t len = strcspn(c->words, " ");
        if (first_seen(c)) {
            printf("complete -c txmsgctl -n __fish_use_subcommand -a %.*s", (int)len, c->words);
            if (!c->words[len]) {
                printf(" -d ");
                put_quoted(c->help);
            }
            putchar('\n');
        }
        if (c->words[len]) {
            printf("complete -c txmsgctl -n '__fish_seen_subcommand_from %.*s' -a %s -d ", (int)len, c->words,
                   c->words + len + 1);
            put_quoted(c->help);
            putchar('\n');
            snprintf(condition, sizeof(condition),
                     "-n '__fish_seen_subcommand_from %.*s; and __fish_seen_subcommand_from %s' ", (int)len, c->words,
                     c->words + len + 1);
        } else {
            snprintf(condition, sizeof(condition), "-n '__fish_seen_subcommand_from %s' ", c->words);
        }
        EACH_OPTION(o, c->options)
        fish_option(condition, o);
    }
}

static int cmd_completion(struct ctl *c) {
    static const struct {
        const char *name;
        void (*print)(void);
    } shells[] = {{"bash", bash}, {"zsh", zsh}, {"fish", fish}};
    for (size_t i = 0; i < ARRAY_LEN(shells); i++)
        if (c->args.words_n == 1 && !strcmp(c->args.words[0], shells[i].name)) {
            shells[i].print();
            return CTL_OK;
        }
    return ctl_usage("give one of bash, zsh, fish");
}

/* --- the man page --- */

static void roff_option(const struct ctl_option *o) {
    printf(".TP\n.B ");
    roff_text(o->name);
    if (o->value_name) {
        printf(" \\fI");
        roff_text(o->value_name);
        printf("\\fR");
    }
    putchar('\n');
    roff_text(o->help);
    putchar('\n');
}

static void roff_command(const struct ctl_command *c) {
    printf(".SS \"");
    roff_text(c->words);
    if (*c->operands) {
        putchar(' ');
        roff_text(c->operands);
    }
    printf("\"\n");
    roff_text(c->help);
    putchar('\n');
    EACH_OPTION(o, c->options)
    roff_option(o);
}

static int cmd_man(struct ctl *c) {
    UNUSED(c);
    puts(".TH TXMSGCTL 1 \"\" \"txmsg " TXMSG_VERSION "\" \"User Commands\"\n"
         ".SH NAME\ntxmsgctl \\- the command line of txmsg, the transactional\\-message service\n"
         ".SH SYNOPSIS\n.B txmsgctl\n[\\fIoptions\\fR] \\fICOMMAND\\fR ...\n"
         ".SH DESCRIPTION\n"
         "One call per command: tables for people, JSON for scripts. Options may stand anywhere, as\n"
         ".B \\-\\-name value\nor\n.BR \\-\\-name=value ;\n.B \\-\\-\nends them.\n"
         "Durations are 250ms, 10s, 1.5h, 7d; a number alone is seconds.\n"
         "What cannot be undone is asked about at a terminal; elsewhere it is refused unless\n.B \\-\\-yes\nis given.\n"
         ".SH OPTIONS");
    EACH_OPTION(o, ctl_global_options)
    roff_option(o);
    puts(".SH COMMANDS");
    EACH_COMMAND(k)
    roff_command(k);
    puts(".SH EXIT STATUS");
    for (const struct ctl_exit *e = ctl_exits; e->text; e++) {
        printf(".TP\n.B %d\n", e->code);
        roff_text(e->text);
        putchar('\n');
    }
    puts(".SH ENVIRONMENT\n"
         ".TP\n.B TXMSG_SERVER\nthe service, host:port\n"
         ".TP\n.B TXMSG_DSN\nthe database, for\n.B migrate\n"
         ".TP\n.B NO_COLOR\nif it is set and not empty, nothing is coloured\n"
         ".TP\n.B USER\nthe actor in the audit, unless\n.B \\-\\-actor\nis given\n"
         ".SH SEE ALSO\n.BR txmsgd (8)");
    return CTL_OK;
}

const struct ctl_command shell_commands[] = {
    {"completion", "SHELL", "a script that completes commands and options: bash, zsh or fish", NULL, cmd_completion},
    {"man", "", "the manual page, as roff", NULL, cmd_man},
    {NULL, NULL, NULL, NULL, NULL},
};
