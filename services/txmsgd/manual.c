#include "txmsgd/manual.h"

#include "base/roff.h"
#include "txmsgd/config.h"

void manual_print(void) {
    puts(".TH TXMSGD 8 \"\" \"txmsg " TXMSG_VERSION "\" \"System Administration\"\n"
         ".SH NAME\ntxmsgd \\- the daemon of txmsg, the transactional\\-message service\n"
         ".SH SYNOPSIS\n.B txmsgd\n[\\fB\\-\\-config\\fR \\fIFILE\\fR] [\\fB\\-\\-\\fINAME\\fR=\\fIVALUE\\fR ...]\n"
         ".br\n.B txmsgd config check\n[\\fIoptions\\fR]\n"
         ".br\n.B txmsgd config show\n[\\fIoptions\\fR]\n"
         ".SH DESCRIPTION\n"
         "Serves transactions over gRPC, asks producers about undecided ones, and delivers confirmed messages.\n"
         "Any number of replicas share one PostgreSQL.\n"
         "Stronger sources win: default, YAML file, environment, command line.\n"
         ".PP\n.B config check\nreads all of them, says what is wrong and ends;\n"
         ".B config show\nprints each value with its source, secrets masked.\n"
         ".SH OPTIONS");
    for (const struct conf_option *o = config_options; o->name; o++) {
        printf(".TP\n.B \\-\\-");
        roff_text(o->name);
        putchar('\n');
        roff_text(o->help);
        if (o->def) {
            printf(" Default: ");
            roff_text(o->def);
            putchar('.');
        }
        puts(o->reloadable ? " Read again on SIGHUP." : "");
    }
    puts(".SH ENVIRONMENT\n"
         "Each option, as TXMSG_ and its name in capitals, other characters as an underscore; secrets also from the "
         "file\n"
         "that the same with _FILE names. TXMSG_CONFIG names the YAML file.\n"
         ".SH SIGNALS\n.TP\n.B SIGTERM, SIGINT\nfinish what is under way, and end\n"
         ".TP\n.B SIGHUP\nread the configuration again\n"
         ".SH EXIT STATUS\n.TP\n.B 0\nended in order\n.TP\n.B 1\nfailed\n.TP\n.B 2\nthe configuration is wrong\n"
         ".TP\n.B 3\nits own port did not answer it any more: start it again\n"
         ".SH SEE ALSO\n.BR txmsgctl (1)");
}
